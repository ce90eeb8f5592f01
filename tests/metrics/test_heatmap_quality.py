# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Heatmap quality as an `evaluate` module: six measures on maps that can be worked out on paper, degenerate maps."""

import evaluate
import numpy as np
import pytest
import torch

from albef_amc.evaluation.heatmap_measures import measure_heatmap
from albef_amc.metrics import get_metric_folder

MEASURES = "energy_inside inside_outside_ratio soft_iou soft_dice weighted_distance pointing_uncertainty".split()
HEAT = dict(heat_inside=3.0, heat_total=4.0, heat_distance=0.5, num_peaks_inside=1, num_peaks=1)
AREA = dict(region_area=10.0, image_area=100.0)


@pytest.fixture
def heatmap_quality(tmp_path):
    return evaluate.load(str(get_metric_folder("heatmap_quality")), cache_dir=str(tmp_path))


def measure(heatmap_quality, heatmap, region_mask) -> list[float]:
    prediction, reference = measure_heatmap(torch.as_tensor(heatmap), torch.as_tensor(region_mask))
    result = heatmap_quality.compute(predictions=[prediction], references=[reference])
    return [result[name] for name in MEASURES]


def test_a_map_worked_out_on_paper(heatmap_quality):
    heatmap = [[4.0, 2.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0], [0.0, 0.0, -9.0]]
    region = [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    # 1.5 inside, 0.5 outside at distance 1 of diagonal 5, region 4 of 12 pixels
    mean_inside, mean_outside = 1.5 / 4, 0.5 / 8
    expected = [0.75, mean_inside / (mean_inside + mean_outside), 1.5 / 4.5, 3 / 6, 0.5 * 1 / 5 / 2, 0]
    assert measure(heatmap_quality, heatmap, region) == pytest.approx(expected)


def test_the_region_itself_is_the_best_map(heatmap_quality):
    region = np.zeros((6, 8), dtype=np.float32)
    region[1:4, 2:5] = 1
    assert measure(heatmap_quality, 3 * region, region) == [1, 1, 1, 1, 0, 0]


def test_heat_everywhere_but_in_the_region(heatmap_quality):
    region = np.zeros((6, 8), dtype=np.float32)
    region[:, :4] = 1
    *first, distance, uncertainty = measure(heatmap_quality, 1 - region, region)
    assert first == [0, 0, 0, 0] and uncertainty == 0
    assert distance == pytest.approx(np.mean([1, 2, 3, 4]) / 10)


def test_a_constant_map_prefers_nothing(heatmap_quality):
    region = np.zeros((6, 8), dtype=np.float32)
    region[:, :2] = 1
    energy, ratio, iou, dice, _, uncertainty = measure(heatmap_quality, np.ones((6, 8)), region)
    assert (energy, ratio, iou, dice, uncertainty) == pytest.approx((0.25, 0.5, 0.25, 0.4, 1))


def test_partly_covered_pixels_count_by_their_share(heatmap_quality):
    energy, ratio, iou, dice, distance, _ = measure(heatmap_quality, [[1.0, 0.5]], [[0.5, 0.0]])
    assert (energy, iou, dice) == pytest.approx((1 / 3, 0.5 / 1.5, 1 / 2))
    assert ratio == pytest.approx(1 / (1 + 1 / 1.5))
    assert distance == pytest.approx(0.5 / np.hypot(1, 2) / 1.5)


@pytest.mark.parametrize(("second", "uncertain"), [(1.0, 1), (0.96, 1), (0.94, 0)])
def test_a_close_call_is_uncertain(heatmap_quality, second, uncertain):
    assert measure(heatmap_quality, [[2.0, 0.0, 2 * second]], [[1.0, 0.0, 0.0]])[-1] == uncertain
    assert measure(heatmap_quality, [[2.0, 2 * second, 0.0]], [[1.0, 1.0, 0.0]])[-1] == 0


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_map_without_heat_is_the_worst_and_is_counted(heatmap_quality, value):
    prediction, reference = measure_heatmap(torch.full((4, 4), value), torch.eye(4))
    result = heatmap_quality.compute(predictions=[HEAT, prediction], references=[AREA, reference], return_values=True)
    assert [result["values"][name][1] for name in MEASURES] == [0, 0, 0, 0, 1, 1]
    assert (result["num_without_heat"], result["num_phrases"], result["energy_inside"]) == (1, 2, 0.375)


def test_a_region_that_covers_the_image_has_no_outside(heatmap_quality):
    energy, ratio, iou, _, distance, uncertainty = measure(heatmap_quality, [[1.0, 0.5]], [[1.0, 1.0]])
    assert (energy, ratio, iou, distance, uncertainty) == (1, 0.5, 0.75, 0, 0)


def test_scale_does_not_matter(heatmap_quality):
    heatmap, region = torch.rand(9, 7, generator=torch.Generator().manual_seed(0)), torch.zeros(9, 7)
    region[2:5, 1:4] = 1
    assert measure(heatmap_quality, heatmap, region) == pytest.approx(measure(heatmap_quality, 1e-6 * heatmap, region))


def test_means_and_types(heatmap_quality):
    result = heatmap_quality.compute(
        predictions=[HEAT, {**HEAT, "heat_inside": 1.0}],
        references=[AREA, AREA],
        phrase_types=[["people"], ["people", "other"]],
    )
    assert result["energy_inside"] == 0.5
    assert result["energy_inside_by_type"] == {"other": 0.25, "people": 0.5}
    assert result["num_phrases_by_type"] == {"other": 1, "people": 2}
    assert "values" not in result


@pytest.mark.parametrize(
    ("heat", "area", "words"),
    [
        ({}, {"region_area": 0.0}, "`region_area` 0: no region"),
        ({}, {"region_area": 101.0}, "`region_area` 101.0, which is more than `image_area`: 100"),
        ({"heat_inside": 4.1}, {}, "`heat_inside` 4.1, which is more than `heat_total` or `region_area`"),
        ({"heat_inside": 4.0}, {"region_area": 2.0}, "`heat_inside` 4.0, which is more than"),
        ({"heat_total": 101.0}, {}, "`heat_total` 101.0, which is more than `image_area`"),
        ({"heat_distance": 9.0}, {}, "`heat_distance` 9.0, which is more than `heat_total`"),
        ({"num_peaks_inside": 2}, {}, "`num_peaks_inside` 2.0, which is more than `num_peaks`"),
        ({"heat_inside": -1.0}, {}, "negative or not finite"),
        ({"heat_total": np.nan}, {}, "negative or not finite"),
        ({"heat_total": "a"}, {}, "must hold numbers"),
        ({"heat": 1.0}, {}, "must be a dict of heat_inside"),
    ],
)
def test_what_cannot_be_measured_is_refused(heatmap_quality, heat, area, words):
    with pytest.raises(ValueError, match=words):
        heatmap_quality.compute(predictions=[{**HEAT, **heat}], references=[{**AREA, **area}])


def test_numbers_in_place_of_fields_are_refused(heatmap_quality):
    with pytest.raises(ValueError, match=r"`references\[0\]` must be a dict of region_area, image_area, got 10"):
        heatmap_quality.compute(predictions=[HEAT], references=[10])
