# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""COCO-style files with phrases: what is read, and what happens to files that are wrong."""

import json
import logging
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from testing_utils import DATA_FOLDER

from albef_amc.datasets_scripts import (
    GROUNDING_FEATURES,
    CocoPhrases,
    ReadingReport,
    choose_split,
    compute_statistics,
    load_grounding_dataset,
)
from albef_amc.datasets_scripts.reading.regions import clean_box, read_spans
from albef_amc.regions_albef import decode_rle

DATA_ROOT = DATA_FOLDER
COCO_MINI = DATA_ROOT / "coco_cc_mini"
needs_coco_mini = pytest.mark.skipif(not COCO_MINI.is_dir(), reason=f"no {COCO_MINI}; set ALBEF_AMC_DATA")

WIDTH, HEIGHT = 40, 30


class SmallSource:
    """A folder of two images with annotations and phrases that a test spoils before reading."""

    def __init__(self, root: Path):
        self.root = root
        (root / "images").mkdir(parents=True)
        for name in ("a.jpg", "b.jpg"):
            Image.new("RGB", (WIDTH, HEIGHT), "gray").save(root / "images" / name)
        square = [4, 5, 14, 5, 14, 20, 4, 20]
        self.annotations = {
            "images": [
                {"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT},
                {"id": 2, "file_name": "b.jpg", "width": WIDTH, "height": HEIGHT},
            ],
            "annotations": [
                {"id": 10, "image_id": 1, "bbox": [4, 5, 10, 15], "category_id": 7, "segmentation": [square]},
                {"id": 11, "image_id": 1, "bbox": [20, 5, 10, 15], "category_id": 7, "segmentation": [square]},
                {"id": 12, "image_id": 2, "bbox": [0, 0, 40, 30], "category_id": 7},
            ],
            "categories": [{"id": 7, "name": "dog"}],
        }
        caption = {"caption": "there is a dog here", "span": [9, 14]}
        self.phrases = [
            {"id": 0, "image_id": 1, "phrase": "dogs", "bbox": [[4, 5, 14, 20], [20, 5, 30, 20]], "ann_ids": [10, 11]},
            {"id": 1, "image_id": 1, "phrase": "a dog", "kind": "caption_np", "bbox": [[4, 5, 14, 20]], **caption},
            {"id": 2, "image_id": 2, "phrase": "big dog", "bbox": [[0, 0, 40, 30]], "ann_ids": [12]},
        ]

    def read(self) -> tuple[list[dict], ReadingReport]:
        """Rows of all splits by image id, and the report."""
        (self.root / "annotations.json").write_text(json.dumps(self.annotations))
        (self.root / "phrases.json").write_text(json.dumps(self.phrases))
        builder = CocoPhrases(cache_dir=str(self.root / "cache"), data_root=self.root)
        builder.download_and_prepare()
        rows = builder.as_dataset(split="all")
        assert rows.features == GROUNDING_FEATURES
        return sorted(rows, key=lambda row: row["image_id"]), builder.report


@pytest.fixture
def source(tmp_path) -> SmallSource:
    return SmallSource(tmp_path / "source")


def test_rows_of_a_correct_source(source):
    rows, report = source.read()
    assert [row["image_id"] for row in rows] == ["1", "2"]
    first, second = rows
    assert (first["width"], first["height"], first["image"].size) == (WIDTH, HEIGHT, (WIDTH, HEIGHT))
    assert first["proposals"] == [
        {"box": [4.0, 5.0, 14.0, 20.0], "score": 1.0, "label": "dog"},
        {"box": [20.0, 5.0, 30.0, 20.0], "score": 1.0, "label": "dog"},
    ]
    plural, noun = first["phrases"]
    assert plural["boxes"] == [[4.0, 5.0, 14.0, 20.0], [20.0, 5.0, 30.0, 20.0]]
    assert len(plural["polygons"]) == 2 and plural["masks"] is None and plural["types"] is None
    assert noun["types"] == ["caption_np"] and noun["spans"] == [[9, 14]] and noun["polygons"] is None
    assert second["phrases"][0]["polygons"] is None
    assert report.counts == {"annotation without a usable outline: outlines dropped": 1}


def test_image_bytes_are_kept_as_stored(source):
    rows, _ = source.read()
    stored = Image.open(source.root / "images" / "a.jpg")
    assert rows[0]["image"].format == "JPEG" and rows[0]["image"].tobytes() == stored.tobytes()


def test_run_lengths_become_masks(source):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[5:20, 4:14] = True
    pixels = mask.ravel(order="F")
    borders = np.flatnonzero(np.diff(pixels)) + 1
    counts = np.diff([0, *borders, pixels.size]).tolist()
    source.annotations["annotations"][2]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}
    rows, report = source.read()
    (code,) = rows[1]["phrases"][0]["masks"]
    assert (decode_rle(code) == mask).all() and not report.counts
    source.annotations["annotations"][2]["segmentation"]["counts"] = counts[:-1]
    rows, report = source.read()
    assert rows[1]["phrases"][0]["masks"] is None and rows[1]["phrases"][0]["boxes"]
    assert report.counts["annotation without a usable outline: outlines dropped"] == 1


