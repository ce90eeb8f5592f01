# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Training data without a pair that does not match: what is found, and that no image is read for it."""

import datasets
import pytest
from testing_utils import build_photo

from albef_amc.datasets_scripts import GROUNDING_FEATURES, build_phrase, build_row
from albef_amc.trainer.data.mixtures import Mixture
from albef_amc.trainer.data.negatives import MOST_ROWS, find_missing_negatives

SAME = [("0", ["a dog"]), ("1", ["A dog!", "a dog"])]
DIFFERENT = [("0", ["a dog"]), ("1", ["a dog", "a cup"])]


def build(images: list[tuple[str, list[str]]], **fields) -> list[dict]:
    return [
        build_row(build_photo(), image_id, 40, 30, [build_phrase(f"{index}{text}", text) for text in texts], **fields)
        for index, (image_id, texts) in enumerate(images)
    ]


@pytest.mark.parametrize(
    ("images", "true_phrases", "expected"),
    [
        (SAME, None, "all phrases are the same, 'a dog' (images looked at: 2)"),
        (DIFFERENT, ["a cup"], "each of the 2 phrases is true of every image (images looked at: 2)"),
        (
            [("0", ["a dog", "..."]), ("0", ["a cup"])],
            None,
            "each of the 2 phrases is true of every image (images looked at: 1)",
        ),
        (DIFFERENT, None, None),
        (DIFFERENT, ["a hat"], None),
        ([("0", ["a dog"]), ("1", ["a cup"])], ["a dog"], None),
        ([("0", ["..."])], None, None),
    ],
)
def test_data_without_a_negative_are_described(images, true_phrases, expected):
    rows = build(images, true_phrases=true_phrases)
    table = datasets.Dataset.from_list(rows, features=GROUNDING_FEATURES)
    stream = table.to_iterable_dataset()
    mixture = Mixture([table.select([0]), rows[1:] or rows], [1, 3], ["one", "two"])
    for given in (rows, table, table.with_format("torch"), stream, mixture):
        found = find_missing_negatives(given)
        assert found is None if expected is None else expected in found, type(given)
    assert [row["image_id"] for row in stream] == [image_id for image_id, _ in images]  # as it was


def test_false_phrases_are_negatives_where_they_are_drawn():
    rows = build(SAME, false_phrases=["a cat"])
    assert find_missing_negatives(rows) is not None
    assert find_missing_negatives(rows, uses_false_phrases=True) is None
    assert find_missing_negatives(build(SAME), uses_false_phrases=True) is not None


def test_no_image_is_decoded_and_the_first_rows_are_enough(monkeypatch):
    table = datasets.Dataset.from_list(build(SAME), features=GROUNDING_FEATURES)
    monkeypatch.setattr(datasets.Image, "decode_example", None)
    assert find_missing_negatives(table) is not None
    assert find_missing_negatives(table.to_iterable_dataset()) is not None
    rows = [{"image_id": "0", "phrases": [{"phrase": "a dog"}]}] * MOST_ROWS + [None]
    assert find_missing_negatives(rows) is not None  # the last one is not looked at
    assert find_missing_negatives(iter(rows)) is None  # not a data set that can be read twice
    assert find_missing_negatives(table.remove_columns("phrases")) is None  # refused where it is used
