"""The Trainer on GPUs, with the files for `accelerate launch` that ship: runs that other tests make without any.

On a CPU only the first test runs: it shows that the script and the checks work.
"""

import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_runs import EVERYTHING
from testing_utils import PROJECT_FOLDER, build_environment

from albef_amc import AlbefForImageTextMatching
from albef_amc.lora.adapter_files import is_adapter

pytestmark = pytest.mark.slow

HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
needs_deepspeed = pytest.mark.skipif(not HAS_DEEPSPEED, reason="deepspeed is not installed")
TOGETHER = (EVERYTHING, f"{EVERYTHING}+lora")
ON_ONE = (*TOGETHER, "bf16+compiled", "float32+resume+deterministic")
LEAST_MOVED = 0.9  # of the entries of momentum weights
# Relative, of losses and of weights by their norm: sums in another order in bfloat16.
LOSS_TOLERANCE, WEIGHT_TOLERANCE = 1e-2, 1e-2


def launch(file: str, wrapper: str, features: tuple[str, ...], folder: Path, num_processes: int) -> list[str]:
    """Makes the runs of a launch file; returns their names."""
    runs = [f"{wrapper}-{one}" for one in features]
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", f"configuration/accelerate/{file}.yaml", "--num_processes", str(num_processes)]
    command += [str(PROJECT_FOLDER / "tests" / "gpu_training.py"), str(folder), *runs]
    done = subprocess.run(command, cwd=PROJECT_FOLDER, env=build_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return runs


def measure_distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Norm of the difference of all weights, over their norm."""
    assert one.keys() == other.keys()
    difference = sum((one[name].double() - other[name].double()).square().sum() for name in one)
    return math.sqrt(difference / sum(value.double().square().sum() for value in other.values()))


def check_run(folder: Path, run: str, num_processes: int, has_same_bits: bool) -> None:
    """Wrapper, types, movement of momentum weights, losses, evaluation, resume and files of a run."""
    wrapper, _, features = run.partition("-")
    for rank in range(num_processes):
        own = torch.load(folder / f"{run}-{rank}.pt")
        assert own["wrapper"] == wrapper
        assert {"loss", "normalized_heatmap", "momentum_text_features"} <= set(own["types"])
        assert set(own["types"].values()) == set(own["state_types"].values()) == {"torch.float32"}
        assert own["moved"] >= LEAST_MOVED
        assert len(own["losses"]) == 2 and all(map(math.isfinite, own["losses"]))
        assert all(value.isfinite().all() for value in own["weights"].values())
        assert len(own["accuracies"]) == ("best" in features)
        if "resume" in features:
            resumed = own["resumed"]
            assert (resumed["wrapper"], resumed["steps_taken"]) == (wrapper, 1)
            if has_same_bits or "deterministic" in features:
                assert all(torch.equal(resumed["weights"][name], value) for name, value in own["weights"].items())
            assert measure_distance(resumed["weights"], own["weights"]) <= WEIGHT_TOLERANCE
    checkpoint = folder / run / "checkpoint-2"
    assert is_adapter(checkpoint) == ("lora" in features)
    if "lora" not in features:
        AlbefForImageTextMatching.from_pretrained(checkpoint)
    if "sheets" in features:
        assert (folder / run / "heatmaps" / "step-2.png").is_file()
        assert is_adapter(folder / run / "best-eval") == ("lora" in features)


def check_same(folder: Path, run: str, reference: str) -> None:
    """Losses and weights of a run are those of another one with the same numbers drawn."""
    own, expected = (torch.load(folder / f"{name}-0.pt") for name in (run, reference))
    assert own["losses"] == pytest.approx(expected["losses"], rel=LOSS_TOLERANCE)
    assert measure_distance(own["weights"], expected["weights"]) <= WEIGHT_TOLERANCE


def test_the_script_on_a_cpu(tmp_path):
    """The tests below make the same runs and the same checks."""
    runs = launch("cpu", "none", (EVERYTHING, *ON_ONE[-2:]), tmp_path, 1)
    for run in runs:
        check_run(tmp_path, run, 1, has_same_bits=True)
    check_same(tmp_path, runs[0], runs[0])
    with pytest.raises(AssertionError):
        check_same(tmp_path, runs[0], runs[1])  # another number of micro-batches


@pytest.fixture(scope="module")
def plain_runs(tmp_path_factory) -> tuple[Path, str, int]:
    """Folder of the runs to compare with, their wrapper, and the number of processes: two under DDP if there are two
    GPUs, as many as have rows to train on."""
    folder, num_processes = tmp_path_factory.mktemp("plain"), min(2, torch.cuda.device_count())
    file, wrapper = ("gpu_1", "none") if num_processes == 1 else ("gpu_2", "ddp")
    launch(file, wrapper, TOGETHER, folder, num_processes)
    return folder, wrapper, num_processes


@pytest.mark.gpu
@needs_gpu
def test_one_gpu(tmp_path):
    for run in launch("gpu_1", "none", ON_ONE, tmp_path, 1):
        check_run(tmp_path, run, 1, has_same_bits=False)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus(plain_runs):
    folder, wrapper, num_processes = plain_runs
    for features in TOGETHER:
        check_run(folder, f"{wrapper}-{features}", num_processes, has_same_bits=False)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(
    ("file", "wrapper"),
    [
        ("fsdp2", "fsdp2"),
        pytest.param("deepspeed_zero1", "zero1", marks=needs_deepspeed),
        pytest.param("deepspeed_zero2", "zero2", marks=needs_deepspeed),
    ],
)
def test_split_weights_train_as_whole_ones(plain_runs, file, wrapper):
    folder, plain, num_processes = plain_runs
    for run, features in zip(launch(file, wrapper, TOGETHER, folder, num_processes), TOGETHER, strict=True):
        check_run(folder, run, num_processes, has_same_bits=False)
        check_same(folder, run, f"{plain}-{features}")
