"""What a run knows about itself: time over resumptions, resolved settings, the command of its numbers."""

import dataclasses
import json
import time
from pathlib import Path

import pytest
from testing_utils import build_tiny_arguments, build_tiny_trainer

from albef_amc.model_cards import ModelCard, read_model_card, render_model_card
from albef_amc.model_cards.front_matter import hide_folder
from albef_amc.trainer.amc_config import AmcConfig
from albef_amc.trainer.reliability.run_checkpoints import MANIFEST_FILE
from albef_amc.trainer.run_facts import (
    CARD_ARGUMENTS,
    TrainingClock,
    build_evaluation_command,
    describe_recipe,
    hide_dataset,
    list_card_arguments,
)
from albef_amc.trainer.training_recipes import load_recipe

STORED_SECONDS = 5000.0


@pytest.mark.slow
def test_the_clock_runs_in_training_alone_and_continues_after_a_resumption(
    tiny_pretraining_model, tmp_path, monkeypatch
):
    clock, late = time.perf_counter, [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + late[0])

    def run(resume=None):
        options = dict(save_strategy="steps", save_steps=1, restore_callback_states_from_checkpoint=resume is not None)
        trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, **options)
        began = time.perf_counter()
        trainer.train(resume_from_checkpoint=resume)
        most = time.perf_counter() - began
        late[0] += 1000.0  # between training and the model's card
        trainer.save_model()
        return read_model_card(tmp_path).training_seconds, most

    seconds, most = run()
    assert 0 < seconds < most
    checkpoint = tmp_path / "checkpoint-1"
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    assert 0 < state["stateful_callbacks"]["TrainingClock"]["attributes"]["seconds_before"] <= seconds
    state["stateful_callbacks"]["TrainingClock"]["attributes"]["seconds_before"] = STORED_SECONDS
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    (checkpoint / MANIFEST_FILE).unlink()  # it would show that the state was changed
    seconds, most = run(resume=str(checkpoint))
    assert STORED_SECONDS < seconds < STORED_SECONDS + most


def test_a_checkpoint_of_a_run_without_a_clock_starts_it_at_zero(tiny_pretraining_model, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "perf_counter", lambda: 1e6)
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path)
    trainer.state.global_step, trainer.state.stateful_callbacks = 7, {}
    clock = TrainingClock()
    clock.on_train_begin(trainer.args, trainer.state, trainer.control)
    assert clock.seconds == 0
    assert "TrainingClock" in trainer.state.stateful_callbacks


def test_every_setting_of_our_own_is_on_the_card_and_no_secret_or_folder(tmp_path):
    arguments = build_tiny_arguments(tmp_path, hub_token="hf_secret", mean_margin=0.25)
    values = list_card_arguments(arguments)
    assert {"amc_weight", "mean_margin", "learning_rate", "seed"} <= values.keys() == set(CARD_ARGUMENTS)
    assert values["mean_margin"] == 0.25
    assert {name for name in AmcConfig.__dataclass_fields__ if name.endswith("_margin")} <= values.keys()
    assert "hf_secret" not in str(values) and str(tmp_path) not in str(values)


def test_the_command_hides_the_folders_of_one_machine():
    options = {"data_root": "photos", "cache_dir": "cache", "phrases": "/data/my.json"}
    command = build_evaluation_command("coco_phrases", "test[:10]", options, image_size=384)
    expected = "albef-amc evaluate CHECKPOINT coco_phrases --split 'test[:10]' --data data_root=DATA_ROOT "
    assert command == expected + "--data phrases=PHRASES --image-size 384"


@pytest.mark.parametrize("overrides", [[], ["card.evaluation_split=mine", "card.description=Mine."]])
def test_a_recipe_says_data_and_command_and_its_own_words_go_first(overrides):
    details = describe_recipe(load_recipe("demo", overrides))
    assert details["datasets"] == ["synthetic"]
    assert details["evaluation_command"].startswith(
        "albef-amc evaluate CHECKPOINT synthetic --split 'validation[:100]'"
    )
    assert details["evaluation_split"] == ("mine" if overrides else "validation[:100]")
    assert details.get("description") == ("Mine." if overrides else None)


