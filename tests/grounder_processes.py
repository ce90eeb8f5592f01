"""Runs of grounders that one process and two must agree on; `python grounder_processes.py FOLDER NAME...` under a
launcher. Writes, per process, gradients, logged terms and the evaluation to `FOLDER/NAME-WORLD-RANK.pt`."""

import os
import sys
from pathlib import Path

import torch
from grounder_cases import build_tiny_grounder
from parallel_cases import NUM_IMAGES, GradientRecorder, build_uneven_rows
from testing_utils import build_photo, build_tiny_arguments, end_process
from torch import nn

from albef_amc.trainer import AmcTrainer

LOSSES = ("itc", "itm", "mlm")


def build_rows_of_two_shapes() -> list[dict]:
    """Uneven rows, whose photographs ViLT sees as grids of two sizes: those of the second process are smaller."""
    rows = build_uneven_rows()
    for number, row in enumerate(rows):
        width, height = (40, 30) if number < NUM_IMAGES // 2 else (34, 32)
        row |= {"image": build_photo(width, height, seed=number), "width": width, "height": height}
    return rows


def run_case(name: str, folder: Path) -> dict:
    """A step of a grounder in float64, with every loss that it has; what it left."""
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    recorder, grounder = GradientRecorder(), build_tiny_grounder(name)
    for module in grounder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    arguments = build_tiny_arguments(
        folder / f"{name}-{world_size}",
        max_steps=1,
        per_device_train_batch_size=NUM_IMAGES // world_size,
        train_sampling_strategy="sequential",
        negative_sampling="hard" if grounder.family.contrast is not None else "uniform",
        false_phrases_per_image=2,
        mask_size=None,
        **{f"{loss}_weight": float(loss in grounder.family.losses) for loss in LOSSES},
    )
    rows = build_rows_of_two_shapes()
    trainer = AmcTrainer(grounder, arguments, grounder.processor, rows, rows[:7], callbacks=[recorder])
    metrics = trainer.evaluate()
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
    return {
        "wrapper": type(trainer.model_wrapped).__name__,
        "gradients": recorder.gradients,
        "logged": {
            term: value for term, value in logged.items() if term.endswith("loss") and term != "constant_itm_loss"
        },
        "metrics": metrics,
    }


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    for name in names:
        torch.save(run_case(name, folder), folder / f"{name}-{os.environ['WORLD_SIZE']}-{os.environ['RANK']}.pt")
    end_process()


if __name__ == "__main__":
    main()
