# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The check for GPUs runs on a CPU, and no part stops another; kernels and waits are counted as torch reports them."""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
import warnings
from types import SimpleNamespace

import gpu_check
import profiling
import pytest
import torch
from gpu_check import PARTS, Part
from testing_utils import PROJECT_FOLDER, build_environment

from albef_amc.layout_albef import build_layout

SCRIPT = PROJECT_FOLDER / "benchmarks" / "gpu_check.py"
WAIT = "called a synchronizing CUDA operation (Triggered internally at c10/cuda/CUDAFunctions.cpp:108.)"


def run_script(*words, folder) -> subprocess.CompletedProcess:
    command, environment = [sys.executable, SCRIPT, *words], build_environment()
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(tmp_path):
    file = tmp_path / "result.json"
    done = run_script("--device", "cpu", "--quick", "--output", file, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(file.read_text())
    assert result["command"] == "python benchmarks/gpu_check.py --device cpu --quick"
    assert result["failed"] == [] and list(result["parts"]) == list(PARTS)
    parts = result["parts"]
    assert parts["machine"]["torch"] == torch.__version__ and parts["machine"]["attention"]["math"]
    assert parts["heatmaps"]["float32_without_tf32"]["largest_relative_difference"] == 0
    assert 0 < parts["heatmaps"]["bfloat16_autocast"]["largest_relative_difference"] < 0.1
    for side in (parts["grounding"]["bfloat16_phrases_on_cpu"], parts["training"]["2x8_bfloat16"]):
        assert side["gflop"] > 0 and side["phrases_per_second"] > 0 and side["waits_by_place"] == {}
    assert parts["training"]["whole_loop"] == {"waits": 0, "waits_by_place": {}}
    assert {step["length"] for step in parts["new_shapes"]["as_shipped"]} == {6, 7}
    assert parts["compiled"]["largest_relative_heatmap_difference"] < 1e-5
    outcomes = {test["outcome"] for test in parts["tests"]["tests"]}
    assert outcomes <= {"passed", "skipped"} and len(parts["tests"]["tests"]) > 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "cpu"], "on a CPU the full size would take hours: add `--quick`"),
        (["--quick"], "no GPU was found; `--device cpu --quick` shows that every part runs"),
    ],
)
def test_what_cannot_run_is_refused(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *words, "--output", str(tmp_path / "result.json")])
    with pytest.raises(SystemExit, match="2"):
        gpu_check.main()
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def fail(arguments):
    raise ValueError("no such kernel")


def crash(arguments):
    os._exit(7)


def hang(arguments):
    time.sleep(600)


def test_a_part_that_fails_stops_no_other(tmp_path, monkeypatch):
    """Raises, crashes, hangs, finds something: each is one line of the file, which every part finds written."""
    file = tmp_path / "result.json"
    parts = {
        "fails": Part(fail, 60),
        "crashes": Part(crash, 60),
        "hangs": Part(hang, 1),
        "complains": Part(lambda arguments: ({"found": 3}, ["3 is too many"]), 60),
        "reads": Part(lambda arguments: ({"before": list(json.loads(file.read_text())["parts"])}, []), 60),
    }
    monkeypatch.setattr(gpu_check, "PARTS", parts)
    failed = gpu_check.run_parts(argparse.Namespace(minutes=5, device="cpu"), file)
    found = json.loads(file.read_text())["parts"]
    assert failed == ["fails", "crashes", "hangs", "complains"] == json.loads(file.read_text())["failed"]
    assert found["fails"]["complaints"][0].endswith("ValueError: no such kernel\n")
    assert found["crashes"]["complaints"] == ["its process ended with 7"]
    assert found["hangs"]["complaints"] == ["ended after 1 seconds"]
    assert found["complains"]["found"] == 3 and found["complains"]["complaints"] == ["3 is too many"]
    assert found["reads"]["before"] == ["fails", "crashes", "hangs", "complains"]


@pytest.mark.slow
def test_parts_of_a_gpu_begin_in_new_processes():
    """CUDA cannot be used in a process that was forked from one that has looked for it."""
    found = gpu_check.run_part(Part(crash, 60), argparse.Namespace(device="cuda"), 600)
    assert found == {"complaints": ["its process ended with 7"]}
    assert multiprocessing.get_context(gpu_check.START_METHODS["cuda"]).get_start_method() == "spawn"


