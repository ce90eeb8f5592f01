# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc demo`: the main job on data that needs no download, with and without AMC, side by side."""

import copy
import shutil
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from albef_amc import AlbefForImageTextMatching, AlbefProcessor
from albef_amc.cli.options import JsonOption, OutputFolderOption, SettingsOption
from albef_amc.cli.reporting import print_result, report
from albef_amc.datasets_scripts import load_grounding_dataset
from albef_amc.evaluation.grounding_evaluation import evaluate_baselines, evaluate_grounding, shuffle_phrases
from albef_amc.evaluation.weight_hash import hash_weights
from albef_amc.model_cards import WEIGHTS_KEY, ModelCard, write_model_card
from albef_amc.saving_albef import write_json
from albef_amc.trainer.amc_trainer import AmcTrainer
from albef_amc.trainer.reliability.run_lock import lock_folder
from albef_amc.trainer.reliability.stop_signals import TrainingInterrupted, TrainingTerminated
from albef_amc.trainer.run_facts import describe_device, describe_software, list_card_arguments
from albef_amc.trainer.training_recipes import Recipe, build_arguments, build_model_and_processor, load_recipe
from albef_amc.visualization.drawing import draw_curves, draw_sheet, overlay_heatmap

RUNS = {"without_amc": "without AMC", "with_amc": "with AMC"}
SHEET_SCENES = 8

# The range that the demo is expected to reach on held-out scenes (mean of three seeds in benchmarks/results).
LEAST_ACCURACY = 0.70
LEAST_GAIN = 0.15
MOST_SHUFFLED_ACCURACY = 0.40


