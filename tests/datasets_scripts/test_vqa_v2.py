# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""VQA v2 as published: rows against the expected values of the raw files, splits, and damaged files."""

import json
import shutil
from collections import Counter

import pytest
from testing_utils import FIXTURES_FOLDER

from albef_amc.datasets_scripts import ANSWERED_FEATURES, VqaV2
from albef_amc.publishing.dataset_building import build_dataset

VQA = FIXTURES_FOLDER / "vqa"
EXPECTED = json.loads((VQA / "expected.json").read_text())


def build(cache, data_root=VQA / "v2", **options):
    builder = VqaV2(cache_dir=str(cache), data_root=str(data_root), image_root=str(VQA / "images"), **options)
    builder.download_and_prepare()
    return builder


def copy_files(folder, split="train2014"):
    """The files of one split, to be changed."""
    folder.mkdir()
    for path in (VQA / "v2").glob(f"v2_*{split}*.json"):
        shutil.copy(path, folder)
    return folder


def change(folder, kind, edit):
    """Applies a change to the first question or annotation of the files in a folder."""
    (path,) = folder.glob(f"*_{kind}.json")
    content = json.loads(path.read_text())
    edit(content[kind])
    path.write_text(json.dumps(content))


def test_rows_are_the_expected_ones(tmp_path):
    builder = build(tmp_path)
    found = {}
    for split in ("train", "val"):
        rows = builder.as_dataset(split=split)
        assert rows.features == ANSWERED_FEATURES
        found |= {(split, row["image_id"]): row for row in rows}
    assert list(found) == [(row["split"], str(row["image_id"])) for row in EXPECTED["rows"]]
    for expected in EXPECTED["rows"]:
        row = found[expected["split"], str(expected["image_id"])]
        assert row["image"].size == (row["width"], row["height"]) == (expected["width"], expected["height"])
        assert [question["question_id"] for question in row["questions"]] == [
            question["question_id"] for question in expected["questions"]
        ]
        for question, wanted in zip(row["questions"], expected["questions"], strict=True):
            assert {name: question[name] for name in ("question", "question_type", "answer_type")} == {
                name: wanted[name] for name in ("question", "question_type", "answer_type")
            }
            # The expected counts were taken after an evaluator that removes periods.
            counts = Counter(answer.rstrip(".") for answer in question["annotator_answers"])
            assert counts == wanted["answer_counts"]
            assert question["source"] == "vqa"


def test_answers_are_as_stored_with_their_shares(tmp_path):
    raw = json.loads((VQA / "v2" / "v2_mscoco_train2014_annotations.json").read_text())["annotations"]
    raw = {entry["question_id"]: [answer["answer"] for answer in entry["answers"]] for entry in raw}
    rows = build(tmp_path, splits="train").as_dataset(split="train")
    for question in (question for row in rows for question in row["questions"]):
        assert question["annotator_answers"] == raw[question["question_id"]]
        counts = Counter(question["annotator_answers"])
        assert question["answers"] == list(counts)
        assert question["answer_weights"] == pytest.approx([count / 10 for count in counts.values()])
    assert rows[0]["questions"][1]["answers"] == ["red", "dark red", "red.", "A red one"]


def test_a_missing_picture_is_skipped_and_counted(tmp_path):
    builder = build(tmp_path, splits=["train"])
    assert builder.report.counts == {"image file missing: image skipped": 1}
    (place,) = builder.report.first_places.values()
    assert place.endswith(EXPECTED["skipped"][0]["where"])


