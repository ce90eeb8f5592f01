# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The base model that ships: where it lies, and whether its bytes are those that were published."""

import hashlib
from pathlib import Path

BASE_MODEL = str(Path(__file__).parent / "base_scenes")
BASE_MODEL_NAME = "base"  # in place of a folder, in commands and recipes
# SHA-256 and name of every file that a model or processor is read from, as `sha256sum --check` reads it.
HASH_FILE = "SHA256SUMS"
HASHED_FILES = (
    "config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


def hash_files(folder: str | Path) -> dict[str, str]:
    """SHA-256, in hexadecimal digits, of each file of a checkpoint folder that decides what the model computes.

    Args:
        folder (`str` or `Path`): the checkpoint; a file that it lacks is left out.
    """
    paths = {name: Path(folder) / name for name in HASHED_FILES}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items() if path.is_file()}


def check_base_model(folder: str | Path = BASE_MODEL) -> None:
    """Compares the files of the base model with their hashes, which takes some hundredths of a second.

    Args:
        folder (`str` or `Path`, *optional*): the base model; the one that ships by default.

    Raises:
        FileNotFoundError: the base model, or its list of hashes, is missing.
        ValueError: a file was changed, or is missing.
    """
    listed = Path(folder) / HASH_FILE
    if not listed.is_file():
        raise FileNotFoundError(
            f"the base model is missing: no {HASH_FILE} in {folder}. Install albef-amc again; in a checkout, "
            "`git restore checkpoints`."
        )
    lines = [line.split() for line in listed.read_text(encoding="utf-8").splitlines()]
    expected = {words[-1]: words[0] for words in lines if words}
    found = hash_files(folder)
    for name in HASHED_FILES:
        if name not in found or found[name] != expected.get(name):
            raise ValueError(
                f"the base model was changed: {name} in {folder} has the SHA-256 {found.get(name)}, expected "
                f"{expected.get(name)}. Install albef-amc again (in a checkout, `git restore checkpoints`). Weights "
                "of your own belong into another folder."
            )


__all__ = ["BASE_MODEL", "BASE_MODEL_NAME", "HASH_FILE", "check_base_model", "hash_files"]
