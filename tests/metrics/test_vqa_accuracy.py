# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""VQA accuracy as an `evaluate` module: the rule, the processing of answers, types, and what it refuses."""

import importlib.util
import json
from collections import defaultdict

import evaluate
import pytest
from testing_utils import FIXTURES_FOLDER

from albef_amc.datasets_scripts import load_task_dataset
from albef_amc.metrics import get_metric_folder

VQA = FIXTURES_FOLDER / "vqa"
PROCESSINGS = ("described", "released")


@pytest.fixture
def vqa_accuracy(tmp_path):
    return evaluate.load(str(get_metric_folder("vqa_accuracy")), cache_dir=str(tmp_path))


@pytest.fixture(scope="module")
def module():
    path = get_metric_folder("vqa_accuracy") / "vqa_accuracy.py"
    spec = importlib.util.spec_from_file_location("vqa_accuracy_module", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("processing", PROCESSINGS)
def test_results_are_those_of_the_published_evaluation(vqa_accuracy, split, processing):
    """Expected values were made by VQAEval of GT-Vision-Lab/VQA, as shipped with ALBEF."""
    results = json.loads((VQA / "v2" / f"results_{split}2014.json").read_text())
    annotations = json.loads((VQA / "v2" / f"v2_mscoco_{split}2014_annotations.json").read_text())["annotations"]
    annotations = {entry["question_id"]: entry for entry in annotations}
    for result in results:
        annotation = annotations[result["question_id"]]
        vqa_accuracy.add(
            prediction=result["answer"],
            reference=[answer["answer"] for answer in annotation["answers"]],
            question_type=annotation["question_type"],
            answer_type=annotation["answer_type"],
        )
    expected = json.loads((VQA / "expected.json").read_text())["accuracy_of_results"][split]
    found = vqa_accuracy.compute(answer_processing=processing, return_accuracies=True)
    assert round(100 * found["vqa_accuracy"], 2) == expected["overall"]
    by_type = found["vqa_accuracy_by_answer_type"]
    assert {name: round(100 * value, 2) for name, value in by_type.items()} == expected["perAnswerType"]
    accuracies = dict(zip((str(result["question_id"]) for result in results), found["accuracies"], strict=True))
    assert {number: round(100 * value, 2) for number, value in accuracies.items()} == expected["perQuestion"]
    by_question_type = defaultdict(list)
    for number, value in accuracies.items():
        by_question_type[annotations[int(number)]["question_type"]].append(value)
    assert found["num_questions_by_question_type"] == {
        name: len(values) for name, values in sorted(by_question_type.items())
    }
    assert found["vqa_accuracy_by_question_type"] == pytest.approx(
        {name: sum(values) / len(values) for name, values in by_question_type.items()}
    )


def test_rows_of_the_builder_go_into_the_metric(vqa_accuracy, tmp_path):
    options = {"data_root": str(VQA / "v2"), "image_root": str(VQA / "images"), "splits": ["val"]}
    rows = load_task_dataset("vqa_v2", "val", cache_dir=str(tmp_path / "rows"), **options)
    answers = {
        entry["question_id"]: entry["answer"] for entry in json.loads((VQA / "v2/results_val2014.json").read_text())
    }
    for question in rows[0]["questions"]:
        vqa_accuracy.add(
            prediction=answers[question["question_id"]],
            reference=question["annotator_answers"],
            question_type=question["question_type"],
            answer_type=question["answer_type"],
        )
    assert round(100 * vqa_accuracy.compute()["vqa_accuracy"], 2) == 66.67


@pytest.mark.parametrize(("agreeing", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
@pytest.mark.parametrize("processing", PROCESSINGS)
def test_agreeing_annotators_of_ten(module, agreeing, accuracy, processing):
    answers = ["red"] * agreeing + ["blue"] * (10 - agreeing)
    assert module.compute_accuracy("red", answers, processing) == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("A red one.", "red 1"),
        (" The\tCat\n", "cat"),
        ("None", "0"),
        ("Ten eleven", "10 eleven"),
        ("100,978", "100978"),
        ("100,978 red-ish (really)", "100978 redish really"),
        ("1, 2", "1 2"),
        ("black/white", "black white"),
        ("black / white/red", "black whitered"),
        ("t-shirt", "t shirt"),
        ("t-shirt - red", "tshirt red"),
        ("2:50 p.m.", "2:50 pm"),
        ("3.5", "3.5"),
        (".5", ".5"),
        ("3. ", "3"),
        ("girl's", "girl's"),
        ("dont", "don't"),
        ("Dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),
        ("ow's'at", "'ow's'at"),
        ("y'alld've", "y'all'd've"),
        ("somebody'd", "somebodyd"),
        ("lets", "lets"),
        ("its", "its"),
        ("the a an", ""),
        ("[{what}] <is> `it`?!", "what is it"),
        ("a_b=c+d\\e@f;g", "b c d e f g"),
        ("não", "não"),
        ("", ""),
    ],
)
def test_answers_are_processed_as_in_the_published_evaluation(module, answer, expected):
    """What the published `processPunctuation` and `processDigitArticle` give one after the other."""
    assert module.normalize_answer(answer) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "described", "released"),
    [
        ("two", ["two"] * 10, 1, 0),
        ("2", ["two"] * 9 + ["2"], 1, 0.3),
        ("a cup", ["a cup"] * 9 + ["cup"], 1, 0.3),
        ("yes", ["Yes"] * 9 + ["yes"], 1, 0.3),
        ("yes", ["yes."] * 9 + ["yes"], 1, 1),
        ("yes", ["yes."] * 10, 1, 0),
        ("dont know", ["don't know"] * 10, 1, 1),
    ],
)
def test_annotators_are_processed_as_described_or_as_released(module, prediction, answers, described, released):
    found = [module.compute_accuracy(prediction, answers, processing) for processing in PROCESSINGS]
    assert found == pytest.approx([described, released])


