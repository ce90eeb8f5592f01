"""JSON Lines of one's own: rows with the fields that were written, box formats, and errors that name the line."""

import json
import os
import shutil

import numpy as np
import pytest
from testing_utils import FIXTURES_FOLDER, build_photo

from albef_amc.datasets_scripts import GROUNDING_FEATURES, Jsonl, load_grounding_dataset
from albef_amc.regions_albef import encode_rle

WIDTH, HEIGHT = 40, 30
BOX = [4.0, 5.0, 14.0, 20.0]
FULL = {
    "image": "photos/a.png",
    "image_id": 7,
    "width": WIDTH,
    "height": HEIGHT,
    "proposals": [{"box": BOX, "score": 0.5, "label": "dog"}, {"box": [50, 50, 60, 60]}],
    "phrases": [
        {
            "phrase_id": "p1",
            "phrase": "the dog",
            "boxes": [BOX, [0, 0, 100, 30]],
            "points": [[5.0, 6.0]],
            "polygons": [[4.0, 5.0, 14.0, 5.0, 14.0, 20.0]],
            "masks": [encode_rle(np.eye(HEIGHT, WIDTH))],
            "types": ["category"],
            "caption": "see the dog",
            "spans": [[4, 11]],
            "paraphrases": ["it"],
        }
    ],
    "true_phrases": ["an animal"],
    "false_phrases": ["the cat", "it sleeps"],
}


@pytest.fixture
def source(tmp_path):
    """Writes lines, builds and returns rows of a split and the report."""
    folder = tmp_path / "mine"
    (folder / "photos").mkdir(parents=True)
    for name in "ab":
        build_photo(WIDTH, HEIGHT).save(folder / "photos" / f"{name}.png")

    def build(*rows, split="train", others=(), **options):
        for name, lines in [(split, rows), *others]:
            texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
            (folder / f"{name}.jsonl").write_text("\n".join(texts) + "\n")
        builder = Jsonl(cache_dir=str(tmp_path / "cache"), data_root=str(folder), **options)
        builder.download_and_prepare()
        assert builder.info.features == GROUNDING_FEATURES
        return builder.as_dataset(split=split), builder.report

    build.folder = folder
    return build


def row_of(image="photos/a.png", **phrase):
    return {"image": image, "phrases": [{"phrase": "a dog", **phrase}]}


def test_every_field_is_kept(source):
    rows, report = source(FULL)
    (row,) = rows
    assert (row["image_id"], row["width"], row["height"], row["image"].size) == ("7", WIDTH, HEIGHT, (WIDTH, HEIGHT))
    assert row["proposals"] == [{"box": BOX, "score": 0.5, "label": "dog"}]
    assert row["phrases"] == [{**FULL["phrases"][0], "boxes": [BOX, [0.0, 0.0, 40.0, 30.0]]}]
    assert (row["true_phrases"], row["false_phrases"]) == (["an animal"], ["the cat", "it sleeps"])
    assert report.counts == {"box extends beyond the image: box clipped": 1, "box outside the image: box dropped": 1}


def test_what_is_skipped_is_null_and_named_by_its_place(source):
    rows, _ = source(row_of(), "", row_of("./photos/b.png"))
    assert rows["image_id"][:] == ["photos/a.png", "photos/b.png"]
    assert [phrase["phrase_id"] for row in rows for phrase in row["phrases"]] == ["train:1#0", "train:3#0"]
    assert rows[0]["proposals"] is rows[0]["true_phrases"] is rows[0]["false_phrases"] is None
    assert all(rows[0]["phrases"][0][name] is None for name in ("boxes", "masks", "polygons", "caption", "types"))


@pytest.mark.parametrize(
    ("box_format", "box"),
    [("xyxy", BOX), ("xywh", [4, 5, 10, 15]), ("normalized_xyxy", [0.1, 5 / 30, 0.35, 20 / 30])],
)
def test_boxes_are_what_was_stated(source, box_format, box):
    row = {**row_of(boxes=[box]), "proposals": [{"box": box}]}
    rows, _ = source(row, box_format=box_format)
    assert rows[0]["phrases"][0]["boxes"] == [pytest.approx(BOX, abs=1e-5)]
    assert rows[0]["proposals"][0]["box"] == pytest.approx(BOX, abs=1e-5)


