# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Models that several processes hold in parts: what FSDP2 needs around a heatmap, and why ZeRO-3 is refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule

ZERO3_STAGE = 3


def refuse_zero3(args: Any) -> None:
    """Raises `NotImplementedError` for arguments, or a launcher, that ask for DeepSpeed ZeRO-3."""
    plugin = getattr(args, "deepspeed_plugin", None)
    if plugin is not None and plugin.zero_stage == ZERO3_STAGE:
        raise NotImplementedError(
            "AMC training differentiates twice and cannot run under DeepSpeed ZeRO-3, whose hooks cut the graph and "
            "free the parameters in between. Use ZeRO-2 (`configuration/deepspeed/zero2.json`) or FSDP2 "
            "(`configuration/accelerate/fsdp2.yaml`)."
        )


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


def build_full_model(model: Any) -> Any:
    """The model itself or, where FSDP2 keeps it in parts, a matching model with all weights on this process.

    Every process must call it.
    """
    if not isinstance(model, FSDPModule):
        return model
    sharded: Any = model
    weights = get_model_state_dict(sharded, options=StateDictOptions(full_state_dict=True))
    return sharded.build_matching_model(weights).to(sharded.device)
