# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What a run does when something goes wrong around it: a loss that is not finite, and a request to stop (a signal)."""

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.utils import DistributedType, gather_object
from torch import nn
from transformers import Trainer, TrainerCallback
from transformers.utils import logging

from albef_amc.messages_albef import list_first
from albef_amc.parallel_albef import sum_over_processes
from albef_amc.trainer.parallel import do_on_main_process, is_true_anywhere
from albef_amc.trainer.reliability.finite_weights import check_finite_weights

logger = logging.get_logger(__name__)

IDS_SHOWN = 64
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # a run is stopped by the last of them that any process got
NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class TrainingTerminated(SystemExit):
    """SIGTERM ended a run after it saved a checkpoint; left alone it ends the process with status 143.

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

    The first signal does no more than leave a note. Every process asks the others after each step and each evaluation,
    so that all of them save the same step. A second Ctrl-C raises `KeyboardInterrupt` at once, and so does one before
    training has begun, when there is nothing to save.
    """

    def __init__(self):
        self.noted: int | None = None  # number of the signal that this process got
        self.agreed: int | None = None  # number of the signal that ends the run
        self.is_training = False
        self._process = os.getpid()
        self._is_main = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes note of signals while the block runs; in the main thread alone, as Python has it.

        A signal that came too late to stop the training is handed on when the block has ended.
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
            return  # a worker of the data loader, which gets Ctrl-C as well: it ends when its run does
        if number == signal.SIGINT and (self.noted is not None or not self.is_training):
            raise KeyboardInterrupt
        self.noted = max(self.noted or 0, number)
        if number == signal.SIGINT and self._is_main:
            logger.warning("Ctrl-C: the step is finished and a checkpoint is saved. Once more ends the run at once.")

    def on_train_begin(self, args, state, control, **kwargs):
        """From here on there is something to save."""
        self.is_training, self._is_main = True, state.is_world_process_zero

    def on_step_end(self, args, state, control, **kwargs):
        """Stops and saves where any process has a note."""
        if self.agree(args.device):
            control.should_save = control.should_training_stop = True

    def agree(self, device: torch.device) -> bool:
        """Whether the run is to stop, on which all processes agree; every process must ask."""
        notes = [int(self.noted == number) for number in STOP_SIGNALS]
        found = sum_over_processes(torch.tensor(notes, device=device)).tolist()
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


