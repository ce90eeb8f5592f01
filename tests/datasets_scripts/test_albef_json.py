"""ALBEF's caption lists: rows against the expected values of the raw files, repeated captions, damaged files."""

import json
from collections import defaultdict

import pytest
from testing_utils import FIXTURES_FOLDER

from albef_amc.datasets_scripts import GROUNDING_FEATURES, AlbefJson
from albef_amc.trainer.data.data_collator import DataCollatorForGrounding

ALBEF = FIXTURES_FOLDER / "albef_json"
PRETRAINING = ["pretrain/coco.json", "pretrain/vg.json", "pretrain/cc12m.json"]
TURNED = "000000179765"  # by its EXIF data, which the published reader ignores


def build(cache, files, data_root=ALBEF / "data", image_root=ALBEF / "images"):
    """Rows and the report of their reading."""
    builder = AlbefJson(
        cache_dir=str(cache), data_root=str(data_root), annotation_files=files, image_root=str(image_root)
    )
    builder.download_and_prepare()
    rows = builder.as_dataset(split="train")
    assert rows.features == GROUNDING_FEATURES
    return rows, builder.report


@pytest.mark.parametrize(
    ("files", "folder"),
    [
        (["coco_train.json"], "images/coco"),
        (["coco_test.json"], "images/coco"),
        (["flickr30k_train.json"], "images/flickr30k"),
        (PRETRAINING, "images"),
    ],
)
def test_rows_are_those_that_albef_reads(tmp_path, files, folder):
    rows, _ = build(tmp_path, files, image_root=ALBEF / folder)
    expected = json.loads((ALBEF / "expected.json").read_text())
    skipped = {entry["where"] for entry in expected["skipped"]}
    captions, sizes = defaultdict(list), {}
    for name in files:
        for number, item in enumerate(expected["lists"][name]["items"]):
            if f"{name}[{number}]" not in skipped:
                sizes[item["image"]] = tuple(item["size"][::-1] if TURNED in item["image"] else item["size"])
                captions[item["image"]] += item.get("captions") or [item["caption"]]
    found = {row["image_id"]: [phrase["phrase"] for phrase in row["phrases"]] for row in rows}
    assert found == captions
    assert {row["image_id"]: row["image"].size for row in rows} == sizes
    assert {row["image_id"]: (row["width"], row["height"]) for row in rows} == sizes
    assert all(phrase["boxes"] is None for row in rows for phrase in row["phrases"])


def test_what_is_skipped_is_counted(tmp_path):
    rows, report = build(tmp_path, PRETRAINING)
    assert report.counts == {
        "image file missing: image skipped": 1,
        "path leaves the image folder: entry skipped": 1,
        "caption without words or with broken characters: caption skipped": 1,
    }
    assert "cc12m/missing_000000001.jpg" in report.first_places["image file missing: image skipped"]
    assert rows[3]["phrases"][1]["phrase_id"] == "pretrain/cc12m.json#1"


def test_an_image_has_each_caption_once(tmp_path):
    image = {"image": "coco/val2014/COCO_val2014_000000203564.jpg"}
    (tmp_path / "a.json").write_text(json.dumps([{**image, "caption": ["a dog", "a cat", "a dog"]}]))
    (tmp_path / "b.json").write_text(json.dumps([{**image, "caption": "a cat"}, {**image, "caption": "A cat"}]))
    rows, report = build(tmp_path / "cache", ["a.json", "b.json"], data_root=tmp_path)
    (row,) = rows
    expected = [("a.json#0", "a dog"), ("a.json#0.1", "a cat"), ("b.json#1", "A cat")]
    assert [(phrase["phrase_id"], phrase["phrase"]) for phrase in row["phrases"]] == expected
    assert report.counts == {"caption repeats one of the same image: caption skipped": 2}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("not_a_list.json", "a list of entries is expected"),
        ("no_caption.json", "entry 0 has no `caption`"),
        ("truncated.json", "cannot be read at entry 0.*fetch it again"),
    ],
)
def test_lists_of_another_form_are_refused(tmp_path, name, message):
    with pytest.raises(ValueError, match=rf"{name}.*{message}"):
        build(tmp_path, [name], data_root=ALBEF / "bad")


def test_the_lists_must_be_named():
    with pytest.raises(ValueError, match="No list is named: pass `annotation_files`, one or more JSON files"):
        AlbefJson(data_root=str(ALBEF / "data"))


def test_rows_make_a_batch_without_regions(tmp_path, tiny_processor):
    rows, _ = build(tmp_path, PRETRAINING)
    batch = DataCollatorForGrounding(tiny_processor, max_length=20)([rows[0], rows[3]])
    assert batch["image_index"].tolist() == [0, 0, 1, 1]
    assert not batch["has_region"].any()
