# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`base` in commands and recipes: the base model that ships, checked by its hashes; never another folder unsaid."""

import json
from pathlib import Path
from shutil import copytree

import pytest
from testing_utils import build_photo, check_refusal, run_train_command

from albef_amc import AlbefForPreTraining
from albef_amc.checkpoints import HASH_FILE, hash_files
from albef_amc.cli import calibrate, ground
from albef_amc.cli.main import main
from albef_amc.evaluation import checkpoints
from albef_amc.evaluation.checkpoints import hash_checkpoint, load_model_and_processor, resolve_checkpoint
from albef_amc.lora.adapter_files import ADAPTER_CONFIG_FILE
from albef_amc.model_cards import ModelCard, write_model_card

SCENES = [f"--data=num_{split}_scenes={count}" for split, count in (("train", 2), ("validation", 2), ("test", 4))]


@pytest.fixture
def base_model(tmp_path, tiny_pretraining_model, tiny_processor, monkeypatch):
    """A small model in the place of the one that ships; the working folder is another, and empty."""
    folder = tmp_path / "package" / "base_scenes"
    tiny_pretraining_model.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    write_model_card(folder, ModelCard(model_name="base", description="A small model.", has_code=False))
    (folder / HASH_FILE).write_text("".join(f"{digest}  {name}\n" for name, digest in hash_files(folder).items()))
    for module in (checkpoints, calibrate):
        monkeypatch.setattr(module, "BASE_MODEL", str(folder))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    build_photo().save("photo.png")
    return folder


GROUND = ["ground", "photo.png", "--phrase", "a dog", "--device", "cpu", "--json"]


def test_ground_takes_it_by_default_and_by_name(base_model, capsys):
    assert main([*GROUND, "--output-dir", "by_name", "--checkpoint", "base"]) == 0
    assert main([*GROUND, "--output-dir", "by_default"]) == 0
    assert main([*GROUND, "--output-dir", "by_path", "--checkpoint", str(base_model)]) == 0
    scores = [
        json.loads(Path(name, "grounding.json").read_text())[0]["phrases"][0]["score"]
        for name in ("by_name", "by_default", "by_path")
    ]
    assert scores[0] == scores[1] == scores[2]


def test_evaluate_names_its_weights(base_model, tmp_path, capsys):
    words = ["evaluate", "base", "synthetic", "--device", "cpu", *SCENES, f"--data=cache_dir={tmp_path / 'cache'}"]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["checkpoint"] == "base" and result["weights_sha256"] == hash_checkpoint(base_model)


@pytest.mark.slow
def test_training_starts_from_it(base_model, recipe, tmp_path, capsys):
    start = ["--set", "model.checkpoint=base", "--set", "model.config=null", "--set", "model.vocabulary=null"]
    words = [recipe, "--output-dir", tmp_path / "run", *start, "--set", "max_steps=1", "--set", "evaluation_data=null"]
    assert run_train_command(capsys, *words)["steps"] == 1
    card = (tmp_path / "run" / "README.md").read_text()
    assert "Started from the base model of albef-amc;" in card and "base_model:" not in card
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["model"]["checkpoint"] == "base"

    break_weights(base_model)
    words = ["train", str(recipe), "--output-dir", str(tmp_path / "second"), *start]
    check_refusal([*words, "--set", f"train_data.cache_dir={tmp_path / 'new'}"], "the base model was changed", capsys)
    assert not (tmp_path / "new").exists(), "data was read first"


def test_push_adds_code_and_its_own_name(base_model, capsys):
    assert main(["push", "base", "your-name/shapes", "--dry-run", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert "modeling_albef.py" in result["bytes"]
    assert 'from_pretrained("your-name/shapes", trust_remote_code=True)' in result["card"]


def test_merge_takes_it_as_a_base_and_not_as_an_adapter(base_model, tmp_path, capsys, monkeypatch):
    check_refusal(["merge", "base", "--output-dir", str(tmp_path / "merged")], "is not an adapter", capsys)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / ADAPTER_CONFIG_FILE).write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "gone"})
    )
    monkeypatch.setattr(checkpoints, "merge_into", lambda model, adapter: None)
    load = checkpoints.AlbefProcessor.from_pretrained
    monkeypatch.setattr(checkpoints.AlbefProcessor, "from_pretrained", lambda *words, **values: load(base_model))
    words = ["merge", str(tmp_path / "adapter"), "--output-dir", str(tmp_path / "merged"), "--base", "base"]
    assert main(words) == 0
    assert "Started from the base model of albef-amc" in (tmp_path / "merged" / "README.md").read_text()


def test_calibrate_changes_copies_only(base_model, capsys):
    for name in ("base", str(base_model)):
        check_refusal(["calibrate", name, "synthetic"], "is the base model that ships: it is calibrated", capsys)
    assert (base_model / "config.json").read_bytes()
    check_refusal(["calibrate", "./base", "synthetic"], "base has no config.json", capsys)


def break_weights(folder) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def test_changed_weights_are_refused_by_every_command(base_model, capsys):
    break_weights(base_model)
    for words in (
        [*GROUND, "--checkpoint", "base"],
        ["evaluate", "base", "synthetic", *SCENES],
        ["push", "base", "your-name/shapes", "--dry-run"],
        ["calibrate", "base", "synthetic"],
    ):
        check_refusal(words, "the base model was changed: model.safetensors", capsys)
    load_model_and_processor(AlbefForPreTraining, base_model)  # a path is a checkpoint like any other


def test_a_folder_of_the_same_name_is_never_taken_by_mistake(base_model, capsys):
    Path("base").mkdir()
    assert resolve_checkpoint("base") == str(base_model)  # a folder that is no checkpoint
    copytree(base_model, "base", dirs_exist_ok=True)
    check_refusal([*GROUND, "--checkpoint", "base"], "Give `./base` for the folder", capsys)
    check_refusal([*GROUND], str(base_model), capsys)
    break_weights(base_model)
    assert main([*GROUND, "--checkpoint", "./base"]) == 0
    assert resolve_checkpoint(Path("base")) == "base"


def test_from_pretrained_knows_no_such_name(base_model):
    with pytest.raises(FileNotFoundError, match="No checkpoint folder at base"):
        AlbefForPreTraining.from_pretrained("base")
    assert ground.BASE_MODEL_NAME == "base"
