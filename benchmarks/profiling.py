# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What each gain is worth, which operators and kernels a call spends its time in, and where it waits for a GPU."""

import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from measuring import compare_turns, count_flops, describe_side, read_clock, take_turns
from torch.profiler import ProfilerActivity, profile

NUM_OPERATORS = 6
PROJECT_FOLDER = Path(__file__).resolve().parent.parent
CALLERS = ("benchmarks", "tests")  # folders whose lines are not where the package waits
WAIT_WARNING = "synchronizing CUDA operation"  # words of `torch.cuda.set_sync_debug_mode("warn")`


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


def profile_kernels(run: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """What a call makes a GPU do: number of kernels (copies included), seconds from the first to the last and in which
    at least one ran, and the largest by their sum. Nothing on a CPU."""
    if device.type == "cpu":
        return {}
    read_clock(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        read_clock(device)
    kernels = [
        event
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    ]
    spans = sorted((kernel.time_range.start, kernel.time_range.end) for kernel in kernels)
    busy, end = 0.0, spans[0][0]
    for began, ended in spans:
        busy += max(0.0, ended - max(began, end))
        end = max(end, ended)
    averages = [average for average in profiler.key_averages() if not average.is_user_annotation]
    largest = sorted(averages, key=lambda average: -average.self_device_time_total)[:NUM_OPERATORS]
    return {
        "kernels": len(kernels),
        "span_seconds": (end - spans[0][0]) / 1e6,
        "busy_seconds": busy / 1e6,
        "busy_share": busy / (end - spans[0][0]),
        "largest": [
            {"kernel": average.key, "seconds": average.self_device_time_total / 1e6, "calls": average.count}
            for average in largest
        ],
    }


@contextmanager
def counting_waits(device: torch.device) -> Iterator[Counter[str]]:
    """Counts, by file and line, how often the block waits for the GPU, as torch itself reports it; none on a CPU.

    A place is the innermost line of this package, or, where there is none, of the library that waits. Waits during a
    backward pass are reported at its end, at the line that began it.
    """
    places: Counter[str] = Counter()
    if device.type == "cpu":
        yield places
        return

    def note(message: Any, *details: Any, **options: Any) -> None:
        if WAIT_WARNING in str(message):
            places[_find_place(traceback.extract_stack())] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode("default")


def _find_place(stack: traceback.StackSummary) -> str:
    """The innermost line of the package in a stack that ends with the reporting of a warning."""
    frames = [frame for frame in stack if frame.filename not in (__file__, warnings.__file__)]
    for frame in reversed(frames):
        file = Path(frame.filename)
        if file.is_relative_to(PROJECT_FOLDER) and not file.is_relative_to(sys.prefix):  # the virtual environment
            place = file.relative_to(PROJECT_FOLDER)
            if not place.parts[0].startswith(CALLERS):
                return f"{place}:{frame.lineno}"
    return f"{Path(*Path(frames[-1].filename).parts[-2:])}:{frames[-1].lineno}"
