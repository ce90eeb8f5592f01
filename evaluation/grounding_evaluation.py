# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""A model on a data set: heatmaps of all phrases, what the metrics measure of each, and rules that read no words."""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from accelerate.utils import broadcast_object_list, gather_object
from PIL import Image
from torch.utils.data import DataLoader, Subset
from transformers.utils import logging

from albef_amc.collections_albef import without_format
from albef_amc.datasets_scripts.features import INCOMPLETE_BOXES, read_row
from albef_amc.datasets_scripts.randomness import example_generator
from albef_amc.datasets_scripts.row_checks import check_picture_size, warn_about_boxes
from albef_amc.datasets_scripts.row_images import guard_images
from albef_amc.evaluation.faithfulness import FaithfulnessSettings
from albef_amc.evaluation.grounding_metrics import (
    BOX_METRIC,
    DEFAULT_RANKING,
    FAITHFULNESS_METRICS,
    HEATMAP_METRIC,
    POINTING_ACCURACY,
    POINTING_GAME,
    RECALL_METRIC,
    RECALLS,
    SCORE_EXPONENT,
    PhraseResult,
    ProposalRanking,
    check_metrics,
    measure_boxes,
    measure_phrase,
    score_boxes,
    score_faithfulness,
    score_heatmaps,
    score_masks,
    score_points,
    score_proposals,
)
from albef_amc.evaluation.phrase_locators import (
    EvaluatedModel,
    LocatedPhrase,
    PhraseInputs,
    build_locator,
    locate_points,
)
from albef_amc.evaluation.zero_shot_detectors import ZeroShotDetector
from albef_amc.image_processing_albef import UnusableImageError, load_image
from albef_amc.messages_albef import list_first
from albef_amc.processing_albef import BOX_THRESHOLD
from albef_amc.ranges_albef import COUNT, WHOLE, check_number
from albef_amc.regions_albef import check_boxes
from albef_amc.text_processing_albef import find_text_problem

logger = logging.get_logger(__name__)

DEFAULT_METRICS = (POINTING_GAME,)
DEFAULT_FAITHFULNESS = FaithfulnessSettings()
DETECTOR_METRICS = (POINTING_GAME, BOX_METRIC, RECALL_METRIC)  # those that need no heatmap
MASK_THRESHOLD = BOX_THRESHOLD  # of a heatmap's mask, where no other split chose one
PROBLEMS_NAMED = 5  # in a warning; all of them are in the result

PointRule = Callable[[dict, dict], tuple[float, float]]


@dataclass
class GroundingEvaluation:
    """Metrics of an evaluation and the phrases that they were computed from.

    Args:
        metrics (`dict`): what the metrics return, under their own names: `pointing_game_accuracy` in [0, 1],
            `num_phrases`, and per phrase type accuracy and number.
        results (`list` of [`PhraseResult`]): one entry per phrase with a box, in the order of the data set.
        num_skipped (`int`): phrases without a box, which cannot be scored.
        unusable (`list` of [`PhraseResult`]): phrases with a box that were skipped, each with its `problem`. They are
            among `results`, as misses, only where the protocol counts them.
    """

    metrics: dict[str, Any]
    results: list[PhraseResult] = field(default_factory=list)
    num_skipped: int = 0
    unusable: list[PhraseResult] = field(default_factory=list)

    def to_rows(self) -> list[dict[str, Any]]:
        """The results as plain dictionaries."""
        return [result.to_row() for result in self.results]


