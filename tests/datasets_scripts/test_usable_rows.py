# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""One rule for texts: what builders skip is what the processor, training and evaluation refuse."""

import json

import pytest
from testing_utils import build_photo

from albef_amc.cli.main import main
from albef_amc.datasets_scripts import (
    BUILDERS,
    AlbefJson,
    AmcJson,
    CocoPhrases,
    Jsonl,
    ReadingReport,
    build_phrase,
    build_row,
)
from albef_amc.datasets_scripts.source_builder import SourceBuilder
from albef_amc.datasets_scripts.usable_rows import keep_usable_texts
from albef_amc.text_processing_albef import clean_caption, find_text_problem

WITHOUT_WORDS = ["", "...", "?!", " , ", "- / -", "\t\n", "\u200b", "\u0301", "\x07", "\ufffd", "''", "(*)"]
WITH_WORDS = ["a dog", "7", "x.", "<person>", "\U0001f600", "\u72d7", "\u00e9", "e\u0301", "&", "$"]
HALVES = ["\ud800", "a \udcff dog", "\udfff\ud800"]
NO_TEXTS = [None, 5, 1.5, float("nan"), b"a dog", ["a dog"], {"a": 1}, True]
BOX = [1.0, 2.0, 20.0, 25.0]
REASON = "phrase without words or with broken characters: phrase skipped"


@pytest.mark.parametrize("text", WITHOUT_WORDS + HALVES + NO_TEXTS)
def test_what_the_rule_refuses_the_processor_refuses(tiny_processor, text):
    assert find_text_problem(text)
    with pytest.raises((TypeError, ValueError), match=r"phrase 1|text\[1\]"):
        tiny_processor(text=["a dog", text])


@pytest.mark.parametrize("text", WITH_WORDS)
def test_what_the_rule_takes_the_processor_takes(tiny_processor, text):
    assert find_text_problem(text) is None
    assert tiny_processor(text=[text])["input_ids"].shape[1] >= 2


def test_rule_and_tokenizer_agree_on_the_characters_that_both_know(tiny_processor):
    characters = [chr(number) for number in range(0x700)] + [chr(number) for number in range(0x2000, 0x2070)]
    ids = tiny_processor.tokenizer([clean_caption(character) for character in characters])["input_ids"]
    taken = [character for character, row in zip(characters, ids, strict=True) if len(row) > 1]
    assert taken == [character for character in characters if find_text_problem(character) is None]


def test_phrases_and_fields_that_no_run_can_use_are_skipped_and_counted():
    phrases = [
        build_phrase(0, "..."),
        build_phrase(
            1, "a dog", types=["x", "\ud800"], paraphrases=["?", "the dog"], caption="\udfff", spans=[[0, 1]]
        ),
        build_phrase("\ud800", "a cup"),
        build_phrase(3, "a car", paraphrases=["!"]),
    ]
    proposals = [{"box": BOX, "label": "\ud800"}, {"box": BOX, "label": "dog"}]
    report = ReadingReport()
    row = keep_usable_texts(build_row(None, "photo", 40, 30, phrases, proposals), report)
    dog, car = row["phrases"]
    assert (dog["types"], dog["paraphrases"], dog["caption"], dog["spans"]) == (["x"], ["the dog"], None, None)
    assert car["paraphrases"] is None
    assert [proposal["label"] for proposal in row["proposals"]] == [None, "dog"]
    assert report.counts == {
        REASON: 2,
        "paraphrase without words or with broken characters: paraphrase dropped": 2,
        "field with broken characters: field dropped": 3,
    }
    assert report.first_places[REASON] == "image photo, phrase 0"


@pytest.mark.parametrize("value", [7, 2.5, True, ["a"], {"a": 1}])
def test_fields_of_another_type_are_skipped_and_counted(value):
    phrases = [build_phrase(1, "a dog", types=[value, "x"], caption=value, spans=[[0, 1]])]
    report = ReadingReport()
    row = keep_usable_texts(build_row(None, "photo", 40, 30, phrases, [{"box": BOX, "label": value}]), report)
    assert (row["phrases"][0]["types"], row["phrases"][0]["caption"], row["phrases"][0]["spans"]) == (
        ["x"],
        None,
        None,
    )
    assert row["proposals"][0]["label"] is None
    assert report.counts == {"field is not text: field dropped": 3}


