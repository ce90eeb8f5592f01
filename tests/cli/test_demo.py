# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc demo`, shortened: the files that it writes and what it prints."""

import json

import pytest
from PIL import Image

from albef_amc import AlbefForImageTextMatching, AlbefProcessor
from albef_amc.cli.demo import RUNS, is_in_range
from albef_amc.cli.main import main
from albef_amc.evaluation.checkpoints import hash_checkpoint
from albef_amc.publishing.checkpoint_publishing import prepare_publication

SHORT = (
    "max_steps=3",
    "eval_steps=2",
    "logging_steps=1",
    "per_device_train_batch_size=4",
    "disable_tqdm=true",
    "use_cpu=true",
    "train_data.num_train_scenes=16",
    "train_data.num_validation_scenes=100",
    "train_data.num_test_scenes=12",
)


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    words = ["demo", "--output-dir", str(folder), "--json"]
    assert main([*words, *(word for setting in SHORT for word in ("--set", setting))]) == 0
    return folder


@pytest.mark.slow
def test_demo_leaves_metrics_pictures_and_carded_checkpoints(demo_folder, tmp_path):
    metrics = json.loads((demo_folder / "metrics.json").read_text())
    for name in RUNS:
        checkpoint = demo_folder / name
        accuracy = metrics[name]["pointing_game_accuracy"]
        assert 0 <= accuracy <= 1 and metrics[name]["num_phrases"] > 30
        assert f"{100 * accuracy:.2f}" in (checkpoint / "README.md").read_text()
        assert json.loads((checkpoint / "metrics.json").read_text())["test"]["pointing_game_accuracy"] == accuracy
        assert metrics[name]["weights_sha256"] == hash_checkpoint(checkpoint)
        prepare_publication(checkpoint, tmp_path / name, "your-name/demo")
        model, processor = (cls.from_pretrained(checkpoint) for cls in (AlbefForImageTextMatching, AlbefProcessor))
        inputs = processor(images=[Image.new("RGB", (64, 64))], text=[["the red circle"]], return_tensors="pt")
        assert model.ground(**inputs).heatmap.shape == (1, 8, 8)
    assert set(metrics["baselines"]) == {"center_point", "random_point", "largest_object"}
    assert metrics["gain"] == pytest.approx(
        metrics["with_amc"]["pointing_game_accuracy"] - metrics["without_amc"]["pointing_game_accuracy"]
    )
    for name in ("sheet.png", "curves.png"):
        with Image.open(demo_folder / name) as picture:
            assert min(picture.size) > 300


@pytest.mark.slow
def test_both_runs_begin_with_the_same_weights_and_differ_in_amc_alone(demo_folder):
    cards = {name: (demo_folder / name / "README.md").read_text() for name in RUNS}
    assert "| amc_weight | 0.0 |" in cards["without_amc"] and "| amc_weight | 0.0 |" not in cards["with_amc"]
    differing = [
        lines
        for lines in zip(*(card.splitlines() for card in cards.values()), strict=True)
        if lines[0] != lines[1] and lines[0].startswith("|") and "weight" in lines[0]
    ]
    assert len(differing) == 1


def test_expected_range():
    result = {"gain": 0.2, "with_amc": {"pointing_game_accuracy": 0.75, "shuffled_phrases_accuracy": 0.3}}
    assert is_in_range(result)
    for change in (
        {"gain": 0.1},
        {"with_amc": {"pointing_game_accuracy": 0.69, "shuffled_phrases_accuracy": 0.3}},
        {"with_amc": {"pointing_game_accuracy": 0.75, "shuffled_phrases_accuracy": 0.4}},
    ):
        assert not is_in_range({**result, **change})


def test_mistyped_setting_is_named(capsys, tmp_path):
    assert main(["demo", "-o", str(tmp_path), "--set", "max_step=3"]) == 2
    assert "Did you mean `max_steps`" in capsys.readouterr().err
