# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Saving in one piece: files appear when all of them are written, and what was there before survives a failure."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIG_FILE = "config.json"
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


__all__ = ["is_safetensors_error", "replacing_files"]
