# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The base model that ships: made of a finished run with its card and the hashes of its files, and checked.

    albef-amc train base_scenes                                    # the run; about an hour on two CPU cores
    python benchmarks/base_model.py --install runs/base_scenes     # checkpoints/base_scenes, results, pages
    python benchmarks/base_model.py --check                        # under two minutes on two CPU cores

`--check` computes the figures of the card again from the weights that ship, and ends with status 1 where one differs,
or where a file is not the one whose hash is stored.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from base_model_pages import write_pages
from machine import RESULTS_FOLDER, describe_machine

from albef_amc import AlbefForImageTextMatching, AlbefForPreTraining, AlbefProcessor
from albef_amc.checkpoints import BASE_MODEL, HASH_FILE, check_base_model, hash_files
from albef_amc.datasets_scripts.synthetic_grounding.phrases import PHRASE_TYPES
from albef_amc.datasets_scripts.synthetic_grounding.synthetic_grounding import (
    UNSEEN_COMPOSITION,
    SyntheticGroundingConfig,
    generate_scenes,
)
from albef_amc.evaluation.checkpoints import load_model_and_processor
from albef_amc.evaluation.grounding_evaluation import evaluate_baselines, evaluate_grounding
from albef_amc.evaluation.hard_exchanges import evaluate_exchanges
from albef_amc.evaluation.match_calibration import (
    MatchCalibration,
    calibrate_model,
    describe_origin,
    list_calibration_pairs,
    measure_calibration,
)
from albef_amc.evaluation.match_pairs import compute_matching_auc, list_match_pairs, score_pairs
from albef_amc.evaluation.weight_hash import hash_weights
from albef_amc.model_cards import WEIGHTS_KEY, ModelCard, read_model_card, write_model_card
from albef_amc.publishing.checkpoint_publishing import METRICS_FILE, PROCESSOR_FILES
from albef_amc.saving_albef import replace_folder, write_atomically, write_json
from albef_amc.trainer.reliability.run_folder import END_FILE

RESULT_FILE = RESULTS_FOLDER / "base_model.json"
CHECK_COMMAND = "python benchmarks/base_model.py --check"
NUM_VALIDATION_SCENES, NUM_TEST_SCENES = 500, 1000
BATCH_SIZE, PHRASES_PER_CHUNK = 64, 256
# Another machine adds in another order: scores move in their last digits, and of equal scores another may win.
TOLERANCE = 0.005
# Default phrases, on which the demo is measured, and phrases as the base was trained on.
OWN_PHRASES = {"phrase_types": list(PHRASE_TYPES), "full_description_share": 0.5}
PHRASES: dict[str, dict[str, Any]] = {"test": {}, "all_types": OWN_PHRASES}
TRAINING_STATE = ("momentum_", "image_queue", "text_queue")  # weights that are made anew where training starts
CODE_KEYS = ("auto_map", "custom_pipelines")  # of a configuration whose checkpoint holds its code
LIMITS = [
    "This model knows coloured shapes on a plain background, and the few words that describe them. What it says of "
    "photographs means nothing.",
    "It was trained without any region: where its heatmaps point follows from matching images and phrases alone.",
    "Its score does not tell left from right, nor above from below (`side` in the results).",
    "The false phrases of its training could name combinations of colour and shape that training never showed, and "
    "which were then always false: it takes such phrases for false without looking (`_unseen` in the results). The "
    "recipe of this release has no such phrases any more.",
]
DESCRIPTION = (
    "The base model of albef-amc: a small ALBEF ({parameters:.2f} million parameters, {megabytes:.1f} MB) that "
    "matches synthetic scenes of coloured shapes with phrases, trained from random weights without any region. "
    "Commands call it `base`, and `albef_amc.BASE_MODEL` is its folder. It holds the masked-word head, so that "
    "training can start from it. In the results, `test` are held-out scenes with the default phrases, and `all_types` "
    "the same number with phrases like those of its training (all types, half of them short); `_unseen` are their "
    "phrases about combinations of colour and shape that training never showed."
)


