"""A short run of AmcTrainer under whatever `accelerate launch` set up; `python gpu_training.py FOLDER WRAPPER`.

Fails unless the model is wrapped as `WRAPPER` says (`fsdp2`, `deepspeed`, `ddp` or `none`), the losses are finite, and
a checkpoint loads for grounding.
"""

import math
import sys
from pathlib import Path

import torch
from parallel_cases import build_uneven_rows
from testing_utils import build_tiny_config, build_tiny_trainer, list_training_logs
from torch.distributed.fsdp import FSDPModule
from transformers import set_seed

from albef_amc import AlbefForImageTextMatching, AlbefForPreTraining


def name_wrapper(model: torch.nn.Module) -> str:
    """How a model is wrapped."""
    names = {"DeepSpeedEngine": "deepspeed", "DistributedDataParallel": "ddp"}
    return "fsdp2" if isinstance(model, FSDPModule) else names.get(type(model).__name__, "none")


def main() -> None:
    folder, wrapper = Path(sys.argv[1]), sys.argv[2]
    set_seed(0)
    rows = build_uneven_rows()
    trainer = build_tiny_trainer(
        AlbefForPreTraining(build_tiny_config()),
        folder / "run",
        rows,
        rows,
        use_cpu=not torch.cuda.is_available(),
        bf16=True,
        save_strategy="steps",
        save_steps=2,
        eval_strategy="steps",
        eval_steps=2,
    )
    trainer.train()
    found = name_wrapper(trainer.model_wrapped)
    if found != wrapper:
        raise SystemExit(f"the model is wrapped as {found}, not as {wrapper}")
    losses = [entry["loss"] for entry in list_training_logs(trainer)]
    if len(losses) != 2 or not all(math.isfinite(loss) for loss in losses):
        raise SystemExit(f"losses {losses}")
    trainer.save_model(str(folder / "saved"))
    if trainer.is_world_process_zero():
        AlbefForImageTextMatching.from_pretrained(folder / "saved")
        AlbefForImageTextMatching.from_pretrained(folder / "run" / "checkpoint-2")
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
