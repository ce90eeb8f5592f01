# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Pairs of image and phrase: which are listed, what they are scored, and the area under the ROC curve."""

import datasets
import numpy as np
import pytest
import torch
from testing_utils import build_photo, build_rows, build_tiny_dataset

from albef_amc.datasets_scripts import GROUNDING_FEATURES, build_phrase, build_row
from albef_amc.datasets_scripts.randomness import example_generator
from albef_amc.datasets_scripts.true_phrases import list_true_phrases
from albef_amc.evaluation import match_pairs
from albef_amc.evaluation.match_pairs import (
    compute_matching_auc,
    evaluate_matching,
    hash_pairs,
    list_match_pairs,
    score_pairs,
)


def build_phrases(*phrases: str, **fields) -> dict:
    return {"phrases": [{"phrase": words, **fields} for words in phrases]}


def test_words_that_are_true_of_an_image_are_cleaned():
    row = build_phrases("A dog.", "the half-open door", "", paraphrases=["Puppy!", None])
    assert list_true_phrases(row) == {"a dog", "the half open door", "puppy"}


def test_no_phrase_is_paired_with_an_image_of_which_it_is_true():
    rows = [
        {"image_id": "0", **build_phrases("a dog", "the sky")},
        {"image_id": "1", **build_phrases("A dog!", "a cup")},
        {"image_id": "2", **build_phrases("the sky", "a car")},
        {"image_id": "2", **build_phrases("a cat")},
    ]
    pairs = list_match_pairs(rows)
    matches = [(pair.row, pair.phrase) for pair in pairs if pair.is_match]
    assert matches == [(index, phrase["phrase"]) for index, row in enumerate(rows) for phrase in row["phrases"]]
    others = [pair for pair in pairs if not pair.is_match]
    assert len(others) == len(matches)
    for pair in others:
        assert pair.image_id == rows[pair.row]["image_id"]
        assert pair.phrase.lower().rstrip("!") not in list_true_phrases(rows[pair.row])
    assert {pair.row for pair in others if "dog" in pair.phrase} <= {2, 3}
    assert {pair.row for pair in others if pair.phrase == "a car"} <= {0, 1}  # row 3 is the same image
    assert list_match_pairs(rows) == pairs and hash_pairs(pairs) != hash_pairs(list_match_pairs(rows, seed=1))
    assert {pair.row for pair in list_match_pairs(rows, part=[0, 2])} == {0, 2}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"image_id": "0", **build_phrases("a dog")}, {"image_id": "1", **build_phrases("a dog")}], "true of every"),
        ([{"image_id": "0", **build_phrases("", "...")}], "no row has a phrase with words"),
    ],
)
def test_data_without_pairs_of_both_kinds_are_refused(rows, words):
    with pytest.raises(ValueError, match=words):
        list_match_pairs(rows)


def test_phrases_without_words_have_no_pair():
    rows = [
        {"image_id": "0", "phrases": [{"boxes": [[0, 0, 1, 1]]}, {"phrase": None}, {"phrase": "a dog"}]},
        {"image_id": "1", **build_phrases("a cat")},
    ]
    assert [pair.phrase for pair in list_match_pairs(rows) if pair.is_match] == ["a dog", "a cat"]


def test_few_numbers_are_drawn_per_phrase(monkeypatch):
    drawn = []

    class CountingGenerator:
        def __init__(self, *words):
            self.generator = example_generator(*words)

        def __getattr__(self, name):
            def draw(*words, **options):
                values = getattr(self.generator, name)(*words, **options)
                drawn.append(np.size(values))
                return values

            return draw

    monkeypatch.setattr(match_pairs, "example_generator", CountingGenerator)
    rows = [{"image_id": str(index), **build_phrases(f"thing {index % 50}")} for index in range(400)]
    assert len(list_match_pairs(rows)) == 800 and sum(drawn) < 20 * len(rows)


def test_every_other_image_is_drawn_and_the_only_one_is_found():
    dogs = [{"image_id": str(index), **build_phrases("a dog")} for index in range(300)]
    cat = {"image_id": "cat", **build_phrases("a cat")}
    pairs = [pair for pair in list_match_pairs([*dogs, cat]) if not pair.is_match]
    assert {pair.image_id for pair in pairs if pair.phrase == "a dog"} == {"cat"} and len(pairs) == 301
    rows = [{"image_id": "cat", **build_phrases(*["a cat"] * 300)}, *dogs[:5]]
    counts = np.bincount([pair.row for pair in list_match_pairs(rows) if pair.phrase == "a cat" and not pair.is_match])
    assert counts[0] == 0 and counts[1:].min() > 30


def test_a_transform_of_the_user_may_read_the_image():
    def read(batch):
        names = zip(batch["image_id"], batch["image"], strict=True)
        return {**batch, "image_id": [f"{name} {len(image)}" for name, image in names]}

    rows = [{"image": "x" * 3, "image_id": str(index), **build_phrases(f"thing {index}")} for index in range(3)]
    pairs = list_match_pairs(datasets.Dataset.from_list(rows).with_transform(read))
    assert {pair.image_id for pair in pairs} == {"0 3", "1 3", "2 3"}


