# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What AMC costs: a training step of `AmcTrainer` with it and without it, side by side, and its heatmaps in bfloat16.

    python benchmarks/training.py            # full size, 256 px, 4 images x 1 phrase (some minutes on two cores)
    python benchmarks/training.py --quick    # a small model, to see that it runs
    python benchmarks/training.py --device cuda --bf16 --images 32 --phrases 4

A step is everything between two batches: momentum update, forward, backward, queues, AdamW; dropout on. Both sides
train the same weights in one process, interleaved, after a warm-up; times are medians. Peak memory is that of a
process of its own per side, the interpreter and libraries included (on a GPU: the memory that torch allocated).
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from grounding import SMALL
from machine import read_peak_memory, write_result

from albef_amc import AlbefConfig, AlbefForPreTraining, AlbefImageProcessor, AlbefProcessor
from albef_amc.text_processing_albef import build_tokenizer
from albef_amc.trainer import AmcConfig, AmcTrainer

SIDES = {"without_amc": 0.0, "with_amc": 1.0}
MASKED_SHARE = 0.15


def build_model(quick: bool) -> AlbefForPreTraining:
    """The published architecture, or a small one, with random weights."""
    torch.manual_seed(0)
    small = SMALL if quick else {}
    config = AlbefConfig(
        vision_config={**small, "initializer_range": 0.04},
        text_config={**small, "initializer_range": 0.04},
        initializer_range=0.04,
        queue_size=256 if quick else 65536,
    )
    return AlbefForPreTraining(config)


def build_inputs(num_images: int, phrases_per_image: int) -> dict[str, torch.Tensor]:
    """Images of 256 px with phrases of 6 to 10 pieces; a region each, 15 % of the pieces masked."""
    generator = torch.Generator().manual_seed(1)
    num_phrases = num_images * phrases_per_image
    lengths = torch.randint(6, 11, (num_phrases,), generator=generator)
    attention_mask = (torch.arange(10)[None, :] < lengths[:, None]).long()
    input_ids = torch.randint(1000, 30000, (num_phrases, 10), generator=generator) * attention_mask
    input_ids[:, 0] = 101
    is_masked = (torch.rand(num_phrases, 10, generator=generator) < MASKED_SHARE) & attention_mask.bool()
    is_masked[:, 0] = False
    is_masked[0, 1] = True
    region_mask = torch.zeros(num_phrases, 256, 256)
    region_mask[:, 64:192, 32:128] = 1.0
    return {
        "pixel_values": torch.randn(num_images, 3, 256, 256, generator=generator),
        "image_ids": torch.arange(num_images),
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "image_index": torch.arange(num_images).repeat_interleave(phrases_per_image),
        "mlm_input_ids": input_ids.masked_fill(is_masked, 103),
        "mlm_labels": input_ids.masked_fill(~is_masked, -100),
        "negative_uniforms": torch.rand(num_phrases, 2, generator=generator),
        "region_mask": region_mask,
        "has_region": torch.ones(num_phrases, dtype=torch.bool),
    }


class Side:
    """One way to train: a trainer with its optimizer."""

    def __init__(self, model: AlbefForPreTraining, amc_weight: float, arguments: argparse.Namespace, folder: str):
        settings = AmcConfig(
            output_dir=folder,
            use_cpu=arguments.device == "cpu",
            bf16=arguments.bf16,
            amc_weight=amc_weight,
            distillation_ramp_epochs=0.0,
            report_to="none",
        )
        tokenizer = build_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word"])
        self.trainer = AmcTrainer(model, settings, AlbefProcessor(AlbefImageProcessor(), tokenizer))
        self.trainer.current_gradient_accumulation_steps = 1
        self.optimizer = self.trainer.create_optimizer()

    def step(self, inputs: dict[str, torch.Tensor]) -> float:
        """Seconds of one training step."""
        began = time.perf_counter()
        self.trainer.training_step(self.trainer.model, dict(inputs))
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.trainer.args.device.type == "cuda":
            torch.cuda.synchronize()
        self.trainer.state.global_step += 1
        return time.perf_counter() - began


def compare_precisions(model: AlbefForPreTraining, inputs: dict[str, torch.Tensor]) -> float:
    """Smallest cosine of a phrase's heatmap under bfloat16 autocast to the one in float32."""
    matching = model.export_matching_model().eval()
    names = ("pixel_values", "input_ids", "attention_mask", "image_index")
    inputs = {name: inputs[name].to(model.device) for name in names}
    precise = matching.ground(**inputs).heatmap.flatten(1)
    with torch.autocast(model.device.type, dtype=torch.bfloat16):
        rough = matching.ground(**inputs).heatmap.flatten(1)
    return torch.nn.functional.cosine_similarity(precise, rough.float()).min().item()


def measure_memory(side: str, arguments: argparse.Namespace) -> float:
    """Peak memory in GB of a fresh process that makes two training steps."""
    command = [sys.executable, __file__, "--only", side, "--device", arguments.device]
    for name in ("images", "phrases", "threads"):
        command += [f"--{name}", str(getattr(arguments, name))]
    command += ["--quick"] * arguments.quick + ["--bf16"] * arguments.bf16
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def print_peak_memory(arguments: argparse.Namespace, folder: str) -> None:
    """What the process of one side prints: its peak memory in GB."""
    side = Side(build_model(arguments.quick), SIDES[arguments.only], arguments, folder)
    inputs = build_inputs(arguments.images, arguments.phrases)
    for _ in range(2):
        side.step(inputs)
    print(torch.cuda.max_memory_allocated() / 1e9 if arguments.device == "cuda" else read_peak_memory())


def measure(arguments: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Both sides in this process, interleaved, and the memory of each in a process of its own."""
    memory = {side: measure_memory(side, arguments) for side in SIDES}
    model, inputs = build_model(arguments.quick), build_inputs(arguments.images, arguments.phrases)
    cosine = compare_precisions(model, inputs)
    sides = {name: Side(model, weight, arguments, folder) for name, weight in SIDES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(arguments.repetitions + 1):
        for name, side in sides.items():
            taken = side.step(inputs)
            if repetition > 0:  # the first is a warm-up
                seconds[name].append(taken)
    num_pairs = arguments.images * arguments.phrases
    result = {
        name: {
            "seconds_median": statistics.median(seconds[name]),
            "seconds": seconds[name],
            "phrases_per_second": num_pairs / statistics.median(seconds[name]),
            "peak_memory_gb": memory[name],
        }
        for name in sides
    }
    ratios = [after / before for before, after in zip(seconds["without_amc"], seconds["with_amc"], strict=True)]
    return {"cost_of_amc": statistics.median(ratios) - 1, "least_bfloat16_heatmap_cosine": cosine, **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small model, to see that it runs")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--phrases", type=int, default=1, help="phrases of an image")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--bf16", action="store_true", help="train under bfloat16 autocast")
    parser.add_argument("--only", choices=SIDES, help=argparse.SUPPRESS)  # the process that measures memory
    parser.add_argument("--output", type=Path, help="JSON to write (benchmarks/results/training[_quick].json)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.only:
            print_peak_memory(arguments, folder)
            return
        measured = measure(arguments, folder)
    size, precision = "small" if arguments.quick else "full", "bfloat16" if arguments.bf16 else "float32"
    described = {
        "model": f"{size} size, 256 px, {arguments.images} images x {arguments.phrases} phrases, {precision}",
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu",
    }
    write_result("training", {**described, **measured}, arguments.output, arguments.quick)


if __name__ == "__main__":
    main()
