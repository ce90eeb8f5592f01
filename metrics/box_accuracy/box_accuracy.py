# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Box accuracy: does the box chosen for a phrase overlap the box that the phrase names?

Box accuracy scores phrase grounding by boxes. Each phrase has candidate boxes; one of them is chosen and compared with
the annotated boxes of the phrase by intersection over union (IoU).

Rules:
- Choice: with `heat_sums` (the sum of the heatmap over each candidate) the candidate with the largest
  heat sum / area^area_exponent wins, of equal ones the first. Exponent 0.5 is the published ranking of detections by
  ALBEF and AMC on RefCOCO+. Without `heat_sums` the first candidate is taken: a box read from a heatmap.
- No choice: a phrase without candidates, or whose candidates hold no positive heat sum, is a miss with IoU 0. So is a
  candidate without area. The released evaluation reuses the previous phrase's box instead.
- Several annotated boxes: the one with the largest IoU counts.
- Hit at 0.5: IoU >= 0.5. The mean accuracy averages over the thresholds 0.50, 0.55, ..., 0.95.
- Overlap: boxes are areas, x_min to x_max and y_min to y_max. `overlap_rule="released"` is the published convention of
  inclusive pixel ranges, x_min to x_max - 1: the same areas, except that an intersection at most one pixel wide or
  high counts as none.
