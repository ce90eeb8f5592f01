# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Checkpoint folders that are complete or recognised as damaged: a manifest written last, then one rename."""

import errno
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

from albef_amc.saving_albef import (
    hash_file,
    is_safetensors_error,
    replace_folder,
    restore_folders,
    synchronize,
    write_json,
)

logger = logging.get_logger(__name__)

MANIFEST_FILE = "manifest.json"
CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")
UNFINISHED, REPLACED = ".unfinished-", ".replaced-"
STATE_FILE, SHARDS_FILE = "trainer_state.json", "model.safetensors.index.json"
MAX_JSON_BYTES = 2**28  # the log of a run of millions of steps is smaller
MAX_PROCESSES = 2**16
FULL_DISK_BYTES = 2**20  # a file that could not be written and less than this left: the disk is full
# What a run needs to continue, and the prefixes of the files that hold it: those of the Trainer itself, of LoRA, of
# FSDP and of DeepSpeed, whose folder holds all three of the first.
PARTS = {
    "weights": ("model.safetensors", "model-", "adapter_model.safetensors", "pytorch_model", "global_step"),
    "state of the optimizer": ("optimizer", "global_step"),
    "learning rate schedule": ("scheduler.pt", "global_step"),
    "state of the run (trainer_state.json)": (STATE_FILE,),
}
LIBRARIES = ("albef-amc", "torch", "transformers", "accelerate")


def get_step(checkpoint: Path) -> int:
    """Step of a folder called `checkpoint-<step>`."""
    match = CHECKPOINT_NAME.fullmatch(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint} is not called checkpoint-<step>.")
    return int(match[1])


def list_checkpoints(run_folder: Path) -> list[Path]:
    """Folders called `checkpoint-<step>`, by step, whatever is in them."""
    if not run_folder.is_dir():
        return []
    found = [path for path in run_folder.iterdir() if CHECKPOINT_NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=get_step)


def describe_circumstances(world_size: int) -> dict[str, Any]:
    """What decides, besides the checkpoint, whether a resumed run computes the same bits."""
    return {
        "world_size": world_size,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        **{name: version(name) for name in LIBRARIES},
    }


def write_manifest(folder: Path, step: int, world_size: int, is_last: bool = False) -> None:
    """Writes name, size and SHA-256 of every file of a folder, after all of them have reached the disk.

    Args:
        folder (`Path`): a complete checkpoint under its temporary name.
        step (`int`): step of the run.
        world_size (`int`): number of processes of the run.
        is_last (`bool`, defaults to `False`): the run ends with it.
    """
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest = hash_file(path)
        synchronize(path)
        files.append({"name": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "sha256": digest})
    circumstances = describe_circumstances(world_size)
    content = {"step": step, "is_last": is_last, "circumstances": circumstances, "files": files}
    write_json(folder / MANIFEST_FILE, content)
    synchronize(folder / MANIFEST_FILE)
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        synchronize(path)


def put_in_place(unfinished: Path, final: Path) -> None:
    """Gives a finished folder its name; one that has it already is moved aside, and back after a kill."""
    replace_folder(unfinished, final, REPLACED)


def remove_checkpoint(checkpoint: Path) -> None:
    """Deletes a checkpoint; one that is only half deleted no longer has the name of a checkpoint."""
    unfinished = checkpoint.with_name(UNFINISHED + checkpoint.name)
    shutil.rmtree(unfinished, ignore_errors=True)
    os.rename(checkpoint, unfinished)
    shutil.rmtree(unfinished, ignore_errors=True)


def rotate_checkpoints(newest: Path, best: str | None, limit: int | None) -> None:
    """Keeps `limit` checkpoints of a run: the one just written, the best one, then the newest before it.

    Args:
        newest (`Path`): the checkpoint just written.
        best (`str`, *optional*): the best one.
        limit (`int`, *optional*): how many are kept; all for `None` or 0.
    """
    if limit is None or limit <= 0:
        return
    protected = {newest.name, *({Path(best).name} if best else ())}
    others = [path for path in list_checkpoints(newest.parent) if path.name not in protected]
    # Those after the present step are of a future that was given up: first to go.
    others.sort(key=lambda path: (get_step(path) < get_step(newest), get_step(path)))
    for checkpoint in others[: max(0, len(others) - max(0, limit - len(protected)))]:
        remove_checkpoint(checkpoint)


