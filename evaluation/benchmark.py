# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""One split of a benchmark: measured numbers with their intervals, beside the published ones and their protocol."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from albef_amc import AlbefForImageTextMatching, AlbefForPreTraining
from albef_amc.evaluation.faithfulness import FaithfulnessSettings
from albef_amc.evaluation.grounding_evaluation import (
    DEFAULT_FAITHFULNESS,
    DETECTOR_METRICS,
    GroundingEvaluation,
    evaluate_baselines,
    evaluate_grounding,
    has_proposals,
)
from albef_amc.evaluation.grounding_metrics import ALL_METRICS, list_hits
from albef_amc.evaluation.intervals import CONFIDENCE, NUM_RESAMPLES, Interval, bootstrap_accuracy
from albef_amc.evaluation.phrase_locators import EvaluatedModel
from albef_amc.evaluation.protocols import EvaluationRecipe, list_departures
from albef_amc.evaluation.zero_shot_detectors import ZeroShotDetector

LEFT_OUT = "needs a heatmap, and a detector returns boxes"


def evaluate_split(
    model: EvaluatedModel,
    processor: Any,
    rows: Any,
    split: str,
    recipe: EvaluationRecipe | None = None,
    data: Mapping[str, Any] | None = None,
    baselines: bool = False,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    metrics: Sequence[str] | None = None,
    mask_thresholds: Mapping[str, float] | None = None,
    batch_size: int = 16,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    progress: Callable[[Iterable], Iterable] = iter,
    faithfulness: FaithfulnessSettings = DEFAULT_FAITHFULNESS,
) -> tuple[dict[str, Any], GroundingEvaluation]:
    """Numbers of a model on a split, and the phrases that they were computed from.

    Args:
        model, processor: the checkpoint, ALBEF with the image size of the recipe, a [`~grounders.Grounder`] or a
            [`~zero_shot_detectors.ZeroShotDetector`].
        rows (`datasets.Dataset`): the split.
        split (`str`): its name in the recipe or, without one, in the data.
        recipe ([`~evaluation.protocols.EvaluationRecipe`], *optional*): the protocol and the published numbers.
        data (mapping, *optional*): with a recipe: `name` and arguments of the data that `rows` were read from.
        baselines (`bool`, defaults to `False`): also score rules that read no words.
        num_resamples, seed (`int`, default to 1000 and 0): as for [`~evaluation.intervals.bootstrap_accuracy`]; 0
            draws give no intervals.
        metrics (sequence of `str`, *optional*): metrics to compute; by default those that the recipe names, or the
            pointing game and, where recipe and rows allow it, the ranking of proposals.
        mask_thresholds, batch_size, num_workers, rank, world_size, progress, faithfulness: as for
            [`~evaluation.grounding_evaluation.evaluate_grounding`].

    Returns:
        `tuple` of a `dict` and a [`~evaluation.grounding_evaluation.GroundingEvaluation`]. The `dict` holds the
        metrics, `confidence_interval`, and with a recipe `protocol` and `published`; of ALBEF also `image_size`,
        of a detector `num_phrases_without_detection` and `metrics_left_out`, metric -> why.
    """
    ranking, max_length = None, None
    if recipe is not None:
        metrics, max_length = metrics or recipe.metrics, recipe.max_length
        if isinstance(model, ZeroShotDetector) and metrics is recipe.metrics and metrics is not None:
            metrics = [name for name in metrics if name in DETECTOR_METRICS] or None
        ranking = recipe.proposal_ranking if metrics or has_proposals(rows) else None
    began = time.perf_counter()
    evaluation = evaluate_grounding(
        model,
        processor,
        rows,
        box_rule="any" if recipe is None else recipe.box_rule,
        proposal_ranking=ranking,
        rank=rank,
        world_size=world_size,
        # A phrase that is skipped is a miss of a protocol: without it, it would be another benchmark.
        counts_unusable=recipe is not None,
        metrics=metrics,
        mask_thresholds=mask_thresholds,
        batch_size=batch_size,
        num_workers=num_workers,
        max_length=max_length,
        progress=progress,
        faithfulness=faithfulness,
    )
    seconds = time.perf_counter() - began
    size, resample = None, None
    if isinstance(model, AlbefForImageTextMatching | AlbefForPreTraining):
        size, resample = list(model.config.vision_config.image_height_width), processor.image_processor.resample
    result: dict[str, Any] = {
        "split": split,
        **({} if size is None else {"image_size": size}),
        **evaluation.metrics,
        "num_phrases_without_box": evaluation.num_skipped,
        "num_phrases_skipped": len(evaluation.unusable),
        "num_images": len({phrase.image_id for phrase in evaluation.results}),
        "seconds": seconds,
        "phrases_per_second": evaluation.metrics["num_phrases"] / seconds,
    }
    if isinstance(model, ZeroShotDetector):
        found_none = [phrase for phrase in evaluation.results if phrase.point is None and phrase.problem is None]
        result["num_phrases_without_detection"] = len(found_none)
        result["metrics_left_out"] = {name: LEFT_OUT for name in ALL_METRICS if name not in DETECTOR_METRICS}
    if num_resamples:
        result["confidence_interval"] = _describe_intervals(evaluation, num_resamples, seed)
    if baselines:
        result["baselines"] = evaluate_baselines(rows.remove_columns("image"))
    if evaluation.unusable:
        result["skipped"] = _list_skipped(evaluation)
    if recipe is not None:
        departures = list_departures(recipe, split, data or {}, size, resample)
        result |= _compare(recipe, split, departures, result)
    return result, evaluation


