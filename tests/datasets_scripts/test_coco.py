"""COCO's own files: rows against the expected values of the raw files, crowds, captions, streaming, damaged files."""

import json
import shutil
import time
import tracemalloc

import pytest
from testing_utils import FIXTURES_FOLDER

from albef_amc.datasets_scripts import GROUNDING_FEATURES, Coco, load_grounding_dataset
from albef_amc.datasets_scripts.reading.json_lists import iterate_json_lists
from albef_amc.regions_albef import build_region_mask, decode_rle

RAW = FIXTURES_FOLDER / "coco"
SPLIT = "val2017"
CROWD = 30117


def build(cache, data_root=RAW, **options):
    """Rows and the report of their reading."""
    builder = Coco(cache_dir=str(cache), data_root=str(data_root), **options)
    builder.download_and_prepare()
    assert builder.info.features == GROUNDING_FEATURES
    return builder.as_dataset(split=SPLIT), builder.report


def read_expected():
    return json.loads((RAW / "expected.json").read_text())["rows"]


def edit(folder, kind, change):
    path = folder / "annotations" / f"{kind}_{SPLIT}.json"
    contents = json.loads(path.read_text())
    change(contents)
    path.write_text(json.dumps(contents))


@pytest.fixture
def source(tmp_path):
    shutil.copytree(RAW, tmp_path / "raw")
    return tmp_path / "raw"


def test_rows_are_those_of_the_published_reader(tmp_path):
    rows, _ = build(tmp_path, keep_crowds=True)
    for row, expected in zip(rows, read_expected(), strict=True):
        assert row["image_id"] == str(expected["image_id"])
        assert [row["width"], row["height"]] == expected.get(
            "size_after_exif", [expected["width"], expected["height"]]
        )
        objects = [phrase for phrase in row["phrases"] if phrase["types"] != ["caption"]]
        for phrase, wanted in zip(objects, expected["phrases"], strict=True):
            assert (phrase["phrase_id"], phrase["phrase"]) == (str(wanted["phrase_id"]), wanted["phrase"])
            assert phrase["types"] == wanted["types"] + ["crowd"] * wanted["is_crowd"]
            boxes = wanted.get("boxes_after_exif", wanted["boxes"])
            assert (phrase["boxes"] or []) == [pytest.approx(box, abs=1e-4) for box in boxes]
        captions = [phrase for phrase in row["phrases"] if phrase["types"] == ["caption"]]
        assert [caption["phrase"] for caption in captions] == expected["captions"]
        assert all(caption["boxes"] is None for caption in captions)


def test_outlines_cover_what_the_published_reader_draws(tmp_path):
    rows, _ = build(tmp_path, keep_crowds=True)
    found = {phrase["phrase_id"]: (row, phrase) for row in rows for phrase in row["phrases"]}
    for wanted in (phrase for row in read_expected() for phrase in row["phrases"]):
        row, phrase = found[str(wanted["phrase_id"])]
        if not wanted["boxes"]:
            assert phrase["polygons"] is None and phrase["masks"] is None
            continue
        size = (row["height"], row["width"])
        outline = build_region_mask(*size, size, polygons=phrase["polygons"], masks=phrase["masks"])
        assert outline.sum().item() == pytest.approx(wanted["mask_pixels"], rel=0.05)
    _, crowd = found[str(CROWD)]
    assert decode_rle(crowd["masks"][0]).sum() == 1680


def test_what_is_skipped_is_counted(tmp_path):
    rows, report = build(tmp_path)
    assert str(CROWD) not in [phrase["phrase_id"] for phrase in rows[1]["phrases"]]
    assert report.counts == {
        "crowd region: region skipped": 1,
        "annotation id occurs twice: the first is kept": 1,
        "annotation of an unknown image: annotation skipped": 1,
        "annotation of an undeclared category: annotation skipped": 1,
        "caption without words or with broken characters: caption skipped": 1,
        "image file missing: image skipped": 1,
        "box extends beyond the image: box clipped": 1,
        "empty box: box dropped": 1,
        "object without a usable box: object kept without a region": 1,
        "image is rotated by its EXIF data: boxes rotated with it": 1,
    }


@pytest.mark.parametrize(("kind", "num_phrases"), [("instances", 11), ("captions", 20)])
def test_one_kind_is_read_alone(tmp_path, kind, num_phrases):
    rows = load_grounding_dataset("coco", SPLIT, cache_dir=str(tmp_path), data_root=str(RAW), kinds=kind)
    assert sum(len(row["phrases"]) for row in rows) == num_phrases


