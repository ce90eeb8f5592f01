# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc demo`: AMC's experiment without a download: the base model, trained further without and with AMC."""

import copy
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from albef_amc import AlbefForImageTextMatching, AlbefForPreTraining, AlbefProcessor
from albef_amc.cli.options import JsonOption, OutputFolderOption, SettingsOption
from albef_amc.cli.reporting import print_result, report
from albef_amc.datasets_scripts import load_grounding_dataset
from albef_amc.evaluation.grounding_evaluation import answer_baselines, evaluate_grounding, shuffle_phrases
from albef_amc.evaluation.grounding_metrics import (
    POINTING_ACCURACY,
    POINTING_GAME,
    RECALL_METRIC,
    RECALLS,
    PhraseResult,
    score_points,
)
from albef_amc.evaluation.hard_exchanges import evaluate_exchanges
from albef_amc.evaluation.heatmap_measures import choose_thresholds
from albef_amc.evaluation.intervals import CONFIDENCE, NUM_RESAMPLES, bootstrap_gain
from albef_amc.evaluation.match_pairs import evaluate_matching
from albef_amc.evaluation.weight_hash import hash_weights
from albef_amc.model_cards import WEIGHTS_KEY, ModelCard, write_model_card
from albef_amc.saving_albef import write_json
from albef_amc.trainer.amc_config import AmcConfig
from albef_amc.trainer.amc_trainer import AmcTrainer
from albef_amc.trainer.reliability.run_lock import lock_folder
from albef_amc.trainer.reliability.stop_signals import TrainingInterrupted, TrainingTerminated
from albef_amc.trainer.run_facts import describe_device, describe_recipe, describe_software, list_card_arguments
from albef_amc.trainer.training_recipes import Recipe, build_arguments, build_model_and_processor, load_recipe
from albef_amc.visualization.drawing import draw_curves, draw_sheet, overlay_heatmap, save_picture

RUNS = {"without_amc": "without AMC", "with_amc": "with AMC"}
MODELS = {"base": "base", **RUNS}
TERMS = ("itc_loss", "itm_loss", "mlm_loss", "amc_loss", "eval_pointing_game_accuracy", "eval_matching_auc")
LARGEST_OBJECT = "largest_object"
BOX_RECALL = RECALLS["any"]
SHEET_SCENES = 8
QUICKSTART_SCENE = 2  # number of the test scene that is left as a picture
BATCH_SIZE, PHRASES_PER_CHUNK = 64, 256  # in evaluations

# What the demo is expected to reach on held-out scenes (three seeds in benchmarks/results).
LEAST_ACCURACY = 0.7
LEAST_GAIN = 0.2
LEAST_GAIN_OVER_LARGEST_OBJECT = 0.3
MOST_SHUFFLED_ACCURACY = 0.3
MOST_AUC_LOST = 0.01


@dataclass(frozen=True)
class DemoScenes:
    """Rows of the demo, with decoded images.

    Args:
        train (list): scenes to train on.
        progress (list, *optional*): validation scenes that are evaluated during training, for the curves.
        validation (list): scenes that choose the share of a heatmap's maximum that makes a box.
        test (list): held-out scenes, a part of whose compositions occur in no other split.
    """

    train: list[dict]
    progress: list[dict] | None
    validation: list[dict]
    test: list[dict]


