# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Atomic saves: files appear only when all of them are written, and a failure keeps the previous ones."""

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
    """Whether the safetensors library raised an error."""
    return type(error).__name__ == "SafetensorError"  # the bundle does not import safetensors


@contextmanager
def replacing_files(folder: str | os.PathLike) -> Iterator[Path]:
    """Yield a folder to write to, whose files replace those in `folder` if the block ends without an error.

    It is a subfolder of `folder`, hence on the same disk, where moving a file takes no space. The configuration is
    moved last; weight files of an earlier save are removed, so that they are not loaded instead of the new ones.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: choose a folder to save to.")
    unfinished = folder / UNFINISHED_FOLDER
    shutil.rmtree(unfinished, ignore_errors=True)  # from a killed process
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
            f"cannot write the checkpoint; no partial files remain and existing files are unchanged: {error}",
            os.fspath(folder),
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


PREVIOUS = ".previous-"  # prefix of a folder's name while it is replaced


def write_atomically(path: Path, content: bytes) -> None:
    """Write bytes to a temporary file in the folder of `path`, then rename it; missing folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON with [`write_atomically`]."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def replace_folder(folder: Path, target: Path, prefix: str = PREVIOUS) -> None:
    """Rename `folder` to `target`; an existing `target` is kept under a hidden name until this is done.

    Args:
        folder (`Path`): the complete folder, on the same disk.
        target (`Path`): its new path.
        prefix (`str`): prefix of the old folder's hidden name, for [`restore_folders`].
    """
    hidden = target.with_name(f"{prefix}{target.name}")
    if target.exists():
        shutil.rmtree(hidden, ignore_errors=True)
        target.rename(hidden)
    folder.rename(target)
    synchronize(target.parent)
    shutil.rmtree(hidden, ignore_errors=True)


def restore_folders(parent: Path, pattern: str, prefix: str = PREVIOUS) -> None:
    """Restore folders that a killed [`replace_folder`] had hidden, or remove those that were replaced.

    Args:
        parent (`Path`): their parent folder.
        pattern (`str`): pattern of their names without `prefix`, such as `"checkpoint-*"`.
        prefix (`str`): as for [`replace_folder`].
    """
    for hidden in parent.glob(f"{prefix}{pattern}"):
        target = hidden.with_name(hidden.name.removeprefix(prefix))
        if target.exists():
            shutil.rmtree(hidden, ignore_errors=True)
        else:
            hidden.rename(target)


def synchronize(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are written to the disk."""
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