"""

import inspect

import datasets
import evaluate
import numpy as np

MIN_IOU = 0.5
IOU_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
OVERLAP_RULES = ("area", "released")

NOTHING_ADDED = "no phrase was added: the accuracy of nothing is undefined. Pass at least one phrase."

_CITATION = """
@inproceedings{li2021align,
  title = {Align before Fuse: Vision and Language Representation Learning with Momentum Distillation},
  author = {Li, Junnan and Selvaraju, Ramprasaath R. and Gotmare, Akhilesh Deepak and Joty, Shafiq and Xiong, Caiming
            and Hoi, Steven C. H.},
  booktitle = {NeurIPS},
  year = {2021}
}
@inproceedings{yang2023improving,
  title = {Improving Visual Grounding by Encouraging Consistent Gradient-based Explanations},
  author = {Yang, Ziyan and Kafle, Kushal and Dernoncourt, Franck and Ordonez, Vicente},
  booktitle = {CVPR},
  year = {2023}
}
"""


class BoxAccuracy(evaluate.Metric):
    """Accuracy of chosen boxes over all phrases and per phrase type; the module's docstring has the rules.

    Args:
        predictions (list of lists of four `float`):
            The candidate boxes of each phrase: x_min, y_min, x_max, y_max in pixels of the stored image, after its
            EXIF rotation. The list of a phrase may be empty.
        references (list of lists of four `float`):
            The annotated boxes of each phrase, at least one, in the same pixels.
        heat_sums (list of lists of `float`, *optional*):
            For each phrase the sum of its heatmap over each candidate. Give them in every call or in none.
        phrase_types (list of lists of `str`, *optional*):
            The types of each phrase. A phrase of several types counts in each of them, one without types (an empty
            list or `None`) in none. Give them in every call or in none.
        area_exponent (`float`, defaults to 0.5, `compute` only):
            Power of a candidate's area that its heat sum is divided by.
        overlap_rule (`str`, defaults to `"area"`, `compute` only):
            `"area"`, or `"released"` for the published convention.
        return_hits (`bool`, defaults to `False`, `compute` only):
            Also return hit, IoU and chosen candidate of each phrase.

    Returns:
        `dict` with
            - `box_accuracy_at_50` (`float` in [0, 1]; papers print percent): share of phrases with IoU >= 0.5,
            - `mean_box_accuracy` (`float` in [0, 1]): mean of the accuracies at 0.50, 0.55, ..., 0.95,
            - `mean_iou` (`float` in [0, 1]),
            - `num_phrases`, `num_without_choice` (`int`): all phrases, and those for which no candidate was chosen,
            - `box_accuracy_at_50_by_type` (`dict`): type -> accuracy in [0, 1], types in alphabetical order,
            - `num_phrases_by_type` (`dict`): type -> number of phrases,
            - `hits` (list of `bool`), `ious` (list of `float`), `chosen` (list of `int`, -1 for none): one per phrase
              in the order they were added, with `return_hits=True`.
        In a distributed run (`num_process > 1`) process 0 gets it, the others get `None`; lists are in process order.

    Examples:
        >>> box_accuracy = evaluate.load("box_accuracy")
        >>> result = box_accuracy.compute(
        ...     predictions=[[[0, 0, 10, 10], [40, 0, 60, 10]], [[0, 0, 10, 10]]],
        ...     heat_sums=[[9.0, 15.0], [4.0]],
        ...     references=[[[40, 0, 60, 10]], [[5, 0, 15, 10]]],
        ...     return_hits=True,
        ... )
        >>> result["chosen"], result["hits"], result["box_accuracy_at_50"]
        ([1, 0], [True, False], 0.5)
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
                    # null: the first candidate is the choice
                    "heat_sums": datasets.List(datasets.Value("float64")),
                    "phrase_types": datasets.List(datasets.Value("string")),
                }
            ),
            reference_urls=["https://arxiv.org/abs/2107.07651", "https://arxiv.org/abs/2206.15462"],
            license="Apache-2.0",
        )

    def compute(
        self,
        *,
        predictions=None,
        references=None,
        heat_sums=None,
        phrase_types=None,
        area_exponent=0.5,
        overlap_rule="area",
        return_hits=False,
    ):
        """Scores the phrases given here and all that were added before."""
        if overlap_rule not in OVERLAP_RULES:
            raise ValueError(f"`overlap_rule` must be one of {', '.join(OVERLAP_RULES)}, got {overlap_rule!r}.")
        if not np.isfinite(area_exponent) or area_exponent < 0:
            raise ValueError(f"`area_exponent` must be a number of at least 0, got {area_exponent}.")
        if (predictions is None) != (references is None):
            raise ValueError("`predictions` and `references` go together: give both, or neither after `add_batch`.")
        if predictions is not None:
            self.add_batch(
                predictions=predictions, references=references, heat_sums=heat_sums, phrase_types=phrase_types
            )
        elif heat_sums is not None or phrase_types is not None:
            raise ValueError(
                "`heat_sums` or `phrase_types` were given without `predictions`: give them to `add_batch`."
            )
        if not len(self):
            if self.num_process == 1:
                raise ValueError(NOTHING_ADDED)
            self.add_batch(predictions=[], references=[])  # the file of this process, which process 0 waits for
        return super().compute(area_exponent=area_exponent, overlap_rule=overlap_rule, return_hits=return_hits)

    def add_batch(self, *, predictions=None, references=None, heat_sums=None, phrase_types=None):
        """Adds phrases; they are checked here, so that an error names the phrase and nothing of the batch is kept."""
        if predictions is None or references is None:
            raise ValueError(
                "`predictions` and `references` are both needed: candidate boxes and annotated boxes of each phrase."
            )
        if phrase_types is None:
            phrase_types = [[]] * len(predictions)
        sums_or_none = [None] * len(predictions) if heat_sums is None else heat_sums
        for name, values in (
            ("references", references),
            ("heat_sums", sums_or_none),
            ("phrase_types", phrase_types),
        ):
            if len(values) != len(predictions):
                raise ValueError(
                    f"there are {len(predictions)} `predictions` but {len(values)} `{name}`: give one per phrase."
                )
        candidates = [_check_boxes(boxes, f"`predictions[{index}]`") for index, boxes in enumerate(predictions)]
        super().add_batch(
            predictions=candidates,
            references=[_check_references(boxes, index) for index, boxes in enumerate(references)],
            heat_sums=[
                None if sums is None and heat_sums is None else _check_sums(sums, len(boxes), index)
                for index, (sums, boxes) in enumerate(zip(sums_or_none, candidates, strict=True))
            ],
            phrase_types=[_check_types(types, index) for index, types in enumerate(phrase_types)],
        )

    def add(self, *, prediction=None, reference=None, heat_sums=None, phrase_types=None):
        """Adds one phrase: candidate boxes, annotated boxes, the candidates' heat sums, the list of its types."""
        if prediction is None or reference is None:
            raise ValueError(
                "`prediction` and `reference` are both needed: candidate boxes and annotated boxes of the phrase."
            )
        self.add_batch(
            predictions=[prediction],
            references=[reference],
            heat_sums=None if heat_sums is None else [heat_sums],
            phrase_types=None if phrase_types is None else [phrase_types],
        )

    def _compute(self, predictions, references, heat_sums, phrase_types, area_exponent, overlap_rule, return_hits):
        if not len(predictions):
            raise ValueError(NOTHING_ADDED)
        chosen = [choose_box(boxes, sums, area_exponent) for boxes, sums in zip(predictions, heat_sums, strict=True)]
        ious = np.array(
            [
                max(compute_ious(boxes[index], annotated, overlap_rule)) if index >= 0 else 0.0
                for index, boxes, annotated in zip(chosen, predictions, references, strict=True)
            ]
        )
        hits = ious >= MIN_IOU
        names = sorted({name for types in phrase_types for name in types})
        members = {name: [name in types for types in phrase_types] for name in names}
        result = {
            "box_accuracy_at_50": float(hits.mean()),
            "mean_box_accuracy": float(np.mean([(ious >= threshold).mean() for threshold in IOU_THRESHOLDS])),
            "mean_iou": float(ious.mean()),
            "num_phrases": len(ious),
            "num_without_choice": chosen.count(-1),
            "box_accuracy_at_50_by_type": {name: float(hits[members[name]].mean()) for name in names},
            "num_phrases_by_type": {name: sum(members[name]) for name in names},
        }
        return {**result, "hits": hits.tolist(), "ious": ious.tolist(), "chosen": chosen} if return_hits else result


