# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The row schema: every field is present after building, and rows survive Arrow and Parquet."""

import datasets
import pytest
from datasets import Dataset, concatenate_datasets
from PIL import Image

from albef_amc.datasets_scripts import (
    GROUNDING_FEATURES,
    PHRASE_FEATURES,
    build_phrase,
    build_row,
    compute_statistics,
    load_grounding_dataset,
)
from albef_amc.datasets_scripts.features import OPTIONAL_COLUMNS
from albef_amc.datasets_scripts.statistics import build_statistics, describe_dataset, iterate_tables
from albef_amc.datasets_scripts.synthetic_grounding.synthetic_grounding import generate_scenes


def _make_row(number: int, **fields) -> dict:
    image = Image.new("RGB", (8, 6), (number, 0, 0))
    return build_row(image, number, 8, 6, [build_phrase(f"p{number}", "a red dog", **fields)])


def test_columns_are_those_of_the_design():
    assert list(GROUNDING_FEATURES) == [
        *("image", "image_id", "width", "height", "proposals", "phrases"),
        *("true_phrases", "false_phrases"),
    ]
    assert list(PHRASE_FEATURES) == [
        "phrase_id", "phrase", "boxes", "points", "masks", "polygons", "types", "caption", "spans", "paraphrases",
    ]  # fmt: skip


def test_build_phrase_fills_every_field_with_null():
    phrase = build_phrase(3, "a dog", types=["category"])
    assert list(phrase) == list(PHRASE_FEATURES)
    assert phrase["phrase_id"] == "3" and phrase["types"] == ["category"]
    assert all(phrase[name] is None for name in ("boxes", "points", "masks", "polygons", "caption", "spans"))


def test_unknown_field_is_refused():
    with pytest.raises(ValueError, match="no field `bbox`"):
        build_phrase(0, "a dog", bbox=[0, 0, 1, 1])
    with pytest.raises(ValueError, match="no field `confidence`"):
        build_row(None, 0, 8, 6, [], [{"box": [0, 0, 1, 1], "confidence": 1.0}])


def test_absent_fields_stay_null_through_parquet(tmp_path):
    full = {
        "boxes": [[0.5, 1.0, 4.0, 5.0]],
        "points": [[2.0, 3.0]],
        "masks": [{"size": [6, 8], "counts": "04T1"}],
        "polygons": [[0.0, 0.0, 4.0, 0.0, 4.0, 4.0]],
        "types": ["category"],
        "caption": "this is a red dog",
        "spans": [[8, 17]],
        "paraphrases": ["the dog"],
    }
    rows = [_make_row(0), _make_row(1, **full)]
    folder = tmp_path / "rows"
    folder.mkdir()
    datasets.Dataset.from_list(rows, features=GROUNDING_FEATURES).to_parquet(folder / "train.parquet")
    loaded = load_grounding_dataset(folder, "train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features == GROUNDING_FEATURES
    assert loaded[0]["phrases"] == rows[0]["phrases"] and loaded[1]["phrases"] == rows[1]["phrases"]
    assert loaded[1]["image"].getpixel((0, 0)) == (1, 0, 0)


def test_statistics_count_images_phrases_boxes_types():
    boxes = [[0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 3.0, 3.0]]
    rows = [_make_row(0, boxes=boxes, types=["plural"]), _make_row(1)]
    expected = {
        "num_images": 2,
        "num_phrases": 2,
        "num_annotated_phrases": 1,
        "num_boxes": 2,
        "num_words": 3,
        "num_phrases_by_type": {"plural": 1},
    }
    assert compute_statistics(rows) == expected
    assert compute_statistics(datasets.Dataset.from_list(rows, features=GROUNDING_FEATURES)) == expected


def test_unknown_data_set_names_the_builders():
    with pytest.raises(FileNotFoundError, match="synthetic, coco_phrases"):
        load_grounding_dataset("syntetic", "train")


def test_folder_with_other_columns_is_refused(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    datasets.Dataset.from_dict({"image_id": ["1"]}).to_parquet(folder / "train.parquet")
    with pytest.raises(ValueError, match="no column .*phrases"):
        load_grounding_dataset(folder, "train", cache_dir=str(tmp_path / "cache"))


@pytest.fixture
def earlier_folder(tmp_path):
    """Three scenes as an earlier release built them: without the columns that a data set may lack."""
    rows = Dataset.from_list(generate_scenes("train", 3), features=GROUNDING_FEATURES)
    rows.remove_columns(list(OPTIONAL_COLUMNS)).to_parquet(tmp_path / "train-0.parquet")
    return tmp_path


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_that_an_earlier_data_set_lacks_are_null(earlier_folder, streaming):
    rows = load_grounding_dataset(earlier_folder, "train", streaming=streaming)
    assert list(rows.features) == rows.column_names == list(GROUNDING_FEATURES)
    scenes, present = (
        generate_scenes("train", 3),
        Dataset.from_list(generate_scenes("train", 2), features=GROUNDING_FEATURES),
    )
    for row, scene in zip(rows, scenes, strict=True):
        assert row["true_phrases"] is None and row["false_phrases"] is None
        assert row["image_id"] == scene["image_id"] and row["image"].size == (64, 64)
        assert [phrase["phrase"] for phrase in row["phrases"]] == [phrase["phrase"] for phrase in scene["phrases"]]
    joined = concatenate_datasets([rows, present.to_iterable_dataset() if streaming else present])
    assert [row["true_phrases"] is None for row in joined] == [True] * 3 + [False] * 2
    assert [row["false_phrases"] for row in joined][3:] == [row["false_phrases"] for row in scenes[:2]]


def test_statistics_of_an_earlier_data_set(earlier_folder):
    rows = load_grounding_dataset(earlier_folder, "train")
    found = describe_dataset(rows)
    assert (found["num_true_phrases"], found["num_false_phrases"]) == (0, 0)
    assert describe_dataset(rows.remove_columns(list(OPTIONAL_COLUMNS))) == found
    statistics = build_statistics(GROUNDING_FEATURES)
    for table in iterate_tables([earlier_folder / "train-0.parquet"], statistics.columns):
        statistics.add(table)
    assert statistics.summarize() == found
    scenes = generate_scenes("train", 3)
    found = describe_dataset(Dataset.from_list(scenes, features=GROUNDING_FEATURES))
    assert found["num_true_phrases"] == sum(len(row["true_phrases"]) for row in scenes) > 100
    assert found["num_false_phrases"] == sum(len(row["false_phrases"]) for row in scenes) > 10
