"""Training runs under the launch files that ship, on two CPU processes; `python distributed_runs.py FOLDER RUN...`.

A run is WRAPPER-FEATURE+FEATURE...: `fsdp2-bf16+resume`. Every process writes what it saw to `FOLDER/RUN-RANK.pt`.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from parallel_cases import build_uneven_rows
from pretend_gpus import name_wrapper, pretend_gpus, use_gloo_in_deepspeed
from testing_utils import (
    PoisonedCollator,
    build_tiny_config,
    build_tiny_processor,
    build_tiny_trainer,
    end_process,
    list_training_logs,
)
from transformers import set_seed

from albef_amc import AlbefForPreTraining
from albef_amc.momentum_albef import MOMENTUM_PREFIX
from albef_amc.trainer import AmcTrainer, build_lora_config
from albef_amc.trainer.sharding import collect_weights

LAUNCH_FILES = {"ddp": "gpu_2", "fsdp2": "fsdp2", "zero1": "deepspeed_zero1", "zero2": "deepspeed_zero2"}
FEATURES: dict[str, dict[str, Any]] = {
    "float32": {},
    "bf16": {"bf16": True},
    "lora": {},
    "accumulation": {"gradient_accumulation_steps": 2},
    "checkpointing": {"gradient_checkpointing": True},
    "resume": {"save_strategy": "steps", "save_steps": 1},
    "sheets": {"eval_strategy": "steps", "eval_steps": 2, "num_heatmaps_drawn": 2},
    "best": {"eval_strategy": "steps", "eval_steps": 2, "keep_best": True},
    "clipped": {"max_grad_norm": 1.0},
    "poisoned": {"train_sampling_strategy": "sequential"},  # the pixels of one image are not a number
    "buckets": {"ddp_bucket_cap_mb": 1},
    "compiled": {},
    "deterministic": {"full_determinism": True},
    "long": {"max_steps": 20},
}
NUM_STEPS = 2
EVERYTHING = "bf16+accumulation+checkpointing+resume+sheets+best"


def get_rank() -> int:
    """Number of this process; 0 where the launcher started a single one."""
    return int(os.environ.get("RANK", 0))


def build_base(folder: Path) -> Path:
    """Checkpoint that LoRA adapts; the same on every process."""
    base = folder / f"base-{get_rank()}"
    if not base.is_dir():
        set_seed(0)
        AlbefForPreTraining(build_tiny_config()).save_pretrained(base)
        build_tiny_processor().save_pretrained(base)
    return base


def build_trainer(name: str, folder: Path, use_cpu: bool) -> AmcTrainer:
    """The trainer of a run; its outputs lie in `FOLDER/RUN`."""
    features = name.partition("-")[2].split("+")
    model = AlbefForPreTraining.from_pretrained(build_base(folder))
    if "compiled" in features:
        model.compile_encoders(**({} if torch.cuda.is_available() else {"backend": "aot_eager"}))
    settings: dict[str, Any] = dict(max_steps=NUM_STEPS, use_cpu=use_cpu)
    for feature in features:
        settings |= FEATURES[feature]
    rows = build_uneven_rows()
    set_seed(0)
    return build_tiny_trainer(
        model,
        folder / name,
        rows,
        rows[:4] if "eval_strategy" in settings else None,
        peft_config=build_lora_config(model.config, r=2, lora_alpha=4) if "lora" in features else None,
        **settings,
    )


class OutputsRecorder:
    """Types of what the first forward pass of a run gave to the loss, and the loss itself."""

    def __init__(self, trainer: AmcTrainer):
        self.compute_loss = trainer.compute_loss
        self.types: dict[str, str] = {}
        self.first_loss = 0.0
        self.num_batches = 0
        trainer.compute_loss = self.record

    def record(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = self.compute_loss(model, inputs, True, num_items_in_batch)
        self.num_batches += 1
        if not self.types:
            self.first_loss = loss.item()
            self.types = {"loss": str(loss.dtype)} | {
                key: str(value.dtype)
                for key, value in outputs.items()
                if key.endswith("_loss") or "heatmap" in key or key.startswith("momentum")
            }
        return (loss, outputs) if return_outputs else loss


def measure_movement(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], names: set[str]) -> float:
    """Share of the entries that are neither as before nor as before in bfloat16."""
    moved = [(after[key] != before[key]) & (after[key] != before[key].bfloat16().float()) for key in names]
    return torch.cat([value.flatten() for value in moved]).float().mean().item()


def copy_weights(trainer: AmcTrainer) -> dict[str, torch.Tensor]:
    """All weights and buffers, complete on this process."""
    return {key: value.detach().cpu().clone() for key, value in collect_weights(unwrap(trainer)).items()}


def unwrap(trainer: AmcTrainer) -> torch.nn.Module:
    return trainer.accelerator.unwrap_model(trainer.model_wrapped)


def train(name: str, folder: Path, is_resumed: bool = False, use_cpu: bool = False) -> dict[str, Any]:
    """Trains one run on this process; returns what it left."""
    trainer = build_trainer(name, folder, use_cpu)
    before = {key: value.cpu().clone() for key, value in unwrap(trainer).state_dict().items()}
    recorder = OutputsRecorder(trainer)
    if "poisoned" in name:
        trainer.data_collator = PoisonedCollator(trainer.data_collator, "1")
    if is_resumed:
        trainer.train(resume_from_checkpoint=str(folder / name / "checkpoint-1"))
    else:
        trainer.train()
    after = copy_weights(trainer)
    momentum = [key for key in after if f".{MOMENTUM_PREFIX}" in f".{key}"]
    moving = set(momentum)
    if trainer.adapter is not None:
        moving &= {f"base_model.model.{key}" for key in trainer.adapter.collect_state()}
    if "resume" not in name:
        trainer.save_model(str(folder / name / f"checkpoint-{trainer.state.global_step}"))
    return {
        "wrapper": name_wrapper(trainer.model_wrapped),
        "types": recorder.types,
        "first_loss": recorder.first_loss,
        "steps_taken": recorder.num_batches // trainer.args.gradient_accumulation_steps,
        "losses": [entry["loss"] for entry in list_training_logs(trainer)],
        "grad_norms": [float(entry["grad_norm"]) for entry in list_training_logs(trainer)],
        "accuracies": [
            entry["eval_pointing_game_accuracy"]
            for entry in trainer.state.log_history
            if "eval_pointing_game_accuracy" in entry
        ],
        "state_types": {key: str(after[key].dtype) for key in after if key in momentum or key.endswith("_queue")},
        "skipped_steps": trainer.skipped_steps,
        "moved": measure_movement(before, after, moving),
        "weights": after,
    }


def run(name: str, folder: Path) -> None:
    """One run of this process, and the same resumed from its checkpoint, if it has one."""
    wrapper, _, features = name.partition("-")
    with pretend_gpus(LAUNCH_FILES[wrapper]):
        try:
            outcome = train(name, folder)
        except FloatingPointError as error:
            outcome = {"error": str(error)}
    if "resume" in features:
        with pretend_gpus(LAUNCH_FILES[wrapper]):
            outcome["resumed"] = train(name, folder, is_resumed=True)
    torch.save(outcome, folder / f"{name}-{get_rank()}.pt")


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    use_gloo_in_deepspeed()
    for name in names:
        run(name, folder)
    end_process()


if __name__ == "__main__":
    main()
