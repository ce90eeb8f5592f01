# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What the Trainer asks of the kind of model that it trains: ALBEF, or a grounder of another model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import nn
from transformers import TrainerCallback

from albef_amc.lora.adapter_training import AdapterTraining
from albef_amc.trainer.amc_config import AmcConfig
from albef_amc.trainer.objectives.weighted_objectives import HeatmapObjectives


class WeightFiles(Protocol):
    """How weights of a run are written and read, where that is not as transformers' Trainer does it."""

    def save(self, folder: Path, with_state: bool, weights: Mapping[str, torch.Tensor]) -> None:
        """Writes weights (a state dict of what is trained), `with_state` also what a run needs to resume."""

    def load(self, checkpoint: str | Path) -> None:
        """Restores what [`save`] wrote."""


# Heatmaps, batch and denominators to the loss and its terms, as `HeatmapObjectives` has them.
CompareHeatmaps = Callable[
    [torch.Tensor, Mapping[str, Any], torch.Tensor], tuple[torch.Tensor, dict[str, torch.Tensor]]
]


class ModelTraining(ABC):
    """A kind of model in training: its checks, batches, forward pass, evaluation and files.

    Args:
        args ([`AmcConfig`]): the run's settings.

    Attributes:
        adapter ([`~lora.adapter_training.AdapterTraining`], *optional*): LoRA layers that are trained.
        weight_files ([`WeightFiles`], *optional*): how weights are stored; as transformers does it without.
    """

    adapter: AdapterTraining | None = None
    weight_files: WeightFiles | None = None

    def __init__(self, args: AmcConfig):
        self.args = args

    @abstractmethod
    def build_collator(self, processing_class: Any) -> Any:
        """The collator that the settings of the run describe."""

    @abstractmethod
    def prepare_model(self, peft_config: Any) -> nn.Module:
        """What is trained: with LoRA layers, or with parts frozen, as the settings want it."""

    @abstractmethod
    def check_distribution(self, accelerator: Accelerator) -> None:
        """Refuses ways to divide the model between devices that it cannot be trained with."""

    def list_callbacks(self, rows: Any) -> list[TrainerCallback]:
        """Callbacks that look at the training rows, as the run got them, before the first step."""
        return []

    @abstractmethod
    def begin_step(self, model: Any) -> None:
        """Done before the first micro-batch of a step, to the model without wrappers."""

    @abstractmethod
    def end_micro_batch(self, model: Any) -> None:
        """Done after the backward pass of a micro-batch, to the model without wrappers."""

    def get_distillation_alpha(self, epoch: float) -> float:
        """Weight of the momentum model's targets at this point of the run; 0 without such a model."""
        return 0.0

    @abstractmethod
    def choose_explained(self, inputs: Mapping[str, Any], objectives: HeatmapObjectives) -> dict[str, Any]:
        """The batch, with what says which heatmaps the objectives read."""

    @abstractmethod
    def build_model_inputs(self, inputs: dict[str, Any], has_heatmaps: bool, epoch: float) -> dict[str, Any]:
        """Arguments of one ordinary forward pass on a batch of [`choose_explained`], which returns `<name>_loss` of
        every pre-training objective with a weight, `image_index` and, with `has_heatmaps`, `normalized_heatmap`."""

    def choose_comparison(self, objectives: HeatmapObjectives) -> CompareHeatmaps:
        """What compares the heatmaps of a batch with its regions, called as the objectives are."""
        return objectives

    @abstractmethod
    def keep_features(self, outputs: Any, inputs: Mapping[str, Any], is_finite: torch.Tensor) -> None:
        """Keeps of a training batch what [`end_micro_batch`] needs."""

    def describe_batch(self, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Further numbers of a batch for the log."""
        return {}

    @abstractmethod
    def count_operations(self, model: Any, inputs: Mapping[str, Any]) -> int:
        """Rough count of the floating-point operations of a micro-batch, forward and backward."""

    @abstractmethod
    def hash_weights(self, model: Any, folder: Path) -> str:
        """The hash by which results name the present weights, which were saved in a folder.

        Raises:
            OSError, ValueError: what was saved cannot be read.
        """

    @abstractmethod
    def describe(self, model: Any) -> dict[str, Any]:
        """Fields of a card that follow from the model."""


__all__ = ["ModelTraining", "WeightFiles"]