def evaluate_grounding(
    model: EvaluatedModel,
    processor: Any,
    rows: Any,
    box_rule: str = "any",
    proposal_ranking: ProposalRanking | None = None,
    rank: int = 0,
    world_size: int = 1,
    counts_unusable: bool = False,
    metrics: Sequence[str] | None = None,
    mask_thresholds: Mapping[str, float] | None = None,
    batch_size: int = 16,
    phrases_per_chunk: int = 64,
    num_workers: int = 0,
    max_length: int | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
    faithfulness: FaithfulnessSettings = DEFAULT_FAITHFULNESS,
) -> GroundingEvaluation:
    r"""Computes metrics of a model's heatmaps on a data set, in one pass of the model for all of them.

    By default that is the pointing game (AMC, section 4): the heatmap's maximum must lie strictly inside a box of the
    phrase. The heatmap is resized bicubically to the stored image; of equal maxima the first in row-major order
    counts. On several processes each answers a block of the rows, and every process gets all results, once each and
    in the order of the data set.

    Args:
        model, processor, rows, batch_size, phrases_per_chunk, num_workers, max_length, progress, faithfulness:
            as for [`predict_points`].
        box_rule (`str`, defaults to `"any"`): of several boxes of a phrase, `"any"` one counts, or the `"merged"`
            smallest box around them. For `pointing_game` and `box_accuracy`.
        proposal_ranking ([`ProposalRanking`], *optional*): how `box_accuracy` ranks the proposals of the rows; by
            default the sum of the heatmap over the square root of the area, and boxes as areas.
        rank, world_size (`int`, default to 0 and 1): this process among those that a launcher started.
        counts_unusable (`bool`, defaults to `False`): a phrase whose picture or words cannot be used is a miss, as a
            published protocol wants it; by default it is not scored. Either way a warning names it.
        metrics (sequence of `str`, *optional*): some of `pointing_game`, `box_accuracy`, `heatmap_quality`,
            `phrase_recall`, `insertion`, `deletion` and `weight_randomization`. By default the first, and with
            `proposal_ranking` the second.
        mask_thresholds (mapping, *optional*): for `phrase_recall`, protocol -> share of a heatmap's maximum that its
            mask reaches, chosen on another split ([`~evaluation.heatmap_measures.choose_thresholds`]); 0.5 by default.

    Of a detector, the centre of the best box is the point; its ranked boxes are the answers of `box_accuracy` and
    `phrase_recall`, and `heatmap_quality` does not apply. By default all three are computed.

    The region of a phrase in `heatmap_quality` is drawn from its polygons and masks, or else from its boxes.

    Boxes that reach beyond their picture, lie within 0..1 or have no area are counted in a warning.

    Raises:
        ValueError: an unknown metric, or one that the model cannot have, no phrase has a box, no row has proposals for
            `box_accuracy`, a box is not four finite numbers with its corners in order, or a picture has another size
            than its row states.

    Example:

    ```python
    evaluation = evaluate_grounding(model, processor, rows, metrics=("pointing_game", "heatmap_quality"))
    evaluation.metrics["pointing_game_accuracy"], evaluation.metrics["energy_inside"]
    ```
    """
    rows = without_format(rows)
    ranking, is_detector = proposal_ranking or DEFAULT_RANKING, isinstance(model, ZeroShotDetector)
    if is_detector:
        metrics = check_detector_metrics(metrics, mask_thresholds)
        ranking = dataclasses.replace(ranking, area_exponent=SCORE_EXPONENT)
    elif metrics is None:
        metrics = DEFAULT_METRICS if proposal_ranking is None else (*DEFAULT_METRICS, BOX_METRIC)
    elif BOX_METRIC in (metrics := check_metrics(metrics)) and not has_proposals(rows):
        raise ValueError(
            f"`{BOX_METRIC}` ranks the proposals of a row, and no row has any. Give detections to the builder "
            "(`detections_file`), or leave the metric out."
        )
    if rank == 0:
        warn_about_boxes(rows, "evaluation data")
    rows = guard_images(rows, is_decoded=False)
    own_rows = rows if world_size == 1 else Subset(rows, choose_rows(len(rows), rank, world_size))
    results, num_skipped = predict_points(
        model,
        processor,
        own_rows,
        batch_size,
        phrases_per_chunk,
        num_workers,
        max_length,
        metrics,
        progress,
        faithfulness,
    )
    if world_size > 1:
        results, num_skipped = gather_object(results), sum(gather_object([num_skipped]))
    evaluation = None
    if rank == 0:
        num_incomplete = sum(INCOMPLETE_BOXES in result.types for result in results)
        if num_incomplete:
            logger.warning_once(
                f"evaluation data: {num_incomplete} of {len(results)} phrases lost a part of their boxes when the "
                f"data set was built (type `{INCOMPLETE_BOXES}`): a point in what was lost counts as a miss."
            )
        unusable = [result for result in results if result.problem is not None]
        _warn_of_unusable(unusable, counts_unusable)
        if not counts_unusable:
            results = [result for result in results if result.problem is None]
        if unusable and not results:
            raise ValueError(
                f"none of the {len(unusable)} phrases with a box can be used. First: {unusable[0].problem}"
            )
        found = _score(results, metrics, box_rule, ranking, mask_thresholds, is_detector)
        evaluation = GroundingEvaluation(found, results, num_skipped, unusable)
    return evaluation if world_size == 1 else broadcast_object_list([evaluation])[0]