def test_a_recipe_without_evaluation_names_no_command():
    recipe = dataclasses.replace(load_recipe("demo", ["model.checkpoint=your-name/start"]), evaluation_data=None)
    assert describe_recipe(recipe) == {"datasets": ["synthetic"], "base_model": "your-name/start"}


def test_a_mistyped_field_of_the_card_is_found_before_the_run():
    with pytest.raises(ValueError, match="card: unknown key `co2_emission_kg`. Did you mean `co2_emissions_kg`"):
        load_recipe("demo", ["card.co2_emission_kg=1"])


# Places of one machine


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A working folder with data, checkpoints and a folder that is called like a builder."""
    for folder in ("photos/images", "data/mine", "runs/first", "coco_phrases", "mine"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "photos" / "images" / "list.json").touch()
    (tmp_path / "data" / "detections.json").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("data_root", "photos", "DATA_ROOT"),
        ("data_root", "elsewhere", "DATA_ROOT"),
        ("data_root", "./photos/", "DATA_ROOT"),
        ("data_root", Path("photos"), "DATA_ROOT"),
        ("image_root", "~/images", "IMAGE_ROOT"),
        ("vg_root", "vg", "VG_ROOT"),
        ("detections_file", "data/detections.json", "DETECTIONS_FILE"),
        ("detections_file", "../data/detections.json", "DETECTIONS_FILE"),
        ("detections_file", "/data/detections.json", "DETECTIONS_FILE"),
        ("detections_file", r"D:\data\detections.json", "DETECTIONS_FILE"),
        ("annotation_files", ["a/b/c.json", "images/list.json"], ["ANNOTATION_FILES", "images/list.json"]),
        ("path_prefixes", {"/export/share": "data/mine"}, {"PATH_PREFIXES": "PATH_PREFIXES"}),
        ("images_folder", "images", "images"),
        ("split_by", "unc", "unc"),
        ("dataset", "refcoco+", "refcoco+"),
        ("seed", 1, 1),
        ("embed_images", True, True),
    ],
)
def test_paths_among_the_options_are_hidden(places, name, value, shown):
    assert hide_folder(value, name, "photos") == shown
    command = build_evaluation_command("coco_phrases", "test", {"data_root": "photos", name: value})
    assert not any(place in command for place in ("photos", "data/", "elsewhere", "=vg"))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("coco_phrases", "coco_phrases"),  # the builder, although a folder has its name
        ("your-name/scenes", "your-name/scenes"),
        ("data/mine", "DATASET"),
        ("mine", "DATASET"),
        ("./mine", "DATASET"),
        ("../other/mine", "DATASET"),
        ("a/b/c", "DATASET"),
        ("/data/mine", "DATASET"),
        ("~/mine", "DATASET"),
    ],
)
def test_folders_in_the_place_of_a_data_set_are_hidden(places, name, shown):
    assert hide_dataset(name, "dataset") == shown


@pytest.mark.parametrize(
    ("base_model", "shown"),
    [
        ("runs/first", "first"),
        ("/data/me/runs/first/", "first"),
        ("../runs/first", "first"),
        (r"C:\runs\first", "first"),
        ("your-name/albef", "your-name/albef"),
        ("a checkpoint of ALBEF, whose training is not recorded here",) * 2,
        ("ALBEF/AMC, as released",) * 2,
    ],
)
def test_a_card_shows_the_last_part_of_a_path(places, base_model, shown):
    card = render_model_card(ModelCard("albef-small", "A small ALBEF.", base_model=base_model))
    assert f"Started from {shown};" in card
    assert ("your-name" in base_model) == ("base_model:" in card)
