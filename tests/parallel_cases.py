"""Training runs that one process and two must agree on; `python parallel_cases.py FOLDER CASE...` under a launcher.

Every case trains a step or two without dropout and writes, per process, the gradients of the last step, the queues,
the logged terms and the type of the wrapper to `FOLDER/CASE-WORLD-RANK.pt`.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed
from testing_utils import build_rows, build_tiny_config, build_tiny_trainer, end_process
from transformers import TrainerCallback, set_seed

from albef_amc import AlbefForPreTraining

NUM_IMAGES = 8
TERMS = ("itc", "itm", "mlm", "amc")
# Name: (weights of the terms, micro-batches of a step, further arguments).
CASES = {
    **{term: ({term: 1.0}, 1, {}) for term in TERMS},
    "all": (dict.fromkeys(TERMS, 1.0), 1, {}),
    "counts_differ": ({"mlm": 1.0, "amc": 1.0}, 1, {}),
    "zero_on_one": ({"mlm": 1.0, "amc": 1.0}, 1, {}),
    "accumulated": ({"mlm": 1.0, "amc": 1.0}, 2, {}),
    "local": ({"itc": 1.0, "itm": 1.0}, 1, {"candidate_scope": "local"}),
    "false_on_one": ({"itc": 1.0, "itm": 1.0}, 1, {"false_phrases_per_image": 2}),
    "two_steps": (dict.fromkeys(TERMS, 1.0), 1, {"max_steps": 2}),
}


def build_uneven_rows() -> list[dict]:
    """Images with one to three phrases of different lengths; the first half has longer ones, and false ones."""
    rows = build_rows(NUM_IMAGES, phrases=3)
    for index, row in enumerate(rows):
        row["phrases"] = row["phrases"][: 1 + index % 3]
        if index < NUM_IMAGES // 2:
            row["phrases"][0]["phrase"] += " left of the small red dog"
            row["false_phrases"] = [f"{row['phrases'][0]['phrase']} and a cup", "green"][: 1 + index % 2]
    return rows


class CaseCollator:
    """The usual collator; in some cases certain images lose their regions and masked words."""

    def __init__(self, collator, case: str):
        self.collator = collator
        self.case = case

    def __call__(self, rows: list[dict]) -> dict:
        batch = self.collator(rows)
        bare = {"counts_differ": {"1", "5", "6"}, "zero_on_one": {"4", "5", "6", "7"}}.get(self.case, set())
        images = torch.tensor([row["image_id"] in bare for row in rows])
        phrases = images[batch["image_index"]]
        batch["has_region"] &= ~phrases
        batch["mlm_labels"][phrases] = -100
        batch["mlm_input_ids"][phrases] = batch["input_ids"][phrases]
        batch.pop("layout")  # it describes the batch as it was
        return batch


class GradientRecorder(TrainerCallback):
    """Keeps the gradients that the optimizer is about to use."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = {
            name.removeprefix("module."): parameter.grad.clone()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }


def build_model(dtype: torch.dtype) -> AlbefForPreTraining:
    set_seed(0)
    config = build_tiny_config()
    config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = 0.0
    return AlbefForPreTraining(config).to(dtype)


def run_case(case: str, folder: Path) -> dict:
    """Trains one case on this process; returns what it left."""
    weights, accumulation, changes = CASES[case]
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    recorder, model = GradientRecorder(), build_model(torch.float64)
    trainer = build_tiny_trainer(
        model,
        folder / f"{case}-{world_size}",
        build_uneven_rows(),
        callbacks=[recorder],
        **{
            "max_steps": 1,
            "per_device_train_batch_size": NUM_IMAGES // world_size // (accumulation if world_size > 1 else 1),
            "gradient_accumulation_steps": accumulation if world_size > 1 else 1,
            "train_sampling_strategy": "sequential",
            "mlm_probability": 0.5,
            "distillation_ramp_epochs": 0.0,
            **{f"{term}_weight": weights.get(term, 0.0) for term in TERMS},
            **changes,
        },
    )
    trainer.data_collator = CaseCollator(trainer.data_collator, case)
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
    return {
        "wrapper": type(trainer.model_wrapped).__name__,
        "gradients": recorder.gradients,
        "queues": {name: value.clone() for name, value in model.named_buffers()},
        "weights": {name: value.detach().clone() for name, value in model.named_parameters()},
        "logged": {name: value for name, value in logged.items() if name.endswith("loss")},
    }


def run_evaluation(folder: Path) -> dict:
    """Points of seven images with two to a batch: the last batches of two processes are partial."""
    trainer = build_tiny_trainer(build_model(torch.float64), folder, per_device_eval_batch_size=2)
    evaluation = trainer.evaluate_phrases(build_uneven_rows()[:7])
    return {
        "phrase_ids": [result.phrase_id for result in evaluation.results],
        "points": [result.point for result in evaluation.results],
        "metrics": evaluation.metrics,
    }


def main() -> None:
    folder, cases = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    rank, world_size = os.environ["RANK"], os.environ["WORLD_SIZE"]
    for case in cases:
        torch.save(run_case(case, folder), folder / f"{case}-{world_size}-{rank}.pt")
    torch.save(run_evaluation(folder), folder / f"evaluation-{world_size}-{rank}.pt")
    end_process()


if __name__ == "__main__":
    main()
