# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Detectors on the protocol of heatmaps: boxes of transformers' own processors, points, misses, what is refused."""

import json

import pytest
import torch
from detector_cases import DETECTOR_BUILDERS, build_tiny_detector
from grounder_cases import build_tiny_grounder
from testing_utils import build_rows

from albef_amc.evaluation.benchmark import evaluate_split
from albef_amc.evaluation.grounding_evaluation import evaluate_grounding
from albef_amc.evaluation.phrase_locators import DetectorInputs
from albef_amc.evaluation.zero_shot_detectors import ZeroShotDetector


def find_boxes_alone(detector: ZeroShotDetector, image, phrase: str):
    """Boxes of one phrase as the page of transformers shows it, best first."""
    text = [[phrase]] if detector.reads_queries else f"{phrase}."
    options = {"padding": "max_length", "max_length": 16} if detector.reads_queries else {}
    inputs = detector.processor(images=image, text=text, return_tensors="pt", **options)
    if detector.reads_queries:
        inputs.pop("token_type_ids", None)
    with torch.no_grad():
        outputs = detector.model(**inputs)
    (found,) = detector.processor.post_process_grounded_object_detection(
        outputs, threshold=0.0, target_sizes=[(image.height, image.width)]
    )
    order = found["scores"].argsort(descending=True, stable=True)
    return found["boxes"][order], found["scores"][order]


@pytest.mark.parametrize("name", DETECTOR_BUILDERS)
def test_boxes_are_those_of_a_pass_per_phrase(name):
    if name == "owlv2":
        pytest.importorskip("scipy", reason="the image processor of OWLv2 needs scipy")
    detector, rows = build_tiny_detector(name), build_rows(2)
    evaluation = evaluate_grounding(detector, detector.processor, rows)
    answers = iter(evaluation.results)
    for row in rows:
        for phrase in row["phrases"]:
            boxes, scores = find_boxes_alone(detector, row["image"], phrase["phrase"])
            answer = next(answers)
            pairs = answer.measures["phrase_recall"]
            torch.testing.assert_close(torch.tensor([box for box, _ in pairs]), boxes, rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(torch.tensor([score for _, score in pairs]), scores, rtol=1e-4, atol=1e-6)
            left, top, right, bottom = pairs[0][0]
            assert answer.point == ((left + right) / 2, (top + bottom) / 2) and answer.score == pairs[0][1]
            assert answer.proposal == pairs[0][0]
    names = {"pointing_game_accuracy", "box_accuracy_at_50", "recall_at_1_any", "recall_at_10_all"}
    assert names <= evaluation.metrics.keys() and "mask_thresholds" not in evaluation.metrics


class GivenBoxes(ZeroShotDetector):
    """A detector whose boxes are given: for each phrase boxes and scores."""

    def __init__(self, detector: ZeroShotDetector, boxes):
        super().__init__(detector.model, detector.processor)
        self.boxes = boxes

    def find_boxes(self, images, texts, size):
        return [self.boxes.pop(0) for _ in texts]


def test_the_best_box_is_the_answer_and_no_box_is_a_miss():
    rows = [row for row in build_rows(1) if row["phrases"]]
    phrases = rows[0]["phrases"]
    assert len(phrases) == 2
    annotated = [phrase["boxes"][0] for phrase in phrases]
    given = [([annotated[0], [0.0, 0.0, 1.0, 1.0]], [0.2, 0.1]), ([], [])]
    detector = GivenBoxes(build_tiny_detector("owlvit"), given)
    result, evaluation = evaluate_split(detector, detector.processor, rows, "test", num_resamples=0)
    first, second = evaluation.results
    assert first.is_hit and first.is_proposal_hit and first.score == 0.2 and first.mask_iou["any"] == 1.0
    assert (second.point, second.score, second.is_hit, second.problem) == (None, None, False, None)
    assert (result["pointing_game_accuracy"], result["box_accuracy_at_50"], result["recall_at_1_any"]) == (0.5,) * 3
    assert result["num_phrases_without_detection"] == result["num_phrases_without_proposal"] == 1
    left_out = ("heatmap_quality", "insertion", "deletion", "weight_randomization")
    assert result["metrics_left_out"] == dict.fromkeys(left_out, "needs a heatmap, and a detector returns boxes")


def test_equal_scores_keep_the_order_of_the_model_and_the_largest_score_wins_whatever_its_area():
    rows = build_rows(1)
    large, small = [0.0, 0.0, 30.0, 30.0], [1.0, 1.0, 3.0, 3.0]
    detector = GivenBoxes(build_tiny_detector("owlvit"), [([large, small], [0.5, 0.4]), ([small, large], [0.5, 0.5])])
    first, second = evaluate_grounding(detector, detector.processor, rows).results
    assert (first.proposal, second.proposal) == (large, small)


def test_a_metric_of_heatmaps_and_thresholds_are_refused():
    detector = build_tiny_detector("owlvit")
    with pytest.raises(ValueError, match="`heatmap_quality` needs a heatmap, and a detector returns boxes"):
        evaluate_grounding(detector, detector.processor, build_rows(1), metrics=("heatmap_quality",))
    with pytest.raises(ValueError, match="`mask_thresholds` are for heatmaps"):
        evaluate_grounding(detector, detector.processor, build_rows(1), mask_thresholds={"any": 0.5})


@pytest.mark.parametrize("name", ["owlvit", "grounding-dino"])
def test_a_phrase_that_is_too_long_or_empty_has_a_problem(name):
    inputs = DetectorInputs(build_tiny_detector(name))
    assert inputs.find_problem("a dog") is None
    assert "tokens but the model has 16 text positions" in inputs.find_problem("red " * 20)
    assert "has no words" in inputs.find_problem("...")


def test_values_that_are_not_finite_are_an_error():
    detector = build_tiny_detector("owlvit")
    detector.model.class_head.dense0.bias.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="the boxes or scores are not finite"):
        evaluate_grounding(detector, detector.processor, build_rows(1))


def save(folder):
    detector = build_tiny_detector("owlvit")
    detector.model.save_pretrained(folder)
    detector.processor.save_pretrained(folder)
    return folder


def test_checkpoints_that_cannot_be_measured_are_refused(tmp_path):
    folder = save(tmp_path / "owlvit")
    assert ZeroShotDetector.from_pretrained(folder).commit is None
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes"}}))
    with pytest.raises(ValueError, match="has quantised weights"):
        ZeroShotDetector.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no weights in safetensors"):
        ZeroShotDetector.from_pretrained(folder)
    grounder = build_tiny_grounder("clip-itc")
    grounder.model.save_pretrained(tmp_path / "clip")
    with pytest.raises(ValueError, match="is a model of type 'clip'. Detectors that can be evaluated: owlvit"):
        ZeroShotDetector.from_pretrained(tmp_path / "clip")