def measure(model: AlbefForImageTextMatching, processor: AlbefProcessor, num_scenes: int) -> dict[str, dict[str, Any]]:
    """Figures on held-out scenes: under each name of `PHRASES`, and of its phrases about unseen compositions."""
    figures = {}
    for name, options in PHRASES.items():
        rows = generate_scenes("test", num_scenes, SyntheticGroundingConfig(**options))
        figures[name] = _measure_rows(model, processor, rows)
        figures[f"{name}_unseen"] = _measure_rows(model, processor, _keep_unseen(rows))
    return figures


def _keep_unseen(rows: list[dict]) -> list[dict]:
    kept = [
        {**row, "phrases": [phrase for phrase in row["phrases"] if UNSEEN_COMPOSITION in phrase["types"]]}
        for row in rows
    ]
    return [row for row in kept if row["phrases"]]


def _measure_rows(model: AlbefForImageTextMatching, processor: AlbefProcessor, rows: list[dict]) -> dict[str, Any]:
    grounding = evaluate_grounding(
        model, processor, rows, batch_size=BATCH_SIZE, phrases_per_chunk=PHRASES_PER_CHUNK
    ).metrics
    pairs = list_match_pairs(rows)
    margins = score_pairs(model, processor, rows, pairs, BATCH_SIZE)
    is_match = np.array([pair.is_match for pair in pairs])
    kinds = {
        "before": MatchCalibration(),
        "after": MatchCalibration(model.config.match_scale, model.config.match_bias),
    }
    return {
        **grounding,
        "baselines": evaluate_baselines(rows),
        "matching_auc": compute_matching_auc(margins, is_match),
        "exchange_auc": evaluate_exchanges(model, processor, rows, BATCH_SIZE),
        "calibration": {
            name: measure_calibration(kind.compute_probabilities(margins), is_match) for name, kind in kinds.items()
        },
    }


def install(run: Path, folder: Path, num_validation: int, num_test: int) -> dict[str, Any]:
    """Makes the folder of the base model from a finished run: pre-training weights without momentum copies and queues,
    calibrated, with metrics, card and hashes. Returns what `benchmarks/results/base_model.json` holds.

    Args:
        run (`Path`): folder of the run.
        folder (`Path`): folder to write; replaced if it exists.
        num_validation, num_test (`int`): scenes that the matching score is calibrated on, and measured on.

    Raises:
        FileNotFoundError: no finished run.
        ValueError: a matching score that cannot be calibrated.
    """
    if not (run / END_FILE).is_file():
        raise FileNotFoundError(f"{run} has no {END_FILE}: no run has ended there. Train to the end first.")
    of_run = read_model_card(run)
    if of_run is None:
        raise ValueError(f"the card of {run} was edited by hand: nothing says what the run did. Train it again.")
    model, processor = load_model_and_processor(AlbefForPreTraining, run)
    matching = model.float().export_matching_model().eval()
    rows = generate_scenes("validation", num_validation, SyntheticGroundingConfig(**OWN_PHRASES))
    pairs = list_calibration_pairs(rows)
    found = calibrate_model(matching, processor, rows, pairs, BATCH_SIZE)
    values = {
        "match_scale": found.calibration.scale,
        "match_bias": found.calibration.bias,
        "match_calibration": describe_origin(
            matching, pairs, "synthetic", "validation", {**OWN_PHRASES, "num_validation_scenes": num_validation}
        ),
    }
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    _save(model, run, unfinished, values)
    model, processor = load_model_and_processor(AlbefForImageTextMatching, unfinished)
    figures = measure(model.eval(), processor, num_test)
    weights_sha256 = hash_weights(model)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    size = (unfinished / "model.safetensors").stat().st_size
    results = {name: {**result, WEIGHTS_KEY: weights_sha256} for name, result in figures.items()}
    write_json(unfinished / METRICS_FILE, results)
    card = ModelCard(
        model_name=f"albef-{folder.name.replace('_', '-')}",
        description=DESCRIPTION.format(parameters=num_parameters / 1e6, megabytes=size / 1e6),
        metrics_file=unfinished / METRICS_FILE,
        evaluation_dataset="synthetic",
        evaluation_command=CHECK_COMMAND,
        weights_sha256=weights_sha256,
        image_size=model.config.vision_config.image_height_width,
        datasets=["synthetic"],
        recipe=of_run.recipe,
        training_arguments=of_run.training_arguments,
        hardware=of_run.hardware,
        training_seconds=of_run.training_seconds,
        software=of_run.software,
        repo_id=f"checkpoints/{folder.name}",
        limits=LIMITS,
        has_code=False,
    )
    write_model_card(unfinished, card)
    hashes = hash_files(unfinished)
    lines = "".join(f"{digest}  {name}\n" for name, digest in hashes.items())
    write_atomically(unfinished / HASH_FILE, lines.encode())
    replace_folder(unfinished, folder)
    return {
        "sha256": hashes,
        WEIGHTS_KEY: weights_sha256,
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "num_parameters": num_parameters,
        "training": {
            "command": f"albef-amc train {of_run.recipe}",
            "steps": of_run.training_arguments["steps"],
            "seconds": of_run.training_seconds,
            "hardware": of_run.hardware,
        },
        "calibration": {"scale": found.calibration.scale, "bias": found.calibration.bias, **found.figures},
        "figures": results,
    }


