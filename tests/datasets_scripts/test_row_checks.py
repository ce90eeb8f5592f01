# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Pictures of another size than their row states, boxes beyond their picture or in another unit are reported."""

import json
import logging
import re

import datasets
import pytest
from testing_utils import build_photo, build_rows

from albef_amc.cli.inspect_dataset import draw_rows
from albef_amc.cli.main import main
from albef_amc.datasets_scripts import GROUNDING_FEATURES, Jsonl, build_phrase, build_row
from albef_amc.datasets_scripts.row_checks import check_picture_size, count_boxes, warn_about_boxes
from albef_amc.evaluation.grounding_evaluation import evaluate_baselines, evaluate_grounding, predict_points
from albef_amc.trainer import AmcConfig
from albef_amc.trainer.data.data_collator import DataCollatorForGrounding
from albef_amc.trainer.data.mixtures import Mixture, build_training_dataset

WIDTH, HEIGHT = 40, 30
IN_SHARES, IN_THOUSANDTHS, INSIDE = [0.1, 0.2, 0.5, 0.9], [100, 200, 500, 900], [4, 5, 14, 20]
BEYOND, OUTSIDE, EMPTY = [-3, 5, 44, 20], [50, 5, 60, 20], [4, 5, 4, 20]
# What is stated of a picture of 40 x 30 pixels.
WRONG_SIZES = [(30, 40), (80, 60), (40, 31), (None, 40), (39, None), (-40, -30), (0, 0), (2**31 - 1, 2**31 - 1)]


@pytest.fixture
def said(caplog):
    """Messages of warnings."""
    logging.Logger.warning_once.cache_clear()
    caplog.set_level(logging.WARNING)
    return lambda: [record.message for record in caplog.records]


def make_rows(*boxes, **values):
    """Two rows; the second has phrases with one box each."""
    phrases = [build_phrase(number, "a dog", boxes=[box]) for number, box in enumerate(boxes)]
    good = build_row(build_photo(), "good", WIDTH, HEIGHT, [build_phrase("g", "a cup", boxes=[INSIDE])])
    return [good, {**build_row(build_photo(seed=1), "bad", WIDTH, HEIGHT, phrases), **values}]


def as_dataset(rows):
    return datasets.Dataset.from_list(rows, features=GROUNDING_FEATURES)


@pytest.mark.parametrize("size", WRONG_SIZES)
def test_training_and_evaluation_refuse_a_picture_of_another_size_by_name(tiny_model, tiny_processor, size):
    rows = make_rows(INSIDE, width=size[0], height=size[1])
    message = r"row of image 'bad' states .* but its image, upright, has 40 x 30"
    for form in (rows, as_dataset(rows)):
        with pytest.raises(ValueError, match=message):
            evaluate_grounding(tiny_model, tiny_processor, form)
        with pytest.raises(ValueError, match=message):
            DataCollatorForGrounding(tiny_processor)(list(form))


def test_sizes_that_are_not_stated_are_those_of_the_picture(tiny_model, tiny_processor):
    rows = make_rows(INSIDE)
    expected = predict_points(tiny_model, tiny_processor, rows)
    for row in rows:
        row["width"] = row["height"] = None
    assert predict_points(tiny_model, tiny_processor, rows) == expected
    for row in rows:
        del row["width"], row["height"]
    assert predict_points(tiny_model, tiny_processor, rows) == expected


def test_rows_without_a_phrase_to_score_are_not_looked_at(tiny_model, tiny_processor):
    rows = make_rows(width=7)
    assert evaluate_grounding(tiny_model, tiny_processor, rows).metrics["num_phrases"] == 1


