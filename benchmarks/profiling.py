# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Which operators a call spends its time in."""

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

NUM_OPERATORS = 6


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
