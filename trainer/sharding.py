# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""FSDP2 and DeepSpeed: settings that are accepted, what FSDP2 needs around a heatmap, weights gathered from shards."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, StateDictType
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from albef_amc.encoders_albef import AlbefVisionLayer
from albef_amc.lora.adapter_files import build_adapted_matching_model

ZERO3_STAGE = 3
AUTOCAST_KEY = "torch_autocast.enabled"
SPLIT_LAYERS = {AlbefVisionLayer.__name__}  # FSDP2 may make units of these


def prepare_deepspeed(args: Any) -> None:
    """Checks the DeepSpeed settings of a run, if it has any, and fills `torch_autocast.enabled` with its `bf16`.

    Args:
        args ([`AmcConfig`]): the run's settings, with the plugin that they or the launcher made.

    Raises:
        NotImplementedError: ZeRO-3.
        ValueError: settings under which momentum weights would be bfloat16, or `bf16` would have no effect.
    """
    plugin = args.deepspeed_plugin
    if plugin is None:
        return
    if plugin.zero_stage == ZERO3_STAGE:
        raise NotImplementedError(
            "AMC training differentiates twice and cannot run under DeepSpeed ZeRO-3, whose hooks cut the graph and "
            "free the parameters in between. Use ZeRO-2 (`configuration/deepspeed/zero2.json`) or FSDP2 "
            "(`configuration/accelerate/fsdp2.yaml`)."
        )
    plugin.fill_match(AUTOCAST_KEY, must_match=False, **{AUTOCAST_KEY: args.bf16})
    settings = plugin.deepspeed_config
    autocast = settings.get("torch_autocast", {})
    remedy = (
        'Give it `"bf16": {}` and `"torch_autocast": {"enabled": "auto", "dtype": "bfloat16", '
        '"lower_precision_safe_modules": []}`, as `configuration/deepspeed/zero2.json` does.'
    )
    if settings.get("bf16", {}).get("enabled"):
        raise ValueError(
            "`bf16.enabled` of the DeepSpeed file (or its lack, where the run has `bf16`) makes all weights bfloat16, "
            f"in which the momentum weights would stand still. {remedy}"
        )
    if args.bf16 and not autocast.get("enabled"):
        raise ValueError(f"The run has `bf16`, and its DeepSpeed file no `torch_autocast`. {remedy}")
    if autocast.get("enabled") and autocast.get("dtype") != "bfloat16":
        raise ValueError(
            f"`torch_autocast.dtype` of the DeepSpeed file must be 'bfloat16', got {autocast.get('dtype')!r}. {remedy}"
        )


def prepare_fsdp(accelerator: Accelerator) -> None:
    """Checks the FSDP settings of a run, if it has any, and leaves mixed precision to autocast.

    FSDP2's own policy would cast weights, inputs and outputs to bfloat16: losses, heatmaps and momentum features too.

    Raises:
        ValueError: settings under which a heatmap cannot be differentiated, or checkpoints would not be complete.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        return
    file = "`configuration/accelerate/fsdp2.yaml`"
    if plugin.fsdp_version != 2:
        raise ValueError(
            f"`fsdp_version` must be 2, got {plugin.fsdp_version}: AMC differentiates twice, for which FSDP1 does not "
            f"keep the parameters. Use {file}."
        )
    if plugin.state_dict_type != StateDictType.FULL_STATE_DICT:
        raise ValueError(
            f"`fsdp_state_dict_type` must be FULL_STATE_DICT, got {plugin.state_dict_type.name}: checkpoints hold a "
            f"complete model. Use {file}."
        )
    is_by_layer = plugin.auto_wrap_policy is transformer_auto_wrap_policy
    layers = set(plugin.transformer_cls_names_to_wrap or ()) if is_by_layer else set()
    if plugin.auto_wrap_policy is not None and layers != SPLIT_LAYERS:
        raise ValueError(
            f"FSDP may split {', '.join(SPLIT_LAYERS)} only (`fsdp_transformer_layer_cls_to_wrap`), got "
            f"{', '.join(sorted(layers)) or 'another policy'}: text layers compute keys outside of their forward. Use "
            f"{file}."
        )
    if plugin.activation_checkpointing:
        raise ValueError(
            "`fsdp_activation_checkpointing` is not supported: it wraps layers that a heatmap reads. Set "
            "`activation_checkpointing` in the recipe."
        )
    plugin.mixed_precision_policy = MixedPrecisionPolicy()


@contextmanager
def keeping_parameters(model: nn.Module) -> Iterator[None]:
    """Under FSDP2, keeps the gathered parameters through the backward pass that a heatmap runs inside `forward`.

    They would be split again after that pass, and the graph that is left would read freed memory. Nothing is done to
    any other model.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    model.set_reshard_after_backward(False)
    try:
        yield
    finally:
        model.set_reshard_after_backward(True)


def collect_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Complete state dict of a model, on every process, also if FSDP2 shards the model.

    Every process must call it.
    """
    if not isinstance(model, FSDPModule):
        return model.state_dict()
    weights: Any = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    return weights


def build_full_model(model: Any) -> Any:
    """The model itself or, if FSDP2 shards it, a matching model with all weights on this process, LoRA layers
    included.

    Every process must call it.
    """
    if not isinstance(model, FSDPModule):
        return model
    sharded: Any = model
    weights = collect_weights(sharded)
    if hasattr(sharded, "peft_config"):
        return build_adapted_matching_model(sharded, weights).to(sharded.device)
    return sharded.build_matching_model(weights).to(sharded.device)
