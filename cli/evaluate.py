# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc evaluate`: a checkpoint on a benchmark with its published protocol, or on any data set."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from accelerate import PartialState

from albef_amc import AlbefForImageTextMatching
from albef_amc.cli.comparison import list_comparison_lines
from albef_amc.cli.evaluated_model import LoadedModel, ModelChoice, load_model
from albef_amc.cli.options import DataOption, DeviceOption, ImageSizeOption, JsonOption, read_data
from albef_amc.cli.output_paths import check_output_file
from albef_amc.cli.reporting import is_main_process, print_result, report, to_plain, track
from albef_amc.cli.switches import CompileOption, MatmulPrecisionOption, PackOption, PrecisionOption, Switches
from albef_amc.datasets_scripts import (
    BUILDERS,
    check_builder_options,
    check_builder_split,
    find_dataset_commit,
    load_grounding_dataset,
)
from albef_amc.datasets_scripts.loading import ALL_SPLITS
from albef_amc.evaluation.benchmark import evaluate_split
from albef_amc.evaluation.faithfulness import NUM_STEPS, FaithfulnessSettings
from albef_amc.evaluation.grounding_evaluation import GroundingEvaluation
from albef_amc.evaluation.grounding_metrics import (
    ALL_METRICS,
    BOX_ACCURACY,
    HEATMAP_METRIC,
    POINTING_ACCURACY,
    POINTING_GAME,
    RECALL_METRIC,
    check_metrics,
)
from albef_amc.evaluation.heatmap_measures import choose_thresholds
from albef_amc.evaluation.intervals import NUM_RESAMPLES
from albef_amc.evaluation.layer_choice import TIE_RULE, check_development_split, choose_layer, list_layers
from albef_amc.evaluation.phrase_coverage import measure_coverage
from albef_amc.evaluation.phrase_locators import EvaluatedModel
from albef_amc.evaluation.protocols import (
    EvaluationRecipe,
    find_evaluation_recipe,
    has_pattern,
    list_data_splits,
    load_evaluation_recipe,
    resolve_split,
)
from albef_amc.evaluation.results import write_results
from albef_amc.evaluation.zero_shot_detectors import ZeroShotDetector
from albef_amc.grounders.methods import METHODS as EXPLANATION_METHODS
from albef_amc.trainer.callbacks import MOST_PHRASES
from albef_amc.trainer.data.mixtures import iterate_texts
from albef_amc.trainer.run_facts import build_evaluation_command
from albef_amc.trainer.setting_checks import MOST_WORKERS

DEFAULT_SPLIT = "test"
MAX_WORKERS = 8
# Parts of a result that are printed for people in lines of their own.
COMPARISON = ("protocol", "published", "skipped", "layers")
ALL_LAYERS = "all"
OF_ALL_LAYERS = ("split", "baselines", *COMPARISON)  # entries of a result that do not differ between layers


