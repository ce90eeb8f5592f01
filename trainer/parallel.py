# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Several processes: who evaluates what, what is counted over all of them, and what their wrappers need."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule

from albef_amc.parallel_albef import count_processes, sum_over_processes

ZERO3_STAGE = 3
Value = TypeVar("Value")


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

    They would be split again after that pass, and the graph that is left would read freed memory. Any other model is
    left alone.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    model.set_reshard_after_backward(False)
    try:
        yield
    finally:
        model.set_reshard_after_backward(True)


def build_whole_model(model: Any) -> Any:
    """The model itself or, where FSDP2 keeps it in parts, a matching model with all weights on this process.

    Every process must call it.
    """
    if not isinstance(model, FSDPModule):
        return model
    sharded: Any = model
    weights = get_model_state_dict(sharded, options=StateDictOptions(full_state_dict=True))
    return sharded.build_matching_model(weights).to(sharded.device)


def do_on_main_process(action: Callable[[], Value]) -> Value:
    """The result, or the error, of what the first process does; the same on every process, each of which must call."""
    outcome: list[Any] = [None, None]
    if PartialState().process_index == 0:
        try:
            outcome = [action(), None]
        except Exception as error:
            outcome = [None, error]
    value, failure = broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    return value


def sum_counts(counts: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Sum of the counts of all micro-batches and processes, a tensor like one of them."""
    return sum_over_processes(torch.stack(list(counts)).sum(dim=0).to(device))


def is_true_anywhere(value: bool, device: torch.device) -> bool:
    """Whether a value is true on any process; every process must ask."""
    return bool(sum_over_processes(torch.tensor(int(value), device=device)))


def average_over_processes(values: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Mean of every scalar over the processes. Every process must call it with the same names."""
    if not values:
        return {}
    total = sum_over_processes(torch.stack([value.float() for value in values.values()])) / count_processes()
    return dict(zip(values, total.tolist(), strict=True))


__all__ = [
    "average_over_processes",
    "build_whole_model",
    "do_on_main_process",
    "is_true_anywhere",
    "keeping_parameters",
    "refuse_zero3",
    "sum_counts",
]
