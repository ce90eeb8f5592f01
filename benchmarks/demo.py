# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The demo with several seeds: each seed's numbers and intervals, their means, and whether they are in the range.

    python benchmarks/demo.py                             # seeds 0, 1 and 2; three times the demo's minutes
    python benchmarks/demo.py --pictures docs/pictures    # also draws demo.jpg, the picture of the README
    python benchmarks/demo.py --pages                     # writes the stored figures into README.md and docs

Everything but the JSON result and the picture is written to a temporary folder and removed.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from demo_pages import write_pages
from machine import describe_machine

from albef_amc import AlbefForImageTextMatching
from albef_amc.cli.demo import MODELS, draw_comparison, is_in_range, load_scenes, run_demo
from albef_amc.evaluation.checkpoints import load_model_and_processor
from albef_amc.saving_albef import write_json
from albef_amc.trainer.training_recipes import Recipe, load_recipe

RESULTS_FOLDER = Path(__file__).parent / "results"
PICTURE, PICTURE_SCENES = "demo.jpg", 4
MEASURES = (
    "pointing_game_accuracy",
    "pointing_game_accuracy_by_type",
    "shuffled_phrases_accuracy",
    "recall_at_1_any",
    "recall_at_1_merged",
    "recall_at_1_all",
    "matching_auc",
    "exchange_auc",
    "training_seconds",
)
COMPARISONS = ("baselines", "gain", "gain_over_largest_object", "matching_auc_change")


def average(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds: of the measures of each model, of the rules that read no words, and of the comparisons."""

    def take_mean(values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {key: take_mean([value[key] for value in values]) for key in values[0]}
        return statistics.mean(values)

    means = {}
    for name in MODELS:
        own = [result[name] for result in results]
        means[name] = {key: take_mean([measured[key] for measured in own]) for key in MEASURES if key in own[0]}
    return {**means, **{key: take_mean([result[key] for result in results]) for key in COMPARISONS}}


def are_gains_above_zero(results: list[dict[str, Any]]) -> bool:
    """Whether in each seed the intervals of both gains lie above 0."""
    intervals = [result["confidence_interval"] for result in results]
    return all(interval[key][0] > 0 for interval in intervals for key in ("gain", "gain_over_largest_object"))


def draw_picture(recipe: Recipe, folder: Path, path: Path) -> None:
    """The first scenes of a demo's sheet, from the base model and the checkpoints that the demo left."""
    places = {name: recipe.model.checkpoint if name == "base" else folder / name for name in MODELS}
    loaded = {name: load_model_and_processor(AlbefForImageTextMatching, place) for name, place in places.items()}
    models = {name: model.eval() for name, (model, _) in loaded.items()}
    _, processor = loaded["with_amc"]
    draw_comparison(models, processor, load_scenes(recipe, folder).test[:PICTURE_SCENES], path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="as for `albef-amc demo`")
    parser.add_argument("--output", type=Path, default=RESULTS_FOLDER / "demo.json")
    parser.add_argument("--pictures", type=Path, help=f"folder for {PICTURE}, of the first seed")
    parser.add_argument("--pages", action="store_true", help="write the stored figures into README.md and docs")
    arguments = parser.parse_args()
    if arguments.pages:
        write_pages(json.loads((RESULTS_FOLDER / "demo.json").read_text(encoding="utf-8")))
        return
    results = []
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            recipe = load_recipe(arguments.recipe, [*arguments.settings, f"seed={seed}"])
            result = run_demo(recipe, Path(folder))
            if arguments.pictures is not None and not results:
                draw_picture(recipe, Path(folder), arguments.pictures / PICTURE)
        for name in ("curves", "sheet", "logs"):
            result.pop(name)
        result["scene"].pop("picture")
        results.append(result)
        print(f"seed {seed}: {result['with_amc']['pointing_game_accuracy']:.3f} with AMC", file=sys.stderr)
    mean = average(results)
    summary = {"mean_is_in_range": is_in_range(mean), "gains_are_above_zero": are_gains_above_zero(results)}
    content = {
        "command": " ".join(["python", "benchmarks/demo.py", *sys.argv[1:]]),
        "machine": describe_machine(),
        **summary,
        "mean": mean,
        "seeds": results,
    }
    write_json(arguments.output, content)
    print(json.dumps({**summary, **mean}, indent=2))


if __name__ == "__main__":
    main()
