# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Lists whose image paths were written on another machine: prefixes are replaced, nothing leaves the folder."""

import json
from pathlib import Path

import pytest
from PIL import Image

from albef_amc.cli.main import main
from albef_amc.datasets_scripts import BUILDERS
from albef_amc.publishing.dataset_building import build_dataset

PUBLISHED = "/export/share/datasets/vision/coco/images"
# For each builder of lists: the option that names them, and an entry without its image.
LISTS = {
    "albef_json": ("annotation_files", {"caption": "a table"}),
    "amc_json": ("annotation_files", {"caption": "a table", "bbox": [[1, 1, 5, 5]]}),
    "albef_retrieval": ("train_files", {"caption": ["a table"]}),
    "albef_vqa": ("train_files", {"dataset": "vqa", "question": "what?", "question_id": 1, "answer": ["table"]}),
    "albef_nlvr2": ("train_files", {"sentence": "two tables", "label": "True"}),
    "albef_snli_ve": ("train_files", {"sentence": "a table", "label": "neutral"}),
}


def write_list(folder: Path, name: str, path: str) -> dict:
    """Options that read a list of one entry; the picture is `val2014/a.png` below the folder of the images."""
    (folder / "images" / "val2014").mkdir(parents=True)
    for suffix in ("png", "jpg"):
        Image.new("RGB", (8, 8)).save(folder / "images" / "val2014" / f"a.{suffix}")
    option, entry = LISTS[name]
    path = path.removesuffix(".png") if name == "albef_snli_ve" else path  # it lists names without their ending
    image = {"images": [path, path]} if name == "albef_nlvr2" else {"image": path}
    (folder / "list.json").write_text(json.dumps([{**image, **entry}]))
    cache = str(folder / "cache")
    return {"data_root": str(folder), "image_root": str(folder / "images"), option: "list.json", "cache_dir": cache}


def read_names(name: str, options: dict) -> list[str]:
    builder = BUILDERS[name](**options)
    builder.download_and_prepare()
    (row,) = builder.as_dataset(split="train")
    return row["image_ids"] if name == "albef_nlvr2" else [row["image_id"]]


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    ("path", "prefixes"),
    [
        (f"{PUBLISHED}/val2014/a.png", PUBLISHED),
        (f"{PUBLISHED}/val2014/a.png", f"{PUBLISHED}/"),
        (f"{PUBLISHED}/val2014/a.png", {PUBLISHED: "", "/export": "elsewhere"}),  # the longest one is taken
        ("/data/a.png", {"/data": "val2014"}),
        ("C:\\photos\\a.png", {"C:\\photos\\": "./val2014/"}),
        ("coco/a.png", {"coco": "val2014"}),
        ("val2014/a.png", {"val": "elsewhere"}),  # no whole name of a folder
    ],
)
def test_prefixes_are_replaced_by_every_builder_of_lists(name, path, prefixes, tmp_path):
    options = write_list(tmp_path, name, path)
    names = read_names(name, {**options, "path_prefixes": prefixes})
    assert {found.removeprefix("vqa/") for found in names} <= {"val2014/a.png", "val2014/a"}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("prefixes", [None, "/another", {"/export/share/datasets": "/etc"}, {PUBLISHED: ".."}])
def test_absolute_paths_name_the_option_and_nothing_leaves_the_folder(name, prefixes, tmp_path):
    options = write_list(tmp_path, name, f"{PUBLISHED}/val2014/a.png")
    message = "absolute path|leaves the image folder"
    if prefixes in (None, "/another"):
        message = "absolute path: entry skipped; the option `path_prefixes` replaces its prefix"
    with pytest.raises(ValueError, match=message) as caught:
        read_names(name, {**options, "path_prefixes": prefixes})
    assert "path_prefixes" in str(caught.value)


@pytest.mark.parametrize("path", ["/data/../../secret.png", "/data/x/../../../secret.png", "/data//etc/passwd"])
def test_a_path_does_not_leave_the_folder_after_its_prefix(path, tmp_path):
    options = write_list(tmp_path, "albef_json", path)
    with pytest.raises(ValueError, match="leaves the image folder|image file missing"):
        read_names("albef_json", {**options, "path_prefixes": "/data"})


@pytest.mark.parametrize("prefixes", ["", {"": "x"}])
def test_an_empty_prefix_is_refused(prefixes, tmp_path):
    options = write_list(tmp_path, "albef_json", "val2014/a.png")
    with pytest.raises(ValueError, match="`path_prefixes` has an empty prefix"):
        read_names("albef_json", {**options, "path_prefixes": prefixes})


def test_the_command_line_takes_prefixes_and_publishes_no_path_of_the_machine(tmp_path, capsys):
    options = write_list(tmp_path, "albef_json", f"{PUBLISHED}/val2014/a.png")
    words = [
        word for key in ("data_root", "image_root", "annotation_files") for word in ("--data", f"{key}={options[key]}")
    ]
    command = ["build-dataset", "albef_json", "-o", str(tmp_path / "built"), *words]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "No image of" in line and "the option `path_prefixes` replaces its prefix" in line and PUBLISHED in line
    assert main([*command, "--data", f"path_prefixes={{{PUBLISHED}: ''}}"]) == 0
    assert "/export" not in (tmp_path / "built" / "manifest.json").read_text()
    assert build_dataset("albef_json", tmp_path / "other", {**options, "path_prefixes": PUBLISHED})
