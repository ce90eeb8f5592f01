# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What only a GPU can show, in one command: heatmaps beside the CPU's, speed, waits, memory, compilation, GPU tests.

    python benchmarks/gpu_check.py                         # eight minutes at most, on one GPU
    python benchmarks/gpu_check.py --device cpu --quick    # every part with a small model, to see that it runs

Parts run one after the other, each in a process of its own, and the JSON is written after each. A part that fails,
crashes or takes too long is noted with its reason; the others run all the same. The command ends with 1 if a part
failed, or found something that should not be.

- `machine`: GPU, versions, torch's settings for float32 and attention.
- `heatmaps`: those of the GPU in every precision beside the CPU's, and with flash attention 2 if it is installed.
- `grounding`: `ground()` in float32 and bfloat16, with phrases on the CPU and on the GPU.
- `training`: steps of `AmcTrainer` in float32 and bfloat16, and where its whole loop waits for the GPU.
- `new_shapes`: the first and the second step of every length of phrases, with torch's choice of attention kernels too.
- `compiled`: grounding and training with compiled encoders beside uncompiled ones.
- `tests`: what the suite marks `gpu`.

Speed comes with the share of the rate of a large matrix product that is measured beside it, and, where the GPU is in
[`PEAK_TFLOPS`], of the peak that its data sheet states. Kernels and waits: benchmarks/profiling.py.
"""

import argparse
import copy
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import traceback
import xml.etree.ElementTree
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from grounding import Case, Inputs, build_inputs, with_matrix_precision
from grounding import build_model as build_matching_model
from machine import RESULTS_FOLDER, describe_machine, name_command, read_peak_memory
from measuring import build_rate_probe, count_flops, describe_side, read_clock
from PIL import Image
from profiling import PROJECT_FOLDER, counting_waits, profile_kernels
from training import TrainerSide
from training import build_model as build_pretraining_model
from transformers import ProgressCallback, TrainerCallback
from transformers.utils import is_flash_attn_2_available

from albef_amc import encoders_albef
from albef_amc.datasets_scripts import build_phrase, build_row
from albef_amc.saving_albef import write_json

MINUTES = 8
PEAK_TFLOPS = {"H100": 989, "H200": 989, "A100": 312, "B200": 2250}  # dense bfloat16, data sheets of NVIDIA
RATE_SHAPE, QUICK_RATE_SHAPE = (8192, 8192, 8192), (256, 256, 256)
SIZE, QUICK_SIZE = 256, 64  # pixels
LARGEST_DIFFERENCE = 1e-3  # of a heatmap's maximum, float32 without TF32
LEAST_COSINE = 0.99  # of a heatmap in bfloat16
WARM_UPS, REPETITIONS = 2, 8
STEPS_BEFORE_WAITS = 2
TEST_SECONDS = 150
SECONDS_TO_END = 10
START_METHODS = {"cpu": "fork", "cuda": "spawn"}  # a fork is faster, but CUDA does not work after it


@dataclass(frozen=True)
class Part:
    """One part of the check.

    Args:
        measure (`Callable`): takes the arguments of the command; returns what it measured and what is wrong with it.
        seconds (`int`): after these it is ended.
        sees_all_gpus (`bool`): whether it sees more than the first GPU; a trainer without a launcher refuses several.
    """

    measure: Callable[[argparse.Namespace], tuple[dict[str, Any], list[str]]]
    seconds: int
    sees_all_gpus: bool = False


def choose_case(arguments: argparse.Namespace) -> Case:
    """What is grounded: a batch of images with as many phrases each as Flickr30k Entities has."""
    return Case(phrases=2, images=2, size=QUICK_SIZE) if arguments.quick else Case(phrases=14, images=16, size=SIZE)


def choose_training_case(arguments: argparse.Namespace, phrases: int = 1) -> Case:
    """The published images of a step on one GPU, with so many phrases each."""
    return Case(phrases, images=2 if arguments.quick else 64, size=QUICK_SIZE if arguments.quick else SIZE)


def choose_repetitions(arguments: argparse.Namespace) -> tuple[int, int]:
    """Calls after the first one that are not measured, and those that are."""
    return (0, 1) if arguments.quick else (WARM_UPS, REPETITIONS)


def describe_device(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """The machine, and the settings of torch that decide how exact and how fast a GPU is."""
    described = describe_machine()
    if arguments.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        described |= {
            "gpus": torch.cuda.device_count(),
            "gpu_memory_gb": properties.total_memory / 1e9,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    described["float32"] = {
        "convolutions": torch.backends.cudnn.conv.fp32_precision,
        "matrix_products": torch.get_float32_matmul_precision(),
    }
    described["attention"] = {
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "memory_efficient": torch.backends.cuda.mem_efficient_sdp_enabled(),
        "cudnn": torch.backends.cuda.cudnn_sdp_enabled(),
        "math": torch.backends.cuda.math_sdp_enabled(),
    }
    return described, []


def compare_heatmaps(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Heatmaps of the GPU, in every precision, beside those of the CPU in float32."""
    case = replace(choose_case(arguments), phrases=4, images=2)
    model = build_matching_model(arguments.quick, case.size)
    inputs = build_inputs(case)
    expected = model.ground(**inputs)
    reference = expected.heatmap.flatten(1)
    model.to(arguments.device)
    rough = copy.deepcopy(model).to(torch.bfloat16)
    inputs["pixel_values"] = inputs["pixel_values"].to(arguments.device)

    runs: dict[str, Callable[[], Any]] = {
        "float32_without_tf32": with_exact_convolutions(lambda: model.ground(**inputs)),
        "float32": lambda: model.ground(**inputs),
        "float32_high": with_matrix_precision("high", lambda: model.ground(**inputs)),
        "bfloat16_autocast": use_autocast(arguments.device, lambda: model.ground(**inputs)),
        "bfloat16_weights": lambda: rough.ground(**inputs),
    }
    if arguments.device == "cuda" and is_flash_attn_2_available():
        flash = copy.deepcopy(rough)
        flash.set_attn_implementation("flash_attention_2")
        runs["flash_attention_2"] = lambda: flash.ground(**inputs)
    measured = {}
    for name, run in runs.items():
        outputs = run()
        heatmaps = outputs.heatmap.flatten(1).cpu().float()
        measured[name] = {
            "largest_relative_difference": ((heatmaps - reference).abs().max() / reference.max()).item(),
            "least_cosine": torch.nn.functional.cosine_similarity(heatmaps, reference).min().item(),
            "equal_points": (heatmaps.argmax(1) == reference.argmax(1)).float().mean().item(),
            "largest_score_difference": (outputs.itm_logits.cpu() - expected.itm_logits).abs().max().item(),
        }
    complaints = []
    if not measured["float32_without_tf32"]["largest_relative_difference"] <= LARGEST_DIFFERENCE:
        complaints.append(f"float32 heatmaps differ by more than {LARGEST_DIFFERENCE} of their maximum from the CPU's")
    for name in set(runs) - {"float32_without_tf32", "float32", "float32_high"}:
        if not measured[name]["least_cosine"] >= LEAST_COSINE:
            complaints.append(f"a heatmap with {name} has a cosine below {LEAST_COSINE}")
    return measured, complaints


