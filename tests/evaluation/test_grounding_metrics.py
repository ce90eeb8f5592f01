# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""All metrics of an evaluation from one pass of the model: values worked out by hand on maps of 4 x 4 pixels."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from testing_utils import build_rows

from albef_amc import AlbefGroundingOutput
from albef_amc.evaluation.benchmark import evaluate_split
from albef_amc.evaluation.grounding_evaluation import evaluate_grounding
from albef_amc.evaluation.grounding_metrics import METRICS, check_metrics
from albef_amc.evaluation.protocols import EvaluationRecipe
from albef_amc.evaluation.results import write_results
from albef_amc.regions_albef import encode_rle

# The map of each phrase, at the size of its image: resizing changes nothing.
CORNERS = [[4, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 2]]
RIGHT_HALF = [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 2], [0, 0, 1, 1]]
SIDES = [[1, 0, 0, 1]] * 4
FLAT = [[1, 1, 1, 1]] * 4
HEATMAPS = [CORNERS, RIGHT_HALF, SIDES, FLAT]
QUALITY = ("energy_inside", "inside_outside_ratio", "soft_iou", "soft_dice", "weighted_distance")


def build_phrase(name, types, boxes, **outlines) -> dict:
    return {"phrase_id": name, "phrase": "the red dog", "types": types, "boxes": boxes, **outlines}


@pytest.fixture
def scenes() -> list[dict]:
    """Two images of 4 x 4 pixels with two phrases each; a box, a polygon, two boxes, and a diagonal mask."""
    corner = build_phrase("corner", ["a"], [[0, 0, 2, 2]])
    half = build_phrase("half", ["a", "b"], [[2, 0, 4, 4]], polygons=[[2, 0, 4, 0, 4, 4, 2, 4]])
    sides = build_phrase("sides", ["b"], [[0, 0, 1, 4], [3, 0, 4, 4]])
    diagonal = build_phrase("diagonal", [], [[0, 0, 4, 4]], masks=[encode_rle(np.eye(4))])
    proposals = [[0, 0, 2, 2], [2, 0, 4, 4]], [[0, 0, 1, 4]]
    return [
        {
            "image": Image.new("RGB", (4, 4)),
            "image_id": str(index),
            "width": 4,
            "height": 4,
            "phrases": phrases,
            "proposals": [{"box": box, "score": 1.0, "label": None} for box in proposals[index]],
        }
        for index, phrases in enumerate([[corner, half], [sides, diagonal]])
    ]


@pytest.fixture
def model(tiny_model):
    """A model that gives `HEATMAPS` phrase by phrase, and counts how often it is asked."""
    maps, tiny_model.num_passes = torch.tensor(HEATMAPS, dtype=torch.float32), 0

    def ground(image_index, original_sizes, **inputs):
        first, tiny_model.num_passes = 2 * tiny_model.num_passes, tiny_model.num_passes + 1
        shown = maps[first : first + len(image_index)]
        return AlbefGroundingOutput(
            itm_logits=torch.zeros(len(shown), 2), match_probability=torch.full((len(shown),), 0.5), heatmap=shown
        )

    tiny_model.ground = ground
    return tiny_model


def test_all_metrics_of_one_pass_are_those_worked_out_by_hand(model, tiny_processor, scenes):
    evaluation = evaluate_grounding(model, tiny_processor, scenes, batch_size=1, metrics=METRICS)
    metrics = evaluation.metrics
    assert model.num_passes == 2
    # The points are (0, 0), on a border; (3, 2), inside; and (0, 0) twice.
    assert metrics["pointing_game_accuracy"] == 1 / 4
    assert metrics["pointing_game_accuracy_by_type"] == {"a": 0.5, "b": 0.5}
    # Sums 6, 2 | 0, 9 | 4 | 4 over areas 4, 8 | 4: choices with an IoU of 1, 1, 1 and 4 / 16.
    assert [answer.proposal_iou for answer in evaluation.results] == [1, 1, 1, 0.25]
    assert metrics["box_accuracy_at_50"] == 3 / 4
    # Rows of sums over maps divided by their maxima: inside, in all, distance; then areas of regions.
    inside, total = np.array([1.5, 4.5, 8, 4]), np.array([2, 4.5, 8, 16])
    region, distance = np.array([4, 8, 8, 4]), np.array([0.5 * np.sqrt(8) / np.sqrt(32), 0, 0, np.nan])
    mean_inside, mean_outside = inside / region, (total - inside) / (16 - region)
    from_diagonal = np.abs(np.subtract.outer(np.arange(4), np.arange(4)))  # steps along a row
    shortest = np.array([0, 1, np.sqrt(2), np.sqrt(5)])[from_diagonal]  # of pixels 0, 1, 2, 3 steps beside it
    distance[3] = shortest.sum() / np.sqrt(32)
    expected = {
        "energy_inside": inside / total,
        "inside_outside_ratio": mean_inside / (mean_inside + mean_outside),
        "soft_iou": inside / (total + region - inside),
        "soft_dice": 2 * inside / (total + region),
        "weighted_distance": distance / total,
    }
    for name, values in expected.items():
        assert metrics[name] == pytest.approx(values.mean()), name
        assert [answer.heatmap_quality[name] for answer in evaluation.results] == pytest.approx(values.tolist()), name
    assert metrics["pointing_uncertainty"] == 1 / 4  # the flat map has 16 peaks, 4 of them in the region
    assert metrics["energy_inside_by_type"] == pytest.approx({"a": (0.75 + 1) / 2, "b": 1})
    assert (metrics["num_without_heat"], metrics["num_phrases_without_area"]) == (0, 0)
    assert metrics["num_regions_from_boxes"] == 2
    # Masks at half the maximum: 3 pixels of which 2 in a box of 4; all 8; 8 of which 4 in a box, 8 of 16, all 8; all.
    ious = {"any": [2 / 5, 1, 1 / 2, 1], "merged": [2 / 5, 1, 1 / 2, 1], "all": [2 / 5, 1, 1, 1]}
    for protocol, values in ious.items():
        assert [answer.mask_iou[protocol] for answer in evaluation.results] == values
        assert metrics[f"recall_at_1_{protocol}"] == 3 / 4
        assert metrics[f"mean_iou_at_1_{protocol}"] == pytest.approx(np.mean(values))
        assert metrics[f"recall_at_1_{protocol}_by_type"] == {"a": 0.5, "b": 1.0}
    assert metrics["mask_thresholds"] == {"any": 0.5, "merged": 0.5, "all": 0.5}
    assert metrics["num_phrases"] == 4 and metrics["num_phrases_by_type"] == {"a": 2, "b": 2}


