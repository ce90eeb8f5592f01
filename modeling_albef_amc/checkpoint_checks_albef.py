# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Checks that configuration and weights of a checkpoint fit together, before a model is built from them."""

import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers.utils import WEIGHTS_NAME, logging

from .checkpoint_files_albef import (
    ADAPTER_CONFIG_FILE,
    CONFIG_FILE,
    FLOAT_TYPES,
    WHOLE_NUMBER_TYPES,
    StoredTensor,
    check_settings,
    find_checkpoint_file,
    read_stored_tensors,
)
from .configuration_albef import AlbefConfig
from .messages_albef import list_first
from .ranges_albef import shorten_value

logger = logging.get_logger(__name__)

GENERATION_FILE = "generation_config.json"
# Weights that training keeps in float32, also in a model of another type.
KEPT_IN_FLOAT32 = re.compile(r"^momentum_|_queue")
QUEUE_NUMBERS = re.compile(r"_queue_(text_)?(ids|pointer)$")
# A model may have more numbers than its file by these limits, for new momentum copies and heads.
MAX_NEW_NUMBERS, MAX_NEW_SHARE = 2**27, 4
ENCODERS = ("vision_config", "text_config")
PREFIX = "albef."  # of the encoders in every class but `AlbefModel`


def check_checkpoint(path: str | os.PathLike, model_type: str, hub_arguments: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose settings cannot be read, have another architecture, or do not fit its weights.

    Args:
        path (`str` or path): folder or Hub repository.
        model_type (`str`): type of the class to load; `albef` is accepted too.
        hub_arguments (`Mapping`): how to read it, as `find_checkpoint` returns it.

    Raises:
        FileNotFoundError: the configuration is missing.
        ValueError: the checkpoint is refused; the message names the file and the entry.
    """
    found = check_settings(path, (CONFIG_FILE, ADAPTER_CONFIG_FILE, GENERATION_FILE), hub_arguments)
    if ADAPTER_CONFIG_FILE in found:
        return  # an adapter names its base checkpoint
    if CONFIG_FILE not in found:
        raise FileNotFoundError(f"No `{CONFIG_FILE}` in {path}: this is not a checkpoint folder, or it is incomplete.")
    settings = found[CONFIG_FILE]
    stored_type = check_model_type(path, settings)
    if stored_type not in (AlbefConfig.model_type, model_type):
        raise ValueError(
            f"{path} is a checkpoint of another architecture: its `model_type` is {stored_type!r}, not "
            f"{model_type!r} ({CONFIG_FILE}). Give a checkpoint that this package trained, saved or converted."
        )
    if stored_type == AlbefConfig.model_type:
        config = read_model_config(path, settings)
    else:
        config = None
        _check_entries(path, settings)
    tensors = read_stored_tensors(path, hub_arguments)
    if not tensors and find_checkpoint_file(path, WEIGHTS_NAME, hub_arguments) is not None:
        raise ValueError(
            f"the weights of {path} are a pickle ({WEIGHTS_NAME}), which this package does not read. Save them as "
            "safetensors, with `save_pretrained` of transformers 5."
        )
    check_weight_types(path, tensors)
    if config is not None:
        _check_sizes(path, config, tensors)
    _report_rounding(path, settings.get("dtype", settings.get("torch_dtype")), tensors)


def read_model_config(path: str | os.PathLike, settings: Mapping[str, Any]) -> AlbefConfig:
    """Build the configuration from settings.

    Args:
        path (`str` or path): the checkpoint, for messages.
        settings (`Mapping`): content of its `config.json`.

    Raises:
        TypeError, ValueError: an entry is invalid; the message names it.
    """
    _check_entries(path, settings)
    try:
        return AlbefConfig.from_dict(dict(settings))
    except Exception as error:  # `transformers` raises any error for a damaged entry, without the file name
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{CONFIG_FILE} of {path} cannot be used: {' '.join(str(error).split())}") from error


def check_model_type(path: str | os.PathLike, settings: Mapping[str, Any]) -> str | None:
    """Return the `model_type` of settings, `None` if it is missing.

    Args:
        path (`str` or path): the checkpoint, for messages.
        settings (`Mapping`): content of its `config.json`.

    Raises:
        ValueError: an entry of the model or of an encoder is not a string.
    """
    parts = [("", settings)]
    parts += [(f"{name}.", settings[name]) for name in ENCODERS if isinstance(settings.get(name), Mapping)]
    for prefix, part in parts:
        if "model_type" in part and not isinstance(part["model_type"], str):
            given = shorten_value(part["model_type"])
            raise ValueError(
                f"`{prefix}model_type` in {CONFIG_FILE} of {path} must be the name of an architecture, got {given}. "
                "Download or save it again."
            )
    return settings.get("model_type")


def _check_entries(path: str | os.PathLike, settings: Mapping[str, Any]) -> None:
    """Check entries that `transformers` does not check."""
    architectures, dtype = settings.get("architectures"), settings.get("dtype", settings.get("torch_dtype"))
    if architectures is not None and not (
        isinstance(architectures, list) and all(isinstance(name, str) for name in architectures)
    ):
        raise ValueError(f"`architectures` in {CONFIG_FILE} of {path} must be a list of names, got {architectures!r}.")
    types = sorted(FLOAT_TYPES.values())
    if dtype is not None and dtype not in types:
        raise ValueError(f"`dtype` in {CONFIG_FILE} of {path} must be one of {', '.join(types)}, got {dtype!r}.")
    if settings.get("quantization_config") is not None:
        raise ValueError(
            f"{path} is quantised (`quantization_config` in {CONFIG_FILE}): its heatmaps would be those of other "
            "weights. Use the checkpoint that it was made from."
        )


def check_weight_types(path: str | os.PathLike, tensors: Mapping[str, StoredTensor]) -> None:
    """Refuse weights that are not floating-point numbers of the usual types; the message names them.

    Args:
        path (`str` or path): the checkpoint, for the message.
        tensors (`Mapping`): its tensors by name, from the headers of its files.
    """
    wrong = [
        f"{name} ({tensor.dtype})"
        for name, tensor in sorted(tensors.items())
        if tensor.dtype not in (WHOLE_NUMBER_TYPES if QUEUE_NUMBERS.search(name) else FLOAT_TYPES)
    ]
    if wrong:
        raise ValueError(
            f"{path} has {len(wrong)} weights of a type that no model of this package has: {list_first(wrong)}. "
            f"Weights are {', '.join(FLOAT_TYPES.values())}. Use the checkpoint that this one was made from."
        )


def _check_sizes(path: str | os.PathLike, config: AlbefConfig, tensors: Mapping[str, StoredTensor]) -> None:
    """Compare the sizes in the configuration with the tensors, before a model is built."""
    wrong = [
        f"`{name}` is {stated!r}, but the weights have {found!r}"
        for name, stated, found in _list_sizes(config, tensors)
        if stated != found
    ]
    if wrong:
        raise ValueError(
            f"{CONFIG_FILE} of {path} does not fit its weights: {list_first(wrong, separator='; ')}. One of the two "
            "files belongs to another checkpoint, or was changed."
        )
    num_stored = sum(math.prod(tensor.shape) for tensor in tensors.values())
    num_stated = _count_encoders(config)
    if tensors and num_stated > MAX_NEW_SHARE * num_stored + MAX_NEW_NUMBERS:
        raise ValueError(
            f"{CONFIG_FILE} of {path} describes encoders of {num_stated} numbers, but the weights have {num_stored}. "
            "One of the two files belongs to another checkpoint, or was changed."
        )


def _list_sizes(config: AlbefConfig, tensors: Mapping[str, StoredTensor]) -> Iterable[tuple[str, int, int]]:
    """Yield the name of a setting, its value, and the value found in a tensor, for all stored tensors."""
    prefix = PREFIX if any(name.startswith(PREFIX) for name in tensors) else ""
    vision, text = config.vision_config, config.text_config
    vit, bert = f"{prefix}vision_model", f"{prefix}text_model"
    num_positions = 1 + math.prod(vision.grid_size)
    axes = (
        (f"{vit}.patch_embedding.weight", 0, "vision_config.hidden_size", vision.hidden_size),
        (f"{vit}.patch_embedding.weight", 1, "vision_config.num_channels", vision.num_channels),
        (f"{vit}.patch_embedding.weight", 2, "vision_config.patch_size", vision.patch_height_width[0]),
        (f"{vit}.patch_embedding.weight", 3, "vision_config.patch_size", vision.patch_height_width[1]),
        (f"{vit}.position_embeddings", 1, "positions of vision_config.image_size", num_positions),
        (f"{vit}.register_tokens", 1, "vision_config.num_register_tokens", vision.num_register_tokens),
        (f"{vit}.layers.0.fc1.weight", 0, "vision_config.intermediate_size", vision.intermediate_size),
        (f"{bert}.word_embeddings.weight", 0, "text_config.vocab_size", text.vocab_size),
        (f"{bert}.word_embeddings.weight", 1, "text_config.hidden_size", text.hidden_size),
        (f"{bert}.position_embeddings.weight", 0, "text_config.max_position_embeddings", text.max_position_embeddings),
        (f"{bert}.token_type_embeddings.weight", 0, "text_config.type_vocab_size", text.type_vocab_size),
        (f"{bert}.layers.0.fc1.weight", 0, "text_config.intermediate_size", text.intermediate_size),
        (f"{prefix}text_projection.weight", 0, "projection_dim", config.projection_dim),
        ("image_queue", 1, "queue_size", config.queue_size),
    )
    for name, axis, setting, stated in axes:
        if name in tensors and len(tensors[name].shape) > axis:
            yield setting, stated, tensors[name].shape[axis]
    stacks = (
        (f"{vit}.layers.", "vision_config.num_hidden_layers", vision.num_hidden_layers),
        (f"{bert}.layers.", "text_config.num_hidden_layers", text.num_hidden_layers),
        ("answer_decoder.layers.", "decoder_layers", config.decoder_layers),
    )
    for stack, setting, stated in stacks:
        layers = {int(found[1]) for name in tensors if (found := re.match(re.escape(stack) + r"(\d{1,9})\.", name))}
        if layers:
            yield setting, stated, max(layers) + 1


def _count_encoders(config: AlbefConfig) -> int:
    """Count the numbers in the large matrices of both encoders."""
    vision, text = config.vision_config, config.text_config
    patch = vision.num_channels * math.prod(vision.patch_height_width)
    number = vision.hidden_size * (math.prod(vision.grid_size) + patch)
    number += text.hidden_size * (text.vocab_size + text.max_position_embeddings + text.type_vocab_size)
    for part in (vision, text):
        number += part.num_hidden_layers * part.hidden_size * (4 * part.hidden_size + 2 * part.intermediate_size)
    return number


def _report_rounding(path: str | os.PathLike, dtype: str | None, tensors: Mapping[str, StoredTensor]) -> None:
    """Warn if a model is loaded in another type than that of its weights."""
    stored = {FLOAT_TYPES.get(tensor.dtype) for name, tensor in tensors.items() if not KEPT_IN_FLOAT32.search(name)}
    stored.discard(None)
    if tensors and stored != {dtype} and not (dtype is None and len(stored) == 1):
        logger.warning_once(
            f"{path} holds weights of the type {', '.join(sorted(stored))}, and {CONFIG_FILE} says {dtype}: they may "
            "be rounded. Its heatmaps then differ a little from those of the stored weights."
        )


def check_loaded_weights(model: nn.Module, source: str | os.PathLike | None) -> None:
    """Refuse weights that are not finite: their heatmaps would be meaningless.

    Args:
        model (`nn.Module`): the loaded model.
        source (`str` or path, *optional*): source of the weights; None for a state dict.
    """
    wrong = [name for name, tensor in model.state_dict().items() if not _is_finite(tensor)]
    if wrong:
        source = "the given state dict" if source is None else source
        raise ValueError(
            f"the weights of {source} hold NaN or infinity in {len(wrong)} entries: {list_first(wrong)}. Its "
            "training diverged, the file is damaged, or its values do not fit in the `dtype`. Use another checkpoint."
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.is_meta:
        return True
    return bool(torch.isfinite(tensor.detach().sum(dtype=torch.float64))) or bool(torch.isfinite(tensor).all())


__all__ = ["check_checkpoint", "check_loaded_weights", "check_weight_types", "read_model_config"]
