# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Phrase recall: is a phrase's region among the first k boxes, under the any, merged and all protocols?

Phrase recall scores phrase grounding by ranked boxes. Recall@k is the share of phrases with a box of IoU >= 0.5 among
their first k; the mean IoU at k is the mean over phrases of the best IoU among their first k. What a box is compared
with, where a phrase has several annotated boxes, is the protocol:

- any: the annotated box that fits best,
- merged: the smallest box around all of them,
- all: their union, as a region.

With one annotated box the three agree. Boxes are areas, x_min to x_max and y_min to y_max. A phrase with fewer than k
boxes is scored by those that it has; a phrase without a box and a box without area have IoU 0.

A heatmap has one answer: its pixels that reach a threshold. Give its IoU with the region as `mask_ious`; recall and
mean IoU are then reported at k = 1. Choose the threshold on another split, once per protocol.
"""

import inspect

import datasets
import evaluate
import numpy as np

MIN_IOU = 0.5
PROTOCOLS = ("any", "merged", "all")
RANKS = (1, 5, 10, 100)
NOTHING_ADDED = "no phrase was added: the recall of nothing is undefined. Pass at least one phrase."

_CITATION = """
@article{kojima2024joint,
  title = {A Joint Study of Phrase Grounding and Task Performance in Vision and Language Models},
  author = {Kojima, Noriyuki and Averbuch-Elor, Hadar and Artzi, Yoav},
  journal = {Transactions on Machine Learning Research},
  year = {2024}
}
"""


class PhraseRecall(evaluate.Metric):
    """Recall@k and mean IoU under three protocols; the module's docstring has the rules.

    Args:
        predictions (list of lists of four `float`):
            The boxes found for each phrase, best first: x_min, y_min, x_max, y_max in pixels of the stored image,
            after its EXIF rotation. The list of a phrase may be empty.
        references (list of lists of four `float`):
            The annotated boxes of each phrase, at least one, in the same pixels.
        mask_ious (list of `dict`):
            Instead of the two: for each phrase the IoU of its mask under `"any"`, `"merged"` and `"all"`, or some of
            them, the same for every phrase.
        phrase_types (list of lists of `str`, *optional*):
            The types of each phrase. A phrase of several types counts in each of them, one without types (an empty
            list or `None`) in none. Give them in every call or in none.
        return_ious (`bool`, defaults to `False`, `compute` only):
            Also return the IoU of each phrase's first answer.

    Returns:
        `dict`, for each protocol (`any`, `merged`, `all`) and k (1, 5, 10, 100; 1 alone for masks), with
            - `recall_at_{k}_{protocol}`, `mean_iou_at_{k}_{protocol}` (`float` in [0, 1]),
            - `recall_at_1_{protocol}_by_type` (`dict`): type -> recall, types in alphabetical order,
            - `num_phrases` (`int`), `num_phrases_by_type` (`dict`),
            - `ious` (`dict`): protocol -> list with the IoU of each phrase's first answer, in the order they were
              added, with `return_ious=True`.
        In a distributed run (`num_process > 1`) process 0 gets it, the others get `None`; lists are in process order.

    Examples:
        >>> phrase_recall = evaluate.load("phrase_recall")
        >>> result = phrase_recall.compute(
        ...     predictions=[[[0, 0, 10, 10], [0, 0, 30, 10]]],
        ...     references=[[[0, 0, 10, 10], [20, 0, 30, 10]]],
        ... )
        >>> [result[f"recall_at_1_{protocol}"] for protocol in ("any", "merged", "all")]
        [1.0, 0.0, 1.0]
        >>> [round(result[f"mean_iou_at_5_{protocol}"], 2) for protocol in ("any", "merged", "all")]
        [1.0, 1.0, 0.67]
    """

    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation=_CITATION,
            inputs_description=inspect.cleandoc(self.__doc__),
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.List(datasets.Value("float64"), length=4)),
                    "references": datasets.List(datasets.List(datasets.Value("float64"), length=4)),
                    # null fields: boxes were given, or the protocol does not apply
                    "mask_ious": {protocol: datasets.Value("float64") for protocol in PROTOCOLS},
                    "phrase_types": datasets.List(datasets.Value("string")),
                }
            ),
            reference_urls=["https://arxiv.org/abs/2309.02691"],
            license="Apache-2.0",
        )

    def compute(self, *, predictions=None, references=None, mask_ious=None, phrase_types=None, return_ious=False):
        """Scores the phrases given here and all that were added before."""
        if any(values is not None for values in (predictions, references, mask_ious)):
            self.add_batch(
                predictions=predictions, references=references, mask_ious=mask_ious, phrase_types=phrase_types
            )
        elif phrase_types is not None:
            raise ValueError("`phrase_types` were given without answers: give them to `add_batch`.")
        if not len(self):
            if self.num_process == 1:
                raise ValueError(NOTHING_ADDED)
            self.add_batch(predictions=[], references=[])  # the file of this process, which process 0 waits for
        return super().compute(return_ious=return_ious)

    def add_batch(self, *, predictions=None, references=None, mask_ious=None, phrase_types=None):
        """Adds phrases; they are checked here, so that an error names the phrase and nothing of the batch is kept."""
        has_boxes = predictions is not None and references is not None
        if has_boxes == (mask_ious is not None) or (predictions is None) != (references is None):
            raise ValueError("give either `predictions` and `references` (boxes), or `mask_ious` alone.")
        answers = predictions if has_boxes else mask_ious
        if phrase_types is None:
            phrase_types = [[]] * len(answers)
        for name, values in (("references", references if has_boxes else answers), ("phrase_types", phrase_types)):
            if len(values) != len(answers):
                given = "predictions" if has_boxes else "mask_ious"
                raise ValueError(
                    f"there are {len(answers)} `{given}` but {len(values)} `{name}`: give one per phrase."
                )
        indices = range(len(answers))
        super().add_batch(
            predictions=[
                _check_boxes(predictions[index], f"`predictions[{index}]`") if has_boxes else [] for index in indices
            ],
            references=[_check_references(references[index], index) if has_boxes else [] for index in indices],
            mask_ious=[
                dict.fromkeys(PROTOCOLS) if has_boxes else _check_mask_ious(mask_ious[index], index)
                for index in indices
            ],
            phrase_types=[_check_types(types, index) for index, types in enumerate(phrase_types)],
        )

    def add(self, *, prediction=None, reference=None, mask_ious=None, phrase_types=None):
        """Adds one phrase: boxes best first and annotated boxes, or the IoUs of its mask; the list of its types."""
        self.add_batch(
            predictions=None if prediction is None else [prediction],
            references=None if reference is None else [reference],
            mask_ious=None if mask_ious is None else [mask_ious],
            phrase_types=None if phrase_types is None else [phrase_types],
        )

    def _compute(self, predictions, references, mask_ious, phrase_types, return_ious):
        if not len(predictions):
            raise ValueError(NOTHING_ADDED)
        given = {tuple(name for name in PROTOCOLS if fields[name] is not None) for fields in mask_ious}
        if len(given) > 1:
            raise ValueError(
                f"phrases were given under different protocols: {sorted(given)} (none for boxes). Score them apart."
            )
        (protocols,) = given
        ranks = (1,) if protocols else RANKS
        if protocols:
            ious = [{name: [fields[name]] for name in protocols} for fields in mask_ious]
        else:
            ious = [
                compute_protocol_ious(boxes, annotated)
                for boxes, annotated in zip(predictions, references, strict=True)
            ]
        return self._average(ious, protocols or PROTOCOLS, ranks, phrase_types, return_ious)

    def _average(self, ious, protocols, ranks, phrase_types, return_ious):
        names = sorted({name for types in phrase_types for name in types})
        members = {name: [name in types for types in phrase_types] for name in names}
        result, first = {}, {}
        for protocol in protocols:
            for rank in ranks:
                best = np.array([max(phrase[protocol][:rank], default=0.0) for phrase in ious])
                result[f"recall_at_{rank}_{protocol}"] = float((best >= MIN_IOU).mean())
                result[f"mean_iou_at_{rank}_{protocol}"] = float(best.mean())
                if rank == 1:
                    first[protocol] = best
            result[f"recall_at_1_{protocol}_by_type"] = {
                name: float((first[protocol][members[name]] >= MIN_IOU).mean()) for name in names
            }
        result["num_phrases"] = len(ious)
        result["num_phrases_by_type"] = {name: sum(members[name]) for name in names}
        if return_ious:
            result["ious"] = {protocol: first[protocol].tolist() for protocol in protocols}
        return result


def compute_protocol_ious(boxes, references):
    """IoU of each box with the annotated boxes of a phrase under the three protocols.

    Args:
        boxes (sequence of four `float` each): x_min, y_min, x_max, y_max; may be empty.
        references (sequence of four `float` each): at least one box in the same pixels.

    Returns:
        `dict`: `any`, `merged`, `all` -> list of `float` in [0, 1], one per box.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    references = np.asarray(references, dtype=np.float64)
    merged = np.concatenate([references[:, :2].min(axis=0), references[:, 2:].max(axis=0)])
    singles = [_compute_region_ious(boxes, reference[None]) for reference in references]
    return {
        "any": np.max(singles, axis=0).tolist(),
        "merged": _compute_region_ious(boxes, merged[None]).tolist(),
        "all": _compute_region_ious(boxes, references).tolist(),
    }


