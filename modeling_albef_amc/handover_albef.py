# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Hand-over between tasks: a checkpoint of general use becomes the start of a task, as ALBEF's fine-tuning does it.

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
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file, logging
from transformers.utils.hub import get_checkpoint_shard_files

from .configuration_albef import AlbefConfig
from .contrastive_albef import UNKNOWN_IMAGE_ID

logger = logging.get_logger(__name__)

# What a checkpoint of each class is for.
TASKS = {
    "AlbefModel": "features of images and texts",
    "AlbefForImageTextMatching": "matching and grounding",
    "AlbefForPreTraining": "pre-training",
    "AlbefForImageTextRetrieval": "retrieval",
    "AlbefForQuestionAnswering": "question answering",
    "AlbefForVisualReasoning": "visual reasoning (NLVR2)",
    "AlbefForTextAssignment": "text assignment (pre-training for NLVR2)",
    "AlbefForVisualEntailment": "visual entailment",
}
# Checkpoints that any task can start from; a text assignment checkpoint starts visual reasoning only.
GENERAL = ("AlbefModel", "AlbefForImageTextMatching", "AlbefForPreTraining", "AlbefForImageTextRetrieval")
# Classes that start from others, and the weights that are new where no other class has them.
NEW_HEADS = {
    "AlbefForImageTextRetrieval": ("itm_head.",),
    "AlbefForQuestionAnswering": ("answer_decoder.lm_head.",),
    "AlbefForVisualReasoning": ("classifier.",),
    "AlbefForTextAssignment": ("assignment_head.",),
    "AlbefForVisualEntailment": ("classifier.",),
}
# Classes in the order of the published classifiers.
LABELS = {
    "AlbefForVisualReasoning": ("False", "True"),
    "AlbefForVisualEntailment": ("contradiction", "neutral", "entailment"),
}
LABEL_FIELDS = ("num_labels", "id2label", "label2id")
IMAGES_PER_PAIR = 2
QUEUE_IDS = ("image_queue_ids", "text_queue_ids")
# Every text encoder with the decoder that starts from it, and the masked-word head that goes along.
DECODERS = (
    ("albef.text_model.", "mlm_head.", "answer_decoder."),
    ("momentum_text_model.", "momentum_mlm_head.", "momentum_answer_decoder."),
)
TEXT_ENCODERS = tuple(encoder for encoder, _, _ in DECODERS)
KEY_AND_VALUE = ("cross_attention.k_proj.", "cross_attention.v_proj.")


def find_handover(path: str | os.PathLike, target: str, hub_arguments: Mapping[str, Any]) -> "Handover | None":
    """What has to be done to load a checkpoint into the class called `target`; None if it loads as it is.

    Raises:
        ValueError: the checkpoint is for a task that `target` cannot start from.
    """
    if target not in TASKS:
        return None
    try:
        stored, _ = PreTrainedConfig.get_config_dict(path, **hub_arguments)
    except OSError:  # an adapter, or nothing: loading says what is wrong
        return None
    source = (stored.get("architectures") or [None])[0]
    if source not in TASKS or source == target:
        return None
    if source not in GENERAL and (source, target) != ("AlbefForTextAssignment", "AlbefForVisualReasoning"):
        raise ValueError(
            f"{path} is a checkpoint for {TASKS[source]} ({source}), not for {TASKS[target]} ({target}). Load it with "
            f"{source}, or give {target} a checkpoint of its own kind or of {', '.join(GENERAL)}."
        )
    if target not in NEW_HEADS:
        return None
    return Handover(os.fspath(path), source, target, AlbefConfig.from_dict(stored), dict(hub_arguments))


