# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""A pre-training model of a vision transformer and a BERT; this file is never shipped with a checkpoint.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651), section 3.1.
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

from albef_amc.configuration_albef import AlbefConfig, AlbefTextConfig, AlbefVisionConfig
from albef_amc.conversion.bert_encoder import SPECIAL_IDS, read_text_encoder, read_tokenizer
from albef_amc.conversion.encoder_files import EncoderWeights
from albef_amc.conversion.original_names import (
    PUBLISHED_EXPLANATION_BLOCK,
    PUBLISHED_FUSION_SHARE,
    PUBLISHED_LAST_BLOCK,
    PUBLISHED_TEXT_DEPTH,
)
from albef_amc.conversion.timm_encoder import read_image_encoder
from albef_amc.conversion.weight_files import list_names
from albef_amc.encoders_albef import resize_position_embeddings
from albef_amc.image_processing_albef import AlbefImageProcessor
from albef_amc.pretraining_albef import AlbefForPreTraining
from albef_amc.processing_albef import AlbefProcessor
from albef_amc.text_processing_albef import build_tokenizer_like

logger = logging.get_logger(__name__)

POSITIONS = "albef.vision_model.position_embeddings"
NOT_READ = r"^momentum_|_queue|^mlm_head\.decoder\.weight$"  # copies, empty at the beginning, or tied
MASKED_WORD_HEAD = "masked-word head (`text` has none)"
NEW_PARTS = (
    (r"\.cross_attention", "cross-attention of the fusion layers"),
    (r"_projection\.|temperature", "contrastive projections and temperature"),
    (r"^itm_head\.", "matching head"),
    (r"^mlm_head\.", MASKED_WORD_HEAD),
)


@dataclass
class EncodersReport:
    """What a pre-training model was made of.

    Args:
        vision, text (`str`): what the encoders were read from.
        model_class (`str`): class of the model.
        dimensions (`dict`): sizes of the model.
        num_read (`int`): weights that come from the encoders.
        new (`dict[str, list[str]]`): weights that were initialised, by part of the model.
        ignored (`dict[str, list[str]]`): entries of the encoders left out on purpose, by reason.
        resized (`dict[str, str]`): entries whose shape was changed, with both shapes.
        notes (`list[str]`): choices that the encoders do not settle.
    """

    vision: str
    text: str
    model_class: str = ""
    dimensions: dict[str, Any] = field(default_factory=dict)
    num_read: int = 0
    new: dict[str, list[str]] = field(default_factory=dict)
    ignored: dict[str, list[str]] = field(default_factory=dict)
    resized: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)

    def describe(self) -> list[str]:
        """The report as lines of text, every new and resized entry by part or by name."""
        lines = [f"{self.vision} and {self.text}", f"{self.num_read} entries to {self.model_class}"]
        lines += [f"NEW         {len(names)} entries: {part}" for part, names in self.new.items()]
        lines += [f"RESIZED     {name}: {shapes}" for name, shapes in self.resized.items()]
        lines += [f"ignored     {len(names)} entries: {reason}" for reason, names in self.ignored.items()]
        return lines + [f"NOTE        {note}" for note in self.notes]


def build_from_encoders(
    model_class: type[AlbefForPreTraining],
    vision: str | os.PathLike,
    text: str | os.PathLike,
    vision_config: Mapping[str, Any],
    text_config: Mapping[str, Any],
    values: Mapping[str, Any],
) -> tuple[AlbefForPreTraining, EncodersReport]:
    """A model in evaluation mode, and what it was made of; see [`AlbefForPreTraining.from_encoders`].

    Args:
        model_class (`type`): class of the model.
        vision, text (`str` or path): the encoders.
        vision_config, text_config, values (`Mapping[str, Any]`): values of [`AlbefVisionConfig`],
            [`AlbefTextConfig`] and [`AlbefConfig`] that the encoders do not settle.
    """
    image_encoder, text_encoder = read_image_encoder(vision), read_text_encoder(text)
    report = EncodersReport(image_encoder.source, text_encoder.source, model_class.__name__)
    report.notes = image_encoder.notes + text_encoder.notes
    report.ignored = {**image_encoder.ignored, **text_encoder.ignored}
    config = _build_config(image_encoder, text_encoder, vision_config, text_config, values, report)
    state = {**image_encoder.state, **text_encoder.state}
    _resize_positions(state, config.vision_config.grid_size, report)
    model = model_class(config)
    _load(model, state, report)
    for line in report.describe():
        logger.info(line)
    if MASKED_WORD_HEAD in report.new:
        logger.warning(
            f"{report.text} has no masked-word head: a new one is learned from the beginning. A checkpoint of "
            "`BertForPreTraining` or `BertForMaskedLM` brings one."
        )
    return model.eval(), report


def build_processor(text: str | os.PathLike, config: AlbefConfig) -> AlbefProcessor:
    """The processor of a model from encoders: the pieces of its BERT, with [CLS] in front and NO [SEP] behind.

    Args:
        text (`str` or path): folder or repository of the BERT.
        config ([`AlbefConfig`]): configuration of the model.

    Raises:
        FileNotFoundError: there is no tokenizer.
        ValueError: a tokenizer that is none of word pieces, or does not fit the model.
    """
    tokenizer = read_tokenizer(text, config.text_config.vocab_size)
    if tokenizer is None:
        raise FileNotFoundError(
            f"`text`: {os.fspath(text)} has no tokenizer (`tokenizer.json` or `vocab.txt`). Save it there, or build "
            "one of a `vocab.txt` with `build_tokenizer`."
        )
    own = build_tokenizer_like(tokenizer, model_max_length=config.text_config.max_position_embeddings)
    height, width = config.vision_config.image_height_width
    return AlbefProcessor(AlbefImageProcessor(size={"height": height, "width": width}), own)


