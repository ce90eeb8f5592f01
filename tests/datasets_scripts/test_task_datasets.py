# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What holds for the builders of every task: schema, splits, Parquet and card, loading by name, bad input."""

import json
import os
import shutil

import datasets
import pytest
from hub_server import OWNER
from PIL import Image
from testing_utils import FIXTURES_FOLDER, run_without_package

from albef_amc.cli.main import main
from albef_amc.datasets_scripts import BUILDERS, load_grounding_dataset, load_task_dataset
from albef_amc.datasets_scripts.statistics import describe_dataset
from albef_amc.datasets_scripts.task_features import TASK_SCHEMAS, find_task_schema
from albef_amc.publishing.dataset_building import build_dataset

ALBEF, VQA = FIXTURES_FOLDER / "albef_json", FIXTURES_FOLDER / "vqa"
LISTS, IMAGES = str(ALBEF / "data"), ALBEF / "images"
# Builder to its options, the splits they make, and texts per split.
TASKS = {
    "albef_retrieval": (
        {
            "data_root": LISTS,
            "image_root": str(IMAGES / "coco"),
            "train_files": "coco_train.json",
            "val_files": "coco_val.json",
            "test_files": "coco_test.json",
        },
        {"train": 3, "val": 16, "test": 16},
    ),
    "albef_vqa": (
        {
            "data_root": LISTS,
            "image_root": str(IMAGES / "coco"),
            "vg_root": str(IMAGES / "visual-genome"),
            "train_files": ["vqa_train.json", "vqa_val.json", "vg_qa.json"],
            "test_files": "vqa_test.json",
        },
        {"train": 5, "test": 1},
    ),
    "albef_nlvr2": (
        {
            "data_root": LISTS,
            "image_root": str(IMAGES / "nlvr2"),
            "train_files": "nlvr_train.json",
            "val_files": "nlvr_dev.json",
            "test_files": "nlvr_test.json",
        },
        {"train": 2, "val": 1, "test": 2},
    ),
    "albef_snli_ve": (
        {
            "data_root": LISTS,
            "image_root": str(IMAGES / "flickr30k" / "flickr30k-images"),
            "train_files": "ve_train.json",
            "val_files": "ve_dev.json",
            "test_files": "ve_test.json",
        },
        {"train": 3, "val": 3, "test": 3},
    ),
    "vqa_v2": ({"data_root": str(VQA / "v2"), "image_root": str(VQA / "images")}, {"train": 23, "val": 3}),
}
# What the lists of a builder call their texts.
LISTED = {
    "albef_retrieval": "caption",
    "albef_vqa": "question",
    "albef_nlvr2": "sentence",
    "albef_snli_ve": "sentence",
}


def hide_bytes(rows: datasets.Dataset) -> list[dict]:
    """Rows without their pictures."""
    return rows.remove_columns([name for name in ("image", "images") if name in rows.column_names]).to_list()


def read_bytes(rows: datasets.Dataset) -> list[dict]:
    """The pictures of all rows as they are stored."""
    if "image" in rows.column_names:
        return rows.cast_column("image", datasets.Image(decode=False))["image"]
    pairs = rows.cast_column("images", datasets.List(datasets.Image(decode=False)))["images"]
    return [picture for pair in pairs for picture in pair]


@pytest.mark.parametrize("name", TASKS)
def test_parquet_and_card_hold_the_rows_of_the_builder(name, tmp_path):
    options, counts = TASKS[name]
    built = build_dataset(name, tmp_path / "built", options, num_workers=1)
    cache = str(tmp_path / "cache")
    schema = find_task_schema(BUILDERS[name].FEATURES)
    for split, num_texts in counts.items():
        rows = datasets.load_dataset(str(tmp_path / "built"), split=split, cache_dir=cache)
        expected = load_task_dataset(name, split, cache_dir=cache, **options)
        assert rows.features == expected.features == schema.features
        assert hide_bytes(rows) == hide_bytes(expected)
        pictures = read_bytes(rows)
        assert [picture["bytes"] for picture in pictures] == [picture["bytes"] for picture in read_bytes(expected)]
        assert not [picture["path"] for picture in pictures if os.path.dirname(picture["path"] or "")]
        assert describe_dataset(rows)[f"num_{schema.texts}"] == num_texts
        assert built["statistics"][split] == describe_dataset(rows)
    text = (tmp_path / "built" / "README.md").read_text()
    assert f"| {schema.texts} |" in text and schema.about in text and "## Traps" in text
    assert str(FIXTURES_FOLDER) not in text


@pytest.mark.parametrize("name", TASKS)
def test_rows_stream_from_the_folder_that_was_built(name, tmp_path):
    options, counts = TASKS[name]
    build_dataset(name, tmp_path / "built", options)
    stream = load_task_dataset(tmp_path / "built", "train", streaming=True)
    schema = find_task_schema(stream.column_names)
    assert sum(len(row[schema.texts]) for row in stream) == counts["train"]


