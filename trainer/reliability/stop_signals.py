# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Requests to stop a run: Ctrl-C and SIGTERM, on which all processes agree."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.utils import logging

from albef_amc.trainer.processes import sum_numbers

logger = logging.get_logger(__name__)

# A run is stopped by the last of them that any process got; the words are those of messages.
STOP_SIGNALS: dict[int, str] = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class TrainingTerminated(SystemExit):
    """SIGTERM ended a run after it saved a checkpoint; not caught, it ends the process with status 143.

    Args:
        checkpoint (`Path`): the checkpoint to continue from.
    """

    def __init__(self, checkpoint: Path):
        super().__init__(128 + signal.SIGTERM)  # what a shell reports of a process that SIGTERM ended
        self.checkpoint = checkpoint


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C ended a run after it saved a checkpoint; `albef-amc` ends with status 130.

    Args:
        checkpoint (`Path`): the checkpoint to continue from.
    """

    def __init__(self, checkpoint: Path):
        super().__init__(f"{checkpoint} is saved")
        self.checkpoint = checkpoint


class StopOnSignal(TrainerCallback):
    """After Ctrl-C or SIGTERM to any process: the step is finished, a checkpoint is saved, and training stops.

    The first signal is only noted. Every process asks the others after each step and each evaluation, so that all of
    them save the same step. A second Ctrl-C raises `KeyboardInterrupt` at once, and so does one before training has
    started, when there is nothing to save.
    """

    def __init__(self):
        self.noted: int | None = None  # number of the signal that this process got
        self.agreed: int | None = None  # number of the signal that ends the run
        self.is_training = False
        self._process = os.getpid()
        self._is_main = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Notes signals while the block runs; in the main thread only, as Python requires.

        A signal that came too late to stop the training is raised again when the block has ended.
        """
        self.noted = self.agreed = None
        self.is_training, self._process = False, os.getpid()
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ignored = [number for number in STOP_SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
        previous = {number: signal.signal(number, self._note) for number in STOP_SIGNALS if number not in ignored}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self.noted is not None and self.agreed is None:
            signal.raise_signal(self.noted)

    def _note(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:
            return  # a worker of the data loader, which gets Ctrl-C as well: it ends with its run
        if number == signal.SIGINT and (self.noted is not None or not self.is_training):
            raise KeyboardInterrupt
        self.noted = max(self.noted or 0, number)
        if number == signal.SIGINT and self._is_main:
            logger.warning("Ctrl-C: the step is finished and a checkpoint is saved. Once more ends the run at once.")

    def on_train_begin(self, args, state, control, **kwargs):
        """From now on there is something to save."""
        self.is_training, self._is_main = True, state.is_world_process_zero

    def on_step_end(self, args, state, control, **kwargs):
        """Stops and saves where any process noted a signal."""
        if self.agree(args.device):
            control.should_save = control.should_training_stop = True

    def agree(self, device: torch.device) -> bool:
        """Whether the run is to stop, on which all processes agree; every process must call it."""
        notes = [int(self.noted == number) for number in STOP_SIGNALS]
        found = sum_numbers(notes, device)
        if any(found):
            self.agreed = max(number for number, count in zip(STOP_SIGNALS, found, strict=True) if count)
        return any(found)

    def on_epoch_end(self, args, state, control, **kwargs):
        """A stop in the middle of an epoch is not its end: what belongs there is done by the resumed run."""
        if self.agreed is not None and state.epoch % 1:
            control.should_log = control.should_evaluate = control.should_save = False

    def on_evaluate(self, args, state, control, **kwargs):
        """As after a step: an evaluation may be long."""
        self.on_step_end(args, state, control)


def begin_worker(worker_id: int, then: Callable[[int], None] | None = None) -> None:
    """Start of a data loader's worker: it ignores Ctrl-C, which all processes of a terminal get and the run handles.

    Args:
        worker_id (`int`): number of the worker.
        then (callable, *optional*): what else a worker starts with.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if then is not None:
        then(worker_id)
