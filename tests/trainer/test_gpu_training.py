"""The Trainer on GPUs, with the files for `accelerate launch` that ship; on a CPU only the first test runs."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from testing_utils import PROJECT_FOLDER

pytestmark = pytest.mark.slow

HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
needs_deepspeed = pytest.mark.skipif(not HAS_DEEPSPEED, reason="deepspeed is not installed")


def launch(file: str, wrapper: str, folder: Path, num_processes: int) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", f"configuration/accelerate/{file}.yaml", "--num_processes", str(num_processes)]
    command += [str(PROJECT_FOLDER / "tests" / "gpu_training.py"), str(folder), wrapper]
    environment = dict(os.environ, HF_HUB_OFFLINE="1")
    done = subprocess.run(command, cwd=PROJECT_FOLDER, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_the_script_on_a_cpu(tmp_path):
    """The tests below run the same script."""
    launch("cpu", "none", tmp_path, 1)


@pytest.mark.gpu
@needs_gpu
def test_one_gpu(tmp_path):
    launch("gpu_1", "none", tmp_path, 1)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus(tmp_path):
    launch("gpu_2", "ddp", tmp_path, 2)


@pytest.mark.gpu
@needs_gpu
def test_fsdp2(tmp_path):
    launch("fsdp2", "fsdp2", tmp_path, torch.cuda.device_count())


@pytest.mark.gpu
@needs_gpu
@needs_deepspeed
@pytest.mark.parametrize("stage", [1, 2])
def test_deepspeed(tmp_path, stage):
    launch(f"deepspeed_zero{stage}", "deepspeed", tmp_path, torch.cuda.device_count())