def evaluate(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="Folder or Hub repository: ALBEF, BLIP, CLIP, SigLIP, ViLT, BridgeTower, or a detector (OWLv2, "
            "GroundingDINO); or base, which ships."
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE_OR_DATASET",
            help="Recipe (refcoco_plus, flickr30k_entities, ..., a YAML file), builder, folder or Hub repository.",
        ),
    ],
    splits: Annotated[
        list[str] | None, typer.Argument(help="Splits; those of the recipe, or test, by default.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="One split of a data set, such as test or all, read without a recipe.")
    ] = None,
    options: DataOption = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help=f"Some of {','.join(ALL_METRICS)}; by default those of the recipe, or pointing_game and with "
            "proposals box_accuracy."
        ),
    ] = None,
    faithfulness_steps: Annotated[
        int, typer.Option(min=1, max=10_000, help="Steps of insertion and deletion, each a pass of the model.")
    ] = NUM_STEPS,
    tuning_split: Annotated[
        str | None, typer.Option(help="Split that chooses the mask thresholds of phrase_recall; 0.5 without one.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images encoded together.")] = 16,
    num_workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MOST_WORKERS,
            help="Processes that decode and resize images; on a CPU 0 by default, since it is busy.",
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            help="Number of the layer to explain, that of the checkpoint by default; all evaluates every layer and "
            "names the best, on a development split."
        ),
    ] = None,
    score: Annotated[str | None, typer.Option(help="Score to explain, itm or itc, if a model has both.")] = None,
    method: Annotated[
        str | None, typer.Option(help=f"How heatmaps are made: {', '.join(EXPLANATION_METHODS)}.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub repository.")] = None,
    choose_on_test: Annotated[
        bool, typer.Option("--choose-on-test", help="Let `--layer all` choose on test data; the result says so.")
    ] = False,
    image_size: ImageSizeOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = "float32",
    matmul_precision: MatmulPrecisionOption = "highest",
    pack_weights: PackOption = False,
    compile_encoders: CompileOption = False,
    baselines: Annotated[bool, typer.Option(help="Also score centre, random point and largest object.")] = False,
    resamples: Annotated[
        int, typer.Option(min=0, max=1_000_000, help="Draws of the bootstrap for 95 % intervals; 0 for none.")
    ] = NUM_RESAMPLES,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap, random maps and random weights.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", callback=check_output_file, help="Also write metrics and points: .parquet or JSON."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Scores a checkpoint on a benchmark beside the published numbers, or on a data set; also under torchrun."""
    switches = Switches(precision, matmul_precision, pack_weights, compile_encoders)
    recipe = choose_recipe(target, split)
    chosen = choose_splits(splits or [], split, recipe)
    data = read_data(options)
    asked = None if metrics is None else check_metrics([name.strip() for name in metrics.split(",")])
    if tuning_split is not None and RECALL_METRIC not in (asked or (recipe and recipe.metrics) or ()):
        raise ValueError(f"`--tuning-split` is for {RECALL_METRIC}: name it among the `--metrics`.")
    number = read_layer(layer)
    if layer == ALL_LAYERS:
        default_metrics = None if recipe is None else recipe.metrics
        check_layer_choice(chosen, asked or default_metrics, tuning_split)
    elif choose_on_test:
        raise ValueError("`--choose-on-test` is for `--layer all`. Leave it out.")
    for name in chosen if tuning_split is None else [*chosen, tuning_split]:
        check_rows(target, recipe, name, data)
    if layer == ALL_LAYERS:
        is_test = check_development_split(chosen[0], list_parts(target, recipe, chosen[0], data), choose_on_test)
    rank, world_size = join_processes(device)
    recipe_size = None if recipe is None else recipe.image_size
    choice = ModelChoice(checkpoint, revision, number, score, method)
    loaded_model = load_model(choice, image_size, recipe_size, device, switches)
    processor = loaded_model.processor
    measure = partial(
        evaluate_split,
        processor=processor,
        recipe=recipe,
        batch_size=batch_size,
        num_workers=choose_num_workers(loaded_model.device, world_size) if num_workers is None else num_workers,
        rank=rank,
        world_size=world_size,
        progress=lambda batches: track(batches, "grounding"),
        faithfulness=FaithfulnessSettings(faithfulness_steps, seed),
    )
    thresholds = None
    words = (["--layer", ALL_LAYERS] if layer == ALL_LAYERS else []) + choice.list_words()
    words += ["--choose-on-test"] * choose_on_test + ([] if asked is None else ["--metrics", ",".join(asked)])
    if tuning_split is not None:
        if isinstance(loaded_model.model, ZeroShotDetector):
            raise ValueError(
                f"`--tuning-split` chooses thresholds of heatmaps, but {checkpoint} is a detector and returns boxes. "
                "Leave it out."
            )
        _, rows = load_rows(target, recipe, tuning_split, data)
        with loaded_model.switches.applied(loaded_model.device):
            _, tuned = measure(
                loaded_model.model, rows=rows, split=tuning_split, metrics=(RECALL_METRIC,), num_resamples=0
            )
        usable = [phrase.measures[RECALL_METRIC] for phrase in tuned.results if phrase.measures is not None]
        thresholds = choose_thresholds(usable)
        words += ["--tuning-split", tuning_split]
    words += [] if faithfulness_steps == NUM_STEPS else ["--faithfulness-steps", str(faithfulness_steps)]
    words += switches.list_words()
    loaded = {name: load_rows(target, recipe, name, data) for name in chosen}
    results, phrases = {}, {}
    for name, (source, rows) in loaded.items():
        if isinstance(loaded_model.model, AlbefForImageTextMatching):
            report_coverage(name, rows, processor.tokenizer, None if recipe is None else recipe.max_length)
        measure_split = partial(
            measure,
            rows=rows,
            split=name,
            data=source,
            baselines=baselines,
            num_resamples=resamples,
            seed=seed,
            metrics=asked,
            mask_thresholds=thresholds,
        )
        if layer == ALL_LAYERS:
            explained, measured, evaluation = measure_layers(loaded_model, measure_split)
            measured["layer_choice"]["is_test_data"] = is_test
        else:
            explained = loaded_model
            with explained.switches.applied(explained.device):
                measured, evaluation = measure_split(explained.model)
        report_missing_annotations(measured, recipe, asked)
        dataset = target if recipe is None else recipe.name
        dataset_commit = find_dataset_commit(source["name"], rows)
        origin = {"checkpoint": checkpoint, **explained.facts, "dataset": dataset}
        origin |= {} if dataset_commit is None else {"dataset_commit": dataset_commit}
        command = build_evaluation_command(target, name, data, image_size, recipe is not None, words)
        computed = {"precision": precision, "matmul_precision": matmul_precision, "command": command}
        results[name] = to_plain({**origin, **computed, **measured})
        phrases[name] = evaluation.to_rows()
    if output is not None and is_main_process():
        write_results(output, results, phrases)
    print_results(results, as_json)