def clear_leftovers(run_folder: Path) -> None:
    """Removes what a killed run left unfinished, and restores a checkpoint that was about to be replaced."""
    restore_folders(run_folder, "checkpoint-*", REPLACED)
    for unfinished in run_folder.glob(f"{UNFINISHED}checkpoint-*"):
        shutil.rmtree(unfinished, ignore_errors=True)


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, as the end of a sentence that starts with its path; `None` if it is complete.

    A complete one has a manifest, the manifest names all that a run needs to continue, every file has the bytes that
    were written, and folder, manifest and state agree on the step.
    """
    try:
        manifest = read_manifest(checkpoint)
        _check_parts(manifest)
        _check_files(checkpoint, manifest["files"])
        _check_step(checkpoint, manifest["step"])
        _check_shards(checkpoint, [entry["name"] for entry in manifest["files"]])
    except (OSError, ValueError) as error:
        return str(error)
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
    manifest = _read_json(path)
    if not _is_manifest(manifest):
        raise ValueError(f"has an invalid {MANIFEST_FILE}: entries are missing or of another type")
    names = [entry["name"] for entry in manifest["files"]]
    outside = [name for name in names if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]
    if outside:
        raise ValueError(f"has an invalid {MANIFEST_FILE}: it lists {outside[0]!r}, outside the checkpoint")
    if len({*names}) < len(names):
        raise ValueError(f"has an invalid {MANIFEST_FILE}: it lists a file twice")
    return manifest


def _is_manifest(content: Any) -> bool:
    """Whether parsed JSON has the entries of a manifest, each of its type."""
    if not isinstance(content, dict) or not isinstance(content.get("circumstances"), dict):
        return False
    files, world_size = content.get("files"), content["circumstances"].get("world_size")
    numbers = [content.get("step"), world_size]
    if not isinstance(content.get("is_last", False), bool):
        return False
    if not isinstance(files, list) or not all(isinstance(entry, dict) for entry in files):
        return False
    numbers += [entry.get("size") for entry in files]
    words = [entry.get(key) for entry in files for key in ("name", "sha256")]
    if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in numbers):
        return False
    return 0 < world_size <= MAX_PROCESSES and all(isinstance(word, str) and word for word in words)


def _check_parts(manifest: dict[str, Any]) -> None:
    """Refuses a manifest that does not list what a run needs, or lists an empty file for it."""
    names = [entry["name"] for entry in manifest["files"] if entry["size"] > 0]
    for part, prefixes in PARTS.items():
        if not any(name.startswith(prefixes) for name in names):
            raise ValueError(
                f"lists no {part} in its {MANIFEST_FILE}: a run cannot continue from it (with `save_only_model` the "
                "weights alone are kept)"
            )
    world_size = manifest["circumstances"]["world_size"]
    needed = ["rng_state.pth"] if world_size == 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
    if any(name.startswith("stream-") for name in names):
        needed += [f"stream-{rank}.json" for rank in range(world_size)]
    if any(name.startswith("adapter_model") for name in names):
        needed.append("pretraining_state.safetensors")
    for name in needed:
        if name not in names:
            raise ValueError(f"does not list {name} in its {MANIFEST_FILE}: a run cannot continue from it")


def _check_files(checkpoint: Path, files: list[dict[str, Any]]) -> None:
    """Refuses files that are missing or differ from what was written; sizes first, since reading takes time."""
    for entry in files:
        path = checkpoint / entry["name"]
        if not path.is_file():
            raise ValueError(f"lacks {entry['name']}")
        if path.stat().st_size != entry["size"]:
            raise ValueError(f"has {path.stat().st_size} bytes in {entry['name']} where {entry['size']} were written")
    for entry in files:
        if hash_file(checkpoint / entry["name"]) != entry["sha256"]:
            raise ValueError(f"has other bytes in {entry['name']} than were written")


def _check_step(checkpoint: Path, step: int) -> None:
    """Refuses a manifest or a state of another step than that of the folder's name."""
    if CHECKPOINT_NAME.fullmatch(checkpoint.name) and get_step(checkpoint) != step:
        raise ValueError(f"has a {MANIFEST_FILE} of step {step}")
    state = _read_json(checkpoint / STATE_FILE)
    stored = state.get("global_step") if isinstance(state, dict) else None
    if isinstance(stored, bool) or stored != step:
        raise ValueError(f"has a {STATE_FILE} of step {stored}, and a {MANIFEST_FILE} of step {step}")


def _check_shards(checkpoint: Path, names: list[str]) -> None:
    """Refuses weights in several files of which one is not listed."""
    if SHARDS_FILE not in names:
        return
    index = _read_json(checkpoint / SHARDS_FILE)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    missing = sorted({*shards.values()} - {*names}) if isinstance(shards, dict) else [f"shards in {SHARDS_FILE}"]
    if missing:
        raise ValueError(f"does not list {missing[0]} in its {MANIFEST_FILE}: a run cannot continue from it")


