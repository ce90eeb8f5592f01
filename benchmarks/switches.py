# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What the switches of `ground` gain on a CPU, and what they change: speed at full size, points of a trained model.

    albef-amc demo                            # the trained model, unless there is one
    python benchmarks/switches.py             # 4 minutes on two quiet cores
    python benchmarks/switches.py --quick     # a small model, to see that it runs

Speed: 14 phrases on one image of 256 pixels, random weights. The released implementation (benchmarks/released.py) in
float32, under `medium` and with weights in bfloat16, `ground()` with weights in bfloat16, and `ground()` under every
switch take turns in one process; ratios are medians over turns. The same for four images per call. Heatmaps are
compared with those of float32. Points: held-out scenes of the demo, whose accuracy under every switch is compared with
float32.
"""

import argparse
import copy
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from grounding import Case, build_inputs, build_model
from machine import write_result
from measuring import compare_range, compare_turns, print_table, take_turns
from released import ground_released_way
from torch.nn.functional import cosine_similarity

from albef_amc import AlbefForImageTextMatching
from albef_amc.cli.switches import Switches
from albef_amc.datasets_scripts import load_grounding_dataset
from albef_amc.evaluation.checkpoints import load_model_and_processor
from albef_amc.evaluation.grounding_evaluation import evaluate_grounding

SWITCHES = {
    "ground": Switches(),
    "medium": Switches(matmul_precision="medium"),
    "packed": Switches(packs_weights=True),
    "bfloat16": Switches("bfloat16"),
    "bfloat16_packed": Switches("bfloat16", packs_weights=True),
    "int8": Switches("int8"),
    "int8_packed": Switches("int8", packs_weights=True),
}
BATCHED = ("ground", "packed", "int8_packed")  # switches that are measured with several images per call as well
IMAGES_PER_CALL = 4
BATCH_SIZE = 50  # scenes
# Sides of the released implementation that compute as these do: like for like. Nothing of it computes in int8.
LIKE_FOR_LIKE = {
    "ground": "released",
    "packed": "released",
    "medium": "released_medium",
    "bfloat16": "released_bfloat16",
    "bfloat16_packed": "released_bfloat16",
    "bfloat16_weights": "released_bfloat16",
}
SCENES = {"num_train_scenes": 1, "num_validation_scenes": 1}  # scenes of a split do not depend on the others
CPU = torch.device("cpu")


def prepare(model: Any, switches: Switches) -> Any:
    """A model as the commands prepare it: a copy where layers are replaced."""
    if switches.packs_weights or switches.precision == "int8":
        model = copy.deepcopy(model)
    switches.prepare(model)
    return model


def under(switches: Switches, run: Callable[[], Any]) -> Callable[[], Any]:
    """The function as the commands call it."""

    def run_so() -> Any:
        with switches.applied(CPU):
            return run()

    return run_so


def build_sides(model: Any, case: Case) -> dict[str, Callable[[], torch.Tensor]]:
    """Functions that give heatmaps `(P, G_h, G_w)`, of one image; those named `NAME_x4` of four images."""
    inputs, several = build_inputs(case), build_inputs(Case(case.phrases, images=IMAGES_PER_CALL, size=case.size))
    rough = copy.deepcopy(model).to(torch.bfloat16)
    sides = {
        "released": lambda: ground_released_way(model, inputs),
        "released_medium": under(SWITCHES["medium"], lambda: ground_released_way(model, inputs)),
        "released_bfloat16": lambda: ground_released_way(rough, inputs),
        "bfloat16_weights": lambda: rough.ground(**inputs).heatmap,
    }
    for name, switches in SWITCHES.items():
        prepared = prepare(model, switches)
        sides[name] = under(switches, lambda one=prepared: one.ground(**inputs).heatmap)
        if name in BATCHED:
            sides[f"{name}_x{IMAGES_PER_CALL}"] = under(switches, lambda one=prepared: one.ground(**several).heatmap)
    return sides


def measure_speed(repetitions: int, quick: bool) -> dict[str, Any]:
    """Seconds of every side, how many times faster it is than others, and its heatmaps against float32."""
    case = Case()
    sides = build_sides(build_model(quick), case)
    seconds, rate = take_turns(sides, repetitions, CPU, quick)
    expected = sides["ground"]()
    described: dict[str, dict[str, Any]] = {}
    for name, run in sides.items():
        alone, _, images = name.partition("_x")
        per_image = [one / int(images or 1) for one in seconds[name]]
        described[name] = side = {
            "seconds_per_image": per_image,
            "phrases_per_second": case.phrases / statistics.median(per_image),
            "against_released_float32": compare_turns(seconds["released"], per_image),
            "against_ground_float32": compare_turns(seconds["ground"], per_image),
        }
        if images:
            side["against_one_image"] = compare_turns(seconds[alone], per_image)
            continue
        side |= compare_heatmaps(run().float(), expected)
        if name in LIKE_FOR_LIKE:
            side["like_for_like"] = compare_turns(seconds[LIKE_FOR_LIKE[name]], per_image)
            side["like_for_like_range"] = compare_range(seconds[LIKE_FOR_LIKE[name]], per_image)
    return {"case": str(case), "matrix_gflop_per_second": rate, "sides": described}


def compare_heatmaps(heatmaps: torch.Tensor, expected: torch.Tensor) -> dict[str, float]:
    """Cosine of each phrase's heatmap with that of float32, and the largest difference as a share of the maximum."""
    cosines = cosine_similarity(heatmaps.flatten(1).double(), expected.flatten(1).double())
    return {
        "mean_cosine": cosines.mean().item(),
        "least_cosine": cosines.min().item(),
        "largest_relative_difference": ((heatmaps - expected).abs().max() / expected.max()).item(),
    }


