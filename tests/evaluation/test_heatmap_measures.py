# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Sums, distances and IoUs of heatmaps: against plain loops, at borders, and what is refused."""

import numpy as np
import pytest
import torch

from albef_amc.evaluation.heatmap_measures import (
    MASK_THRESHOLDS,
    choose_thresholds,
    measure_distances,
    measure_heatmap,
    measure_mask_ious,
    round_boxes,
    sum_heat_in_boxes,
)


@pytest.mark.parametrize(
    ("box", "total"),
    [
        ([0, 0, 3, 2], 15),
        ([1, 0, 2, 2], 5),
        ([0.9, 0.9, 2.9, 1.9], 1),
        ([-5, -5, 1.5, 9], 3),
        ([2, 1, 99, 99], 5),
        ([3, 0, 9, 2], 0),
        ([-9, 0, -2, 2], 0),
        ([1, 1, 1, 1], 0),
    ],
)
def test_a_box_sums_its_whole_pixels_inside_the_map(box, total):
    assert sum_heat_in_boxes(torch.arange(6.0).reshape(2, 3), [box]) == [total]


def test_overshoot_below_zero_is_part_of_the_sum():
    assert sum_heat_in_boxes(torch.tensor([[2.0, -3.0]]), [[0, 0, 2, 1]]) == [-1]
    assert sum_heat_in_boxes(torch.ones(2, 2), []) == []


@pytest.mark.parametrize("share", [0.01, 0.1, 0.6])
def test_distances_equal_the_nearest_of_all_pixels(share):
    rng = np.random.default_rng(0)
    for _ in range(60):
        is_region = rng.random(rng.integers(1, 14, 2)) < share
        is_region.flat[rng.integers(is_region.size)] = True
        rows, columns = np.nonzero(is_region)
        grid = np.indices(is_region.shape)[..., None]
        nearest = np.sqrt(((grid[0] - rows) ** 2 + (grid[1] - columns) ** 2).min(axis=-1))
        np.testing.assert_array_equal(measure_distances(is_region), nearest)


def test_mask_ious_equal_loops_over_thresholds():
    heatmap = torch.rand(12, 16, generator=torch.Generator().manual_seed(1))
    boxes = [[1.2, 2.0, 6.4, 9.0], [4.0, 3.0, 15.6, 7.7]]
    masks = np.zeros((3, 12, 16), dtype=bool)
    masks[0, 2:9, 1:6] = masks[1, 3:8, 4:16] = masks[2, 2:9, 1:16] = True
    ious = measure_mask_ious(heatmap, boxes)
    share = (heatmap / heatmap.max()).numpy()
    for index, threshold in enumerate(MASK_THRESHOLDS):
        kept = share >= threshold
        single = [(kept & mask).sum() / (kept | mask).sum() for mask in (*masks, masks[0] | masks[1])]
        assert ious["any"][index] == pytest.approx(max(single[:2]))
        assert ious["merged"][index] == pytest.approx(single[2])
        assert ious["all"][index] == pytest.approx(single[3])


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_map_without_heat_overlaps_nothing(value):
    assert measure_mask_ious(torch.full((4, 4), value), [[0, 0, 4, 4]])["any"].max() == 0


def test_a_box_that_rounds_to_nothing_has_no_overlap():
    ious = measure_mask_ious(torch.ones(4, 4), [[1.1, 1.1, 1.3, 1.3]])
    assert {name: values.max() for name, values in ious.items()} == {"any": 0, "merged": 0, "all": 0}


def test_the_threshold_of_highest_recall_wins_then_that_of_highest_mean():
    tables = {"any": [[0.5, 0.6, 0.9], [0.5, 0.6, 0.4]], "all": [[0.1, 0.3, 0.3], [0.1, 0.1, 0.1]]}
    ious = [{name: np.array(rows[index]) for name, rows in tables.items()} for index in range(2)]
    assert choose_thresholds(ious, [0.1, 0.2, 0.3]) == {"any": 0.2, "all": 0.2}


def test_boxes_are_rounded_and_cut_off():
    assert round_boxes([[-1.4, 0.6, 9.7, 99]], height=5, width=8).tolist() == [[0, 1, 8, 5]]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: sum_heat_in_boxes(torch.ones(1, 4, 4), [[0, 0, 1, 1]]),
            r"`heatmap` must have shape \(height, width\)",
        ),
        (lambda: sum_heat_in_boxes(torch.tensor([[np.nan]]), [[0, 0, 1, 1]]), "`heatmap` holds NaN"),
        (lambda: measure_heatmap(torch.ones(4, 4), torch.ones(8, 8)), "`region_mask` has shape"),
        (lambda: measure_heatmap(torch.ones(4, 4), torch.zeros(4, 4)), "`region_mask` has no area"),
        (lambda: measure_mask_ious(torch.ones(4, 4), []), "`boxes` is empty"),
        (lambda: choose_thresholds([]), "`ious` is empty"),
        (lambda: choose_thresholds([{"any": np.ones(3)}]), "3 thresholds but `thresholds` has 100"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
