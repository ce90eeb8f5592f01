# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Weights of a conversion: read without running code, found in a folder or on the Hub, checked, written at once."""

import errno
import mmap
import pickle
import re
import shutil
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from albef_amc.checkpoint_files_albef import CONFIG_FILE, is_repository_name
from albef_amc.conversion.pickle_files import PickleLimits, find_pickle_end
from albef_amc.conversion.report import NAMES_SHOWN, list_names
from albef_amc.encoders_albef import resize_position_embeddings
from albef_amc.saving_albef import is_safetensors_error, replace_folder

ZIP_SIGNATURE = b"PK\x03\x04"
LARGEST_PICKLE = 2**25  # bytes; names, shapes and settings of the published checkpoints take 200 kB
PICKLE_LIMITS = PickleLimits(most_operations=2_000_000, most_containers=1_000_000)
PICKLES_OF_OLD_FILES = 5  # magic number, version, machine, content, names of storages
# Values that a file may claim without holding them, by repeating one number: those of a published checkpoint.
LARGEST_REPEATED = 2**31  # bytes
WEIGHT_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)


def load_original_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the weights of a `.pth` file without running any code in it.

    Args:
        path (`str` or `Path`): `{'model': state_dict, ...}` or only the state dict.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"No checkpoint at {path}. ALBEF.pth and AMC's checkpoints are downloaded by hand: "
            "docs/weights-and-data.md says where they are published."
        )
    if not path.is_file():
        raise ValueError(f"{path} is not a file. Give the `.pth` of ALBEF or AMC, not a folder.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes): the download failed. Fetch it again.")
    with path.open("rb") as file:
        is_zip = file.read(len(ZIP_SIGNATURE)) == ZIP_SIGNATURE
    unreadable = f"{path} is not a checkpoint that torch can read"
    try:
        _check_archive(path) if is_zip else _check_old_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            raise ValueError(f"{unreadable}, or is damaged.") from error
        raise ValueError(
            f"{path} holds pickled objects that could run code ({found[1]}) and is not loaded. If you trust its "
            "origin, save only its weights: `torch.save({'model': checkpoint['model']}, 'weights.pth')`."
        ) from error
    except _HostileFileError as error:
        raise ValueError(f"{unreadable}: {error}. Fetch it again.") from error
    except Exception as error:  # a damaged file can make the reader raise anything
        raise ValueError(f"{unreadable}, or was cut off. Fetch it again.") from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not any(isinstance(value, torch.Tensor) for value in state.values()):
        held = ", ".join(map(str, list(content)[:NAMES_SHOWN])) if isinstance(content, dict) else str(type(content))
        raise ValueError(f"{path} holds no state dict, at the top or under 'model'; it holds {held[:200]}.")
    _check_entries(path, state)
    return state


class _HostileFileError(ValueError):
    """A file claims sizes that it does not have, or that no checkpoint has."""


def _check_archive(path: Path) -> None:
    """Refuses archives that grow when they are read: `torch` writes every part once, and uncompressed."""
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        for part in parts:
            if part.compress_type != zipfile.ZIP_STORED:
                raise _HostileFileError(f"its part {part.filename[:80]} is compressed, which torch never writes")
        if sum(part.file_size for part in parts) > path.stat().st_size:
            raise _HostileFileError("its parts are larger than the file")
        for part in parts:
            if part.filename.endswith(".pkl"):
                if part.file_size > LARGEST_PICKLE:
                    raise _HostileFileError(f"its part {part.filename[:80]} has {part.file_size} bytes")
                _check_pickles(archive.read(part), 1)