def measure_points(checkpoint: Path, num_scenes: int) -> dict[str, Any]:
    """Pointing accuracy of a trained model under every switch, and the share of points that stay where they were."""
    model, processor = load_model_and_processor(AlbefForImageTextMatching, str(checkpoint))
    rows = list(load_grounding_dataset("synthetic", "test", **SCENES, num_test_scenes=num_scenes))
    expected_points, expected_maps, expected_accuracy = None, None, 0.0
    found: dict[str, Any] = {}
    for name, switches in SWITCHES.items():
        prepared = prepare(model.eval(), switches)
        with switches.applied(CPU):
            evaluation = evaluate_grounding(prepared, processor, rows, batch_size=BATCH_SIZE, phrases_per_chunk=256)
            heatmaps = ground_scenes(prepared, processor, rows[:BATCH_SIZE])
        points = torch.tensor([result.point for result in evaluation.results])
        accuracy = evaluation.metrics["pointing_game_accuracy"]
        if expected_points is None:
            expected_points, expected_maps, expected_accuracy = points, heatmaps, accuracy
        found[name] = {
            "pointing_game_accuracy": accuracy,
            "accuracy_difference": accuracy - expected_accuracy,
            "equal_points": (points == expected_points).all(dim=1).double().mean().item(),
            "points_within_4_pixels": ((points - expected_points).norm(dim=1) <= 4).double().mean().item(),
            **compare_heatmaps(heatmaps, expected_maps),
        }
    return {"num_phrases": len(expected_points), "switches": found}


def ground_scenes(model: Any, processor: Any, rows: list[dict]) -> torch.Tensor:
    """Heatmaps `(P, G_h, G_w)` of all phrases of scenes."""
    texts = [[phrase["phrase"] for phrase in row["phrases"]] for row in rows]
    inputs = processor(images=[row["image"] for row in rows], text=texts, return_tensors="pt")
    return model.ground(**inputs, phrases_per_chunk=256).heatmap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/demo/with_amc"), help="of the demo")
    parser.add_argument("--scenes", type=int, default=1000, help="held-out scenes, of four phrases each")
    parser.add_argument("--quick", action="store_true", help="a small model and one turn, to see that it runs")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON to write (benchmarks/results/switches[_quick].json)")
    arguments = parser.parse_args()
    if not arguments.checkpoint.is_dir():
        parser.error(
            f"no checkpoint at {arguments.checkpoint}: run `albef-amc demo`, or name one with `--checkpoint`."
        )
    torch.set_num_threads(arguments.threads)
    points = measure_points(arguments.checkpoint, arguments.scenes)
    measured = {**measure_speed(arguments.repetitions, arguments.quick), "trained_model": points}
    write_result("switches", measured, arguments.output, arguments.quick)
    names = ("phrases_per_second", "against_released_float32", "against_ground_float32")
    rows = [{"side": name, **{key: side[key] for key in names}} for name, side in measured["sides"].items()]
    print_table("speed", rows)
    names = ("pointing_game_accuracy", "equal_points", "mean_cosine", "least_cosine")
    rows = [{"switch": name, **{key: one[key] for key in names}} for name, one in points["switches"].items()]
    print_table("trained model", rows)


if __name__ == "__main__":
    main()