@pytest.mark.parametrize(
    "outline",
    [
        {"size": [HEIGHT, WIDTH], "counts": [1 << 62] * 4 + [WIDTH * HEIGHT]},
        {"size": [10**6, 10**6], "counts": [10**12]},
        {"size": [10**6, 10**6], "counts": "PPPPPPPP4"},
        {"size": [HEIGHT, WIDTH], "counts": [10**400]},
        {"size": [HEIGHT, WIDTH], "counts": [600.5, 599.5]},
    ],
    ids=["wraps", "terabyte", "terabyte as text", "400 digits", "fractions"],
)
def test_hostile_run_lengths_are_counted(source, outline):
    source.annotations["annotations"][2]["segmentation"] = outline
    rows, report = source.read()
    assert rows[1]["phrases"][0]["masks"] is None and rows[1]["phrases"][0]["boxes"]
    assert report.first_places["annotation without a usable outline: outlines dropped"] == "record 2"


def test_edited_files_are_read_again(source):
    source.read()
    source.phrases[2]["phrase"] = "small dog"
    rows, _ = source.read()
    assert rows[1]["phrases"][0]["phrase"] == "small dog"


@pytest.mark.parametrize("name", ["annotations.json", "phrases.json", "images"])
def test_missing_file_is_named(source, name):
    source.read()
    (source.root / name).rename(source.root / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"No .*{name}.* check `data_root`, .*_file`"):
        CocoPhrases(data_root=str(source.root))


def test_missing_folder_or_argument_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="No folder .*nowhere.*`data_root`"):
        CocoPhrases(data_root=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="`data_root` is missing"):
        CocoPhrases(cache_dir=str(tmp_path))


def _truncate(path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    buffer = BytesIO()
    noise.save(buffer, "JPEG")
    path.write_bytes(buffer.getvalue()[:-400])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), "image file missing"),
        (lambda path: path.write_bytes(b""), "damaged or not an image"),
        (lambda path: path.write_bytes(b"not a picture"), "damaged or not an image"),
        (_truncate, "damaged or not an image"),
        (lambda path: Image.new("RGB", (HEIGHT, WIDTH)).save(path), "size differs"),
    ],
    ids=["missing", "empty", "text", "truncated", "other size"],
)
def test_unusable_image_is_skipped_and_counted(source, spoil, reason, caplog):
    spoil(source.root / "images" / "b.jpg")
    logging.getLogger("albef_amc.datasets_scripts.coco_phrases.coco_phrases").propagate = True
    with caplog.at_level(logging.WARNING):
        rows, report = source.read()
    assert [row["image_id"] for row in rows] == ["1"]
    ((found, count),) = report.counts.items()
    assert reason in found and count == 1 and "b.jpg" in report.first_places[found]
    assert reason in caplog.text and "b.jpg" in caplog.text


def test_rotated_photograph_has_upright_size(source):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (HEIGHT, WIDTH), "gray").save(source.root / "images" / "b.jpg", exif=exif)
    rows, report = source.read()
    assert (rows[1]["width"], rows[1]["height"], rows[1]["image"].size) == (WIDTH, HEIGHT, (WIDTH, HEIGHT))
    assert any("rotated by its EXIF data" in reason for reason in report.counts)


