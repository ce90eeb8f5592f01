# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What several processes do together: one acts for all, sums over all, agreement."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from albef_amc.parallel_albef import count_processes, sum_over_processes

Value = TypeVar("Value")


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


def sum_numbers(numbers: Sequence[int], device: torch.device) -> list[int]:
    """Sum of each number over all processes, each of which must call it. A single process does not use the device."""
    if count_processes() == 1:
        return list(numbers)
    return sum_over_processes(torch.tensor(numbers, device=device)).tolist()


def is_true_anywhere(value: bool, device: torch.device) -> bool:
    """Whether a value is true on any process; every process must ask."""
    return sum_numbers([int(value)], device) != [0]


def average_over_processes(values: Sequence[torch.Tensor]) -> list[float]:
    """Mean of every scalar over the processes. Every process must call it with as many."""
    total = sum_over_processes(torch.stack([value.float() for value in values])) / count_processes()
    return total.tolist()
