# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Options that trade exactness or start-up time for speed: precision, matrix precision, compilation."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import typer

from albef_amc.trainer.setting_checks import MatmulPrecision

Precision = Literal["float32", "bfloat16"]
PrecisionOption = Annotated[Precision, typer.Option(help="Of layers; heatmaps are float32 in both.")]
MatmulPrecisionOption = Annotated[
    MatmulPrecision,
    typer.Option(help="Of float32 matrix products (torch.set_float32_matmul_precision); high: TF32 on GPUs."),
]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Compile the encoders: slow to start, for long evaluations.")
]


@dataclass(frozen=True)
class Switches:
    """Values of the options.

    Args:
        precision (`str`, defaults to `"float32"`), matmul_precision (`str`, defaults to `"highest"`), compiled
            (`bool`, defaults to `False`): the options.
    """

    precision: Precision = "float32"
    matmul_precision: MatmulPrecision = "highest"
    compiled: bool = False

    def prepare(self, model: Any) -> None:
        """Compiles the encoders of a model if that was asked for.

        Raises:
            ValueError: a CPU without a C++ compiler.
        """
        if not self.compiled:
            return
        compiler = os.environ.get("CXX", "g++")
        if model.device.type == "cpu" and shutil.which(compiler) is None:
            raise ValueError(
                f"`--compile` needs a C++ compiler and there is no {compiler}: install one, name another in the "
                "variable CXX, or leave the option out."
            )
        model.compile_encoders()

    @contextmanager
    def applied(self, device: torch.device) -> Iterator[None]:
        """Computes in the chosen precision while the block runs."""
        previous = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.matmul_precision)
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                yield
        finally:
            torch.set_float32_matmul_precision(previous)

    def list_words(self) -> list[str]:
        """The options that are not the default ones, as words of a command."""
        words = [] if self.precision == "float32" else ["--precision", self.precision]
        words += [] if self.matmul_precision == "highest" else ["--matmul-precision", self.matmul_precision]
        return words + ["--compile"] * self.compiled
