# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Options of data sets: what a data set does not have is refused, with the nearest name, before anything is read."""

import datasets
import pytest
from PIL import Image
from testing_utils import FIXTURES_FOLDER

from albef_amc.cli.main import main
from albef_amc.datasets_scripts import (
    BUILDERS,
    SyntheticGroundingConfig,
    check_builder_options,
    check_builder_split,
    load_grounding_dataset,
    load_task_dataset,
)
from albef_amc.datasets_scripts.option_types import list_option_types
from albef_amc.publishing.dataset_building import build_dataset
from albef_amc.trainer.data.mixtures import load_training_data


@pytest.mark.parametrize("name", BUILDERS)
def test_a_mistyped_option_of_any_builder_is_named_with_the_nearest_one(name):
    options = list_option_types(BUILDERS[name].BUILDER_CONFIG_CLASS)
    for option in options:
        with pytest.raises(ValueError, match=rf"`{name}` has no option `{option}x`. Did you mean `{option}`\?"):
            check_builder_options(name, {f"{option}x": 1})
    with pytest.raises(ValueError, match=rf"`{name}` has no option `qqq`. Options: {next(iter(options))}"):
        check_builder_options(name, {"qqq": 1})


@pytest.mark.parametrize("name", BUILDERS)
def test_a_value_of_another_type_is_refused_for_every_option_of_any_builder(name):
    for option in list_option_types(BUILDERS[name].BUILDER_CONFIG_CLASS):
        with pytest.raises(TypeError, match=f"`{option}` must be .*, got 1.5j "):
            check_builder_options(name, {option: 1.5j})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("jsonl", {"embed_images": "false"}, "`embed_images` must be true or false, got 'false'"),
        ("jsonl", {"embed_images": 0}, "`embed_images` must be true or false, got 0"),
        ("jsonl", {"data_root": None}, "`data_root` must be text, got None"),
        ("synthetic", {"seed": True}, "`seed` must be a whole number, got True"),
        ("synthetic", {"num_test_scenes": 2.5}, "`num_test_scenes` must be a whole number, got 2.5"),
        ("synthetic", {"phrase_types": "size"}, "`phrase_types` must be a list of texts, got 'size'"),
        ("coco", {"splits": [2017]}, "`splits` must be a list of texts or text"),
        ("kilogram", {"hold_out_validation": "yes"}, "`hold_out_validation` must be true or false"),
    ],
)
def test_values_that_look_right_to_python_are_refused(name, options, message):
    with pytest.raises(TypeError, match=message):
        check_builder_options(name, options)
    with pytest.raises(TypeError, match=message):  # also of a configuration that is made by hand
        BUILDERS[name].BUILDER_CONFIG_CLASS(**options)


@pytest.mark.parametrize("name", ["refcoco", "visual_genome", "coco", "flickr30k_entities"])
def test_an_unknown_configuration_is_named_with_the_nearest_one(name):
    valid = next(iter(BUILDERS[name].CONFIGURATIONS))
    check_builder_options(name, {"config_name": valid})
    with pytest.raises(ValueError, match=rf"`config_name` '{valid}s' is not .*`{name}`. Did you mean `{valid}`\?"):
        check_builder_options(name, {"config_name": f"{valid}s"})
    with pytest.raises(ValueError, match="It has none: drop the option"):
        check_builder_options("synthetic", {"config_name": "big"})


MISTYPED = [
    ("amc_json", "tran", {"data_root": FIXTURES_FOLDER / "amc_json", "image_root": FIXTURES_FOLDER / "visual_genome"}),
    ("phrasecut", "tset", {"data_root": FIXTURES_FOLDER / "phrasecut" / "VGPhraseCut_v0"}),
    ("flickr30k_entities", "tst", {"data_root": FIXTURES_FOLDER / "flickr30k_entities"}),
    ("synthetic", "trainn[:3]", {}),
    ("synthetic", "test+trainn", {}),
    ("visual_genome", "tarin", {"data_root": FIXTURES_FOLDER / "visual_genome"}),
]


@pytest.mark.parametrize(("name", "split", "options"), MISTYPED)
def test_a_split_that_a_builder_does_not_have_is_found_before_it_reads(name, split, options, monkeypatch):
    def read(*_):
        raise AssertionError("annotations are read")

    monkeypatch.setattr(BUILDERS[name], "_split_generators", read)
    message = rf"`{name}` has no split '.*' here; it has .*, all. Did you mean `(train|test)`\?"
    with pytest.raises(ValueError, match=message):
        check_builder_split(name, split, options)
    with pytest.raises(ValueError, match=message):
        load_grounding_dataset(name, split, **options)
    with pytest.raises(ValueError, match=r"`--split`: .* has no split .* Did you mean"):
        build_dataset(name, "never-written", options, splits=[split.partition("[")[0].rpartition("+")[2]])


@pytest.mark.parametrize("split", ["train[:3", "train[3]", "test+", "train[a:b]"])
def test_a_split_that_nobody_can_read_is_refused(split):
    with pytest.raises(ValueError, match="Unrecognized instruction format|no split ''"):
        check_builder_split("synthetic", split, {})
    with pytest.raises(TypeError, match="`split` must be a text"):
        check_builder_split("synthetic", None, {})


