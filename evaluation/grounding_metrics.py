# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The metrics of an evaluation: what each measures of a phrase's heatmap, and the numbers over all phrases."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import evaluate
import torch

from albef_amc.evaluation.heatmap_measures import (
    MASK_THRESHOLDS,
    MIN_IOU,
    measure_heatmap,
    measure_mask_ious,
    sum_heat_in_boxes,
)
from albef_amc.metrics import get_metric_folder
from albef_amc.ranges_albef import NOT_NEGATIVE, check_choice, check_number
from albef_amc.regions_albef import build_region_mask

POINTING_GAME, BOX_METRIC, HEATMAP_METRIC, RECALL_METRIC = METRICS = (
    "pointing_game",
    "box_accuracy",
    "heatmap_quality",
    "phrase_recall",
)
POINTING_ACCURACY, BOX_ACCURACY = "pointing_game_accuracy", "box_accuracy_at_50"
RECALLS = {protocol: f"recall_at_1_{protocol}" for protocol in ("any", "merged", "all")}
ACCURACIES = (POINTING_ACCURACY, BOX_ACCURACY, *RECALLS.values())
BOX_RULES = ("any", "merged")
OVERLAP_RULES = ("area", "released")
# Metrics of a heatmap that need the model itself: `evaluation/faithfulness.py`.
FAITHFULNESS_METRICS = ("insertion", "deletion", "weight_randomization")
ALL_METRICS = (*METRICS, *FAITHFULNESS_METRICS)
PHRASE_VALUES = (
    "heatmap_quality",
    "mask_iou",
    "faithfulness",
)  # fields of a phrase that only a metric asked for fills
# A heatmap without heat, as `heatmap_quality` takes it: with such a map the areas do not count.
NO_HEAT = (
    dict.fromkeys(("heat_inside", "heat_total", "heat_distance", "num_peaks_inside", "num_peaks"), 0.0),
    {"region_area": 1.0, "image_area": 1.0},
)


def check_metrics(metrics: Sequence[str]) -> tuple[str, ...]:
    """The metrics to compute, each once and in the order of `ALL_METRICS`.

    Raises:
        ValueError: a name that is not a metric (the nearest one is named), or no name.
    """
    if isinstance(metrics, str) or not metrics:
        raise ValueError(f"`metrics` must be a list with some of {', '.join(ALL_METRICS)}, got {metrics!r}.")
    for name in metrics:
        check_choice("metrics", name, ALL_METRICS, "each of ")
    return tuple(name for name in ALL_METRICS if name in metrics)


@dataclass(frozen=True)
class ProposalRanking:
    """How the metric `box_accuracy` ranks proposals by a heatmap.

    Args:
        area_exponent (`float`): proposals are ranked by the sum of the heatmap inside over their area to this power.
        overlap_rule (`str`): `"area"`, or `"released"` for the published convention of inclusive pixel ranges.
    """

    area_exponent: float
    overlap_rule: str

    def __post_init__(self):
        check_number("area_exponent", self.area_exponent, NOT_NEGATIVE)
        check_choice("overlap_rule", self.overlap_rule, OVERLAP_RULES)


# A detector's boxes are ranked by their scores alone.
SCORE_EXPONENT = 0.0
DEFAULT_RANKING = ProposalRanking(area_exponent=0.5, overlap_rule="area")


