# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Files of adapters: what they hold, strict reading, and merging an adapter into its base."""

import copy
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from albef_amc import AlbefForImageTextMatching
from albef_amc.checkpoint_checks_albef import check_weight_types
from albef_amc.checkpoint_files_albef import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    CONFIG_FILE,
    find_checkpoint_file,
    read_header,
    read_settings,
)
from albef_amc.lora.adapters import (
    ADAPTER_NAME,
    BASE_PREFIX,
    MASKED_WORD_HEAD,
    GroundingModel,
    add_lora,
    check_peft_is_installed,
    complete_lora_config,
    without_momentum_copies,
)
from albef_amc.messages_albef import list_first
from albef_amc.momentum_albef import MOMENTUM_PREFIX
from albef_amc.ranges_albef import shorten_value
from albef_amc.saving_albef import is_safetensors_error

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

LORA_TYPE = "LORA"
COMMON_RANK = 1024  # ranks up to this one need no proof that the weights have them
SETTINGS_OF_THE_SCALE = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")


def is_adapter(checkpoint: str | Path, hub_arguments: Mapping[str, Any] | None = None) -> bool:
    """Whether a folder or Hub repository holds an adapter and no model of its own.

    Args:
        checkpoint (`str` or `Path`): folder or Hub repository.
        hub_arguments (`Mapping`, *optional*): how to read a repository, as `find_checkpoint` returns it.
    """
    if Path(checkpoint).is_dir():
        return (Path(checkpoint) / ADAPTER_CONFIG_FILE).is_file() and not (Path(checkpoint) / CONFIG_FILE).is_file()
    return find_checkpoint_file(checkpoint, ADAPTER_CONFIG_FILE, hub_arguments or {}) is not None


def _read_adapter_settings(adapter: str | Path) -> dict[str, Any]:
    """Content of an adapter's configuration.

    Raises:
        ValueError: the file is damaged, or of a kind of adapter that cannot be merged.
    """
    path = find_checkpoint_file(adapter, ADAPTER_CONFIG_FILE, {})
    if path is None:
        raise FileNotFoundError(f"No `{ADAPTER_CONFIG_FILE}` in {adapter}: this is not an adapter.")
    settings = read_settings(path)
    kind = settings.get("peft_type")
    if kind != LORA_TYPE:
        raise ValueError(
            f"{path} is of an adapter of the type {shorten_value(kind)} (`peft_type`), and only {LORA_TYPE} can be "
            "read here. Merge it with the library that trained it."
        )
    return settings


def read_base_name(adapter: str | Path) -> str:
    """The checkpoint that an adapter was trained on, as its configuration names it.

    Raises:
        ValueError: the file is damaged, of another kind of adapter, or names none.
    """
    name = _read_adapter_settings(adapter).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ValueError(
            f"{adapter} does not name the checkpoint that it was trained on (`base_model_name_or_path`). Merge it "
            "with `albef-amc merge ADAPTER --base CHECKPOINT`."
        )
    return name


def read_adapter_config(adapter: str | Path) -> "LoraConfig":
    """An adapter's configuration, whose ranks are those of its weights.

    Raises:
        FileNotFoundError: no configuration, or no weights as safetensors.
        ValueError: settings that LoRA cannot be built from, or weights of another rank or type.
    """
    from peft import LoraConfig, PeftConfig

    _read_adapter_settings(adapter)
    try:
        config = PeftConfig.from_pretrained(str(adapter))
    except Exception as error:  # damaged settings can make the reader raise anything
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{ADAPTER_CONFIG_FILE} of {adapter} makes no LoRA configuration ({reason}).") from error
    if not isinstance(config, LoraConfig):
        raise TypeError(f"{ADAPTER_CONFIG_FILE} of {adapter} is of {type(config).__name__}, expected `LoraConfig`.")
    tensors = read_header(_find_weights(adapter), adapter)
    check_weight_types(adapter, tensors)
    ranks = [tensor.shape[0] for name, tensor in tensors.items() if ".lora_A." in name and tensor.shape]
    patterns = config.rank_pattern or {}
    for rank in (config.r, *(patterns.values() if isinstance(patterns, dict) else [patterns])):
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= max([COMMON_RANK, *ranks]):
            raise ValueError(
                f"{ADAPTER_CONFIG_FILE} of {adapter} has the rank {shorten_value(rank)}, but its weights have "
                f"{max(ranks, default=0)}. It was changed, or belongs to another adapter."
            )
    return config


def _find_weights(adapter: str | Path) -> Path:
    path = find_checkpoint_file(adapter, ADAPTER_WEIGHTS_FILE, {})
    if path is None:
        raise FileNotFoundError(f"No `{ADAPTER_WEIGHTS_FILE}` in {adapter}. Save the adapter again, as safetensors.")
    return path


