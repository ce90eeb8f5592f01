"""Runs in which one process fails; `python failing_runs.py FOLDER broken_row|endless_wait` under a launcher.

`broken_row`: the Trainer meets a row that the collator refuses, on one process. `endless_wait`: the other process does
not come back from what it waits for, as with NCCL.
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch.distributed as dist
from testing_utils import PATIENCE, build_rows, build_tiny_config, build_tiny_trainer

from albef_amc import AlbefForPreTraining
from albef_amc.trainer.reliability import shared_failures


def train_with_a_broken_row(folder: Path) -> None:
    rows = build_rows(8)
    rows[5]["image"] = "/nowhere/photo_5.jpg"
    settings = dict(train_sampling_strategy="sequential", max_steps=4)
    build_tiny_trainer(AlbefForPreTraining(build_tiny_config()), folder, rows, **settings).train()


def wait_without_end() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the Trainer only notes it
    dist.init_process_group("gloo")
    with shared_failures.failing_together():
        if dist.get_rank() == 1:
            raise ValueError("row 5 cannot be read")
        time.sleep(PATIENCE)


def main() -> None:
    folder, case = Path(sys.argv[1]), sys.argv[2]
    shared_failures.SECONDS_TO_LEAVE = 5.0  # more than the failing process takes to leave
    try:
        train_with_a_broken_row(folder) if case == "broken_row" else wait_without_end()
    except Exception as error:
        (folder / f"error-{os.environ['RANK']}.txt").write_text(f"{type(error).__name__}: {error}")
        sys.stderr.flush()
        os._exit(2)  # the teardown of gloo sometimes aborts


if __name__ == "__main__":
    main()
