"""Ranking of proposals against the reference outputs of the published evaluation, and at its borders."""

import json

import pytest
import torch
from safetensors.torch import load_file
from testing_utils import GOLDEN_FOLDER, build_rows

from albef_amc.trainer.evaluation import evaluate_grounding, score_proposals
from albef_amc.trainer.proposal_ranking import ProposalRanking, choose_proposal, compute_inclusive_iou

GOLDEN = GOLDEN_FOLDER / "metrics"
INPUTS = json.loads((GOLDEN / "inputs.json").read_text())
OUTPUTS = json.loads((GOLDEN / "outputs.json").read_text())
PUBLISHED = ProposalRanking(area_power=0.5, iou_threshold=0.5)


def convert_xywh(box: list[float]) -> list[float]:
    x, y, width, height = box[:4]
    return [x, y, x + width, y + height]


@pytest.mark.parametrize("mode", ["box_mode", "box_mode_alpha_1"])
def test_choices_and_overlaps_are_the_published_ones(mode):
    heatmaps = load_file(GOLDEN / "heatmaps.safetensors")["refcoco"]
    expected = OUTPUTS[mode]
    num_compared = 0
    for index, (item, heatmap) in enumerate(zip(INPUTS["refcoco"]["items"], heatmaps, strict=True)):
        detections = INPUTS["refcoco"]["detections"][str(item["image_id"])]
        boxes = [convert_xywh(box) for box in detections]
        best = choose_proposal(heatmap, (item["height"], item["width"]), boxes, expected["alpha"])
        if best < 0:  # the released code takes the box of the item before
            assert expected["correct"][index] == 0
            continue
        assert detections[best][:4] == expected["chosen_box"][index][:4]
        iou = compute_inclusive_iou(boxes[best], convert_xywh(item["bbox"]))
        assert iou == pytest.approx(expected["iou"][index], abs=1e-9)
        assert (iou >= PUBLISHED.iou_threshold) == expected["correct"][index]
        num_compared += 1
    assert num_compared >= len(heatmaps) - 2


def test_overlaps_of_the_reference_pairs():
    overlaps = [compute_inclusive_iou(*(convert_xywh(box) for box in pair)) for pair in INPUTS["compute_iou"]]
    assert overlaps == pytest.approx(OUTPUTS["compute_iou"], abs=1e-9)


def test_no_proposal_is_chosen_where_nothing_is_positive():
    assert choose_proposal(torch.zeros(2, 2), (4, 4), [[0, 0, 4, 4]], 0.5) == -1
    assert choose_proposal(torch.ones(2, 2), (4, 4), [], 0.5) == -1
    assert choose_proposal(torch.ones(2, 2), (4, 4), [[1, 1, 1, 3], [3, 3, 1, 1], [0, 0, 2, 2]], 0.5) == 2


def test_of_equal_proposals_the_first_is_chosen():
    assert choose_proposal(torch.ones(2, 2), (4, 4), [[2, 2, 4, 4], [0, 0, 2, 2]], 0.5) == 0


def test_an_evaluation_scores_the_proposals_of_its_rows(tiny_model, tiny_processor):
    rows = build_rows(2)
    box = rows[0]["phrases"][0]["boxes"][0]
    rows[0]["proposals"] = [{"box": box, "score": 1.0, "label": None}]
    evaluation = evaluate_grounding(tiny_model, tiny_processor, rows, proposal_ranking=PUBLISHED)
    assert [result.proposal for result in evaluation.results] == [box, box, None, None]
    overlap = compute_inclusive_iou(box, rows[0]["phrases"][1]["boxes"][0])
    assert [result.proposal_iou for result in evaluation.results] == [1.0, overlap, None, None]
    assert evaluation.metrics["num_phrases_without_proposal"] == 2
    assert evaluation.metrics["box_accuracy_at_50"] == (1 + (overlap >= 0.5)) / 4
    strict = ProposalRanking(area_power=0.5, iou_threshold=1.0)
    assert score_proposals(evaluation.results, strict)["box_accuracy_at_100"] == 0.25


def test_values_outside_their_range_are_refused():
    with pytest.raises(ValueError, match=r"`iou_threshold` must lie in \[0, 1\], got 50"):
        ProposalRanking(area_power=0.5, iou_threshold=50)