@dataclass
class Handover:
    """A checkpoint of one class that another class starts from.

    Args:
        path (`str`): folder or Hub repository.
        source, target (`str`): name of the class that saved it, and of the one that starts from it.
        stored ([`AlbefConfig`]): configuration of the checkpoint.
        hub_arguments (`dict`): revision, token and the like.
        steps (`list[str]`): what was done to the weights, for the report.
    """

    path: str
    source: str
    target: str
    stored: AlbefConfig
    hub_arguments: dict[str, Any]
    steps: list[str] = field(default_factory=list)
    num_stored: int = 0
    has_momentum: bool = False

    @property
    def new_heads(self) -> tuple[str, ...]:
        """Prefixes of the weights that may be missing."""
        in_decoder = () if self.widths_agree else ("answer_decoder.layers.",)
        return NEW_HEADS[self.target] + in_decoder

    @property
    def widths_agree(self) -> bool:
        """Whether states of images are as wide as those of texts: then cross-attention can read either."""
        return self.stored.vision_config.hidden_size == self.stored.text_config.hidden_size

    def prepare(self, model_class: type[PreTrainedModel], options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of `from_pretrained` with configuration and weights of the target in place of a path.

        Args:
            model_class (class of [`~transformers.PreTrainedModel`]): the target.
            options (mapping): the options of the caller.
        """
        options = {name: value for name, value in options.items() if name not in self.hub_arguments}
        config = self._build_config(model_class.config_class, options)
        weights = read_weights(self.path, self.hub_arguments)
        self.num_stored = len(weights)
        if self.source == "AlbefModel":
            weights = {f"albef.{name}": tensor for name, tensor in weights.items()}
        text = self.stored.text_config
        if self.target == "AlbefForQuestionAnswering":
            weights |= self._start_decoder(weights, config.decoder_layers)
        elif text.images_per_text == 1 and config.text_config.images_per_text == IMAGES_PER_PAIR:
            weights = duplicate_fusion_layers(weights, text.fusion_layer)
            first, last = text.fusion_layer, text.num_hidden_layers - 1
            self.steps.append(f"text layers {first} to {last} duplicated, one for each image")
        if self.target == "AlbefForImageTextRetrieval":
            self._forget_images(weights)
        unused = re.compile("|".join(model_class._keys_to_ignore_on_load_unexpected or [r"(?!)"]))
        weights = {name: tensor for name, tensor in weights.items() if not unused.search(name)}
        self.has_momentum = any(name.startswith("momentum_") for name in weights)
        return {**options, "config": config, "state_dict": weights}

    def announce(self, model: PreTrainedModel, missing_keys: Iterable[str]) -> None:
        """Logs what was taken over, duplicated and made anew, in one line; `missing_keys` were made anew.

        It is a warning unless every weight was taken over as it is.
        """
        model.config.name_or_path = model.name_or_path = self.path
        new = sorted(missing_keys)
        parts = [f"{self.num_stored} weights read", *self.steps]
        parts.append(f"newly initialised: {', '.join(new)}" if new else "nothing newly initialised")
        if any(name.startswith("momentum_") for name, _ in model.named_children()):
            origin = "taken from the checkpoint" if self.has_momentum else "made from the online weights"
            parts.append(f"momentum copies {origin}")
        log = logger.warning if new or self.target != "AlbefForImageTextRetrieval" else logger.info
        log(f"{self.target} starts from {self.path}, a checkpoint for {TASKS[self.source]}: {'; '.join(parts)}.")

    def _build_config(self, config_class: type[AlbefConfig], options: dict[str, Any]) -> AlbefConfig:
        """Configuration of the target; takes it and its fields out of `options`."""
        given = options.pop("config", None)
        own: dict[str, Any] = {}
        if isinstance(given, PreTrainedConfig):
            config = copy.deepcopy(given)
        else:
            fields = (*config_class.__annotations__, *LABEL_FIELDS)
            own = {name: options.pop(name) for name in fields if name in options}
            config = config_class.from_pretrained(given or self.path, **self.hub_arguments, **own)
            if self.target in LABELS and not own.keys() & set(LABEL_FIELDS):
                config.id2label = dict(enumerate(LABELS[self.target]))
                config.label2id = {label: index for index, label in config.id2label.items()}
        if self.target == "AlbefForQuestionAnswering":
            self._fit_decoder(config, is_chosen="decoder_layers" in own)
        elif self.target in ("AlbefForVisualReasoning", "AlbefForTextAssignment"):
            double_fusion_layers(config)
        return config

    def _fit_decoder(self, config: AlbefConfig, is_chosen: bool) -> None:
        """As many decoder layers as there are fusion layers to copy, unless fewer are asked for."""
        text = self.stored.text_config
        num_fusion_layers = text.num_hidden_layers - text.fusion_layer
        is_chosen = is_chosen or config.decoder_layers != self.stored.decoder_layers
        if is_chosen and config.decoder_layers > num_fusion_layers:
            raise ValueError(
                f"`decoder_layers` is {config.decoder_layers}, but {self.path} has {num_fusion_layers} fusion layers "
                f"to copy to the answer decoder. Choose {num_fusion_layers} or fewer."
            )
        config.decoder_layers = min(config.decoder_layers, num_fusion_layers)

    def _start_decoder(self, weights: Mapping[str, torch.Tensor], num_layers: int) -> dict[str, torch.Tensor]:
        """Weights of the answer decoder, of which each layer reads questions as a fusion layer reads images."""
        first = self.stored.text_config.fusion_layer
        copies = copy_to_decoder(weights, first, num_layers)
        last = first + num_layers - 1
        self.steps.append(f"text layers {first} to {last} and embeddings copied to the answer decoder")
        if any(name.startswith("mlm_head.") for name in weights):
            self.steps.append("masked-word head copied to the answer decoder")
        if not self.widths_agree:
            copies = {name: copy for name, copy in copies.items() if not any(part in name for part in KEY_AND_VALUE)}
        return copies

    def _forget_images(self, weights: dict[str, torch.Tensor]) -> None:
        """Queue entries of another data set are images that no identity of the new one may be taken for."""
        for name in QUEUE_IDS:
            if name in weights:
                weights[name] = torch.full_like(weights[name], UNKNOWN_IMAGE_ID)
        if any(name in weights for name in QUEUE_IDS):
            self.steps.append("queues kept, their image identities forgotten")


def read_weights(path: str, hub_arguments: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """All weights of a folder or Hub repository, from one safetensors file or several."""
    whole = cached_file(path, SAFE_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False, **hub_arguments)
    files = [whole]
    if whole is None:
        index = cached_file(
            path, SAFE_WEIGHTS_INDEX_NAME, _raise_exceptions_for_missing_entries=False, **hub_arguments
        )
        if index is None:
            raise OSError(f"{path} has no file named {SAFE_WEIGHTS_NAME}, nor {SAFE_WEIGHTS_INDEX_NAME}.")
        files, _ = get_checkpoint_shard_files(path, index, **hub_arguments)
    return {name: tensor for file in files for name, tensor in load_state_dict(file).items()}


def copy_to_decoder(
    weights: Mapping[str, torch.Tensor], fusion_layer: int, num_layers: int
) -> dict[str, torch.Tensor]:
    """Weights of an answer decoder whose layer i is text layer `fusion_layer + i`, with embeddings and masked-word
    head; those of its momentum copy likewise, where there are any."""
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
    """Weights with every fusion layer twice, one after the other: layer 6 becomes 6 and 7, layer 7 becomes 8 and 9.

    The projections of images to keys and values, which the two share, have the name of the first alone.
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
    """Makes a configuration of one image per text one of two; leaves one that has two already."""
    text = config.text_config
    if text.images_per_text == IMAGES_PER_PAIR:
        return
    first = text.fusion_layer
    text.num_hidden_layers = first + IMAGES_PER_PAIR * (text.num_hidden_layers - first)
    text.images_per_text = IMAGES_PER_PAIR
    config.explanation_layer = first + IMAGES_PER_PAIR * (config.explanation_layer - first)


def split_layer(name: str) -> tuple[int | None, str]:
    """Number of the layer that a weight of a text encoder belongs to, and its name inside; None outside of layers."""
    found = re.match(r"layers\.(\d+)\.", name)
    return (int(found[1]), name[found.end() :]) if found else (None, name)


__all__ = [
    "GENERAL",
    "LABELS",
    "TASKS",
    "Handover",
    "copy_to_decoder",
    "double_fusion_layers",
    "duplicate_fusion_layers",
    "find_handover",
    "read_weights",
]