def _check_old_file(path: Path) -> None:
    """Refuses files of torch before 1.6 whose pickles would fill the memory."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _check_pickles(data, PICKLES_OF_OLD_FILES)


def _check_pickles(data: bytes | mmap.mmap, number: int) -> None:
    position = 0
    for _ in range(number):
        try:
            position = find_pickle_end(data, position, PICKLE_LIMITS)
        except ValueError as error:
            raise _HostileFileError(f"its pickle cannot be read ({error})") from error


def _check_entries(path: Path, state: dict[Any, Any]) -> None:
    """Refuses entries that are not plain tensors, by name, and values that the file claims but does not hold."""
    for name, value in state.items():
        if not isinstance(name, str):
            raise ValueError(f"{path}: the entry {str(name)[:80]!r} of the state dict has a name that is not text.")
        if not isinstance(value, torch.Tensor):
            raise ValueError(
                f"{path}: the entry `{name}` of the state dict is of the type {type(value).__name__}, expected a "
                "tensor. Save only the weights: `torch.save({'model': model.state_dict()}, 'weights.pth')`."
            )
        if value.layout != torch.strided or value.is_quantized or value.is_meta or value.dtype not in WEIGHT_TYPES:
            kind = "without values" if value.is_meta else f"of {value.dtype}, {value.layout}"
            raise ValueError(
                f"{path}: the entry `{name}` is a tensor {kind}. Weights are dense floating-point tensors: save the "
                "checkpoint that this one was made from."
            )
    stated = sum(value.numel() * value.element_size() for value in state.values())
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in state.values()}
    repeated = stated - sum(storages.values())
    if repeated > LARGEST_REPEATED:
        raise ValueError(
            f"{path} claims {repeated} bytes of values that it does not hold: its tensors repeat a few numbers. Fetch "
            "it again."
        )


@dataclass
class EncoderWeights:
    """A pretrained encoder.

    Args:
        source (`str`): file, folder, repository or name that it was read from.
        state (`dict[str, torch.Tensor]`): its weights in float32, under the names of our models.
        known (`dict[str, Any]`): values of our configuration that its shapes or its configuration determine.
        assumed (`dict[str, Any]`): defaults of other values.
        ignored (`dict[str, list[str]]`): entries that are skipped on purpose, by reason.
        notes (`list[str]`): choices that the encoder does not determine.
    """

    source: str
    state: dict[str, torch.Tensor]
    known: dict[str, Any]
    assumed: dict[str, Any] = field(default_factory=dict)
    ignored: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class ImageEncoderWeights(EncoderWeights):
    """A pretrained image encoder; see [`EncoderWeights`] for the other fields.

    Args:
        grid (`tuple[int, int]`): patch grid (height, width) of its position embeddings.
        antialias (`bool`, defaults to `False`): whether it filters position embeddings before reducing them.
    """

    grid: tuple[int, int]
    antialias: bool = False


def find_file(argument: str, source: str, name: str, required: bool = True) -> Path | None:
    """Path of a file in a folder or a repository, which is downloaded where the cache has no copy.

    Args:
        argument (`str`): the argument that `source` was given as, for messages.
        source (`str`): folder or repository.
        name (`str`): name of the file.
        required (`bool`, defaults to `True`): raise an error, rather than return `None`, if there is no such file.

    Raises:
        FileNotFoundError: no such folder, no such file, or a repository that cannot be reached.
    """
    if Path(source).is_dir():
        path = Path(source, name)
        if required and not path.is_file():
            raise FileNotFoundError(f"`{argument}`: no `{name}` in {source}. Give the folder of a saved model.")
        return path if path.is_file() else None
    if not is_repository_name(source, needs_user=False):
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


def load_with_transformers(
    argument: str, model_class: type[PreTrainedModel], source: str, config: PreTrainedConfig
) -> tuple[PreTrainedModel, list[str], list[str]]:
    """A model that transformers saved, in float32; names of the weights that the checkpoint lacks, and of the entries
    that the model lacks.

    Args:
        argument (`str`): the argument that `source` was given as, for messages.
        model_class (`type`): its class.
        source (`str`): folder or repository.
        config (`PreTrainedConfig`): its configuration.

    Raises:
        FileNotFoundError: weights that cannot be reached.
        ValueError: weights that cannot be read, or have other shapes than the configuration.
    """
    options: dict[str, Any] = {"config": config, "dtype": torch.float32, "output_loading_info": True}
    try:
        model, information = model_class.from_pretrained(source, **options)
    except OSError as error:
        raise build_unreachable_error(argument, source, error) from error
    except Exception as error:
        if not (isinstance(error, RuntimeError) or is_safetensors_error(error)):
            raise
        raise ValueError(
            f"`{argument}`: the weights of {source} cannot be read, or have other shapes than its `config.json` says "
            f"({error}). Download or save it again."
        ) from error
    return model, sorted(information["missing_keys"]), sorted(information["unexpected_keys"])


def fold_layer_scale(state: Mapping[str, torch.Tensor], projection: str, scale: str) -> dict[str, torch.Tensor]:
    """Weight and bias of a projection, each row times its factor of the layer scale that follows: the same function.

    Args:
        state (`Mapping[str, torch.Tensor]`): weights of an encoder.
        projection (`str`): name of the projection, without `.weight`.
        scale (`str`): name of the layer scale, `(hidden_size,)`.

    Returns:
        `dict[str, torch.Tensor]`: both in float32, multiplied in float64.
    """
    factors = state[scale].double()
    weight, bias = state[f"{projection}.weight"].double(), state[f"{projection}.bias"].double()
    return {
        f"{projection}.weight": (factors[:, None] * weight).float(),
        f"{projection}.bias": (factors * bias).float(),
    }


def resize_positions(
    state: Mapping[str, torch.Tensor],
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    antialias: bool = False,
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Position embeddings among `state`, resized to another patch grid (height, width), and a note of their shapes."""
    names = [name for name in state if name.endswith("vision_model.position_embeddings") and new_grid != old_grid]
    resized = {name: resize_position_embeddings(state[name], old_grid, new_grid, antialias) for name in names}
    return resized, {name: f"{tuple(state[name].shape)} to {tuple(resized[name].shape)}" for name in names}


