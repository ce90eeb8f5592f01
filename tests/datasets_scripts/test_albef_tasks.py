# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""ALBEF's lists for retrieval, NLVR2 and SNLI-VE: rows against what the authors' readers return."""

import json

import pytest
from testing_utils import FIXTURES_FOLDER

from albef_amc.datasets_scripts import AlbefNlvr2, AlbefRetrieval, AlbefSnliVe

ALBEF = FIXTURES_FOLDER / "albef_json"
TURNED = "000000179765"  # by its EXIF data, which the published reader ignores
PAIRS, FLICKR = ALBEF / "images" / "nlvr2", ALBEF / "images" / "flickr30k" / "flickr30k-images"


def build(kind, cache, split="train", **options):
    """Rows of a split and the report of their reading."""
    options = {"data_root": str(ALBEF / "data"), **options}
    builder = kind(cache_dir=str(cache), **{name: str(value) for name, value in options.items()})
    builder.download_and_prepare()
    return builder.as_dataset(split=split), builder.report


def read_expected(name: str) -> dict:
    return json.loads((ALBEF / "expected.json").read_text())["lists"][name]


def write_list(folder, *entries) -> str:
    path = folder / "list.json"
    path.write_text(json.dumps(entries))
    return str(path)


@pytest.mark.parametrize(("name", "folder"), [("coco", "coco"), ("flickr30k", "flickr30k")])
def test_captions_for_training_are_those_that_albef_reads(name, folder, tmp_path):
    options = {"image_root": ALBEF / "images" / folder, "train_files": f"{name}_train.json"}
    rows, _ = build(AlbefRetrieval, tmp_path, **options)
    items = read_expected(f"{name}_train.json")["items"]
    found = {
        caption["caption_id"]: (index, row["image_id"], caption["caption"])
        for index, row in enumerate(rows)
        for caption in row["captions"]
    }
    assert found == {
        f"{name}_train.json#{number}": (item["image_index"], str(item["image_id"]), item["caption"])
        for number, item in enumerate(items)
    }
    sizes = {item["image_index"]: item["size"][:: -1 if TURNED in item["image"] else 1] for item in items}
    assert [[row["width"], row["height"]] for row in rows] == [sizes[index] for index in range(len(rows))]
    assert [list(row["image"].size) for row in rows] == [sizes[index] for index in range(len(rows))]


