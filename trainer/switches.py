# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Switches of torch that trade exactness or start-up time for speed: which a training run may set, and how."""

from typing import Any, Literal, get_args

import torch

from albef_amc.ranges_albef import check_choice

MatmulPrecision = Literal["highest", "high", "medium"]

COMPILE_SETTINGS = ("torch_compile", "torch_compile_backend", "torch_compile_mode")
EXACT: MatmulPrecision = "highest"


def check_switches(args: Any) -> None:
    """Refuses settings that cannot work, or that say two things at once.

    Args:
        args ([`AmcConfig`]): the run's settings, before `TrainingArguments` acts on them.

    Raises:
        ValueError: compilation of the whole model, or `float32_matmul_precision` against `tf32`.
    """
    for name in COMPILE_SETTINGS:
        if getattr(args, name):
            raise ValueError(
                f"`{name}={getattr(args, name)}` compiles the whole model, but AMC differentiates its upper layers "
                "twice, which compiled code cannot be. Leave it out, and call `model.compile_encoders()` before "
                "training: it compiles the layers below."
            )
    precision = args.float32_matmul_precision
    if precision is None:
        return
    check_choice("float32_matmul_precision", precision, get_args(MatmulPrecision))
    if args.tf32 is not None and args.tf32 == (precision == EXACT):
        raise ValueError(
            f"`float32_matmul_precision={precision}` and `tf32={args.tf32}` contradict each other: TF32 is on with "
            '"high" and "medium", and off with "highest". Give one of the two.'
        )


def apply_switches(args: Any) -> None:
    """Sets the matrix precision of this process, where the run's settings have one."""
    if args.float32_matmul_precision is not None:
        torch.set_float32_matmul_precision(args.float32_matmul_precision)


__all__ = ["MatmulPrecision", "apply_switches", "check_switches"]
