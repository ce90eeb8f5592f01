# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What the benchmarks of speed share: sides that take turns, counted operations, matrix rate, memory of a process."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

RATE_SHAPE = (2056, 768, 3072)  # eight images of 257 tokens through the first linear layer of an MLP
TURN_SECONDS = 2.0


def count_flops(run: Callable[[], Any]) -> float:
    """Floating-point operations of one call; see [`run_counted`]."""
    return run_counted(run)[0]


def run_counted(run: Callable[[], Any]) -> tuple[float, Any]:
    """Floating-point operations of the matrix products, convolutions and attentions of one call, in GFLOP (a
    multiplication and an addition are two), and what it returns."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    formulas = {
        attention: lambda query, key, value, *rest, out_shape=None, **options: sdpa_flop_count(query, key, value),
        backward: lambda gradient, query, key, value, *rest, out_shape=None, **options: sdpa_backward_flop_count(
            gradient, query, key, value
        ),
    }
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        result = run()
    return counter.get_total_flops() / 1e9, result


def build_rate_probe(
    device: torch.device, dtype: torch.dtype = torch.float32, shape: tuple[int, int, int] = RATE_SHAPE
) -> Callable[[], float]:
    """A function that measures the rate of a linear layer, in GFLOP/s; `shape` has its rows, inputs and outputs, by
    default those of the model."""
    rows, width, outputs = shape
    states = torch.randn(rows, width, device=device, dtype=dtype)
    weight = torch.randn(outputs, width, device=device, dtype=dtype)

    def measure() -> float:
        began = read_clock(device)
        torch.nn.functional.linear(states, weight)
        return 2 * rows * width * outputs / (read_clock(device) - began) / 1e9

    return measure


def read_clock(device: torch.device) -> float:
    """Seconds, after everything that was given to the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def take_turns(
    sides: dict[str, Callable[[], Any]], repetitions: int, device: torch.device, quick: bool = False, warm_ups: int = 1
) -> tuple[dict[str, list[float]], float]:
    """Seconds of a call of every side in every turn, and the median matrix rate between the turns, in GFLOP/s.

    One side takes its turn after the other, and then the first again. A turn is at least [`TURN_SECONDS`] long: calls
    are repeated, and the median of them counts, so that a fast side is not measured by what the slow one left in
    memory and caches; with `quick` a turn is one call. The first rounds are warm-ups.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    measure_rate = build_rate_probe(device)
    rates = []
    for repetition in range(warm_ups + repetitions):
        for name, run in sides.items():
            calls: list[float] = []
            while sum(calls) < TURN_SECONDS:
                began = read_clock(device)
                run()
                calls.append(read_clock(device) - began)
                if repetition < warm_ups or quick:
                    break
            if repetition >= warm_ups:
                seconds[name].append(statistics.median(calls))
            rates.append(measure_rate())
    return seconds, statistics.median(rates[warm_ups * len(sides) :])


def describe_side(seconds: list[float], num_phrases: int, gflop: float, rate: float) -> dict[str, Any]:
    """What a result says of one side; `share_of_matrix_rate` compares with a large product in float32."""
    median = statistics.median(seconds)
    return {
        "seconds_median": median,
        "seconds": seconds,
        "phrases_per_second": num_phrases / median,
        "gflop": gflop,
        "gflop_per_phrase": gflop / num_phrases,
        "gflop_per_second": gflop / median,
        "share_of_matrix_rate": gflop / median / rate,
    }


def compare_turns(slower: list[float], faster: list[float]) -> float:
    """Median over turns of how many times longer the first took."""
    return statistics.median(one / other for one, other in zip(slower, faster, strict=True))


def compare_range(slower: list[float], faster: list[float]) -> list[float]:
    """Least and largest of the ratios whose median [`compare_turns`] gives."""
    ratios = [one / other for one, other in zip(slower, faster, strict=True)]
    return [min(ratios), max(ratios)]


def measure_memory(script: str, words: Iterable[Any]) -> float:
    """Peak memory in GB that a fresh process of the script prints as its last line."""
    command = [sys.executable, script, *map(str, words)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    """Prints rows of equal keys for people, on standard error."""
    print(f"\n{title}", file=sys.stderr)
    names = list(rows[0])
    cells = [names] + [[_format(row[name]) for name in names] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip(), file=sys.stderr)


def _format(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
