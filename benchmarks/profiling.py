# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What each gain is worth, and which operators a call spends its time in."""

from collections.abc import Callable
from typing import Any

import torch
from measuring import compare_turns, count_flops, describe_side, take_turns
from torch.profiler import ProfilerActivity, profile

NUM_OPERATORS = 6


def measure_gains(
    steps: dict[str, Callable[[], Any]], num_phrases: int, repetitions: int, device: torch.device, quick: bool
) -> list[dict[str, Any]]:
    """Steps from the slowest way of working to the fastest, which take turns: what each is worth against the first,
    and the operators that take most time in it."""
    seconds, rate = take_turns(steps, repetitions, device, quick)
    first = next(iter(steps))
    return [
        {
            "step": name,
            "speed_ratio": compare_turns(seconds[first], seconds[name]),
            **describe_side(seconds[name], num_phrases, count_flops(run), rate),
            "operators": profile_operators(run),
        }
        for name, run in steps.items()
    ]


def profile_operators(run: Callable[[], Any]) -> list[dict[str, Any]]:
    """The operators with the largest time of their own: name, share of the call, seconds, number of calls."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    averages = [event for event in profiler.key_averages() if event.self_cpu_time_total > 0]
    total = sum(event.self_cpu_time_total for event in averages)
    largest = sorted(averages, key=lambda event: -event.self_cpu_time_total)[:NUM_OPERATORS]
    return [
        {
            "operator": event.key,
            "share": event.self_cpu_time_total / total,
            "seconds": event.self_cpu_time_total / 1e6,
            "calls": event.count,
        }
        for event in largest
    ]
