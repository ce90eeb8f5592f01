# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The demo with several seeds: mean accuracies on held-out scenes, and whether they are in the expected range.

    python benchmarks/demo.py                 # seeds 0, 1 and 2; three times the demo's minutes

Everything but the JSON result is written to a temporary folder and removed.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from machine import describe_machine

from albef_amc.cli.demo import RUNS, is_in_range, run_demo
from albef_amc.saving_albef import write_json
from albef_amc.trainer.training_recipes import load_recipe

RESULTS_FOLDER = Path(__file__).parent / "results"
SCORES = ("pointing_game_accuracy", "shuffled_phrases_accuracy", "training_seconds")


def average(results: list[dict]) -> dict:
    """Means over seeds: per run, per phrase type, and of the rules that read no words."""
    means = {
        name: {
            **{score: statistics.mean(result[name][score] for result in results) for score in SCORES},
            "pointing_game_accuracy_by_type": {
                kind: statistics.mean(result[name]["pointing_game_accuracy_by_type"][kind] for result in results)
                for kind in results[0][name]["pointing_game_accuracy_by_type"]
            },
        }
        for name in RUNS
    }
    baselines = {
        rule: statistics.mean(result["baselines"][rule] for result in results) for rule in results[0]["baselines"]
    }
    return {**means, "baselines": baselines, "gain": statistics.mean(result["gain"] for result in results)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="as for `albef-amc demo`")
    parser.add_argument("--output", type=Path, default=RESULTS_FOLDER / "demo.json")
    arguments = parser.parse_args()
    results = []
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            recipe = load_recipe(arguments.recipe, [*arguments.settings, f"seed={seed}"])
            results.append(run_demo(recipe, Path(folder)))
        print(f"seed {seed}: {results[-1]['with_amc']['pointing_game_accuracy']:.3f} with AMC", file=sys.stderr)
    mean = average(results)
    in_range = is_in_range(mean)
    for result in results:
        for name in ("curves", "sheet"):
            result.pop(name)
    content = {
        "command": " ".join(["python", "benchmarks/demo.py", *sys.argv[1:]]),
        "machine": describe_machine(),
        "mean_is_in_range": in_range,
        "mean": mean,
        "seeds": results,
    }
    write_json(arguments.output, content)
    print(json.dumps({"mean_is_in_range": in_range, **mean}, indent=2))


if __name__ == "__main__":
    main()
