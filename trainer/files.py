# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Writing a file or a folder whole: a reader finds the one of before or the new one, never half of it."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

PREVIOUS = ".previous-"  # stands before the name of a folder while it is replaced


def write_whole(path: Path, content: bytes) -> None:
    """Writes bytes under a temporary name beside `path` and renames; folders that are missing are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON with [`write_whole`]."""
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


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


__all__ = ["replace_folder", "restore_folders", "synchronize", "write_json", "write_whole"]