@pytest.mark.parametrize(
    ("box_format", "box", "message"),
    [
        ("xyxy", [0.1, 0.2, 0.3, 0.4], r"all boxes lie within \[0, 1\].*box_format='normalized_xyxy'"),
        ("xywh", [0.1, 0.2, 0.3, 0.4], r"all boxes lie within \[0, 1\]"),
        ("xyxy", [20, 5, 10, 15], "ends before it begins, so it is not `xyxy`"),
        ("normalized_xyxy", BOX, r"is not within \[0, 1\]"),
        ("xywh", [4, 5, -10, 15], "negative width"),
    ],
)
def test_boxes_of_another_format_are_refused_and_not_guessed(source, box_format, box, message):
    with pytest.raises(ValueError, match=rf"train\.jsonl, line 2: .*{message}"):
        source(FULL | {"phrases": [{"phrase": "x"}], "proposals": None}, row_of(boxes=[box]), box_format=box_format)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "a.png"', "is not valid JSON"),
        ("[1]", "an object in braces is expected"),
        ({"image": "a.png"}, "has no `phrases`"),
        ({"phrases": []}, "has no `image`"),
        ({"image": 5, "phrases": []}, "`image` must be a path"),
        ({"image": "a.png", "phrases": []}, "`phrases` must be a list of objects"),
        ({**row_of(), "caption": "x"}, "unknown field `caption`"),
        ({**row_of(), "width": "40"}, "`width` must be a whole number"),
        ({**row_of(), "proposals": [{"score": 1}]}, "proposals has no `box`"),
        (row_of(bbox=[BOX]), "phrase 0 has an unknown field `bbox`"),
        (row_of(boxes=BOX), "`boxes` must be lists of four finite numbers"),
        (row_of(boxes=[[1, 2, 3]]), "`boxes` must be"),
        (row_of(boxes=[[1, 2, 3, float("inf")]]), "`boxes` must be"),
        (row_of(boxes=[[1, 2, True, 4]]), "`boxes` must be"),
        (row_of(points=[[1]]), "`points` must be"),
        (row_of(polygons=[[1, 2, 3, 4]]), "`polygons` must be"),
        (row_of(polygons=[[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7]]), "`polygons` must be"),
        (row_of(polygons=[[1, 2, 3, 4, 5, 1e300]]), "`polygons` must be"),
        (row_of(polygons=[[1, 2, 3, 4, 5, 10**400]]), "`polygons` must be"),
        (row_of(polygons=[[1, 2] * 10_001]), "`polygons` must be"),
        (row_of(boxes=[[1, 2, 3, 10**400]]), "`boxes` must be"),
        (row_of(boxes=[[1, 2, 3, 1e300]]), "`boxes` must be"),
        (row_of(points=[[1, 10**400]]), "`points` must be"),
        (row_of(points=[[1, -1e300]]), "`points` must be"),
        ({**row_of(), "proposals": [{"box": BOX, "score": 10**400}]}, "`score` must be a number"),
        ({**row_of(), "proposals": [{"box": [1, 2, 3, 10**400]}]}, "`box` must be four finite numbers"),
        (
            '{"image": "a.png", "phrases": [{"phrase": "x", "boxes": [[1, 2, 3, ' + "9" * 5000 + "]]}]}",
            "not valid JSON",
        ),
        (row_of(caption="abc", spans=[[0, 10**400]]), "`spans` must be"),
        (row_of(types="x"), "`types` must be a list of texts"),
        (row_of(caption="abc", spans=[[0, 9]]), r"`spans` must be pairs \[start, end\) inside `caption`"),
        (row_of(spans=[[0, 1]]), "`spans` must be"),
        ({"image": "a.png", "phrases": [{"phrase": " "}]}, "phrase 0: `phrase` must be a text with words"),
        ({**row_of(), "true_phrases": "a dog"}, "`true_phrases` must be a list of texts with words"),
        ({**row_of(), "true_phrases": [["a dog"]]}, "`true_phrases` must be a list of texts with words"),
        ({**row_of(), "false_phrases": ["..."]}, "`false_phrases` must be a list of texts with words"),
        ({**row_of(), "false_phrases": ["A dog!"]}, "'A dog!' is among `false_phrases`, but the image has it"),
        ({**row_of(), "true_phrases": ["x"], "false_phrases": ["X."]}, "'X.' is among `false_phrases`"),
        (row_of("../a.png"), "path leaves the image folder"),
        (row_of("/etc/a.png"), "absolute path"),
        (row_of(), "image id 'photos/a.png' is also in train.jsonl, line 1"),
        (row_of("photos/b.png", phrase_id="p"), "phrase id 'p' is also in train.jsonl, line 1"),
    ],
)
def test_errors_name_file_and_line(source, line, message):
    with pytest.raises(ValueError, match=rf"train\.jsonl, line 2.*{message}"):
        source(row_of(phrase_id="p"), line)


