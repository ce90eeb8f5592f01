# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc env`: what a bug report needs to know about the machine."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from transformers.utils import is_flash_attn_2_available

from albef_amc.cli.options import JsonOption
from albef_amc.cli.reporting import print_result

PACKAGES = (
    "albef-amc", "torch", "torchvision", "transformers", "accelerate", "datasets", "huggingface_hub", "peft",
    "deepspeed", "evaluate", "timm", "safetensors", "numpy", "pillow",
)  # fmt: skip


def env(as_json: JsonOption = False) -> None:
    """Print versions, devices and attention back-ends: paste this into a bug report."""
    print_result(describe_environment(), as_json=as_json)


def describe_environment() -> dict[str, Any]:
    """Versions (`"not installed"` where a package is missing), devices, attention back-ends and CPU threads."""
    cuda = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    kernels = {
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "memory_efficient": torch.backends.cuda.mem_efficient_sdp_enabled(),
        "cudnn": torch.backends.cuda.cudnn_sdp_enabled(),
        "math": torch.backends.cuda.math_sdp_enabled(),
    }
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: _installed_version(name) for name in PACKAGES},
        "devices": {
            "cuda_build": torch.version.cuda or "none",
            "cuda": [f"{device.name}, {device.total_memory / 2**30:.0f} GiB" for device in cuda],
            "mps": torch.backends.mps.is_available(),
            "xpu": torch.xpu.is_available(),
        },
        "attention": {
            "sdpa_kernels": [name for name, is_enabled in kernels.items() if is_enabled],
            "flash_attention_2": is_flash_attn_2_available(),
        },
        "cpu": {
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
            "capability": torch.backends.cpu.get_cpu_capability(),
        },
    }


def _installed_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
