# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""A training step of `AmcTrainer` against the released code's way, side by side, and what AMC costs in it.

    python benchmarks/training.py            # full size, 256 px: 4 images with 1, 4 and 8 phrases each
    python benchmarks/training.py --sweep    # cost against phrases, images, image size and length, with plots
    python benchmarks/training.py --amc      # what AMC adds to a step, with 1 and 8 phrases per image
    python benchmarks/training.py --memory   # only the peak memory of these cases
    python benchmarks/training.py --gains    # what each habit of the released code costs, with a profile
    python benchmarks/training.py --quick    # a small model, to see that it runs
    python benchmarks/training.py --device cuda --images 32 --phrases 4

A step is everything between two batches: momentum update, forward, backward, queues, AdamW; dropout on. The released
way (benchmarks/released.py) trains the same layers and weights in the same process, with an optimizer of its own; the
sides take turns after a warm-up and medians are compared, turn by turn. Operations are counted as they run. Before, in
evaluation mode, both sides must give the same heatmaps and losses. Peak memory is that of a process of its own per
side, the interpreter and libraries included, with AdamW's moments and without. `trainer_medium` trains after
`torch.set_float32_matmul_precision("medium")`, `trainer_bfloat16` under autocast, `trainer_checkpointed` with
gradient checkpointing.
"""

import argparse
import gc
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from grounding import SMALL, SWEEP_LABELS, Case, Inputs, with_matrix_precision
from grounding import build_inputs as build_phrases
from machine import read_peak_memory, write_result
from measuring import compare_range, compare_turns, count_flops, describe_side, measure_memory, print_table, take_turns
from plots import plot_sweeps
from profiling import measure_gains
from released import RELEASED, Habits, ReleasedTraining

from albef_amc import AlbefConfig, AlbefForPreTraining, AlbefImageProcessor, AlbefProcessor
from albef_amc.text_processing_albef import build_tokenizer
from albef_amc.trainer import AmcConfig, AmcTrainer, AttentionMaskConsistencyLoss

MASKED_SHARE, MASK_TOKEN = 0.15, 103
LEARNING_RATE = 1e-5
UNUSED = [f"[unused{number}]" for number in range(99)]  # [UNK], [CLS], ... then have the ids that BERT's have
LARGEST_DIFFERENCE = 1e-5  # of the maximum, float32
SIDES = ("released", "trainer", "without_amc", "trainer_medium", "trainer_bfloat16", "trainer_checkpointed")
MEASURED_FOR_MEMORY = ("released", "trainer", "trainer_checkpointed")
COMPARED = ("normalized_heatmap", "itm_pair_logits", "itm_loss", "mlm_loss")

CASES = (Case(1, images=4), Case(4, images=4), Case(8, images=4))
AMC_CASES = (CASES[0], CASES[-1])
SWEEPS = {
    "phrases": [Case(count, images=2) for count in (1, 4, 8)],
    "images": [Case(4, images=count) for count in (1, 2, 4)],
    "size": [Case(4, images=2, size=size) for size in (256, 384)],
    "length": [Case(4, images=2, length=length) for length in (10, 20, 40)],
}
GAINS = {
    "released": RELEASED,
    "each image once": replace(RELEASED, image_per_phrase=False),
    "and its keys and values once": replace(RELEASED, image_per_phrase=False, keys_per_pass=False),
    "and scores of masked words only": replace(
        RELEASED, image_per_phrase=False, keys_per_pass=False, all_vocabulary=False
    ),
    "and fused updates": replace(
        RELEASED, image_per_phrase=False, keys_per_pass=False, all_vocabulary=False, loops_over_tensors=False
    ),
}


def build_model(arguments: argparse.Namespace, size: int = 256) -> AlbefForPreTraining:
    """The published architecture, or a small one, with random weights."""
    torch.manual_seed(0)
    small = SMALL if arguments.quick else {}
    config = AlbefConfig(
        vision_config={**small, "initializer_range": 0.04, "image_size": size},
        text_config={**small, "initializer_range": 0.04},
        initializer_range=0.04,
        queue_size=256 if arguments.quick else 65536,
    )
    return AlbefForPreTraining(config).to(arguments.device)


def build_inputs(case: Case, device: str = "cpu") -> Inputs:
    """Images and phrases; a region each, 15 % of the tokens masked, negatives of the next image."""
    inputs, generator = build_phrases(case), torch.Generator().manual_seed(2)
    input_ids, image_index = inputs["input_ids"], inputs["image_index"]
    is_masked = (torch.rand(input_ids.shape, generator=generator) < MASKED_SHARE) & inputs["attention_mask"].bool()
    is_masked[:, 0] = False
    is_masked[0, 1] = True
    region_mask = torch.zeros(len(input_ids), 256, 256)
    region_mask[:, 64:192, 32:128] = 1.0
    inputs |= {
        "image_ids": torch.arange(case.images),
        "mlm_input_ids": input_ids.masked_fill(is_masked, MASK_TOKEN),
        "mlm_labels": input_ids.masked_fill(~is_masked, -100),
        "negative_image_index": (image_index + 1) % case.images,
        "negative_text_index": (torch.arange(len(input_ids)) + case.phrases) % len(input_ids),
        "region_mask": region_mask,
        "has_region": torch.ones(len(input_ids), dtype=torch.bool),
    }
    return {name: tensor.to(device) for name, tensor in inputs.items()}


class TrainerSide:
    """A step of [`AmcTrainer`]."""

    def __init__(self, model: AlbefForPreTraining, folder: str, device: str, amc_weight: float = 1.0, size: int = 256):
        settings = AmcConfig(
            output_dir=folder,
            use_cpu=device == "cpu",
            learning_rate=LEARNING_RATE,
            amc_weight=amc_weight,
            distillation_ramp_epochs=0.0,
            report_to="none",
        )
        tokenizer = build_tokenizer(["[PAD]", *UNUSED, "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word"])
        image_processor = AlbefImageProcessor(size={"height": size, "width": size})
        self.trainer = AmcTrainer(model, settings, AlbefProcessor(image_processor, tokenizer))
        self.trainer.current_gradient_accumulation_steps = 1

    def step(self, inputs: Inputs, optimizer: torch.optim.Optimizer | None) -> None:
        """One training step; without an optimizer the gradients are only computed."""
        self.trainer.training_step(self.trainer.model, dict(inputs))
        if optimizer is not None:
            optimizer.step()
        self.trainer.model.zero_grad()
        self.trainer.state.global_step += 1


def step_released_way(training: ReleasedTraining, optimizer: torch.optim.Optimizer | None) -> None:
    """One training step the released code's way."""
    training.model.train()
    with torch.no_grad():
        training.model.clamp_temperature()
    training.update_momentum()
    loss, output = training.compute_loss()
    loss.backward()
    features = (output.momentum_image_features, output.momentum_text_features)
    training.model.enqueue(*features, training.image_ids, training.images)
    if optimizer is not None:
        optimizer.step()
    training.model.zero_grad()


