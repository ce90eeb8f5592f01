# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""ALBEF's lists for question answering: rows against what the authors' reader returns, and the list of answers."""

import json

import pytest
from testing_utils import FIXTURES_FOLDER

from albef_amc.datasets_scripts import AlbefVqa, build_question, read_answer_list, weigh_answers

ALBEF = FIXTURES_FOLDER / "albef_json"
FOLDERS = {"image_root": str(ALBEF / "images" / "coco"), "vg_root": str(ALBEF / "images" / "visual-genome")}
TURNED = "000000179765"  # by its EXIF data, which the published reader ignores
END = "[SEP]"  # the published reader appends it to every answer


def build(cache, split="train", files=("vqa_train.json",), **options):
    """Rows of a split and the report of their reading."""
    lists = {"data_root": str(ALBEF / "data"), f"{split}_files": list(files)}
    builder = AlbefVqa(cache_dir=str(cache), **{**FOLDERS, **lists, **options})
    builder.download_and_prepare()
    return builder.as_dataset(split=split), builder.report


def build_entries(folder, *entries, split="train"):
    """The same for entries of one's own; each is the first of `vqa_train.json` with changes."""
    entry = json.loads((ALBEF / "data" / "vqa_train.json").read_text())[0]
    path = folder / "list.json"
    path.write_text(json.dumps([{**entry, **changes} for changes in entries]))
    return build(folder / "cache", split, [str(path)])


def list_questions(rows) -> list[tuple[dict, dict]]:
    return [(row, question) for row in rows for question in row["questions"]]


def test_questions_are_those_that_albef_reads(tmp_path):
    files = ["vqa_train.json", "vqa_val.json", "vg_qa.json"]
    rows, report = build(tmp_path, files=files)
    lists = json.loads((ALBEF / "expected.json").read_text())["lists"]
    expected = {item["question_id"]: item for name in files for item in lists[name]["items"]}
    found = list_questions(rows)
    assert [question["question_id"] for _, question in found] == list(expected)
    for row, question in found:
        item = expected[question["question_id"]]
        assert row["image_id"] == f"{item['dataset']}/{item['image']}"
        size = item["size"][::-1] if TURNED in item["image"] else item["size"]
        assert [row["width"], row["height"]] == list(row["image"].size) == size
        assert question["question"] == item["question"] and question["source"] == item["dataset"]
        assert [answer + END for answer in question["answers"]] == item["answers_seen"]
        assert question["answer_weights"] == pytest.approx(item["weights"])
    assert [len(row["questions"]) for row in rows] == [2, 1, 1, 1], "an image is stored once"
    assert not report.counts


def test_answers_of_every_annotator_are_kept(tmp_path):
    rows, _ = build(tmp_path)
    raw = json.loads((ALBEF / "data" / "vqa_train.json").read_text())
    assert [question["annotator_answers"] for _, question in list_questions(rows)] == [
        entry["answer"] for entry in raw
    ]


def test_questions_of_a_test_split_have_no_answers(tmp_path):
    rows, report = build(tmp_path, "test", ["vqa_test.json"])
    ((_, question),) = list_questions(rows)
    assert question["question_id"] == 393225000 and question["question"] == "Is this #0 a test? long"
    assert all(question[name] is None for name in ("answers", "answer_weights", "annotator_answers", "answer_type"))
    assert report.counts == {"image file missing: image skipped": 1}


def test_an_unknown_source_is_named(tmp_path):
    message = r"vqa_unknown_dataset\.json: entry 0: `dataset` must be one of 'vqa', 'vg', got 'gqa'"
    with pytest.raises(ValueError, match=message):
        build(tmp_path, files=[str(ALBEF / "bad" / "vqa_unknown_dataset.json")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": None}, "has no `answer`"),
        ({"answer": []}, "`answer` must be a list of texts"),
        ({"answer": "red"}, "`answer` must be a list of texts, one per annotator, got 'red'"),
        ({"answer": ["red", 3]}, "`answer` must be a list of texts"),
        ({"dataset": "vg"}, "`answer` of Visual Genome must be a text"),
        ({"question_id": "1"}, "`question_id` must be a whole number, got '1'"),
        ({"question_id": True}, "`question_id` must be a whole number"),
        ({"question_id": 2**63}, "`question_id` must be a whole number"),
        ({"question_id": None}, "has no `question_id`"),
        ({"dataset": None}, "has no `dataset`"),
        ({"image": 7}, "`image` must be a path"),
    ],
)
def test_entries_of_another_form_are_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=rf"list\.json: entry 0.*{message}"):
        build_entries(tmp_path, changes)


def test_a_question_without_a_usable_answer_is_skipped(tmp_path):
    blank, half = {"question_id": 1, "answer": [" ", ""]}, {"question_id": 2, "answer": ["red", " ", "red", "\ud800"]}
    rows, report = build_entries(tmp_path, blank, half)
    ((_, question),) = list_questions(rows)
    assert (question["answers"], question["answer_weights"]) == (["red"], [0.5])
    assert question["annotator_answers"] == ["red", " ", "red", ""]
    assert report.counts == {
        "no answer with words: question skipped": 1,
        "answer without words or with broken characters: not a training target": 1,
    }


def test_a_repeated_question_id_counts_once_per_source(tmp_path):
    of_genome = {"dataset": "vg", "answer": "left", "image": "image/713113.jpg"}
    rows, report = build_entries(tmp_path, {}, {"question": "Again?"}, of_genome)
    assert [question["source"] for _, question in list_questions(rows)] == ["vqa", "vg"]
    assert report.counts == {"question id occurs twice: the first is kept": 1}


def test_the_folder_of_visual_genome_must_be_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="No image folder absent.*`vg_root`"):
        build(tmp_path, vg_root="absent")


def test_weights_are_shares_of_the_annotators():
    answers, weights = weigh_answers(["b", "a", "b", "B", "", "b", "a", "b", "b", "b"])
    assert answers == ["b", "a", "B"]
    assert weights == pytest.approx([0.6, 0.2, 0.1])


def test_a_question_has_no_other_fields():
    with pytest.raises(ValueError, match="no field `answer`"):
        build_question(1, "Is it?", "vqa", answer="yes")


def test_the_list_of_answers_is_read_in_order():
    answers = read_answer_list(ALBEF / "data" / "answer_list.json")
    assert answers == json.loads((ALBEF / "expected.json").read_text())["lists"]["vqa_test.json"]["answer_list"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["red", "red"]', "answer 1 repeats answer 0 .'red'"),
        ('["red", " "]', "answer 1 must be a text with words"),
        ('["red", 2]', "answer 1 must be a text with words, got 2"),
        ("[]", "must hold a list of answers"),
        ('{"red": 0}', "must hold a list of answers"),
        ('["red"', "is not valid JSON"),
    ],
)
def test_lists_of_answers_that_are_none_are_refused(content, message, tmp_path):
    path = tmp_path / "answer_list.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"answer_list\.json.*{message}"):
        read_answer_list(path)


def test_a_missing_list_of_answers_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No `answer_list\.json`"):
        read_answer_list(tmp_path / "answer_list.json")
