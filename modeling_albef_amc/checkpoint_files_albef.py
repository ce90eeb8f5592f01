# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Files of a checkpoint: find, read and check them before a model is built.

Checkpoints may be untrusted. Every size that a file states is compared with the file before memory is allocated.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file, logging
from transformers.utils.hub import extract_commit_hash

logger = logging.get_logger(__name__)

CONFIG_FILE = "config.json"
ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
# Files of which at least one is in the cache if a repository was read before.
CACHED_FILES = (CONFIG_FILE, ADAPTER_CONFIG_FILE, "processor_config.json", "tokenizer_config.json")
WEIGHT_FILE_NAME = re.compile(r"[\w.-]+\.safetensors")
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
LOOK_TIMEOUT = 8  # seconds
SERVER_ERRORS = 500
LARGEST_JSON = {"tokenizer.json": 2**25}  # bytes; the largest vocabularies in use take 20 MB
LARGEST_OTHER_JSON = 2**22
LARGEST_HEADER, MOST_TENSORS = 2**24, 100_000
HEADER_LENGTH_BYTES = 8
# Bytes of one number, by safetensors' name of its type.
ITEM_SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "U8": 1, "I8": 1, "BOOL": 1}
ITEM_SIZES |= {"U64": 8, "U32": 4, "U16": 2, "C64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
FLOAT_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
WHOLE_NUMBER_TYPES = ("I64", "I32")  # for queue pointers and ids


def take_hub_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Select the options of `from_pretrained` that specify how to read from the Hub."""
    return {name: options[name] for name in HUB_ARGUMENTS if name in options}


def is_repository_name(name: str, needs_user: bool = True) -> bool:
    """Whether a name is a valid repository name on the Hub.

    Args:
        name (`str`): the name.
        needs_user (`bool`, defaults to `True`): accept only `user/name`; a few old repositories have a bare name.

    Example:

    ```python
    >>> from albef_amc.checkpoint_files_albef import is_repository_name
    >>> is_repository_name("your-name/albef"), is_repository_name("albef"), is_repository_name("./runs/albef")
    (True, False, False)

    ```
    """
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name or not needs_user


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as described in the header of a weight file.

    Args:
        dtype (`str`): safetensors' name of the type.
        shape (`tuple[int, ...]`): its shape.
    """

    dtype: str
    shape: tuple[int, ...]


def find_checkpoint(path: str | os.PathLike, hub_arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Check once that a checkpoint exists, as a folder or on the Hub.

    Args:
        path (`str` or path): folder, or Hub repository as `user/name`.
        hub_arguments (`Mapping`, *optional*): `cache_dir`, `token`, `revision` and the like.

    Returns:
        `dict`: the arguments to read it with. If the Hub cannot be reached but the cache has a copy, they contain
        `local_files_only=True`, and a warning is logged.

    Raises:
        ValueError: the path is a file.
        FileNotFoundError: the folder does not exist, or the repository cannot be read.
    """
    name, arguments = os.fspath(path), dict(hub_arguments or {})
    if os.path.isdir(name):
        return arguments
    if os.path.isfile(name):
        raise ValueError(
            f"{name} is a file, but a checkpoint is a folder. Convert a `.pth` of ALBEF or AMC with "
            "`albef-amc convert`."
        )
    if not is_repository_name(name):
        raise FileNotFoundError(
            f"No checkpoint folder at {name}. Give a folder that `save_pretrained`, `make demo` or `albef-amc "
            "convert` wrote, or a Hub repository as `user/name`. Published ones: docs/weights-and-data.md."
        )
    reason = _look_on_hub(name, arguments)
    if reason is None:
        return arguments
    if _is_cached(name, arguments):
        if not arguments.get("local_files_only") and not constants.is_offline_mode():
            logger.warning(f"{name} is read from the cache: {reason}.")
        return {**arguments, "local_files_only": True}
    raise FileNotFoundError(
        f"{name} is neither a folder here nor a Hub repository that can be read: {reason}. Check the name "
        "(docs/weights-and-data.md lists some); where the Hub cannot be reached, download the checkpoint elsewhere "
        f"(`hf download {name} --local-dir FOLDER`)."
    )


def _look_on_hub(name: str, arguments: Mapping[str, Any]) -> str | None:
    """Send one request and explain why the repository cannot be read; `None` if it can."""
    if arguments.get("local_files_only"):
        return "`local_files_only` is set, and the cache has no copy"
    revision = arguments.get("revision")
    try:
        HfApi(endpoint=constants.ENDPOINT, token=arguments.get("token")).model_info(
            name, revision=revision, timeout=LOOK_TIMEOUT
        )
    except OfflineModeIsEnabled:
        return "offline mode is on (HF_HUB_OFFLINE), and the cache has no copy"
    except GatedRepoError as error:
        return f"access is restricted ({_take_first_line(error)})"
    except RevisionNotFoundError:
        return f"it has no revision {revision}"
    except HfHubHTTPError as error:
        if error.response.status_code < SERVER_ERRORS:
            return f"{constants.ENDPOINT} has none of this name, or it is private"
        return f"{constants.ENDPOINT} failed ({_take_first_line(error)})"
    except (HTTPError, OSError, ValueError) as error:
        return f"{constants.ENDPOINT} cannot be reached ({_take_first_line(error)})"
    return None


def _is_cached(name: str, arguments: Mapping[str, Any]) -> bool:
    options = {key: arguments.get(key) for key in ("cache_dir", "revision")}
    subfolder = arguments.get("subfolder") or ""
    found = [try_to_load_from_cache(name, os.path.join(subfolder, file), **options) for file in CACHED_FILES]
    return any(isinstance(file, str) for file in found)


def _take_first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def find_checkpoint_file(path: str | os.PathLike, name: str, hub_arguments: Mapping[str, Any]) -> Path | None:
    """Find a file of a checkpoint, downloaded if the cache has no copy; `None` if the checkpoint lacks it."""
    found = cached_file(
        os.fspath(path),
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **hub_arguments,
    )
    return None if found is None else Path(found)


def find_commit(path: str | os.PathLike, hub_arguments: Mapping[str, Any]) -> str | None:
    """Commit of the repository that a checkpoint is read from; `None` for a folder."""
    if os.path.isdir(path):
        return None
    found = (find_checkpoint_file(path, name, hub_arguments) for name in (CONFIG_FILE, ADAPTER_CONFIG_FILE))
    return next((extract_commit_hash(str(file), None) for file in found if file is not None), None)


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON file of settings.

    Raises:
        ValueError: the file is too large, is not JSON, is nested too deeply, or does not hold an object.
    """
    limit = LARGEST_JSON.get(path.name, LARGEST_OTHER_JSON)
    if path.stat().st_size > limit:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, more than the {limit} that settings may take.")
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply to be settings. Download or save it again.") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}). Download or save it again.") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} must hold an object of settings, got {type(content).__name__}. Download or save it again."
        )
    return content


