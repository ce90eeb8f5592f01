# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc inspect-dataset`: statistics of hand-made rows, and what a sheet shows."""

import json

import datasets
import numpy as np
import pytest
from PIL import Image
from testing_utils import FIXTURES_FOLDER, build_photo

from albef_amc.cli.inspect_dataset import CELL_SIZE, draw_rows
from albef_amc.cli.main import main
from albef_amc.datasets_scripts import GROUNDING_FEATURES, build_phrase, build_row
from albef_amc.datasets_scripts.statistics import describe_dataset
from albef_amc.publishing.dataset_building import build_dataset
from albef_amc.regions_albef import encode_rle

SCENES = {"num_train_scenes": 12, "num_validation_scenes": 2, "num_test_scenes": 2}
SCENE_OPTIONS = [word for name, value in SCENES.items() for word in ("--data", f"{name}={value}")]


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
    built = build_dataset("synthetic", tmp_path / "built", SCENES)
    cache = ["--data", f"cache_dir={tmp_path / 'cache'}"]
    statistics = built["statistics"]["all"]
    for words in (["synthetic", *SCENE_OPTIONS], [tmp_path / "built"]):
        found = inspect(capsys, *words, *cache)
        assert {name: found[name] for name in statistics} == statistics
    assert inspect(capsys, tmp_path / "built", "--split", "test", *cache)["num_images"] == 2


@pytest.mark.slow
def test_the_sheet_has_a_line_for_each_row(tmp_path, capsys):
    words = ["synthetic", *SCENE_OPTIONS, "--data", f"cache_dir={tmp_path / 'cache'}", "--output"]
    heights = []
    for rows in (2, 4, 1000):
        path = tmp_path / f"{rows}.png"
        assert inspect(capsys, *words, path, "--rows", rows)["picture"] == str(path)
        with Image.open(path) as sheet:
            heights.append(sheet.height)
    assert 1.8 < heights[1] / heights[0] < 2
    assert 3.5 < heights[2] / heights[1] < 4, "all 16 rows"


def test_regions_are_outlined_where_they_are(tmp_path):
    green = (40, 120, 40)
    box = build_phrase(0, "box", boxes=[[40, 30, 200, 150]])
    outline = build_phrase(1, "outline", polygons=[[200, 150, 390, 150, 390, 290, 200, 290]])
    row = build_row(Image.new("RGB", (400, 300), green), "a", 400, 300, [box, outline, build_phrase(2, "nothing")])
    pixels = np.asarray(Image.open(draw_rows(build_data(row), tmp_path / "sheet.png"))).astype(int)
    rows, columns = np.nonzero((abs(pixels - green) < 3).all(axis=2))
    assert columns.max() - columns.min() > 3 * CELL_SIZE
    distance = (columns.max() + 1 - CELL_SIZE - columns.min()) // 2  # from one of the three pictures to the next
    bright = (abs(pixels - (90, 240, 255)) < 60).all(axis=2)[rows.min() :, columns.min() :]
    scale = CELL_SIZE / 400
    for number, expected in enumerate(([40, 30, 200, 150], [200, 150, 390, 290], None)):
        ys, xs = np.nonzero(bright[:, number * distance : number * distance + CELL_SIZE])
        if expected is None:
            assert not len(xs)
        else:
            assert np.allclose([xs.min(), ys.min(), xs.max(), ys.max()], np.multiply(expected, scale), atol=4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no_such_data"], "no_such_data"),
        (["synthetic", "--split", "no_split", *SCENE_OPTIONS], "no_split"),
        (["synthetic", "--data", "seed"], "--data seed"),
        (["synthetic", "--rows", "0"], "--rows"),
        (["synthetic", *SCENE_OPTIONS, "--output", "sheet.txt"], "sheet.txt"),
        (["amc_json", "--data", f"data_root={FIXTURES_FOLDER}"], "vg_descriptions.json"),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "synthetic" in words:
        words = [*words, "--data", f"cache_dir={tmp_path / 'cache'}"]
    assert main(["inspect-dataset", *words]) == 2
    streams = capsys.readouterr()
    assert message in streams.err.splitlines()[-1]
    assert "Traceback" not in streams.err and streams.out == ""
    assert not (tmp_path / "sheet.txt").exists()


def test_a_picture_that_cannot_be_used_is_named_and_the_others_are_drawn(tmp_path, capsys):
    rows = [
        build_row(picture, str(number), 40, 30, [build_phrase(number, "a dog")])
        for number, picture in enumerate([{"bytes": b"no picture", "path": None}, build_photo()])
    ]
    sheet = draw_rows(datasets.Dataset.from_list(rows, features=GROUNDING_FEATURES), tmp_path / "sheet.png")
    assert "not drawn: image '0' is not an image" in capsys.readouterr().err
    with Image.open(sheet) as picture:
        assert picture.height > 100
