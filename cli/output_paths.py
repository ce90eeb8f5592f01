# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Output paths of commands: one that cannot be written to is refused before any work."""

import errno
import os
from pathlib import Path

import typer

# Nested folders; they are created recursively.
MAX_LEVELS = 100


def check_output_folder(param: typer.CallbackParam, value: Path | None) -> Path | None:
    """Callback of an option that names a folder to write; raises as [`check_folder`]."""
    if value is not None:
        check_folder(value, f"`{param.opts[0]} {value}`")
    return value


def check_output_file(param: typer.CallbackParam, value: Path | None) -> Path | None:
    """Callback of an option that names a file to write.

    Raises:
        ValueError: the name of a folder, too long a name, or that of a file in a place that is not a folder or
            cannot be written to.
    """
    if value is not None:
        name = f"`{param.opts[0]} {value}`"
        _check_length(value, name)
        if value.is_dir():
            raise ValueError(f"{name} is a folder, but a file is written. Give the name of a file in it.")
        check_folder(value.parent, f"the folder of {name}")
    return value


def check_folder(folder: Path, name: str) -> None:
    """Refuses a folder that cannot be made or written to, because it, or what it lies in, is a file.

    Args:
        folder (`Path`): to be written to; it need not exist yet.
        name (`str`): what the message calls it.

    Raises:
        ValueError: the folder or one that it lies in is a file, cannot be written to, or has too long a name.
    """
    _check_length(folder, name)
    nearest = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not nearest.is_dir():
        what = "is a file" if nearest == folder else f"lies in {nearest}, which is a file"
        raise ValueError(f"{name} {what}, but a folder is needed. Choose another place, or move the file.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"{name}: {nearest} cannot be written to. Choose another place.")


def _check_length(path: Path, name: str) -> None:
    """Refuses a path that the system cannot have, or of more levels than is sensible."""
    if len(path.parts) > MAX_LEVELS:
        raise ValueError(
            f"the output path is too long: it has {len(path.parts)} levels, more than {MAX_LEVELS}. Choose a "
            "shorter one."
        )
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError(f"{name} is too long for a path on this system. Choose a shorter one.") from error