def test_a_split_that_a_folder_of_pictures_does_not_have_is_named(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    with pytest.raises(ValueError, match=r"has no split 'trian' here; it has train, all. Did you mean `train`"):
        check_builder_split(str(tmp_path), "trian", {})


@pytest.mark.parametrize("verb", [["evaluate", "no_checkpoint"], ["inspect-dataset"]])
def test_a_data_set_without_a_name_is_refused(verb, capsys):
    assert main([*verb, ""]) == 2
    assert "No data set ''" in capsys.readouterr().err.splitlines()[-1]


def test_a_split_that_a_folder_does_not_have_is_found_before_it_is_converted(tmp_path, monkeypatch):
    sizes = {"num_train_scenes": 2, "num_validation_scenes": 0, "num_test_scenes": 2}
    build_dataset("synthetic", tmp_path / "built", sizes)
    cache = str(tmp_path / "cache")
    with pytest.raises(ValueError, match=r"has no split 'trian' here; it has train, test, all. Did you mean `train`"):
        load_grounding_dataset(tmp_path / "built", "trian", cache_dir=cache, keep_in_memory=True)
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    assert len(load_grounding_dataset(tmp_path / "built", "all", cache_dir=cache, keep_in_memory=True)) == 4


def test_a_mistyped_option_of_a_folder_is_named_with_the_nearest_one(tmp_path):
    with pytest.raises(ValueError, match=r"has no option `cache_dri`. Did you mean `cache_dir`\?"):
        check_builder_options("your-name/scenes", {"cache_dri": str(tmp_path)})
    check_builder_options("your-name/scenes", {"columns": ["image"], "revision": "main", "config_name": "default"})


@pytest.mark.parametrize("load", [load_grounding_dataset, load_task_dataset])
def test_a_mistyped_data_set_is_named_with_the_nearest_builder(load):
    with pytest.raises(FileNotFoundError, match=r"Did you mean `jsonl`\?"):
        load("json_l", "train")
    with pytest.raises(ValueError, match=r"No builder 'refcocoo'. .* Did you mean `refcoco`\?"):
        build_dataset("refcocoo", "never-written", {})


def test_every_way_to_data_checks_its_options(tmp_path):
    wrong = {"name": "synthetic", "split": "train", "num_train_scene": 3}
    for sections in (wrong, [{**wrong, "weight": 2}]):
        with pytest.raises(ValueError, match="Did you mean `num_train_scenes`"):
            load_training_data(sections)
    with pytest.raises(ValueError, match="Did you mean `num_train_scenes`"):
        build_dataset("synthetic", tmp_path / "built", {"num_train_scene": 3})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", [["build-dataset", "jsonl", "-o", "never-written"], ["inspect-dataset", "jsonl"]])
def test_the_command_line_says_it_in_one_line(verb, capsys):
    assert main([*verb, "--data", "box_fromat=xywh"]) == 2
    error = capsys.readouterr().err.strip()
    assert error == "albef-amc: error: `jsonl` has no option `box_fromat`. Did you mean `box_format`?"


@pytest.mark.parametrize("command", ["build-dataset synthetic -o never-written", "inspect-dataset synthetic"])
def test_an_option_that_is_given_twice_is_refused(command, capsys):
    assert main([*command.split(), "--data", "seed=1", "--data", "seed=2"]) == 2
    assert "`--data seed=...` is given more than once" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["-5MB", "0", "0MB", "5", "nanMB", "5.5MB", "many"])
def test_a_shard_size_that_is_none_is_refused(size, tmp_path):
    with pytest.raises(ValueError, match="`--shard-size` must be a whole number with a unit, such as 500MB"):
        build_dataset("synthetic", tmp_path / "built", SMALL, shard_size=size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train_scenes": -1}, "`num_train_scenes` must be a whole number in .0, 10000000., got -1"),
        ({"num_test_scenes": 10**10}, "`num_test_scenes` must be a whole number in .0, 10000000., got 10000000000"),
        ({"num_test_scenes": 10**400}, "got a number of 1329 bits"),
        ({"image_side": 10**6}, "`image_side` must be 4096 pixels or fewer, got 1000000"),
    ],
)
def test_sizes_of_scenes_have_bounds(options, message):
    with pytest.raises(ValueError, match=message):
        SyntheticGroundingConfig(**options)


def test_what_is_right_is_accepted(tmp_path):
    check_builder_options("jsonl", {"data_root": tmp_path, "image_root": None, "cache_dir": str(tmp_path)})
    check_builder_options("synthetic", {"phrase_types": ["size"], "full_description_share": 1})
    check_builder_options("refcoco", {"data_root": "x", "config_name": "refcoco_unc"})
    assert isinstance(load_grounding_dataset("synthetic", "test", cache_dir=str(tmp_path), **SMALL), datasets.Dataset)


SMALL = {"num_train_scenes": 1, "num_validation_scenes": 1, "num_test_scenes": 1}