def choose_box(boxes, heat_sums=None, area_exponent=0.5):
    """The candidate that a heatmap prefers.

    Args:
        boxes (sequence of four `float` each): the candidates, x_min, y_min, x_max, y_max.
        heat_sums (sequence of `float`, *optional*): sum of the heatmap over each; without them the first is chosen.
        area_exponent (`float`, defaults to 0.5): power of the area that divides a heat sum.

    Returns:
        `int`: position of the first candidate with the largest positive heat sum / area^area_exponent; -1 for none.
    """
    if heat_sums is None or not len(boxes):
        return 0 if len(boxes) else -1
    boxes = np.asarray(boxes, dtype=np.float64)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    densities = np.where(areas > 0, heat_sums / np.where(areas > 0, areas, 1) ** area_exponent, 0)
    best = int(densities.argmax())
    return best if densities[best] > 0 else -1


def compute_ious(box, references, overlap_rule="area"):
    """Intersection over union of a box with each reference; 0 where neither has an area.

    Args:
        box (four `float`): x_min, y_min, x_max, y_max.
        references (sequence of four `float` each): boxes in the same pixels.
        overlap_rule (`str`, defaults to `"area"`): `"released"` ignores what overlaps by at most one pixel.

    Returns:
        list of `float` in [0, 1].
    """
    box, references = np.asarray(box, dtype=np.float64), np.asarray(references, dtype=np.float64)
    sides = np.minimum(box[2:], references[:, 2:]) - np.maximum(box[:2], references[:, :2])
    least_side = 1 if overlap_rule == "released" else 0
    overlaps = np.where((sides > least_side).all(axis=1), sides.prod(axis=1), 0)
    unions = (box[2:] - box[:2]).prod() + (references[:, 2:] - references[:, :2]).prod(axis=1) - overlaps
    return (overlaps / np.where(unions > 0, unions, 1)).tolist()


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


def _check_sums(sums, num_boxes, index):
    values = _as_numbers([] if sums is None else sums, f"`heat_sums[{index}]`")
    if values.shape != (num_boxes,):
        raise ValueError(
            f"`heat_sums[{index}]` has shape {values.shape} but `predictions[{index}]` has {num_boxes} boxes: give "
            "one number per box."
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"`heat_sums[{index}]` is {values.tolist()}: the heatmap held NaN or infinity. Check the model before it "
            "is scored."
        )
    return values.tolist()


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
