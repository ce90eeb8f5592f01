# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Whether the loss and the gradient of a step are finite: found on the device, and read when that no longer waits."""

from dataclasses import dataclass

import torch

from albef_amc.evaluation.late_reading import LateReading


@dataclass(frozen=True)
class BatchCheck:
    """Loss of one micro-batch.

    Args:
        row_ids (`list` of `str`): its images.
        is_finite_here (`torch.Tensor`, scalar bool): whether its loss is finite on this process.
        is_finite (`torch.Tensor`, scalar bool): whether that of every process is.
    """

    row_ids: list[str]
    is_finite_here: torch.Tensor
    is_finite: torch.Tensor


class StepCheck:
    """Losses and gradient of one optimizer step.

    Args:
        step (`int`): number of the step, from 1.
        batches (`list` of [`BatchCheck`]): its micro-batches.
        is_gradient_finite (`torch.Tensor`, scalar bool): whether the norm of the gradient is finite.

    Attributes:
        is_taken (`torch.Tensor`, scalar bool): whether everything is finite, on the device.
    """

    def __init__(self, step: int, batches: list[BatchCheck], is_gradient_finite: torch.Tensor):
        self.step = step
        self._row_ids = [batch.row_ids for batch in batches]
        is_loss_finite = torch.stack([is_gradient_finite.new_ones(()), *(batch.is_finite for batch in batches)]).all()
        self.is_taken = is_loss_finite & is_gradient_finite
        here = [batch.is_finite_here for batch in batches]
        self._reading = LateReading(torch.stack([self.is_taken, is_loss_finite, *here]))

    def find_reason(self) -> tuple[str, list[str]] | None:
        """Why the step cannot be taken, and the images of this process that are to blame; None if it is taken."""
        is_taken, is_loss_finite, *here = self._reading.read().tolist()
        if is_taken:
            return None
        if is_loss_finite:
            return "the gradient is not finite", [name for row_ids in self._row_ids for name in row_ids]
        bad = [row_ids for row_ids, is_finite in zip(self._row_ids, here, strict=True) if not is_finite]
        return "the loss is not finite", [name for row_ids in bad for name in row_ids]
