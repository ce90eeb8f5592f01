# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Grounding with `ground()` against the released code's way, side by side: phrases per second and peak memory.

    python benchmarks/grounding.py            # full size, 256 px, 14 phrases an image (some minutes on two cores)
    python benchmarks/grounding.py --quick    # a small model, to see that it runs

The released way runs on the same layers and weights: every phrase encodes its image again (batches of 8 pairs) and the
matching score is differentiated with respect to every parameter. Times are medians of interleaved repetitions in one
process after a warm-up; peak memory is that of a process of its own per side, the interpreter and libraries included.
Both sides must give the same heatmaps.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import read_peak_memory, write_result

from albef_amc import AlbefConfig, AlbefForImageTextMatching
from albef_amc.explanation_albef import average_over_pieces

RELEASED_BATCH = 8
SMALL = {"hidden_size": 96, "intermediate_size": 384, "num_attention_heads": 4}


def build_model(quick: bool) -> AlbefForImageTextMatching:
    """The published architecture, or a small one, with the same random weights in every process."""
    torch.manual_seed(0)
    small = SMALL if quick else {}
    config = AlbefConfig(
        vision_config={**small, "initializer_range": 0.04},
        text_config={**small, "initializer_range": 0.04},
        initializer_range=0.04,
        queue_size=8,
    )
    return AlbefForImageTextMatching(config).eval()


def build_inputs(num_phrases: int) -> dict[str, torch.Tensor]:
    """One image of 256 px and phrases of 6 to 10 pieces."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(6, 11, (num_phrases,), generator=generator)
    attention_mask = (torch.arange(10)[None, :] < lengths[:, None]).long()
    input_ids = torch.randint(1000, 30000, (num_phrases, 10), generator=generator) * attention_mask
    input_ids[:, 0] = 101
    return {
        "pixel_values": torch.randn(1, 3, 256, 256, generator=generator),
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "image_index": torch.zeros(num_phrases, dtype=torch.int64),
    }


def ground_released_way(model: AlbefForImageTextMatching, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Heatmaps `(P, G_h, G_w)`: an image pass for each phrase, a backward pass into every parameter."""
    text_model, explained = model.albef.text_model, model.config.explanation_layer
    heatmaps = []
    for rows in torch.arange(len(inputs["input_ids"])).split(RELEASED_BATCH):
        mask = inputs["attention_mask"][rows]
        pixel_values = inputs["pixel_values"][inputs["image_index"][rows]]
        keys_values = text_model.project_image(model.albef.vision_model(pixel_values))
        fusion = (mask, keys_values, None)
        states = text_model.encode(inputs["input_ids"][rows], mask)
        states = text_model.run_layers(states, *fusion, first=model.config.text_config.fusion_layer, last=explained)
        states, attention = text_model.run_explained_layer(explained, states, *fusion)
        attention.retain_grad()
        fused = text_model.run_layers(states, *fusion, first=explained + 1)
        model.zero_grad()
        model.itm_head(fused[:, 0])[:, 1].sum().backward()
        maps = (attention.detach() * attention.grad.clamp(min=0)).mean(dim=1)[..., 1:]
        maps = maps.unflatten(-1, model.config.vision_config.grid_size)
        heatmaps.append(average_over_pieces(maps, mask))
    return torch.cat(heatmaps)


def ground_our_way(model: AlbefForImageTextMatching, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Heatmaps `(P, G_h, G_w)` of `ground()`."""
    return model.ground(**inputs).heatmap


SIDES: dict[str, Callable] = {"released": ground_released_way, "ground": ground_our_way}


def measure_memory(side: str, arguments: argparse.Namespace) -> float:
    """Peak memory in GB of a fresh process that loads the model and grounds the phrases once."""
    command = [sys.executable, __file__, "--only", side, "--phrases", str(arguments.phrases)]
    command += ["--threads", str(arguments.threads)] + ["--quick"] * arguments.quick
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(arguments: argparse.Namespace) -> dict:
    """Both sides in this process, interleaved, and the memory of each in a process of its own."""
    model, inputs = build_model(arguments.quick), build_inputs(arguments.phrases)
    heatmaps = {side: run(model, inputs) for side, run in SIDES.items()}  # warm-up
    model.zero_grad()
    difference = (heatmaps["released"] - heatmaps["ground"]).abs().max() / heatmaps["released"].max()
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(arguments.repetitions):
        for side, run in SIDES.items():
            began = time.perf_counter()
            run(model, inputs)
            seconds[side].append(time.perf_counter() - began)
            model.zero_grad()
    result = {
        side: {
            "seconds_median": statistics.median(seconds[side]),
            "seconds": seconds[side],
            "phrases_per_second": arguments.phrases / statistics.median(seconds[side]),
            "peak_memory_gb": measure_memory(side, arguments),
        }
        for side in SIDES
    }
    ours, released = result["ground"], result["released"]
    return {
        "speed_ratio": ours["phrases_per_second"] / released["phrases_per_second"],
        "memory_share": ours["peak_memory_gb"] / released["peak_memory_gb"],
        "largest_relative_heatmap_difference": difference.item(),
        **result,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small model, to see that it runs")
    parser.add_argument("--phrases", type=int, default=14, help="phrases of the image")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=SIDES, help=argparse.SUPPRESS)  # the process that measures memory
    parser.add_argument("--output", type=Path, help="JSON to write (benchmarks/results/grounding[_quick].json)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        SIDES[arguments.only](build_model(arguments.quick), build_inputs(arguments.phrases))
        print(read_peak_memory())
        return
    size = "small" if arguments.quick else "full"
    model = f"{size} size, 256 px, {arguments.phrases} phrases on one image, float32"
    write_result("grounding", {"model": model, **measure(arguments)}, arguments.output, arguments.quick)


if __name__ == "__main__":
    main()
