# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Phrase recall as an `evaluate` module: ranks, protocols, masks, and what it refuses."""

import evaluate
import numpy as np
import pytest
import torch

from albef_amc.evaluation.heatmap_measures import MASK_THRESHOLDS, choose_thresholds, measure_mask_ious
from albef_amc.metrics import get_metric_folder

LEFT, RIGHT, AROUND = [0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 30, 10]
FAR = [80, 80, 90, 90]


@pytest.fixture
def phrase_recall(tmp_path):
    return evaluate.load(str(get_metric_folder("phrase_recall")), cache_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("box", "ious"),
    [
        (LEFT, {"any": 1, "merged": 1 / 3, "all": 0.5}),
        (AROUND, {"any": 1 / 3, "merged": 1, "all": 2 / 3}),
        ([10, 0, 20, 10], {"any": 0, "merged": 1 / 3, "all": 0}),
        (FAR, {"any": 0, "merged": 0, "all": 0}),
        ([5, 5, 5, 5], {"any": 0, "merged": 0, "all": 0}),
    ],
)
def test_three_protocols_of_two_boxes(phrase_recall, box, ious):
    result = phrase_recall.compute(predictions=[[box]], references=[[LEFT, RIGHT]], return_ious=True)
    assert {name: values[0] for name, values in result["ious"].items()} == pytest.approx(ious)
    for name, iou in ious.items():
        assert result[f"recall_at_1_{name}"] == (iou >= 0.5)
        assert result[f"mean_iou_at_1_{name}"] == pytest.approx(iou)


def test_overlapping_boxes_count_once_in_their_union(phrase_recall):
    references = [[0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 10, 10]]
    result = phrase_recall.compute(predictions=[[[0, 0, 15, 10]]], references=[references])
    assert result["mean_iou_at_1_all"] == 1
    assert result["mean_iou_at_1_any"] == pytest.approx(2 / 3)


def test_protocols_equal_masks_of_random_boxes(phrase_recall):
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 20, (40, 4, 4))
    boxes = np.concatenate([np.minimum(corners[..., :2], corners[..., 2:]), corners.max(axis=2, keepdims=True)], -1)
    boxes = np.concatenate([boxes, boxes[..., 2:]], axis=-1)  # x_min, y_min, and the larger corner twice
    result = phrase_recall.compute(predictions=boxes[:, :1], references=boxes[:, 1:], return_ious=True)
    for index, (first, *references) in enumerate(boxes):
        heatmap = torch.zeros(24, 24)
        heatmap[first[1] : first[3], first[0] : first[2]] = 1
        for name, ious in measure_mask_ious(heatmap, references, thresholds=[0.5]).items():
            assert result["ious"][name][index] == pytest.approx(ious[0]), name


def test_recall_rises_with_the_rank(phrase_recall):
    ranked = [FAR] * 4 + [[0, 0, 10, 8]] + [FAR] * 4 + [LEFT] + [FAR]
    result = phrase_recall.compute(predictions=[ranked, [LEFT], []], references=[[LEFT]] * 3)
    for name in ("any", "merged", "all"):
        assert [result[f"recall_at_{rank}_{name}"] for rank in (1, 5, 10, 100)] == pytest.approx(
            [1 / 3, 2 / 3, 2 / 3, 2 / 3]
        )
        assert [result[f"mean_iou_at_{rank}_{name}"] for rank in (1, 5, 10, 100)] == pytest.approx(
            [1 / 3, 1.8 / 3, 2 / 3, 2 / 3]
        )


def test_types_are_counted_apart(phrase_recall):
    result = phrase_recall.compute(
        predictions=[[LEFT], [FAR]], references=[[LEFT]] * 2, phrase_types=[["people"], ["people", "other"]]
    )
    assert result["recall_at_1_all_by_type"] == {"other": 0.0, "people": 0.5}
    assert result["num_phrases_by_type"] == {"other": 1, "people": 2}


