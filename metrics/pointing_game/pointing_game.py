# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Pointing game: does the strongest pixel of a phrase's heatmap lie in the region that the phrase names?

The pointing game scores phrase grounding. The model points at one pixel per phrase, the maximum of its heatmap; the
point is a hit if it lies in one of the phrase's annotated boxes. The accuracy is hits over phrases.

Rules, as in the published evaluation of ALBEF and AMC:
- Border: a hit lies strictly inside, x_min < x < x_max and y_min < y < y_max. A point on a side is a miss, and a box
  narrower than two pixels can hold no whole pixel.
- Several boxes: a hit in any one of them counts.
- Ties: the caller chooses the point. The published choice is the first maximum in row-major order (top row first, then
  from the left) of the heatmap resized bicubically to the image's size, as integers.
- Every phrase counts once, also when phrases share an image or a box.
"""

import inspect

import datasets
import evaluate
import numpy as np

NOTHING_ADDED = "no phrase was added: the accuracy of nothing is undefined. Pass at least one phrase."

_CITATION = """
@article{zhang2018topdown,
  title = {Top-Down Neural Attention by Excitation Backprop},
  author = {Zhang, Jianming and Bargal, Sarah Adel and Lin, Zhe and Brandt, Jonathan and Shen, Xiaohui and
            Sclaroff, Stan},
  journal = {International Journal of Computer Vision},
  volume = {126},
  year = {2018}
}
@inproceedings{yang2023improving,
  title = {Improving Visual Grounding by Encouraging Consistent Gradient-based Explanations},
  author = {Yang, Ziyan and Kafle, Kushal and Dernoncourt, Franck and Ordonez, Vicente},
  booktitle = {CVPR},
  year = {2023}
}
"""


class PointingGame(evaluate.Metric):
    """Pointing game accuracy over all phrases and per phrase type; the module's docstring has the rules.

    Args:
        predictions (list of pairs of `float`, or array of shape `(num_phrases, 2)`):
            The points: x, y in pixels of the stored image, after its EXIF rotation.
        references (list of lists of four `float`):
            The boxes of each phrase, at least one: x_min, y_min, x_max, y_max in the same pixels.
        phrase_types (list of lists of `str`, *optional*):
            The types of each phrase. A phrase of several types counts in each of them, one without types (an empty
            list or `None`) in none. Give them in every call or in none.
        return_hits (`bool`, defaults to `False`, `compute` only):
            Also return whether each phrase is a hit.

    Returns:
        `dict` with
            - `pointing_game_accuracy` (`float` in [0, 1]; papers print percent): hits over phrases,
            - `num_phrases` (`int`),
            - `pointing_game_accuracy_by_type` (`dict`): type -> accuracy in [0, 1], types in alphabetical order,
            - `num_phrases_by_type` (`dict`): type -> number of phrases,
            - `hits` (list of `bool`): one per phrase in the order they were added, with `return_hits=True`.
        In a distributed run (`num_process > 1`) process 0 gets it, the others get `None`; hits are in process order.

    Examples:
        >>> pointing_game = evaluate.load("pointing_game")
        >>> pointing_game.compute(
        ...     predictions=[[5, 5], [10, 5]],
        ...     references=[[[0, 0, 10, 10]], [[0, 0, 10, 10]]],
        ...     phrase_types=[["animals"], ["animals", "people"]],
        ... )["pointing_game_accuracy_by_type"]
        {'animals': 0.5, 'people': 0.0}
    """

    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation=_CITATION,
            inputs_description=inspect.cleandoc(self.__doc__),
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.Value("float64"), length=2),
                    "references": datasets.List(datasets.List(datasets.Value("float64"), length=4)),
                    "phrase_types": datasets.List(datasets.Value("string")),
                }
            ),
            reference_urls=["https://arxiv.org/abs/1608.00507", "https://arxiv.org/abs/2206.15462"],
            license="Apache-2.0",
        )

    def compute(self, *, predictions=None, references=None, phrase_types=None, return_hits=False):
        """Scores the phrases given here and all that were added before."""
        if (predictions is None) != (references is None):
            raise ValueError("`predictions` and `references` go together: give both, or neither after `add_batch`.")
        if predictions is not None:
            self.add_batch(predictions=predictions, references=references, phrase_types=phrase_types)
        elif phrase_types is not None:
            raise ValueError("`phrase_types` were given without `predictions`: give them to `add_batch`.")
        if not len(self):
            if self.num_process == 1:
                raise ValueError(NOTHING_ADDED)
            self.add_batch(predictions=[], references=[])  # the file of this process, which process 0 waits for
        return super().compute(return_hits=return_hits)

    def add_batch(self, *, predictions=None, references=None, phrase_types=None):
        """Adds phrases; they are checked here, so that an error names the phrase and nothing of the batch is kept."""
        if predictions is None or references is None:
            raise ValueError("`predictions` and `references` are both needed: a point and the boxes of each phrase.")
        if phrase_types is None:
            phrase_types = [[]] * len(predictions)
        for name, values in (("references", references), ("phrase_types", phrase_types)):
            if len(values) != len(predictions):
                raise ValueError(
                    f"there are {len(predictions)} `predictions` but {len(values)} `{name}`: give one per phrase."
                )
        super().add_batch(
            predictions=[_check_point(point, index) for index, point in enumerate(predictions)],
            references=[_check_boxes(boxes, index) for index, boxes in enumerate(references)],
            phrase_types=[_check_types(types, index) for index, types in enumerate(phrase_types)],
        )

    def add(self, *, prediction=None, reference=None, phrase_types=None):
        """Adds one phrase: its point, its boxes, and the list of its types."""
        if prediction is None or reference is None:
            raise ValueError("`prediction` and `reference` are both needed: the point and the boxes of the phrase.")
        types = None if phrase_types is None else [phrase_types]
        self.add_batch(predictions=[prediction], references=[reference], phrase_types=types)

    def _compute(self, predictions, references, phrase_types, return_hits):
        if not len(predictions):
            raise ValueError(NOTHING_ADDED)
        hits = [is_hit(point, boxes) for point, boxes in zip(predictions, references, strict=True)]
        hits_by_type = {}
        for hit, types in zip(hits, phrase_types, strict=True):
            for name in set(types):
                hits_by_type.setdefault(name, []).append(hit)
        result = {
            "pointing_game_accuracy": float(np.mean(hits)),
            "num_phrases": len(hits),
            "pointing_game_accuracy_by_type": {
                name: float(np.mean(hits_by_type[name])) for name in sorted(hits_by_type)
            },
            "num_phrases_by_type": {name: len(hits_by_type[name]) for name in sorted(hits_by_type)},
        }
        return {**result, "hits": hits} if return_hits else result


def is_hit(point, boxes):
    """Whether the point lies strictly inside any of the boxes.

    Args:
        point (pair of `float`): x, y.
        boxes (sequence of four `float` each): x_min, y_min, x_max, y_max in the same pixels.

    Returns:
        `bool`; on a side or a corner it is `False`.
    """
    x, y = point
    return any(x_min < x < x_max and y_min < y < y_max for x_min, y_min, x_max, y_max in boxes)


def _check_point(point, index):
    values = _as_numbers(point, f"`predictions[{index}]`")
    if values.shape != (2,):
        raise ValueError(f"`predictions[{index}]` must be a point x, y, got {np.shape(point)} numbers: {point}.")
    if not np.isfinite(values).all():
        raise ValueError(
            f"`predictions[{index}]` is {values.tolist()}, which is not a point: the heatmap held NaN or infinity. "
            "Check the model before it is scored."
        )
    return values.tolist()


def _check_boxes(boxes, index):
    if boxes is None or not len(boxes):
        raise ValueError(
            f"`references[{index}]` has no box: a phrase without an annotated region cannot be scored. Leave it out."
        )
    values = _as_numbers(boxes, f"`references[{index}]`")
    if values.ndim != 2 or values.shape[1] != 4:
        raise ValueError(
            f"`references[{index}]` must be a list of boxes x_min, y_min, x_max, y_max, got {boxes}. One box is "
            "[[x_min, y_min, x_max, y_max]]."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"`references[{index}]` holds a box that is not finite: {values.tolist()}.")
    if (values[:, 2:] < values[:, :2]).any():
        raise ValueError(
            f"`references[{index}]` holds a reversed box: {values.tolist()}. Boxes are x_min, y_min, x_max, y_max; "
            "convert x, y, width, height by adding x and y."
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