@pytest.mark.parametrize("stated", ["40", float("nan"), 10**400, [40]])
def test_a_size_of_another_kind_is_named_too(stated):
    with pytest.raises(ValueError, match="row of image 'x' states") as caught:
        check_picture_size({"image_id": "x", "width": stated, "height": 30}, (40, 30))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([20, 15, 10, 5], r"not \[x, y, width, height\]"),
        ([0, 0, float("nan"), 5], "must be finite"),
        ([0, 0, float("inf"), 5], "must be finite"),
        ([0, 0, 10**400, 5], "must be finite"),
        ([0, 0, 5], "four numbers"),
    ],
)
def test_an_evaluation_names_the_phrase_whose_box_is_none(tiny_model, tiny_processor, box, message):
    rows = make_rows(INSIDE, box)
    for evaluate in (lambda: evaluate_grounding(tiny_model, tiny_processor, rows), lambda: evaluate_baselines(rows)):
        with pytest.raises(ValueError, match=rf"phrase '1' of image 'bad': box 0 is .*{message}"):
            evaluate()


@pytest.mark.parametrize("form", [list, as_dataset])
@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([INSIDE, [0, 0, 40, 30], [-0.01, 0, 40.01, 30]], []),
        ([BEYOND, OUTSIDE, INSIDE], ["2 of 4 boxes extend beyond their image, 1 of them lie outside it"]),
        ([IN_THOUSANDTHS, [0, 0, 1000, 1000]], ["2 of 3 boxes extend beyond .* thousandths of width and height look"]),
        ([[0, 0, 1001, 20]], [r"1 of 2 boxes extend beyond .*width, height\.$"]),
        ([IN_SHARES, [0, 0, 1, 1]], ["2 of 3 boxes lie within 0..1, less than a pixel"]),
        ([EMPTY], ["1 of 2 boxes have no area"]),
        ([BEYOND, IN_SHARES], ["1 of 3 boxes extend", "1 of 3 boxes lie within"]),
    ],
)
def test_boxes_are_counted(form, boxes, expected):
    found = count_boxes(form(make_rows(*boxes))).list_warnings()
    assert len(found) == len(expected)
    for warning, pattern in zip(found, expected, strict=True):
        assert re.search(pattern, warning)


def test_boxes_without_a_stated_size_or_of_another_form_are_not_counted():
    rows = make_rows(BEYOND, width=None)
    assert count_boxes(rows).num_boxes == count_boxes(as_dataset(rows)).num_boxes == 1
    assert count_boxes([{"phrases": None}, {}, *make_rows([1, 2, 3]), *make_rows("x")]).num_boxes == 2
    assert count_boxes(iter(rows)).num_boxes == count_boxes(datasets.Dataset.from_dict({"a": [1]})).num_boxes == 0
    for phrases in (None, [], [build_phrase(0, "a dog"), build_phrase(1, "a cup", boxes=[])]):
        assert count_boxes(as_dataset([build_row(build_photo(), "a", WIDTH, HEIGHT, phrases)])).num_boxes == 0


def test_an_evaluation_says_it_once_for_each_data_set(tiny_model, tiny_processor, said):
    rows = make_rows(BEYOND, IN_SHARES, EMPTY)
    for _ in range(2):
        evaluate_grounding(tiny_model, tiny_processor, rows)
    assert [message.partition(" boxes")[0] for message in said()] == [
        "evaluation data: 1 of 4",
        "evaluation data: 1 of 4",
        "evaluation data: 1 of 4",
    ]


def test_an_evaluation_says_that_regions_are_incomplete(tiny_model, tiny_processor, said):
    rows = make_rows(INSIDE, INSIDE)
    rows[1]["phrases"][0]["types"] = ["incomplete_boxes"]
    metrics = evaluate_grounding(tiny_model, tiny_processor, rows).metrics
    assert metrics["num_phrases"] == 3 and metrics["num_phrases_by_type"] == {"incomplete_boxes": 1}
    (message,) = (message for message in said() if "lost a part" in message)
    assert message.startswith("evaluation data: 1 of 3 phrases lost a part of their boxes")


def test_a_training_says_it_before_the_first_step_with_the_name_of_the_part(tmp_path, said):
    args = AmcConfig(output_dir=str(tmp_path), use_cpu=True)
    build_training_dataset(make_rows(IN_THOUSANDTHS), args)
    parts = [as_dataset(make_rows(INSIDE)), as_dataset(make_rows(IN_SHARES))]
    build_training_dataset(Mixture(parts, [1, 1], ["one", "other"]), args)
    first, second = said()
    assert first.startswith("training data: 1 of 2 boxes extend beyond their image")
    assert second.startswith("training data other: 1 of 2 boxes lie within 0..1")