def test_missing_damaged_and_wrong_images_are_counted(source):
    (source.folder / "photos" / "half.png").write_bytes((source.folder / "photos" / "a.png").read_bytes()[:60])
    lines = [row_of(), row_of("photos/none.png"), row_of("photos/half.png"), {**row_of("photos/b.png"), "width": 41}]
    rows, report = source(*lines)
    assert len(rows) == 1
    assert report.counts == {
        "image file missing: image skipped": 1,
        "image file damaged or not an image: image skipped": 1,
        "image size differs from the annotation: image skipped": 1,
    }


@pytest.mark.parametrize(
    "mask",
    [{"size": [30, 40], "counts": "1"}, {"size": [2, 2], "counts": "13"}, {"size": [30, 40], "counts": [1200]}, {}],
)
def test_masks_that_do_not_fit_are_dropped_one_by_one(source, mask):
    polygon, good = [1, 2, 3, 4, 5, 9], FULL["phrases"][0]["masks"][0]
    rows, report = source(
        row_of(boxes=[BOX], masks=[mask]),
        row_of("photos/b.png", boxes=[BOX], masks=[mask, good, mask], polygons=[polygon], types=["x"]),
    )
    alone, among_others = (row["phrases"][0] for row in rows)
    assert (alone["boxes"], alone["masks"], alone["polygons"], alone["types"]) == ([BOX], None, None, None)
    assert (among_others["masks"], among_others["polygons"]) == ([good], [polygon])
    assert among_others["types"] == ["x", "incomplete_outlines"]
    assert [reason.endswith("dropped") for reason in report.counts] == [True] and report.counts.total() == 3


@pytest.mark.parametrize(
    ("stray", "reason"),
    [
        ([1, 2, 3, 4], "of fewer than three points"),
        ([5, 6], "of fewer than three points"),
        ([40, 2, 60, 2, 60, 9], "outside the image"),
        ([2, -9, 6, -9, 6, 0], "outside the image"),
    ],
)
def test_a_line_or_a_point_or_a_polygon_elsewhere_among_polygons_is_dropped(source, stray, reason):
    polygon = [1.0, 2.0, 3.0, 4.0, 5.0, 9.0]
    rows, report = source(row_of(boxes=[BOX], polygons=[polygon, stray]))
    phrase = rows[0]["phrases"][0]
    assert (phrase["polygons"], phrase["types"]) == ([polygon], ["incomplete_outlines"])
    assert report.counts == {f"polygon {reason}: polygon dropped": 1}


@pytest.mark.parametrize("bad", [[4, 5, 4, 20], [50, 50, 60, 60]], ids=["empty", "outside"])
def test_boxes_are_dropped_one_by_one_and_the_phrase_is_marked(source, bad):
    rows, report = source(row_of(boxes=[bad, BOX, bad]))
    phrase = rows[0]["phrases"][0]
    assert (phrase["boxes"], phrase["types"]) == ([BOX], ["incomplete_boxes"])
    assert report.counts.total() == 2


@pytest.mark.parametrize(
    "mask",
    [
        {"size": [HEIGHT, WIDTH], "counts": [1 << 62] * 4 + [WIDTH * HEIGHT]},  # 64-bit integers would wrap
        {"size": [HEIGHT, WIDTH], "counts": "PPPPPPPPPPPP4" * 4 + "`U1"},
        {"size": [10**6, 10**6], "counts": [10**12]},
        {"size": [10**400, 1], "counts": [1]},
        {"size": [HEIGHT, WIDTH], "counts": [10**400]},
        {"size": [HEIGHT, WIDTH], "counts": [600.5, 599.5]},
        {"size": [HEIGHT, WIDTH], "counts": [True, 1199]},
        {"size": [HEIGHT, WIDTH], "counts": ["600", "600"]},
        {"size": [HEIGHT, WIDTH], "counts": [-1, 1201]},
        {"size": [HEIGHT, WIDTH], "counts": [float("inf")]},
        {"size": [HEIGHT, WIDTH], "counts": None},
        {"size": [float("nan"), WIDTH], "counts": [1200]},
    ],
    ids=range(12),
)
def test_hostile_masks_are_counted_like_damaged_ones(source, mask):
    rows, report = source(row_of(boxes=[BOX], masks=[mask]), row_of("photos/b.png", masks=FULL["phrases"][0]["masks"]))
    assert rows[0]["phrases"][0]["boxes"] == [BOX] and rows[0]["phrases"][0]["masks"] is None
    assert rows[1]["phrases"][0]["masks"] == FULL["phrases"][0]["masks"]
    assert [reason.startswith("mask damaged") for reason in report.counts] == [True]
    assert "train.jsonl, line 1, phrase 0" in next(iter(report.first_places.values()))