def has_proposals(rows: Any) -> bool:
    """Whether a row of a data set, or of a list of rows, has proposals; an empty list of an image counts."""
    if hasattr(rows, "column_names"):
        rows = rows.select_columns([name for name in rows.column_names if name == "proposals"])
    return any(row.get("proposals") is not None for row in rows)


def check_detector_metrics(
    metrics: Sequence[str] | None, mask_thresholds: Mapping[str, float] | None = None
) -> tuple[str, ...]:
    """The metrics of a detector, by default all that need no heatmap.

    Raises:
        ValueError: a metric or thresholds for heatmaps.
    """
    if mask_thresholds is not None:
        raise ValueError("`mask_thresholds` are for heatmaps, and a detector returns boxes. Leave them out.")
    chosen = DETECTOR_METRICS if metrics is None else check_metrics(metrics)
    for name in chosen:
        if name not in DETECTOR_METRICS:
            raise ValueError(
                f"`{name}` needs a heatmap, and a detector returns boxes. Metrics that it has: "
                f"{', '.join(DETECTOR_METRICS)}."
            )
    return tuple(chosen)


def _score(
    results: Sequence[PhraseResult],
    metrics: Sequence[str],
    box_rule: str,
    proposal_ranking: ProposalRanking,
    mask_thresholds: Mapping[str, float] | None,
    is_detector: bool,
) -> dict[str, Any]:
    """The metrics of all phrases; what several of them count, such as `num_phrases`, is that of the first."""
    if not results:
        raise ValueError("no phrase of the data set has a box: there is nothing to score.")
    thresholds = dict.fromkeys(RECALLS, MASK_THRESHOLD) if mask_thresholds is None else mask_thresholds
    parts = (
        score_points(results, box_rule) if POINTING_GAME in metrics else {},
        score_proposals(results, proposal_ranking, box_rule) if BOX_METRIC in metrics else {},
        score_heatmaps(results) if HEATMAP_METRIC in metrics else {},
        score_faithfulness(results) if set(FAITHFULNESS_METRICS) & set(metrics) else {},
        score_boxes(results) if RECALL_METRIC in metrics and is_detector else {},
        score_masks(results, thresholds) if RECALL_METRIC in metrics and not is_detector else {},
    )
    found: dict[str, Any] = {}
    for part in parts:
        found |= {name: value for name, value in part.items() if name not in found}
    return found


def _warn_of_unusable(unusable: Sequence[PhraseResult], counts_unusable: bool) -> None:
    """Warns of phrases that were skipped, with the reasons."""
    if not unusable:
        return
    problems = list(dict.fromkeys(str(result.problem) for result in unusable))
    logger.warning(
        f"{len(unusable)} phrases of {len({result.image_id for result in unusable})} images cannot be used and "
        f"{'count as misses' if counts_unusable else 'are not scored'}: {list_first(problems, PROBLEMS_NAMED, '; ')}"
    )


def predict_points(
    model: EvaluatedModel,
    processor: Any,
    rows: Any,
    batch_size: int = 16,
    phrases_per_chunk: int = 64,
    num_workers: int = 0,
    max_length: int | None = None,
    metrics: Collection[str] = DEFAULT_METRICS,
    progress: Callable[[Iterable], Iterable] = iter,
    faithfulness: FaithfulnessSettings = DEFAULT_FAITHFULNESS,
) -> tuple[list[PhraseResult], int]:
    """Points of all phrases that have a box, and the number of phrases without.

    A phrase whose picture or words cannot be used has a `problem` instead of a point; the others are scored.

    Results are fetched once the next batch is given, so that the device always has work.

    Args:
        model, processor: the checkpoint: ALBEF, a [`~grounders.Grounder`] or a
            [`~zero_shot_detectors.ZeroShotDetector`], with its processor.
        rows: data set rows (`datasets_scripts/features.py`), with a length and read by index.
        batch_size (`int`, defaults to 16): images encoded together; a grounder encodes them one by one.
        phrases_per_chunk (`int`, defaults to 64): phrases explained together.
        num_workers (`int`, defaults to 0): processes that decode and resize images.
        max_length (`int`, *optional*): for ALBEF: tokens of a phrase at most, [CLS] included; all of them by default.
        metrics (collection of `str`, defaults to `("pointing_game",)`): also measure the heatmaps for these.
        progress (callable, *optional*): wraps the iteration over batches, to show progress.
        faithfulness ([`~evaluation.faithfulness.FaithfulnessSettings`], *optional*): for `insertion`, `deletion` and
            `weight_randomization`.
    """
    check_number("batch_size", batch_size, COUNT)
    check_number("phrases_per_chunk", phrases_per_chunk, COUNT)
    check_number("num_workers", num_workers, WHOLE)
    locator = build_locator(model, processor, phrases_per_chunk, max_length, metrics, faithfulness)
    loader: DataLoader[Any] = DataLoader(
        rows,
        batch_size=batch_size,
        collate_fn=_GroundingInputs(locator.inputs),
        num_workers=num_workers,
        pin_memory=locator.device.type == "cuda",
    )
    results: list[PhraseResult] = []
    num_skipped, given = 0, None
    for entries, inputs, annotations, skipped in progress(loader):
        num_skipped += skipped
        results += entries
        phrases = [entry for entry in entries if entry.problem is None]
        if not phrases:
            continue
        earlier = given
        given = _GivenPhrases(phrases, annotations, locator.locate(inputs))
        if earlier is not None:
            earlier.fetch(metrics)  # while the device has this batch to work on
    if given is not None:
        given.fetch(metrics)
    return results, num_skipped


