# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Checks of a checkpoint of transformers, which may be untrusted, before its model is built."""

import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from albef_amc.checkpoint_checks_albef import MAX_NEW_NUMBERS, MAX_NEW_SHARE
from albef_amc.checkpoint_files_albef import CONFIG_FILE, FLOAT_TYPES, StoredTensor
from albef_amc.grounders.attention_tap import READABLE_BACK_ENDS
from albef_amc.messages_albef import list_first
from albef_amc.ranges_albef import shorten_value

# Entries that choose how attention is computed. Transformers downloads and runs the kernel of a repository named here.
ATTENTION_ENTRIES = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
SETTINGS_FILE = "grounder.json"
LAYER_NUMBER = re.compile(r"\.\d+\.")


def check_model_settings(name: str | os.PathLike, settings: Mapping[str, Any]) -> None:
    """Refuse quantised weights and attention that cannot be explained, of the model or of a part of it.

    Args:
        name (`str` or path): the checkpoint, for messages.
        settings (`Mapping`): content of its `config.json`.

    Raises:
        ValueError: such an entry; the message names it.
    """
    for prefix, part in _list_parts("", settings):
        if part.get("quantization_config") is not None:
            raise ValueError(
                f"{name} has quantised weights (`{prefix}quantization_config`), through which no gradient passes. "
                "Give the checkpoint that it was made from."
            )
        for entry in ATTENTION_ENTRIES:
            if entry in part and part[entry] not in READABLE_BACK_ENDS:
                raise ValueError(
                    f"`{prefix}{entry}` in {CONFIG_FILE} of {name} is {shorten_value(part[entry])}, which shows no "
                    'attention probabilities. Remove the entry, or write "sdpa" or "eager".'
                )


def check_saved_settings(name: str | os.PathLike, saved: Mapping[str, Any], model_type: str) -> None:
    """Refuse a `grounder.json` of another model, or a source in it that is not one.

    Args:
        name (`str` or path): the checkpoint, for messages.
        saved (`Mapping`): content of its `grounder.json`; layer, score and method are checked where they are used.
        model_type (`str`): of its `config.json`.

    Raises:
        ValueError: such an entry.
    """
    if saved.get("model_type", model_type) != model_type:
        raise ValueError(
            f"{SETTINGS_FILE} of {name} is of a model of type {shorten_value(saved['model_type'])}, but {CONFIG_FILE} "
            f"has {model_type!r}. Remove {SETTINGS_FILE}, or save the grounder again."
        )
    source = saved.get("source", {})
    if not (isinstance(source, dict) and all(isinstance(value, str | None) for value in source.values())):
        raise ValueError(
            f"`source` in {SETTINGS_FILE} of {name} is {shorten_value(source)}: a name and a commit are expected. "
            f"Remove {SETTINGS_FILE}, or save the grounder again."
        )


def check_sizes(
    name: str | os.PathLike,
    settings: Mapping[str, Any],
    model_class: type[PreTrainedModel],
    stored: Mapping[str, StoredTensor],
) -> None:
    """Compare a model, built without memory, with the headers of its files.

    Args:
        name (`str` or path): the checkpoint, for messages.
        settings (`Mapping`): content of its `config.json`.
        model_class: the class to load.
        stored (`Mapping`): tensors of its files by name.

    Raises:
        ValueError: settings that describe no model, or another one than the files hold.
    """
    for prefix, part in _list_parts("", settings):
        for entry, value in part.items():
            if "layers" in entry and isinstance(value, int) and value > len(stored):
                raise ValueError(
                    f"`{prefix}{entry}` in {CONFIG_FILE} of {name} is {value}, but its files hold {len(stored)} "
                    "tensors. One of the two belongs to another checkpoint, or was changed."
                )
    try:
        with torch.device("meta"):
            model = model_class(model_class.config_class.from_dict(dict(settings)))
    except Exception as error:  # `transformers` raises any error for a damaged entry, without the file name
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{CONFIG_FILE} of {name} describes no `{model_class.__name__}` ({reason}).") from error
    weights = dict(model.named_parameters(remove_duplicate=False))
    wrong = [
        f"{key} is {_describe_tensor(tensor)}, not {tuple(weights[key].shape)}"
        for key, tensor in stored.items()
        if key in weights and (tensor.shape != tuple(weights[key].shape) or tensor.dtype not in FLOAT_TYPES)
    ]
    patterns = {_leave_out_numbers(key) for key in weights}
    wrong += [
        f"{key} is not in it" for key in sorted(stored.keys() - weights.keys()) if _leave_out_numbers(key) in patterns
    ]
    if wrong:
        raise ValueError(
            f"the weights of {name} do not fit its {CONFIG_FILE}: {list_first(wrong)}. One of the two files belongs "
            "to another checkpoint, or was changed; quantised weights cannot be explained."
        )
    num_stated = sum(weight.numel() for weight in weights.values())
    num_stored = sum(math.prod(tensor.shape) for tensor in stored.values())
    if num_stated > MAX_NEW_SHARE * num_stored + MAX_NEW_NUMBERS:
        raise ValueError(
            f"{CONFIG_FILE} of {name} describes {num_stated} weights, but its files hold {num_stored}. One of the two "
            "belongs to another checkpoint, or was changed."
        )


def _leave_out_numbers(key: str) -> str:
    """The name of a weight in all layers of its kind."""
    return LAYER_NUMBER.sub(".", key)


def _describe_tensor(tensor: StoredTensor) -> str:
    """Shape of a stored tensor, with its type where it is not floating-point."""
    return f"{tensor.shape}" if tensor.dtype in FLOAT_TYPES else f"{tensor.shape} of type {tensor.dtype}"


def _list_parts(prefix: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A configuration and the configurations in it, each with its prefix in messages."""
    yield prefix, settings
    for entry, value in settings.items():
        if isinstance(value, Mapping):
            yield from _list_parts(f"{prefix}{entry}.", value)


__all__ = ["SETTINGS_FILE", "check_model_settings", "check_saved_settings", "check_sizes"]
