# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Warm start: a task is initialised from a checkpoint of another class, as in ALBEF's fine-tuning.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651), section 4.
"""

import copy
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel, load_state_dict
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from .checkpoint_files_albef import find_weight_files
from .configuration_albef import AlbefConfig

logger = logging.get_logger(__name__)

LABEL_FIELDS = ("num_labels", "id2label", "label2id")
IMAGES_PER_PAIR = 2
# Every text encoder with its masked-word head and the decoder that is initialised from both.
DECODERS = (
    ("albef.text_model.", "mlm_head.", "answer_decoder."),
    ("momentum_text_model.", "momentum_mlm_head.", "momentum_answer_decoder."),
)
TEXT_ENCODERS = tuple(encoder for encoder, _, _ in DECODERS)
KEY_AND_VALUE = ("cross_attention.k_proj.", "cross_attention.v_proj.")


def find_warm_start(
    path: str | os.PathLike, target: type[Any], hub_arguments: Mapping[str, Any]
) -> "WarmStart | None":
    """Find how to initialise the class `target` from the checkpoint at `path`; None if it loads without changes.

    Raises:
        ValueError: the checkpoint is for a task that `target` cannot start from.
    """
    classes = target.task_classes
    if target.__name__ not in classes:
        return None
    try:
        stored, _ = PreTrainedConfig.get_config_dict(path, **hub_arguments)
    except OSError:  # an adapter, or nothing: loading reports what is wrong
        return None
    source = classes.get((stored.get("architectures") or [None])[0])
    if source is None or source.__name__ == target.__name__:
        return None
    if not source.is_general and source.__name__ not in target.also_starts_from:
        general = ", ".join(name for name, model_class in classes.items() if model_class.is_general)
        raise ValueError(
            f"{path} is a checkpoint for {source.task} ({source.__name__}), not for {target.task} "
            f"({target.__name__}). Load it with {source.__name__}, or give {target.__name__} a checkpoint of its own "
            f"kind or of {general}."
        )
    if not target.new_weights:
        return None
    return WarmStart(os.fspath(path), source, target, AlbefConfig.from_dict(stored), dict(hub_arguments))


@dataclass
class WarmStart:
    """A class that is initialised from a checkpoint of another class.

    Args:
        path (`str`): folder or Hub repository.
        source, target (classes of [`~pretrained_albef.AlbefPreTrainedModel`]): the class that saved the checkpoint,
            and the one that is initialised from it.
        stored ([`AlbefConfig`]): configuration of the checkpoint.
        hub_arguments (`dict`): revision, token and the like.
        steps (`list[str]`): what was done to the weights, for the report.
        num_stored (`int`): number of weights in the checkpoint.
        has_momentum (`bool`): whether the checkpoint holds momentum copies that the target uses.
    """

    path: str
    source: type[Any]
    target: type[Any]
    stored: AlbefConfig
    hub_arguments: dict[str, Any]
    steps: list[str] = field(default_factory=list)
    num_stored: int = 0
    has_momentum: bool = False

    def prepare(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of `from_pretrained` with configuration and weights of the target in place of a path.

        Args:
            options (mapping): the options of the caller.
        """
        options = {name: value for name, value in options.items() if name not in self.hub_arguments}
        config = self._build_config(options)
        weights = read_weights(self.path, self.hub_arguments)
        self.num_stored = len(weights)
        prefix = f"{self.target.base_model_prefix}."
        if not any(name.startswith(prefix) for name in weights):  # of the base model
            weights = {prefix + name: tensor for name, tensor in weights.items()}
        text = self.stored.text_config
        if self.target.images_per_text == IMAGES_PER_PAIR and text.images_per_text == 1:
            weights = duplicate_fusion_layers(weights, text.fusion_layer)
            first, last = text.fusion_layer, text.num_hidden_layers - 1
            self.steps.append(f"text layers {first} to {last} duplicated, one for each image")
        weights, steps = self.target.adapt_weights(weights, self.stored, config)
        self.steps += steps
        unused = re.compile("|".join(self.target._keys_to_ignore_on_load_unexpected or [r"(?!)"]))
        weights = {name: tensor for name, tensor in weights.items() if not unused.search(name)}
        self.has_momentum = any(name.startswith("momentum_") for name in weights)
        return {**options, "config": config, "state_dict": weights}

    def announce(self, model: PreTrainedModel, missing_keys: Iterable[str]) -> None:
        """Logs in one line what was read, copied or duplicated; `missing_keys` were newly initialised.

        It is a warning unless every weight was read as it is.
        """
        model.config.name_or_path = model.name_or_path = self.path
        new = sorted(missing_keys)
        parts = [f"{self.num_stored} weights read", *self.steps]
        parts.append(f"newly initialised: {', '.join(new)}" if new else "nothing newly initialised")
        if any(name.startswith("momentum_") for name, _ in model.named_children()):
            origin = "taken from the checkpoint" if self.has_momentum else "made from the online weights"
            parts.append(f"momentum copies {origin}")
        log = logger.warning if new or not self.target.is_general else logger.info
        log(
            f"{self.target.__name__} starts from {self.path}, a checkpoint for {self.source.task}: {'; '.join(parts)}."
        )

    def _build_config(self, options: dict[str, Any]) -> AlbefConfig:
        """Configuration of the target; takes it and its fields out of `options`."""
        given, target = options.pop("config", None), self.target
        own: dict[str, Any] = {}
        if isinstance(given, PreTrainedConfig):
            config = copy.deepcopy(given)
        else:
            fields = (*target.config_class.__annotations__, *LABEL_FIELDS)
            own = {name: options.pop(name) for name in fields if name in options}
            config = target.config_class.from_pretrained(given or self.path, **self.hub_arguments, **own)
            if target.label_names and not own.keys() & set(LABEL_FIELDS):
                config.id2label = dict(enumerate(target.label_names))
                config.label2id = {label: index for index, label in config.id2label.items()}
        if target.images_per_text == IMAGES_PER_PAIR:
            double_fusion_layers(config)
        target.fit_config(config, self.stored, self.path, chosen=own.keys())
        return config


