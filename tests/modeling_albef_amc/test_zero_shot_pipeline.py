# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The task that cards declare, `zero-shot-object-detection`: its pipeline runs, with this package and without it."""

import json
import re

import pytest
import torch
from testing_utils import build_photo, run_without_package
from transformers import pipeline

from albef_amc.model_cards import ModelCard, render_model_card

LABELS = ["a dog", "the red car", "the big cup"]
# The detector of the card's example, asked again with settings that show every box.
SHOW_BOXES = """
import json, sys
print("BOXES", json.dumps([boxes, detector("photo.jpg", candidate_labels=json.loads(sys.argv[1]), threshold=0.0)]))
"""


def expect_boxes(model, processor, photo, labels=LABELS, threshold=0.0) -> list[dict]:
    """What the pipeline should find, from `ground()` and `post_process_grounding`."""
    outputs = model.ground(**processor(images=[photo], text=[labels]))
    (results,) = processor.post_process_grounding(outputs)
    found = [
        {"score": result["score"] * share, "label": label, "box": [int(side) for side in box]}
        for label, result in zip(labels, results, strict=True)
        for box, share in zip(result["boxes"].tolist(), result["box_scores"].tolist(), strict=True)
    ]
    return sorted((one for one in found if one["score"] > threshold), key=lambda one: -one["score"])


def check_same(found: list[dict], expected: list[dict]) -> None:
    assert [one["label"] for one in found] == [one["label"] for one in expected]
    assert [list(one["box"].values()) for one in found] == [one["box"] for one in expected]
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected], abs=1e-6)


@pytest.fixture
def detector(checkpoint):
    return pipeline("zero-shot-object-detection", model=str(checkpoint), trust_remote_code=True, device="cpu")


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 1.0])
def test_boxes_are_those_of_grounding(detector, tiny_model, tiny_processor, threshold):
    photo = build_photo(90, 60)
    found = detector(photo, candidate_labels=LABELS, threshold=threshold)
    check_same(found, expect_boxes(tiny_model, tiny_processor, photo, threshold=threshold))
    assert len(found) >= len(LABELS) or threshold > 0
    assert not found or threshold < 1


def test_the_box_of_the_point_has_the_probability(detector, tiny_model, tiny_processor):
    photo = build_photo()
    outputs = tiny_model.ground(**tiny_processor(images=photo, text="a dog"))
    ((result,),) = tiny_processor.post_process_grounding(outputs)
    (first, *_) = detector(photo, candidate_labels="a dog", threshold=0.0, top_k=1)
    assert list(first["box"].values()) == result["box"].tolist()
    assert first["score"] == pytest.approx(result["score"], abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_several_photographs_in_batches(checkpoint, tiny_model, tiny_processor, batch_size):
    detector = pipeline(
        "zero-shot-object-detection",
        model=str(checkpoint),
        trust_remote_code=True,
        device="cpu",
        batch_size=batch_size,
    )
    photos = [build_photo(40, 30, seed=1), build_photo(50, 70, seed=2), build_photo(30, 30, seed=3)]
    for photo, found in zip(photos, detector(photos, candidate_labels=LABELS, threshold=0.0), strict=True):
        check_same(found, expect_boxes(tiny_model, tiny_processor, photo))


def test_in_bfloat16(checkpoint):
    detector = pipeline(
        "zero-shot-object-detection", model=str(checkpoint), trust_remote_code=True, device="cpu", dtype=torch.bfloat16
    )
    assert {one["label"] for one in detector(build_photo(), candidate_labels=LABELS, threshold=0.0)} == set(LABELS)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("a dog, ", "a label has no words"),
        ([""], "a label has no words"),
        (["dog " * 40], "position table ends at 24"),
    ],
)
def test_labels_without_a_place_are_refused(detector, labels, message):
    with pytest.raises(ValueError, match=message):
        detector(build_photo(), candidate_labels=labels)


def test_a_threshold_outside_its_range_is_refused(detector):
    with pytest.raises(ValueError, match="`threshold` must be a number in"):
        detector(build_photo(), candidate_labels="a dog", threshold=-1)


def test_weights_that_are_not_finite_give_no_boxes(detector):
    with torch.no_grad():
        detector.model.albef.text_model.word_embeddings.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        detector(build_photo(), candidate_labels="a dog")


def test_maps_come_by_themselves_only_where_they_can_be_post_processed(tiny_model, tiny_processor):
    inputs = tiny_processor(images=[build_photo(), build_photo(seed=1)], text=["a dog", "a cup"])
    with torch.no_grad():
        assert tiny_model(**inputs).heatmap is not None
        assert tiny_model(**inputs, output_heatmap=False).heatmap is None
        assert tiny_model(**inputs, itm_labels=torch.tensor([0, 1])).heatmap is None
        without_sizes = {name: value for name, value in inputs.items() if name != "original_sizes"}
        assert tiny_model(**without_sizes).heatmap is None
        assert tiny_model.train()(**inputs).heatmap is None
    assert tiny_model.eval()(**inputs).heatmap is None


def test_several_phrases_of_an_image_in_one_call(tiny_model, tiny_processor):
    photos = [build_photo(40, 30), build_photo(50, 60, seed=1)]
    inputs = tiny_processor(images=photos, text=[["a dog"], LABELS])
    with torch.no_grad():
        outputs = tiny_model(**inputs)
    found = tiny_processor.image_processor.post_process_object_detection(outputs, threshold=0.0)
    for photo, labels, one in zip(photos, (["a dog"], LABELS), found, strict=True):
        expected = expect_boxes(tiny_model, tiny_processor, photo, labels)
        order = one["scores"].argsort(descending=True)
        assert [labels[label] for label in one["labels"][order]] == [other["label"] for other in expected]
        assert one["boxes"][order].int().tolist() == [other["box"] for other in expected]
    outputs.heatmap = None
    with pytest.raises(ValueError, match="`outputs` has no `heatmap`"):
        tiny_processor.image_processor.post_process_object_detection(outputs)


def list_examples(repository: str) -> list[str]:
    """The Python blocks of a card."""
    card = render_model_card(ModelCard("albef-small", "A small ALBEF.", repo_id=repository))
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


@pytest.mark.slow
def test_the_examples_of_the_card_run_without_the_package(checkpoint, tiny_model, tiny_processor, tmp_path):
    photo = tmp_path / "photo.jpg"
    build_photo(90, 60).save(photo)
    grounding, detection = list_examples("./checkpoint")
    assert 'pipeline("zero-shot-object-detection"' in detection
    printed = run_without_package(grounding + detection + SHOW_BOXES, json.dumps(LABELS), cwd=tmp_path)
    boxes, every_box = json.loads(printed.splitlines()[-1].removeprefix("BOXES "))
    check_same(boxes, expect_boxes(tiny_model, tiny_processor, photo, LABELS[:2], threshold=0.1))
    check_same(every_box, expect_boxes(tiny_model, tiny_processor, photo))
    assert len(every_box) >= len(LABELS)


def test_the_examples_of_the_card_run_with_the_package(checkpoint, tiny_model, tiny_processor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build_photo(90, 60).save("photo.jpg")
    names: dict = {}
    for example in list_examples("./checkpoint"):
        exec(example, names)
    check_same(names["boxes"], expect_boxes(tiny_model, tiny_processor, "photo.jpg", LABELS[:2], threshold=0.1))


def test_a_card_of_another_task_does_not_show_the_detector():
    card = render_model_card(ModelCard("albef-vqa", "It answers.", pipeline_tag="visual-question-answering"))
    assert "candidate_labels" not in card
