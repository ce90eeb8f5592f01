# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Retrieval recall as an `evaluate` module: ranks, directions, and what it refuses."""

import importlib.util

import evaluate
import numpy as np
import pytest

from albef_amc.metrics import get_metric_folder

FOLDER = get_metric_folder("retrieval_recall")


@pytest.fixture
def retrieval_recall(tmp_path):
    return evaluate.load(str(FOLDER), cache_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("place", "recalls"),
    [(0, [100, 100, 100]), (1, [0, 100, 100]), (4, [0, 100, 100]), (9, [0, 0, 100]), (10, [0] * 3)],
)
def test_recall_of_one_query(retrieval_recall, place, recalls):
    found = [number for number in range(20) if number != 7]
    found.insert(place, 7)
    result = retrieval_recall.compute(predictions=[found], references=[[7, 30]], direction="text_to_image")
    assert [result[f"image_recall_at_{rank}"] for rank in (1, 5, 10)] == recalls
    assert result["num_text_queries"] == 1 and len(result) == 4  # nothing of the other direction


def test_directions_are_counted_apart(retrieval_recall):
    retrieval_recall.add(prediction=[1, 0], reference=[0, 1], direction="image_to_text")
    retrieval_recall.add(prediction=[], reference=[2], direction="image_to_text")
    retrieval_recall.add_batch(
        predictions=np.array([[1, 0], [0, 1], [1, 0], [0, 1]]), references=[[0]] * 4, direction="text_to_image"
    )
    assert retrieval_recall.compute() == {
        **dict.fromkeys(("text_recall_at_1", "text_recall_at_5", "text_recall_at_10"), 50),
        "num_image_queries": 2,
        "image_recall_at_1": 50,
        **dict.fromkeys(("image_recall_at_5", "image_recall_at_10"), 100),
        "num_text_queries": 4,
    }


def test_equals_the_definition_on_random_rankings(retrieval_recall):
    rng = np.random.default_rng(0)
    found = [rng.permutation(30)[:15].tolist() for _ in range(40)]
    right = [rng.choice(30, size=3, replace=False).tolist() for _ in range(40)]
    result = retrieval_recall.compute(predictions=found, references=right, direction="image_to_text")
    for rank in (1, 5, 10):
        hits = [any(candidate in own for candidate in best[:rank]) for best, own in zip(found, right, strict=True)]
        assert result[f"text_recall_at_{rank}"] == pytest.approx(100 * sum(hits) / 40)


ONE = {"predictions": [[1, 0]], "references": [[0]], "direction": "image_to_text"}


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "no query was added"),
        ({**ONE, "predictions": [], "references": []}, "no query was added"),
        ({**ONE, "references": None}, "`predictions` and `references` are both needed"),
        ({"direction": "image_to_text"}, "`direction` was given without"),
        ({**ONE, "direction": None}, "`direction` must be one of 'image_to_text', 'text_to_image', got None"),
        ({**ONE, "direction": "text"}, "got 'text'"),
        ({**ONE, "references": [[0], [1]]}, "1 `predictions` but 2 `references`"),
        ({**ONE, "references": [[]]}, r"`references\[0\]` has no right candidate"),
        ({**ONE, "references": [None]}, r"`references\[0\]` has no right candidate"),
        ({**ONE, "predictions": [[3, 0, 3]]}, r"`predictions\[0\]` holds a candidate more than once: \[3, 0, 3\]"),
        ({**ONE, "predictions": [[0.5]]}, r"`predictions\[0\]` must be a list of candidates as whole numbers"),
        ({**ONE, "predictions": [["a"]]}, r"`predictions\[0\]` must be a list of candidates as whole numbers"),
        ({**ONE, "predictions": [3]}, r"`predictions\[0\]` must be a list of candidates as whole numbers"),
        ({**ONE, "references": [[-1]]}, r"`references\[0\]` holds a negative candidate"),
    ],
)
def test_what_cannot_be_scored_is_refused_and_leaves_nothing_behind(retrieval_recall, inputs, words):
    with pytest.raises(ValueError, match=words):
        retrieval_recall.compute(**inputs)
    assert retrieval_recall.compute(**ONE)["num_image_queries"] == 1


def test_the_page_runs_its_example():
    gradio = pytest.importorskip("gradio", reason="the pages of Spaces need gradio (`pip install '.[app]'`)")
    spec = importlib.util.spec_from_file_location("app_of_retrieval_recall", FOLDER / "app.py")
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    values = [component.value for component in app.demo.input_components]
    assert app.score(*values)["text_recall_at_1"] == 50
    for value in ("[[-1]]", "no JSON"):
        with pytest.raises(gradio.Error, match=r"negative|Expecting value"):
            app.score(value, "[[0]]", "image_to_text")