@pytest.mark.parametrize("name", TASKS)
def test_grounding_refuses_rows_of_another_task(name, tmp_path):
    options, _ = TASKS[name]
    word = find_task_schema(BUILDERS[name].FEATURES).texts
    with pytest.raises(ValueError, match=rf"{name} has no column phrases: its rows hold {word}\. .*load_task_dataset"):
        load_grounding_dataset(name, "train", cache_dir=str(tmp_path), **options)
    assert not list(tmp_path.rglob("*.arrow"))


def test_columns_of_no_task_are_refused(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    datasets.Dataset.from_dict({"image_id": ["1"]}).to_parquet(folder / "train.parquet")
    with pytest.raises(ValueError, match="no task .*phrases, captions, questions, sentences, hypotheses"):
        load_task_dataset(folder, "train", cache_dir=str(tmp_path / "cache"))


def test_schemas_are_told_apart_by_their_columns():
    for schema in TASK_SCHEMAS:
        assert find_task_schema([*schema.features, "score"]) is schema
        assert find_task_schema(set(schema.features) - {schema.texts}) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_the_command_draws_and_counts(name, tmp_path, capsys):
    options, counts = TASKS[name]
    words = [word for option, value in options.items() for word in ("--data", f"{option}={json.dumps(value)}")]
    sheet = tmp_path / "sheet.png"
    words += ["--data", f"cache_dir={tmp_path / 'cache'}", "--split", "train", "--output", str(sheet), "--json"]
    assert main(["inspect-dataset", name, *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found[f"num_{find_task_schema(BUILDERS[name].FEATURES).texts}"] == counts["train"]
    with Image.open(sheet) as picture:
        assert picture.width > 600  # a column of words and one of pictures at least


LOAD = """
    import json, sys
    from datasets import load_dataset

    def describe(rows):
        name = rows.features["sentences"].feature["label"].int2str
        return [
            [row["image_ids"], [image.size for image in row["images"]], entry["sentence"], name(entry["label"])]
            for row in rows
            for entry in row["sentences"]
        ]

    (repository,) = sys.argv[1:]
    loaded = {split: describe(rows) for split, rows in load_dataset(repository).items()}
    assert {split: describe(rows) for split, rows in load_dataset(repository, streaming=True).items()} == loaded
    print(json.dumps(loaded))
"""


@pytest.mark.slow
def test_pairs_are_loaded_from_the_hub_without_this_package(hub, tmp_path, capsys):
    options = TASKS["albef_nlvr2"][0]
    words = [word for option, value in options.items() for word in ("--data", f"{option}={value}")]
    repository = f"{OWNER}/pairs"
    words += ["--output-dir", str(tmp_path / "built"), "--push-to-hub", repository]
    assert main(["build-dataset", "albef_nlvr2", *words]) == 0
    environment = hub.environment(tmp_path / "home")
    printed = run_without_package(LOAD, repository, cwd=tmp_path, environment=environment)
    expected = json.loads((ALBEF / "expected.json").read_text())["lists"]
    assert json.loads(printed.splitlines()[-1]) == {
        split: [
            [item["images"], item["sizes"], item["sentence"], item["raw_label"]]
            for item in expected[f"nlvr_{name}.json"]["items"]
        ]
        for split, name in (("train", "train"), ("val", "dev"), ("test", "test"))
    }


def copy_lists(name: str, folder) -> dict:
    """Options that read copies of the lists."""
    shutil.copytree(ALBEF / "data", folder / "lists")
    return {**TASKS[name][0], "data_root": str(folder / "lists"), "cache_dir": str(folder / "cache")}


def change_list(options: dict, split: str, change) -> None:
    """Applies a change to the first entry of the first list of a split."""
    files = options[f"{split}_files"]
    path = os.path.join(options["data_root"], files if isinstance(files, str) else files[0])
    with open(path, encoding="utf-8") as file:
        entries = json.load(file)
    change(entries[0])
    with open(path, "w", encoding="utf-8") as file:
        json.dump(entries, file)


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("../outside.jpg", "path leaves the image folder: entry skipped"),
        ("a/../../outside.jpg", "path leaves the image folder: entry skipped"),
        ("/etc/outside.jpg", "absolute path: entry skipped; the option `path_prefixes` replaces its prefix"),
        ("C:\\outside.jpg", "absolute path: entry skipped; the option `path_prefixes` replaces its prefix"),
        ("val2014\\a.jpg", "path with backslashes, where `/` is expected between folders: entry skipped"),
    ],
)
def test_a_path_that_leaves_the_folder_is_skipped(name, path, problem, tmp_path):
    options = copy_lists(name, tmp_path)
    key = "images" if name == "albef_nlvr2" else "image"
    change_list(
        options, "train", lambda entry: entry.update({key: [path, entry[key][1]] if key == "images" else path})
    )
    builder = BUILDERS[name](**options)
    builder.download_and_prepare()
    (reason,) = [reason for reason in builder.report.counts if "entry skipped" in reason]
    assert reason == problem and builder.report.counts[reason] == 1
    assert builder.report.first_places[reason].endswith(f"#0 ({path})")
    schema = find_task_schema(builder.info.features)
    assert describe_dataset(builder.as_dataset(split="train"))[f"num_{schema.texts}"] == TASKS[name][1]["train"] - 1


@pytest.mark.parametrize("name", LISTED)
def test_a_missing_or_damaged_picture_is_skipped_and_counted(name, tmp_path):
    options = copy_lists(name, tmp_path)
    images = tmp_path / "images"
    shutil.copytree(options["image_root"], images)
    pictures = sorted(path for path in images.rglob("*") if path.is_file())
    pictures[0].unlink()
    pictures[1].write_bytes(pictures[1].read_bytes()[:100])
    builder = BUILDERS[name](**{**options, "image_root": str(images)})
    builder.download_and_prepare()
    assert builder.report.counts["image file missing: image skipped"] >= 1
    assert builder.report.counts["image file damaged or not an image: image skipped"] >= 1
    whole = BUILDERS[name](**options)
    whole.download_and_prepare()
    num_rows = [sum(split.num_examples for split in made.info.splits.values()) for made in (builder, whole)]
    assert num_rows[0] < num_rows[1]


@pytest.mark.parametrize("name", LISTED)
def test_text_without_words_is_skipped_and_counted(name, tmp_path):
    options = copy_lists(name, tmp_path)
    key = LISTED[name]
    change_list(options, "train", lambda entry: entry.update({key: " \n"}))
    builder = BUILDERS[name](**options)
    builder.download_and_prepare()
    assert builder.report.counts[f"{key} without words or with broken characters: {key} skipped"] == 1


NO_TEXT = {
    "albef_retrieval": "caption",
    "albef_vqa": "question",
    "albef_nlvr2": "sentence",
    "albef_snli_ve": "sentence",
}


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("value", [None, 7, {"text": "a dog"}])
def test_text_of_another_type_is_refused_with_its_place(name, value, tmp_path):
    options, key = copy_lists(name, tmp_path), LISTED[name]
    change_list(options, "train", lambda entry: entry.update({key: value}))
    with pytest.raises(ValueError, match=rf"_train\.json: entry 0.*`{key}`"):
        BUILDERS[name](**options).download_and_prepare()


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("not_a_list.json", "a list of entries is expected"),
        ("truncated.json", "cannot be read at entry 0.*fetch it again"),
        ("no_caption.json", "entry 0 has no `"),
    ],
)
def test_lists_of_another_form_are_refused(name, bad, message, tmp_path):
    options = {**TASKS[name][0], "train_files": str(ALBEF / "bad" / bad), "cache_dir": str(tmp_path)}
    with pytest.raises(ValueError, match=rf"{bad}.*{message}"):
        BUILDERS[name](**options).download_and_prepare()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"train_files": (), "val_files": (), "test_files": ()}, ValueError, "No list is named: pass `train_files`"),
        ({"train_files": 3}, TypeError, "`train_files` must be a list of texts or text, got 3"),
        ({"train_files": [""]}, ValueError, "`train_files` must name one or more"),
        ({"train_files": ["ve_train.json", "ve_train.json"]}, ValueError, "`train_files` has two files of one name"),
        ({"val_files": "absent.json"}, FileNotFoundError, "No `absent.json`"),
        ({"image_root": "absent"}, FileNotFoundError, "No image folder absent"),
    ],
)
def test_options_are_checked_before_anything_is_read(changes, error, message):
    with pytest.raises(error, match=message):
        BUILDERS["albef_snli_ve"](**{**TASKS["albef_snli_ve"][0], **changes})


