# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc evaluate`: the pointing game of a checkpoint on made-up scenes and on real photographs."""

import json

import pytest

from albef_amc.cli.main import main
from albef_amc.datasets_scripts import load_grounding_dataset
from albef_amc.trainer.evaluation import evaluate_grounding

SCENES = {"num_train_scenes": 2, "num_validation_scenes": 2, "num_test_scenes": 6}


@pytest.fixture
def scene_options(tmp_path):
    """Arguments that make a few synthetic scenes."""
    options = {**SCENES, "cache_dir": tmp_path / "cache"}
    return [word for name, value in options.items() for word in ("--data", f"{name}={value}")]


def evaluate(capsys, *words) -> dict:
    """Runs the command and returns its JSON result."""
    capsys.readouterr()
    status = main(["evaluate", *map(str, words), "--json", "--device", "cpu"])
    streams = capsys.readouterr()
    assert status == 0, streams.err[-2000:]
    return json.loads(streams.out)


def test_the_result_is_that_of_the_model(checkpoint, scene_options, tiny_model, tiny_processor, tmp_path, capsys):
    result = evaluate(capsys, checkpoint, "synthetic", *scene_options, "--batch-size", 4)
    rows = load_grounding_dataset("synthetic", "test", **SCENES, cache_dir=str(tmp_path / "cache"))
    expected = evaluate_grounding(tiny_model, tiny_processor, rows).metrics
    assert {name: result[name] for name in expected} == expected
    assert result["num_phrases"] == sum(len(row["phrases"]) for row in rows)
    assert sum(result["num_phrases_by_type"].values()) >= result["num_phrases"]
    assert (result["split"], result["dataset"], result["num_phrases_without_box"]) == ("test", "synthetic", 0)
    assert result["phrases_per_second"] == pytest.approx(result["num_phrases"] / result["seconds"])


def test_output_holds_every_phrase_and_baselines(checkpoint, scene_options, tmp_path, capsys):
    output = tmp_path / "results" / "scores.json"
    words = [checkpoint, "synthetic", *scene_options, "--baselines", "--output", output, "--split", "test[:3]"]
    result = evaluate(capsys, *words)
    assert set(result["baselines"]) == {"center_point", "random_point", "largest_object"}
    written = json.loads(output.read_text())
    assert len(written["phrases"]) == result["num_phrases"]
    hits = sum(phrase["is_hit"] for phrase in written["phrases"])
    assert written["pointing_game_accuracy"] == hits / result["num_phrases"]


def test_text_has_one_line_a_value(checkpoint, scene_options, capsys):
    assert main(["evaluate", str(checkpoint), "synthetic", *scene_options]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert "pointing_game_accuracy" in names
    assert any(name.startswith("pointing_game_accuracy_by_type.") for name in names)


@pytest.mark.data
def test_photographs(checkpoint, data_folder, tmp_path, capsys):
    options = {"data_root": data_folder / "coco_cc_mini", "cache_dir": tmp_path / "cache"}
    words = [word for name, value in options.items() for word in ("--data", f"{name}={value}")]
    result = evaluate(capsys, checkpoint, "coco_phrases", "--split", "all", *words, "--image-size", 64)
    assert result["num_phrases"] > 400
    assert set(result["num_phrases_by_type"]) >= {"category", "spatial", "plural", "caption_np"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["CHECKPOINT", "no_such_data"], "no_such_data"),
        (["CHECKPOINT", "no_such_folder/"], "no_such_folder"),
        (["CHECKPOINT", "synthetic", "--split", "no_split"], "no_split"),
        (["CHECKPOINT", "synthetic", "--data", "seed"], "key=value"),
        (["CHECKPOINT", "synthetic", "--data", "no_argument=1"], "no_argument"),
        (["CHECKPOINT", "coco_phrases"], "data_root"),
        (["CHECKPOINT", "coco_phrases", "--data", "data_root=no_such_folder"], "no_such_folder"),
        (["no_such_checkpoint", "synthetic"], "no_such_checkpoint"),
        (["CHECKPOINT", "synthetic", "--batch-size", "0"], "--batch-size"),
    ],
)
def test_bad_input_is_one_line(words, message, checkpoint, scene_options, capsys):
    words = [str(checkpoint) if word == "CHECKPOINT" else word for word in words]
    capsys.readouterr()
    assert main(["evaluate", *words, *(scene_options if "synthetic" in words else [])]) == 2
    streams = capsys.readouterr()
    assert message in streams.err.splitlines()[-1]
    assert "Traceback" not in streams.err
    assert streams.out == ""
