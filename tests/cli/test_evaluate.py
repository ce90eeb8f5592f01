# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc evaluate`: the pointing game of a checkpoint on made-up scenes and on real photographs."""

import json
import os
import re
import subprocess
import sys

import pyarrow.parquet
import pytest
import torch
from testing_utils import FIXTURES_FOLDER

from albef_amc import AlbefForImageTextMatching
from albef_amc.cli.evaluate import MAX_WORKERS, choose_num_workers, choose_recipe, report_missing_annotations
from albef_amc.cli.main import main
from albef_amc.datasets_scripts import load_grounding_dataset
from albef_amc.evaluation.grounding_evaluation import evaluate_grounding
from albef_amc.evaluation.grounding_metrics import METRICS
from albef_amc.evaluation.heatmap_measures import choose_thresholds

REFER = FIXTURES_FOLDER / "refer"
DETECTIONS = "detections/albef_refcoco+/dets.json"
SCENES = {"num_train_scenes": 2, "num_validation_scenes": 2, "num_test_scenes": 6}


@pytest.fixture
def scene_options(tmp_path):
    """Arguments that make a few synthetic scenes."""
    options = {**SCENES, "cache_dir": tmp_path / "cache"}
    return [word for name, value in options.items() for word in ("--data", f"{name}={value}")]


@pytest.fixture
def refer_options(tmp_path):
    """Arguments that read the small files of the RefCOCO family."""
    return ["--data", f"data_root={REFER}", "--data", f"cache_dir={tmp_path / 'cache'}"]


def count_phrases(name: str, splits: tuple[str, ...]) -> int:
    """Phrases with a box in the raw files, as the published reader has them."""
    rows = json.loads((REFER / "expected" / f"{name}.json").read_text())["rows"]
    return sum(bool(phrase["boxes"]) for row in rows if row["split"] in splits for phrase in row["phrases"])


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


@pytest.mark.slow
def test_metrics_that_are_named_are_computed_with_their_command(
    checkpoint, scene_options, tiny_model, tiny_processor, tmp_path, capsys
):
    words = [
        "synthetic",
        "--split",
        "test",
        *scene_options,
        "--metrics",
        "phrase_recall, heatmap_quality,box_accuracy",
    ]
    output = tmp_path / "scores.json"
    result = evaluate(capsys, checkpoint, *words, "--tuning-split", "validation", "--output", output)
    scenes = {
        split: load_grounding_dataset("synthetic", split, **SCENES, cache_dir=str(tmp_path / "cache"))
        for split in ("validation", "test")
    }
    tuned = evaluate_grounding(tiny_model, tiny_processor, scenes["validation"], metrics=["phrase_recall"])
    thresholds = choose_thresholds([phrase.measures["phrase_recall"] for phrase in tuned.results])
    expected = evaluate_grounding(
        tiny_model, tiny_processor, scenes["test"], metrics=METRICS[1:], mask_thresholds=thresholds
    )
    assert {name: result[name] for name in expected.metrics} == expected.metrics
    assert result["mask_thresholds"] == thresholds != dict.fromkeys(thresholds, 0.5)
    assert "pointing_game_accuracy" not in result
    assert "recall_at_1_any" in result["confidence_interval"] and "energy_inside" not in result["confidence_interval"]
    assert result["command"].endswith(
        " --metrics box_accuracy,heatmap_quality,phrase_recall --tuning-split validation"
    )
    written = json.loads(output.read_text())
    assert {name: written[name] for name in result} == result
    assert written["phrases"][0]["mask_iou"] == expected.to_rows()[0]["mask_iou"]


@pytest.mark.slow
def test_switches_are_recorded_and_leave_the_process_as_it_was(checkpoint, scene_options, tmp_path, capsys):
    words = [checkpoint, "synthetic", *scene_options, "--resamples", 0]
    exact = evaluate(capsys, *words)
    assert (exact["precision"], exact["matmul_precision"]) == ("float32", "highest")
    output = tmp_path / "scores.json"
    chosen = ["--precision", "bfloat16", "--matmul-precision", "medium"]
    rounded = evaluate(capsys, *words, *chosen, "--num-workers", 1, "--output", output)
    assert (rounded["precision"], rounded["matmul_precision"]) == ("bfloat16", "medium")
    written = json.loads(output.read_text())
    assert written["command"].endswith(" --precision bfloat16 --matmul-precision medium")
    assert {name: written[name] for name in rounded} == rounded
    assert rounded["num_phrases"] == exact["num_phrases"]
    assert torch.get_float32_matmul_precision() == "highest" and not torch.is_autocast_enabled("cpu")


