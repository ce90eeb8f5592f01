# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc build-dataset`: shards, checksums, resumption, counts, reasons and the card."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import yaml
from datasets.exceptions import NonMatchingSplitsSizesError
from PIL import Image
from testing_utils import FIXTURES_FOLDER, PATIENCE, PROJECT_FOLDER

from albef_amc.cli.main import main
from albef_amc.datasets_scripts import BUILDERS, RefCoco, SyntheticGrounding, load_grounding_dataset
from albef_amc.datasets_scripts.split_reader import SplitReader
from albef_amc.publishing.dataset_building import build_dataset
from albef_amc.publishing.dataset_cards import read_builder_card

SCENES = {"num_train_scenes": 40, "num_validation_scenes": 2, "num_test_scenes": 20}
AMC = {"data_root": str(FIXTURES_FOLDER / "amc_json"), "image_root": str(FIXTURES_FOLDER / "visual_genome")}
# What a shard of these scenes takes: several parts of 16 scenes each.
SMALL_SHARD = "40KB"


def hash_files(folder) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def load(folder, split, cache):
    return datasets.load_dataset(str(folder), split=split, cache_dir=str(cache))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "split", "options"),
    [
        ("amc_json", "train", AMC),
        ("refcoco", "testA", {"data_root": str(FIXTURES_FOLDER / "refer")}),
        ("visual_genome", "train", {"data_root": str(FIXTURES_FOLDER / "visual_genome")}),
        ("flickr30k_entities", "test", {"data_root": str(FIXTURES_FOLDER / "flickr30k_entities")}),
        ("synthetic", "test", SCENES),
    ],
)
@pytest.mark.parametrize("num_workers", [1, 2])
def test_rows_are_those_of_the_builder(name, split, options, num_workers, tmp_path):
    build_dataset(name, tmp_path / "built", options, num_workers=num_workers)
    rows = load(tmp_path / "built", split, tmp_path / "cache")
    expected = load_grounding_dataset(name, split, cache_dir=str(tmp_path / "cache"), **options)
    assert rows.features == expected.features
    assert rows.remove_columns("image").to_list() == expected.remove_columns("image").to_list()
    images, raw = (data.cast_column("image", datasets.Image(decode=False))["image"] for data in (rows, expected))
    assert [image["bytes"] for image in images] == [image["bytes"] for image in raw]
    assert not [image["path"] for image in images if os.path.dirname(image["path"] or "")]


def test_manifest_has_the_checksum_of_every_shard(tmp_path):
    build_dataset("synthetic", tmp_path, SCENES, shard_size=SMALL_SHARD)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    shards = {shard["name"]: shard for split in manifest["splits"].values() for shard in split["shards"]}
    found = {name: digest for name, digest in hash_files(tmp_path).items() if name.startswith("data/")}
    assert {name: shard["sha256"] for name, shard in shards.items()} == found
    assert len([name for name in shards if name.startswith("data/train-")]) > 1
    assert sum(shard["num_rows"] for shard in shards.values()) == sum(SCENES.values())
    assert all(shard["size"] == (tmp_path / name).stat().st_size for name, shard in shards.items())
    assert manifest["is_complete"] is True


@pytest.mark.slow
def test_processes_make_the_same_files(tmp_path):
    for num_workers in (1, 3):
        build_dataset(
            "synthetic", tmp_path / str(num_workers), SCENES, shard_size=SMALL_SHARD, num_workers=num_workers
        )
    assert hash_files(tmp_path / "1") == hash_files(tmp_path / "3")


