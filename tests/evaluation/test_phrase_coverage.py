# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Cut phrases are counted, and words that a vocabulary does not have are named, before a run and before heatmaps."""

import logging
import re

import pytest
from testing_utils import (
    VOCABULARY,
    build_photo,
    build_rows,
    build_tiny_dataset,
    build_tiny_processor,
    build_tiny_trainer,
)

from albef_amc.cli.main import main
from albef_amc.evaluation.phrase_coverage import find_unknown_words, measure_coverage
from albef_amc.text_processing_albef import build_tokenizer
from albef_amc.trainer.callbacks import CoverageCallback
from albef_amc.trainer.data.mixtures import Mixture, iterate_texts
from albef_amc.trainer.training_recipes import build_vocabulary

SPELLING = build_tokenizer(build_vocabulary(["a red dog", "the cups"]), model_max_length=64)
TINY = build_tiny_processor().tokenizer


@pytest.mark.parametrize(
    ("phrase", "unknown"),
    [
        ("a red dog", []),
        ("A RED, dog!", []),
        ("a d\u00f3g", []),
        ("a", []),
        ("tugs", ["tugs"]),
        ("z", ["z"]),
        ("7", ["7"]),
        ("\U0001f415", ["\U0001f415"]),
        ("a \U0001f415 dog", ["\U0001f415"]),
        ("dog\U0001f415", ["dog\U0001f415"]),
        ("\u2764\ufe0f", ["\u2764\ufe0f"]),
        ("\u200b", ["\u200b"]),
        ("\u72ac", ["\u72ac"]),
        ("\u5de6\u306e\u72ac", ["\u5de6\u306e\u72ac"]),
        ("\u0441\u043e\u0431\u0430\u043a\u0430 dog", ["\u0441\u043e\u0431\u0430\u043a\u0430"]),
        ("\u0643\u0644\u0628", ["\u0643\u0644\u0628"]),
        ("the a\u0441 dog", ["a\u0441"]),
    ],
)
@pytest.mark.parametrize("tokenizer", [SPELLING, TINY], ids=["letters", "words"])
def test_words_that_a_vocabulary_does_not_have_are_named(phrase, unknown, tokenizer):
    assert find_unknown_words(phrase, tokenizer) == unknown


def test_single_signs_of_other_scripts_are_not_words_though_they_have_a_token():
    tokenizer = build_tokenizer([*VOCABULARY, "\u72ac", "\u0430", "##\u0430", "x"])
    assert find_unknown_words("\u72ac \u0430\u0430 x", tokenizer) == ["\u72ac", "\u0430\u0430"]


def test_counts_of_words_and_of_cut_phrases():
    phrases = ["a red dog", "the dogs", "a tug", "cups \U0001f415"]
    coverage = measure_coverage(phrases, SPELLING, max_length=4)
    assert (coverage.num_phrases, coverage.words.total()) == (4, 9)
    assert coverage.words == {"own": 6, "letters": 1, "parts": 1, "unknown": 1}
    for phrase in phrases:
        assert (len(SPELLING(phrase)["input_ids"]) > 4) == (measure_coverage([phrase], SPELLING, 4).num_cut == 1)
    assert (coverage.num_cut, coverage.example) == (1, "a tug")
    cut, unknown = coverage.list_warnings()
    assert cut.startswith("1 of 4 phrases have more than 4 tokens and lose their last words, such as 'a tug'.")
    assert unknown.startswith(
        "22.2 % of the words of phrases are unknown to the vocabulary or spelled letter by letter"
    )
    assert measure_coverage(phrases, SPELLING).num_cut == 0
    assert measure_coverage([], SPELLING).list_warnings() == []


def test_texts_of_every_kind_of_data_set():
    rows = build_rows(3)
    rows[0]["phrases"][0]["paraphrases"] = ["a hound"]
    expected = [phrase["phrase"] for row in rows for phrase in row["phrases"]]
    dataset = build_tiny_dataset(rows)
    for given in (rows, dataset, dataset.to_iterable_dataset(num_shards=2), Mixture([rows], [1.0], ["a"])):
        assert list(iterate_texts(given)) == expected
        with_paraphrases = list(iterate_texts(given, with_paraphrases=True))
        assert with_paraphrases == [expected[0], "a hound", *expected[1:]]
    assert list(iterate_texts(Mixture([dataset, rows], [1.0, 2.0], ["a", "b"]))) == expected * 2
    assert list(iterate_texts(object())) == []


@pytest.mark.slow
def test_a_run_says_before_its_first_step_what_it_cuts(tiny_pretraining_model, tmp_path, caplog):
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, max_length=5, max_steps=1)
    (callback,) = [one for one in trainer.callback_handler.callbacks if isinstance(one, CoverageCallback)]
    callback.rows[0]["phrases"][0]["phrase"] = "the red hydrant beside the dog"
    with caplog.at_level(logging.INFO, logger="albef_amc"):
        trainer.train()
    lines = [record.message for record in caplog.records if record.message.startswith("Training data: ")]
    assert re.match(r"Training data: 8 phrases, \d+ words: [\d.]+ % have a token of their own", lines[0])
    assert "1 of 8 phrases have more than 5 tokens" in lines[1] and "beside the dog" in lines[1]


def test_ground_names_them(checkpoint, tmp_path, capsys):
    build_photo().save(tmp_path / "photo.png")
    words = ["ground", str(tmp_path / "photo.png"), "-c", str(checkpoint), "-o", str(tmp_path / "out")]
    phrases = ["a dog", "x", "\U0001f415", "dog \u72ac"]
    assert main([*words, *(word for phrase in phrases for word in ("-p", phrase))]) == 0
    error = capsys.readouterr().err
    for phrase, unknown in (("x", "x"), ("\U0001f415", "\U0001f415"), ("dog \u72ac", "\u72ac")):
        assert f'"{phrase}": this model does not know {unknown};' in error
    assert '"a dog"' not in error


@pytest.mark.parametrize("phrase", ["", " ", "\t", "...", "?!", "- / -", "\u00a0"])
def test_ground_refuses_a_phrase_without_words_before_anything_is_read(phrase, tmp_path, capsys):
    assert main(["ground", str(tmp_path / "no_photo.png"), "-c", "no_checkpoint", "-p", "a dog", "-p", phrase]) == 2
    assert "has no words once it is cleaned (punctuation is removed)" in capsys.readouterr().err.splitlines()[-1]


def test_evaluate_says_how_well_the_vocabulary_fits(checkpoint, tmp_path, capsys):
    data = ["--data", "num_train_scenes=2", "--data", "num_validation_scenes=2", "--data", "num_test_scenes=2"]
    words = ["evaluate", str(checkpoint), "synthetic", "--split", "test", "--data", f"cache_dir={tmp_path}", *data]
    assert main([*words, "--resamples", "0"]) == 0
    error = capsys.readouterr().err
    assert re.search(r"test: \d+ phrases, \d+ words: [\d.]+ % have a token of their own", error)
    assert "unknown to the vocabulary or spelled letter by letter" in error