def read_layer(layer: str | None) -> int | None:
    """The number of a layer; `None` for the default one and for all of them.

    Raises:
        ValueError: neither a number nor `all`.
    """
    if layer in (None, ALL_LAYERS):
        return None
    if not str(layer).isdecimal():
        raise ValueError(f"`--layer` must be the number of a layer, counted from 0, or {ALL_LAYERS}, got {layer!r}.")
    return int(str(layer))


def check_layer_choice(splits: Sequence[str], metrics: Sequence[str] | None, tuning_split: str | None) -> None:
    """Refuses what `--layer all` cannot be combined with.

    Raises:
        ValueError: several splits, metrics without the pointing game, or a split for thresholds.
    """
    if len(splits) > 1:
        raise ValueError(
            f"`--layer {ALL_LAYERS}` chooses on one split, got {', '.join(splits)}. Name the development split."
        )
    if metrics is not None and POINTING_GAME not in metrics:
        raise ValueError(f"`--layer {ALL_LAYERS}` chooses by {POINTING_GAME}: name it among the `--metrics`.")
    if tuning_split is not None:
        raise ValueError(
            f"`--tuning-split` chooses thresholds for one layer. Choose that first (`--layer {ALL_LAYERS}`), then "
            "give its number."
        )


def list_parts(target: str, recipe: EvaluationRecipe | None, split: str, options: dict[str, Any]) -> list[str]:
    """The splits of the data that a split is made of."""
    data = choose_data(target, recipe, options)
    resolved = split if recipe is None else resolve_split(recipe, split, data)
    return list_data_splits(data) if resolved.partition("[")[0] == ALL_SPLITS else resolved.split("+")


def measure_layers(
    loaded_model: LoadedModel, measure: Callable[[EvaluatedModel], tuple[dict[str, Any], GroundingEvaluation]]
) -> tuple[LoadedModel, dict[str, Any], GroundingEvaluation]:
    """Measures every layer that can be explained.

    Args:
        loaded_model ([`~cli.evaluated_model.LoadedModel`]): the model.
        measure (callable): from a model to its result and evaluation.

    Returns:
        The model with the best layer explained, its result and evaluation. The result has `layer_choice`, how the
        layer was chosen, and `layers`, number of the layer -> its result.
    """
    measured: dict[int, dict[str, Any]] = {}
    evaluations: dict[int, GroundingEvaluation] = {}
    for layer in list_layers(loaded_model.model):
        explained = loaded_model.explain(layer)
        with explained.switches.applied(explained.device):
            measured[layer], evaluations[layer] = measure(explained.model)
        report(f"layer {layer}: {POINTING_ACCURACY} {measured[layer][POINTING_ACCURACY]:.4f}")
    best = choose_layer({layer: result[POINTING_ACCURACY] for layer, result in measured.items()})
    result: dict[str, Any] = {
        **measured[best],
        "layer_choice": {"measure": POINTING_ACCURACY, "ties": TIE_RULE},
        "layers": {
            str(layer): {name: value for name, value in one.items() if name not in OF_ALL_LAYERS}
            for layer, one in measured.items()
        },
    }
    return loaded_model.explain(best), result, evaluations[best]


def choose_recipe(target: str, split: str | None) -> EvaluationRecipe | None:
    """The recipe that the words mean, or `None` for a plain data set.

    A name that is a recipe and a builder means the recipe, unless `--split` asks for the plain data set.

    Raises:
        ValueError: `--split` for a recipe that is not a builder.
    """
    path = find_evaluation_recipe(target)
    if path is None or (split is not None and target in BUILDERS):
        return None
    if split is not None:
        raise ValueError(
            f"`--split {split}` reads a data set without a recipe, and {target} is a recipe. Name its splits after "
            f"it: albef-amc evaluate CHECKPOINT {target} {split}"
        )
    return load_evaluation_recipe(path)