@pytest.mark.parametrize("name", ["coco", "flickr30k"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_captions_for_evaluation_are_those_that_albef_reads(name, split, tmp_path):
    options = {"image_root": ALBEF / "images" / name, f"{split}_files": f"{name}_{split}.json"}
    rows, _ = build(AlbefRetrieval, tmp_path, split, **options)
    items = read_expected(f"{name}_{split}.json")["items"]
    found = [(row["image_id"], [caption["caption"] for caption in row["captions"]]) for row in rows]
    assert found == [(item["image"], item["captions"]) for item in items]
    assert rows[0]["captions"][1]["caption_id"] == f"{name}_{split}.json#0.1"


def test_captions_that_repeat_stay(tmp_path):
    image = "val2014/COCO_val2014_000000203564.jpg"
    path = write_list(tmp_path, {"image": image, "caption": ["a dog", "a dog", " "]}, {"image": image, "caption": "x"})
    rows, report = build(AlbefRetrieval, tmp_path, image_root=ALBEF / "images" / "coco", train_files=path)
    assert [caption["caption"] for caption in rows[0]["captions"]] == ["a dog", "a dog", "x"]
    assert report.counts == {"caption without words or with broken characters: caption skipped": 1}


@pytest.mark.parametrize(
    ("first", "second"),
    [(("a.jpg", 1), ("a.jpg", 2)), (("a.jpg", 1), ("b.jpg", 1)), (("a.jpg", None), ("a.jpg", "1"))],
)
def test_an_image_has_one_id(first, second, tmp_path):
    entries = [{"image": image, "image_id": number, "caption": "x"} for image, number in (first, second)]
    path = write_list(tmp_path, *entries)
    with pytest.raises(ValueError, match="entry 1: .*contradicts an earlier entry"):
        build(AlbefRetrieval, tmp_path, image_root=ALBEF / "images", train_files=path)


def test_image_ids_of_another_type_are_refused(tmp_path):
    path = write_list(tmp_path, {"image": "a.jpg", "image_id": 1.5, "caption": "x"})
    with pytest.raises(ValueError, match="entry 0: `image_id` must be a text or a whole number, got 1.5"):
        build(AlbefRetrieval, tmp_path, image_root=ALBEF / "images", train_files=path)


@pytest.mark.parametrize(("split", "name"), [("train", "nlvr_train"), ("val", "nlvr_dev"), ("test", "nlvr_test")])
def test_pairs_are_those_that_albef_reads(split, name, tmp_path):
    rows, _ = build(AlbefNlvr2, tmp_path, split, image_root=PAIRS, **{f"{split}_files": f"{name}.json"})
    items = read_expected(f"{name}.json")["items"]
    assert [row["image_ids"] for row in rows] == [item["images"] for item in items]
    assert [[list(image.size) for image in row["images"]] for row in rows] == [item["sizes"] for item in items]
    assert [row["sentences"] for row in rows] == [
        [{"sentence_id": f"{name}.json#{number}", "sentence": item["sentence"], "label": item["label"]}]
        for number, item in enumerate(items)
    ]
    names = rows.features["sentences"].feature["label"].names
    assert [names[row["sentences"][0]["label"]] for row in rows] == [item["raw_label"] for item in items]


def test_a_pair_is_stored_once_and_its_order_counts(tmp_path):
    entries = json.loads((ALBEF / "data" / "nlvr_train.json").read_text())
    first = entries[0]
    again = {**first, "sentence": "Another one.", "label": "False"}
    turned = {**first, "images": first["images"][::-1]}
    rows, _ = build(
        AlbefNlvr2, tmp_path, image_root=PAIRS, train_files=write_list(tmp_path, first, again, turned, again)
    )
    assert [row["image_ids"] for row in rows] == [first["images"], turned["images"]]
    assert [len(row["sentences"]) for row in rows] == [3, 1]
    assert [entry["label"] for entry in rows[0]["sentences"]] == [1, 0, 0]


def test_a_boolean_label_is_what_it_says(tmp_path):
    rows, _ = build(AlbefNlvr2, tmp_path, image_root=PAIRS, train_files=ALBEF / "bad" / "nlvr_boolean_label.json")
    assert rows[0]["sentences"][0]["label"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": ["a.png"]}, "`images` must be a list of two paths .*got 1 of them"),
        ({"images": ["a.png", "b.png", "c.png"]}, "got 3 of them"),
        ({"images": "a.png"}, "got 'a.png'"),
        ({"images": ["a.png", 7]}, "`images` must be a path"),
        ({"label": "true"}, '`label` must be "True" or "False", got \'true\''),
        ({"label": 1}, '`label` must be "True" or "False", got 1'),
        ({"label": None}, "has no `label`"),
    ],
)
def test_what_is_not_a_pair_with_a_label_is_refused(changes, message, tmp_path):
    entry = json.loads((ALBEF / "data" / "nlvr_dev.json").read_text())[0]
    path = write_list(tmp_path, {**entry, **changes})
    with pytest.raises(ValueError, match=f"entry 0.*{message}"):
        build(AlbefNlvr2, tmp_path, image_root=PAIRS, train_files=path)


def test_a_pair_with_one_missing_image_is_skipped(tmp_path):
    entries = json.loads((ALBEF / "data" / "nlvr_train.json").read_text())
    entries[0]["images"][1] = "images/train/absent.png"
    rows, report = build(AlbefNlvr2, tmp_path, image_root=PAIRS, train_files=write_list(tmp_path, *entries))
    assert [row["image_ids"] for row in rows] == [entries[1]["images"]]
    assert report.counts == {"image file missing: image skipped": 1, "pair without both images: pair skipped": 1}


@pytest.mark.parametrize(("split", "name"), [("train", "ve_train"), ("val", "ve_dev"), ("test", "ve_test")])
def test_hypotheses_are_those_that_albef_reads(split, name, tmp_path):
    rows, _ = build(AlbefSnliVe, tmp_path, split, image_root=FLICKR, **{f"{split}_files": f"{name}.json"})
    items = read_expected(f"{name}.json")["items"]
    assert [(row["image_id"], list(row["image"].size)) for row in rows] == [
        (item["image"], item["size"]) for item in items
    ]
    assert [row["hypotheses"] for row in rows] == [
        [{"hypothesis_id": f"{name}.json#{number}", "hypothesis": item["sentence"], "label": item["label"]}]
        for number, item in enumerate(items)
    ]
    names = rows.features["hypotheses"].feature["label"].names
    assert [names[row["hypotheses"][0]["label"]] for row in rows] == [item["raw_label"] for item in items]


def test_hypotheses_of_an_image_are_one_row(tmp_path):
    entries = json.loads((ALBEF / "data" / "ve_train.json").read_text())
    entries.append({**entries[0], "sentence": "It is green.", "label": "contradiction"})
    rows, _ = build(AlbefSnliVe, tmp_path, image_root=FLICKR, train_files=write_list(tmp_path, *entries))
    assert [len(row["hypotheses"]) for row in rows] == [2, 1, 1]
    assert [entry["label"] for entry in rows[0]["hypotheses"]] == [2, 0]


def test_an_unknown_label_is_named(tmp_path):
    path = ALBEF / "bad" / "ve_unknown_label.json"
    message = "entry 0: `label` must be one of 'contradiction', 'neutral', 'entailment', got 'maybe'"
    with pytest.raises(ValueError, match=rf"ve_unknown_label\.json: {message}"):
        build(AlbefSnliVe, tmp_path, image_root=FLICKR, train_files=path)