@pytest.mark.slow
def test_a_stopped_build_continues_to_the_same_files(tmp_path, monkeypatch):
    options = dict(shard_size=SMALL_SHARD)
    build_dataset("synthetic", tmp_path / "whole", SCENES, **options)
    read, parts = SplitReader.read, []

    def read_three_parts(reader, start, stop):
        if len(parts) == 3:
            raise KeyboardInterrupt
        parts.append((reader.name, start))
        return read(reader, start, stop)

    monkeypatch.setattr(SplitReader, "read", read_three_parts)
    with pytest.raises(KeyboardInterrupt):
        build_dataset("synthetic", tmp_path / "stopped", SCENES, **options)
    left = hash_files(tmp_path / "stopped")
    assert any(name.startswith("data/train-") for name in left) and "README.md" not in left
    assert not any(name.endswith(".unfinished") for name in left)
    with pytest.raises(ValueError, match="--resume"):
        build_dataset("synthetic", tmp_path / "stopped", SCENES, **options)
    parts.clear()
    monkeypatch.setattr(
        SplitReader, "read", lambda reader, *part: parts.append((reader.name, part[0])) or read(reader, *part)
    )
    build_dataset("synthetic", tmp_path / "stopped", SCENES, resume=True, **options)
    assert ("train", 0) not in parts and parts[-1][0] == "test"
    assert hash_files(tmp_path / "stopped") == hash_files(tmp_path / "whole")


# A build that stops when it has two shards, says so, and goes no further until it is killed.
HELD_BUILD = """
import json, sys, time
from pathlib import Path
from albef_amc.publishing.dataset_building import build_dataset

folder, scenes = Path(sys.argv[1]), json.loads(sys.argv[2])

def hold(split, read, total):
    if list(folder.glob("data/train-0000[1-9].parquet")):
        print("reached", flush=True)
        time.sleep(600)

build_dataset("synthetic", folder, scenes, num_workers=2, shard_size="100KB", progress=hold)
"""


@pytest.mark.slow
def test_a_killed_build_leaves_no_process_and_continues(tmp_path):
    scenes = dict(SCENES, num_train_scenes=1000)
    command = [sys.executable, "-c", HELD_BUILD, str(tmp_path / "killed"), json.dumps(scenes)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    process = subprocess.Popen(command, **pipes, start_new_session=True)
    assert "reached\n" in iter(process.stdout.readline, "")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)  # ends when every process that has its output open has ended
    assert process.returncode == -signal.SIGKILL
    build_dataset("synthetic", tmp_path / "killed", scenes, shard_size="100KB", resume=True)
    build_dataset("synthetic", tmp_path / "whole", scenes, shard_size="100KB")
    assert hash_files(tmp_path / "killed") == hash_files(tmp_path / "whole")


@pytest.mark.slow
def test_a_damaged_shard_is_found_and_built_again(tmp_path):
    build_dataset("synthetic", tmp_path, SCENES, shard_size=SMALL_SHARD)
    whole = hash_files(tmp_path)
    damaged = tmp_path / "data" / "train-00001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    (tmp_path / "data" / ".train-00009.parquet.unfinished").write_bytes(b"half")
    (tmp_path / ".manifest.json.1234").write_bytes(b"")
    (tmp_path / "data" / "test-00000.parquet").unlink()
    build_dataset("synthetic", tmp_path, SCENES, shard_size=SMALL_SHARD, resume=True)
    assert hash_files(tmp_path) == whole


def test_a_card_edited_by_hand_stays(tmp_path):
    assert not build_dataset("synthetic", tmp_path, SCENES)["is_card_kept"]
    card = tmp_path / "README.md"
    assert not build_dataset("synthetic", tmp_path, SCENES, resume=True)["is_card_kept"]
    card.write_text(card.read_text() + "My words.\n")
    for _ in range(2):
        assert build_dataset("synthetic", tmp_path, SCENES, resume=True)["is_card_kept"]
        assert card.read_text().endswith("My words.\n")


def test_a_split_without_a_row_is_named_and_not_written(tmp_path, capsys):
    words = [word for name in SCENES for word in ("--data", f"{name}={2 * ('test' not in name)}")]
    assert main(["build-dataset", "synthetic", *words, "--output-dir", str(tmp_path / "built")]) == 0
    assert "test: no image can be used" in capsys.readouterr().err
    found = datasets.load_dataset(str(tmp_path / "built"), cache_dir=str(tmp_path / "cache"))
    assert set(found) == {"train", "validation"}
    assert "No image of split test can be used." in (tmp_path / "built" / "README.md").read_text()