def choose_splits(splits: list[str], split: str | None, recipe: EvaluationRecipe | None) -> list[str]:
    """The splits to evaluate, each once.

    Raises:
        ValueError: splits after the data set and `--split`.
    """
    if splits and split is not None:
        raise ValueError(f"`--split {split}` and {', '.join(splits)} after the data set: give one or the other.")
    if split is not None:
        splits = [split]
    default = [DEFAULT_SPLIT] if recipe is None else list(recipe.splits)
    return list(dict.fromkeys(splits)) or default


def join_processes(device: str | None) -> tuple[int, int]:
    """Rank and number of the processes that a launcher started; opens their process group."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    state = PartialState(cpu=device == "cpu")
    return state.process_index, state.num_processes


def choose_num_workers(device: torch.device, world_size: int) -> int:
    """Processes that prepare images beside each process of an evaluation."""
    if device.type == "cpu":
        return 0
    return min(MAX_WORKERS, (os.cpu_count() or 1) // world_size)


def choose_data(target: str, recipe: EvaluationRecipe | None, options: dict[str, Any]) -> dict[str, Any]:
    """Name and arguments of the data.

    Raises:
        ValueError: `--data name=...` without a recipe, whose data it would replace.
    """
    if recipe is None and "name" in options:
        raise ValueError(f"`--data name={options['name']}` is for recipes; {target} is the data set here. Name one.")
    return {"name": target, **options} if recipe is None else recipe.choose_data(options)


def check_rows(target: str, recipe: EvaluationRecipe | None, split: str, options: dict[str, Any]) -> None:
    """Refuses data that is missing, options and splits that it does not have, before a model or a row is loaded.

    Raises:
        ValueError: an unknown option or split.
        TypeError: a value of another type than the option has.
        FileNotFoundError: no such data set or folder.
    """
    data = choose_data(target, recipe, options)
    arguments = {name: value for name, value in data.items() if name != "name"}
    if recipe is not None and has_pattern(recipe, split):
        check_builder_options(data["name"], arguments)  # which splits there are is known when the data is read
    else:
        check_builder_split(data["name"], split if recipe is None else resolve_split(recipe, split, data), arguments)


def load_rows(
    target: str, recipe: EvaluationRecipe | None, split: str, options: dict[str, Any]
) -> tuple[dict[str, Any], Any]:
    """Name and arguments of the data, and the rows of a split.

    Raises:
        ValueError: a split without rows.
    """
    data = choose_data(target, recipe, options)
    source = split if recipe is None else resolve_split(recipe, split, data)
    arguments = {name: value for name, value in data.items() if name != "name"}
    rows = load_grounding_dataset(data["name"], source, **arguments)
    if not len(rows):
        raise ValueError(f"split {source} of {data['name']} has no rows: nothing can be evaluated. Choose another.")
    protocol = "no recipe" if recipe is None else f"recipe {recipe.name}"
    report(f"{len(rows)} images of {data['name']}, split {source}, {protocol}")
    return data, rows


def report_coverage(split: str, rows: Any, tokenizer: Any, max_length: int | None) -> None:
    """Reports how well the vocabulary covers the phrases of a split, and how many of them are cut off."""
    if is_main_process():
        coverage = measure_coverage(islice(iterate_texts(rows), MOST_PHRASES), tokenizer, max_length)
        for sentence in (coverage.describe(), *coverage.list_warnings()):
            report(f"{split}: {sentence.rstrip('.')}")


def report_missing_annotations(
    measured: dict[str, Any], recipe: EvaluationRecipe | None, asked: Sequence[str] | None
) -> None:
    """Reports proposals and outlines that the data of a split lacks, and what that changes in its numbers."""
    ranks_proposals = asked is None and recipe is not None and recipe.metrics is None and recipe.proposal_ranking
    if ranks_proposals and BOX_ACCURACY not in measured:
        report(f"no proposals in the data: {BOX_ACCURACY} is skipped (`--data detections_file=FILE`)")
    num_boxes = measured.get("num_regions_from_boxes")
    if num_boxes:
        report(f"{num_boxes} phrases have neither polygons nor masks: {HEATMAP_METRIC} takes their boxes")


def print_results(results: dict[str, dict[str, Any]], as_json: bool) -> None:
    """The result of the only split, or split -> result; for people the published numbers below."""
    only = next(iter(results.values())) if len(results) == 1 else None
    if as_json:
        print_result(results if only is None else only, as_json=True)
        return
    plain = {
        split: {name: value for name, value in result.items() if name not in COMPARISON}
        for split, result in results.items()
    }
    print_result(plain if only is None else next(iter(plain.values())))
    lines = [line for split, result in results.items() for line in list_comparison_lines(split, result)]
    if is_main_process() and lines:
        print("\n".join(lines), flush=True)