@dataclass
class PhraseResult:
    """What a model answered for one phrase.

    Args:
        phrase_id, image_id, phrase (`str`): the phrase.
        types (`list` of `str`): its types.
        boxes (`list`): annotated boxes, x_min, y_min, x_max, y_max in pixels of the stored image.
        point (`tuple`, *optional*): x, y of the heatmap's maximum, same pixels; `None` for a phrase that was skipped.
        score (`float`, *optional*): score of image and phrase: of ALBEF the matching probability in [0, 1]; of a
            [`~grounders.Grounder`] what its family scores with, perhaps a cosine or a logit.
        is_hit (`bool`, *optional*): the point lies strictly inside a box.
        proposal (`list`, *optional*): the proposal that the heatmap fills best, x_min, y_min, x_max, y_max.
        proposal_iou (`float`, *optional*): its largest IoU with a box; 0 where no proposal is chosen.
        is_proposal_hit (`bool`, *optional*): that IoU is 0.5 or more.
        problem (`str`, *optional*): why the phrase was skipped: its picture or its words cannot be used.
        heatmap_quality (`dict`, *optional*): measure -> value of the metric `heatmap_quality`.
        mask_iou (`dict`, *optional*): protocol -> IoU of the heatmap's mask, or of a detector's best box, of the
            metric `phrase_recall`.
        faithfulness (`dict`, *optional*): measure -> value of the metrics of [`~evaluation.faithfulness`].
        measures (`dict`): metric -> what [`measure_phrase`] took from the heatmap. Not part of reports.
    """

    phrase_id: str
    image_id: str
    phrase: str
    types: list[str]
    boxes: list[list[float]]
    point: tuple[float, float] | None
    score: float | None = None
    is_hit: bool | None = None
    proposal: list[float] | None = None
    proposal_iou: float | None = None
    is_proposal_hit: bool | None = None
    problem: str | None = None
    heatmap_quality: dict[str, float] | None = None
    mask_iou: dict[str, float] | None = None
    faithfulness: dict[str, float] | None = None
    measures: dict[str, Any] | None = None

    def to_row(self) -> dict[str, Any]:
        """The result as a plain dictionary; metrics that were not computed have no values of a phrase."""
        left_out = {"measures", *(name for name in PHRASE_VALUES if getattr(self, name) is None)}
        return {name: value for name, value in vars(self).items() if name not in left_out}


def measure_phrase(
    result: PhraseResult, heatmap: torch.Tensor, annotation: Mapping[str, Any], metrics: Collection[str]
) -> dict[str, Any]:
    """Takes from a heatmap what the metrics need, so that the heatmap itself can go.

    Args:
        result ([`PhraseResult`]): the phrase.
        heatmap (`torch.Tensor` of shape `(height, width)`): at the size of the stored image.
        annotation (mapping): `proposals` (boxes of the image), `polygons` and `masks` of the phrase.
        metrics (collection of `str`): metrics to measure for.

    Returns:
        `dict`: metric -> its inputs for the phrase; `None` for `heatmap_quality` where the region has no area, and
        beside it `is_box`, whether boxes were drawn as the region for want of polygons and masks.
    """
    measures: dict[str, Any] = {}
    if BOX_METRIC in metrics:
        proposals = annotation["proposals"]
        measures[BOX_METRIC] = list(zip(proposals, sum_heat_in_boxes(heatmap, proposals), strict=True))
    if HEATMAP_METRIC in metrics:
        outlines = {name: annotation[name] for name in ("polygons", "masks") if annotation[name]}
        try:
            height, width = heatmap.shape
            region = build_region_mask(height, width, (height, width), **(outlines or {"boxes": result.boxes}))
        except ValueError as error:
            raise ValueError(f"phrase {result.phrase_id!r} of image {result.image_id!r}: {error}") from error
        measures[HEATMAP_METRIC] = measure_heatmap(heatmap, region) if region.any() else None
        measures["is_box"] = not outlines
    if RECALL_METRIC in metrics:
        measures[RECALL_METRIC] = measure_mask_ious(heatmap, result.boxes)
    return measures


def measure_boxes(
    boxes: list[list[float]], box_scores: list[float], metrics: Collection[str]
) -> dict[str, list[tuple[list[float], float]]]:
    """What [`measure_phrase`] takes from a heatmap, of the boxes of a detector, best first: metric -> boxes with their
    scores, which are ranked like proposals with their sums of heat."""
    pairs = list(zip(boxes, box_scores, strict=True))
    return {name: pairs for name in (BOX_METRIC, RECALL_METRIC) if name in metrics}


