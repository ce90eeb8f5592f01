"""Simulated GPUs: Accelerate's set-up for several GPUs, from the launch files that ship, on CPU processes with gloo.

Without a GPU, Accelerate ignores the FSDP and DeepSpeed settings of a launch file. Here it finds GPUs whose tensors
lie on the CPU: it builds DistributedDataParallel, FSDP2 and DeepSpeed engines as it would on GPUs, with
autocast for the CPU.
"""

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import torch
from accelerate.commands.launch import launch_command, launch_command_parser
from accelerate.state import AcceleratorState, DistributedType, GradientState, PartialState
from testing_utils import PROJECT_FOLDER
from torch.nn.parallel import DistributedDataParallel
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

# What a launch file decides; the launcher of the test decides the rest (ranks, addresses).
LAUNCHER_PREFIXES = ("ACCELERATE_", "FSDP_")


@functools.cache
def read_launch_file(name: str) -> dict[str, str]:
    """What `accelerate launch --config_file configuration/accelerate/NAME.yaml` puts into the environment of a run."""
    file = PROJECT_FOLDER / "configuration" / "accelerate" / f"{name}.yaml"
    words = ["--config_file", str(file), "--main_process_port", "0", "train.py"]
    found: dict[str, str] = {}
    with contextlib.chdir(PROJECT_FOLDER), patch("torch.distributed.run.run", lambda _: found.update(os.environ)):
        launch_command(launch_command_parser().parse_args(words))
        return {
            key: str(Path(value).resolve()) if value.endswith(".json") else value
            for key, value in found.items()
            if key.startswith(LAUNCHER_PREFIXES)
        }


def forget_earlier_run() -> None:
    """Lets a process set up one Trainer after another, each as if it were the first."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    unset_hf_deepspeed_config()


@contextlib.contextmanager
def pretend_gpus(launch_file: str) -> Iterator[None]:
    """Sets up the Trainer of the block as the launch file specifies, on this process, with tensors on the CPU.

    Args:
        launch_file (`str`): name of a file of configuration/accelerate.
    """
    without_device = DistributedDataParallel.__init__

    def wrap(self, module, device_ids=None, output_device=None, **kwargs):
        without_device(self, module, **kwargs)

    forget_earlier_run()
    with (
        patch.dict(os.environ, {**read_launch_file(launch_file), "ACCELERATE_TORCH_DEVICE": "cpu"}),
        patch.object(PartialState, "_prepare_backend", lambda *args: ("gloo", DistributedType.MULTI_GPU)),
        patch.object(DistributedDataParallel, "__init__", wrap),
        patch("transformers.training_args.is_torch_bf16_gpu_available", lambda: True),
    ):
        yield
    forget_earlier_run()


def use_gloo_in_deepspeed() -> None:
    """Sums of DeepSpeed go through gloo: its own kernel for a CPU is compiled on the spot, and its processes wait for
    each other in shared memory without a limit."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def name_wrapper(model: torch.nn.Module) -> str:
    """How a model is wrapped: `ddp`, `fsdp2`, `zero1`, `zero2` or `none`."""
    if type(model).__name__ == "DeepSpeedEngine":
        return f"zero{model.zero_optimization_stage()}"
    if isinstance(model, torch.distributed.fsdp.FSDPModule):
        return "fsdp2"
    return "ddp" if isinstance(model, DistributedDataParallel) else "none"
