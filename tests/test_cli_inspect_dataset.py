# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc inspect-dataset`: statistics of hand-made rows, and what a sheet shows."""

import json

import datasets
import numpy as np
import pytest
from PIL import Image
from testing_utils import FIXTURES_FOLDER, build_photo

from albef_amc.cli.inspect_dataset import draw_rows
from albef_amc.cli.main import main
from albef_amc.datasets_scripts import GROUNDING_FEATURES, build_phrase, build_row
from albef_amc.datasets_scripts.statistics import describe_dataset
from albef_amc.regions_albef import encode_rle
from albef_amc.trainer.dataset_building import build_dataset

SCENES = ["num_train_scenes=12", "num_validation_scenes=2", "num_test_scenes=2"]
SCENE_OPTIONS = [word for option in SCENES for word in ("--option", option)]


def build_data(*rows) -> datasets.Dataset:
    return datasets.Dataset.from_list(list(rows), features=GROUNDING_FEATURES)


def inspect(capsys, *words) -> dict:
    capsys.readouterr()
    assert main(["inspect-dataset", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_statistics_of_rows_that_one_can_count():
    quarter, half = [0, 0, 20, 15], [0, 0, 40, 15]
    mask = encode_rle(np.eye(30, 40, dtype=bool))
    first = build_row(
        build_photo(),
        "a",
        40,
        30,
        [
            build_phrase(0, "A red dog", boxes=[quarter, half], types=["animal", "colour"]),
            build_phrase(1, "the  dog", types=["animal"]),
            build_phrase(1, "Dog", masks=[mask]),
        ],
        proposals=[{"box": quarter}],
    )
    second = build_row(build_photo(60, 80), "b", 60, 80, [build_phrase(3, "cup", points=[[3, 4]], polygons=[])])
    found = describe_dataset(build_data(first, second))
    expected = {
        "num_images": 2,
        "num_phrases": 4,
        "num_annotated_phrases": 3,
        "num_phrases_without_region": 1,
        "num_phrases_with_boxes": 1,
        "num_phrases_with_points": 1,
        "num_phrases_with_masks": 1,
        "num_phrases_with_polygons": 0,
        "num_boxes": 2,
        "num_proposals": 1,
        "num_words": 5,
        "num_repeated_image_ids": 0,
        "num_repeated_phrase_ids": 1,
        "num_phrases_by_type": {"animal": 2, "colour": 1},
    }
    assert {name: found[name] for name in expected} == expected
    assert found["box_area_share"] == pytest.approx(dict(mean=0.375, min=0.25, median=0.375, p95=0.4875, max=0.5))
    assert [found["words_per_phrase"][name] for name in ("mean", "min", "max")] == [1.75, 1, 3]
    assert [found["phrases_per_image"][name] for name in ("mean", "min", "max")] == [2, 1, 3]
    assert [found["long_side"][name] for name in ("min", "max")] == [40, 80]


def test_rows_without_a_box_have_no_area():
    found = describe_dataset(build_data(build_row(build_photo(), "a", 40, 30, [build_phrase(0, "a dog")])))
    assert found["box_area_share"] == {"mean": None, "min": None, "median": None, "p95": None, "max": None}


def test_a_folder_a_builder_and_a_split(tmp_path, capsys):
    built = build_dataset(
        "synthetic",
        tmp_path / "built",
        dict(option.split("=") for option in SCENES)
        and {name: int(value) for name, value in (option.split("=") for option in SCENES)},
    )
    cache = ["--option", f"cache_dir={tmp_path / 'cache'}"]
    found = inspect(capsys, "synthetic", *SCENE_OPTIONS, *cache)
    statistics = built["statistics"]["all"]
    assert {name: found[name] for name in statistics} == statistics
    assert {
        name: value for name, value in inspect(capsys, tmp_path / "built", *cache).items() if name in statistics
    } == statistics
    assert inspect(capsys, tmp_path / "built", "--split", "test", *cache)["num_images"] == 2


def test_the_sheet_has_a_line_for_each_row(tmp_path, capsys):
    words = ["synthetic", *SCENE_OPTIONS, "--option", f"cache_dir={tmp_path / 'cache'}", "--output"]
    heights = []
    for rows in (2, 4, 1000):
        path = tmp_path / f"{rows}.png"
        assert inspect(capsys, *words, path, "--rows", rows)["picture"] == str(path)
        with Image.open(path) as sheet:
            heights.append(sheet.height)
    assert 1.8 < heights[1] / heights[0] < 2
    assert 3.5 < heights[2] / heights[1] < 4, "all 16 rows"


def test_regions_are_outlined_where_they_are(tmp_path):
    grey = Image.new("RGB", (400, 300), (128, 128, 128))
    box = build_phrase(0, "box", boxes=[[40, 30, 200, 150]])
    outline = build_phrase(1, "outline", polygons=[[200, 150, 400, 150, 400, 300, 200, 300]])
    nothing = build_phrase(2, "nothing")
    row = build_row(grey, "a", 400, 300, [box, outline, nothing])
    path = draw_rows(build_data(row), tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(path)).astype(int)
    grey_rows, grey_columns = np.nonzero((abs(pixels - 128) < 3).all(axis=2))
    starts = [column for column in np.unique(grey_columns) if column - 1 not in grey_columns]
    top, width, height = grey_rows.min(), 320, 240
    bright = (abs(pixels - (90, 240, 255)) < 60).all(axis=2)
    lefts = [starts[0], starts[0] + (np.unique(grey_columns).max() - starts[0] + 1 - width) // 2, None]
    lefts[2] = np.unique(grey_columns).max() + 1 - width
    shares = [bright[top : top + height, left : left + width] for left in lefts]
    ys, xs = np.nonzero(shares[0])
    assert np.allclose([xs.min(), ys.min(), xs.max(), ys.max()], [32, 24, 160, 120], atol=3)
    ys, xs = np.nonzero(shares[1])
    assert xs.min() == pytest.approx(160, abs=3) and ys.min() == pytest.approx(120, abs=3)
    assert not shares[2].any()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no_such_data"], "no_such_data"),
        (["synthetic", "--split", "no_split", *SCENE_OPTIONS], "no_split"),
        (["synthetic", "--option", "seed"], "--option seed"),
        (["synthetic", "--rows", "0"], "--rows"),
        (["synthetic", *SCENE_OPTIONS, "--output", "sheet.txt"], "sheet.txt"),
        (["amc_json", "--raw-dir", str(FIXTURES_FOLDER)], "vg_descriptions.json"),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "synthetic" in words:
        words = [*words, "--option", f"cache_dir={tmp_path / 'cache'}"]
    assert main(["inspect-dataset", *words]) == 2
    streams = capsys.readouterr()
    assert message in streams.err.splitlines()[-1]
    assert "Traceback" not in streams.err and streams.out == ""
    assert not (tmp_path / "sheet.txt").exists()
