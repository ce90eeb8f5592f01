# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Options that trade exactness or start-up time for speed: precision, packed weights, compilation."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import typer

from albef_amc.trainer.setting_checks import MatmulPrecision

Precision = Literal["float32", "bfloat16", "int8"]
PrecisionOption = Annotated[
    Precision,
    typer.Option(help="Precision of layers; int8: image encoder on a CPU, the rest bfloat16. Heatmaps are float32."),
]
PackOption = Annotated[
    bool, typer.Option("--pack-weights", help="Keep weights in the layout of oneDNN, for CPUs on which MKL is slow.")
]
MatmulPrecisionOption = Annotated[
    MatmulPrecision,
    typer.Option(help="Precision of float32 products (torch.set_float32_matmul_precision); high: TF32 on GPUs."),
]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Compile the encoders: slow to start, for long evaluations.")
]


@dataclass(frozen=True)
class Switches:
    """Values of the options.

    Args:
        precision (`str`, defaults to `"float32"`), matmul_precision (`str`, defaults to `"highest"`), packs_weights,
            compiled (`bool`, defaults to `False`): the options.

    Raises:
        ValueError: compilation of layers that are packed or quantised.
    """

    precision: Precision = "float32"
    matmul_precision: MatmulPrecision = "highest"
    packs_weights: bool = False
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.compiled and (self.packs_weights or self.precision == "int8"):
            other = "--pack-weights" if self.packs_weights else "--precision int8"
            raise ValueError(f"`--compile` and `{other}` replace the same layers: use one of them.")

    def prepare(self, model: Any) -> None:
        """Quantises, packs or compiles the layers of a model if that was asked for.

        Raises:
            ValueError: a CPU without a C++ compiler, a GPU for what is for CPUs, or a model that cannot be quantised
                or packed.
        """
        if model.device.type != "cpu" and (self.packs_weights or self.precision == "int8"):
            option = "--pack-weights" if self.packs_weights else "--precision int8"
            raise ValueError(
                f"`{option}` is for a CPU, but the model is on {model.device}: use `--precision bfloat16` there, or "
                "add `--device cpu`."
            )
        if self.precision == "int8":
            model.quantize_image_encoder()
        if self.packs_weights:
            model.pack_weights(torch.float32 if self.precision == "float32" else torch.bfloat16)
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
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision != "float32"):
                yield
        finally:
            torch.set_float32_matmul_precision(previous)

    def list_words(self) -> list[str]:
        """The options that are not the default ones, as words of a command."""
        words = [] if self.precision == "float32" else ["--precision", self.precision]
        words += [] if self.matmul_precision == "highest" else ["--matmul-precision", self.matmul_precision]
        return words + ["--pack-weights"] * self.packs_weights + ["--compile"] * self.compiled
