"""A training step under FSDP2, ZeRO-1 and ZeRO-2 on two processes; `python sharded_cases.py FOLDER CASE...`.

Every case computes the loss of AmcTrainer on a wrapped model, differentiates, and writes the whole gradients, the type
of the wrapper and what the momentum copies became to `FOLDER/CASE-RANK.pt`. The reference is one process with all
images.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from parallel_cases import NUM_IMAGES, build_model, build_uneven_rows
from testing_utils import build_tiny_trainer, end_process
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from albef_amc.trainer import AmcTrainer
from albef_amc.trainer.sharding import build_full_model

ZERO_CASES = {"zero1": 1, "zero2": 2}
FSDP_CASES = {"fsdp2_whole": (), "fsdp2_layers": ("AlbefVisionLayer",)}


def build_unstarted_trainer(model, folder: Path) -> AmcTrainer:
    """A trainer as its training loop would leave it before the first step."""
    trainer = build_tiny_trainer(model, folder, distillation_ramp_epochs=0.0)
    trainer.current_gradient_accumulation_steps = 1  # set by the training loop
    return trainer


def build_inputs(trainer: AmcTrainer, rank: int, world_size: int) -> dict:
    """This process' share of the images; augmentation is the same in every run, since draws are seeded by image."""
    rows = build_uneven_rows()
    size = NUM_IMAGES // world_size
    return trainer.data_collator(rows[rank * size : (rank + 1) * size])


def compute_loss(trainer: AmcTrainer, wrapped, inputs: dict) -> torch.Tensor:
    _, counts = trainer.get_batch_samples(iter([inputs]), 1, torch.device("cpu"))
    return trainer.compute_loss(wrapped, inputs, num_items_in_batch=counts)


def run_reference(folder: Path) -> dict:
    """One process, every image."""
    model = build_model(torch.float64)
    trainer = build_unstarted_trainer(model, folder)
    model.update_momentum()
    compute_loss(trainer, model, build_inputs(trainer, 0, 1)).backward()
    return {
        "gradients": {name: value.grad for name, value in model.named_parameters() if value.grad is not None},
        "momentum": {name: value.detach() for name, value in model.named_parameters() if "momentum" in name},
    }


def run_fsdp2(case: str, folder: Path) -> dict:
    model = build_model(torch.float64)
    trainer = build_unstarted_trainer(model, folder)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for module in list(model.modules()):
        if type(module).__name__ in FSDP_CASES[case]:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for _ in range(2):  # the second pass begins with split parameters again
        model.zero_grad()
        inputs = build_inputs(trainer, dist.get_rank(), dist.get_world_size())
        compute_loss(trainer, model, inputs).backward()
    gradients = {name: value.grad.full_tensor() for name, value in model.named_parameters() if value.grad is not None}
    model.clamp_temperature()
    model.update_momentum()
    momentum = {name: value.full_tensor() for name, value in model.named_parameters() if "momentum" in name}
    whole = build_full_model(model)
    return {
        "wrapper": type(model).__name__,
        "parameter": type(next(model.parameters())).__name__,
        "gradients": gradients,
        "momentum": momentum,
        "whole": whole.state_dict(),
        "whole_type": type(whole).__name__,
    }


def run_zero(case: str, folder: Path) -> dict:
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    # Sums go through gloo. DeepSpeed's own kernel for them on a CPU is compiled on the spot, and its processes wait
    # for each other in shared memory without a limit.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    model = build_model(torch.float64)
    trainer = build_unstarted_trainer(model, folder)
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        config={
            "train_batch_size": NUM_IMAGES,
            "train_micro_batch_size_per_gpu": NUM_IMAGES // dist.get_world_size(),
            "zero_optimization": {"stage": ZERO_CASES[case], "overlap_comm": False},
            "zero_allow_untested_optimizer": True,
            "gradient_clipping": 0.0,
        },
    )
    engine.module.update_momentum()
    inputs = build_inputs(trainer, dist.get_rank(), dist.get_world_size())
    engine.backward(compute_loss(trainer, engine, inputs))
    gradients = {
        name: safe_get_full_grad(value) for name, value in engine.module.named_parameters() if value.requires_grad
    }
    return {
        "wrapper": type(engine).__name__,
        "stage": engine.zero_optimization_stage(),
        "gradients": {name: value for name, value in gradients.items() if value is not None},
        "momentum": {name: value for name, value in engine.module.named_parameters() if "momentum" in name},
    }


def main() -> None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    folder, cases = Path(sys.argv[1]), sys.argv[2:]
    for case in cases:
        outcome = run_zero(case, folder) if case in ZERO_CASES else run_fsdp2(case, folder)
        torch.save(outcome, folder / f"{case}-{dist.get_rank()}.pt")
    end_process()


if __name__ == "__main__":
    main()
