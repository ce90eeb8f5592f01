# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""10,000 bad, odd and harmless inputs: does every one end as its mutation said before it ran?

    python benchmarks/fuzz.py            # 10,000 inputs
    python benchmarks/fuzz.py --quick    # 1,000 inputs

A bad input must end in one clear error, a repair must be said with its message, and everything else must give the
output of the clean input (`fuzz_frame.py`). `tests/benchmarks/test_fuzz.py` runs 2,000 others;
docs/input-checks.md lists every repair.
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import torch
from fuzz_annotations import annotations
from fuzz_checkpoints import checkpoints
from fuzz_datasets import data_sets
from fuzz_frame import Category, FuzzResult, run, show_table
from fuzz_inputs import boxes, masks, phrases, pictures
from fuzz_rows import data_rows
from fuzz_settings import settings
from machine import read_peak_memory, write_result

# Category and its part of all inputs; those that write files get fewer.
PARTS: tuple[tuple[Category, int], ...] = (
    (pictures, 10),
    (phrases, 9),
    (boxes, 7),
    (masks, 7),
    (annotations, 3),
    (data_sets, 3),
    (data_rows, 2),
    (settings, 3),
    (checkpoints, 2),
)
NUM_INPUTS, NUM_QUICK_INPUTS = 10_000, 1_000
BENCHMARK_SEED = 1


def run_fuzz(num_inputs: int, seed: int) -> FuzzResult:
    """Cases of all categories.

    Args:
        num_inputs (`int`): inputs of all categories together.
        seed (`int`): of what the mutations draw.
    """
    whole = sum(part for _, part in PARTS)
    counts = {category.name: (category, num_inputs * part // whole) for category, part in PARTS}
    first = PARTS[0][0]
    rest = num_inputs - sum(count for _, count in counts.values())
    counts[first.name] = (first, counts[first.name][1] + rest)
    return run(counts, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the inputs")
    parser.add_argument("--output", type=Path, help="JSON to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    began = time.perf_counter()
    result = run_fuzz(NUM_QUICK_INPUTS if options.quick else NUM_INPUTS, BENCHMARK_SEED)
    measured = {
        "inputs": result.num_inputs,
        "seed": BENCHMARK_SEED,
        "table": result.list_rows(),
        "failures": result.failures,
        "seconds": round(time.perf_counter() - began, 1),
        "peak_memory_gb": round(read_peak_memory(), 2),
    }
    write_result("fuzz", measured, options.output, options.quick)
    print(show_table(result.list_rows()))
    if result.failures:
        raise SystemExit(f"{len(result.failures)} inputs did not end as their mutation said.")


if __name__ == "__main__":
    main()