def apply_box_rule(boxes: list[list[float]], box_rule: str) -> list[list[float]]:
    """The boxes that an answer is compared with: all of them for `"any"`, one around them for `"merged"`."""
    if box_rule == "any":
        return boxes
    left, top, right, bottom = zip(*boxes, strict=True)
    return [[min(left), min(top), max(right), max(bottom)]]


def score_points(results: Sequence[PhraseResult], box_rule: str = "any") -> dict[str, Any]:
    """Marks hits in `results` and returns the metrics of `metrics/pointing_game`; a phrase without a point is a miss.

    Raises:
        ValueError: `results` is empty.
    """
    if not results:
        raise ValueError("no phrase of the data set has a box: there is nothing to score.")
    metrics = _load(POINTING_GAME).compute(
        predictions=[list(result.point or _choose_miss(result.boxes)) for result in results],
        references=[apply_box_rule(result.boxes, box_rule) for result in results],
        phrase_types=[result.types for result in results],
        return_hits=True,
    )
    for result, is_hit in zip(results, metrics.pop("hits"), strict=True):
        result.is_hit = bool(is_hit)
    return metrics


def _load(name: str) -> Any:
    return evaluate.load(str(get_metric_folder(name)))


def _choose_miss(boxes: list[list[float]]) -> tuple[float, float]:
    """A point that lies strictly inside none of the boxes, nor of one around them."""
    return min(box[0] for box in boxes), min(box[1] for box in boxes)


def score_proposals(
    results: Sequence[PhraseResult], ranking: ProposalRanking, box_rule: str = "any"
) -> dict[str, Any]:
    """Chooses a proposal for each of `results`, marks hits, and returns metrics of `metrics/box_accuracy`.

    Returns:
        `dict` with `box_accuracy_at_50` and `mean_box_accuracy` in [0, 1], `box_accuracy_at_50_by_type`,
        `num_phrases_without_proposal` (phrases for which none was chosen: misses), and the numbers of phrases.
    """
    sums = [(result.measures or {}).get(BOX_METRIC, []) for result in results]
    metrics = _load(BOX_METRIC).compute(
        predictions=[[box for box, _ in pairs] for pairs in sums],
        heat_sums=[[total for _, total in pairs] for pairs in sums],
        references=[apply_box_rule(result.boxes, box_rule) for result in results],
        phrase_types=[result.types for result in results],
        area_exponent=ranking.area_exponent,
        overlap_rule=ranking.overlap_rule,
        return_hits=True,
    )
    choices = zip(results, sums, metrics["chosen"], metrics["ious"], metrics["hits"], strict=True)
    for result, pairs, best, iou, is_hit in choices:
        result.proposal = pairs[best][0] if best >= 0 else None
        result.proposal_iou, result.is_proposal_hit = iou, is_hit
    kept = (BOX_ACCURACY, "mean_box_accuracy", f"{BOX_ACCURACY}_by_type")
    return {
        **{name: metrics[name] for name in kept},
        "num_phrases_without_proposal": metrics["num_without_choice"],
        **{name: metrics[name] for name in ("num_phrases", "num_phrases_by_type")},
    }


def score_heatmaps(results: Sequence[PhraseResult]) -> dict[str, Any]:
    """Enters the six values of each of `results`, and returns the metrics of `metrics/heatmap_quality`.

    A phrase that was skipped counts as a heatmap without heat; one whose region has no area in its image is left out
    and counted in `num_phrases_without_area`. `num_regions_from_boxes` counts phrases without polygons and masks.

    Raises:
        ValueError: no phrase has a region with an area.
    """
    inputs = [NO_HEAT if result.measures is None else result.measures[HEATMAP_METRIC] for result in results]
    measured = [(result, pair) for result, pair in zip(results, inputs, strict=True) if pair is not None]
    if not measured:
        raise ValueError(
            f"`{HEATMAP_METRIC}` needs regions, and no phrase has a box, polygon or mask with an area in its image."
        )
    metrics = _load(HEATMAP_METRIC).compute(
        predictions=[heat for _, (heat, _) in measured],
        references=[area for _, (_, area) in measured],
        phrase_types=[result.types for result, _ in measured],
        return_values=True,
    )
    values = metrics.pop("values")
    for index, (result, _) in enumerate(measured):
        result.heatmap_quality = {name: column[index] for name, column in values.items()}
    return {
        **metrics,
        "num_phrases_without_area": len(results) - len(measured),
        "num_regions_from_boxes": sum(bool(result.measures and result.measures["is_box"]) for result in results),
    }