def _compute_region_ious(boxes, region):
    """IoU of boxes with the union of the boxes of a region, exactly: the region's sides cut the plane into cells."""
    columns, rows = np.unique(region[:, [0, 2]]), np.unique(region[:, [1, 3]])
    in_column = (region[:, :1] <= columns[:-1]) & (columns[1:] <= region[:, 2:3])  # (num_region_boxes, num_columns)
    in_row = (region[:, 1:2] <= rows[:-1]) & (rows[1:] <= region[:, 3:])
    is_covered = (in_row[:, :, None] & in_column[:, None, :]).any(axis=0).astype(np.float64)
    widths = _overlap(boxes[:, 0], boxes[:, 2], columns)  # (num_boxes, num_columns)
    heights = _overlap(boxes[:, 1], boxes[:, 3], rows)
    overlaps = ((heights @ is_covered) * widths).sum(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    unions = areas + np.diff(rows) @ is_covered @ np.diff(columns) - overlaps
    return overlaps / np.where(unions > 0, unions, 1)


def _overlap(starts, ends, edges):
    return (np.minimum(ends[:, None], edges[1:]) - np.maximum(starts[:, None], edges[:-1])).clip(0)


def _check_boxes(boxes, name):
    if boxes is None:
        raise ValueError(f"{name} is None: give a list of boxes, empty for a phrase without any.")
    values = _as_numbers(boxes, name)
    if not values.size:
        return []
    if values.ndim != 2 or values.shape[1] != 4:
        raise ValueError(
            f"{name} must be a list of boxes x_min, y_min, x_max, y_max, got {boxes}. One box is "
            "[[x_min, y_min, x_max, y_max]]."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds a box that is not finite: {values.tolist()}.")
    if (values[:, 2:] < values[:, :2]).any():
        raise ValueError(
            f"{name} holds a reversed box: {values.tolist()}. Boxes are x_min, y_min, x_max, y_max; convert x, y, "
            "width, height by adding x and y."
        )
    return values.tolist()


def _check_references(boxes, index):
    checked = [] if boxes is None else _check_boxes(boxes, f"`references[{index}]`")
    if not checked:
        raise ValueError(
            f"`references[{index}]` has no box: a phrase without an annotated region cannot be scored. Leave it out."
        )
    return checked


def _check_mask_ious(ious, index):
    if not isinstance(ious, dict) or not ious or not set(ious) <= set(PROTOCOLS):
        raise ValueError(f"`mask_ious[{index}]` must be a dict with any, merged, all or some of them, got {ious!r}.")
    values = _as_numbers(list(ious.values()), f"`mask_ious[{index}]`")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"`mask_ious[{index}]` must hold numbers in [0, 1], got {ious!r}.")
    return {**dict.fromkeys(PROTOCOLS), **dict(zip(ious, values.tolist(), strict=True))}


def _check_types(types, index):
    names = () if types is None else types  # a data set has null where a phrase has no types
    if isinstance(names, str) or not hasattr(names, "__iter__"):
        raise ValueError(f"`phrase_types[{index}]` must be a list of strings or None, got {types!r}.")
    names = [name for name in names if name is not None]
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"`phrase_types[{index}]` must be a list of strings or None, got {types!r}.")
    return names


def _as_numbers(values, name):
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must hold numbers in rows of equal length, got {values!r}.") from error