def demo(
    output_dir: OutputFolderOption = Path("runs/demo"),
    recipe: Annotated[str, typer.Option(help="Recipe of both runs.")] = "demo",
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Trains the base model on synthetic scenes, without and with AMC, and compares all three."""
    with redirect_stdout(sys.stderr), lock_folder(output_dir):  # the Trainer prints its log to standard output
        result = run_demo(load_recipe(recipe, settings or ()), output_dir)
    print_result(result if as_json else _summarize(result), as_json)


def run_demo(recipe: Recipe, output_dir: Path) -> dict[str, Any]:
    """The base model, both runs that start from it, and their comparison; everything is written under `output_dir`.

    Returns:
        `dict`: what `metrics.json` holds. Under each name of `MODELS` what was measured on held-out scenes; beside
        them the rules that read no words, the gains with their intervals, the logged terms of both runs, the scene of
        the quickstart, and the seconds.

    Raises:
        ValueError: a recipe whose model is not an ALBEF.
    """
    began = time.perf_counter()
    report("making the scenes")
    scenes = load_scenes(recipe, output_dir)
    report(f"{len(scenes.train)} scenes to train on, {len(scenes.test)} held-out scenes to test on")
    rules = answer_baselines(scenes.test)
    result: dict[str, Any] = {"seed": recipe.training.get("seed")}
    result["baselines"] = {rule: score_points(answered)[POINTING_ACCURACY] for rule, answered in rules.items()}
    answers, models, logs = {LARGEST_OBJECT: rules[LARGEST_OBJECT]}, {}, {}
    for name, label in MODELS.items():
        run = _choose_run(recipe, name)
        arguments = build_arguments(run, output_dir / name)
        phrases = (phrase["phrase"] for row in scenes.train for phrase in row["phrases"])
        model, processor = build_model_and_processor(run.model, phrases, arguments.seed)  # the same start for all
        if not isinstance(model, AlbefForPreTraining):
            raise ValueError(
                f"`model.checkpoint` of the demo must be an ALBEF, got {run.model.checkpoint!r}. Train "
                "other models with `albef-amc train`."
            )
        facts: dict[str, Any] = {}
        if name in RUNS:
            report(f"training {label}")
            facts["training_seconds"], logs[name] = _train(model, arguments, processor, scenes)
        models[name] = model.export_matching_model().eval()
        report(f"measuring {label}")
        measured, answers[name] = measure_model(models[name], processor, scenes)
        result[name] = {**measured, **facts}
        if name in RUNS:
            on_card = {**result[name], "baselines": result["baselines"]}
            _save(models[name], processor, on_card, run, arguments, name)
    result |= compare_models(result, answers)
    result["is_in_range"] = is_in_range(result)
    result["scene"] = _leave_scene(scenes.test, models["with_amc"], processor, output_dir / "scene.png")
    curves = {RUNS[name]: terms for name, terms in logs.items()}
    result["curves"] = str(draw_curves(curves, output_dir / "curves.png", title="Demo: training without and with AMC"))
    result["sheet"] = str(draw_comparison(models, processor, scenes.test[:SHEET_SCENES], output_dir / "sheet.png"))
    result["logs"] = logs
    result["seconds"] = time.perf_counter() - began
    write_json(output_dir / "metrics.json", result)
    return result


def load_scenes(recipe: Recipe, output_dir: Path) -> DemoScenes:
    """The scenes of a recipe, made once; each split is read into memory with its images decoded."""
    data = {**recipe.train_data, "cache_dir": str(output_dir / "data")}
    progress = recipe.evaluation_data
    return DemoScenes(
        train=_load_in_memory(data),
        progress=None if progress is None else _load_in_memory({**data, **progress}),
        validation=_load_in_memory({**data, "split": "validation"}),
        test=_load_in_memory({**data, "split": "test"}),
    )


def _load_in_memory(data: dict[str, Any]) -> list[dict]:
    return list(load_grounding_dataset(**data))


def _choose_run(recipe: Recipe, name: str) -> Recipe:
    """The recipe of a run: all are equal but for the weight of AMC."""
    run = copy.deepcopy(recipe)
    if name != "with_amc":
        run.training["amc_weight"] = 0.0
    return run


def _train(
    model: AlbefForPreTraining, arguments: AmcConfig, processor: AlbefProcessor, scenes: DemoScenes
) -> tuple[float, dict[str, list[tuple[float, float]]]]:
    """Trains a model; the seconds, and (step, value) pairs of the logged terms."""
    trainer = AmcTrainer(model, arguments, processor, train_dataset=scenes.train, eval_dataset=scenes.progress)
    began = time.perf_counter()
    try:
        trainer.train()
    except (TrainingTerminated, TrainingInterrupted) as stopped:
        shutil.rmtree(stopped.checkpoint, ignore_errors=True)
        report("stopped; the demo keeps no checkpoints, and starts again from the base model the next time.")
        raise
    seconds = time.perf_counter() - began
    log = trainer.state.log_history
    curves = {term: [(entry["step"], entry[term]) for entry in log if term in entry] for term in TERMS}
    return seconds, {term: pairs for term, pairs in curves.items() if pairs}


def measure_model(
    model: AlbefForImageTextMatching, processor: AlbefProcessor, scenes: DemoScenes
) -> tuple[dict[str, Any], list[PhraseResult]]:
    """What the demo measures of a model on held-out scenes, and the answers to their phrases.

    The numbers are the pointing game and box recall over all phrases and per type; the pointing game with the
    phrases of each scene exchanged; the area under the ROC curve of the matching score against phrases of other
    scenes, and against phrases after an exchange of words; the hash of the weights.

    A box is compared as in `metrics/phrase_recall`: the pixels that reach a share of the heatmap's maximum, chosen
    for each model on validation scenes.
    """

    def evaluate(rows: list[dict], metrics: Sequence[str], thresholds: dict[str, float] | None = None) -> Any:
        return evaluate_grounding(
            model,
            processor,
            rows,
            metrics=metrics,
            mask_thresholds=thresholds,
            batch_size=BATCH_SIZE,
            phrases_per_chunk=PHRASES_PER_CHUNK,
        )

    tuned = evaluate(scenes.validation, [RECALL_METRIC])
    thresholds = choose_thresholds([phrase.measures[RECALL_METRIC] for phrase in tuned.results])
    evaluation = evaluate(scenes.test, [POINTING_GAME, RECALL_METRIC], thresholds)
    exchanged = evaluate([shuffle_phrases(row) for row in scenes.test], [POINTING_GAME])
    measured = {
        **evaluation.metrics,
        "shuffled_phrases_accuracy": exchanged.metrics[POINTING_ACCURACY],
        "matching_auc": evaluate_matching(model, processor, scenes.test, batch_size=BATCH_SIZE),
        "exchange_auc": evaluate_exchanges(model, processor, scenes.test, BATCH_SIZE),
        WEIGHTS_KEY: hash_weights(model),
    }
    return measured, evaluation.results


def compare_models(result: dict[str, Any], answers: dict[str, list[PhraseResult]]) -> dict[str, Any]:
    """Gains of AMC with their paired intervals over scenes, and the changes of the matching AUC.

    Args:
        result (`dict`): what was measured, under the names of `MODELS`, and `baselines`.
        answers (`dict`): answers to the held-out phrases, of the models and of the largest object.

    Returns:
        `dict`: `gain` over the same budget without AMC and `gain_over_largest_object`, in [-1, 1];
        `confidence_interval` of both, with `None` for fewer than 30 scenes; `matching_auc_change`.
    """
    accuracy = result["with_amc"][POINTING_ACCURACY]
    scenes = [answer.image_id for answer in answers["with_amc"]]
    hits = {name: [bool(answer.is_hit) for answer in of_name] for name, of_name in answers.items()}
    intervals: dict[str, Any] = {"confidence": CONFIDENCE, "num_resamples": NUM_RESAMPLES, "computed": {}}
    for key, compared in (("gain", "without_amc"), ("gain_over_largest_object", LARGEST_OBJECT)):
        interval = bootstrap_gain(hits["with_amc"], hits[compared], scenes)
        intervals[key] = None if interval is None else [interval.low, interval.high]
        intervals["computed"][key] = "none: too few scenes" if interval is None else interval.describe()
    return {
        "gain": accuracy - result["without_amc"][POINTING_ACCURACY],
        "gain_over_largest_object": accuracy - result["baselines"][LARGEST_OBJECT],
        "confidence_interval": intervals,
        "matching_auc_change": {
            f"from_{name}": result["with_amc"]["matching_auc"] - result[name]["matching_auc"]
            for name in ("base", "without_amc")
        },
    }


def _save(
    model: AlbefForImageTextMatching,
    processor: AlbefProcessor,
    metrics: dict[str, Any],
    recipe: Recipe,
    arguments: AmcConfig,
    name: str,
) -> None:
    """Checkpoint, its metrics and its card."""
    folder = Path(arguments.output_dir)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_json(folder / "metrics.json", {"test": metrics})
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
        base_model=describe_recipe(recipe)["base_model"],
        hardware=describe_device(arguments.device),
        training_seconds=metrics["training_seconds"],
        software=describe_software(),
    )
    write_model_card(folder, card)


def _leave_scene(
    rows: list[dict], model: AlbefForImageTextMatching, processor: AlbefProcessor, path: Path
) -> dict[str, Any]:
    """Leaves a scene as a picture; its phrases with their boxes, and the answers of a model."""
    row = rows[min(QUICKSTART_SCENE, len(rows) - 1)]
    save_picture(row["image"], path)
    texts = [phrase["phrase"] for phrase in row["phrases"]]
    (answers,) = _ground(model, processor, [row], [texts])
    phrases = [
        {
            "phrase": phrase["phrase"],
            "boxes": phrase["boxes"],
            "point": answer["point"].tolist(),
            "box": answer["box"].tolist(),
        }
        for phrase, answer in zip(row["phrases"], answers, strict=True)
    ]
    return {"picture": str(path), "image_id": row["image_id"], "phrases": phrases}


def _ground(
    model: AlbefForImageTextMatching, processor: AlbefProcessor, rows: list[dict], texts: list[list[str]]
) -> list[list[dict[str, Any]]]:
    """Answers to the texts of each row."""
    inputs = processor(images=[row["image"] for row in rows], text=texts, return_tensors="pt")
    return processor.post_process_grounding(model.ground(**inputs.to(model.device)))


def draw_comparison(
    models: dict[str, AlbefForImageTextMatching], processor: AlbefProcessor, rows: list[dict], path: Path
) -> Path:
    """Sheet of one phrase of each scene: phrase, region, and the heatmap of every model.

    Args:
        models (`dict`): model under its name in `MODELS`.
        processor ([`AlbefProcessor`]): of all models.
        rows (list of `dict`): data set rows.
        path (`Path`): picture to write.
    """
    phrases = [row["phrases"][index % len(row["phrases"])] for index, row in enumerate(rows)]
    texts = [[phrase["phrase"]] for phrase in phrases]
    answers = {name: _ground(model, processor, rows, texts) for name, model in models.items()}
    lines = []
    for index, (row, phrase) in enumerate(zip(rows, phrases, strict=True)):
        cells = [phrase["phrase"], overlay_heatmap(row["image"], boxes=phrase["boxes"])]
        for name in models:
            (answer,) = answers[name][index]
            cells.append(
                overlay_heatmap(row["image"], answer["heatmap"], boxes=phrase["boxes"], point=answer["point"].tolist())
            )
        lines.append(cells)
    headings = ["phrase", "region", *(f"heatmap, {MODELS[name]}" for name in models)]
    return draw_sheet(lines, headings, path, has_colour_bar=True)


def is_in_range(result: dict[str, Any]) -> bool:
    """Whether a result is what the demo is expected to reach."""
    with_amc = result["with_amc"]
    return (
        with_amc[POINTING_ACCURACY] >= LEAST_ACCURACY
        and result["gain"] >= LEAST_GAIN
        and result["gain_over_largest_object"] >= LEAST_GAIN_OVER_LARGEST_OBJECT
        and with_amc["shuffled_phrases_accuracy"] < MOST_SHUFFLED_ACCURACY
        and min(result["matching_auc_change"].values()) >= -MOST_AUC_LOST
    )


def _summarize(result: dict[str, Any]) -> dict[str, Any]:
    """The result for a person: a table of the three models, the gains, and whether they are in the expected range."""
    models = [result[name] for name in MODELS]

    def row(values: Sequence[str]) -> str:
        return "".join(f"{value:>14}" for value in values)

    def percents(fractions: Sequence[float]) -> str:
        return row([f"{100 * fraction:.1f} %" for fraction in fractions])

    lines: dict[str, Any] = {"on held-out scenes": row(list(MODELS.values()))}
    lines["pointing game"] = percents([model[POINTING_ACCURACY] for model in models])
    for kind in models[0][f"{POINTING_ACCURACY}_by_type"]:
        by_type = [model[f"{POINTING_ACCURACY}_by_type"][kind] for model in models]
        lines[f"    {kind.replace('_', ' ')}"] = percents(by_type)
    lines["    phrases of a scene exchanged"] = percents([model["shuffled_phrases_accuracy"] for model in models])
    lines["boxes with IoU 0.5 or more"] = percents([model[BOX_RECALL] for model in models])
    lines["matching AUC, other scenes"] = row([f"{model['matching_auc']:.3f}" for model in models])
    for kind in models[0]["exchange_auc"]:
        lines[f"    {kind} exchanged"] = row([f"{model['exchange_auc'][kind]:.3f}" for model in models])
    rules = ((rule.replace("_", " "), accuracy) for rule, accuracy in result["baselines"].items())
    lines["without reading words"] = ", ".join(f"{rule} {100 * accuracy:.1f} %" for rule, accuracy in rules)
    lines["AMC over the same budget without"] = _show_gain(result, "gain")
    lines["AMC over the largest object"] = _show_gain(result, "gain_over_largest_object")
    lines["in the expected range"] = f"{'yes' if result['is_in_range'] else 'NO'} ({_describe_range()})"
    lines["seconds"] = f"{result['seconds']:.0f}"
    lines["pictures"] = ", ".join((result["sheet"], result["curves"], result["scene"]["picture"]))
    return lines


def _show_gain(result: dict[str, Any], key: str) -> str:
    intervals = result["confidence_interval"]
    shown = f"{100 * result[key]:+.1f} points"
    if intervals[key] is None:
        return shown
    low, high = intervals[key]
    return f"{shown}, {100 * intervals['confidence']:.0f} % interval {100 * low:+.1f} to {100 * high:+.1f}"


def _describe_range() -> str:
    return (
        f"at least {100 * LEAST_ACCURACY:.0f} % with AMC, {100 * LEAST_GAIN:.0f} points more than without, "
        f"{100 * LEAST_GAIN_OVER_LARGEST_OBJECT:.0f} more than the largest object; under "
        f"{100 * MOST_SHUFFLED_ACCURACY:.0f} % with exchanged phrases; matching AUC lower by at most {MOST_AUC_LOST}"
    )