def test_masks_are_scored_by_their_iou(phrase_recall):
    result = phrase_recall.compute(
        mask_ious=[{"any": 0.5, "all": 0.4}, {"any": 0.1, "all": 0.6}], phrase_types=[["part"], []], return_ious=True
    )
    assert result == {
        "recall_at_1_any": 0.5,
        "mean_iou_at_1_any": 0.3,
        "recall_at_1_any_by_type": {"part": 1.0},
        "recall_at_1_all": 0.5,
        "mean_iou_at_1_all": 0.5,
        "recall_at_1_all_by_type": {"part": 0.0},
        "num_phrases": 2,
        "num_phrases_by_type": {"part": 1},
        "ious": {"any": [0.5, 0.1], "all": [0.4, 0.6]},
    }


def test_a_threshold_is_chosen_on_one_split_and_scored_on_another(phrase_recall):
    heatmap = torch.zeros(10, 10)
    heatmap[:, :4], heatmap[:, :2] = 0.6, 1.0
    tuning = [measure_mask_ious(heatmap, [[0, 0, 4, 10]])]
    chosen = choose_thresholds(tuning)
    assert chosen == dict.fromkeys(["any", "merged", "all"], 0.01)  # 0 covers the image, 0.01 the annotated box
    found = measure_mask_ious(heatmap, [[0, 0, 5, 10]])
    phrase = {name: ious[MASK_THRESHOLDS.index(chosen[name])] for name, ious in found.items()}
    phrase_recall.add(mask_ious=phrase)
    assert phrase_recall.compute()["mean_iou_at_1_merged"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"predictions": [[LEFT]]}, "either `predictions` and `references`"),
        ({"predictions": [[LEFT]], "references": [[LEFT]], "mask_ious": [{"any": 1}]}, "or `mask_ious` alone"),
        ({"mask_ious": [{"any": 1}], "phrase_types": []}, "1 `mask_ious` but 0 `phrase_types`"),
        ({"mask_ious": [{}]}, r"`mask_ious\[0\]` must be a dict"),
        ({"mask_ious": [0.5]}, r"`mask_ious\[0\]` must be a dict"),
        ({"mask_ious": [{"every": 1}]}, r"`mask_ious\[0\]` must be a dict"),
        ({"mask_ious": [{"any": 1.5}]}, r"`mask_ious\[0\]` must hold numbers in \[0, 1\]"),
        ({"mask_ious": [{"any": np.nan}]}, r"`mask_ious\[0\]` must hold numbers in \[0, 1\]"),
        ({"mask_ious": [{"any": 1}, {"all": 1}]}, "different protocols"),
        ({"predictions": [None], "references": [[LEFT]]}, r"`predictions\[0\]` is None"),
        ({"predictions": [LEFT], "references": [[LEFT]]}, r"`predictions\[0\]` must be a list of boxes"),
        ({"predictions": [[[9, 0, 1, 1]]], "references": [[LEFT]]}, r"`predictions\[0\]` holds a reversed box"),
        ({"predictions": [[[0, 0, np.inf, 1]]], "references": [[LEFT]]}, r"`predictions\[0\]` holds a box that is"),
        ({"predictions": [[LEFT]], "references": [[]]}, r"`references\[0\]` has no box"),
        ({"predictions": [[LEFT]], "references": [None]}, r"`references\[0\]` has no box"),
    ],
)
def test_what_cannot_be_scored_is_refused(phrase_recall, inputs, words):
    with pytest.raises(ValueError, match=words):
        phrase_recall.compute(**inputs)


def test_boxes_and_masks_are_not_averaged_together(phrase_recall):
    phrase_recall.add(prediction=[LEFT], reference=[LEFT])
    phrase_recall.add(mask_ious={"any": 1})
    with pytest.raises(ValueError, match="different protocols"):
        phrase_recall.compute()