@dataclass(frozen=True)
class _GivenPhrases:
    """Phrases that a model was given, with their annotations, and the function that waits for its answers."""

    phrases: list[PhraseResult]
    annotations: list[dict[str, Any]]
    read: Callable[[], Iterable[LocatedPhrase]]

    def fetch(self, metrics: Collection[str]) -> None:
        """Waits for the answers and enters them into the phrases, with what the metrics measure of their heatmaps."""
        for phrase, annotation, located in zip(self.phrases, self.annotations, self.read(), strict=True):
            phrase.point, phrase.score, phrase.faithfulness = located.point, located.score, located.faithfulness
            if located.draw_heatmap is None:
                phrase.measures = measure_boxes(located.boxes or [], located.box_scores or [], metrics)
            elif set(metrics) != {POINTING_GAME}:
                phrase.measures = measure_phrase(phrase, located.draw_heatmap(), annotation, metrics)


class _GroundingInputs:
    """Collate function: rows to their phrases with a box; inputs and annotations of those that can be used; the
    number of phrases without a box."""

    def __init__(self, inputs: PhraseInputs):
        self.inputs = inputs

    def __call__(self, rows: list[dict]) -> tuple[list[PhraseResult], dict[str, Any], list[dict], int]:
        entries, images, texts, annotations, skipped = [], [], [], [], 0
        for row in map(read_row, rows):
            scored = list(iterate_phrases(row))
            entries += scored
            skipped += len(row["phrases"]) - len(scored)
            for phrase in scored:
                phrase.problem = phrase.problem or self._find_problem(phrase)
            if all(phrase.problem for phrase in scored):
                continue
            try:
                images.append(load_row_image(row, self.inputs.max_image_pixels))
            except (UnusableImageError, FileNotFoundError) as error:
                for phrase in scored:
                    phrase.problem = phrase.problem or str(error)
                continue
            texts.append([phrase.phrase for phrase in scored if phrase.problem is None])
            proposals = [proposal["box"] for proposal in row.get("proposals") or ()]
            for phrase, source in zip(scored, filter(_has_box, row["phrases"]), strict=True):
                if phrase.problem is None:
                    outlines = {name: source.get(name) for name in ("polygons", "masks")}
                    annotations.append({"proposals": proposals, **outlines})
        for phrase in entries:
            phrase.point = phrase.point if phrase.problem is None else None
        return entries, self.inputs.prepare(images, texts) if texts else {}, annotations, skipped

    def _find_problem(self, phrase: PhraseResult) -> str | None:
        problem = self.inputs.find_problem(phrase.phrase)
        return problem and _name_problem(phrase.phrase_id, phrase.image_id, phrase.phrase, problem)


def load_row_image(row: dict, max_image_pixels: int) -> Image.Image:
    """The picture of a row, which must have the size that the row states.

    Raises:
        UnusableImageError, FileNotFoundError: there is no picture, or it cannot be used.
        ValueError: it has another size.
    """
    if row["image"] is None:
        raise UnusableImageError(f"image {row['image_id']!r} is missing: its row has neither bytes nor a path")
    image = load_image(row["image"], max_image_pixels, name=f"image {row['image_id']!r}")
    check_picture_size(row, image.size)
    return image