def save_adapter(peft_model: "PeftModel", folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Writes the adapter's weights and configuration.

    Args:
        peft_model (`peft.PeftModel`): the adapter and its base.
        folder (`Path`): where the files are written.
        weights (mapping): complete state dict of `peft_model`, gathered if the model is sharded.
    """
    copies = f"{BASE_PREFIX}{MOMENTUM_PREFIX}"
    weights = {name: value for name, value in weights.items() if not name.startswith(copies)}
    with without_momentum_copies(peft_model.get_base_model()):
        peft_model.save_pretrained(str(folder), save_embedding_layers=False, state_dict=weights)


def split_like(value: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """A tensor that every process holds, sharded like `present` if that is sharded."""
    if not isinstance(present, DTensor):
        return value
    return distribute_tensor(value.to(present.device), present.device_mesh, present.placements, src_data_rank=None)


def load_adapter_weights(peft_model: "PeftModel", adapter: str | Path) -> None:
    """Reads an adapter's weights into the LoRA layers that the model has.

    Weights of a masked-word head are ignored where the model has none.

    Raises:
        ValueError: weights that the model lacks or has in another shape, or that the file lacks.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    model = peft_model.get_base_model()
    weights = _read_weights(adapter)
    if not hasattr(model, MASKED_WORD_HEAD):
        weights = {name: value for name, value in weights.items() if f".{MASKED_WORD_HEAD}." not in name}
    with without_momentum_copies(model):
        expected = get_peft_model_state_dict(peft_model, adapter_name=ADAPTER_NAME, save_embedding_layers=False)
        check_weights(weights, expected, f"{ADAPTER_WEIGHTS_FILE} of {adapter}")
        weights = {name: split_like(value, expected[name]) for name, value in weights.items()}
        set_peft_model_state_dict(peft_model, weights, adapter_name=ADAPTER_NAME)


def _read_weights(adapter: str | Path) -> dict[str, torch.Tensor]:
    from peft import load_peft_weights

    _find_weights(adapter)
    try:
        return load_peft_weights(str(adapter), device="cpu")
    except Exception as error:
        if not is_safetensors_error(error):
            raise
        raise ValueError(f"{ADAPTER_WEIGHTS_FILE} of {adapter} cannot be read ({error}): it is damaged.") from error


def describe_adapter(adapter: str | Path) -> tuple[str, dict[str, torch.Tensor]]:
    """What an adapter adds to the matching model of its base: the settings of its scale as text, and its weights."""
    config = read_adapter_config(adapter)
    settings = {name: getattr(config, name, None) for name in SETTINGS_OF_THE_SCALE}
    weights = {name: value for name, value in _read_weights(adapter).items() if f".{MASKED_WORD_HEAD}." not in name}
    return json.dumps(settings, sort_keys=True), weights


def check_weights(given: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], source: str) -> None:
    """Raises `ValueError` where names or shapes of stored weights are not those of the model."""
    wrong = sorted(given.keys() ^ expected.keys())
    wrong += [name for name in given.keys() & expected.keys() if given[name].shape != expected[name].shape]
    if wrong:
        raise ValueError(
            f"{source} does not fit this model: {len(wrong)} weights are missing, unknown or of another shape "
            f"({list_first(wrong)}). Use the base and the LoRA settings that it was trained with."
        )


def merge_into(model: GroundingModel, adapter: str | Path) -> None:
    r"""Adds an adapter's weights to its base, in place: `W + scale B A`, and modules that were trained in full.

    Args:
        model ([`AlbefForPreTraining`] or [`AlbefForImageTextMatching`]): the base.
        adapter (`str` or `Path`): folder or Hub repository.

    Raises:
        ModuleNotFoundError: `peft` is not installed.
        TypeError, ValueError: another kind of adapter, or one that does not fit the base.
    """
    check_peft_is_installed()
    config: Any = complete_lora_config(read_adapter_config(adapter), model.config)
    config.base_model_name_or_path = getattr(model, "name_or_path", None)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    peft_model = _add_stored_lora(model, config)
    load_adapter_weights(peft_model, adapter)
    with without_momentum_copies(model):
        peft_model.merge_and_unload(safe_merge=True)
    model.config.reset_calibration()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)


def _add_stored_lora(model: GroundingModel, config: "LoraConfig") -> "PeftModel":
    """Puts LoRA layers into the model as another class had them, which may have more modules."""
    config = copy.deepcopy(config)
    config.modules_to_save = [
        name for name in config.modules_to_save or () if any(key.endswith(name) for key, _ in model.named_modules())
    ] or None
    with warnings.catch_warnings():  # the copies that it excludes are not in every class, and hidden in the other
        warnings.filterwarnings("ignore", message="You have passed exclude_modules")
        return add_lora(model, config)


def build_adapted_matching_model(peft_model: "PeftModel", weights: Mapping[str, torch.Tensor]) -> "PeftModel":
    """A matching model with the adapter of another model, in that model's mode.

    Args:
        peft_model (`peft.PeftModel`): an adapter and its base.
        weights (mapping): its complete state dict, gathered if the model is sharded.
    """
    base: Any = peft_model.get_base_model()
    model = AlbefForImageTextMatching(base.config)
    whole = _add_stored_lora(model, peft_model.peft_config[ADAPTER_NAME])
    whole.load_state_dict({name: weights[name] for name in whole.state_dict()})
    return whole.train(peft_model.training)