def test_a_mask_is_cut_where_another_split_chose(model, tiny_processor, scenes):
    thresholds = {"any": 0.51, "merged": 0.5, "all": 0.0}
    options = {"metrics": ("phrase_recall",), "batch_size": 1}
    found = evaluate_grounding(model, tiny_processor, scenes, mask_thresholds=thresholds, **options)
    first = found.results[0]
    assert first.mask_iou == {"any": 1 / 4, "merged": 2 / 5, "all": 4 / 16}
    assert found.metrics["mask_thresholds"] == thresholds
    for wrong in ({"any": 0.5}, {**thresholds, "any": 0.505}, {**thresholds, "any": 1.0}):
        model.num_passes = 0
        with pytest.raises(ValueError, match="`mask_thresholds` must give each of any, merged, all one of 0, 0.01"):
            evaluate_grounding(model, tiny_processor, scenes, mask_thresholds=wrong, **options)


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_alone_gives_what_it_gives_among_all(model, tiny_processor, scenes, metric):
    every = evaluate_grounding(model, tiny_processor, scenes, batch_size=1, metrics=METRICS).metrics
    model.num_passes = 0
    alone = evaluate_grounding(model, tiny_processor, scenes, batch_size=1, metrics=[metric])
    assert alone.metrics.items() <= every.items() and alone.metrics["num_phrases"] == 4
    values = {"heatmap_quality": "heatmap_quality", "phrase_recall": "mask_iou"}
    assert {name for name in alone.to_rows()[0] if name in values.values()} == {
        value for name, value in values.items() if name == metric
    }


def test_the_default_is_the_pointing_game(model, tiny_processor, scenes):
    metrics = evaluate_grounding(model, tiny_processor, scenes, batch_size=1).metrics
    assert list(metrics) == [
        "pointing_game_accuracy",
        "num_phrases",
        "pointing_game_accuracy_by_type",
        "num_phrases_by_type",
    ]


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (["pointing_gam"], "each of `metrics` must be one of 'pointing_game', .* Did you mean `pointing_game`"),
        (
            ["x"],
            "one of 'pointing_game', 'box_accuracy', 'heatmap_quality', .* 'weight_randomization', got 'x'",
        ),
        ([], "`metrics` must be a list with some of pointing_game, box_accuracy, heatmap_quality, phrase_recall"),
        ("pointing_game", "`metrics` must be a list .* got 'pointing_game'"),
    ],
)
def test_unknown_metrics_are_refused(metrics, words):
    with pytest.raises(ValueError, match=words):
        check_metrics(metrics)


def test_metrics_come_once_and_in_one_order():
    assert check_metrics(["phrase_recall", "pointing_game", "phrase_recall"]) == ("pointing_game", "phrase_recall")


def test_what_a_metric_needs_and_rows_lack_is_reported(model, tiny_processor, scenes):
    for proposals in (None, "absent"):
        for row in scenes:
            row["proposals"] = None
            if proposals == "absent":
                del row["proposals"]
        with pytest.raises(ValueError, match="`box_accuracy` ranks the proposals of a row, and no row has any"):
            evaluate_grounding(model, tiny_processor, scenes, metrics=["box_accuracy"])
    for row in scenes:
        row["phrases"] = [build_phrase("out", [], [[9, 9, 12, 12]])]
    with pytest.raises(ValueError, match="`heatmap_quality` needs regions, and no phrase has a box, polygon or mask"):
        evaluate_grounding(model, tiny_processor, scenes, metrics=["heatmap_quality"])
    for row in scenes:
        row["phrases"] = []
    for metric in METRICS[2:]:
        with pytest.raises(ValueError, match="no phrase of the data set has a box"):
            evaluate_grounding(model, tiny_processor, scenes, metrics=[metric])


