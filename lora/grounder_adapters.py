# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""LoRA layers of a model of transformers: trained in place of it, and merged into what is saved."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel

from albef_amc.lora.adapter_files import ADAPTER_CONFIG_FILE, load_adapter_weights
from albef_amc.lora.adapter_training import check_settings_of_run
from albef_amc.lora.adapters import ADAPTER_NAME, BASE_PREFIX, check_lora_config

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER_FOLDER = "adapter"  # within a checkpoint of a run, for its resumption
NUMBERED_LAYER = re.compile(r"(?:.*\.)?(?:layers?|cross_modal_\w+_layers)\.\d+\.(?:.*\.)?(\w+)")


class GrounderAdapter:
    """LoRA layers in a model of transformers.

    By default they are in every linear layer of its numbered layers: attention and MLP of both encoders.

    Args:
        model ([`~transformers.PreTrainedModel`]): gets the layers, in place; the rest of it is frozen.
        config (`peft.LoraConfig`): as the user gives it.
        seed (`int`): of the layers' start, which is the same in every process and every run.

    Raises:
        TypeError, ValueError: a configuration that cannot be followed, or that fits no module.
    """

    def __init__(self, model: PreTrainedModel, config: "LoraConfig", seed: int):
        from peft import get_peft_model

        config = check_lora_config(config)
        linear = {name for name, module in model.named_modules() if type(module) is nn.Linear}
        if config.target_modules is None:
            found = [NUMBERED_LAYER.fullmatch(name) for name in linear]
            names = "|".join(sorted({one[1] for one in found if one is not None}))
            config.target_modules = NUMBERED_LAYER.pattern.replace(r"(\w+)", f"(?:{names})")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                self.peft_model = get_peft_model(model, config, adapter_name=ADAPTER_NAME)
            except ValueError as error:
                names = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
                raise ValueError(f"{error} Linear layers of this model: {names}.") from error
        self._check_layers()

    def _check_layers(self) -> None:
        """Refuses layers whose weights are read by something else than their own forward pass."""
        from peft.tuners.lora import Linear, LoraLayer

        for name, module in self.peft_model.named_modules():
            if isinstance(module, LoraLayer) and not (
                isinstance(module, Linear) and type(module.base_layer) is nn.Linear
            ):
                raise ValueError(
                    f"`peft_config.target_modules` matches {name.removeprefix(BASE_PREFIX)}, which is not a plain "
                    "linear layer. Choose linear layers."
                )

    @torch.no_grad()
    def merge_weights(self) -> dict[str, torch.Tensor]:
        """State dict of the model as if it had no LoRA layers: `W + scale B A`, and modules that are trained in full.

        The model itself stays as it is.
        """
        from peft.tuners.lora import Linear
        from peft.utils import ModulesToSaveWrapper

        model: Any = self.peft_model.get_base_model()
        weights = dict(model.state_dict())
        for name, module in model.named_modules():
            if isinstance(module, Linear):
                own = {key: weights.pop(key) for key in list(weights) if key.startswith(f"{name}.")}
                base = f"{name}.base_layer."
                weights |= {f"{name}.{key.removeprefix(base)}": own[key] for key in own if key.startswith(base)}
                weights[f"{name}.weight"] = weights[f"{name}.weight"] + module.get_delta_weight(ADAPTER_NAME)
            elif isinstance(module, ModulesToSaveWrapper):
                own = {key: weights.pop(key) for key in list(weights) if key.startswith(f"{name}.")}
                trained = f"{name}.modules_to_save.{ADAPTER_NAME}."
                weights |= {f"{name}.{key.removeprefix(trained)}": own[key] for key in own if key.startswith(trained)}
        return weights

    def save(self, folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
        """Writes the adapter alone into a folder of a checkpoint, for a run to resume.

        Args:
            folder (`Path`): the checkpoint.
            weights (mapping): state dict of the model.
        """
        named = {f"{BASE_PREFIX}{name}": value for name, value in weights.items()}
        self.peft_model.save_pretrained(str(folder / ADAPTER_FOLDER), save_embedding_layers=False, state_dict=named)

    def load(self, checkpoint: Path) -> None:
        """Restores the adapter of a checkpoint of the run.

        Raises:
            ValueError: not a checkpoint of a LoRA run, or one of other settings or of another base.
        """
        folder = checkpoint / ADAPTER_FOLDER
        if not (folder / ADAPTER_CONFIG_FILE).is_file():
            raise ValueError(
                f"{checkpoint} cannot be resumed with LoRA: it has no {ADAPTER_FOLDER}/{ADAPTER_CONFIG_FILE}. Give a "
                "`checkpoint-N` folder of a LoRA run."
            )
        check_settings_of_run(self.peft_model, folder)
        load_adapter_weights(self.peft_model, folder)


def is_of_adapter(checkpoint: str | Path) -> bool:
    """Whether a checkpoint of a run holds LoRA layers beside the merged model."""
    return (Path(checkpoint) / ADAPTER_FOLDER / ADAPTER_CONFIG_FILE).is_file()


__all__ = ["ADAPTER_FOLDER", "GrounderAdapter", "is_of_adapter"]
