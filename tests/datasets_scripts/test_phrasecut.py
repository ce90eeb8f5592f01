"""PhraseCut: rows, masks and subsets against the expected values of the raw files, and damaged files."""

import json
import shutil

import numpy as np
import pytest
from testing_utils import FIXTURES_FOLDER

from albef_amc.datasets_scripts import GROUNDING_FEATURES, PhraseCut, load_grounding_dataset
from albef_amc.regions_albef import build_region_mask, decode_rle

FOLDER = FIXTURES_FOLDER / "phrasecut"
RAW = FOLDER / "VGPhraseCut_v0"
TURNED = "2320098"
# Subsets of the authors that need their word lists, and the one that holds every phrase.
WITH_WORD_LISTS = {"all", "t_stuff", "t_obj", "c_coco", "a_color", "a_texture"}


def build(cache, data_root=RAW, **options):
    builder = PhraseCut(cache_dir=str(cache), data_root=str(data_root), **options)
    builder.download_and_prepare()
    assert builder.info.features == GROUNDING_FEATURES
    return builder


def read_expected():
    return json.loads((FOLDER / "expected.json").read_text())["rows"]


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def source(tmp_path):
    shutil.copytree(RAW, tmp_path / "raw")
    return tmp_path / "raw"


def test_rows_are_those_of_the_published_reader(builder):
    rows = {(split, row["image_id"]): row for split in builder.info.splits for row in builder.as_dataset(split=split)}
    expected = read_expected()
    assert set(rows) == {(row["split"], str(row["image_id"])) for row in expected}
    for expected_row in expected:
        row = rows[expected_row["split"], str(expected_row["image_id"])]
        for phrase, wanted in zip(row["phrases"], expected_row["phrases"], strict=True):
            assert (phrase["phrase_id"], phrase["phrase"]) == (wanted["phrase_id"], wanted["phrase"])
            assert set(phrase["types"]) == set(wanted["types"]) - WITH_WORD_LISTS
            boxes = wanted.get("boxes_after_exif", wanted["boxes"])
            assert phrase["boxes"] == [pytest.approx(box, abs=1e-4) for box in boxes]


def test_masks_have_the_pixels_that_the_published_reader_draws(builder):
    wanted = {phrase["phrase_id"]: phrase for row in read_expected() for phrase in row["phrases"]}
    for row in builder.as_dataset(split="all"):
        for phrase in row["phrases"]:
            masks = [decode_rle(mask) for mask in phrase["masks"]]
            assert len(masks) == len(phrase["boxes"])
            assert np.logical_or.reduce(masks).sum() == wanted[phrase["phrase_id"]]["mask_pixels"]
            size = (row["height"], row["width"])
            region = build_region_mask(*size, size, polygons=phrase["polygons"], masks=phrase["masks"]).numpy()
            assert ((region > 0) == np.logical_or.reduce(masks)).all()


def test_a_turned_picture_turns_its_regions(builder):
    (row,) = builder.as_dataset(split="test")
    assert (row["image_id"], row["width"], row["height"]) == (TURNED, 120, 120)
    for phrase in row["phrases"]:
        for box, mask in zip(phrase["boxes"], phrase["masks"], strict=True):
            rows, columns = np.nonzero(decode_rle(mask))
            assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box


def test_what_is_skipped_is_counted(builder):
    assert builder.report.counts == {
        "task id occurs twice: the first is kept": 1,
        "image file missing: image skipped": 1,
        "box extends beyond the image: box clipped": 2,
        "polygon of fewer than three points: no area of its own": 1,
        "image is rotated by its EXIF data: boxes rotated with it": 1,
    }


def test_a_split_is_read_alone(tmp_path):
    rows = load_grounding_dataset("phrasecut", "miniv", cache_dir=str(tmp_path), data_root=str(RAW), splits="miniv")
    assert [row["image_id"] for row in rows] == ["107980"]