def test_scores_are_those_of_each_pair_alone(tiny_model, tiny_processor):
    rows = build_rows()
    pairs = list_match_pairs(rows)
    assert {pair.is_match for pair in pairs} == {True, False}
    margins = score_pairs(tiny_model, tiny_processor, rows, pairs, batch_size=3)
    for pair, margin in zip(pairs, margins, strict=True):
        inputs = tiny_processor(images=[rows[pair.row]["image"]], text=[[pair.phrase]], return_tensors="pt")
        logits = tiny_model.ground(**inputs).itm_logits[0]
        assert margin == pytest.approx((logits[1] - logits[0]).item(), abs=1e-5)


def test_scores_that_are_not_finite_are_refused(tiny_model, tiny_processor):
    with torch.no_grad():
        tiny_model.itm_head.bias.fill_(torch.nan)
    rows = build_rows()
    with pytest.raises(ValueError, match="the matching scores are not finite"):
        score_pairs(tiny_model, tiny_processor, rows, list_match_pairs(rows))


def test_area_is_the_share_of_ordered_pairs():
    generator = np.random.default_rng(0)
    margins, is_match = generator.integers(0, 6, 60).astype(float), generator.random(60) < 0.4
    pairs = [(match, other) for match in margins[is_match] for other in margins[~is_match]]
    expected = np.mean([(match > other) + 0.5 * (match == other) for match, other in pairs])
    assert compute_matching_auc(margins, is_match) == pytest.approx(expected, abs=1e-12)


def test_a_data_set_has_an_area_or_none(tiny_model, tiny_processor):
    rows = build_rows()
    pairs = list_match_pairs(rows)
    margins = score_pairs(tiny_model, tiny_processor, rows, pairs)
    expected = compute_matching_auc(margins, np.array([pair.is_match for pair in pairs]))
    assert evaluate_matching(tiny_model, tiny_processor, rows) == pytest.approx(expected, abs=1e-12)
    assert evaluate_matching(tiny_model, tiny_processor, rows[:1]) is None


def test_images_that_cannot_be_used_are_skipped_and_long_phrases_truncated(tiny_model, tiny_processor):
    rows = build_rows()
    rows[1] |= {"image": {"bytes": b"no image", "path": None}}
    rows[2] |= {"image": None}
    limit = tiny_processor.tokenizer.model_max_length
    rows[0]["phrases"] = [{**phrase, "phrase": "dog " * (limit + 1)} for phrase in rows[0]["phrases"]]
    pairs = [pair for pair in list_match_pairs(rows) if pair.row not in (1, 2)]
    margins = score_pairs(tiny_model, tiny_processor, rows, pairs)
    expected = compute_matching_auc(margins, np.array([pair.is_match for pair in pairs]))
    assert evaluate_matching(tiny_model, tiny_processor, rows) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match=r"image '.+' (cannot be|is missing|is not)"):
        score_pairs(tiny_model, tiny_processor, rows, list_match_pairs(rows))
    for row in rows:
        row["image"] = None
    assert evaluate_matching(tiny_model, tiny_processor, rows) is None


def test_pictures_are_read_as_training_reads_them(tiny_model, tiny_processor):
    """Not by the decoder of `datasets`, which would fetch an address that a row holds."""
    rows = [{**row, "image": build_photo()} for row in build_rows()]
    kept = build_tiny_dataset(rows)
    pairs = list_match_pairs(kept)
    margins = score_pairs(tiny_model, tiny_processor, kept, pairs)
    np.testing.assert_allclose(margins, score_pairs(tiny_model, tiny_processor, rows, pairs), atol=1e-6)
    table = kept.cast_column("image", datasets.Image(decode=False)).to_list()
    for row in table:
        row["image"] = {"bytes": None, "path": "https://nowhere.invalid/0.png"}
    remote = datasets.Dataset.from_list(table, features=kept.features)
    with pytest.raises(ValueError, match="nothing is fetched"):
        score_pairs(tiny_model, tiny_processor, remote, pairs)


def test_true_phrases_of_a_data_set_are_read_as_those_of_a_list():
    rows = [
        build_row(None, "0", 4, 4, [build_phrase(0, "a dog")]),
        build_row(None, "1", 4, 4, [build_phrase(1, "a cat")], true_phrases=["A dog!"]),
        build_row(None, "2", 4, 4, [build_phrase(2, "a cup")]),
    ]
    table = datasets.Dataset.from_list(rows, features=GROUNDING_FEATURES)
    for seed in range(4):
        pairs = list_match_pairs(table, seed)
        assert pairs == list_match_pairs(rows, seed)
        assert {pair.row for pair in pairs if pair.phrase == "a dog"} == {0, 2}
    assert list_match_pairs(table.remove_columns(["true_phrases", "false_phrases"]))  # as earlier data sets are