class SurvivingTrainer(Trainer):
    """Trainer that skips steps whose loss or gradient is not finite, and that saves and stops on Ctrl-C and SIGTERM.

    A step is skipped where the loss of any micro-batch on any process, or the norm of the gradient, is not finite:
    there is no optimizer step, so parameters and optimizer stay as they were, and the features of a micro-batch whose
    loss is not finite do not enter the queues. The learning rate and the count of steps move on. Skips are counted
    under `skipped_steps` in the log; after `args.max_skipped_steps` in a row the run stops.

    DeepSpeed takes its step inside the backward pass and cannot skip it: there the run stops at the first loss that
    is not finite, before the step, and after a step whose gradient was not.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.stop_signal = StopOnSignal()
        self.add_callback(self.stop_signal)
        self._clear_step()
        self._is_skipped = False
        self._skipped_in_a_row: list[tuple[int, list[str]]] = []

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As for `Trainer`.

        Raises:
            TrainingTerminated: SIGTERM came; a checkpoint of the step is saved.
            TrainingInterrupted: Ctrl-C came (a `KeyboardInterrupt`); a checkpoint of the step is saved.
            FloatingPointError: `max_skipped_steps` steps in a row were skipped, or a weight is NaN or infinite.
        """
        self._clear_step()
        self._skipped_in_a_row.clear()
        with self.stop_signal.listening():
            return super().train(*args, **kwargs)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """Ends a run; one that a signal ended keeps every checkpoint and does nothing more."""
        check_finite_weights(self.model, self.state.global_step, self.args.device)
        if not self.stop_signal.agree(self.args.device):
            if not self.state.global_step:
                raise ValueError("the run ended without a step: the training data gave no batch. Look at its rows.")
            return super()._finalize_training(*args, **kwargs)
        self.control: Any = self.callback_handler.on_train_end(self.args, self.state, self.control)
        self.is_in_train = False
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if not do_on_main_process(checkpoint.is_dir):  # the signal came after the last step
            self._save_checkpoint(self.model, trial=None)
        logger.warning(
            f"stopped by {NAMES[signal.Signals(self.stop_signal.agreed)]} after step {self.state.global_step} of "
            f"{self.state.max_steps}. Continue from {checkpoint} with `resume_from_checkpoint=True`."
        )
        is_interrupted = self.stop_signal.agreed == signal.SIGINT
        raise TrainingInterrupted(checkpoint) if is_interrupted else TrainingTerminated(checkpoint)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As for `Trainer`.

        Raises:
            FloatingPointError: a weight is NaN or infinite; nothing is written.
        """
        check_finite_weights(self.model, self.state.global_step, self.args.device)
        super().save_model(output_dir, _internal_call)

    @property
    def skipped_steps(self) -> int:
        """Steps of the run that were skipped, those before a resume included."""
        return max((entry["skipped_steps"] for entry in self.state.log_history if "skipped_steps" in entry), default=0)

    def is_finite_loss(self, loss: torch.Tensor, inputs: Mapping[str, Any]) -> bool:
        """Whether the loss of a micro-batch is finite on every process; takes note of the rows where it is not.

        Args:
            loss (`torch.Tensor`): the loss before the backward pass.
            inputs (mapping): the batch, with the `row_ids` that the collator gives.
        """
        row_ids = list(inputs.get("row_ids", ()))
        self._row_ids += row_ids
        is_finite = bool(torch.isfinite(loss.detach()).all())
        if not is_finite:
            self._suspect_ids += row_ids
        if not is_true_anywhere(not is_finite, loss.device):
            return True
        self._has_bad_loss = True
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            self._stop([(self.state.global_step + 1, self._suspect_ids)], "the loss is not finite")
        return False

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm of the gradient, which every process has alike; drops gradients that must not be used."""
        grad_norm = super()._get_grad_norm(model, grad_norm)
        is_finite = grad_norm is None or math.isfinite(float(grad_norm))
        if is_finite and not self._has_bad_loss:
            self._skipped_in_a_row.clear()
        else:
            self._skip(model)
        self._clear_step()
        return grad_norm

    def _skip(self, model: nn.Module) -> None:
        """Leaves the optimizer nothing to do in this step; stops after too many such steps in a row."""
        step = self.state.global_step + 1
        reason, row_ids = "the gradient is not finite", self._row_ids
        if self._has_bad_loss:
            reason, row_ids = "the loss is not finite", self._suspect_ids
        self._skipped_in_a_row.append((step, row_ids))
        if row_ids:
            logger.warning(f"step {step} is skipped: {reason}. Images: {', '.join(row_ids)}.")
        is_too_late = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        if is_too_late or len(self._skipped_in_a_row) >= self.args.max_skipped_steps:
            self._stop(self._skipped_in_a_row, reason)
        model.zero_grad()
        self._is_skipped = True

    def _stop(self, steps: list[tuple[int, list[str]]], reason: str) -> NoReturn:
        ids: dict[int, list[str]] = {}
        for step, row_ids in gather_object(steps):
            ids.setdefault(step, []).extend(row_ids)
        batches = "; ".join(f"step {step}: {_shorten(row_ids)}" for step, row_ids in ids.items())
        raise FloatingPointError(
            f"{reason}; {len(ids)} steps in a row could not be taken. Images of the batches: {batches}. Look at these "
            "rows, lower `learning_rate` or set `max_grad_norm`, and resume from the newest checkpoint."
        )

    def _clear_step(self) -> None:
        self._has_bad_loss = False
        self._row_ids: list[str] = []
        self._suspect_ids: list[str] = []

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self._is_skipped:
            self._is_skipped = False
            self.log({"skipped_steps": self.skipped_steps + 1})
        super()._maybe_log_save_evaluate(*args, **kwargs)


def begin_worker(worker_id: int, then: Callable[[int], None] | None = None) -> None:
    """First act of a worker of a data loader: Ctrl-C, which all processes of a terminal get, is left to the run.

    Args:
        worker_id (`int`): number of the worker.
        then (callable, *optional*): what else a worker begins with.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if then is not None:
        then(worker_id)


def _shorten(row_ids: list[str]) -> str:
    return list_first(row_ids, IDS_SHOWN) or "the collator gives no `row_ids`"


__all__ = [
    "StopOnSignal",
    "SurvivingTrainer",
    "TrainingInterrupted",
    "TrainingTerminated",
    "begin_worker",
]
