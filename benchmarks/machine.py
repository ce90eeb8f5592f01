# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What a benchmark ran on; every result file says so."""

import platform
from pathlib import Path

import torch
import transformers

CPU_FILE = Path("/proc/cpuinfo")


def describe_machine() -> dict:
    """Processor, threads and versions."""
    lines = CPU_FILE.read_text().splitlines() if CPU_FILE.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