@pytest.mark.usefixtures("packed_bfloat16")
@pytest.mark.slow
def test_packed_and_quantised_layers_are_recorded(checkpoint, scene_options, tmp_path, capsys):
    words = [checkpoint, "synthetic", *scene_options, "--resamples", 0]
    exact = evaluate(capsys, *words)
    packed = evaluate(capsys, *words, "--pack-weights")
    assert packed["pointing_game_accuracy"] == exact["pointing_game_accuracy"]
    output = tmp_path / "scores.json"
    rounded = evaluate(capsys, *words, "--precision", "int8", "--pack-weights", "--output", output)
    assert (rounded["precision"], rounded["num_phrases"]) == ("int8", exact["num_phrases"])
    assert json.loads(output.read_text())["command"].endswith(" --precision int8 --pack-weights")


@pytest.mark.slow
def test_compiled_encoders_give_the_same_result(checkpoint, scene_options, monkeypatch, tmp_path, capsys):
    words = [checkpoint, "synthetic", *scene_options]
    expected = evaluate(capsys, *words)
    compile_encoders, calls = AlbefForImageTextMatching.compile_encoders, []

    def compile_eagerly(model, **options):  # without the C++ compiler of the default backend
        calls.append(model)
        compile_encoders(model, **options, backend="aot_eager")

    monkeypatch.setattr(AlbefForImageTextMatching, "compile_encoders", compile_eagerly)
    monkeypatch.setenv("CXX", sys.executable)  # a program that exists
    output = tmp_path / "scores.json"
    result = evaluate(capsys, *words, "--compile", "--output", output)
    assert len(calls) == 1
    assert json.loads(output.read_text())["command"].endswith(" --compile")
    assert result["pointing_game_accuracy"] == expected["pointing_game_accuracy"]


def test_compilation_without_a_compiler_is_one_line(checkpoint, scene_options, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no_such_compiler")
    assert main(["evaluate", str(checkpoint), "synthetic", *scene_options, "--device", "cpu", "--compile"]) == 2
    assert "`--compile` needs a C++ compiler and there is no no_such_compiler" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "measured", "asked", "printed"),
    [
        (
            "refcoco_plus",
            {},
            None,
            "no proposals in the data: box_accuracy_at_50 is skipped (`--data detections_file=FILE`)\n",
        ),
        ("refcoco_plus", {"box_accuracy_at_50": 0.5}, None, ""),
        ("refcoco_plus", {}, ["pointing_game"], ""),
        ("synthetic", {}, None, ""),
        ("a_folder", {"num_regions_from_boxes": 0}, None, ""),
        (
            "a_folder",
            {"num_regions_from_boxes": 3},
            ["heatmap_quality"],
            "3 phrases have neither polygons nor masks: heatmap_quality takes their boxes\n",
        ),
    ],
)
def test_annotations_that_the_data_lacks_are_reported(target, measured, asked, printed, capsys):
    report_missing_annotations(measured, choose_recipe(target, None), asked)
    assert capsys.readouterr().err == printed


def test_workers_beside_a_gpu_alone():
    assert choose_num_workers(torch.device("cpu"), 1) == 0
    assert 0 <= choose_num_workers(torch.device("cuda"), 2) <= MAX_WORKERS


