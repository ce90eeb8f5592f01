# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Box accuracy as an `evaluate` module: choice of the box, overlap, thresholds, and what it refuses."""

import evaluate
import numpy as np
import pytest
import torch

from albef_amc.evaluation.heatmap_measures import sum_heat_in_boxes
from albef_amc.metrics import get_metric_folder
from albef_amc.regions_albef import boxes_from_heatmap

BOX = [10, 20, 30, 40]


@pytest.fixture
def box_accuracy(tmp_path):
    return evaluate.load(str(get_metric_folder("box_accuracy")), cache_dir=str(tmp_path))


def compute_phrase(box_accuracy, boxes, references, heat_sums=None, **options) -> dict:
    """Hit, IoU and choice of one phrase."""
    sums = None if heat_sums is None else [heat_sums]
    result = box_accuracy.compute(
        predictions=[boxes], references=[references], heat_sums=sums, return_hits=True, **options
    )
    return {name: result[name][0] for name in ("hits", "ious", "chosen")}


@pytest.mark.parametrize(
    ("box", "iou"),
    [
        ([10, 20, 30, 40], 1),
        ([10, 20, 30, 30], 0.5),
        ([10, 20, 30, 29.9], 0.495),
        ([20, 20, 40, 40], 1 / 3),
        ([30, 20, 50, 40], 0),
        ([40, 20, 30 + 20, 40], 0),
        ([15, 25, 15, 25], 0),
        ([0, 0, 100, 100], 0.04),
    ],
)
def test_overlap_and_hit_at_one_half(box_accuracy, box, iou):
    phrase = compute_phrase(box_accuracy, [box], [BOX])
    assert phrase["ious"] == pytest.approx(iou, abs=1e-12)
    assert phrase["hits"] == (iou >= 0.5)


@pytest.mark.parametrize(
    ("sums", "exponent", "chosen"),
    [
        ([4, 8], 0, 1),
        ([4, 8], 0.5, 0),  # 4 / 10 and 8 / 40
        ([4, 15.9], 0.5, 0),
        ([4, 16], 0.5, 0),  # equal: the first
        ([4, 16.1], 0.5, 1),
        ([4, 16.1], 1, 0),
        ([-1, 0.1], 0.5, 1),
    ],
)
def test_heat_over_a_power_of_the_area_chooses_the_box(box_accuracy, sums, exponent, chosen):
    boxes = [[0, 0, 10, 10], [0, 0, 40, 40]]
    assert compute_phrase(box_accuracy, boxes, [BOX], sums, area_exponent=exponent)["chosen"] == chosen


def test_without_heat_sums_the_first_box_is_taken(box_accuracy):
    assert compute_phrase(box_accuracy, [[0, 0, 1, 1], BOX], [BOX])["ious"] == 0
    assert compute_phrase(box_accuracy, [BOX, [0, 0, 1, 1]], [BOX])["ious"] == 1


@pytest.mark.parametrize(
    ("boxes", "sums"),
    [([], None), ([], []), ([BOX], [0]), ([BOX], [-3]), ([[10, 20, 10, 40]], [5]), ([BOX, BOX], [0, -1])],
)
def test_a_phrase_without_a_choice_is_a_counted_miss(box_accuracy, boxes, sums):
    result = box_accuracy.compute(
        predictions=[[BOX], boxes],
        references=[[BOX], [BOX]],
        heat_sums=None if sums is None else [[1], sums],
        return_hits=True,
    )
    assert (result["hits"], result["chosen"], result["num_without_choice"]) == ([True, False], [0, -1], 1)


def test_the_best_of_several_annotated_boxes_counts(box_accuracy):
    assert compute_phrase(box_accuracy, [BOX], [[0, 0, 5, 5], [10, 20, 30, 35]])["ious"] == 0.75


def test_the_mean_accuracy_averages_ten_thresholds(box_accuracy):
    result = box_accuracy.compute(
        predictions=[[[0, 0, 74, 10]], [[0, 0, 75, 10]], [[0, 0, 10, 10]]], references=[[[0, 0, 100, 10]]] * 3
    )
    assert result["mean_box_accuracy"] == pytest.approx((5 + 6 + 0) / 30)
    assert result["box_accuracy_at_50"] == pytest.approx(2 / 3)
    assert result["mean_iou"] == pytest.approx((0.74 + 0.75 + 0.1) / 3)