def demo(
    output_dir: OutputFolderOption = Path("runs/demo"),
    recipe: Annotated[str, typer.Option(help="Recipe of both runs.")] = "demo",
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Trains a small ALBEF from scratch on synthetic scenes, without and with AMC, and compares the two."""
    with redirect_stdout(sys.stderr), lock_folder(output_dir):  # the Trainer prints its log to standard output
        result = run_demo(load_recipe(recipe, settings or ()), output_dir)
    print_result(result if as_json else _summarize(result), as_json)


def run_demo(recipe: Recipe, output_dir: Path) -> dict[str, Any]:
    """Both runs and their comparison on held-out scenes; everything is written under `output_dir`.

    Returns:
        `dict`: what `metrics.json` holds: per run the accuracies in [0, 1], the baselines, the gain, the seconds.
    """
    began = time.perf_counter()
    report("making the scenes")
    data = {**recipe.train_data, "cache_dir": str(output_dir / "data")}
    train_rows = load_in_memory(data)
    evaluation_rows = load_in_memory({**data, **recipe.evaluation_data}) if recipe.evaluation_data else None
    test_rows = load_in_memory({**data, "split": "test"})
    report(f"{len(train_rows)} scenes to train on, {len(test_rows)} held-out scenes to test on")
    result: dict[str, Any] = {"seed": recipe.training.get("seed"), "baselines": evaluate_baselines(test_rows)}
    models, curves = {}, {}
    for name, label in RUNS.items():
        report(f"training {label}")
        trained = _train(recipe, name, train_rows, evaluation_rows, output_dir)
        models[name], processor, curves[label], seconds = trained
        measured = {**_evaluate(models[name], processor, test_rows), WEIGHTS_KEY: hash_weights(models[name])}
        result[name] = {**measured, "training_seconds": seconds}
        _save(models[name], processor, result[name], recipe, name, output_dir / name)
    result["gain"] = result["with_amc"]["pointing_game_accuracy"] - result["without_amc"]["pointing_game_accuracy"]
    result["is_in_range"] = is_in_range(result)
    result["curves"] = str(draw_curves(curves, output_dir / "curves.png", title="Demo: training without and with AMC"))
    result["sheet"] = str(draw_comparison(models, processor, test_rows[:SHEET_SCENES], output_dir / "sheet.png"))
    result["seconds"] = time.perf_counter() - began
    write_json(output_dir / "metrics.json", result)
    return result


def load_in_memory(data: dict[str, Any]) -> list[dict]:
    """Rows of a small data set with decoded images, read once."""
    return list(load_grounding_dataset(**data))


def _train(
    recipe: Recipe, name: str, train_rows: list[dict], evaluation_rows: list[dict] | None, output_dir: Path
) -> tuple[AlbefForImageTextMatching, AlbefProcessor, dict[str, list[tuple[float, float]]], float]:
    """One run: the matching model, the processor, the logged curves and the seconds of training."""
    recipe = copy.deepcopy(recipe)
    if name == "without_amc":
        recipe.training["amc_weight"] = 0.0
    arguments = build_arguments(recipe, output_dir / name)
    phrases = (phrase["phrase"] for row in train_rows for phrase in row["phrases"])
    model, processor = build_model_and_processor(recipe.model, phrases, arguments.seed)  # the same start for both
    trainer = AmcTrainer(model, arguments, processor, train_dataset=train_rows, eval_dataset=evaluation_rows)
    began = time.perf_counter()
    try:
        trainer.train()
    except (TrainingTerminated, TrainingInterrupted) as stopped:
        shutil.rmtree(stopped.checkpoint, ignore_errors=True)
        report("stopped; the demo keeps no checkpoints, and starts from scratch the next time.")
        raise
    seconds = time.perf_counter() - began
    terms = ("itc_loss", "itm_loss", "mlm_loss", "amc_loss", "eval_pointing_game_accuracy")
    curves = {
        term: [(entry["step"], entry[term]) for entry in trainer.state.log_history if term in entry] for term in terms
    }
    return model.export_matching_model().eval(), processor, {k: v for k, v in curves.items() if v}, seconds


def _evaluate(model: AlbefForImageTextMatching, processor: AlbefProcessor, rows: list[dict]) -> dict[str, Any]:
    """Accuracies on held-out scenes, and with the phrases of each scene exchanged."""
    metrics = evaluate_grounding(model, processor, rows, batch_size=64, phrases_per_chunk=256).metrics
    shuffled = [shuffle_phrases(row) for row in rows]
    shuffled_metrics = evaluate_grounding(model, processor, shuffled, batch_size=64, phrases_per_chunk=256).metrics
    return {**metrics, "shuffled_phrases_accuracy": shuffled_metrics["pointing_game_accuracy"]}


def _save(
    model: AlbefForImageTextMatching,
    processor: AlbefProcessor,
    metrics: dict[str, Any],
    recipe: Recipe,
    name: str,
    folder: Path,
) -> None:
    """Checkpoint, its metrics and its card."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_json(folder / "metrics.json", {"test": metrics})
    arguments = build_arguments(recipe, folder)
    if name == "without_amc":
        arguments.amc_weight = 0.0
    card = ModelCard(
        model_name=f"albef-demo-{name.replace('_', '-')}",
        description=f"A small ALBEF trained {RUNS[name]} on synthetic scenes of coloured shapes by `albef-amc demo`.",
        metrics_file=folder / "metrics.json",
        evaluation_dataset="synthetic scenes",
        evaluation_command="albef-amc demo",
        weights_sha256=metrics[WEIGHTS_KEY],
        image_size=model.config.vision_config.image_height_width,
        datasets=["synthetic scenes"],
        recipe="demo",
        training_arguments=list_card_arguments(arguments),
        hardware=describe_device(arguments.device),
        training_seconds=metrics["training_seconds"],
        software=describe_software(),
    )
    write_model_card(folder, card)


def draw_comparison(
    models: dict[str, AlbefForImageTextMatching], processor: AlbefProcessor, rows: list[dict], path: Path
) -> Path:
    """Sheet of one phrase of each scene: scene, phrase, region, and the heatmap of every model.

    Args:
        models (`dict`): model under its name in `RUNS`.
        processor ([`AlbefProcessor`]): of all models.
        rows (list of `dict`): data set rows.
        path (`Path`): picture to write.
    """
    texts = [[row["phrases"][index % len(row["phrases"])]["phrase"]] for index, row in enumerate(rows)]
    inputs = processor(images=[row["image"] for row in rows], text=texts, return_tensors="pt")
    answers = {name: processor.post_process_grounding(model.ground(**inputs)) for name, model in models.items()}
    lines = []
    for index, row in enumerate(rows):
        phrase = row["phrases"][index % len(row["phrases"])]
        cells = [overlay_heatmap(row["image"]), phrase["phrase"], overlay_heatmap(row["image"], boxes=phrase["boxes"])]
        for name in models:
            answer = answers[name][index][0]
            cells.append(
                overlay_heatmap(row["image"], answer["heatmap"], boxes=phrase["boxes"], point=answer["point"].tolist())
            )
        lines.append(cells)
    headings = ["scene", "phrase", "region", *(f"heatmap {RUNS[name]}" for name in models)]
    return draw_sheet(lines, headings, path, has_colour_bar=True)


def is_in_range(result: dict[str, Any]) -> bool:
    """Whether a result is what the demo is expected to reach."""
    with_amc = result["with_amc"]
    return (
        with_amc["pointing_game_accuracy"] >= LEAST_ACCURACY
        and result["gain"] >= LEAST_GAIN
        and with_amc["shuffled_phrases_accuracy"] < MOST_SHUFFLED_ACCURACY
    )


def _summarize(result: dict[str, Any]) -> dict[str, Any]:
    """The result for a person: percent, and whether it is in the expected range."""

    def percent(fraction: float) -> str:
        return f"{100 * fraction:.1f} %"

    lines: dict[str, Any] = {}
    for name, label in RUNS.items():
        lines[f"pointing game {label}"] = percent(result[name]["pointing_game_accuracy"])
        for kind, accuracy in result[name]["pointing_game_accuracy_by_type"].items():
            lines[f"    {kind} ({label})"] = percent(accuracy)
    lines["gain of AMC"] = f"{100 * result['gain']:.1f} points"
    lines["with AMC, phrases of a scene exchanged"] = percent(result["with_amc"]["shuffled_phrases_accuracy"])
    lines.update({name.replace("_", " "): percent(value) for name, value in result["baselines"].items()})
    expected = (
        f"at least {100 * LEAST_ACCURACY:.0f} % with AMC, {100 * LEAST_GAIN:.0f} points more than without, under "
        f"{100 * MOST_SHUFFLED_ACCURACY:.0f} % with exchanged phrases"
    )
    lines["in the expected range"] = f"{'yes' if result['is_in_range'] else 'NO'} ({expected})"
    lines["seconds"] = f"{result['seconds']:.0f}"
    lines["pictures"] = f"{result['sheet']}, {result['curves']}"
    return lines
