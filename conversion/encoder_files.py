# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Pretrained encoders as files, in a folder or on the Hub; this file is never shipped with a checkpoint."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.utils import cached_file

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


@dataclass
class EncoderWeights:
    """A pretrained encoder.

    Args:
        source (`str`): file, folder, repository or name that it was read from.
        state (`dict[str, torch.Tensor]`): its weights in float32, under the names of our models.
        told (`dict[str, Any]`): values of our configuration that its shapes or its configuration settle.
        assumed (`dict[str, Any]`): values that may be set otherwise.
        ignored (`dict[str, list[str]]`): entries left out on purpose, by reason.
        notes (`list[str]`): choices that the encoder does not settle.
    """

    source: str
    state: dict[str, torch.Tensor]
    told: dict[str, Any]
    assumed: dict[str, Any] = field(default_factory=dict)
    ignored: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find_file(argument: str, source: str, name: str, required: bool = True) -> Path | None:
    """The path of a file of a folder or of a repository, which is downloaded where the cache has no copy.

    Args:
        argument (`str`): the argument that `source` was given as, for messages.
        source (`str`): folder or repository.
        name (`str`): name of the file.
        required (`bool`, defaults to `True`): an error, not `None`, if there is no such file.

    Raises:
        FileNotFoundError: no such folder, no such file, or a repository that cannot be reached.
    """
    if Path(source).is_dir():
        path = Path(source, name)
        if required and not path.is_file():
            raise FileNotFoundError(f"`{argument}`: no `{name}` in {source}. Give the folder of a saved model.")
        return path if path.is_file() else None
    if not HUB_NAME.fullmatch(source):
        raise FileNotFoundError(f"`{argument}`: no file or folder {source}. Give one, or a repository as `user/name`.")
    options = {} if required else {"_raise_exceptions_for_missing_entries": False}
    try:
        found = cached_file(source, name, **options)
    except OSError as error:
        raise build_unreachable_error(argument, source, error) from error
    if found is None and required:
        raise build_unreachable_error(argument, source, f"it has no `{name}`")
    return None if found is None else Path(found)


def build_unreachable_error(argument: str, source: str, reason: object) -> FileNotFoundError:
    """The error for a folder or a repository that cannot be read, with the remedy."""
    first_line = str(reason).partition("\n")[0]
    if Path(source).is_dir():
        return FileNotFoundError(f"`{argument}`: {source} cannot be read ({first_line}). Save the model again.")
    return FileNotFoundError(
        f"`{argument}`: there is no folder {source} here, and no such repository can be read ({first_line}). Where "
        f"the Hub cannot be reached, download it elsewhere (`hf download {source} --local-dir FOLDER`) and give the "
        "folder."
    )


__all__ = ["EncoderWeights", "build_unreachable_error", "find_file"]
