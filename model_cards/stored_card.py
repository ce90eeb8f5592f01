# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Cards in checkpoint folders: the text, and the fields that it was rendered from, to render it again for the Hub."""

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path

from .card_renderer import ModelCard, render_model_card

CARD_FILE = "README.md"
FIELDS_FILE = "model_card.json"


def write_model_card(folder: str | Path, card: ModelCard) -> Path:
    """Writes the card as `README.md` into a checkpoint folder, completely or not at all.

    Beside it lie its fields (`model_card.json`), and the metrics file, which is copied if it is elsewhere.

    Args:
        folder (`str` or `Path`): folder of the checkpoint; created if it is missing.
        card ([`ModelCard`]): content of the card.

    Returns:
        `Path` of the card.
    """
    text = render_model_card(card)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    fields = {item.name: getattr(card, item.name) for item in dataclasses.fields(card)}
    if card.metrics_file is not None:
        metrics_file = Path(card.metrics_file)
        fields["metrics_file"] = metrics_file.name
        if metrics_file.resolve().parent != folder.resolve():
            shutil.copyfile(metrics_file, folder / metrics_file.name)
    _write(folder / CARD_FILE, text)
    stored = {"fields": fields, "sha256": _hash(text)}
    _write(folder / FIELDS_FILE, json.dumps(stored, indent=2, default=str) + "\n")
    return folder / CARD_FILE


def read_model_card(folder: str | Path) -> ModelCard | None:
    """The card of a checkpoint folder as fields.

    Args:
        folder (`str` or `Path`): folder of the checkpoint.

    Returns:
        [`ModelCard`], or `None` where `README.md` was edited by hand or was not written by [`write_model_card`].

    Raises:
        ValueError: the stored fields are damaged, or name a metrics file in another folder.
    """
    folder = Path(folder)
    text, stored = folder / CARD_FILE, folder / FIELDS_FILE
    if not (text.is_file() and stored.is_file()):
        return None
    try:
        content = json.loads(stored.read_text(encoding="utf-8"))
        if content["sha256"] != _hash(text.read_text(encoding="utf-8")):
            return None
        fields = dict(content["fields"])
        metrics_file = fields.get("metrics_file")
        if metrics_file is not None:
            if Path(metrics_file).name != metrics_file:
                raise ValueError(f"`metrics_file` must be a file of the folder, got {metrics_file!r}")
            fields["metrics_file"] = folder / metrics_file
        return ModelCard(**fields)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{stored} is damaged ({error}). Delete it to keep {text.name} as it is.") from error


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _write(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