def build_released_side(model: AlbefForPreTraining, inputs: Inputs, optimizes: bool) -> Callable[[], None]:
    """A step the released code's way."""
    training = ReleasedTraining(model, inputs, AttentionMaskConsistencyLoss())
    optimizer = training.build_optimizer(LEARNING_RATE) if optimizes else None
    return lambda: step_released_way(training, optimizer)


def build_sides(
    model: AlbefForPreTraining,
    inputs: Inputs,
    arguments: argparse.Namespace,
    folder: str,
    names: Iterable[str] = SIDES,
    optimizes: bool = True,
) -> dict[str, Callable[[], None]]:
    """A step of every side that is named; those of the trainer share an optimizer."""
    kind, optimizer, sides = arguments.device, None, {}
    for name in names:
        if name == "released":
            sides[name] = build_released_side(model, inputs, optimizes)
            continue
        side = TrainerSide(model, folder, kind, amc_weight=0.0 if name == "without_amc" else 1.0)
        if optimizes and optimizer is None:
            optimizer = side.trainer.create_optimizer()
        step = partial(side.step, inputs, optimizer)
        if name == "trainer_medium":
            step = with_matrix_precision("medium", step)
        elif name == "trainer_bfloat16":
            step = torch.autocast(kind, dtype=torch.bfloat16)(step)
        elif name == "trainer_checkpointed":
            step = with_checkpointing(model, step)
        sides[name] = step
    return sides


def with_checkpointing(model: AlbefForPreTraining, step: Callable[[], None]) -> Callable[[], None]:
    """The step with activation checkpointing."""

    def step_so() -> None:
        model.activation_checkpointing_enable()
        step()
        model.activation_checkpointing_disable()

    return step_so