def test_other_raw_files_are_another_build(tmp_path):
    shutil.copytree(FIXTURES_FOLDER / "amc_json", tmp_path / "raw")
    options = dict(AMC, data_root=str(tmp_path / "raw"))
    build_dataset("amc_json", tmp_path / "built", options)
    entries = json.loads((tmp_path / "raw" / "vg_attributes.json").read_text())
    (tmp_path / "raw" / "vg_attributes.json").write_text(json.dumps(entries[:-1]))
    with pytest.raises(ValueError, match="other raw files"):
        build_dataset("amc_json", tmp_path / "built", options, resume=True)


def test_what_was_skipped_is_reported_without_folders_of_the_machine(tmp_path, capsys):
    lists = [f"{AMC['data_root']}/vg_descriptions.json", "vg_attributes.json", "vg_attributes_spatial.json"]
    words = ["--data", f"data_root={AMC['data_root']}", "--data", f"image_root={AMC['image_root']}", "--json"]
    words += ["--data", f"annotation_files={json.dumps(lists)}"]
    assert main(["build-dataset", "amc_json", *words, "--output-dir", str(tmp_path / "built")]) == 0
    streams = capsys.readouterr()
    result = json.loads(streams.out)
    missing = result["left_out"]["train"]["image file missing: image skipped"]
    assert missing == {"count": 1, "first": "IMAGE_ROOT/VG_100K/713042.jpg"}
    absolute = "absolute path: entry skipped; the option `path_prefixes` replaces its prefix"
    assert result["left_out"]["annotations"][absolute]["count"] == 1
    assert "1 x image file missing: image skipped" in streams.err
    report = json.loads((tmp_path / "built" / "report.json").read_text())
    assert report["left_out"] == result["left_out"]
    statistics = report["statistics"]["train"]
    assert (statistics["num_images"], statistics["num_phrases_without_region"]) == (4, 4)
    for name in ("README.md", "manifest.json", "report.json"):
        text = (tmp_path / "built" / name).read_text()
        assert str(PROJECT_FOLDER) not in text and str(tmp_path) not in text
    assert (
        "| train | 1 | image file missing: image skipped | IMAGE_ROOT/VG_100K/713042.jpg |"
        in (tmp_path / "built" / "README.md").read_text()
    )


def test_published_counts_are_compared(tmp_path, capsys, monkeypatch):
    published = {"testA": {"refs": 2, "images": 10}, "all": {"phrases": 1}, "nowhere": {"images": 5}}
    monkeypatch.setattr(RefCoco, "get_published_counts", lambda builder: published)
    words = ["--data", f"data_root={FIXTURES_FOLDER / 'refer'}", "--output-dir", str(tmp_path / "built"), "--json"]
    assert main(["build-dataset", "refcoco", *words]) == 0
    streams = capsys.readouterr()
    counts = {
        (count["split"], count["what"]): count
        for count in json.loads((tmp_path / "built" / "report.json").read_text())["published_counts"]
    }
    rows = load(tmp_path / "built", "testA", tmp_path / "cache")
    refs = {phrase["phrase_id"].partition("#")[0] for row in rows for phrase in row["phrases"]}
    assert counts["testA", "refs"]["measured"] == len(refs)
    assert counts["testA", "refs"]["agrees"] == (len(refs) == 2)
    assert counts["testA", "images"] == dict(
        split="testA", what="images", published=10, measured=len(rows), agrees=False
    )
    assert counts["nowhere", "images"]["agrees"] is None
    assert json.loads(streams.out)["published_counts"]["not_compared"] == 1
    assert f"images of testA: {len(rows)}, published 10: DIFFERS" in streams.err
    assert f"| testA | images | 10 | {len(rows)} | differs |" in (tmp_path / "built" / "README.md").read_text()


def test_published_counts_of_refcoco_belong_to_the_data_set_and_its_splits(tmp_path):
    built = build_dataset(
        "refcoco", tmp_path, {"data_root": str(FIXTURES_FOLDER / "refer"), "dataset": "refcoco+"}, splits=["testB"]
    )
    found = {(count["split"], count["what"]): count["published"] for count in built["published_counts"]}
    assert found == {("testB", "refs"): 1798, ("testB", "images"): 750}