def read_weights(path: str, hub_arguments: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """All weights of a folder or Hub repository, from one safetensors file or several."""
    files = find_weight_files(path, hub_arguments)
    missing = [name for name, file in files.items() if file is None]
    if missing or not files:
        names = ", ".join(missing) or f"{SAFE_WEIGHTS_NAME}, nor {SAFE_WEIGHTS_INDEX_NAME}"
        raise OSError(f"{path} has no file named {names}.")
    return {name: tensor for file in files.values() for name, tensor in load_state_dict(file).items()}


def copy_to_decoder(
    weights: Mapping[str, torch.Tensor], fusion_layer: int, num_layers: int
) -> dict[str, torch.Tensor]:
    """Weights of an answer decoder whose layer i is text layer `fusion_layer + i`, with embeddings and masked-word
    head, and those of its momentum copy if the checkpoint has one."""
    copies = {}
    for encoder, head, decoder in DECODERS:
        for name, tensor in weights.items():
            if name.startswith(head):
                copies[f"{decoder}lm_head.{name.removeprefix(head)}"] = tensor.clone()
            elif name.startswith(encoder):
                layer, rest = split_layer(name.removeprefix(encoder))
                if layer is None:
                    copies[decoder + rest] = tensor.clone()
                elif 0 <= layer - fusion_layer < num_layers:
                    copies[f"{decoder}layers.{layer - fusion_layer}.{rest}"] = tensor.clone()
    return copies


def duplicate_fusion_layers(weights: Mapping[str, torch.Tensor], fusion_layer: int) -> dict[str, torch.Tensor]:
    """Weights with every fusion layer twice in a row: layer 6 becomes 6 and 7, layer 7 becomes 8 and 9.

    The two share the projections of images to keys and values, which are listed under the first layer only.
    """
    doubled = {}
    for name, tensor in weights.items():
        encoder = next((prefix for prefix in TEXT_ENCODERS if name.startswith(prefix)), None)
        layer, rest = (None, "") if encoder is None else split_layer(name.removeprefix(encoder))
        if layer is None or layer < fusion_layer:
            doubled[name] = tensor
            continue
        first = fusion_layer + IMAGES_PER_PAIR * (layer - fusion_layer)
        is_shared = rest.startswith(KEY_AND_VALUE)
        for index in range(first, first + (1 if is_shared else IMAGES_PER_PAIR)):
            doubled[f"{encoder}layers.{index}.{rest}"] = tensor.clone()
    return doubled


def double_fusion_layers(config: AlbefConfig) -> None:
    """Changes a configuration of one image per text to two images; one that has two stays as it is."""
    text = config.text_config
    if text.images_per_text == IMAGES_PER_PAIR:
        return
    first = text.fusion_layer
    text.num_hidden_layers = first + IMAGES_PER_PAIR * (text.num_hidden_layers - first)
    text.images_per_text = IMAGES_PER_PAIR
    config.explanation_layer = first + IMAGES_PER_PAIR * (config.explanation_layer - first)


def split_layer(name: str) -> tuple[int | None, str]:
    """Number of the layer that a weight of a text encoder belongs to, and its name there; None outside of layers."""
    found = re.match(r"layers\.(\d+)\.", name)
    return (int(found[1]), name[found.end() :]) if found else (None, name)


__all__ = ["IMAGES_PER_PAIR", "KEY_AND_VALUE", "copy_to_decoder", "duplicate_fusion_layers", "find_warm_start"]
