"""Runs of distributed_runs.py under what `accelerate launch` set up; `python gpu_training.py FOLDER RUN...`.

Every process writes what it saw to `FOLDER/RUN-RANK.pt`, as distributed_runs.py does with simulated GPUs.
"""

import sys
from pathlib import Path

import torch
from distributed_runs import get_rank, train
from pretend_gpus import forget_earlier_run


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    use_cpu = not torch.cuda.is_available()
    for name in names:
        outcome = train(name, folder, use_cpu=use_cpu)
        forget_earlier_run()
        if "resume" in name:
            outcome["resumed"] = train(name, folder, is_resumed=True, use_cpu=use_cpu)
            forget_earlier_run()
        torch.save(outcome, folder / f"{name}-{get_rank()}.pt")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
