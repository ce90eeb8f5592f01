# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The published optimization of ALBEF and AMC: which parameters decay, and the learning rate of every step."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers.utils import logging

logger = logging.get_logger(__name__)

ALBEF_COSINE = "albef_cosine"
SCHEDULES = (ALBEF_COSINE,)
TEMPERATURE = "temperature"


@dataclass(frozen=True)
class AlbefCosine:
    r"""Learning rate of ALBEF and AMC: a linear warm-up in intervals of steps, then a cosine in epochs.

    As a function of the published step argument t: below `warmup_intervals` it rises linearly from
    `warmup_learning_rate`; then it falls as a cosine over `epochs`, reaches `min_learning_rate` and stays there. In
    the first epoch t counts intervals of `warmup_interval_steps` optimizer steps, up to `warmup_intervals`; from
    epoch e >= 1 on t is e + `warmup_intervals`. The warm-up ends with the first epoch, also where that is shorter.

    Source: the training loop and the scheduler of the released code of both; t changes after a step whose number is
    a multiple of `warmup_interval_steps`, so that the first interval has one step more.

    Args:
        epochs (`float`): epochs of the cosine; 30 as published.
        min_learning_rate (`float`): where the cosine ends.
        warmup_learning_rate (`float`): where the warm-up starts.
        warmup_intervals (`int`): intervals of warm-up; 20 as published.
        warmup_interval_steps (`int`): optimizer steps in an interval; 100 as published.

    Example:

    ```python
    >>> from albef_amc.trainer.schedules import AlbefCosine
    >>> schedule = AlbefCosine(epochs=30, min_learning_rate=1e-6, warmup_learning_rate=1e-6)
    >>> schedule.compute_learning_rate(1e-5, t=20), schedule.compute_learning_rate(1e-5, t=50)
    (1e-05, 1e-06)
    >>> [schedule.compute_t(step, steps_per_epoch=10_000) for step in (0, 100, 101, 9_999, 10_000, 20_000)]
    [0, 0, 1, 20, 21, 22]

    ```
    """

    epochs: float
    min_learning_rate: float
    warmup_learning_rate: float
    warmup_intervals: int = 20
    warmup_interval_steps: int = 100

    def compute_t(self, num_steps: int, steps_per_epoch: int) -> int:
        """The published step argument once `num_steps` optimizer steps were taken."""
        epoch = num_steps // steps_per_epoch
        if epoch > 0:
            return epoch + self.warmup_intervals
        return min(max(num_steps - 1, 0) // self.warmup_interval_steps, self.warmup_intervals)

    def compute_learning_rate(self, learning_rate: float, t: float) -> float:
        """Learning rate at t of parameters whose full rate is `learning_rate`."""
        if t < self.warmup_intervals:
            rise = (learning_rate - self.warmup_learning_rate) / self.warmup_intervals
            return self.warmup_learning_rate + t * rise
        position = t - self.warmup_intervals
        if position >= self.epochs:
            return self.min_learning_rate
        height = 0.5 * (learning_rate - self.min_learning_rate)
        return self.min_learning_rate + height * (1 + math.cos(math.pi * position / self.epochs))


class AlbefCosineScheduler(LRScheduler):
    """[`AlbefCosine`] as a scheduler of an optimizer, stepped once after each optimizer step.

    Its state is the number of steps; the schedule itself comes from the run's settings, also after a resume.

    Args:
        optimizer (`torch.optim.Optimizer`): its groups keep their own full learning rate.
        schedule ([`AlbefCosine`]): the learning rate as a function of the steps.
        steps_per_epoch (`int`): optimizer steps in an epoch.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: AlbefCosine, steps_per_epoch: int):
        self.schedule = schedule
        self.steps_per_epoch = steps_per_epoch
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Learning rate of each group for the next step."""
        t = self.schedule.compute_t(self.last_epoch, self.steps_per_epoch)
        return [self.schedule.compute_learning_rate(float(rate), t) for rate in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs: plain numbers only."""
        return {name: value for name, value in super().state_dict().items() if name not in _SETTINGS}


_SETTINGS = ("schedule", "steps_per_epoch")


def find_decay_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters with weight decay: all but vectors and those called bias, and the temperature.

    The temperature is a scalar in the released code, which excludes vectors: it decays there, as do the class token
    and the position embedding.
    """
    return [
        name
        for name, value in model.named_parameters()
        if name.rpartition(".")[2] == TEMPERATURE or (value.dim() != 1 and not name.endswith(".bias"))
    ]


def build_scheduler(
    optimizer: torch.optim.Optimizer, args: Any, steps_per_epoch: int, num_steps: int
) -> AlbefCosineScheduler:
    """The scheduler `albef_cosine` of a run, with a warning where an epoch is too short for its warm-up.

    Args:
        optimizer (`torch.optim.Optimizer`): of the run.
        args ([`AmcConfig`]): the run's settings.
        steps_per_epoch (`int`), num_steps (`int`): optimizer steps of an epoch, and of the run.
    """
    schedule = build_albef_cosine(args)
    warmup_steps = schedule.warmup_intervals * schedule.warmup_interval_steps
    if steps_per_epoch <= warmup_steps and num_steps > steps_per_epoch:
        logger.warning(
            f"An epoch has {steps_per_epoch} steps and the warm-up {warmup_steps}: as published, the warm-up ends "
            "with the first epoch and the learning rate jumps. Set `warmup_interval_steps` to "
            f"{max(steps_per_epoch // max(schedule.warmup_intervals, 1), 1)} for a full warm-up."
        )
    return AlbefCosineScheduler(optimizer, schedule, steps_per_epoch)


def build_albef_cosine(args: Any) -> AlbefCosine:
    """The schedule of a run's settings; its cosine takes `num_train_epochs`, also where `max_steps` cuts the run.

    Args:
        args ([`AmcConfig`]): the run's settings.
    """
    return AlbefCosine(
        epochs=args.num_train_epochs,
        min_learning_rate=args.min_learning_rate,
        warmup_learning_rate=args.warmup_learning_rate,
        warmup_intervals=args.warmup_intervals,
        warmup_interval_steps=args.warmup_interval_steps,
    )