def test_questions_of_the_test_split_have_no_answers(tmp_path):
    images = tmp_path / "images" / "test2015"
    images.mkdir(parents=True)
    source = VQA / "images" / "val2014" / "COCO_val2014_000000000042.jpg"
    shutil.copy(source, images / "COCO_test2015_000000000001.jpg")
    files = tmp_path / "files"
    shutil.copytree(VQA / "v2", files)
    questions = (files / "v2_OpenEnded_mscoco_test2015_questions.json").read_text()
    (files / "v2_OpenEnded_mscoco_test-dev2015_questions.json").write_text(questions)
    builder = VqaV2(
        cache_dir=str(tmp_path / "cache"),
        data_root=str(files),
        image_root=str(tmp_path / "images"),
        splits=["test", "test_dev"],
    )
    builder.download_and_prepare()
    for split in ("test", "test_dev"):
        (row,) = builder.as_dataset(split=split)
        (question,) = row["questions"]
        assert (question["question_id"], question["question"]) == (1000, "What is this?")
        assert question["answers"] is question["annotator_answers"] is question["question_type"] is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"splits": ["dev"]}, ValueError, r"`splits` must name some of train, val, test, test_dev; got \['dev'\]"),
        ({"splits": []}, ValueError, "`splits` must name some of"),
        (
            {"splits": ["test_dev"]},
            FileNotFoundError,
            "No `v2_OpenEnded_mscoco_test-dev2015_questions.json`.*`splits`",
        ),
        ({"data_root": VQA}, FileNotFoundError, "No `v2_OpenEnded_mscoco_train2014_questions.json`"),
    ],
)
def test_files_that_are_not_there_are_named(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        build(tmp_path, **options)


def test_annotations_without_answers_are_refused(tmp_path):
    files = copy_files(tmp_path / "files")
    bad = VQA / "bad" / "v2_annotations_without_answers.json"
    shutil.copy(bad, files / "v2_mscoco_train2014_annotations.json")
    with pytest.raises(ValueError, match=r"v2_mscoco_train2014_annotations\.json cannot be read after 0 entries"):
        build(tmp_path / "cache", files, splits="train")
    (files / "v2_mscoco_train2014_annotations.json").write_text('{"info": {}, "license": {}}')
    with pytest.raises(ValueError, match=r"annotations\.json has no list `annotations`"):
        build(tmp_path / "cache", files, splits="train")


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("annotations", {"answers": None}, "annotation of question 9000 has no `answers`"),
        ("annotations", {"answers": []}, "annotation of question 9000 has no `answers`"),
        ("annotations", {"answers": ["yes"]}, "every one of its `answers` must be an object"),
        ("annotations", {"answers": [{"answer": 1}]}, "every one of its `answers` must be an object"),
        ("annotations", {"answer_type": 3}, "`question_type` and `answer_type` must be texts"),
        ("annotations", {"question_id": "9000"}, "`question_id` must be a whole number, got '9000'"),
        ("questions", {"question": None}, "question 9000 has no `question`"),
        ("questions", {"question_id": None}, "`question_id` must be a whole number, got None"),
        ("questions", {"image_id": "../9"}, "`image_id` must be a whole number, got '../9'"),
        ("questions", {"image_id": -9}, "`image_id` must be a whole number, got -9"),
        ("questions", {"image_id": 10**12}, "more than twelve digits"),
    ],
)
def test_entries_of_another_form_are_refused(kind, changes, message, tmp_path):
    files = copy_files(tmp_path / "files")
    change(files, kind, lambda entries: entries[0].update(changes))
    with pytest.raises(ValueError, match=rf"_{kind}\.json.*{message}"):
        build(tmp_path / "cache", files, splits="train")


def test_what_does_not_go_together_is_skipped_and_counted(tmp_path):
    files = copy_files(tmp_path / "files", "val2014")
    change(files, "questions", lambda entries: entries[0].update(question="  "))
    change(files, "questions", lambda entries: entries.append(entries[1]))
    change(files, "annotations", lambda entries: entries[2].update(image_id=43))
    change(files, "annotations", lambda entries: entries.append(entries[1]))
    builder = build(tmp_path / "cache", files, splits="val")
    (row,) = builder.as_dataset(split="val")
    assert [question["question_id"] for question in row["questions"]] == [42001]
    assert builder.report.counts == {
        "question without words or with broken characters: question skipped": 1,
        "question id occurs twice: the first is kept": 2,
        "annotation of an image without a question: annotation skipped": 1,
        "question without an annotation: question skipped": 1,
    }


def test_published_counts_are_compared(tmp_path):
    options = {"data_root": str(VQA / "v2"), "image_root": str(VQA / "images"), "splits": ["val"]}
    counts = build_dataset("vqa_v2", tmp_path, options)["published_counts"]
    assert counts == [
        {"split": "val", "what": "questions", "published": 214354, "measured": 3, "agrees": False},
        {"split": "val", "what": "images", "published": 40504, "measured": 1, "agrees": False},
    ]