@pytest.mark.parametrize("phrase", [None, "", "   ", 5, ["dog"]])
def test_record_without_a_phrase_is_skipped_and_counted(source, phrase):
    source.phrases[1]["phrase"] = phrase
    rows, report = source.read()
    assert [entry["phrase_id"] for entry in rows[0]["phrases"]] == ["0"]
    assert report.counts["record without a phrase: record skipped"] == 1
    assert report.first_places["record without a phrase: record skipped"] == "record 1"


def test_image_without_a_usable_phrase_is_skipped_and_counted(source):
    del source.phrases[2]["phrase"]
    rows, report = source.read()
    assert [row["image_id"] for row in rows] == ["1"]
    assert report.counts["image without a phrase: image skipped"] == 1


def test_phrase_of_an_unknown_image_is_counted(source):
    source.phrases[0]["image_id"] = 99
    rows, report = source.read()
    assert len(rows[0]["phrases"]) == 1 and report.counts["phrase of an unknown image: phrase skipped"] == 1


def test_source_without_any_usable_record_is_refused(source):
    source.phrases = []
    with pytest.raises(ValueError, match="No image of .* has a phrase"):
        source.read()


@pytest.mark.parametrize(
    ("box", "expected", "reason"),
    [
        ([4, 5, 14, 20], [4, 5, 14, 20], None),
        ([-3, 5, 44, 20], [0, 5, 40, 20], "extends beyond the image"),
        ([-0.01, 5, 40.01, 20], [0, 5, 40, 20], None),
        ([14, 5, 4, 20], None, "reversed"),
        ([4, 20, 14, 5], None, "reversed"),
        ([4, 5, 4, 20], None, "empty"),
        ([50, 5, 60, 20], None, "outside"),
        ([4, 5, float("nan"), 20], None, "four finite numbers"),
        ([4, 5, 14], None, "four finite numbers"),
        (["4", 5, 14, 20], None, "four finite numbers"),
        (None, None, "four finite numbers"),
        ([4, 5, 10**400, 20], None, "four finite numbers"),
        ([4, 5, -(10**400), 20], None, "four finite numbers"),
        ([4, 5, 1e300, 20], None, "four finite numbers"),
        ([4, True, 14, 20], None, "four finite numbers"),
    ],
)
def test_boxes_are_cut_or_skipped(box, expected, reason):
    report = ReadingReport()
    assert clean_box(box, WIDTH, HEIGHT, "record 1", report) == expected
    assert [reason in found for found in report.counts] == ([True] if reason else [])


def test_xywh_becomes_corners():
    report = ReadingReport()
    assert clean_box([4, 5, 10, 15], WIDTH, HEIGHT, "", report, is_xywh=True) == [4, 5, 14, 20]
    assert clean_box([4, 5, -10, 15], WIDTH, HEIGHT, "", report, is_xywh=True) is None
    assert report.counts == {"reversed box: box dropped": 1}


def test_phrase_keeps_its_good_boxes_and_goes_with_its_last(source):
    source.phrases[0]["bbox"][1] = [30, 5, 20, 20]
    source.phrases[1]["bbox"] = [[5, 5, 5, 5]]
    rows, report = source.read()
    (phrase,) = rows[0]["phrases"]
    assert phrase["boxes"] == [[4.0, 5.0, 14.0, 20.0]] and phrase["types"] == ["incomplete_boxes"]
    assert report.counts["reversed box: box dropped"] == report.counts["empty box: box dropped"] == 1
    assert report.counts["phrase without a usable box: phrase skipped"] == 1


def test_phrase_without_annotation_is_kept(source):
    del source.phrases[1]["bbox"]
    rows, _ = source.read()
    assert rows[0]["phrases"][1]["boxes"] is None


def test_bad_annotation_box_is_not_a_proposal(source):
    source.annotations["annotations"][1]["bbox"] = [20, 5, 0, 15]
    rows, report = source.read()
    assert len(rows[0]["proposals"]) == 1 and report.first_places["empty box: box dropped"] == "annotation 11"