def check_values(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], source: str) -> None:
    """Refuses entries of another shape than the model's, and values that are not finite."""
    misfits = [
        f"{name} {tuple(tensor.shape)} instead of {tuple(expected[name].shape)}"
        for name, tensor in state.items()
        if tensor.shape != expected[name].shape
    ]
    if misfits:
        raise ValueError(f"{source}: entries have other shapes than the architecture: {list_names(misfits)}.")
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise ValueError(
            f"{source}: NaN or infinity in {len(broken)} entries: {list_names(broken)}. The training diverged or the "
            "file is damaged; use an earlier checkpoint."
        )


def check_output_dir(output_dir: Path, overwrite: bool) -> None:
    """Refuse a folder that exists, unless it is a checkpoint (or empty) and `overwrite` allows replacing it."""
    if not output_dir.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{output_dir} exists. Choose another folder, or pass `overwrite` (`--overwrite`).")
    if not output_dir.is_dir() or (any(output_dir.iterdir()) and not (output_dir / CONFIG_FILE).is_file()):
        raise ValueError(f"{output_dir} is not a checkpoint folder (no `config.json`) and is not replaced.")


@contextmanager
def replacing_folder(output_dir: Path) -> Iterator[Path]:
    """A folder to write into; it becomes `output_dir` at the end, or is removed if anything fails."""
    incomplete = output_dir.parent / f".{output_dir.name}.{uuid.uuid4().hex}.incomplete"
    incomplete.mkdir(parents=True)
    try:
        yield incomplete
        replace_folder(incomplete, output_dir)
    except SafetensorError as error:  # has errors of the operating system only as text
        number = errno.ENOSPC if "No space left" in str(error) else errno.EIO
        raise OSError(number, f"cannot write the weights, nothing is left behind: {error}", str(output_dir)) from error
    finally:
        shutil.rmtree(incomplete, ignore_errors=True)


__all__ = [
    "EncoderWeights",
    "ImageEncoderWeights",
    "build_unreachable_error",
    "check_output_dir",
    "check_values",
    "find_file",
    "fold_layer_scale",
    "load_original_state_dict",
    "load_with_transformers",
    "replacing_folder",
    "resize_positions",
]