def with_exact_convolutions(run: Callable[[], Any]) -> Callable[[], Any]:
    """The function without TF32 in convolutions, which is torch's default on a GPU."""

    def run_so() -> Any:
        convolutions = torch.backends.cudnn.conv
        before, convolutions.fp32_precision = convolutions.fp32_precision, "ieee"
        try:
            return run()
        finally:
            convolutions.fp32_precision = before

    return run_so


def use_autocast(device: str, run: Callable[[], Any]) -> Callable[[], Any]:
    """The function under autocast to bfloat16."""
    return torch.autocast(device, torch.bfloat16)(run)


def time_calls(run: Callable[[], Any], repetitions: int, device: torch.device) -> list[float]:
    """Seconds of each call."""
    seconds = []
    for _ in range(repetitions):
        began = read_clock(device)
        run()
        seconds.append(read_clock(device) - began)
    return seconds


def measure_speed(
    run: Callable[[], Any], num_phrases: int, dtype: torch.dtype, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Time, operations and utilisation of a call, its kernels, waits, and the peak of the GPU's memory."""
    device = torch.device(arguments.device)
    first = time_calls(run, 1, device)
    warm_ups, repetitions = choose_repetitions(arguments)
    time_calls(run, warm_ups, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = time_calls(run, repetitions, device)
    peak_memory = read_peak_memory(arguments.device)
    probe = build_rate_probe(device, dtype, QUICK_RATE_SHAPE if arguments.quick else RATE_SHAPE)
    rate = max(probe() for _ in range(1 + repetitions))
    measured = describe_side(seconds, num_phrases, count_flops(run), rate)
    with counting_waits(device) as waits:
        run()
    return {
        **measured,
        "first_call_seconds": first[0],
        "slowest_over_median": max(seconds) / measured["seconds_median"],
        "share_of_stated_peak": compute_share_of_peak(measured["gflop_per_second"], device),
        "peak_memory_gb": peak_memory,
        "waits": waits.total(),
        "waits_by_place": dict(waits.most_common()),
        **profile_kernels(run, device),
    }


def compute_share_of_peak(gflop_per_second: float, device: torch.device) -> float | None:
    """Share of the bfloat16 peak that the data sheet of the GPU states; None for one that is not in the table."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else ""
    peak = next((tflops for known, tflops in PEAK_TFLOPS.items() if known in name), None)
    return None if peak is None else gflop_per_second / 1e3 / peak


def measure_grounding(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """`ground()` on a batch of images."""
    case = choose_case(arguments)
    model = build_matching_model(arguments.quick, case.size, arguments.device)
    measured: dict[str, Any] = {"case": str(case), **asdict(case)}
    complaints = []
    for place in ("cpu", arguments.device):
        inputs = build_inputs(case, place)
        inputs["pixel_values"] = inputs["pixel_values"].to(arguments.device)
        run = partial(model.ground, **inputs, check_finite=False)
        for dtype in (torch.float32, torch.bfloat16):
            side = run if dtype == torch.float32 else use_autocast(arguments.device, run)
            name = f"{str(dtype).removeprefix('torch.')}_phrases_on_{place}"
            measured[name] = measure_speed(side, case.images * case.phrases, dtype, arguments)
            if place == "cpu" and measured[name]["waits"]:
                complaints.append(f"`ground()` waits with phrases on the CPU: {measured[name]['waits_by_place']}")
    return measured, complaints


def build_rows(case: Case) -> list[dict[str, Any]]:
    """Rows of a data set: grey images, each with phrases of the same number of words, and a box for each."""
    words = " ".join(["word"] * (case.length - 1))  # and [CLS]
    rows = []
    for number in range(case.images):
        picture = Image.new("RGB", (case.size, case.size), (number % 256, 128, 128))
        phrases = [build_phrase(f"{number}-{index}", words, boxes=[[16, 16, 32, 48]]) for index in range(case.phrases)]
        rows.append(build_row(picture, str(number), case.size, case.size, phrases))
    return rows


def collate(side: TrainerSide, case: Case) -> Inputs:
    """The batch that the trainer's own collator makes of a case."""
    return side.trainer.data_collator(build_rows(case))


def build_side(arguments: argparse.Namespace, folder: str) -> tuple[TrainerSide, torch.optim.Optimizer]:
    """The trainer of a new model, and its optimizer."""
    size = choose_training_case(arguments).size
    side = TrainerSide(build_pretraining_model(arguments, size).train(), folder, arguments.device, size=size)
    return side, side.trainer.create_optimizer()


def measure_training(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Training steps on one batch, and the waits of the trainer's whole loop."""
    measured: dict[str, Any] = {}
    complaints = []
    cases = ((1, torch.bfloat16), (8, torch.bfloat16), (1, torch.float32))
    with tempfile.TemporaryDirectory() as folder:
        side, optimizer = build_side(arguments, folder)
        for phrases, dtype in cases[1:] if arguments.quick else cases:
            case = choose_training_case(arguments, phrases)
            step = partial(side.step, collate(side, case), optimizer)
            if dtype == torch.bfloat16:
                step = use_autocast(arguments.device, step)
            name = f"{case.images}x{case.phrases}_{str(dtype).removeprefix('torch.')}"
            measured[name] = measure_speed(step, case.images * case.phrases, dtype, arguments)
        broken = [name for name, value in side.trainer.model.named_parameters() if not value.isfinite().all()]
        if broken:
            complaints.append(f"weights are not finite after training: {broken[:3]}")
        measured["whole_loop"] = measure_loop(side, choose_training_case(arguments))
    return measured, complaints


class WaitCallback(TrainerCallback):
    """Counts the waits of one step, from its batch to the end of its update."""

    def __init__(self, device: torch.device):
        self.device = device
        self.stack = ExitStack()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == STEPS_BEFORE_WAITS:
            self.waits = self.stack.enter_context(counting_waits(self.device))
        elif state.global_step == STEPS_BEFORE_WAITS + 1:
            self.stack.close()


def measure_loop(side: TrainerSide, case: Case) -> dict[str, Any]:
    """Where one step of the trainer's own loop waits: batch, loss, gradient norm, optimizer and logging."""
    trainer = side.trainer
    callback = WaitCallback(trainer.args.device)
    trainer.add_callback(callback)
    trainer.remove_callback(ProgressCallback)
    trainer.args.max_steps = STEPS_BEFORE_WAITS + 2
    trainer.args.per_device_train_batch_size = case.images
    trainer.args.save_strategy = "no"
    trainer.train_dataset = build_rows(case) * trainer.args.max_steps  # one epoch
    trainer.train()
    return {"waits": callback.waits.total(), "waits_by_place": dict(callback.waits.most_common())}


def measure_new_shapes(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Seconds of the first and of the second step of each length, without cuDNN's attention and with it."""
    device, measured = torch.device(arguments.device), {}
    lengths = range(6, 8) if arguments.quick else range(6, 14)
    choices: dict[str, AbstractContextManager] = {
        "as_shipped": nullcontext(),
        "as_torch_chooses": patch.object(encoders_albef, "plans_by_shape", lambda device: False),
    }
    with tempfile.TemporaryDirectory() as folder:
        side, optimizer = build_side(arguments, folder)
        case = choose_training_case(arguments)
        batches = {length: collate(side, replace(case, length=length)) for length in lengths}
        warm_up = collate(side, replace(case, length=lengths[0] - 1))
        for name, choice in choices.items():
            with choice:
                time_calls(use_autocast(arguments.device, partial(side.step, warm_up, optimizer)), 2, device)
                measured[name] = []
                for length, batch in batches.items():
                    step = use_autocast(arguments.device, partial(side.step, batch, optimizer))
                    first, second = time_calls(step, 2, device)
                    measured[name].append({"length": length, "first_seconds": first, "second_seconds": second})
    return measured, []


def measure_compiled(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Steps of grounding and training before and after `compile_encoders`, and the heatmaps of both."""
    device = torch.device(arguments.device)
    options = {"backend": "aot_eager"} if arguments.quick else {}
    (warm_ups, repetitions), case = choose_repetitions(arguments), choose_case(arguments)
    model = build_matching_model(arguments.quick, case.size, arguments.device)
    inputs = build_inputs(case)
    inputs["pixel_values"] = inputs["pixel_values"].to(device)
    measured: dict[str, Any] = {}

    def compare(name: str, compile_encoders: Callable[..., None], run: Callable[[], Any]) -> None:
        run = use_autocast(arguments.device, run)
        time_calls(run, 1 + warm_ups, device)
        before = time_calls(run, repetitions, device)
        compile_encoders(**options)
        first = time_calls(run, 1 + warm_ups, device)
        measured[name] = {"before": before, "first_compiled": first, "compiled": time_calls(run, repetitions, device)}

    expected = model.ground(**inputs).heatmap
    compare("grounding", model.compile_encoders, partial(model.ground, **inputs))
    heatmap = model.ground(**inputs).heatmap
    difference = ((heatmap - expected).abs().max() / expected.max()).item()
    measured["largest_relative_heatmap_difference"] = difference
    with tempfile.TemporaryDirectory() as folder:
        side, optimizer = build_side(arguments, folder)
        batch = collate(side, choose_training_case(arguments))
        compare("training", side.trainer.model.compile_encoders, partial(side.step, batch, optimizer))
    too_large = not difference <= LARGEST_DIFFERENCE
    return measured, [f"compiled heatmaps differ by {difference:.1e} of their maximum"] * too_large


def run_tests(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """The tests that are marked `gpu`: outcome, seconds and message of each."""
    files = [file for file in sorted((PROJECT_FOLDER / "tests").rglob("test_*.py")) if "mark.gpu" in file.read_text()]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *map(str, files)]
        command += [f"--junitxml={report}", f"--timeout={TEST_SECONDS}"]
        done = subprocess.run(command, cwd=PROJECT_FOLDER, capture_output=True, text=True)
        if not report.is_file():
            return {"output": done.stdout[-2000:] + done.stderr[-2000:]}, ["pytest wrote no report"]
        cases = list(xml.etree.ElementTree.parse(report).iter("testcase"))
    tests = []
    for case in cases:
        reason = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        outcome = "passed" if reason is None else reason.tag
        message = "" if reason is None else f"{reason.get('message', '')}\n{reason.text or ''}"[-2000:]
        name = f"{case.get('classname')}::{case.get('name')}"
        tests.append({"test": name, "outcome": outcome, "seconds": float(case.get("time", 0)), "message": message})
    failed = [test["test"] for test in tests if test["outcome"] in ("failure", "error")]
    return {"tests": tests}, [f"failed: {', '.join(failed)}"] if failed else []


PARTS = {
    "machine": Part(describe_device, 60, sees_all_gpus=True),
    "heatmaps": Part(compare_heatmaps, 90),
    "grounding": Part(measure_grounding, 90),
    "training": Part(measure_training, 120),
    "new_shapes": Part(measure_new_shapes, 120),
    "tests": Part(run_tests, 240, sees_all_gpus=True),
    "compiled": Part(measure_compiled, 240),
}


def report_part(part: Part, arguments: argparse.Namespace, sender: Any) -> None:
    """Runs a part in this process and sends what it found."""
    try:
        measured, complaints = part.measure(arguments)
    except Exception:
        measured, complaints = {}, [traceback.format_exc()]
    sender.send(measured | {"complaints": complaints})


def run_part(part: Part, arguments: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """What a part found, in a process of its own that may crash or hang."""
    context = multiprocessing.get_context(START_METHODS[arguments.device])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=report_part, args=(part, arguments, sender))
    with patch.dict(os.environ):
        if not part.sees_all_gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
        process.start()
    sender.close()
    try:
        found = receiver.recv() if receiver.poll(seconds) else None
        if found is None:
            process.kill()
            found = {"complaints": [f"ended after {seconds:.0f} seconds"]}
        process.join(SECONDS_TO_END)
    except EOFError:
        process.join()
        found = {"complaints": [f"its process ended with {process.exitcode}"]}
    return found


def run_parts(arguments: argparse.Namespace, output: Path) -> list[str]:
    """Runs every part for which there is time and writes the JSON after each; returns those that failed."""
    output.parent.mkdir(parents=True, exist_ok=True)
    began, found, failed = time.monotonic(), {}, []
    for name, part in PARTS.items():
        part_began = time.monotonic()
        left = arguments.minutes * 60 - (part_began - began)
        if left > 0:
            found[name] = run_part(part, arguments, min(part.seconds, left))
        else:
            found[name] = {"complaints": ["no time was left"]}
        found[name]["part_seconds"] = time.monotonic() - part_began
        complaints = found[name]["complaints"]
        failed += [name] * bool(complaints)
        write_json(output, {"command": name_command("gpu_check"), "failed": failed, "parts": found})
        summary = "; ".join(complaint.strip().splitlines()[-1] for complaint in complaints) or "as expected"
        print(f"{name}: {summary}", file=sys.stderr, flush=True)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="a small model, to see that every part runs")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="the command takes no longer (8)")
    parser.add_argument("--output", type=Path, help="JSON to write (benchmarks/results/gpu_check[_cpu][_quick].json)")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU was found; `--device cpu --quick` shows that every part runs")
    if arguments.device == "cpu" and not arguments.quick:
        parser.error("on a CPU the full size would take hours: add `--quick`")
    suffix = "_cpu" * (arguments.device == "cpu") + "_quick" * arguments.quick
    output = arguments.output or RESULTS_FOLDER / f"gpu_check{suffix}.json"
    failed = run_parts(arguments, output)
    print(f"{output}: {'failed: ' + ', '.join(failed) if failed else 'all parts as expected'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