@pytest.mark.parametrize("empty", ["", " ", "\n\t"])
@pytest.mark.parametrize("answer", ["the", "The", "a an", "?", "...", " a ", "the, a.", "[]", "`the`"])
@pytest.mark.parametrize("processing", PROCESSINGS)
def test_an_empty_prediction_agrees_with_no_answer_that_the_processing_empties(module, empty, answer, processing):
    assert module.compute_accuracy(empty, [answer] * 10, processing) == 0
    assert module.compute_accuracy(empty, [answer] * 4 + ["red"] * 6, "described") == 0


@pytest.mark.parametrize(
    ("prediction", "answer", "accuracy"),
    [("the", "The", 1), ("a", "the", 0), ("A", "a", 1), ("?", "?", 1), ("?", "!", 0), ("the", "", 0), ("", " ", 1)],
)
def test_answers_that_the_processing_empties_agree_where_the_same_was_written(module, prediction, answer, accuracy):
    assert module.compute_accuracy(prediction, [answer] * 10) == accuracy


def test_an_annotator_of_articles_beside_others_counts_for_himself(module):
    answers = ["the"] * 2 + [""] * 3 + ["red"] * 5
    found = [module.compute_accuracy(prediction, answers) for prediction in ("the", "", "The red")]
    assert found == pytest.approx([0.6, 0.9, 1])


def test_questions_without_a_type_count_in_none(vqa_accuracy):
    answers = ["red"] * 10
    vqa_accuracy.add_batch(
        predictions=["red", "blue"], references=[answers] * 2, question_types=["what color", None], answer_types=None
    )
    vqa_accuracy.add(prediction="red", reference=answers, answer_type="other")
    result = vqa_accuracy.compute(return_accuracies=True)
    assert result == {
        "vqa_accuracy": pytest.approx(2 / 3),
        "num_questions": 3,
        "vqa_accuracy_by_question_type": {"what color": 1.0},
        "num_questions_by_question_type": {"what color": 1},
        "vqa_accuracy_by_answer_type": {"other": 1.0},
        "num_questions_by_answer_type": {"other": 1},
        "accuracies": [1.0, 0.0, 1.0],
    }


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "no question was added"),
        ({"predictions": [], "references": []}, "no question was added"),
        ({"predictions": ["red"]}, "`predictions` and `references` go together"),
        ({"answer_types": ["other"]}, "types were given without `predictions`"),
        ({"predictions": ["red"], "references": []}, "1 `predictions` but 0 `references`"),
        ({"predictions": ["red"], "references": [["red"] * 10], "answer_types": []}, "but 0 `answer_types`"),
        ({"predictions": ["red"], "references": [["red"] * 10], "answer_types": "other"}, "`answer_types`: give one"),
        ({"predictions": ["red"], "references": [["red"] * 10], "answer_types": [3]}, r"`answer_types\[0\]` must be"),
        ({"predictions": [None], "references": [["red"] * 10]}, r"`predictions\[0\]` must be a text, got None"),
        ({"predictions": ["red"], "references": ["red red red"]}, r"`references\[0\]` must be a list of texts"),
        ({"predictions": ["red"], "references": [["red", 2, 3, 4]]}, r"`references\[0\]` must be a list of texts"),
        ({"predictions": ["red"], "references": [["red"] * 3]}, r"`references\[0\]` has 3 answers"),
        ({"answer_processing": "official"}, "`answer_processing` must be 'described' or 'released', got 'official'"),
    ],
)
def test_what_cannot_be_scored_is_refused_and_leaves_nothing_behind(vqa_accuracy, inputs, words):
    with pytest.raises(ValueError, match=words):
        vqa_accuracy.compute(**inputs)
    assert vqa_accuracy.compute(predictions=["red"], references=[["red"] * 10])["num_questions"] == 1


def test_the_page_runs_its_example_and_names_what_is_wrong():
    gradio = pytest.importorskip("gradio", reason="the pages of Spaces need gradio (`pip install '.[app]'`)")
    spec = importlib.util.spec_from_file_location("app_of_vqa", get_metric_folder("vqa_accuracy") / "app.py")
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    answers, annotators, types = (component.value for component in app.demo.input_components)
    assert app.score(answers, annotators, types)["accuracies"] == pytest.approx([0.6, 1.0])
    with pytest.raises(gradio.Error, match="2 `predictions` but 1 `answer_types`"):
        app.score(answers, annotators, '["other"]')