def _build_config(
    image_encoder: EncoderWeights,
    text_encoder: EncoderWeights,
    vision_config: Mapping[str, Any],
    text_config: Mapping[str, Any],
    values: Mapping[str, Any],
    report: EncodersReport,
) -> AlbefConfig:
    """The configuration, checked; what it assumes goes to the notes of `report`."""
    vision_values = _merge("vision_config", AlbefVisionConfig, image_encoder, vision_config)
    if "num_attention_heads" not in vision_values:
        raise ValueError(
            f"`vision`: tensors do not tell the attention heads of {image_encoder.source}, and width "
            f"{vision_values['hidden_size']} is none of the published ones. Give them: "
            "`vision_config={'num_attention_heads': ...}`."
        )
    text_encoder.assumed["fusion_layer"] = text_encoder.told["num_hidden_layers"] // 2
    text = AlbefTextConfig(**_merge("text_config", AlbefTextConfig, text_encoder, text_config))
    vision = AlbefVisionConfig(**vision_values)
    _check_special_ids(text, text_encoder.source)
    _check_names("", AlbefConfig, values)
    explained = _choose_explained(vision, text)
    is_published = {
        "explanation_layer": (text.fusion_layer, text.num_hidden_layers) == PUBLISHED_TEXT_DEPTH,
        "explanation_block": vision.num_hidden_layers == PUBLISHED_LAST_BLOCK + 1,
    }
    for name, value in explained.items():
        if name not in values and not is_published[name]:
            report.notes.append(f"{name} = {value} IS A GUESS: the depth is not the published one.")
    config = AlbefConfig(vision_config=vision, text_config=text, **{**explained, **values})
    for part, names in (("vision_config", image_encoder.told), ("text_config", text_encoder.told)):
        report.dimensions |= {f"{part}.{name}": getattr(getattr(config, part), name) for name in names}
    report.dimensions |= {"vision_config.image_size": vision.image_size, "text_config.fusion_layer": text.fusion_layer}
    return config


def _check_special_ids(text: AlbefTextConfig, source: str) -> None:
    for name in SPECIAL_IDS:
        value = getattr(text, name)
        if value is None or not 0 <= value < text.vocab_size:
            raise ValueError(
                f"`text_config.{name}` is {value}, but {source} has {text.vocab_size} pieces. Save its tokenizer "
                f"beside it, or give `text_config={{{name!r}: ...}}`."
            )


def _merge(
    part: str, config_class: type[PreTrainedConfig], encoder: EncoderWeights, given: Mapping[str, Any]
) -> dict[str, Any]:
    _check_names(f"{part}.", config_class, given)
    for name, value in given.items():
        if name in encoder.told and encoder.told[name] != value:
            raise ValueError(
                f"`{part}.{name}` is {encoder.told[name]}, as {encoder.source} tells, and cannot be set to {value!r}."
            )
    return {**encoder.told, **encoder.assumed, **given}


def _check_names(prefix: str, config_class: type[PreTrainedConfig], given: Mapping[str, Any]) -> None:
    for name in given:
        if name not in config_class.__annotations__:
            known = ", ".join(sorted(config_class.__annotations__))
            raise ValueError(f"`{prefix}{name}` is no configuration value. There are: {known}.")


def _choose_explained(vision: AlbefVisionConfig, text: AlbefTextConfig) -> dict[str, int]:
    """Layers that heatmaps read: the published ones, or those at the same place in other depths."""
    above = (text.num_hidden_layers - text.fusion_layer) // PUBLISHED_FUSION_SHARE
    block = PUBLISHED_EXPLANATION_BLOCK * (vision.num_hidden_layers - 1) // PUBLISHED_LAST_BLOCK
    return {"explanation_layer": text.fusion_layer + above, "explanation_block": block}


def _resize_positions(state: dict[str, torch.Tensor], new_grid: tuple[int, int], report: EncodersReport) -> None:
    side = math.isqrt(state[POSITIONS].shape[1] - 1)
    if (side, side) != new_grid:
        resized = resize_position_embeddings(state[POSITIONS], (side, side), new_grid)
        report.resized[POSITIONS] = f"{tuple(state[POSITIONS].shape)} to {tuple(resized.shape)}"
        state[POSITIONS] = resized


@torch.no_grad()
def _load(model: AlbefForPreTraining, state: dict[str, torch.Tensor], report: EncodersReport) -> None:
    """Put the weights into the model and its momentum copies, and note what is new."""
    own = model.state_dict()
    misfits = [
        f"{name} {tuple(tensor.shape)} instead of {tuple(own[name].shape)}"
        for name, tensor in state.items()
        if tensor.shape != own[name].shape
    ]
    if misfits:
        raise ValueError(
            f"{report.vision} and {report.text} have entries of other shapes than their architecture: "
            f"{list_names(misfits)}."
        )
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"the encoders hold NaN or infinity in {len(broken)} entries: {list_names(broken)}.")
    model.load_state_dict(state, strict=False)
    for follower, parameter in model.iterate_momentum_pairs():
        follower.copy_(parameter)
    report.num_read = len(state)
    for name in own.keys() - state.keys():
        if not re.search(NOT_READ, name):
            part = next(part for pattern, part in NEW_PARTS if re.search(pattern, name))
            report.new.setdefault(part, []).append(name)
    report.new = {part: sorted(report.new[part]) for _, part in NEW_PARTS if part in report.new}


__all__ = ["EncodersReport", "build_from_encoders", "build_processor"]