def edit(path, change):
    contents = json.loads(path.read_text())
    change(contents)
    path.write_text(json.dumps(contents))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tasks: tasks[0].update(phrase="  "), "phrase without words or with broken characters: phrase skipped"),
        (
            lambda tasks: tasks[0].update(phrase="\ud800"),
            "phrase without words or with broken characters: phrase skipped",
        ),
        (lambda tasks: tasks[0].update(image_id=5), "image not in image_data_split.json: task skipped"),
        (lambda tasks: tasks[0].update(image_id=2407), "image belongs to another split: task skipped"),
        (lambda tasks: tasks[0].update(Polygons=[[[[1, 2], [3, "a"]]]]), "outline damaged: outline dropped"),
        (lambda tasks: tasks[0].update(Polygons=[[[[1, 2], [1e300, 4]]]]), "outline damaged: outline dropped"),
        (lambda tasks: tasks[0].update(Polygons=[]), "outline damaged: outline dropped"),
        (lambda tasks: tasks[0].update(Polygons=[[]]), "outline damaged: outline dropped"),
        (
            lambda tasks: tasks[0].update(Polygons=[[[[1, 2], [9, 2], [9, 9]]]] * 2001),
            "more outlines than a phrase may have: outlines dropped",
        ),
        (
            lambda tasks: tasks[0]["phrase_structure"].update(type=["name"]),
            "phrase without a usable structure: phrase kept without types",
        ),
        (
            lambda tasks: tasks[0].update(Polygons=[[[[900, 900], [990, 900], [990, 990]]]]),
            "outline without a pixel in the image: outline dropped",
        ),
        (
            lambda tasks: tasks[0].update(instance_boxes=None),
            "phrase without a usable box: phrase kept without a region",
        ),
        (
            lambda tasks: tasks[0].update(instance_boxes=[[3, 4, 0, 5]]),
            "phrase without a usable box: phrase kept without a region",
        ),
        (
            lambda tasks: tasks[0].pop("phrase_structure"),
            "phrase without a usable structure: phrase kept without types",
        ),
    ],
)
def test_a_damaged_task_is_counted(tmp_path, source, change, reason):
    edit(source / "refer_train.json", change)
    builder = build(tmp_path / "cache", source, splits=["train"])
    assert builder.report.counts[reason] == 1
    phrases = {phrase["phrase_id"]: phrase for phrase in builder.as_dataset(split="train")[0]["phrases"]}
    if "skipped" in reason:
        assert "2391__1500000" not in phrases
    else:
        phrase = phrases["2391__1500000"]
        assert (phrase["boxes"] is None) == ("box" in reason)
        assert (phrase["masks"] is None) == ("structure" not in reason)


@pytest.mark.parametrize(
    "bad", [[[1, 2], [3, "a"], [4, 4]], [[1, 2], [10**400, 4], [4, 4]], [[1, 2], [1e7, 4], [4, 4]], 5]
)
def test_outlines_are_dropped_one_by_one_and_the_phrase_is_marked(tmp_path, source, bad):
    good = [[1, 2], [30, 2], [30, 30]]
    edit(source / "refer_train.json", lambda tasks: tasks[0].update(Polygons=[[good, bad], [bad]]))
    builder = build(tmp_path / "cache", source, splits=["train"])
    phrase = next(
        phrase for phrase in builder.as_dataset(split="train")[0]["phrases"] if phrase["phrase_id"] == "2391__1500000"
    )
    assert phrase["polygons"] == [[1, 2, 30, 2, 30, 30]] and len(phrase["masks"]) == 1
    assert phrase["types"][-1] == "incomplete_outlines"
    assert builder.report.counts["outline damaged: outline dropped"] == 2


@pytest.mark.parametrize("bad", [[3, 4, 0, 5], [3, 4, 10**400, 5], [3, 4, None, 5], 5])
def test_boxes_are_dropped_one_by_one_and_the_phrase_is_marked(tmp_path, source, bad):
    edit(source / "refer_train.json", lambda tasks: tasks[0]["instance_boxes"].append(bad))
    phrases = build(tmp_path / "cache", source, splits=["train"]).as_dataset(split="train")[0]["phrases"]
    phrase = next(phrase for phrase in phrases if phrase["phrase_id"] == "2391__1500000")
    assert phrase["boxes"] and phrase["types"][-1] == "incomplete_boxes"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("refer_train.json", lambda tasks: tasks[0].pop("task_id"), "task number 0 has no `task_id`"),
        ("image_data_split.json", lambda images: images[0].update(image_id=10**400), "number 0 has no `image_id`"),
        ("image_data_split.json", lambda images: images[0].update(image_id="../2391"), "number 0 has no `image_id`"),
        ("image_data_split.json", lambda images: images.append(images[0]), "image id 2391 occurs twice"),
        ("name_att_rel_count.json", lambda counts: counts.pop("att"), "lists `cat` and `att`"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, source, name, change, message):
    edit(source / name, change)
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "cache", source)


def test_half_a_download_is_refused(tmp_path, source):
    path = source / "refer_train.json"
    path.write_text(path.read_text()[:-50])
    with pytest.raises(ValueError, match=r"refer_train\.json cannot be read at entry 5.*cut off"):
        build(tmp_path / "cache", source)


@pytest.mark.parametrize("name", ["refer_test.json", "image_data_split.json", "name_att_rel_count.json"])
def test_a_missing_file_is_named(tmp_path, source, name):
    (source / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        build(tmp_path / "cache", source, splits="test")
