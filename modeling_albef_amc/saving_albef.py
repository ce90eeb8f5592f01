# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Saving in one piece: files appear when all of them are written, and what was there before survives a failure."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .checkpoint_files_albef import CONFIG_FILE

UNFINISHED_FOLDER = ".unfinished"
WEIGHT_FILE = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")


def is_safetensors_error(error: Exception) -> bool:
    """Whether the safetensors library raised the error."""
    return type(error).__name__ == "SafetensorError"  # safetensors is no dependency of the bundle


@contextmanager
def replacing_files(folder: str | os.PathLike) -> Iterator[Path]:
    """Gives a folder to write to, whose files replace those in `folder` once the block has ended without an error.

    The folder lies inside `folder`, hence on the same disk, where moving a file takes no space. The configuration is
    moved last; weight files of an earlier save that would now be read instead of the new ones are removed.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: choose a folder to save to.")
    unfinished = folder / UNFINISHED_FOLDER
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        written = sorted((file.name for file in unfinished.iterdir()), key=lambda name: name == CONFIG_FILE)
        for name in written:
            os.replace(unfinished / name, folder / name)
        if any(WEIGHT_FILE.fullmatch(name) for name in written):
            for file in folder.iterdir():
                if WEIGHT_FILE.fullmatch(file.name) and file.name not in written:
                    file.unlink()
    except Exception as error:
        if not (isinstance(error, OSError) or is_safetensors_error(error)):
            raise
        is_full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        raise OSError(
            errno.ENOSPC if is_full else errno.EIO,
            f"cannot write the checkpoint, nothing is left behind and what was there is unchanged: {error}",
            os.fspath(folder),
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


PREVIOUS = ".previous-"  # stands before the name of a folder while it is replaced


def write_atomically(path: Path, content: bytes) -> None:
    """Writes bytes under a temporary name beside `path` and renames; folders that are missing are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON with [`write_atomically`]."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def replace_folder(folder: Path, target: Path, prefix: str = PREVIOUS) -> None:
    """Renames `folder` to `target`; what was there stays beside it, under a name with a dot, until that is done.

    Args:
        folder (`Path`): what is complete, on the same disk.
        target (`Path`): the name it gets.
        prefix (`str`): what stands before the name of what was there, for [`restore_folders`].
    """
    aside = target.with_name(f"{prefix}{target.name}")
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
    folder.rename(target)
    synchronize(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def restore_folders(parent: Path, pattern: str, prefix: str = PREVIOUS) -> None:
    """Puts back what a killed [`replace_folder`] had moved aside; removes it where the new folder has its name.

    Args:
        parent (`Path`): folder that holds them.
        pattern (`str`): of the names that they have without `prefix`, such as `"checkpoint-*"`.
        prefix (`str`): as for [`replace_folder`].
    """
    for aside in parent.glob(f"{prefix}{pattern}"):
        target = aside.with_name(aside.name.removeprefix(prefix))
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(target)


def synchronize(path: Path) -> None:
    """Waits until a file, or the list of names in a folder, has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = [
    "PREVIOUS",
    "hash_file",
    "is_safetensors_error",
    "replace_folder",
    "replacing_files",
    "restore_folders",
    "synchronize",
    "write_atomically",
    "write_json",
]
