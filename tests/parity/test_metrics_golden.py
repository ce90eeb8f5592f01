# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Pointing game and proposal ranking against the reference outputs of the published evaluation, item by item."""

import json
from pathlib import Path

import evaluate
import pytest
from safetensors.torch import load_file

from albef_amc.evaluation.heatmap_measures import sum_heat_in_boxes
from albef_amc.metrics import get_metric_folder
from albef_amc.regions_albef import find_point, resize_heatmap

GOLDEN = Path(__file__).parent / "golden" / "metrics"
INPUTS = json.loads((GOLDEN / "inputs.json").read_text("utf-8"))
OUTPUTS = json.loads((GOLDEN / "outputs.json").read_text("utf-8"))
HEATMAPS = load_file(GOLDEN / "heatmaps.safetensors")


@pytest.fixture
def pointing_game(tmp_path):
    return evaluate.load(str(get_metric_folder("pointing_game")), cache_dir=str(tmp_path))


@pytest.fixture
def box_accuracy(tmp_path):
    return evaluate.load(str(get_metric_folder("box_accuracy")), cache_dir=str(tmp_path))


def convert_xywh(box: list[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y + height]


def collect_boxes(name: str) -> list[list[list[float]]]:
    items = INPUTS[name]["items"]
    return [item["boxes"] if name == "flickr" else [convert_xywh(item["bbox"])] for item in items]


def find_points(name: str) -> list[list[int]]:
    points = []
    for item, heatmap in zip(INPUTS[name]["items"], HEATMAPS[name], strict=True):
        points.append([int(value) for value in find_point(resize_heatmap(heatmap, item["height"], item["width"]))])
    return points


def compute_split_accuracies(pointing_game, name: str, split_of_item) -> dict[str, float]:
    """Accuracy per reported split; `split_of_item` gives `None` for an item that is ignored."""
    kept = [index for index, item in enumerate(INPUTS[name]["items"]) if split_of_item(item) is not None]
    points, boxes = find_points(name), collect_boxes(name)
    return pointing_game.compute(
        predictions=[points[index] for index in kept],
        references=[boxes[index] for index in kept],
        phrase_types=[[split_of_item(INPUTS[name]["items"][index])] for index in kept],
    )["pointing_game_accuracy_by_type"]


def get_refcoco_split(item: dict) -> str | None:
    return {"val": "val_d", "testA": "testA_d", "testB": "testB_d"}.get(item["split"])


def get_two_way_split(split: str) -> str | None:
    return "test" if "test" in split else {"val": "val_d"}.get(split)


@pytest.mark.parametrize(("name", "mode"), [("refcoco", "point_mode"), ("flickr", "flickr")])
def test_points_and_hits_of_every_item(pointing_game, name, mode):
    points = find_points(name)
    assert points == OUTPUTS[mode]["point_xy"]
    result = pointing_game.compute(predictions=points, references=collect_boxes(name), return_hits=True)
    assert [int(hit) for hit in result["hits"]] == OUTPUTS[mode]["correct"]


def test_refcoco_accuracy_per_split(pointing_game):
    accuracies = compute_split_accuracies(pointing_game, "refcoco", get_refcoco_split)
    assert accuracies == OUTPUTS["point_mode"]["accuracies"]


def test_refclef_accuracy_per_split(pointing_game):
    accuracies = compute_split_accuracies(
        pointing_game, "refcoco", lambda item: get_two_way_split(item["refclef_split"])
    )
    assert accuracies == OUTPUTS["point_mode_refclef_splits"]["accuracies"]


def test_flickr_accuracy_per_split(pointing_game):
    accuracies = compute_split_accuracies(pointing_game, "flickr", lambda item: get_two_way_split(item["split"]))
    assert accuracies == OUTPUTS["flickr"]["accuracies"]


def test_flickr_split_without_items_is_skipped(pointing_game):
    accuracies = compute_split_accuracies(
        pointing_game, "flickr", lambda item: "test" if "test" in item["split"] else None
    )
    assert accuracies == OUTPUTS["flickr_without_val"]["accuracies"]


@pytest.mark.parametrize("expected", ["point_in_box_xywh", "point_in_box_xyxy"])
def test_points_on_and_beside_the_border(pointing_game, expected):
    points, boxes = zip(*INPUTS["points"], strict=True)
    result = pointing_game.compute(
        predictions=points, references=[[convert_xywh(box)] for box in boxes], return_hits=True
    )
    assert result["hits"] == OUTPUTS[expected]


@pytest.fixture(scope="module")
def detections() -> dict[str, list]:
    """Detections of every item as published (`boxes_xywh`), and the inputs of the metric made from them."""
    items = INPUTS["refcoco"]["items"]
    published = [[box[:4] for box in INPUTS["refcoco"]["detections"][str(item["image_id"])]] for item in items]
    boxes = [[convert_xywh(box) for box in boxes] for boxes in published]
    sums = [
        sum_heat_in_boxes(resize_heatmap(heatmap, item["height"], item["width"]), candidates)
        for heatmap, item, candidates in zip(HEATMAPS["refcoco"], items, boxes, strict=True)
    ]
    return {"boxes_xywh": published, "predictions": boxes, "heat_sums": sums}


@pytest.mark.parametrize("mode", ["box_mode", "box_mode_alpha_1"])
def test_chosen_detections_and_accuracies(box_accuracy, detections, mode):
    splits = [get_refcoco_split(item) for item in INPUTS["refcoco"]["items"]]
    result = box_accuracy.compute(
        predictions=detections["predictions"],
        references=collect_boxes("refcoco"),
        heat_sums=detections["heat_sums"],
        phrase_types=[[split] if split else [] for split in splits],
        area_exponent=OUTPUTS[mode]["alpha"],
        overlap_rule="released",
        return_hits=True,
    )
    chosen = [boxes[index] for boxes, index in zip(detections["boxes_xywh"], result["chosen"], strict=True)]
    assert chosen == OUTPUTS[mode]["chosen_box"]
    assert result["box_accuracy_at_50_by_type"] == OUTPUTS[mode]["accuracies"]
    if mode == "box_mode":
        assert [int(hit) for hit in result["hits"]] == OUTPUTS[mode]["correct"]
        assert result["ious"] == pytest.approx(OUTPUTS[mode]["iou"], abs=1e-12)


def test_overlap_of_inclusive_pixel_ranges(box_accuracy):
    first, second = zip(*INPUTS["compute_iou"], strict=True)
    result = box_accuracy.compute(
        predictions=[[convert_xywh(box)] for box in first],
        references=[[convert_xywh(box)] for box in second],
        overlap_rule="released",
        return_hits=True,
    )
    assert result["ious"] == pytest.approx(OUTPUTS["compute_iou"], abs=1e-12)