@pytest.mark.parametrize("ann_ids", [[10, 99], [10, 12]], ids=["unknown", "of another image"])
def test_a_phrase_that_lost_an_annotation_is_marked(source, ann_ids):
    source.phrases[0]["ann_ids"] = ann_ids
    rows, report = source.read()
    phrase = rows[0]["phrases"][0]
    assert len(phrase["polygons"]) == 1 and len(phrase["boxes"]) == 2 and phrase["types"] == ["incomplete_outlines"]
    assert report.counts["annotation not among those of the image: outlines dropped"] == 1


DAMAGED_OUTLINES = [
    [1, 2, 3, 4],
    [1, 2, 3, 4, 5, 6, 7],
    [1, 2, 3, None, 5, 6],
    [1, 2, 3, 4, 5, 10**400],
    [1, 2, 3, 4, 5, 1e300],
    [1, 2, True, 4, 5, 6],
    [1, 2] * 10_001,
    {"size": [HEIGHT, WIDTH], "counts": [1]},
    [400, 2, 600, 2, 600, 9],
    "x",
    None,
]


@pytest.mark.parametrize("outline", [[], 5, "x", *([outline] for outline in DAMAGED_OUTLINES)], ids=range(14))
def test_damaged_outline_is_counted_and_the_others_stay(source, outline):
    source.annotations["annotations"][0]["segmentation"] = outline
    source.phrases.append(source.phrases[1] | {"id": 3, "ann_ids": [10]})
    rows, report = source.read()
    both, _, alone = rows[0]["phrases"]
    assert len(both["polygons"]) == 1 and both["types"] == ["incomplete_outlines"]
    assert alone["polygons"] is None and alone["types"] == ["caption_np"]
    assert report.first_places["annotation without a usable outline: outlines dropped"] == "record 0"


@pytest.mark.parametrize("outline", DAMAGED_OUTLINES, ids=range(11))
@pytest.mark.parametrize("place", [0, 1])
def test_a_damaged_outline_among_good_ones_of_an_object_is_dropped_alone(source, outline, place):
    outlines = source.annotations["annotations"][0]["segmentation"]
    source.annotations["annotations"][0]["segmentation"] = [*outlines[:place], outline, *outlines[place:]]
    rows, report = source.read()
    phrase = rows[0]["phrases"][0]
    assert len(phrase["polygons"]) == 2 and phrase["masks"] is None and phrase["types"] == ["incomplete_outlines"]
    reason = "annotation with a damaged outline among good ones: outline dropped"
    assert report.counts[reason] == 1 and report.first_places[reason] == "record 0"


@pytest.mark.parametrize(
    "file_name", ["../secret.jpg", "/etc/secret.jpg", "a/../../b.jpg", "..\\b.jpg", "C:\\b.jpg", "."]
)
def test_path_that_leaves_the_folder_is_refused(source, file_name):
    source.annotations["images"][1]["file_name"] = file_name
    with pytest.raises(ValueError, match="leaves the image folder|absolute path"):
        source.read()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.phrases[1].update(id=0), "phrase record id 0 occurs twice"),
        (lambda s: s.annotations["images"][1].update(id=1), "image id 1 occurs twice"),
        (lambda s: s.annotations["annotations"][1].update(id=10), "annotation id 10 occurs twice"),
        (lambda s: s.phrases[1].pop("id"), "phrase record number 1 has no `id`"),
        (lambda s: s.annotations.pop("categories"), "no list `categories`"),
        (lambda s: s.annotations["images"][0].pop("file_name"), "no `file_name`"),
        (lambda s: setattr(s, "phrases", {"a": 1}), "a list of phrase records is expected"),
    ],
)
def test_ambiguous_files_are_refused(source, spoil, message):
    spoil(source)
    with pytest.raises(ValueError, match=message):
        source.read()


def test_cut_off_json_is_refused(source):
    source.read()
    path = source.root / "phrases.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match="phrases.json is not valid JSON"):
        CocoPhrases(cache_dir=str(source.root / "cache"), data_root=source.root).download_and_prepare()


@pytest.mark.parametrize(
    ("span", "reason"),
    [
        ([9, 14], None),
        ([9, 99], "inside"),
        ([-5, 14], "inside"),
        ([14, 9], "inside"),
        ([9], "inside"),
        ([0, 5], "spell"),
    ],
)
def test_spans_past_the_caption_are_skipped(span, reason):
    report = ReadingReport()
    record = {"phrase": "A dog", "caption": "there is a dog here", "span": span}
    assert read_spans(record, "record 1", report) == (None if reason else [span])
    assert [reason in found for found in report.counts] == ([True] if reason else [])