def compare_outputs(model: AlbefForPreTraining, inputs: Inputs) -> dict[str, float]:
    """Largest difference of each output, relative to its maximum: without dropout, on the same weights."""
    model.eval()
    _, expected = ReleasedTraining(model, inputs, AttentionMaskConsistencyLoss()).compute_loss()
    names = ("region_mask", "has_region")
    outputs = model(**{name: value for name, value in inputs.items() if name not in names}, output_heatmap=True)
    model.train()
    differences = {}
    for name in COMPARED:
        one, other = getattr(expected, name).detach(), getattr(outputs, name).detach()
        differences[name] = ((one - other).abs().max() / one.abs().max()).item()
    return differences


def compare_precisions(model: AlbefForPreTraining, inputs: Inputs) -> float:
    """Smallest cosine of a phrase's heatmap under bfloat16 autocast to the one in float32."""
    matching = model.export_matching_model().eval()
    inputs = {name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask", "image_index")}
    precise = matching.ground(**inputs).heatmap.flatten(1)
    with torch.autocast(model.device.type, dtype=torch.bfloat16):
        rough = matching.ground(**inputs).heatmap.flatten(1)
    return torch.nn.functional.cosine_similarity(precise, rough.float()).min().item()


def measure_case(
    case: Case, arguments: argparse.Namespace, folder: str, repetitions: int, chosen: tuple[str, ...] = ()
) -> dict[str, Any]:
    """All sides, or those chosen, on one case: times, operations and differences."""
    model, inputs = build_model(arguments, case.size), build_inputs(case, arguments.device)
    checks: dict[str, Any] = {}
    if not chosen or "released" in chosen:
        checks["largest_relative_differences"] = compare_outputs(model, inputs)
        checks["least_bfloat16_heatmap_cosine"] = compare_precisions(model, inputs)
        if not max(checks["largest_relative_differences"].values()) < LARGEST_DIFFERENCE:
            sys.exit(f"{case}: the sides differ, relative to the maximum: {checks}")
    sides = build_sides(model, inputs, arguments, folder, chosen or SIDES)
    gflop = {name: count_flops(run) for name, run in sides.items()}  # the warm-up as well
    seconds, rate = take_turns(sides, repetitions, inputs["pixel_values"].device, arguments.quick, warm_ups=0)
    count = case.images * case.phrases
    result = {
        "case": str(case),
        **asdict(case),
        "amc_share": compare_turns(seconds["trainer"], seconds["without_amc"]) - 1,
        "amc_share_of_flop": gflop["trainer"] / gflop["without_amc"] - 1,
        "matrix_gflop_per_second": rate,
        **checks,
    }
    if "released" in sides:
        others = [name for name in sides if name != "released"]
        result["speed_ratio"] = compare_turns(seconds["released"], seconds["trainer"])
        result["speed_ratio_range"] = compare_range(seconds["released"], seconds["trainer"])
        result["flop_bound"] = gflop["released"] / gflop["trainer"]
        result["speed_ratios"] = {name: compare_turns(seconds["released"], seconds[name]) for name in others}
    return result | {"sides": {name: describe_side(seconds[name], count, gflop[name], rate) for name in sides}}


def choose_cases(arguments: argparse.Namespace) -> tuple[Case, ...]:
    """The cases of the table, or the one that was asked for."""
    if arguments.images:
        return (Case(arguments.phrases or 1, arguments.images),)
    return CASES[:1] if arguments.quick else CASES


def measure_table(arguments: argparse.Namespace, folder: str) -> list[dict[str, Any]]:
    """Every case, with the peak memory of processes of their own."""
    rows = []
    for case in choose_cases(arguments):
        memory = measure_peaks(case, arguments)  # first: while this process holds no model
        row = measure_case(case, arguments, folder, arguments.repetitions)
        for side, peaks in memory.items():
            row["sides"][side].update(peaks)
        rows.append(row)
        gc.collect()  # trainers refer to themselves
    return rows


def measure_peaks(case: Case, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Peak memory in GB of a process of its own for each side, without AdamW's moments and, for the trainer, with."""
    peaks: dict[str, dict[str, float]] = {}
    for side in ("released", "trainer") if arguments.quick else MEASURED_FOR_MEMORY:
        words = ["--only", side, "--images", case.images, "--phrases", case.phrases]
        words += ["--threads", arguments.threads, "--device", arguments.device] + ["--quick"] * arguments.quick
        peaks[side] = {"peak_memory_gb_without_moments": measure_memory(__file__, [*words, "--no-optimizer"])}
        if side == "trainer":
            peaks[side]["peak_memory_gb"] = measure_memory(__file__, words)
    return peaks


def measure_sweeps(arguments: argparse.Namespace, folder: str) -> dict[str, list[dict[str, Any]]]:
    """Cost against each size, the others as in its cases."""
    return {
        name: [measure_case(case, arguments, folder, 1, ("released", "trainer", "without_amc")) for case in cases]
        for name, cases in SWEEPS.items()
    }


def compare_habits(arguments: argparse.Namespace, folder: str) -> list[dict[str, Any]]:
    """The released implementation with one more habit removed each time, then `AmcTrainer`; with a profile of each."""
    case = Case(4, images=2)
    model, inputs = build_model(arguments), build_inputs(case, arguments.device)

    def build(habits: Habits) -> Callable[[], None]:
        training = ReleasedTraining(model, inputs, AttentionMaskConsistencyLoss(), habits)
        optimizer = training.build_optimizer(LEARNING_RATE)
        return lambda: step_released_way(training, optimizer)

    sides = {name: build(habits) for name, habits in GAINS.items()}
    sides["AmcTrainer"] = build_sides(model, inputs, arguments, folder, ("trainer",))["trainer"]
    device = inputs["pixel_values"].device
    return measure_gains(sides, case.images * case.phrases, arguments.repetitions, device, arguments.quick)


def print_peak_memory(arguments: argparse.Namespace, folder: str) -> None:
    """What the process of one side prints: its peak memory in GB after two steps."""
    model, inputs = build_model(arguments), build_inputs(Case(arguments.phrases, arguments.images), arguments.device)
    names = (arguments.only,)
    step = build_sides(model, inputs, arguments, folder, names, optimizes=not arguments.no_optimizer)[arguments.only]
    for _ in range(2):
        step()
    print(read_peak_memory(arguments.device))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small model, to see that it runs")
    parser.add_argument("--sweep", action="store_true", help="cost against phrases, images, size and length")
    parser.add_argument("--amc", action="store_true", help="only what AMC adds to a step")
    parser.add_argument("--memory", action="store_true", help="only the peak memory of the table's cases")
    parser.add_argument("--gains", action="store_true", help="what each habit of the released code costs")
    parser.add_argument("--images", type=int, help="one case with this many images (default: three cases)")
    parser.add_argument("--phrases", type=int, help="phrases of an image in that case (1)")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # the process that measures memory
    parser.add_argument("--no-optimizer", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help="JSON to write (benchmarks/results/training[_quick].json)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    described = {"model": f"{'small' if arguments.quick else 'full'} size, float32"}

    def write(measured: dict[str, Any], kind: str = "") -> Path:
        name = f"training{kind}{'_cuda' * (arguments.device == 'cuda')}"
        return write_result("training", {**described, **measured}, arguments.output, arguments.quick, name)

    with tempfile.TemporaryDirectory() as folder:
        if arguments.only:
            print_peak_memory(arguments, folder)
        elif arguments.sweep:
            sweeps = measure_sweeps(arguments, folder)
            plot_sweeps(write({"sweeps": sweeps}, "_sweep"), "Training", "ms per pair", sweeps, SWEEP_LABELS)
        elif arguments.amc:
            sides = ("trainer", "without_amc")
            rows = [measure_case(case, arguments, folder, arguments.repetitions, sides) for case in AMC_CASES]
            write({"cases": rows}, "_amc")
        elif arguments.memory:
            chosen = choose_cases(arguments)
            rows = [{"case": str(case), **asdict(case), "sides": measure_peaks(case, arguments)} for case in chosen]
            write({"cases": rows}, "_memory")
        elif arguments.gains:
            write({"gains": compare_habits(arguments, folder)}, "_gains")
        else:
            rows = measure_table(arguments, folder)
            write({"cases": rows})
            names = ("case", "speed_ratio", "flop_bound", "amc_share")
            print_table(
                "released = 1",
                [{name: row[name] for name in names} | row["speed_ratios"] for row in rows],
            )


if __name__ == "__main__":
    main()
