# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What a run does when something goes wrong around it: a loss that is not finite, and a request to stop (SIGTERM)."""

import math
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.utils import DistributedType, gather_object
from torch import nn
from transformers import Trainer, TrainerCallback
from transformers.utils import logging

from albef_amc.trainer.finite_weights import check_finite_weights
from albef_amc.trainer.parallel import is_true_anywhere

logger = logging.get_logger(__name__)

SIGTERM_STATUS = 128 + signal.SIGTERM  # 143, what a shell reports of a process that SIGTERM ended
IDS_SHOWN = 64


class TrainingTerminated(SystemExit):
    """SIGTERM ended a run after it saved a checkpoint; left alone it ends the process with status 143.

    Args:
        checkpoint (`Path`): the checkpoint to go on from.
    """

    def __init__(self, checkpoint: Path):
        super().__init__(SIGTERM_STATUS)
        self.checkpoint = checkpoint


class StopOnSigterm(TrainerCallback):
    """After SIGTERM to any process of a run: the step is finished, a checkpoint is saved, and training stops.

    The signal does no more than leave a note. Every process asks the others after each step and each evaluation, so
    that all of them save the same step.
    """

    def __init__(self):
        self.is_noted = False
        self.is_agreed = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes note of SIGTERM while the block runs; in the main thread alone, as Python has it."""
        self.is_noted = self.is_agreed = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGTERM, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)

    def _note(self, number: int, frame: Any) -> None:
        self.is_noted = True

    def on_step_end(self, args, state, control, **kwargs):
        """Stops and saves where any process has a note."""
        if is_true_anywhere(self.is_noted, args.device):
            self.is_agreed = control.should_save = control.should_training_stop = True

    def on_evaluate(self, args, state, control, **kwargs):
        """As after a step: an evaluation may be long."""
        self.on_step_end(args, state, control)


class SurvivingTrainer(Trainer):
    """Trainer that skips steps whose loss or gradient is not finite, and that saves and stops on SIGTERM.

    A step is skipped where the loss of any micro-batch on any process, or the norm of the gradient, is not finite:
    there is no optimizer step, so parameters and optimizer stay as they were, and the features of a micro-batch whose
    loss is not finite do not enter the queues. The learning rate and the count of steps move on. Skips are counted
    under `skipped_steps` in the log; after `args.max_skipped_steps` in a row the run stops.

    DeepSpeed takes its step inside the backward pass and cannot skip it: there the run stops at the first loss that
    is not finite, before the step, and after a step whose gradient was not.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.sigterm = StopOnSigterm()
        self.add_callback(self.sigterm)
        self._clear_step()
        self._is_skipped = False
        self._skipped_in_a_row: list[tuple[int, list[str]]] = []

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As for `Trainer`.

        Raises:
            TrainingTerminated: SIGTERM came; a checkpoint of the step is saved.
            FloatingPointError: `max_skipped_steps` steps in a row were skipped, or a weight is NaN or infinite.
        """
        self._clear_step()
        self._skipped_in_a_row.clear()
        with self.sigterm.listening():
            return super().train(*args, **kwargs)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """Ends a run; one that SIGTERM ended keeps every checkpoint and does nothing more."""
        check_finite_weights(self.model, self.state.global_step, self.args.device)
        if not self.sigterm.is_agreed:
            return super()._finalize_training(*args, **kwargs)
        self.control: Any = self.callback_handler.on_train_end(self.args, self.state, self.control)
        self.is_in_train = False
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        logger.warning(
            f"stopped by SIGTERM after step {self.state.global_step} of {self.state.max_steps}. Go on from "
            f"{checkpoint} with `resume_from_checkpoint=True`."
        )
        raise TrainingTerminated(checkpoint)

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


def _shorten(row_ids: list[str]) -> str:
    rest = len(row_ids) - IDS_SHOWN
    shown = ", ".join(row_ids[:IDS_SHOWN]) or "the collator gives no `row_ids`"
    return shown + (f" and {rest} more" if rest > 0 else "")


__all__ = ["StopOnSigterm", "SurvivingTrainer", "TrainingTerminated"]