def test_a_phrase_whose_boxes_are_all_outside_is_kept_without_a_region(source):
    rows, report = source(row_of(boxes=[[50, 50, 60, 60]], polygons=[[1, 2, 3, 4, 5, 9]]))
    assert rows[0]["phrases"][0]["boxes"] is None and rows[0]["phrases"][0]["polygons"] is None
    assert report.counts["phrase without a usable box: phrase kept without a region"] == 1


def test_every_file_is_a_split(source):
    rows, report = source(row_of(), split="test", others=[("train", [row_of(), row_of("photos/b.png")])])
    assert len(rows) == 1 and report.counts["image in several splits: image kept in each"] == 1
    data_root = str(source.folder)
    everything = load_grounding_dataset("jsonl", "all", data_root=data_root, cache_dir=str(source.folder / "cache"))
    assert len(everything) == 3


def test_options_and_file_names_are_checked(source, tmp_path):
    with pytest.raises(ValueError, match="`box_format` must be one of 'xyxy', 'xywh', 'normalized_xyxy'"):
        source(row_of(), box_format="yxyx")
    with pytest.raises(ValueError, match="not the name of a split"):
        source(row_of(), split="my-train")
    with pytest.raises(FileNotFoundError, match=r"No `\*\.jsonl`"):
        Jsonl(cache_dir=str(tmp_path / "cache"), data_root=str(source.folder / "photos"))


def test_a_file_of_another_encoding_is_named(source):
    (source.folder / "val.jsonl").write_bytes(json.dumps(row_of()).encode("utf-16"))
    with pytest.raises(ValueError, match=r"val\.jsonl is UTF-16 text"):
        source(row_of())


def test_a_picture_that_no_decoder_takes_does_not_end_the_build(source):
    shutil.copy(FIXTURES_FOLDER / "pictures" / "damaged.avif", source.folder / "photos" / "damaged.avif")
    rows, report = source(row_of("photos/damaged.avif"), row_of())
    assert rows["image_id"] == ["photos/a.png"]
    assert report.counts == {"image file damaged or not an image: image skipped": 1}
    assert "damaged.avif" in next(iter(report.first_places.values()))


def test_odd_files_among_the_images_do_not_end_a_build(source):
    (source.folder / "nowhere.jpg").symlink_to("no_such_file.jpg")
    (source.folder / "circle.jpg").symlink_to("circle.jpg")
    os.mkfifo(source.folder / "pipe.jpg")
    open(os.fsencode(source.folder) + b"/caf\xe9.jpg", "wb").close()
    rows, report = source(row_of("nowhere.jpg"), row_of("circle.jpg"), row_of("pipe.jpg"), row_of("photos/b.png"))
    assert rows["image_id"][:] == ["photos/b.png"]
    assert report.counts == {"image file missing: image skipped": 3}


@pytest.mark.parametrize("number", [2**24 + 1, 2**63, -(2**63), 1e30])
def test_large_numbers_are_kept_as_far_as_rows_hold_them(source, number):
    row = {**row_of(points=[[number, 1]]), "proposals": [{"box": [1, 2, 3, 4], "score": number}]}
    rows, _ = source(row)
    assert rows[0]["phrases"][0]["points"] == [[pytest.approx(number), 1]]
    assert rows[0]["proposals"][0]["score"] == pytest.approx(number)


@pytest.mark.parametrize(
    "region",
    [
        {"polygons": [[1, 2, 9, 2, 9, 9]] * 2001},
        {"masks": [{"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}] * 2001},
    ],
)
def test_more_outlines_than_a_phrase_may_have_are_skipped(source, region):
    rows, report = source(row_of(boxes=[[1, 2, 9, 9]], **region), row_of("photos/b.png"))
    phrase = rows[0]["phrases"][0]
    assert (phrase["boxes"], phrase["polygons"], phrase["masks"]) == ([[1, 2, 9, 9]], None, None)
    reason = "more outlines than a phrase may have: outlines dropped"
    assert report.counts == {reason: 1}
    assert "2001" in report.first_places[reason] and "more than 2000" in report.first_places[reason]
