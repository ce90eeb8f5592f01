"""Benchmarks of grounding and training run in small, both sides agree, and files say what they were made with."""

import json
import subprocess
import sys

import pytest
from testing_utils import PROJECT_FOLDER

SIDES = {"grounding": {"released", "ground"}, "training": {"released", "trainer"}}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grounding", pytest.param("training", marks=pytest.mark.exhaustive)])
def test_a_quick_run_writes_its_table(name, tmp_path):
    file = tmp_path / "result.json"
    words = ["--quick", "--repetitions", "1", "--threads", "1"]
    command = [sys.executable, PROJECT_FOLDER / "benchmarks" / f"{name}.py", *words, "--output", file]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(file.read_text())
    assert result["command"] == f"python benchmarks/{name}.py --quick --repetitions 1 --threads 1"
    assert result["machine"]["threads"] == 1
    (row,) = result["cases"]
    assert row["flop_bound"] > 1 and row["speed_ratio"] > 0
    for side in SIDES[name]:
        described = row["sides"][side]
        assert described["gflop"] > 0 and described["share_of_matrix_rate"] > 0
        peak = next(value for key, value in described.items() if key.startswith("peak_memory_gb"))
        assert 0.1 < peak < 10
    assert row["case"] in done.stderr  # the table for people


@pytest.mark.usefixtures("packed_bfloat16")
@pytest.mark.slow
def test_a_quick_run_measures_the_switches(checkpoint, tmp_path):
    file = tmp_path / "result.json"
    words = ["--quick", "--repetitions", "1", "--scenes", "2", "--threads", "1"]
    command = [sys.executable, PROJECT_FOLDER / "benchmarks" / "switches.py", *words, "--checkpoint", checkpoint]
    done = subprocess.run([*command, "--output", file], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(file.read_text())
    sides, switches = result["sides"], result["trained_model"]["switches"]
    assert set(switches) < set(sides) and result["trained_model"]["num_phrases"] == 8
    for name, switch in switches.items():
        assert sides[name]["mean_cosine"] > 0.99 and switch["mean_cosine"] > 0.95
    assert sides["ground"]["largest_relative_difference"] < 1e-5
    assert sides["packed"]["largest_relative_difference"] < 1e-5 < sides["int8"]["largest_relative_difference"]
    assert sides["ground"]["against_ground_float32"] == 1
    batched = {name for name in sides if "against_one_image" in sides[name]}
    assert batched == {"ground_x4", "packed_x4", "int8_packed_x4"}


@pytest.mark.exhaustive
def test_a_quick_run_compares_grounders(tmp_path):
    file = tmp_path / "result.json"
    words = ["--quick", "--rounds", "1", "--phrases", "3", "--threads", "1", "--output", file]
    command = [sys.executable, PROJECT_FOLDER / "benchmarks" / "grounders.py", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(file.read_text())
    assert result["phrases"] == 3 and set(result["speed_ratio"]) == {"blip", "clip"}
    assert max(result["largest_relative_heatmap_difference"].values()) < 1e-4
    sides = result["sides"]
    assert all(side["phrases_per_second"] > 0 for side in sides.values())
    measured = {name for name, side in sides.items() if side.get("peak_memory_gb", 0) > 0.1}
    assert measured == {"blip_lavis", "blip", "clip_hooks", "clip", "grounding_dino_tiny", "owlv2_base"}