def test_only_the_chosen_splits_are_built(tmp_path, capsys):
    words = [word for name, value in SCENES.items() for word in ("--data", f"{name}={value}")]
    command = ["build-dataset", "synthetic", *words, "--output-dir", str(tmp_path / "built")]
    assert main([*command, "--split", "test", "--split", "validation"]) == 0
    assert {path.name for path in (tmp_path / "built" / "data").iterdir()} == {
        "test-00000.parquet",
        "validation-00000.parquet",
    }
    assert set(datasets.load_dataset(str(tmp_path / "built"), cache_dir=str(tmp_path / "cache"))) == {
        "test",
        "validation",
    }
    assert main(["build-dataset", "synthetic", *words, "--output-dir", str(tmp_path / "no"), "--split", "tset"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "tset" in message and "train, validation, test" in message


@pytest.mark.parametrize("name", BUILDERS)
def test_every_builder_has_a_card_that_the_hub_can_read(name):
    front_matter, text = read_builder_card(name)
    assert front_matter["license"] and front_matter["pretty_name"]
    assert front_matter["license"] != "other" or front_matter["license_name"]
    assert text.startswith("# ") and "## Traps" in text


def test_the_card_states_what_was_measured(tmp_path):
    built = build_dataset("synthetic", tmp_path, SCENES, repo_id="your-name/scenes")
    text = (tmp_path / "README.md").read_text()
    front_matter = yaml.safe_load(text.split("---\n")[1])
    assert front_matter["license"] == "apache-2.0" and front_matter["size_categories"] == ["n<1K"]
    assert [split["num_examples"] for split in front_matter["dataset_info"]["splits"]] == list(SCENES.values())
    test = built["statistics"]["test"]
    assert f"| test | 20 | {test['num_phrases']} | 0 | {test['num_boxes']} | {test['num_words']} |" in text
    for words in ('load_dataset("your-name/scenes", split="train")', "## Traps", '"image_id": "0-train-000000"'):
        assert words in text


def test_an_incomplete_copy_is_noticed_by_its_reader(tmp_path):
    build_dataset("synthetic", tmp_path / "built", SCENES, shard_size=SMALL_SHARD)
    (tmp_path / "built" / "data" / "train-00001.parquet").unlink()
    with pytest.raises(NonMatchingSplitsSizesError):
        load(tmp_path / "built", "train", tmp_path / "cache")


def prepare(kind, folder):
    """A folder that something is wrong with, and the rest of the command."""
    folder.mkdir()
    if kind == "file":
        (folder / "out").write_text("a file")
    elif kind == "filled":
        (folder / "out").mkdir()
        (folder / "out" / "photo.jpg").write_text("mine")
    elif kind == "damaged manifest":
        (folder / "out").mkdir()
        (folder / "out" / "manifest.json").write_text('{"splits": ')
    elif kind == "no image":
        (folder / "annotations.json").write_text(
            json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": []})
        )
        (folder / "phrases.json").write_text(json.dumps([{"id": 1, "image_id": 1, "phrase": "a", "bbox": []}]))
        (folder / "images").mkdir()


def test_earlier_names_of_options_are_accepted_with_the_present_ones(tmp_path, capsys):
    folder = tmp_path / "of: [mine]"  # YAML would read this otherwise
    prepare("no image", folder)
    Image.new("RGB", (8, 8)).save(folder / "images" / "a.jpg")
    words = ["build-dataset", "coco_phrases", "--json", "--output-dir"]
    data = ["--data", f"data_root='{folder}'", "--data", "images_folder=images"]
    assert main([*words, str(tmp_path / "new"), *data]) == 0
    new = capsys.readouterr()
    words.append(str(tmp_path / "old"))
    assert main([*words, f"--raw-dir={folder}", "--option", "images_folder=images"]) == 0
    old = capsys.readouterr()
    assert old.out.replace("/old", "/new") == new.out and "is accepted" not in new.err
    assert [line for line in old.err.splitlines() if "is accepted" in line] == [
        "`--raw-dir` is accepted, but its name is `--data data_root=FOLDER` now.",
        "`--option` is accepted, but its name is `--data` now.",
    ]


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        ("", ["no_such_builder"], "coco_phrases"),
        ("", ["synthetic", "--data", "seed"], "--data seed"),
        ("", ["synthetic", "--data", "no_argument=1"], "no_argument"),
        ("", ["synthetic", "--data", "data_root=RAW"], "data_root"),
        ("", ["synthetic", "--shard-size", "much"], "much"),
        ("", ["synthetic", "--num-workers", "0"], "--num-workers"),
        ("", ["synthetic", "--private"], "--push-to-hub"),
        ("", ["coco_phrases"], "data_root"),
        ("", ["coco_phrases", "--data", "data_root=RAW"], "No image folder"),
        ("", ["coco_phrases", "--data", "data_root=RAW", "--raw-dir", "RAW"], "given more than once"),
        ("file", ["synthetic"], "is a file"),
        ("filled", ["synthetic"], "not empty"),
        ("filled", ["synthetic", "--resume"], "not empty"),
        ("damaged manifest", ["synthetic", "--resume"], "damaged"),
        ("no image", ["coco_phrases", "--data", "data_root=RAW"], "a.jpg"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(kind, words, message, tmp_path, capsys):
    folder = tmp_path / "raw"
    prepare(kind, folder)
    before = hash_files(folder)
    words = [word.replace("RAW", str(folder)) for word in words]
    assert main(["build-dataset", *words, "--output-dir", str(folder / "out")]) == 2
    streams = capsys.readouterr()
    assert message in streams.err.splitlines()[-1]
    assert "Traceback" not in streams.err and streams.out == ""
    left = {name: digest for name, digest in hash_files(folder).items() if name != "out/manifest.json"}
    assert left == {name: digest for name, digest in before.items() if name != "out/manifest.json"}


def test_an_error_in_a_process_that_reads_is_one_line(tmp_path, capsys, monkeypatch):
    def fail(config, split, sources):
        raise ValueError("image 3 is ambiguous")
        yield

    monkeypatch.setattr(SyntheticGrounding, "_generate_examples", fail)
    words = ["build-dataset", "synthetic", "--output-dir", str(tmp_path / "built"), "--num-workers", "2"]
    assert main(words) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "albef-amc: error: image 3 is ambiguous"


@pytest.mark.slow
@pytest.mark.data
def test_every_phrase_of_the_photographs_arrives(data_folder, tmp_path, capsys):
    words = ["--data", f"data_root={data_folder / 'coco_cc_mini'}", "--output-dir", str(tmp_path / "built"), "--json"]
    assert main(["build-dataset", "coco_phrases", *words, "--num-workers", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["all"]["num_phrases"] == 413
    with Image.open(data_folder / "coco_cc_mini" / "images" / "000000005001.jpg") as picture:
        expected = picture.convert("RGB").tobytes()
    (row,) = load(tmp_path / "built", "train", tmp_path / "cache").filter(lambda row: row["image_id"] == "5001")
    assert row["image"].convert("RGB").tobytes() == expected


@pytest.mark.parametrize("form", ["secret/raw", "./secret/raw/", "../{name}/secret/raw", "{folder}/secret/raw"])
def test_the_places_of_raw_files_are_in_no_file_of_a_build(form, tmp_path, monkeypatch):
    shutil.copytree(FIXTURES_FOLDER / "amc_json", tmp_path / "secret" / "raw")
    shutil.copytree(FIXTURES_FOLDER / "visual_genome", tmp_path / "secret" / "images")
    (tmp_path / "secret" / "lists").mkdir()
    shutil.copyfile(FIXTURES_FOLDER / "amc_json" / "vg_attributes.json", tmp_path / "secret" / "lists" / "other.json")
    monkeypatch.chdir(tmp_path)
    root = form.format(name=tmp_path.name, folder=tmp_path)
    lists = ["vg_descriptions.json", "../lists/other.json"]
    options = {"data_root": root, "image_root": "secret/images", "annotation_files": lists}
    build_dataset("amc_json", "built", options)
    texts = [path.read_text() for path in Path("built").rglob("*") if path.suffix in (".md", ".json")]
    assert len(texts) >= 2 and not any("secret" in text or tmp_path.name in text for text in texts)
    assert any("other.json" in text for text in texts)
