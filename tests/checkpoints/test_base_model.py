# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The base model that ships: its hashes, its size, what loads it, and the card that belongs to it."""

import json
from pathlib import Path

import pytest
import torch
from base_model_pages import FIGURES, PAGE, render_figures
from safetensors.torch import load_file
from testing_utils import PROJECT_FOLDER

import albef_amc
from albef_amc import BASE_MODEL, AlbefForImageTextMatching, AlbefForPreTraining, AlbefProcessor
from albef_amc.checkpoints import HASH_FILE, check_base_model, hash_files
from albef_amc.evaluation.weight_hash import hash_weights
from albef_amc.model_cards import read_metrics, read_model_card, render_model_card

LARGEST_FOLDER = 12_000_000  # bytes
FOLDER = Path(BASE_MODEL)


@pytest.fixture
def copied(checkpoint):
    """A small checkpoint with hashes, as the base model has them."""
    (checkpoint / HASH_FILE).write_text(
        "".join(f"{digest}  {name}\n" for name, digest in hash_files(checkpoint).items())
    )
    return checkpoint


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_one_flipped_bit_is_found(copied, name):
    check_base_model(copied)
    content = bytearray((copied / name).read_bytes())
    content[-20] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"the base model was changed: {name} .* Install albef-amc again"):
        check_base_model(copied)


def test_a_missing_file_and_an_empty_list_are_found(copied):
    listed = (copied / HASH_FILE).read_text()
    (copied / HASH_FILE).write_text("")
    with pytest.raises(ValueError, match="expected None"):
        check_base_model(copied)
    (copied / HASH_FILE).write_text(listed)
    (copied / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="tokenizer_config.json in .* has the SHA-256 None"):
        check_base_model(copied)
    (copied / HASH_FILE).unlink()
    with pytest.raises(FileNotFoundError, match="the base model is missing"):
        check_base_model(copied)


def test_the_package_names_its_folder():
    assert albef_amc.BASE_MODEL == BASE_MODEL and "BASE_MODEL" in albef_amc.__all__
    assert FOLDER == PROJECT_FOLDER / "checkpoints" / "base_scenes"
    with pytest.raises(AttributeError, match="has no attribute 'BASE_MODELS'"):
        albef_amc.BASE_MODELS  # noqa: B018


def test_files_size_and_hashes():
    check_base_model()
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= LARGEST_FOLDER
    assert [path.name for path in FOLDER.iterdir() if path.suffix == ".py"] == []
    weights = load_file(FOLDER / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert [name for name in weights if name.startswith(("momentum_", "image_queue", "text_queue"))] == []


@pytest.mark.parametrize("model_class", [AlbefForImageTextMatching, AlbefForPreTraining])
def test_both_classes_load_without_a_new_weight(model_class):
    model, information = model_class.from_pretrained(BASE_MODEL, output_loading_info=True)
    assert not any(information.values())
    assert AlbefProcessor.from_pretrained(BASE_MODEL).tokenizer.vocab_size == model.config.text_config.vocab_size
    stored = load_file(FOLDER / "model.safetensors")
    state = model.state_dict()
    assert all(torch.equal(state[name], stored[name]) for name in state.keys() & stored.keys())
    if model_class is AlbefForPreTraining:
        assert "mlm_head.transform.dense.weight" in stored or any(name.startswith("mlm_head.") for name in stored)
        assert all(torch.equal(copy, online) for copy, online in model.iterate_momentum_pairs())
        assert (model.image_queue_ids == -1).all() and (model.text_queue_ids == -1).all()


def test_the_score_is_calibrated_on_these_weights():
    model = AlbefForImageTextMatching.from_pretrained(BASE_MODEL)
    assert model.config.match_calibration["weights_sha256"] == hash_weights(model)
    assert (model.config.match_calibration["dataset"], model.config.match_calibration["split"]) == (
        "synthetic",
        "validation",
    )
    for result in read_metrics(FOLDER / "metrics.json").values():
        assert result["weights_sha256"] == hash_weights(model)


def test_card_results_and_pages_agree():
    card = read_model_card(FOLDER)
    assert card is not None, "the card was edited by hand"
    assert render_model_card(card) == (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "coloured shapes" in card.limits[0] and not card.has_code
    results = json.loads((PROJECT_FOLDER / "benchmarks" / "results" / "base_model.json").read_text())
    assert results["figures"] == json.loads((FOLDER / "metrics.json").read_text())
    assert results["sha256"] == hash_files(FOLDER)
    (shown,) = FIGURES.findall(PAGE.read_text(encoding="utf-8"))
    assert shown == render_figures(results)
