# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The base model is made of a finished run, complete or not at all, and its figures are computed again."""

import json
import stat
from pathlib import Path

import pytest
import torch
from base_model import PHRASES, check, install
from base_model_pages import render_figures
from page_numbers import find_loose_numbers
from testing_utils import PROJECT_FOLDER, build_tiny_config

from albef_amc import BASE_MODEL, AlbefForPreTraining, AlbefImageProcessor, AlbefProcessor
from albef_amc.checkpoints import check_base_model
from albef_amc.datasets_scripts.synthetic_grounding.synthetic_grounding import generate_scenes
from albef_amc.model_cards import ModelCard, render_model_card, write_model_card
from albef_amc.model_cards.stored_card import read_model_card
from albef_amc.saving_albef import write_json
from albef_amc.text_processing_albef import build_tokenizer
from albef_amc.trainer.reliability.run_folder import END_FILE
from albef_amc.trainer.training_recipes import build_vocabulary

NUM_VALIDATION, NUM_TEST = 80, 12


@pytest.fixture
def run(tmp_path):
    """A finished run of a small model that knows the words of the scenes, and whose score orders pairs a little better
    than chance."""
    torch.manual_seed(0)
    config = build_tiny_config()
    words = [phrase["phrase"] for row in generate_scenes("train", 60) for phrase in row["phrases"]]
    tokenizer = build_tokenizer(build_vocabulary(words), model_max_length=config.text_config.max_position_embeddings)
    config.text_config.vocab_size = len(tokenizer)
    model = AlbefForPreTraining(config)
    AlbefProcessor(AlbefImageProcessor(size=32), tokenizer).save_pretrained(tmp_path / "run")
    model.save_pretrained(tmp_path / "run")
    card = ModelCard(
        model_name="run",
        description="A small model.",
        recipe="base_scenes",
        training_arguments={"steps": 5},
        hardware="CPU",
        training_seconds=90.0,
    )
    write_model_card(tmp_path / "run", card)
    write_json(tmp_path / "run" / END_FILE, {})
    return tmp_path / "run"


def exchange_logits(run: Path) -> None:
    """Exchanges the two logits of the matching head, so that the score orders pairs the other way round."""
    model = AlbefForPreTraining.from_pretrained(run)
    with torch.no_grad():
        model.itm_head.weight.copy_(model.itm_head.weight.flip(0))
        model.itm_head.bias.copy_(model.itm_head.bias.flip(0))
    model.save_pretrained(run)


@pytest.mark.slow
def test_a_run_becomes_a_base_model_that_checks(run, tmp_path, capsys):
    folder = tmp_path / "base_scenes"
    folder.mkdir()
    (folder / "left.txt").write_text("of an earlier one")
    try:
        results = install(run, folder, NUM_VALIDATION, NUM_TEST)
    except ValueError:  # random weights order the pairs in one way or the other
        assert [path.name for path in folder.iterdir()] == ["left.txt"], "an earlier model was touched"
        exchange_logits(run)
        results = install(run, folder, NUM_VALIDATION, NUM_TEST)
    check_base_model(folder)
    names = {"config.json", "model.safetensors", "metrics.json", "README.md", "model_card.json", "SHA256SUMS"}
    names |= {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert all(path.stat().st_mode & stat.S_IROTH for path in folder.iterdir())
    loaded, information = AlbefForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not any(information.values()) and loaded.config.match_scale == results["calibration"]["scale"] != 1
    before = AlbefForPreTraining.from_pretrained(run)
    assert torch.equal(loaded.mlm_head.decoder.bias, before.mlm_head.decoder.bias)

    card = read_model_card(folder)
    text = (folder / "README.md").read_text()
    assert render_model_card(card) == text
    for line in (
        "phrases of other images",
        "exchange: nouns",
        "largest object",
        "log loss",
        "coloured shapes",
        "1.5 min",
    ):
        assert line in text, line
    assert results["training"]["command"] == "albef-amc train base_scenes" and results["training"]["steps"] == 5
    assert set(results["figures"]) == {*PHRASES, *(f"{name}_unseen" for name in PHRASES)}

    assert check(folder, results, NUM_TEST) == []
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["test"]["exchange_auc"]["color"] += 0.02
    write_json(folder / "metrics.json", metrics)
    problems = check(folder, results, NUM_TEST)
    assert len(problems) == 2 and "metrics.json" in problems[0] and "test.exchange_auc.color is" in problems[1]
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    with pytest.raises(ValueError, match="the base model was changed"):
        check(folder, results, NUM_TEST)


def test_a_run_that_has_not_ended_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run has ended there"):
        install(tmp_path, tmp_path / "base_scenes", NUM_VALIDATION, NUM_TEST)
    assert not (tmp_path / "base_scenes").exists()


def test_the_table_of_the_page_is_tied_to_its_numbers(monkeypatch):
    measured = {
        "matching_auc": 0.9876,
        "exchange_auc": {"color": 0.5},
        "pointing_game_accuracy": 0.75,
        "pointing_game_accuracy_by_type": {"spatial": 0.25, "unseen_composition": 0.5},
        "baselines": {"center_point": 0.125},
        "calibration": {name: {"log_loss": 0.375} for name in ("before", "after")},
    }
    default = {**measured, "pointing_game_accuracy_by_type": {"unseen_composition": 0.5}}
    figures = {"test": default, "test_unseen": default, "all_types": measured, "all_types_unseen": measured}
    training = {"steps": 5, "seconds": 90.0, "command": "albef-amc train base_scenes"}
    results = {"bytes": 5_400_000, "num_parameters": 1_330_000, "training": training, "figures": figures}
    monkeypatch.setattr("page_numbers.load_file", lambda name: results)
    text = render_figures(results)
    assert "| pointing game, spatial | – | – | 25.0 % | 25.0 % |" in text
    assert find_loose_numbers(text) == []
    assert find_loose_numbers(text.replace("0.988", "0.987", 1)) != []


@pytest.mark.exhaustive
def test_the_figures_of_the_base_model_are_computed_again():
    results = json.loads((PROJECT_FOLDER / "benchmarks" / "results" / "base_model.json").read_text())
    assert check(Path(BASE_MODEL), results, 1000) == []
