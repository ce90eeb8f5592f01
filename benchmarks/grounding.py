# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Grounding with `ground()` against the released code's way, side by side: phrases per second and peak memory.

    python benchmarks/grounding.py            # full size: 14 phrases at 256 px, 8 at 384 px, 1 at 256 px
    python benchmarks/grounding.py --sweep    # cost against phrases, images, image size and length, with a plot
    python benchmarks/grounding.py --gains    # what each habit of the released code costs, with a profile
    python benchmarks/grounding.py --compile  # the first case with compiled encoders as well
    python benchmarks/grounding.py --quick    # a small model, to see that it runs
    python benchmarks/grounding.py --device cuda --precision bfloat16

The released implementation (benchmarks/released.py) runs on the same layers and weights, in the same process; the
sides take turns after a warm-up and medians are compared, turn by turn. Operations are counted as they run, and
compared with the rate of a large matrix product that is measured between the turns. Peak memory is that of a process
of its own per side, the interpreter and libraries included. Both sides must give the same heatmaps. `ground_medium` is
the same call after `torch.set_float32_matmul_precision("medium")`, `ground_bfloat16` with weights in bfloat16.
"""

import argparse
import copy
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from machine import read_peak_memory, write_result
from measuring import (
    compare_range,
    compare_turns,
    describe_side,
    measure_memory,
    print_table,
    run_counted,
    take_turns,
)
from plots import plot_sweeps
from profiling import measure_gains
from released import RELEASED, ground_released_way

from albef_amc import AlbefConfig, AlbefForImageTextMatching

SMALL = {"hidden_size": 96, "intermediate_size": 384, "num_attention_heads": 4}
LARGEST_DIFFERENCE = 1e-5  # of the maximum, float32
Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """What is measured: images with as many phrases each, of 0.6 x `length` to `length` tokens."""

    phrases: int = 14
    images: int = 1
    size: int = 256
    length: int = 10

    def __str__(self) -> str:
        images = "" if self.images == 1 else f"{self.images} images, "
        phrases = "phrase" if self.phrases == 1 else "phrases"
        return f"{images}{self.phrases} {phrases} per image, {self.size} px, up to {self.length} tokens"


CASES = (Case(14), Case(8, size=384), Case(1))
SWEEPS = {
    "phrases": [Case(count) for count in (1, 4, 14, 32)],
    "images": [Case(4, images=count) for count in (1, 2, 4)],
    "size": [Case(4, size=size) for size in (256, 384, 512)],
    "length": [Case(4, length=length) for length in (10, 20, 40)],
}
SWEEP_LABELS = {
    "phrases": "phrases per image",
    "images": "images of 4 phrases in a batch",
    "size": "image size in pixels",
    "length": "longest phrase in tokens",
}
GAINS = {
    "released": RELEASED,
    "gradients of activations only": replace(RELEASED, all_parameters=False),
    "and each image once": replace(RELEASED, all_parameters=False, image_per_phrase=False),
    "and its keys and values once": replace(
        RELEASED, all_parameters=False, image_per_phrase=False, keys_per_pass=False
    ),
}


def build_model(
    quick: bool, size: int = 256, device: str = "cpu", precision: str = "float32"
) -> AlbefForImageTextMatching:
    """The published architecture, or a small one, with the same random weights in every process."""
    torch.manual_seed(0)
    small = SMALL if quick else {}
    config = AlbefConfig(
        vision_config={**small, "initializer_range": 0.04, "image_size": size},
        text_config={**small, "initializer_range": 0.04},
        initializer_range=0.04,
        queue_size=8,
    )
    return AlbefForImageTextMatching(config).eval().to(device, getattr(torch, precision))


def build_inputs(case: Case, device: str = "cpu") -> Inputs:
    """Random images and phrases."""
    generator = torch.Generator().manual_seed(1)
    count = case.images * case.phrases
    lengths = torch.randint(round(0.6 * case.length), case.length + 1, (count,), generator=generator)
    attention_mask = (torch.arange(case.length)[None, :] < lengths[:, None]).long()
    input_ids = torch.randint(1000, 30000, (count, case.length), generator=generator) * attention_mask
    input_ids[:, 0] = 101
    inputs = {
        "pixel_values": torch.randn(case.images, 3, case.size, case.size, generator=generator),
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "image_index": torch.arange(case.images).repeat_interleave(case.phrases),
    }
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def build_sides(
    model: AlbefForImageTextMatching, inputs: Inputs, precision: str = "float32", compiles: bool = False
) -> dict[str, Callable]:
    """Functions that give heatmaps `(P, G_h, G_w)`."""
    sides = {
        "released": lambda: ground_released_way(model, inputs),
        "ground": lambda: model.ground(**inputs).heatmap,
    }
    if precision == "float32":
        rough = copy.deepcopy(model).to(torch.bfloat16)
        sides["ground_medium"] = with_matrix_precision("medium", sides["ground"])
        sides["ground_bfloat16"] = lambda: rough.ground(**inputs).heatmap
        if compiles:
            compiled, rough_compiled = copy.deepcopy(model), copy.deepcopy(rough)
            compiled.compile_encoders()
            rough_compiled.compile_encoders()
            sides["ground_compiled"] = lambda: compiled.ground(**inputs).heatmap
            sides["ground_compiled_bfloat16"] = lambda: rough_compiled.ground(**inputs).heatmap
    return sides


def with_matrix_precision(precision: str, run: Callable) -> Callable:
    """The function under another `torch.set_float32_matmul_precision`."""

    def run_so() -> Any:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        try:
            return run()
        finally:
            torch.set_float32_matmul_precision(before)

    return run_so


def measure_case(case: Case, model: Any, arguments: argparse.Namespace, repetitions: int) -> dict[str, Any]:
    """All sides on one case: times, operations and differences."""
    inputs, count = build_inputs(case, arguments.device), case.images * case.phrases
    sides = build_sides(model, inputs, arguments.precision, arguments.compile)
    counted = {name: run_counted(run) for name, run in sides.items()}  # the warm-up as well
    gflop = {name: counted[name][0] for name in ("released", "ground")}
    heatmaps = {name: heatmap.float() for name, (_, heatmap) in counted.items()}
    reference = heatmaps["released"]
    differences = {
        name: ((heatmaps[name] - reference).abs().max() / reference.max()).item()
        for name in sides
        if name != "released"
    }
    if arguments.precision == "float32" and not differences["ground"] < LARGEST_DIFFERENCE:
        sys.exit(f"{case}: the heatmaps of both sides differ by {differences['ground']:.1e} of their maximum.")
    warm_ups = int(arguments.compile)  # code is not compiled while operations are counted
    seconds, rate = take_turns(sides, repetitions, inputs["pixel_values"].device, arguments.quick, warm_ups)
    described = {name: describe_side(seconds[name], count, gflop.get(name, gflop["ground"]), rate) for name in sides}
    return {
        "case": str(case),
        **asdict(case),
        "speed_ratio": compare_turns(seconds["released"], seconds["ground"]),
        "speed_ratio_range": compare_range(seconds["released"], seconds["ground"]),
        "flop_bound": gflop["released"] / gflop["ground"],
        "matrix_gflop_per_second": rate,
        "largest_relative_heatmap_difference": differences,
        "speed_ratios": {
            name: compare_turns(seconds["released"], seconds[name]) for name in sides if name != "released"
        },
        "sides": described,
    }


def measure_table(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The cases of the table, with the peak memory of every side's own process."""
    rows = []
    chosen = CASES[:1] if arguments.quick or arguments.compile else CASES
    for case in [Case(arguments.phrases)] if arguments.phrases else chosen:
        model = build_model(arguments.quick, case.size, arguments.device, arguments.precision)
        row = measure_case(case, model, arguments, arguments.repetitions)
        del model
        for side in ("released", "ground"):
            words = ["--only", side, "--phrases", case.phrases, "--size", case.size, "--threads", arguments.threads]
            words += ["--device", arguments.device, "--precision", arguments.precision] + ["--quick"] * arguments.quick
            row["sides"][side]["peak_memory_gb"] = measure_memory(__file__, words)
        memory = [row["sides"][side]["peak_memory_gb"] for side in ("ground", "released")]
        row["memory_share"] = memory[0] / memory[1]
        rows.append(row)
    return rows