def test_an_image_without_a_phrase_is_skipped(tmp_path, source):
    edit(source, "instances", lambda contents: contents.update(annotations=contents["annotations"][:2]))
    rows, report = build(tmp_path / "cache", source, kinds="instances")
    assert rows["image_id"][:] == ["139"] and report.counts["image without a usable phrase: image skipped"] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["images"][0].update(file_name="../secret.jpg"),
            "'../secret.jpg' of image 139 .*leaves the image",
        ),
        (lambda c: c["images"][0].update(file_name="/etc/secret.jpg"), "absolute path"),
        (lambda c: c["images"][0].pop("file_name"), "image 139 has no `file_name`"),
        (lambda c: c["images"][1].update(id=139), "image id 139 stands for two different images"),
        (lambda c: c["images"][0].pop("id"), "entry of `images` has no `id`"),
        (lambda c: c["categories"][0].pop("name"), "category 1 has no `name`"),
        (lambda c: c.pop("images"), "no list `images`"),
        (lambda c: c["annotations"].append(5), "`5` where an object in braces"),
    ],
)
def test_ambiguous_files_are_refused(tmp_path, source, change, message):
    edit(source, "instances", change)
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "cache", source, kinds="instances")


def test_half_a_download_is_refused(tmp_path, source):
    path = source / "annotations" / f"captions_{SPLIT}.json"
    path.write_text(path.read_text()[:-30])
    with pytest.raises(ValueError, match=r"captions_val2017\.json cannot be read after 26 entries.*cut off"):
        build(tmp_path / "cache", source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": "keypoints"}, "`kinds` must name some of instances, captions"),
        ({"splits": "val2014"}, r"`splits` must name some of val2017; got \['val2014'\]"),
    ],
)
def test_wrong_options_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **options)


def test_a_folder_without_annotations_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No `instances_\*\.json`"):
        build(tmp_path / "cache", tmp_path)


CONTENTS = {"version": 12.5, "flag": True, "info": {"a": [1]}, "first": [{"id": 1}, {"id": 2}], "no": [], "b": [{}]}


@pytest.mark.parametrize("chunk_length", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("style", [{}, {"indent": 2}, {"separators": (",", ":")}])
def test_entries_of_all_lists_do_not_depend_on_chunks(tmp_path, chunk_length, style):
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(CONTENTS, **style))
    found = list(iterate_json_lists(path, chunk_length))
    assert found == [("first", {"id": 1}), ("first", {"id": 2}), ("b", {})]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the end of the file"),
        ("[]", "`{` is expected"),
        ('{"a": [{}], 5: 1}', "`5` where a key"),
        ('{"a": [{} {}]}', "`,` is expected"),
        ('{"a": [{}]', "the end of the file"),
        ('{"a": [{}]} x', "`x` after the end"),
        ('{"a": 1', "the end of the file"),
    ],
)
def test_damage_has_one_clear_error(tmp_path, text, reason):
    path = tmp_path / "coco.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"coco\.json cannot be read after \d entries \(.*{reason}"):
        list(iterate_json_lists(path))


@pytest.mark.slow
def test_no_more_than_a_chunk_is_in_memory(tmp_path):
    path = tmp_path / "coco.json"
    entry = json.dumps({"id": 1, "segmentation": [[1.5] * 100]})
    path.write_text('{"annotations": [' + ",".join([entry] * 20000) + "]}")
    assert path.stat().st_size > 10_000_000
    tracemalloc.start()
    assert sum(1 for _ in iterate_json_lists(path)) == 20000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 7_000_000


@pytest.mark.parametrize("value", [None, 7, {}, "text", []])
def test_a_file_of_which_nothing_is_read_is_counted(tmp_path, source, value):
    edit(source, "captions", lambda contents: contents.update(annotations=value))
    rows, report = build(tmp_path / "cache", source)
    assert report.counts["file without entries: file skipped"] == 1
    assert "captions_val2017.json" in report.first_places["file without entries: file skipped"]


@pytest.mark.parametrize("value", [7, True, ["animal"], {"a": 1}])
def test_a_supercategory_that_is_not_text_is_counted(tmp_path, source, value):
    edit(source, "instances", lambda contents: contents["categories"][0].update(supercategory=value))
    _, report = build(tmp_path / "cache", source)
    assert report.counts["field is not text: field dropped"] > 0


def test_a_long_number_between_the_lists_is_skipped_at_once(tmp_path):
    path = tmp_path / "list.json"
    path.write_text('{"info": ' + "1" * 3_000_000 + ', "other": true , "images": [{"id": 1}]}')
    start = time.process_time()
    assert list(iterate_json_lists(path)) == [("images", {"id": 1})]
    assert time.process_time() - start < 2


@pytest.mark.parametrize("kind", ["instances", "captions"])
def test_a_missing_file_of_one_kind_is_counted(source, tmp_path, kind):
    (source / "annotations" / f"{kind}_{SPLIT}.json").unlink()
    _, report = build(tmp_path / "cache", source)
    assert report.counts["annotation file missing: phrases skipped"] == 1
