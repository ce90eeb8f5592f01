"""The folder of a run: another run is refused before anything is loaded, and a resume keeps to its recipe."""

import json

import pytest
import torch
from transformers import TrainingArguments

from albef_amc.cli.main import main
from albef_amc.trainer.reliability.run_folder import (
    check_run_folder,
    compare_recipes,
    estimate_run_bytes,
    read_end,
    store_end,
    store_recipe,
)
from albef_amc.trainer.training_recipes import load_recipe

RECIPE = """
model:
  checkpoint: some/model
train_data:
  name: synthetic
  split: train
training:
  learning_rate: 1e-3
  max_steps: 10
  per_device_train_batch_size: 4
"""


@pytest.fixture
def recipe_file(tmp_path):
    """A recipe whose checkpoint does not exist: what is refused here is refused before it is looked for."""
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def run_folder(recipe_file, tmp_path):
    """Folder of a run of that recipe, with a checkpoint."""
    folder = tmp_path / "run"
    (folder / "checkpoint-2").mkdir(parents=True)
    store_recipe(folder, load_recipe(recipe_file))
    return folder


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["seed=3"], "seed: 42 -> 3"),
        (["learning_rate=2e-3"], "learning_rate: 1e-3 -> 2e-3"),
        (["per_device_train_batch_size=8"], "per_device_train_batch_size: 4 -> 8"),
        (["train_data.split=all"], "train_data.split: train -> all"),
        (["model.image_size=64"], "model.image_size: None -> 64"),
        (["amc_weight=0"], "amc_weight: 1.0 -> 0"),
        (["max_steps=9"], r"max_steps: 10 -> 9 \(shorter\)"),
        (["max_steps=-1"], r"max_steps: 10 -> -1 \(shorter\)"),
    ],
)
def test_resuming_with_another_recipe_lists_what_differs(settings, words, recipe_file, run_folder):
    with pytest.raises(ValueError, match=f"a run of another recipe .*{words}"):
        check_run_folder(run_folder, load_recipe(recipe_file, settings), resume=True)


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["learning_rate=0.001", "seed=42"],
        ["logging_steps=1", "dataloader_num_workers=2", "save_total_limit=3", "eval_strategy=no"],
        ["max_steps=20"],
    ],
)
def test_what_does_not_decide_the_weights_may_differ(settings, recipe_file, run_folder, caplog):
    check_run_folder(run_folder, load_recipe(recipe_file, settings), resume=True)
    assert ("learning rate follows 20" in caplog.text) == (settings == ["max_steps=20"])


def test_objectives_are_compared_under_either_of_their_names():
    stored = {"training": {"extra_objectives": {"dice": 0.5}}}
    assert compare_recipes(stored, {"training": {"objectives": {"dice": 0.5}}}) == []
    assert compare_recipes(stored, {"training": {"objectives": {"dice": 1.0}}}) != []
    assert compare_recipes(stored, {"training": {}}) != []


def test_a_folder_of_a_run_is_refused_without_resume(recipe_file, run_folder):
    recipe = load_recipe(recipe_file)
    with pytest.raises(ValueError, match="holds a run already.*--resume"):
        check_run_folder(run_folder, recipe, resume=False)
    (run_folder / "checkpoint-2").rmdir()
    check_run_folder(run_folder, recipe, resume=False)  # it began, and saved nothing
    with pytest.raises(ValueError, match="holds a run already"):
        check_run_folder(run_folder, load_recipe(recipe_file, ["seed=1"]), resume=False)


def test_a_folder_without_a_recipe(recipe_file, run_folder, caplog):
    recipe = load_recipe(recipe_file)
    (run_folder / "recipe.json").unlink()
    check_run_folder(run_folder, recipe, resume=True)
    assert "whether its run had the same settings is not known" in caplog.text
    for content in ("{", "[]"):
        (run_folder / "recipe.json").write_text(content)
        with pytest.raises(ValueError, match=r"recipe\.json"):
            check_run_folder(run_folder, recipe, resume=True)


def test_the_command_refuses_before_anything_is_loaded(recipe_file, run_folder, capsys):
    assert main(["train", str(recipe_file), "--output-dir", str(run_folder)]) == 2
    assert "holds a run already" in capsys.readouterr().err
    words = ["train", str(recipe_file), "--output-dir", str(run_folder), "--resume", "--set", "seed=1"]
    assert main(words) == 2
    assert "seed: 42 -> 1" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"lengths": {}, "result": 3}', "null"])
def test_a_damaged_end_is_none(content, recipe_file, tmp_path, caplog):
    recipe = load_recipe(recipe_file)
    store_recipe(tmp_path, recipe)
    store_end(tmp_path, recipe, {"steps": 10})
    assert read_end(tmp_path, recipe) is None  # there are no weights
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).touch()
    assert read_end(tmp_path, recipe) == {"steps": 10}
    assert read_end(tmp_path, load_recipe(recipe_file, ["max_steps=11"])) is None
    assert read_end(tmp_path, load_recipe(recipe_file, ["seed=1"])) is None
    (tmp_path / "finished.json").write_text(content)
    assert read_end(tmp_path, recipe) is None
    assert "finished.json cannot be read" in caplog.text
    store_recipe(tmp_path, recipe)
    assert not (tmp_path / "finished.json").exists()


def test_sections_that_are_new_or_gone_are_differences():
    assert compare_recipes({"peft": {"r": 8}}, {"peft": None}) == ["peft: {'r': 8} -> None"]
    assert compare_recipes({"peft": {}}, {}) == ["peft: {} -> None"]  # an empty section means LoRA as well
    assert compare_recipes({"card": {"description": "a"}}, {"evaluation_data": {"name": "b"}}) == []
    assert compare_recipes({"training": None}, {}) == []


def test_space_is_counted_for_the_checkpoints_that_are_kept(tmp_path):
    model = torch.nn.Linear(10, 10)  # 440 bytes
    model.register_buffer("queue", torch.zeros(15))  # 60 bytes
    model.bias.requires_grad_(False)  # the optimizer keeps 2 x 400 bytes
    checkpoint = 500 + 800

    def estimate(num_present=0, is_adapter=False, **changes):
        arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **changes)
        return estimate_run_bytes(model, arguments, num_present, is_adapter)

    assert estimate() == 2 * checkpoint
    assert estimate(save_total_limit=3) == 4 * checkpoint
    assert estimate(save_total_limit=3, num_present=3) == checkpoint
    assert estimate(save_only_model=True) == 2 * 500
    assert estimate(save_strategy="no") == 500
    assert estimate(is_adapter=True) == 2 * (2 * 400 + 60 + 800)


def test_the_stored_recipe_is_the_resolved_one(recipe_file, tmp_path):
    store_recipe(tmp_path / "run", load_recipe(recipe_file, ["seed=5"]))
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["training"]["seed"] == 5