def test_parts_see_one_gpu_unless_they_want_all(tmp_path, monkeypatch):
    """`AmcTrainer` refuses several GPUs without a launcher; the tests start the launcher themselves."""

    def see(arguments):
        return {"visible": os.environ["CUDA_VISIBLE_DEVICES"]}, []

    monkeypatch.setattr(gpu_check, "PARTS", {"one": Part(see, 60), "all": Part(see, 60, sees_all_gpus=True)})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    gpu_check.run_parts(argparse.Namespace(minutes=5, device="cpu"), tmp_path / "folder" / "result.json")
    found = json.loads((tmp_path / "folder" / "result.json").read_text())["parts"]
    assert [found[name]["visible"] for name in ("one", "all")] == ["3", "3,5"]
    assert PARTS["tests"].sees_all_gpus and not PARTS["training"].sees_all_gpus


def test_no_part_begins_when_the_time_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "PARTS", {"late": Part(fail, 60)})
    assert gpu_check.run_parts(argparse.Namespace(minutes=0, device="cpu"), tmp_path / "result.json") == ["late"]
    found = json.loads((tmp_path / "result.json").read_text())["parts"]["late"]
    assert found["complaints"] == ["no time was left"]


def test_waits_are_counted_by_the_line_of_the_package(monkeypatch):
    """As `torch.cuda.set_sync_debug_mode("warn")` reports them: by a warning where it happens, however deep."""
    modes, nonzero = [], torch.Tensor.nonzero
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def wait_and_find(tensor):
        warnings.warn(WAIT, stacklevel=1)
        return nonzero(tensor)

    monkeypatch.setattr(torch.Tensor, "nonzero", wait_and_find)
    mask = torch.tensor([[1, 1], [1, 0]])
    with warnings.catch_warnings(record=True) as others, profiling.counting_waits(torch.device("cuda")) as waits:
        for _ in range(3):
            build_layout(mask, torch.tensor([0, 1]), num_images=2)
        warnings.warn("something else", stacklevel=1)
    assert modes == ["warn", "default"] and not others
    assert waits and all(count % 3 == 0 for count in waits.values())
    for place in waits:
        file, _, line = place.partition(":")
        assert file == "modeling_albef_amc/layout_albef.py"
        assert "nonzero" in (PROJECT_FOLDER / file).read_text().splitlines()[int(line) - 1]


def test_a_wait_outside_the_package_has_the_line_of_its_library(monkeypatch):
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    with profiling.counting_waits(torch.device("cuda")) as waits:
        eval(compile(f"import warnings\nwarnings.warn({WAIT!r})", "/lib/site-packages/other/loop.py", "exec"), {})
    assert waits == {"other/loop.py:2": 1}


def test_kernels_that_overlap_count_once(monkeypatch):
    spans = [(10, 20), (15, 30), (50, 60), (0, 5)]  # microseconds
    cuda, cpu = torch.autograd.DeviceType.CUDA, torch.autograd.DeviceType.CPU

    def build_event(device_type, start, end, is_user_annotation=False) -> SimpleNamespace:
        span = SimpleNamespace(start=start, end=end)
        return SimpleNamespace(device_type=device_type, time_range=span, is_user_annotation=is_user_annotation)

    events = [build_event(cuda, *span) for span in spans]
    events += [build_event(cpu, 0, 1000), build_event(cuda, 0, 1000, is_user_annotation=True)]
    averages = [
        SimpleNamespace(key="Optimizer.step", self_device_time_total=900, count=1, is_user_annotation=True),
        SimpleNamespace(key="gemm", self_device_time_total=25, count=2, is_user_annotation=False),
    ]

    class Profiler:
        def __init__(self, activities):
            pass

        def __enter__(self):
            return SimpleNamespace(events=lambda: events, key_averages=lambda: averages)

        def __exit__(self, *details):
            pass

    monkeypatch.setattr(profiling, "profile", Profiler)
    monkeypatch.setattr(profiling, "read_clock", lambda device: 0.0)
    measured = profiling.profile_kernels(lambda: None, torch.device("cuda"))
    assert measured["kernels"] == 4
    assert measured["span_seconds"] == pytest.approx(60e-6) and measured["busy_seconds"] == pytest.approx(35e-6)
    assert measured["busy_share"] == pytest.approx(35 / 60)
    assert measured["largest"] == [{"kernel": "gemm", "seconds": 25e-6, "calls": 2}]