def test_text_has_one_line_a_value(checkpoint, scene_options, capsys):
    assert main(["evaluate", str(checkpoint), "synthetic", *scene_options]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert "pointing_game_accuracy" in names
    assert any(name.startswith("pointing_game_accuracy_by_type.") for name in names)


@pytest.mark.slow
@pytest.mark.data
def test_photographs(checkpoint, data_folder, tmp_path, capsys):
    options = {"data_root": data_folder / "coco_cc_mini", "cache_dir": tmp_path / "cache"}
    words = [word for name, value in options.items() for word in ("--data", f"{name}={value}")]
    result = evaluate(capsys, checkpoint, "coco_phrases", "--split", "all", *words, "--image-size", 64)
    assert result["num_phrases"] > 400
    assert set(result["num_phrases_by_type"]) >= {"category", "spatial", "plural", "caption_np"}


@pytest.mark.slow
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
        (["CHECKPOINT", "refcoco_plus"], "data_root"),
        (["CHECKPOINT", "refcoco_plus", "--split", "testA"], "albef-amc evaluate CHECKPOINT refcoco_plus testA"),
        (["CHECKPOINT", "synthetic", "test", "--split", "test"], "give one or the other"),
        (["CHECKPOINT", "synthetic", "no_split"], "no_split"),
        (["CHECKPOINT", "no_such_recipe.yaml"], "no_such_recipe.yaml"),
        (["CHECKPOINT", "your-name/data", "--data", "name=synthetic"], "`--data name=synthetic` is for recipes"),
        (["CHECKPOINT", "synthetic", "--output", "."], "is a folder, but a file is written"),
        (["CHECKPOINT", "synthetic", "--resamples", "-1"], "--resamples"),
        (["CHECKPOINT", "synthetic", "--metrics", "box_acuracy"], "got 'box_acuracy'. Did you mean `box_accuracy`?"),
        (["CHECKPOINT", "synthetic", "--metrics", ""], "'weight_randomization', got ''"),
        (["CHECKPOINT", "synthetic", "--tuning-split", "validation"], "`--tuning-split` is for phrase_recall"),
        (["CHECKPOINT", "synthetic", "--metrics", "phrase_recall", "--tuning-split", "no_split"], "no_split"),
        (["CHECKPOINT", "synthetic", "--precision", "float16"], "--precision"),
        (["CHECKPOINT", "synthetic", "--matmul-precision", "low"], "--matmul-precision"),
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


@pytest.mark.slow
def test_a_recipe_evaluates_its_splits_at_its_image_size(checkpoint, refer_options, tmp_path, capsys):
    output = tmp_path / "scores.parquet"
    words = [*refer_options, "--data", f"detections_file={DETECTIONS}", "--output", output]
    results = evaluate(capsys, checkpoint, "refcoco_plus", *words)
    assert list(results) == ["val", "testA", "testB"]
    for split, result in results.items():
        assert (result["dataset"], result["split"], result["image_size"]) == ("refcoco_plus", split, [384, 384])
        assert result["num_phrases"] == count_phrases("refcoco+_unc", (split,))
        assert 0 <= result["box_accuracy_at_50"] <= 1
    table = pyarrow.parquet.read_table(output).to_pylist()
    assert len(table) == sum(result["num_phrases"] for result in results.values())
    for split, result in results.items():
        phrases = [phrase for phrase in table if phrase["split"] == split]
        for name, measure in (("is_hit", "pointing_game_accuracy"), ("is_proposal_hit", "box_accuracy_at_50")):
            assert sum(phrase[name] for phrase in phrases) / len(phrases) == pytest.approx(result[measure])
        assert result["protocol"]["agrees"] == (split == "val")
    assert results["testA"]["protocol"]["departures"] == ["2 phrases were scored, not 5726"]
    assert 78.89 in [entry["percent"] for entry in results["testA"]["published"]]


def test_several_splits_are_scored_together(checkpoint, refer_options, tmp_path, capsys):
    output = tmp_path / "scores.json"
    words = ["refclef", *refer_options, "--image-size", 32, "--output", output]
    result = evaluate(capsys, checkpoint, *words)
    assert result["num_phrases"] == count_phrases("refclef_unc", ("testA", "testAB", "testBC", "testC"))
    assert result["protocol"]["departures"] == ["images are 32 x 32, not 384 x 384"]
    command = json.loads(output.read_text())["command"]
    assert command == "albef-amc evaluate CHECKPOINT refclef test --data data_root=DATA_ROOT --image-size 32"


@pytest.mark.slow
@pytest.mark.parametrize("source", ["xml", "info_ground"])
def test_flickr30k_entities_counts_every_mention_with_a_box(checkpoint, tmp_path, capsys, source):
    root = FIXTURES_FOLDER / "flickr30k_entities"
    folder = root if source == "xml" else root / "info_ground"
    data = dict(data_root=folder, source=source, splits="test", cache_dir=tmp_path / "cache")
    data["image_root"] = root / "flickr30k-images"
    words = [word for name, value in data.items() for word in ("--data", f"{name}={value}")]
    result = evaluate(capsys, checkpoint, "flickr30k_entities", *words)
    rows = [row for row in json.loads((root / "expected.json").read_text())["rows"] if row["split"] == "test"]
    expected = sum(bool(phrase["boxes"]) for row in rows for phrase in row["phrases"])
    assert result["num_phrases"] == expected > 0
    assert result["num_phrases_without_box"] == sum(len(row["phrases"]) for row in rows) - expected
    assert result["image_size"] == [256, 256]
    assert result["protocol"]["departures"] == [f"{expected} phrases were scored, not 14481"]


def test_text_has_published_numbers_beside_the_measured_one(checkpoint, refer_options, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(checkpoint), "refcoco_plus", "testB", *refer_options, "--image-size", "32"]) == 0
    streams = capsys.readouterr()
    lines = streams.out.splitlines()
    start = lines.index("published beside measured, testB, pointing_game_accuracy in per cent:")
    assert re.search(
        r"this checkpoint \[\d+\.\d\d, \d+\.\d\d\] at 95 %, exact binomial over \d images$", lines[start + 1]
    )
    assert "   61.10  AMC (boxes of Visual Genome); Yang et al., CVPR 2023" in lines[start + 2 :]
    departures = "images are 32 x 32, not 384 x 384; 3 phrases were scored, not 4889"
    assert lines[-1] == f"protocol of refcoco_plus, testB: NOT followed: {departures}"
    assert "box_accuracy_at_50 is skipped (`--data detections_file=FILE`)" in streams.err


