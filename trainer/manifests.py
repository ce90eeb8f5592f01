# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Checkpoint folders that are whole or recognised as damaged: a manifest written last, then one rename."""

import hashlib
import json
import os
import platform
import re
import shutil
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from transformers.utils import logging

from albef_amc.trainer.files import replace_folder, restore_folders, synchronize, write_json

logger = logging.get_logger(__name__)

MANIFEST_FILE = "manifest.json"
CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")
UNFINISHED, REPLACED = ".unfinished-", ".replaced-"
LIBRARIES = ("albef-amc", "torch", "transformers", "accelerate")


def get_step(checkpoint: Path) -> int:
    """Step of a folder called `checkpoint-<step>`."""
    match = CHECKPOINT_NAME.fullmatch(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint} is not called checkpoint-<step>.")
    return int(match[1])


def list_checkpoints(run_folder: Path) -> list[Path]:
    """Folders called `checkpoint-<step>`, by step, without a look at what is in them."""
    if not run_folder.is_dir():
        return []
    found = [path for path in run_folder.iterdir() if CHECKPOINT_NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=get_step)


def describe_circumstances(world_size: int) -> dict[str, Any]:
    """What decides, beside the checkpoint, whether a resumed run computes the same bits."""
    return {
        "world_size": world_size,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        **{name: version(name) for name in LIBRARIES},
    }


def write_manifest(folder: Path, step: int, world_size: int) -> None:
    """Writes name, size and SHA-256 of every file of a folder, after all of them have reached the disk.

    Args:
        folder (`Path`): a complete checkpoint under its temporary name.
        step (`int`): step of the run.
        world_size (`int`): number of processes of the run.
    """
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
        files.append({"name": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "sha256": digest})
    circumstances = describe_circumstances(world_size)
    write_json(folder / MANIFEST_FILE, {"step": step, "circumstances": circumstances, "files": files})
    synchronize(folder / MANIFEST_FILE)
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        synchronize(path)


def put_in_place(unfinished: Path, final: Path) -> None:
    """Gives a finished folder its name; one that has it already is moved aside first, and back if we die between."""
    replace_folder(unfinished, final, REPLACED)


def remove_checkpoint(checkpoint: Path) -> None:
    """Deletes a checkpoint; one that is only half deleted no longer has the name of a checkpoint."""
    unfinished = checkpoint.with_name(UNFINISHED + checkpoint.name)
    shutil.rmtree(unfinished, ignore_errors=True)
    os.rename(checkpoint, unfinished)
    shutil.rmtree(unfinished, ignore_errors=True)


def clear_leftovers(run_folder: Path) -> None:
    """Removes what a killed run left unfinished, and gives a checkpoint back that was about to be replaced."""
    restore_folders(run_folder, "checkpoint-*", REPLACED)
    for unfinished in run_folder.glob(f"{UNFINISHED}checkpoint-*"):
        shutil.rmtree(unfinished, ignore_errors=True)


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, as the end of a sentence that begins with its path; `None` if it is whole."""
    try:
        files = read_manifest(checkpoint)["files"]
    except (OSError, ValueError) as error:
        return str(error)
    for entry in files:
        path = checkpoint / entry["name"]
        if not path.is_file():
            return f"lacks {entry['name']}"
        if path.stat().st_size != entry["size"]:
            return f"has {path.stat().st_size} bytes in {entry['name']} where {entry['size']} were written"
    for entry in files:
        with (checkpoint / entry["name"]).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != entry["sha256"]:
                return f"has other bytes in {entry['name']} than were written"
    return None


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """The manifest of a checkpoint.

    Raises:
        FileNotFoundError: it has none.
        ValueError: it is not one, or names a file outside the checkpoint.
    """
    path = checkpoint / MANIFEST_FILE
    if not path.is_file():
        raise FileNotFoundError(f"has no {MANIFEST_FILE}")
    try:
        manifest = json.loads(path.read_bytes())
        names = [PurePosixPath(entry["name"]) for entry in manifest["files"]]
        complete = all({"size", "sha256"} <= entry.keys() for entry in manifest["files"])
        complete = complete and isinstance(manifest["circumstances"], dict)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"has a {MANIFEST_FILE} that cannot be read") from error
    if not complete or any(name.is_absolute() or ".." in name.parts for name in names):
        raise ValueError(f"has a {MANIFEST_FILE} that is none")
    return manifest


def find_newest_whole(run_folder: Path) -> Path | None:
    """The newest checkpoint whose manifest holds, with a warning about every newer one; `None` if there is none.

    Raises:
        ValueError: there are checkpoints, and none is whole.
    """
    damages = []
    for checkpoint in reversed(list_checkpoints(run_folder)):
        damage = find_damage(checkpoint)
        if damage is None:
            return checkpoint
        damages.append(f"{checkpoint} {damage}")
        logger.warning(f"{damages[-1]}: it is passed over.")
    if damages:
        raise ValueError(
            f"no checkpoint of {run_folder} can be resumed from: {'; '.join(damages)}. Name one without a "
            f"{MANIFEST_FILE} by its path (`resume_from_checkpoint=PATH`), or begin anew in another folder."
        )
    return None


__all__ = [
    "MANIFEST_FILE",
    "clear_leftovers",
    "describe_circumstances",
    "find_damage",
    "find_newest_whole",
    "get_step",
    "list_checkpoints",
    "put_in_place",
    "read_manifest",
    "remove_checkpoint",
    "write_manifest",
]