@pytest.mark.parametrize(
    ("texts", "text"), [("captions", "caption"), ("questions", "question"), ("hypotheses", "hypothesis")]
)
def test_rows_of_every_task_lose_texts_without_words(texts, text):
    def build(*words):
        entries = [{f"{text}_id": number, text: word} for number, word in enumerate(words)]
        return {"image": None, "image_id": "7", "width": 40, "height": 30, texts: entries}

    report = ReadingReport()
    assert keep_usable_texts(build("is it red?", "???"), report)[texts] == build("is it red?")[texts]
    assert keep_usable_texts(build("...", "\ud800"), report) is None
    assert report.counts == {
        f"{text} without words or with broken characters: {text} skipped": 3,
        f"image without a usable {text}: image skipped": 1,
    }
    pair = {"images": [None] * 2, "image_ids": ["a", "\ud800"], "sentences": [{"sentence_id": 0, "sentence": "x"}]}
    assert keep_usable_texts(pair, report) is None
    assert report.first_places["image id with broken characters: image skipped"] == "image a, \\ud800"


def test_every_builder_of_raw_files_passes_its_rows_through_the_rule():
    for name, builder in BUILDERS.items():
        if name != "synthetic":  # writes its own phrases
            assert builder._generate_examples is SourceBuilder._generate_examples, name


def write_jsonl(folder, phrases):
    row = {"image": "a.png", "phrases": [{"phrase": phrase, "boxes": [BOX]} for phrase in phrases]}
    (folder / "train.jsonl").write_text(json.dumps(row) + "\n")
    return Jsonl, {}


def write_coco(folder, phrases):
    image = {"id": 1, "file_name": "a.png", "width": 40, "height": 30}
    (folder / "images").mkdir()
    (folder / "a.png").rename(folder / "images" / "a.png")
    content = {"images": [image], "annotations": [], "categories": []}
    (folder / "annotations.json").write_text(json.dumps(content))
    records = [{"id": n, "image_id": 1, "phrase": phrase, "bbox": [BOX]} for n, phrase in enumerate(phrases)]
    (folder / "phrases.json").write_text(json.dumps(records))
    return CocoPhrases, {}


def write_list(folder, phrases, builder, **fields):
    entries = [{"image": "a.png", "caption": phrase, **fields} for phrase in phrases]
    (folder / "list.json").write_text(json.dumps(entries))
    return builder, {"annotation_files": "list.json"}


@pytest.mark.parametrize(
    "write",
    [
        write_jsonl,
        write_coco,
        lambda folder, phrases: write_list(folder, phrases, AlbefJson),
        lambda folder, phrases: write_list(folder, phrases, AmcJson, bbox=[BOX]),
    ],
    ids=["jsonl", "coco_phrases", "albef_json", "amc_json"],
)
def test_builds_skip_phrases_without_words(tmp_path, write):
    folder = tmp_path / "raw"
    folder.mkdir()
    build_photo().save(folder / "a.png")
    kind, options = write(folder, ["a dog", "...", "?!", "\u200b"])
    builder = kind(cache_dir=str(tmp_path / "cache"), data_root=str(folder), **options)
    builder.download_and_prepare()
    rows = builder.as_dataset(split="all")
    assert [phrase["phrase"] for row in rows for phrase in row["phrases"]] == ["a dog"]
    assert builder.report.counts == {REASON: 3}


def test_a_build_without_a_usable_phrase_is_one_line(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    build_photo().save(tmp_path / "raw" / "a.png")
    write_jsonl(tmp_path / "raw", ["..."])
    arguments = ["jsonl", "-o", str(tmp_path / "built"), "--data", f"data_root={tmp_path / 'raw'}"]
    assert main(["build-dataset", *arguments]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert REASON in last and "image a.png, phrase train:1#0" in last


@pytest.mark.parametrize("answers", [["red", 5], ["red", None], ["red", b"x"], ["red", float("nan")]])
def test_answers_of_another_type_are_named(tiny_processor, answers):
    with pytest.raises(TypeError, match="must be a list of strings, got .* as answer 1"):
        tiny_processor.encode_answers(answers)


def test_halves_of_characters_in_answers_are_named(tiny_processor):
    with pytest.raises(ValueError, match="answer 1 is '.ud800', which has half of a character"):
        tiny_processor.encode_answers(["red", "\ud800"])


@pytest.mark.parametrize("text", [None, 5, b"a dog"])
def test_only_texts_are_cleaned(text):
    with pytest.raises(TypeError, match="a text to clean is expected, got a"):
        clean_caption(text)