def _name_problem(phrase_id: str, image_id: str, words: Any, problem: str) -> str:
    return f"phrase {phrase_id!r} of image {image_id!r}, {words!r:.80}, {problem}"


def _has_box(phrase: dict | None) -> bool:
    return bool(phrase and phrase.get("boxes"))


def iterate_phrases(row: dict) -> Iterable[PhraseResult]:
    """The phrases of a row that have a box, with an undefined point, or with a problem and no point.

    Raises:
        ValueError: a box is not four finite numbers with its corners in order; the message names phrase and image.
    """
    for index, phrase in enumerate(row["phrases"] or ()):
        if _has_box(phrase):
            phrase_id = phrase.get("phrase_id") or f"{row['image_id']}#{index}"
            try:
                boxes = check_boxes(phrase["boxes"]).tolist()
            except ValueError as error:
                raise ValueError(f"phrase {phrase_id!r} of image {row['image_id']!r}: {error}") from error
            words = phrase.get("phrase")
            problem = find_text_problem(words)
            yield PhraseResult(
                phrase_id=phrase_id,
                image_id=row["image_id"],
                phrase=words if problem is None else ascii(words),
                types=list(phrase.get("types") or ()),
                boxes=boxes,
                point=(math.nan, math.nan) if problem is None else None,
                problem=None if problem is None else _name_problem(phrase_id, row["image_id"], words, problem),
            )


def shuffle_phrases(row: dict) -> dict:
    """The row with every phrase's words replaced by those of the next phrase of the image; regions stay.

    A model that finds regions without reading the words scores the same on such rows.
    """
    phrases = list(row["phrases"] or ())
    words = [phrase["phrase"] for phrase in phrases]
    shuffled = [{**phrase, "phrase": word} for phrase, word in zip(phrases, words[1:] + words[:1], strict=True)]
    return {**row, "phrases": shuffled}


def point_at_center(row: dict, phrase: dict) -> tuple[float, float]:
    """The middle of the image."""
    return row["width"] / 2, row["height"] / 2


def point_at_random(row: dict, phrase: dict) -> tuple[float, float]:
    """A pixel drawn uniformly, the same one every time for a phrase."""
    generator = example_generator(0, 0, f"{row['image_id']}/{phrase['phrase_id']}")
    x, y = generator.random(2) * np.array([row["width"], row["height"]])
    return float(x), float(y)


def point_at_largest_object(row: dict, phrase: dict) -> tuple[float, float]:
    """The middle of the largest proposal of the image (of the image itself without proposals)."""
    boxes = [proposal["box"] for proposal in row.get("proposals") or ()]
    if not boxes:
        return point_at_center(row, phrase)
    left, top, right, bottom = max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    return (left + right) / 2, (top + bottom) / 2


BASELINES: dict[str, PointRule] = {
    "center_point": point_at_center,
    "random_point": point_at_random,
    "largest_object": point_at_largest_object,
}


def evaluate_baselines(rows: Iterable[dict]) -> dict[str, float]:
    """Pointing-game accuracy, in [0, 1], of rules that read no words: centre, random point, largest object."""
    return {name: score_points(results)[POINTING_ACCURACY] for name, results in answer_baselines(rows).items()}


def answer_baselines(rows: Iterable[dict]) -> dict[str, list[PhraseResult]]:
    """The phrases of a data set with the points of rules that read no words, per rule, in the order of the data set.

    Hits are entered by [`~evaluation.grounding_metrics.score_points`].
    """
    points: dict[str, list[PhraseResult]] = {name: [] for name in BASELINES}
    for row in without_format(rows):
        row = read_row(row, ("image_id", "width", "height", "phrases"))
        by_id = {phrase["phrase_id"]: phrase for phrase in row["phrases"] or ()}
        for name, rule in BASELINES.items():
            for result in iterate_phrases(row):
                result.point = rule(row, by_id[result.phrase_id])
                points[name].append(result)
    return points


def choose_rows(num_rows: int, rank: int, world_size: int) -> range:
    """The block of rows that a process evaluates: together, in the order of ranks, each row once."""
    return range(num_rows * rank // world_size, num_rows * (rank + 1) // world_size)


__all__ = [
    "BASELINES",
    "GroundingEvaluation",
    "answer_baselines",
    "check_detector_metrics",
    "choose_rows",
    "evaluate_baselines",
    "evaluate_grounding",
    "has_proposals",
    "iterate_phrases",
    "load_row_image",
    "locate_points",
    "predict_points",
    "shuffle_phrases",
]