def score_masks(results: Sequence[PhraseResult], thresholds: Mapping[str, float]) -> dict[str, Any]:
    """Enters the IoUs of each of `results`, and returns the metrics of `metrics/phrase_recall`.

    Args:
        results (sequence of [`PhraseResult`]): a phrase that was skipped has IoU 0.
        thresholds (mapping): protocol -> one of `MASK_THRESHOLDS`.
    """
    if set(thresholds) != set(RECALLS) or not set(thresholds.values()) <= set(MASK_THRESHOLDS):
        raise ValueError(
            f"`mask_thresholds` must give each of {', '.join(RECALLS)} one of 0, 0.01, ..., 0.99, got {thresholds}."
        )
    positions = {protocol: MASK_THRESHOLDS.index(thresholds[protocol]) for protocol in RECALLS}
    for result in results:
        ious = {} if result.measures is None else result.measures[RECALL_METRIC]
        result.mask_iou = {name: float(ious[name][at]) if ious else 0.0 for name, at in positions.items()}
    metrics = _load(RECALL_METRIC).compute(
        mask_ious=[result.mask_iou for result in results], phrase_types=[result.types for result in results]
    )
    return {**metrics, "mask_thresholds": dict(thresholds)}


def score_boxes(results: Sequence[PhraseResult]) -> dict[str, Any]:
    """Enters the IoUs of the best box of each of `results`, and returns the metrics of `metrics/phrase_recall` for the
    ranked boxes of a detector. A phrase that was skipped, or without a box, has IoU 0."""
    pairs = [(result.measures or {}).get(RECALL_METRIC, []) for result in results]
    metrics = _load(RECALL_METRIC).compute(
        predictions=[[box for box, _ in one] for one in pairs],
        references=[result.boxes for result in results],
        phrase_types=[result.types for result in results],
        return_ious=True,
    )
    ious = metrics.pop("ious")
    for index, result in enumerate(results):
        result.mask_iou = {protocol: ious[protocol][index] for protocol in RECALLS}
    return metrics


def score_faithfulness(results: Sequence[PhraseResult]) -> dict[str, Any]:
    """Means of the measures of [`~evaluation.faithfulness`] over the phrases that were not skipped."""
    measured = [result.faithfulness for result in results if result.faithfulness is not None]
    means = {name: sum(one[name] for one in measured) / len(measured) for name in (measured[0] if measured else ())}
    return {**means, "num_phrases": len(results)}


def list_hits(results: Sequence[PhraseResult], metrics: Mapping[str, Any]) -> dict[str, list[bool]]:
    """Hits per phrase of each accuracy among the metrics of an evaluation, for its confidence interval."""
    hits = {
        POINTING_ACCURACY: [bool(result.is_hit) for result in results],
        BOX_ACCURACY: [bool(result.is_proposal_hit) for result in results],
    }
    for protocol, name in RECALLS.items():
        hits[name] = [result.mask_iou is not None and result.mask_iou[protocol] >= MIN_IOU for result in results]
    return {name: own for name, own in hits.items() if name in metrics}


__all__ = [
    "ACCURACIES",
    "ALL_METRICS",
    "BOX_ACCURACY",
    "BOX_RULES",
    "DEFAULT_RANKING",
    "FAITHFULNESS_METRICS",
    "METRICS",
    "PhraseResult",
    "ProposalRanking",
    "apply_box_rule",
    "check_metrics",
    "list_hits",
    "measure_boxes",
    "measure_phrase",
    "score_boxes",
    "score_faithfulness",
    "score_heatmaps",
    "score_masks",
    "score_points",
    "score_proposals",
]