@pytest.mark.parametrize(
    ("box", "reference", "area", "released"),
    [
        ([0, 0, 1, 1], [0, 0, 1, 1], 1, 0),
        ([0, 0, 1, 8], [0, 0, 2, 8], 0.5, 0),
        ([0, 0, 2, 2], [0, 0, 2, 2], 1, 1),
        ([0, 0, 9, 9], [8, 0, 17, 9], 9 / 153, 0),
    ],
)
def test_the_released_rule_ignores_overlaps_of_one_pixel(box_accuracy, box, reference, area, released):
    assert compute_phrase(box_accuracy, [box], [reference])["ious"] == pytest.approx(area)
    assert compute_phrase(box_accuracy, [box], [reference], overlap_rule="released")["ious"] == released


def test_types_are_counted_apart(box_accuracy):
    result = box_accuracy.compute(
        predictions=[[BOX], [[0, 0, 1, 1]], []],
        references=[[BOX]] * 3,
        phrase_types=[["people", "other"], ["people"], []],
    )
    assert result["box_accuracy_at_50_by_type"] == {"other": 1.0, "people": 0.5}
    assert result["num_phrases_by_type"] == {"other": 1, "people": 2}
    assert "hits" not in result


def test_heatmap_to_accuracy_by_detections_and_by_the_box_of_the_heatmap(box_accuracy):
    heatmap = torch.zeros(50, 60)
    heatmap[20:40, 10:30] = 1
    detections = [[0, 0, 60, 50], BOX, [11.0, 21.0, 20.0, 30.0]]
    sums = sum_heat_in_boxes(heatmap, detections)
    assert sums == [400, 400, 81]
    assert compute_phrase(box_accuracy, detections, [BOX], sums) == {"hits": True, "ious": 1, "chosen": 1}
    boxes, _ = boxes_from_heatmap(heatmap, 0.5)
    assert compute_phrase(box_accuracy, boxes, [BOX])["ious"] == 1


@pytest.mark.parametrize("make", [list, np.array, torch.tensor])
def test_lists_arrays_and_tensors_give_the_same(box_accuracy, make):
    inputs = dict(predictions=make([[BOX, BOX]]), references=make([[BOX]]), heat_sums=make([[1.0, 2.0]]))
    assert box_accuracy.compute(**inputs, return_hits=True)["chosen"] == [1]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"heat_sums": [[1]]}, "`heat_sums` or `phrase_types` were given without `predictions`"),
        ({"predictions": [None], "references": [[BOX]]}, r"`predictions\[0\]` is None"),
        ({"predictions": [BOX], "references": [[BOX]]}, r"`predictions\[0\]` must be a list of boxes"),
        ({"predictions": [[BOX, [1]]], "references": [[BOX]]}, r"`predictions\[0\]` must hold numbers"),
        ({"predictions": [[[0, 0, np.nan, 1]]], "references": [[BOX]]}, r"`predictions\[0\]` holds a box that is not"),
        ({"predictions": [[BOX], [[9, 0, 1, 1]]], "references": [[BOX]] * 2}, r"`predictions\[1\]` holds a reversed"),
        ({"predictions": [[BOX]], "references": [[]]}, r"`references\[0\]` has no box"),
        ({"predictions": [[BOX]], "references": [None]}, r"`references\[0\]` has no box"),
        ({"predictions": [[BOX]], "references": [[[30, 40, 10, 20]]]}, r"`references\[0\]` holds a reversed box"),
        (
            {"predictions": [[BOX]], "references": [[BOX]], "heat_sums": [[1, 2]]},
            r"`heat_sums\[0\]` has shape .* 1 boxes",
        ),
        ({"predictions": [[BOX]], "references": [[BOX]], "heat_sums": [None]}, r"`heat_sums\[0\]` has shape"),
        ({"predictions": [[BOX]], "references": [[BOX]], "heat_sums": [[np.nan]]}, "NaN or infinity"),
        ({"predictions": [[BOX]], "references": [[BOX]], "heat_sums": []}, "1 `predictions` but 0 `heat_sums`"),
        ({"predictions": [[BOX]], "references": [[BOX]], "overlap_rule": "inclusive"}, "one of area, released"),
        ({"predictions": [[BOX]], "references": [[BOX]], "area_exponent": -1}, "`area_exponent` must be"),
    ],
)
def test_what_cannot_be_scored_is_refused(box_accuracy, inputs, words):
    with pytest.raises(ValueError, match=words):
        box_accuracy.compute(**inputs)