def test_a_region_without_area_is_counted_and_skipped(model, tiny_processor, scenes):
    scenes[0]["phrases"][0]["boxes"] = [[9, 9, 12, 12]]
    evaluation = evaluate_grounding(model, tiny_processor, scenes, batch_size=1, metrics=METRICS)
    assert evaluation.metrics["num_phrases_without_area"] == 1 and evaluation.metrics["num_phrases"] == 4
    assert evaluation.metrics["energy_inside"] == pytest.approx((1 + 1 + 0.25) / 3)
    assert evaluation.results[0].heatmap_quality is None and evaluation.results[0].mask_iou["any"] == 0


def test_a_damaged_mask_is_named_with_its_phrase(model, tiny_processor, scenes):
    scenes[1]["phrases"][1]["masks"] = [{"size": [9, 9], "counts": "q"}]
    with pytest.raises(ValueError, match="phrase 'diagonal' of image '1'"):
        evaluate_grounding(model, tiny_processor, scenes, batch_size=1, metrics=["heatmap_quality"])


def test_a_skipped_phrase_counts_against_every_metric_of_a_protocol(model, tiny_processor, scenes):
    scenes[1]["image"] = b"no picture"
    options = {"batch_size": 1, "metrics": METRICS}
    counted = evaluate_grounding(model, tiny_processor, scenes, counts_unusable=True, **options).metrics
    model.num_passes = 0
    left_out = evaluate_grounding(model, tiny_processor, scenes, **options).metrics
    assert (counted["num_phrases"], left_out["num_phrases"]) == (4, 2)
    for name in ("pointing_game_accuracy", "box_accuracy_at_50", "energy_inside", "soft_iou", "recall_at_1_all"):
        assert counted[name] == pytest.approx(left_out[name] / 2), name
    assert counted["num_without_heat"] == 2
    assert counted["weighted_distance"] == pytest.approx((2 + 2 * left_out["weighted_distance"]) / 4)


def test_a_recipe_names_metrics_and_the_caller_comes_first(model, tiny_processor, scenes):
    recipe = EvaluationRecipe(
        data={"name": "mine"},
        splits={"test": "test"},
        metrics=["heatmap_quality"],
        proposal_ranking={"area_exponent": 0.5, "overlap_rule": "area"},
    )
    options = {"batch_size": 1, "num_resamples": 5}
    named, _ = evaluate_split(model, tiny_processor, scenes, "test", recipe, {"name": "mine"}, **options)
    assert "energy_inside" in named and "pointing_game_accuracy" not in named
    model.num_passes = 0
    options["metrics"] = ["box_accuracy"]
    asked, _ = evaluate_split(model, tiny_processor, scenes, "test", recipe, {"name": "mine"}, **options)
    assert "box_accuracy_at_50" in asked and "energy_inside" not in asked
    with pytest.raises(ValueError, match="each of `metrics` must be one of .* got 'heat'"):
        EvaluationRecipe(data={"name": "mine"}, splits={}, metrics=["heat"])


def test_accuracies_have_intervals_and_means_have_none(tiny_model, tiny_processor):
    rows = build_rows(3)
    rows[0]["proposals"] = [{"box": [4.0, 4.0, 24.0, 20.0], "score": 1.0, "label": None}]
    result, _ = evaluate_split(tiny_model, tiny_processor, rows, "test", num_resamples=20, metrics=METRICS)
    interval = result["confidence_interval"]
    measured = ["pointing_game_accuracy", "box_accuracy_at_50"]
    measured += [f"recall_at_1_{protocol}" for protocol in ("any", "merged", "all")]
    expected = {name for measure in measured for name in (measure, f"{measure}_by_type")}
    assert set(interval) - {"confidence", "num_resamples", "seed", "computed"} == expected
    assert set(interval["computed"]) == expected
    for name in measured:
        low, high = interval[name]
        assert low <= result[name] <= high
        assert set(interval[f"{name}_by_type"]) == {"even", "odd"}


def test_files_hold_the_values_of_a_phrase(model, tiny_processor, scenes, tmp_path):
    evaluation = evaluate_grounding(model, tiny_processor, scenes, batch_size=1, metrics=METRICS)
    for name in ("results.parquet", "results.json"):
        write_results(tmp_path / name, {"test": evaluation.metrics}, {"test": evaluation.to_rows()})
    written = json.loads((tmp_path / "results.json").read_text())["phrases"]
    table = pq.read_table(tmp_path / "results.parquet").to_pylist()
    for row in (written[2], table[2]):
        assert row["mask_iou"] == {"any": 0.5, "merged": 0.5, "all": 1.0}
        assert row["heatmap_quality"]["energy_inside"] == 1.0
