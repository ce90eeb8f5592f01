# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""AMC on small models of other families: the same steps with and without it, from one start, on synthetic scenes.

    python benchmarks/grounder_training.py            # seeds 0, 1 and 2; about an hour on two CPU cores
    python benchmarks/grounder_training.py --quick    # a few steps, to see that it runs
    python benchmarks/grounder_training.py --pages    # writes the stored figures into docs/grounders.md

For each family a small random model of transformers is trained without any region (the start). From it, per seed, two
runs of as many steps differ in `amc_weight` only, which is 1 and 0. Each run is one process of one thread. What a run
measured stays in `--folder`, and a run that is there is not repeated: remove the folder after a change of the budgets.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from grounder_training_pages import write_page
from machine import RESULTS_FOLDER, write_result
from small_grounders import BUILDERS, build_small_grounder

from albef_amc.datasets_scripts import load_grounding_dataset
from albef_amc.evaluation.grounding_evaluation import answer_baselines, evaluate_grounding, shuffle_phrases
from albef_amc.evaluation.grounding_metrics import POINTING_ACCURACY, score_points
from albef_amc.evaluation.intervals import CONFIDENCE, bootstrap_gain
from albef_amc.evaluation.weight_hash import hash_weights
from albef_amc.grounders import AutoGrounder, Grounder
from albef_amc.saving_albef import write_json
from albef_amc.trainer import AmcConfig, AmcTrainer

WEIGHTS = {"with_amc": 1.0, "without_amc": 0.0}
LARGEST_OBJECT = "largest_object"
LEAST_MATCHING_AUC = 0.8  # of both arms, or the gain does not count
START, MEASURES = "start", "measures.json"
SHARED = {
    "adam_beta2": 0.98,
    "dataloader_pin_memory": False,
    "logging_steps": 50,
    "lr_scheduler_type": "cosine",
    "mask_size": 64,
    "max_grad_norm": 5.0,
    "mlm_weight": 0.0,
    "report_to": "none",
    "save_strategy": "no",
    "use_augmentation": False,
    "use_cpu": True,
    "weight_decay": 0.02,
}


@dataclass(frozen=True)
class Budget:
    """How long and on what a family is trained.

    Args:
        start_steps, steps (`int`): of the start, and of each run from it.
        start_learning_rate, learning_rate (`float`): the same.
        batch_size, phrases_per_image, false_phrases_per_image (`int`): of a step.
    """

    start_steps: int
    steps: int = 150
    start_learning_rate: float = 7e-4
    learning_rate: float = 3e-4
    batch_size: int = 32
    phrases_per_image: int = 4
    false_phrases_per_image: int = 4


@dataclass(frozen=True)
class Scenes:
    """Number of scenes, and where they are kept."""

    train: int
    test: int
    folder: Path

    def load(self, split: str) -> list[dict[str, Any]]:
        """The rows of a split, with decoded images."""
        counts = {"num_train_scenes": self.train, "num_validation_scenes": 0, "num_test_scenes": self.test}
        return list(load_grounding_dataset(name="synthetic", split=split, cache_dir=str(self.folder), **counts))


BUDGETS = {
    "blip": Budget(start_steps=1000),
    "clip": Budget(start_steps=1500),
    "vilt": Budget(start_steps=1000, batch_size=16, phrases_per_image=2, false_phrases_per_image=2),
}


@dataclass(frozen=True)
class Run:
    """A run of a family: its start (no seed), or one from the start."""

    family: str
    budget: Budget
    scenes: Scenes
    folder: Path
    seed: int | None = None
    arm: str = "without_amc"

    @property
    def place(self) -> Path:
        """Where the run leaves what it made."""
        return self.folder / self.family / (START if self.seed is None else f"{self.arm}-{self.seed}")


def perform(run: Run) -> dict[str, Any]:
    """Trains and measures on one thread; returns what was measured, also where the run is finished already."""
    file = run.place / MEASURES
    if not file.is_file():
        torch.set_num_threads(1)
        grounder = _load(run)
        trainer = _build_trainer(run, grounder)
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
        grounder.save_pretrained(run.place)
        measured = measure(grounder, trainer, run.scenes.load("test"))
        write_json(file, {**measured, "training_seconds": seconds})
        print(f"{run.place.name} of {run.family}: {measured[POINTING_ACCURACY]:.3f} after {seconds:.0f} s")
    return json.loads(file.read_text(encoding="utf-8"))


def _load(run: Run) -> Grounder:
    if run.seed is not None:
        return AutoGrounder.from_pretrained(replace(run, seed=None).place)
    texts: list[str] = []
    for row in run.scenes.load("train"):
        texts += [*(phrase["phrase"] for phrase in row["phrases"]), *row["true_phrases"], *row["false_phrases"]]
    return build_small_grounder(run.family, texts, seed=0)


def _build_trainer(run: Run, grounder: Grounder) -> AmcTrainer:
    budget, is_start = run.budget, run.seed is None
    has_contrast = grounder.family.contrast is not None
    arguments = AmcConfig(
        **SHARED,
        output_dir=str(run.place / "run"),
        amc_weight=WEIGHTS[run.arm],
        itc_weight=float("itc" in grounder.family.losses),
        itm_weight=float("itm" in grounder.family.losses),
        negative_sampling="hard" if has_contrast else "uniform",
        max_steps=budget.start_steps if is_start else budget.steps,
        learning_rate=budget.start_learning_rate if is_start else budget.learning_rate,
        warmup_steps=0.05,
        per_device_train_batch_size=budget.batch_size,
        phrases_per_image=budget.phrases_per_image,
        false_phrases_per_image=budget.false_phrases_per_image if "itm" in grounder.family.losses else 0,
        seed=0 if is_start else run.seed,
    )
    return AmcTrainer(grounder, arguments, grounder.processor, train_dataset=run.scenes.load("train"))