def _list_skipped(evaluation: GroundingEvaluation) -> list[dict[str, Any]]:
    """What could not be used, with the phrases that it cost: one entry per picture or phrase."""
    skipped: dict[tuple[str, str], list[str]] = {}
    for phrase in evaluation.unusable:
        skipped.setdefault((phrase.image_id, str(phrase.problem)), []).append(phrase.phrase_id)
    return [
        {"image_id": image_id, "reason": reason, "phrase_ids": phrase_ids}
        for (image_id, reason), phrase_ids in skipped.items()
    ]


def _describe_intervals(evaluation: GroundingEvaluation, num_resamples: int, seed: int) -> dict[str, Any]:
    """Intervals of the accuracies, in [0, 1]; under `computed` in words how each of them was."""
    phrases = evaluation.results
    images, types = [phrase.image_id for phrase in phrases], [phrase.types for phrase in phrases]
    ends: dict[str, Any] = {}
    computed: dict[str, Any] = {}
    for measure, own in list_hits(phrases, evaluation.metrics).items():
        intervals = bootstrap_accuracy(own, images, types, num_resamples, seed)
        ends[measure], computed[measure] = _list_ends(intervals.overall), _describe(intervals.overall)
        by_type = f"{measure}_by_type"
        ends[by_type] = {name: _list_ends(interval) for name, interval in intervals.by_type.items()}
        computed[by_type] = {name: _describe(interval) for name, interval in intervals.by_type.items()}
    return {"confidence": CONFIDENCE, "num_resamples": num_resamples, "seed": seed, **ends, "computed": computed}


def _list_ends(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]


def _describe(interval: Interval | None) -> str:
    return "none: one image" if interval is None else interval.describe()


def _compare(recipe: EvaluationRecipe, split: str, departures: list[str], result: Mapping[str, Any]) -> dict[str, Any]:
    """What others got on the split, and whether this number may stand beside theirs."""
    if result["num_phrases_skipped"]:
        departures = [*departures, f"{result['num_phrases_skipped']} phrases were skipped and count as misses"]
    expected, scored = recipe.num_phrases.get(split), result["num_phrases"]
    if expected is not None and scored != expected:
        departures = [*departures, f"{scored} phrases were scored, not {expected}"]
    return {
        "protocol": {
            "recipe": recipe.name,
            "agrees": not departures,
            "departures": departures,
            "published_num_phrases": expected,
        },
        "published": [
            {"method": entry.method, "measure": entry.measure, "percent": entry.percent, "source": entry.source}
            for entry in recipe.list_published(split)
        ],
    }


__all__ = ["evaluate_split"]