def test_paths_are_stored_instead_of_bytes_on_request(tmp_path):
    options = {**TASKS["albef_vqa"][0], "embed_images": False, "cache_dir": str(tmp_path)}
    rows = load_task_dataset("albef_vqa", "train", **options)
    for picture in read_bytes(rows):
        assert picture["bytes"] is None and os.path.isfile(picture["path"])


def test_a_changed_picture_of_any_folder_is_read_again(tmp_path):
    options = copy_lists("albef_vqa", tmp_path)
    shutil.copytree(options["vg_root"], tmp_path / "vg")
    options["vg_root"] = str(tmp_path / "vg")
    before = BUILDERS["albef_vqa"](**options).config_id
    Image.new("RGB", (40, 30)).save(tmp_path / "vg" / "image" / "713113.jpg")
    assert BUILDERS["albef_vqa"](**options).config_id != before


def test_a_bad_list_is_one_line_of_the_command(tmp_path, capsys):
    words = ["--data", f"data_root={ALBEF / 'bad'}", "--data", "train_files=ve_unknown_label.json"]
    words += ["--data", f"image_root={IMAGES / 'flickr30k' / 'flickr30k-images'}"]
    assert main(["build-dataset", "albef_snli_ve", *words, "--output-dir", str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "entry 0: `label` must be one of 'contradiction', 'neutral', 'entailment', got 'maybe'" in line