def _read_json(path: Path) -> Any:
    """Parsed JSON of a file of a checkpoint; errors are worded as [`find_damage`] returns them."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"has a {path.name} of {path.stat().st_size} bytes, more than any run writes")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"has a {path.name} that cannot be read") from error


def ends_run(checkpoint: Path, max_steps: int) -> bool:
    """Whether a run of this length had ended with a checkpoint, although at an earlier step (early stopping).

    Args:
        checkpoint (`Path`): a complete checkpoint; of one without a manifest it is not known.
        max_steps (`int`): steps of the run that resumes; a longer one than that of the checkpoint continues.
    """
    if not (checkpoint / MANIFEST_FILE).is_file() or not read_manifest(checkpoint).get("is_last"):
        return False
    length = _read_json(checkpoint / STATE_FILE).get("max_steps")
    return isinstance(length, int) and max_steps <= length


def find_newest_complete(run_folder: Path) -> Path | None:
    """The newest complete checkpoint, with a warning about every newer one; `None` if there is no checkpoint.

    Raises:
        ValueError: there are checkpoints, and none is complete.
    """
    damages = []
    for checkpoint in reversed(list_checkpoints(run_folder)):
        damage = find_damage(checkpoint)
        if damage is None:
            return checkpoint
        damages.append(f"{checkpoint} {damage}")
        logger.warning(f"{damages[-1]}: it is skipped.")
    if damages:
        raise ValueError(
            f"no checkpoint of {run_folder} can be resumed from: {'; '.join(damages)}. Name one without a "
            f"{MANIFEST_FILE} by its path (`resume_from_checkpoint=PATH`), or start again in another folder."
        )
    return None


def choose_checkpoint(run_folder: Path, wanted: str | bool | None) -> Path | None:
    """The checkpoint that `resume_from_checkpoint` means; see `ReliableTrainer.train`."""
    if wanted is None or wanted is False:
        if list_checkpoints(run_folder):
            logger.warning(
                f"{run_folder} holds checkpoints of an earlier run, which this one will replace. To resume that run, "
                "pass `resume_from_checkpoint=True`."
            )
        return None
    if wanted is True:
        newest = find_newest_complete(run_folder)
        if newest is None:
            logger.warning(f"{run_folder} holds no checkpoint: the run starts from the beginning.")
        return newest
    checkpoint = Path(wanted)
    if not checkpoint.is_dir():
        raise FileNotFoundError(errno.ENOENT, "`resume_from_checkpoint`: no such folder", str(checkpoint))
    if not (checkpoint / MANIFEST_FILE).is_file():
        logger.warning(f"{checkpoint} has no {MANIFEST_FILE}: whether it is complete is not known.")
        return checkpoint
    damage = find_damage(checkpoint)
    if damage is not None:
        raise ValueError(
            f"`resume_from_checkpoint`: {checkpoint} {damage}. Choose another checkpoint, or pass `True` for the "
            "newest complete one."
        )
    return checkpoint


def compare_circumstances(checkpoint: Path, world_size: int) -> None:
    """Warns where a run resumes from a checkpoint under other circumstances than it was written under."""
    stored, now = read_manifest(checkpoint)["circumstances"], describe_circumstances(world_size)
    different = [f"{name} {stored.get(name)} -> {value}" for name, value in now.items() if stored.get(name) != value]
    if different:
        logger.warning(
            f"{checkpoint} was written under other circumstances ({', '.join(different)}): the run continues, but its "
            "weights will not be those of an uninterrupted run bit by bit."
        )


def describe_failure(error: Exception, final: Path) -> tuple[int | None, str]:
    """Number of the operating system (`None`: not an error of the disk) and words for an error during a save."""
    is_torch_writer = isinstance(error, RuntimeError) and "PytorchStreamWriter" in str(error)
    if not (isinstance(error, OSError) or is_torch_writer or is_safetensors_error(error)):
        return None, f"saving {final} failed on another process: {error}"
    number = error.errno if isinstance(error, OSError) and error.errno else errno.EIO
    if "No space left" in str(error) or shutil.disk_usage(final.parent).free < FULL_DISK_BYTES:
        number = errno.ENOSPC
    words = os.strerror(number) if number == errno.ENOSPC else str(error)
    return number, f"cannot write the checkpoint; earlier ones are unchanged, and nothing is left of this one: {words}"
