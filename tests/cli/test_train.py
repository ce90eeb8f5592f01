# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc train`: recipes with overrides, a run on synthetic scenes, a run on real photographs, bad input."""

import json
from pathlib import Path

import pytest
import torch
from testing_utils import run_train_command

from albef_amc import AlbefConfig, AlbefForImageTextMatching, AlbefForPreTraining, AlbefProcessor
from albef_amc.cli.main import main
from albef_amc.configuration.shipped_files import resolve_shipped
from albef_amc.datasets_scripts import load_grounding_dataset
from albef_amc.trainer.training_recipes import build_arguments, load_recipe


@pytest.mark.slow
def test_a_run_on_synthetic_scenes_leaves_a_checkpoint_that_can_be_trained_on(recipe, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    result = run_train_command(capsys, recipe, "--output-dir", first)
    assert result["steps"] == 2
    assert 0 <= result["eval_pointing_game_accuracy"] <= 1
    assert result["eval_num_phrases"] > 4
    logged = json.loads((first / "trainer_state.json").read_text())["log_history"]
    for term in ("itc_loss", "itm_loss", "mlm_loss", "amc_loss"):
        assert sum(term in entry for entry in logged) == 2, term
    metrics = json.loads((first / "metrics.json").read_text())
    assert result["eval_pointing_game_accuracy"] in [score["pointing_game_accuracy"] for score in metrics.values()]
    assert "synthetic" in (first / "README.md").read_text()
    phrase = load_grounding_dataset(**load_recipe(recipe).train_data)[0]["phrases"][0]["phrase"]
    processor = AlbefProcessor.from_pretrained(first)
    assert processor.tokenizer.unk_token_id not in processor(text=phrase)["input_ids"]

    result = run_train_command(
        capsys, recipe, "-o", second, "--set", f"model.checkpoint={first}", "--set", "model.config=null",
        "--set", "max_steps=1", "--set", "model.vocabulary=null",
    )  # fmt: skip
    assert result["steps"] == 1
    before, after = (AlbefForPreTraining.from_pretrained(path) for path in (first, second))
    assert before.image_queue_pointer.item() == 8
    assert after.image_queue_pointer.item() == 12
    assert not torch.equal(before.itm_head.weight, after.itm_head.weight)


def test_a_checkpoint_of_another_architecture_is_refused_before_the_data_is_built(recipe, tmp_path, capsys):
    from transformers import BertConfig

    BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path / "bert")
    words = ["--set", f"model.checkpoint={tmp_path / 'bert'}", "--set", "model.config=null"]
    words += ["--set", "model.vocabulary=null"]
    assert main(["train", str(recipe), "--output-dir", str(tmp_path / "run"), *words]) == 2
    assert "bert" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_the_seed_decides_every_bit_of_a_run(recipe, tmp_path, capsys):
    words = ["--set", "evaluation_data=null", "--set", "max_steps=1"]
    weights = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)  # a new process begins with a seed of its own
        run_train_command(capsys, recipe, "-o", tmp_path / str(number), *words, "--set", f"seed={seed}")
        weights.append((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def read_tree(folder) -> dict[str, tuple[bytes, int]]:
    """Bytes of every file below a folder, and when it was written."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


SAVES = ["--set", "save_strategy=steps", "--set", "save_steps=2"]


@pytest.mark.slow
@pytest.mark.parametrize("saves", [SAVES, ["--set", "save_strategy=no"]], ids=["checkpoints", "none"])
def test_resuming_a_finished_run_says_so_and_changes_nothing(saves, recipe, tmp_path, capsys):
    folder = tmp_path / "run"
    words = [recipe, "-o", folder, *saves, "--set", "max_steps=3"]
    result = run_train_command(capsys, *words)
    before = read_tree(folder)
    assert main(["train", *map(str, words), "--resume", "--json"]) == 0
    streams = capsys.readouterr()
    assert json.loads(streams.out) == result
    assert f"{folder} holds a finished run (3 steps): nothing is left to do." in streams.err.splitlines()
    assert read_tree(folder) == before

    assert main(["train", *map(str, words)]) == 2  # without --resume it is another run, as before
    assert main(["train", *map(str, words), "--resume", "--set", "seed=7"]) == 2
    assert "seed: 42 -> 7" in capsys.readouterr().err.splitlines()[-1]
    assert read_tree(folder) == before


@pytest.mark.slow
def test_a_run_without_its_end_gets_that_and_no_step_more(recipe, tmp_path, capsys):
    folder = tmp_path / "run"
    words = [recipe, "-o", folder, *SAVES, "--set", "max_steps=3"]
    run_train_command(capsys, *words)
    finished = read_tree(folder)
    killed = ["finished.json", "trainer_state.json", "README.md", "config.json", "metrics.json", "model.safetensors"]
    for number in (1, 2, len(killed)):
        for name in killed[:number]:
            (folder / name).unlink()
        if number == 1:  # the Trainer does not write it in one piece
            (folder / "trainer_state.json").write_text("{")
        result = run_train_command(capsys, *words, "--resume")
        assert result["steps"] == 3 and "eval_pointing_game_accuracy" in result and "train_loss" not in result
        ended = read_tree(folder)
        assert finished.keys() == ended.keys()
        checkpoints = [name for name in finished if name.startswith("checkpoint-")]
        assert {name: ended[name] for name in checkpoints} == {name: finished[name] for name in checkpoints}
        assert ended["model.safetensors"][0] == finished["model.safetensors"][0]
        assert ended["metrics.json"][0] == finished["metrics.json"][0]


@pytest.mark.slow
def test_a_finished_run_may_become_longer(recipe, tmp_path, capsys):
    folder = tmp_path / "run"
    run_train_command(capsys, recipe, "-o", folder, *SAVES)
    result = run_train_command(capsys, recipe, "-o", folder, *SAVES, "--resume", "--set", "max_steps=4")
    assert result["steps"] == 4
    assert main(["train", str(recipe), "-o", str(folder), *SAVES, "--resume"]) == 2
    assert "max_steps: 4 -> 2 (shorter)" in capsys.readouterr().err.splitlines()[-1]
    again = run_train_command(capsys, recipe, "-o", folder, *SAVES, "--resume", "--set", "max_steps=4")
    assert again == result


@pytest.mark.slow
def test_the_folder_of_a_run_has_the_name_of_its_recipe(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_train_command(capsys, recipe, "--set", "max_steps=1")["output_dir"] == str(Path("runs", "tiny"))
    assert (tmp_path / "runs" / "tiny" / "config.json").is_file()


@pytest.mark.slow
@pytest.mark.data
def test_the_shipped_recipe_trains_on_photographs(checkpoint, data_folder, tmp_path, capsys):
    words = [f"train_data.data_root={data_folder / 'coco_cc_mini'}", f"train_data.cache_dir={tmp_path / 'cache'}"]
    words += [f"model.checkpoint={checkpoint}", "model.image_size=64", "max_steps=2", "eval_strategy=no"]
    words += [
        "per_device_train_batch_size=2",
        "phrases_per_image=2",
        "logging_steps=1",
        "use_cpu=true",
        "max_length=24",
    ]
    settings = [word for setting in words for word in ("--set", setting)]
    result = run_train_command(capsys, "coco_phrases", "--output-dir", tmp_path / "run", *settings)
    assert result["steps"] == 2
    assert result["eval_num_phrases"] > 20
    model = AlbefForImageTextMatching.from_pretrained(tmp_path / "run")
    assert model.config.vision_config.grid_size == (8, 8)
    assert AlbefProcessor.from_pretrained(tmp_path / "run").image_processor.size.height == 64
    assert f"base_model: {checkpoint}" not in (tmp_path / "run" / "README.md").read_text()


def test_a_matching_checkpoint_starts_its_momentum_copies_as_copies(checkpoint):
    model = AlbefForPreTraining.from_pretrained(checkpoint)
    assert all(torch.equal(follower, online) for follower, online in model.iterate_momentum_pairs())


def test_a_folder_with_a_checkpoint_is_not_overwritten(recipe, checkpoint, capsys):
    assert main(["train", str(recipe), "--output-dir", str(checkpoint)]) == 2
    assert "--resume" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no_such_recipe"], "coco_phrases"),
        (["RECIPE", "--set", "learning_rat=1e-4"], "Did you mean `learning_rate`?"),
        (["RECIPE", "--set", "model.chekpoint=x"], "Did you mean `checkpoint`?"),
        (["RECIPE", "--set", "trian_data.split=all"], "Did you mean `train_data`?"),
        (["RECIPE", "--set", "learning_rate"], "key=value"),
        (["RECIPE", "--set", "train_data.split=no_split"], "no_split"),
        (["RECIPE", "--set", "train_data.name=no_data"], "no_data"),
        (["RECIPE", "--set", "train_data.no_argument=1"], "no_argument"),
        (["RECIPE", "--set", "model.config=no_model"], "albef_base"),
        (["RECIPE", "--set", "model.config=null"], "`checkpoint` or `config`"),
        (["RECIPE", "--set", "fp16=true"], "bf16"),
        (
            ["RECIPE", *(f"--set=model.{change}" for change in ("checkpoint=x", "config=null", "vocabulary=null"))],
            "No checkpoint folder at x",
        ),
        (["coco_phrases", "--set", "model.checkpoint=CHECKPOINT"], "data_root"),
        (["RECIPE", "--set", "region_source=polygons"], "None of the phrases of the 8 training images has"),
        (["RECIPE", "--set", "report_to=tensorbord"], "Did you mean `tensorboard`?"),
    ],
)
def test_bad_input_is_one_line(words, message, recipe, checkpoint, tmp_path, capsys):
    places = {"RECIPE": str(recipe), "model.checkpoint=CHECKPOINT": f"model.checkpoint={checkpoint}"}
    words = [places.get(word, word) for word in words]
    assert main(["train", *words, "--output-dir", str(tmp_path / "run")]) == 2
    streams = capsys.readouterr()
    assert message in streams.err.splitlines()[-1]
    assert "Traceback" not in streams.err
    assert streams.out == ""
    assert not (tmp_path / "run" / "config.json").exists()


def test_yaml_that_is_none_is_refused(tmp_path):
    for content in ("model: [", "- a list"):
        (tmp_path / "broken.yaml").write_text(content)
        with pytest.raises(ValueError, match=r"broken\.yaml"):
            load_recipe(tmp_path / "broken.yaml")


def test_overrides_are_typed_and_reach_the_arguments(recipe, tmp_path):
    changed = load_recipe(recipe, ["learning_rate=2e-5", "training.seed=3", "train_data.split=all"])
    arguments = build_arguments(changed, tmp_path)
    assert (arguments.learning_rate, arguments.seed) == (2e-5, 3)
    assert changed.train_data["split"] == "all"
    assert changed.evaluation_data == {**changed.train_data, "split": "validation"}


def test_the_published_sizes_ship_as_values():
    path = resolve_shipped("albef_base", "models", ".json")
    assert AlbefConfig.from_json_file(path).to_diff_dict() == AlbefConfig().to_diff_dict()
    assert json.loads(path.read_text())["vision_config"]["hidden_size"] == 768