def measure_sweeps(arguments: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Cost against each size, the others as in its cases."""
    models: dict[int, Any] = {}
    sweeps = {}
    for name, cases in SWEEPS.items():
        sweeps[name] = []
        for case in cases:
            if case.size not in models:
                models = {case.size: build_model(arguments.quick, case.size, arguments.device, arguments.precision)}
            sweeps[name].append(measure_case(case, models[case.size], arguments, repetitions=1))
    return sweeps


def compare_habits(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The released implementation with one more habit removed each time, then `ground()`; with a profile of each."""
    model = build_model(arguments.quick, device=arguments.device, precision=arguments.precision)
    inputs = build_inputs(CASES[0], arguments.device)
    sides: dict[str, Callable] = {
        name: lambda habits=habits: ground_released_way(model, inputs, habits) for name, habits in GAINS.items()
    }
    sides["ground()"] = lambda: model.ground(**inputs)
    device = inputs["pixel_values"].device
    return measure_gains(sides, CASES[0].phrases, arguments.repetitions, device, arguments.quick)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small model, to see that it runs")
    parser.add_argument("--sweep", action="store_true", help="cost against phrases, images, size and length")
    parser.add_argument("--gains", action="store_true", help="what each habit of the released code costs")
    parser.add_argument("--compile", action="store_true", help="the first case with compiled encoders as well")
    parser.add_argument("--phrases", type=int, help="one case with this many phrases (default: three cases)")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="of both sides")
    parser.add_argument("--only", choices=["released", "ground"], help=argparse.SUPPRESS)  # the process of a side
    parser.add_argument("--size", type=int, default=256, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help="JSON to write (benchmarks/results/grounding[_quick].json)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        model = build_model(arguments.quick, arguments.size, arguments.device, arguments.precision)
        inputs = build_inputs(Case(arguments.phrases, size=arguments.size), arguments.device)
        build_sides(model, inputs, "bfloat16")[arguments.only]()
        print(read_peak_memory(arguments.device))
        return
    described = {"model": f"{'small' if arguments.quick else 'full'} size, {arguments.precision}"}
    suffix = "_bfloat16" * (arguments.precision == "bfloat16") + "_cuda" * (arguments.device == "cuda")

    def write(measured: dict[str, Any], kind: str = "") -> Path:
        name = f"grounding{kind}{suffix}"
        return write_result("grounding", {**described, **measured}, arguments.output, arguments.quick, name)

    if arguments.sweep:
        sweeps = measure_sweeps(arguments)
        file = write({"sweeps": sweeps}, "_sweep")
        plot_sweeps(file, "Grounding", "ms per phrase", sweeps, SWEEP_LABELS)
    elif arguments.gains:
        write({"gains": compare_habits(arguments)}, "_gains")
    else:
        rows = measure_table(arguments)
        write({"cases": rows}, "_compiled" * arguments.compile)
        names = ("case", "speed_ratio", "flop_bound", "memory_share")
        print_table("released = 1", [{name: row[name] for name in names} | row["speed_ratios"] for row in rows])


if __name__ == "__main__":
    main()