@pytest.mark.slow
def test_a_recipe_of_ones_own_agrees_with_itself(checkpoint, scene_options, tmp_path, capsys):
    expected = evaluate(capsys, checkpoint, "synthetic", *scene_options)
    recipe = tmp_path / "mine.yaml"
    lines = ["data: {name: synthetic}", "splits: {test: test}", "image_size: 32"]
    lines += [f"num_phrases: {{test: {expected['num_phrases']}}}"]
    lines += ["published: [{method: me, split: test, percent: 50, source: here}]"]
    recipe.write_text("\n".join(lines))
    capsys.readouterr()
    assert main(["evaluate", str(checkpoint), str(recipe), *scene_options, "--device", "cpu"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"protocol of mine, test: followed; {expected['num_phrases']} phrases, as published"


@pytest.mark.slow
def test_a_name_of_recipe_and_builder(checkpoint, refer_options, capsys):
    """The recipe at its size; with `--split` the data set at the checkpoint's, as the commands on cards mean it."""
    by_recipe = evaluate(capsys, checkpoint, "refcoco", "testA", *refer_options)
    as_it_is = evaluate(capsys, checkpoint, "refcoco", "--split", "testA", *refer_options)
    assert by_recipe["image_size"] == [384, 384] and by_recipe["protocol"]["agrees"]
    assert as_it_is["image_size"] == [32, 32] and "protocol" not in as_it_is
    assert by_recipe["num_phrases"] == as_it_is["num_phrases"]


def test_other_data_than_the_recipe_s_is_named(checkpoint, refer_options, capsys):
    words = [*refer_options, "--data", "dataset=refcoco+", "--image-size", 32]
    result = evaluate(capsys, checkpoint, "refcoco", "testA[:1]", *words)
    assert "`dataset` of the data is refcoco+, not refcoco" in result["protocol"]["departures"]
    assert "testA[:1] is not among the splits val, testA, testB" in result["protocol"]["departures"]


@pytest.mark.slow
def test_intervals_hold_the_accuracy_and_can_be_omitted(checkpoint, scene_options, capsys):
    first, other, without = (
        evaluate(capsys, checkpoint, "synthetic", *scene_options, *words)
        for words in (["--resamples", 50], ["--resamples", 50, "--seed", 1], ["--resamples", 0])
    )
    interval = first["confidence_interval"]
    low, high = interval["pointing_game_accuracy"]
    assert low <= first["pointing_game_accuracy"] <= high and high - low < 1
    assert (interval["confidence"], interval["num_resamples"], interval["seed"]) == (0.95, 50, 0)
    assert interval["pointing_game_accuracy_by_type"].keys() == first["pointing_game_accuracy_by_type"].keys()
    assert interval["computed"]["pointing_game_accuracy"] == f"exact binomial over {first['num_images']} images"
    assert interval["computed"]["pointing_game_accuracy_by_type"].keys() == first["num_phrases_by_type"].keys()
    assert other["confidence_interval"]["seed"] == 1
    assert "confidence_interval" not in without


@pytest.mark.slow
@pytest.mark.parametrize("metrics", [[], ["--metrics", ",".join(METRICS)]], ids=["default", "all"])
def test_two_processes_give_the_result_of_one(checkpoint, refer_options, tmp_path, capsys, metrics):
    options = ["--data", f"detections_file={DETECTIONS}", "--image-size", 32, "--device", "cpu", *metrics]
    words = ["refcoco_plus", *refer_options, *options]
    expected = evaluate(capsys, checkpoint, *words, "--output", tmp_path / "one.parquet")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    command += ["albef_amc.cli.main", "evaluate", checkpoint, *words, "--output", tmp_path / "two.parquet", "--json"]
    environment = dict(os.environ, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    done = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout)
    for name in ("seconds", "phrases_per_second"):
        for split in expected:
            expected[split].pop(name), result[split].pop(name)
    # Another batch of phrases rounds heatmaps in another way: accuracies are equal, means of real numbers almost.
    means = ("energy_", "inside_", "soft_", "weighted_", "mean_iou")
    for split, measured in expected.items():
        for name in [name for name in measured if name.startswith(means)]:
            assert result[split].pop(name) == pytest.approx(measured.pop(name), abs=1e-5), name
    assert result == expected
    one, two = (pyarrow.parquet.read_table(tmp_path / f"{name}.parquet").to_pylist() for name in ("one", "two"))
    for phrase, other in zip(one, two, strict=True):
        for name in {"score", "heatmap_quality", "mask_iou"} & phrase.keys():
            assert phrase.pop(name) == pytest.approx(other.pop(name), abs=1e-5)
        assert phrase == other
