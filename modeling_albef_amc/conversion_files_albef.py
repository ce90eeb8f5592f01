# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Files of a conversion: originals are read without running any code they may hold, folders are written whole."""

import errno
import pickle
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

ZIP_SIGNATURE = b"PK\x03\x04"
NAMES_SHOWN = 8


def load_original_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the weights of a `.pth` file without running any code that it may hold.

    Args:
        path (`str` or `Path`): `{'model': state_dict, ...}` or the state dict alone.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"No checkpoint at {path}. ALBEF.pth and AMC's checkpoints are downloaded by hand.")
    if not path.is_file():
        raise ValueError(f"{path} is not a file. Give the `.pth` of ALBEF or AMC, not a folder.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes): the download failed. Fetch it again.")
    with path.open("rb") as file:
        is_zip = file.read(len(ZIP_SIGNATURE)) == ZIP_SIGNATURE
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            raise ValueError(f"{path} is not a checkpoint that torch can read, or is damaged.") from error
        raise ValueError(
            f"{path} holds pickled objects that could run code ({found[1]}) and is not loaded. If you trust its "
            "origin, save its weights alone: `torch.save({'model': checkpoint['model']}, 'weights.pth')`."
        ) from error
    except Exception as error:  # a damaged file can make the reader raise anything
        raise ValueError(f"{path} is not a checkpoint that torch can read, or was cut off. Fetch it again.") from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        held = ", ".join(map(str, list(content)[:NAMES_SHOWN])) if isinstance(content, dict) else str(type(content))
        raise ValueError(f"{path} holds no state dict, at the top or under 'model'; it holds {held}.")
    return state


def list_names(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(f"`{name}`" for name in names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def check_output_dir(output_dir: Path, overwrite: bool) -> None:
    """Refuse a folder that exists, unless it is a checkpoint (or empty) and `overwrite` says to replace it."""
    if not output_dir.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{output_dir} exists. Choose another folder, or pass `overwrite` (`--overwrite`).")
    if not output_dir.is_dir() or (any(output_dir.iterdir()) and not (output_dir / "config.json").is_file()):
        raise ValueError(f"{output_dir} is not a checkpoint folder (no `config.json`) and is not replaced.")


@contextmanager
def written_whole(output_dir: Path) -> Iterator[Path]:
    """Give a folder to write into; it becomes `output_dir` at the end, or disappears if anything fails."""
    incomplete = output_dir.parent / f".{output_dir.name}.{uuid.uuid4().hex}.incomplete"
    incomplete.mkdir(parents=True)
    try:
        yield incomplete
        if output_dir.exists():
            replaced = incomplete.with_suffix(".replaced")
            output_dir.rename(replaced)
            incomplete.rename(output_dir)
            shutil.rmtree(replaced)
        else:
            incomplete.rename(output_dir)
    except SafetensorError as error:  # carries errors of the operating system as text only
        number = errno.ENOSPC if "No space left" in str(error) else errno.EIO
        raise OSError(number, f"cannot write the weights, nothing is left behind: {error}", str(output_dir)) from error
    finally:
        shutil.rmtree(incomplete, ignore_errors=True)


__all__ = ["check_output_dir", "list_names", "load_original_state_dict", "written_whole"]