def measure(grounder: Grounder, trainer: AmcTrainer, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Pointing game over all phrases and per type, also with the phrases of each scene exchanged; the area under the
    ROC curve of the matching score; the hash of the weights; and the hits with their scenes, for paired intervals."""
    grounder.eval()
    evaluation = evaluate_grounding(grounder, grounder.processor, rows)
    exchanged = evaluate_grounding(grounder, grounder.processor, [shuffle_phrases(row) for row in rows])
    return {
        **evaluation.metrics,
        "shuffled_phrases_accuracy": exchanged.metrics[POINTING_ACCURACY],
        "matching_auc": trainer.evaluate_matching(rows),
        "weights_sha256": hash_weights(grounder.model),
        "hits": [bool(result.is_hit) for result in evaluation.results],
        "image_ids": [result.image_id for result in evaluation.results],
    }


def compare(start: dict[str, Any], runs: dict[str, list[dict[str, Any]]], seeds: Sequence[int]) -> dict[str, Any]:
    """The start, and per seed both runs with the gain of AMC and its paired interval over scenes; their means.

    Args:
        start (`dict`): what was measured of the start.
        runs (`dict`): the same of the runs of each arm, in the order of the seeds.
        seeds (sequence of `int`): of the runs.
    """
    compared: list[dict[str, Any]] = []
    for seed, with_amc, without_amc in zip(seeds, runs["with_amc"], runs["without_amc"], strict=True):
        interval = bootstrap_gain(with_amc["hits"], without_amc["hits"], with_amc["image_ids"])
        compared.append(
            {
                "seed": seed,
                "gain": with_amc[POINTING_ACCURACY] - without_amc[POINTING_ACCURACY],
                "confidence_interval": None if interval is None else [interval.low, interval.high],
                "with_amc": _drop_phrases(with_amc),
                "without_amc": _drop_phrases(without_amc),
            }
        )
    arms = [one[arm] for one in compared for arm in WEIGHTS]
    intervals = [one["confidence_interval"] for one in compared]
    return {
        "start": _drop_phrases(start),
        "mean": {name: average([one[name] for one in compared]) for name in ("gain", *WEIGHTS)},
        "gain_is_above_zero": all(interval is not None and interval[0] > 0 for interval in intervals),
        "gain_counts": all(arm["matching_auc"] >= LEAST_MATCHING_AUC for arm in arms),
        "seeds": compared,
    }


def _drop_phrases(measured: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in measured.items() if name not in ("hits", "image_ids")}


def average(values: Sequence[Any]) -> Any:
    """Mean of numbers, and of numbers in mappings with the same keys; texts are left out."""
    if isinstance(values[0], dict):
        names = [name for name, value in values[0].items() if not isinstance(value, str)]
        return {name: average([value[name] for value in values]) for name in names}
    return statistics.mean(values)


def run_study(
    budgets: dict[str, Budget], seeds: Sequence[int], scenes: Scenes, folder: Path, num_processes: int
) -> dict[str, Any]:
    """Every run, as many at a time as there are processes, and what the result file holds of them."""
    rules = answer_baselines(scenes.load("test"))
    scenes.load("train")  # made here, once
    starts = {name: Run(name, budget, scenes, folder) for name, budget in budgets.items()}
    runs = [replace(start, seed=seed, arm=arm) for start in starts.values() for seed in seeds for arm in WEIGHTS]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        of_starts = dict(zip(starts, pool.map(perform, starts.values()), strict=True))
        measured = dict(zip(((run.family, run.seed, run.arm) for run in runs), pool.map(perform, runs), strict=True))
    families = {}
    for name, budget in budgets.items():
        arms = {arm: [measured[name, seed, arm] for seed in seeds] for arm in WEIGHTS}
        families[name] = {"budget": asdict(budget), **compare(of_starts[name], arms, seeds)}
    return {
        "confidence": CONFIDENCE,
        "least_matching_auc": LEAST_MATCHING_AUC,
        "num_scenes": {"train": scenes.train, "test": scenes.test},
        "baselines": {rule: score_points(answered)[POINTING_ACCURACY] for rule, answered in rules.items()},
        "families": families,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--families", nargs="+", choices=BUILDERS, default=list(BUILDERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, of one thread each")
    parser.add_argument("--folder", type=Path, default=Path("runs/grounder_training"), help="scenes and checkpoints")
    parser.add_argument("--output", type=Path, help="JSON to write, by default beside the others")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--pages", action="store_true", help="write the stored figures into docs/grounders.md")
    arguments = parser.parse_args()
    if arguments.pages:
        write_page(json.loads((RESULTS_FOLDER / "grounder_training.json").read_text(encoding="utf-8")))
        return
    change = partial(replace, start_steps=2, steps=2, batch_size=4) if arguments.quick else lambda budget: budget
    budgets = {name: change(BUDGETS[name]) for name in arguments.families}
    num_train, num_test = (16, 32) if arguments.quick else (8000, 1000)
    folder = arguments.folder / "quick" if arguments.quick else arguments.folder
    scenes = Scenes(num_train, num_test, folder / "data")
    measured = run_study(budgets, arguments.seeds, scenes, folder, arguments.processes)
    write_result("grounder_training", measured, arguments.output, arguments.quick)


if __name__ == "__main__":
    main()