def _save(model: AlbefForPreTraining, run: Path, folder: Path, values: dict[str, Any]) -> None:
    """Weights that a run starts from, the configuration with `values` and without code, and the processor's files."""
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith(TRAINING_STATE)}
    model.save_pretrained(folder, state_dict=weights)
    for path in folder.glob("*.py"):
        path.unlink()
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kept = {name: value for name, value in settings.items() if name not in CODE_KEYS}
    write_json(folder / "config.json", {**kept, **values})
    for name in PROCESSOR_FILES:
        shutil.copyfile(run / name, folder / name)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner can read


def check(folder: Path, results: dict[str, Any], num_test: int) -> list[str]:
    """What disagrees between the base model and the figures that are stored of it.

    Args:
        folder (`Path`): the base model.
        results (`dict`): what [`install`] returned.
        num_test (`int`): scenes to measure on.

    Raises:
        FileNotFoundError, ValueError: a file is missing, or is not the one whose hash is stored.
    """
    check_base_model(folder)
    stored = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    problems = [] if stored == results["figures"] else [f"{METRICS_FILE} and {RESULT_FILE.name} differ"]
    if results["sha256"] != hash_files(folder):
        problems.append(f"{RESULT_FILE.name} is about other files: their SHA-256 differ")
    model, processor = load_model_and_processor(AlbefForImageTextMatching, folder)
    measured = measure(model.eval(), processor, num_test)
    computed = dict(_list_numbers(measured))
    for name, value in _list_numbers(stored):
        if name not in computed or abs(computed[name] - value) > TOLERANCE:
            problems.append(f"{name} is {computed.get(name)}, stored {value}")
    print(json.dumps(measured, indent=2))
    return problems


def _list_numbers(figures: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Dotted name and value of every number."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from _list_numbers(value, f"{prefix}{name}.")
        elif not isinstance(value, str):
            yield f"{prefix}{name}", value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--install", type=Path, metavar="RUN_FOLDER", help="make the base model from a finished run")
    task.add_argument("--check", action="store_true", help="compute the figures again, and compare them")
    task.add_argument("--pages", action="store_true", help="write the figures into README.md and docs again")
    arguments = parser.parse_args()
    folder = Path(BASE_MODEL)
    if arguments.install is not None:
        content = install(arguments.install, folder, NUM_VALIDATION_SCENES, NUM_TEST_SCENES)
        command = "python benchmarks/base_model.py --install RUN_FOLDER"
        write_json(RESULT_FILE, {"command": command, "machine": describe_machine(), **content})
        print(json.dumps(content, indent=2))
    if arguments.install is not None or arguments.pages:
        write_pages(json.loads(RESULT_FILE.read_text(encoding="utf-8")))
        return 0
    try:
        problems = check(folder, json.loads(RESULT_FILE.read_text(encoding="utf-8")), NUM_TEST_SCENES)
    except (FileNotFoundError, ValueError) as error:
        problems = [str(error)]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
