# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Weights that are not finite: found before they are saved, and never saved."""

import torch
from torch import nn

from albef_amc.trainer.processes import is_true_anywhere


def find_not_finite(model: nn.Module) -> str | None:
    """Name of the first parameter or buffer of this process that holds NaN or infinity.

    Args:
        model (`nn.Module`): of a sharded model, the parts of this process are checked.
    """
    state = [*model.named_parameters(), *model.named_buffers()]
    floating = [(name, value) for name, value in state if value.is_floating_point() and not value.is_meta]
    if not floating:
        return None
    local = [value.to_local() if hasattr(value, "to_local") else value for _, value in floating]
    are_finite = torch.stack([torch.isfinite(value.detach()).all() for value in local]).tolist()
    return next((name for (name, _), is_finite in zip(floating, are_finite, strict=True) if not is_finite), None)


def check_finite_weights(model: nn.Module, step: int, device: torch.device) -> None:
    """Refuses weights that are not finite; for a sharded model every process must call it.

    Args:
        model (`nn.Module`): the model that would be saved.
        step (`int`): optimizer steps that were taken.
        device (`torch.device`): device of this process.

    Raises:
        FloatingPointError: a weight of any process is NaN or infinite.
    """
    name = find_not_finite(model)
    is_in_parts = any(hasattr(value, "to_local") for value in model.parameters())
    is_bad = is_true_anywhere(name is not None, device) if is_in_parts else name is not None
    if is_bad:
        owner = "of another process" if name is None else f"`{name}`"
        raise FloatingPointError(
            f"the weights are not finite after step {step}: {owner} holds NaN or infinity. They are not saved. Lower "
            "`learning_rate` or set `max_grad_norm`, and start again or resume from an earlier checkpoint."
        )