def test_good_rows_are_silent(tiny_model, tiny_processor, tmp_path, said):
    rows = build_rows(3)
    evaluate_grounding(tiny_model, tiny_processor, rows)
    build_training_dataset(rows, AmcConfig(output_dir=str(tmp_path), use_cpu=True))
    warn_about_boxes(rows, "rows")
    assert not [message for message in said() if "box" in message]


def test_a_processor_says_that_a_box_is_in_shares(tiny_processor, said):
    for _ in range(2):
        tiny_processor(images=build_photo(), text="a dog", boxes=[IN_SHARES])
    assert [message for message in said() if "box" in message] == [
        "Some boxes lie within 0..1, less than a pixel. Boxes are in pixels, not in shares."
    ]


def test_a_builder_counts_boxes_in_another_unit(tmp_path):
    build_photo(WIDTH, HEIGHT).save(tmp_path / "a.png")
    phrases = [{"phrase": "a dog", "boxes": [box]} for box in (IN_SHARES, INSIDE, BEYOND, OUTSIDE)]
    (tmp_path / "train.jsonl").write_text(json.dumps({"image": "a.png", "phrases": phrases}))
    builder = Jsonl(cache_dir=str(tmp_path / "cache"), data_root=str(tmp_path))
    builder.download_and_prepare()
    assert builder.report.counts == {
        "box within 0..1, less than a pixel, perhaps fractions of the sides: box kept as pixels": 1,
        "box extends beyond the image: box clipped": 1,
        "box outside the image: box dropped": 1,
        "phrase without a usable box: phrase kept without a region": 1,
    }


def save(rows, folder):
    (folder / "data").mkdir(parents=True)
    as_dataset(rows).to_parquet(folder / "data" / "test-00000.parquet")
    return str(folder)


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluate_ends_in_one_line_that_names_image_and_sizes(checkpoint, tmp_path, capsys, workers):
    folder = save(make_rows(INSIDE, width=30, height=40), tmp_path / "data")
    cache = ["--data", f"cache_dir={tmp_path / 'cache'}", "--device", "cpu", "--num-workers", str(workers)]
    assert main(["evaluate", str(checkpoint), folder, *cache]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("albef-amc: error: the row of image 'bad' states 30 x 40 pixels but its image")
    assert last.endswith("store the image that they belong to.")


@pytest.mark.slow
def test_inspect_says_what_is_wrong_and_draws_all_the_same(tmp_path, capsys):
    folder = save(make_rows(OUTSIDE, IN_SHARES, width=30, height=40), tmp_path / "data")
    words = ["--data", f"cache_dir={tmp_path / 'cache'}", "--output", str(tmp_path / "sheet.png"), "--json"]
    assert main(["inspect-dataset", folder, *words]) == 0
    streams = capsys.readouterr()
    assert "1 of 3 boxes extend beyond their image, 1 of them lie outside it" in streams.err
    assert "1 of 3 boxes lie within 0..1" in streams.err
    assert "the row of image 'bad' states 30 x 40 pixels" in streams.err
    assert json.loads(streams.out)["num_images"] == 2 and (tmp_path / "sheet.png").is_file()


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ({"boxes": [[20, 15, 10, 5]]}, r"not \[x, y, width, height\]"),
        ({"boxes": [[0, 0, float("nan"), 5]]}, "must be finite"),
        ({"masks": [{"size": [40, 30], "counts": "1"}]}, "a mask has size"),
        ({"polygons": [[0, 0, float("inf"), 5, 5, 5]]}, "a polygon must be"),
    ],
)
def test_a_region_that_cannot_be_drawn_is_named(tmp_path, region, message):
    row = build_row(build_photo(), "bad", WIDTH, HEIGHT, [build_phrase("p", "a dog", **region)])
    with pytest.raises(ValueError, match=f"phrase 'p' of image 'bad': .*{message}"):
        draw_rows(as_dataset([row]), tmp_path / "sheet.png")
