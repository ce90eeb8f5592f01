# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc evaluate` of models of other families: the protocol of ALBEF on what `Grounder.ground` returns."""

import json

import pyarrow.parquet
import pytest
from detector_cases import build_tiny_detector
from grounder_cases import build_tiny_grounder
from hub_server import Repository

from albef_amc.cli.main import main
from albef_amc.datasets_scripts import load_grounding_dataset
from albef_amc.evaluation.grounding_evaluation import evaluate_grounding
from albef_amc.grounders import AutoGrounder

SCENES = {"num_train_scenes": 2, "num_validation_scenes": 2, "num_test_scenes": 2}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Folder of a small CLIP."""
    return save("clip-itc", tmp_path_factory.mktemp("clip"))


@pytest.fixture
def options(cache):
    """Words that read two scenes, without intervals."""
    values = {**SCENES, "cache_dir": cache}
    words = [word for name, value in values.items() for word in ("--data", f"{name}={value}")]
    return [*words, "--device", "cpu", "--resamples", "0"]


@pytest.fixture
def rows(cache):
    return load_grounding_dataset("synthetic", "test", **SCENES, cache_dir=str(cache))


def save(name: str, folder):
    grounder = build_tiny_grounder(name)
    grounder.model.float().save_pretrained(folder)
    grounder.processor.save_pretrained(folder)
    return folder


def evaluate(capsys, *words) -> dict:
    capsys.readouterr()
    status = main(["evaluate", *map(str, words), "--json"])
    streams = capsys.readouterr()
    assert status == 0, streams.err[-2000:]
    return json.loads(streams.out)


def test_points_and_scores_are_those_of_the_grounder(clip, options, rows, tmp_path, capsys):
    output = tmp_path / "scores.json"
    metrics = "pointing_game,heatmap_quality,phrase_recall"
    result = evaluate(capsys, clip, "synthetic", *options, "--metrics", metrics, "--output", output)
    written = json.loads(output.read_text())["phrases"]
    grounder = AutoGrounder.from_pretrained(clip)
    phrases = [[phrase["phrase"] for phrase in row["phrases"]] for row in rows]
    expected = [found for image in grounder.ground([row["image"] for row in rows], phrases) for found in image]
    assert [entry["point"] for entry in written] == [found["point"].tolist() for found in expected]
    assert [entry["score"] for entry in written] == pytest.approx([found["score"] for found in expected])
    assert {name: result[name] for name in ("model_type", "score", "layer", "method")} == {
        "model_type": "clip",
        "score": "itc",
        "layer": 2,
        "method": "grad_cam",
    }
    assert 0 < result["recall_at_1_any"] + result["mean_iou_at_1_any"] and result["energy_inside"] > 0
    assert result["protocol"]["agrees"] and "image_size" not in result and "commit" not in result
    assert len(result["weights_sha256"]) == 64


def test_layer_score_and_method_are_chosen_and_part_of_the_command(options, rows, tmp_path, capsys):
    checkpoint = save("blip-itm", tmp_path / "blip")
    words = ["--score", "itc", "--layer", "0", "--method", "attention"]
    result = evaluate(capsys, checkpoint, "synthetic", *options, *words)
    grounder = AutoGrounder.from_pretrained(checkpoint, layer=0, score="itc", method="attention")
    expected = evaluate_grounding(grounder, grounder.processor, rows)
    assert {name: result[name] for name in expected.metrics} == expected.metrics
    assert result["command"].endswith(" --layer 0 --score itc --method attention")
    assert (result["score"], result["layer"], result["method"]) == ("itc", 0, "attention")


@pytest.mark.slow
def test_another_layer_of_albef_gives_its_own_points(checkpoint, options, rows, tiny_model, tiny_processor, capsys):
    result = evaluate(capsys, checkpoint, "synthetic", *options, "--layer", "3")
    assert result["layer"] == 3 != tiny_model.config.explanation_layer
    tiny_model.config.explanation_layer = 3
    expected = evaluate_grounding(tiny_model, tiny_processor, rows).metrics
    assert {name: result[name] for name in expected} == expected
    other = evaluate(capsys, checkpoint, "synthetic", *options, "--method", "relevancy")
    assert (other["method"], other["model_type"]) == ("relevancy", "albef")
    assert other["weights_sha256"] == result["weights_sha256"]


def test_a_phrase_that_is_too_long_is_skipped_and_named(rows):
    grounder = build_tiny_grounder("clip-itc")
    long = [{**row, "phrases": [dict(phrase) for phrase in row["phrases"]]} for row in rows]
    long[1]["phrases"][0]["phrase"] = "red " * 40
    evaluation = evaluate_grounding(grounder, grounder.processor, long, counts_unusable=True)
    (unusable,) = evaluation.unusable
    assert "has 42 tokens, but the model has 16 text positions" in unusable.problem
    assert unusable.point is None and unusable in evaluation.results and not unusable.is_hit
    assert evaluation.metrics["num_phrases"] == sum(len(row["phrases"]) for row in rows)


@pytest.mark.slow
def test_the_commit_of_a_repository_is_resolved(clip, options, hub, capsys):
    files = {path.name: path.read_bytes() for path in clip.glob("*.*")}
    repository = hub.repositories["your-name/clip"] = Repository()
    first = repository.commit("main", files, "first")
    second = repository.commit("main", files | {"README.md": b"a card"}, "second")
    pinned = evaluate(capsys, "your-name/clip", "synthetic", *options, "--revision", first)
    latest = evaluate(capsys, "your-name/clip", "synthetic", *options, "--precision", "bfloat16")
    assert (pinned["commit"], latest["commit"]) == (first, second)
    assert (pinned["precision"], latest["precision"]) == ("float32", "bfloat16")
    assert pinned["weights_sha256"] == latest["weights_sha256"]
    assert pinned["command"].endswith(f" --revision {first}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--score", "itm"], "`score` must be one of 'itc', got 'itm'"),
        (["--layer", "9"], "`layer` is 9"),
        (["--method", "lime"], "`method`"),
        (["--image-size", "64"], "`--image-size` is for checkpoints of ALBEF"),
        (["--precision", "int8"], "`--precision int8` is for checkpoints of ALBEF"),
        (["--compile"], "`--compile` is for checkpoints of ALBEF"),
        (["--revision", "main"], "`--revision main` is for Hub repositories"),
    ],
)
def test_bad_input_is_one_line(words, message, clip, options, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(clip), "synthetic", *options, *words]) == 2
    streams = capsys.readouterr()
    assert message in streams.err.splitlines()[-1] and streams.out == ""


def test_a_layer_of_albef_without_cross_attention_is_refused(checkpoint, options, capsys):
    assert main(["evaluate", str(checkpoint), "synthetic", *options, "--layer", "0"]) == 2
    assert "the layers with cross-attention, which can be explained, are 2 to 3" in capsys.readouterr().err


def test_all_layers_are_evaluated_on_a_development_split(clip, options, tmp_path, capsys):
    output = tmp_path / "layers.json"
    words = [clip, "synthetic", "--split", "validation", *options]
    result = evaluate(capsys, *words, "--layer", "all", "--output", output)
    accuracies = {int(layer): one["pointing_game_accuracy"] for layer, one in result["layers"].items()}
    assert list(accuracies) == [0, 1, 2]
    assert result["pointing_game_accuracy"] == max(accuracies.values()) == accuracies[result["layer"]]
    assert result["layer_choice"] == {
        "measure": "pointing_game_accuracy",
        "ties": "of equal layers the one with the lowest number",
        "is_test_data": False,
    }
    assert " --layer all" in result["command"]
    alone = evaluate(capsys, *words, "--layer", result["layer"], "--output", tmp_path / "one.json")
    assert alone["pointing_game_accuracy"] == result["pointing_game_accuracy"]
    assert json.loads(output.read_text())["phrases"] == json.loads((tmp_path / "one.json").read_text())["phrases"]


def test_layers_of_albef_are_not_chosen_on_test_data(checkpoint, options, capsys):
    words = ["evaluate", str(checkpoint), "synthetic", *options, "--layer", "all"]
    for split in (["test"], ["--split", "test[:1]"], ["--split", "all"]):
        assert main([*words, *split]) == 2
        assert "is a test split by its name" in capsys.readouterr().err.splitlines()[-1]
    result = evaluate(capsys, *words[1:], "--choose-on-test")
    assert result["layer_choice"]["is_test_data"] and list(result["layers"]) == ["2", "3"]
    assert result["command"].endswith("--layer all --choose-on-test")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layer", "last"], "`--layer` must be the number of a layer, counted from 0, or all, got 'last'"),
        (["--layer", "all", "--split", "train", "--metrics", "heatmap_quality"], "chooses by pointing_game"),
        (["--layer", "all", "validation", "test"], "chooses on one split, got validation, test"),
        (["--layer", "all", "--split", "validation", "--method", "similarity"], "explains no layer"),
        (["--choose-on-test"], "`--choose-on-test` is for `--layer all`"),
    ],
)
def test_a_choice_that_cannot_be_made_is_one_line(words, message, clip, options, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(clip), "synthetic", *words, *options]) == 2
    streams = capsys.readouterr()
    assert message in streams.err.splitlines()[-1] and streams.out == ""


@pytest.fixture(scope="module")
def owlvit(tmp_path_factory):
    """Folder of a small OWL-ViT."""
    folder, detector = tmp_path_factory.mktemp("owlvit"), build_tiny_detector("owlvit")
    detector.model.save_pretrained(folder)
    detector.processor.save_pretrained(folder)
    return folder


def test_a_detector_is_measured_on_the_same_protocol(owlvit, options, rows, tmp_path, capsys):
    output = tmp_path / "boxes.parquet"
    result = evaluate(capsys, owlvit, "synthetic", *options, "--baselines", "--output", output)
    detector = build_tiny_detector("owlvit")
    expected = evaluate_grounding(detector, detector.processor, rows)
    assert {name: result[name] for name in expected.metrics} == expected.metrics
    assert "heatmap_quality" in result["metrics_left_out"]
    assert result["model_type"] == "owlvit" and "layer" not in result and len(result["weights_sha256"]) == 64
    assert result["num_phrases_without_detection"] == 0 and result["protocol"]["agrees"]
    table = pyarrow.parquet.read_table(output).to_pylist()
    assert [entry["point"] for entry in table] == [list(answer.point) for answer in expected.results]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layer", "1"], "`--layer` is for heatmaps, but"),
        (["--layer", "all", "--split", "validation"], "a detector has no layer to explain"),
        (["--metrics", "heatmap_quality"], "`heatmap_quality` needs a heatmap"),
        (["--metrics", "phrase_recall", "--tuning-split", "validation"], "`--tuning-split` chooses thresholds of"),
        (["--image-size", "64"], "`--image-size` is for checkpoints of ALBEF"),
    ],
)
def test_what_a_detector_does_not_have_is_refused(words, message, owlvit, options, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(owlvit), "synthetic", *words, *options]) == 2
    streams = capsys.readouterr()
    assert message in streams.err.splitlines()[-1] and streams.out == ""


def test_a_type_that_is_neither_lists_those_that_are(options, tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "owlv3"}')
    assert main(["evaluate", str(tmp_path), "synthetic", *options]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "is a model of type 'owlv3', which cannot be evaluated" in last and "Did you mean `owlv2`?" in last


def test_faithfulness_is_measured_beside_points(clip, options, tmp_path, capsys):
    output = tmp_path / "faithful.parquet"
    words = ["--metrics", "deletion,pointing_game", "--faithfulness-steps", "2", "--output", output]
    result = evaluate(capsys, clip, "synthetic", "--split", "test[:1]", *options, *words)
    assert result["command"].endswith(" --metrics pointing_game,deletion --faithfulness-steps 2")
    table = pyarrow.parquet.read_table(output).to_pylist()
    values = [entry["faithfulness"]["deletion_auc"] for entry in table]
    assert result["deletion_auc"] == pytest.approx(sum(values) / len(values))
    assert "deletion_auc_random" in result and "insertion_auc" not in result
