# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What a benchmark ran on, what it took, and where it writes: every result file says command and machine."""

import json
import platform
import re
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

CPU_FILE = Path("/proc/cpuinfo")
PLACE_OPTIONS = ("--folder", "--output")  # of one machine, and without effect on what is measured
NAMED_OPTIONS = {
    "--other": "OTHER_CHECKOUT",
    "--checkpoint": "CHECKPOINT",
}  # places that matter: a word stands for them
RESULTS_FOLDER = Path(__file__).parent / "results"


def describe_machine() -> dict:
    """Processor, threads and versions."""
    lines = CPU_FILE.read_text().splitlines() if CPU_FILE.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def read_peak_memory(device: str = "cpu") -> float:
    """Peak resident memory of this process in GB (`VmHWM`; `ru_maxrss` would include the parent's); on a GPU the
    memory that torch allocated there."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024 / 1e9


def name_command(script: str) -> str:
    """The command that this process runs, `script` being the name of the benchmark without `.py`."""
    places = {index + step for index, word in enumerate(sys.argv) if word in PLACE_OPTIONS for step in (0, 1)}
    words = [word for index, word in enumerate(sys.argv) if index not in places][1:]
    words = [NAMED_OPTIONS.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    return " ".join(["python", f"benchmarks/{script}.py", *words])


def write_result(script: str, measured: dict[str, Any], output: Path | None, quick: bool, name: str = "") -> Path:
    """Writes and prints what a benchmark measured, with its command and machine; returns the file.

    Args:
        script (`str`): name of the benchmark, without `.py`.
        measured (`dict`): what it measured.
        output (`Path`, *optional*): JSON to write; `benchmarks/results/<script>[_quick].json` by default.
        quick (`bool`): whether it was a quick run.
        name (`str`, *optional*): name of the result, that of the benchmark by default.
    """
    content = json.dumps({"command": name_command(script), "machine": describe_machine(), **measured}, indent=2)
    output = output or RESULTS_FOLDER / f"{name or script}{'_quick' * quick}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(content + "\n")
    print(content)
    return output