def test_split_depends_on_the_image_id_alone():
    splits = [choose_split(number) for number in range(2000)]
    assert splits == [choose_split(str(number)) for number in range(2000)]
    shares = {split: splits.count(split) / 2000 for split in ("train", "validation", "test")}
    assert shares == pytest.approx({"train": 0.7, "validation": 0.15, "test": 0.15}, abs=0.03)


@pytest.mark.data
@needs_coco_mini
def test_coco_cc_mini_record_for_record(tmp_path):
    builder = CocoPhrases(cache_dir=str(tmp_path), data_root=COCO_MINI)
    builder.download_and_prepare()
    rows = builder.as_dataset(split="all")
    expected = {str(record["id"]): record for record in json.loads((COCO_MINI / "phrases.json").read_text())}
    found = {}
    for row in rows.remove_columns("image"):
        for phrase in row["phrases"]:
            found[phrase["phrase_id"]] = phrase
            record = expected[phrase["phrase_id"]]
            assert row["image_id"] == str(record["image_id"])
            assert (row["width"], row["height"]) == (record["width"], record["height"])
            assert phrase["phrase"] == record["phrase"] and phrase["types"] == [record["kind"]]
            assert np.allclose(phrase["boxes"], record["bbox"], atol=1e-3)
            assert phrase["polygons"]
            if record["kind"] == "caption_np":
                ((start, end),) = phrase["spans"]
                assert phrase["caption"][start:end] == record["phrase"]
    assert len(found) == len(expected) == 413
    assert builder.report.counts == {"image without a phrase: image skipped": 3}
    assert compute_statistics(rows)["num_images"] == len(rows) == 69


@pytest.mark.data
@needs_coco_mini
def test_splits_of_coco_cc_mini_share_no_image(tmp_path):
    ids = [
        set(load_grounding_dataset("coco_phrases", split, cache_dir=str(tmp_path), data_root=COCO_MINI)["image_id"])
        for split in ("train", "validation", "test")
    ]
    assert all(ids) and sum(map(len, ids)) == len(set.union(*ids)) == 69


@pytest.mark.parametrize("value", [7, True, 2.5, ["plural"], {"a": 1}])
def test_a_kind_that_is_not_text_is_skipped_and_counted(source, value):
    source.phrases[1]["kind"] = value
    rows, report = source.read()
    assert rows[0]["phrases"][1]["types"] is None
    assert report.counts["field is not text: field dropped"] == 1


@pytest.mark.parametrize("value", [7, ["see the dog"], {"a": 1}])
def test_a_caption_that_is_not_text_is_skipped_and_counted(source, value):
    source.phrases[2]["caption"] = value
    rows, report = source.read()
    assert (rows[1]["phrases"][0]["caption"], rows[1]["phrases"][0]["phrase"]) == (None, "big dog")
    assert report.counts["field is not text: field dropped"] == 1


@pytest.mark.parametrize("change", [{"name": None}, {"name": 7}, {"name": ["dog"]}, {"name": ""}, {"id": 8}])
def test_a_category_without_a_name_is_counted(source, change):
    source.annotations["categories"][0].update(change)
    rows, report = source.read()
    assert [proposal["label"] for row in rows for proposal in row["proposals"]] == [None] * 3
    assert report.counts["category unknown or without a name: category dropped"] == 3


@pytest.mark.parametrize("value", [0, "", {}, False])
def test_boxes_of_another_type_are_counted_where_python_calls_them_empty(source, value):
    source.phrases[1]["bbox"] = value
    rows, report = source.read()
    assert rows[0]["phrases"][1]["boxes"] is None
    assert report.counts["box is not four finite numbers: box dropped"] == 1


def test_masks_that_would_take_minutes_are_skipped(source):
    mask = {"size": [HEIGHT, WIDTH], "counts": [0, WIDTH * HEIGHT]}
    source.annotations["annotations"][2]["segmentation"] = [mask] * 2001
    rows, report = source.read()
    assert rows[1]["phrases"][0]["masks"] is None
    assert report.counts["more outlines than a phrase may have: outlines dropped"] == 1