def check_settings(
    path: str | os.PathLike, names: Iterable[str], hub_arguments: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Read the named JSON files that a checkpoint has, see [`read_settings`]; returns their content by name."""
    files = {name: find_checkpoint_file(path, name, hub_arguments) for name in names}
    return {name: read_settings(file) for name, file in files.items() if file is not None}


def find_weight_files(path: str | os.PathLike, hub_arguments: Mapping[str, Any]) -> dict[str, Path | None]:
    """Find the safetensors files of a checkpoint by name; `None` for a missing file that its index lists.

    Raises:
        ValueError: the index is damaged.
    """
    single = find_checkpoint_file(path, SAFE_WEIGHTS_NAME, hub_arguments)
    if single is not None:
        return {SAFE_WEIGHTS_NAME: single}
    index = find_checkpoint_file(path, SAFE_WEIGHTS_INDEX_NAME, hub_arguments)
    if index is None:
        return {}
    weight_map = read_settings(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(file, str) and WEIGHT_FILE_NAME.fullmatch(file) for file in weight_map.values()
    ):
        raise ValueError(
            f"{index} must map names of weights to safetensors files in its folder (`weight_map`). Download or save "
            "it again."
        )
    return {name: find_checkpoint_file(path, name, hub_arguments) for name in sorted(set(weight_map.values()))}


def read_stored_tensors(path: str | os.PathLike, hub_arguments: Mapping[str, Any]) -> dict[str, StoredTensor]:
    """Read the headers of a checkpoint's safetensors files: every tensor by name, empty if it has other files.

    Raises:
        ValueError: a file is damaged, or its header states wrong sizes.
    """
    return {
        name: tensor
        for file in find_weight_files(path, hub_arguments).values()
        if file is not None  # loading reports missing files
        for name, tensor in read_header(file, path).items()
    }


def read_header(file: Path, source: str | os.PathLike) -> dict[str, StoredTensor]:
    """Read the tensors of a safetensors file from its header.

    Args:
        file (`Path`): the file.
        source (`str` or path): its checkpoint, for messages.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(HEADER_LENGTH_BYTES), "little")
        if size < HEADER_LENGTH_BYTES or length > size - HEADER_LENGTH_BYTES:
            raise _build_damage_error(source, f"{file.name} has {size} bytes, less than its header states")
        if length > LARGEST_HEADER:
            raise _build_damage_error(source, f"the header of {file.name} has {length} bytes")
        text = opened.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _build_damage_error(source, f"the header of {file.name} is not valid JSON") from error
    if not isinstance(header, dict) or len(header) > MOST_TENSORS:
        raise _build_damage_error(source, f"the header of {file.name} does not list at most {MOST_TENSORS} tensors")
    header.pop("__metadata__", None)
    data_size = size - HEADER_LENGTH_BYTES - length
    tensors = {}
    for name, entry in header.items():
        tensor = _read_entry(entry, data_size)
        if tensor is None:
            raise _build_damage_error(source, f"{file.name} does not hold what its header states of `{name}`")
        tensors[name] = tensor
    return tensors


def _read_entry(entry: Any, data_size: int) -> StoredTensor | None:
    """Read a tensor of a header; `None` if its values are not in the file."""
    if not isinstance(entry, dict):
        return None
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not all(isinstance(part, list) and all(type(number) is int for number in part) for part in (shape, offsets)):
        return None
    if len(offsets) != 2 or not 0 <= offsets[0] <= offsets[1] <= data_size or min(shape, default=0) < 0:
        return None
    item_size = ITEM_SIZES.get(dtype) if isinstance(dtype, str) else None
    if item_size is not None and math.prod(shape) * item_size != offsets[1] - offsets[0]:
        return None
    return StoredTensor(str(dtype), tuple(shape))


def _build_damage_error(source: str | os.PathLike, reason: str) -> ValueError:
    return ValueError(
        f"the weights of {source} cannot be read ({reason}): the file is damaged or was cut off. Download or save it "
        "again."
    )


__all__ = [
    "ADAPTER_CONFIG_FILE",
    "ADAPTER_WEIGHTS_FILE",
    "CONFIG_FILE",
    "FLOAT_TYPES",
    "SERVER_ERRORS",
    "WHOLE_NUMBER_TYPES",
    "StoredTensor",
    "check_settings",
    "find_checkpoint",
    "find_checkpoint_file",
    "find_commit",
    "is_repository_name",
    "read_header",
    "read_settings",
    "read_stored_tensors",
    "take_hub_arguments",
]
