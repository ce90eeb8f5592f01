# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Builds a pre-training model from a vision transformer and a BERT.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651), section 3.1.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

from albef_amc.configuration_albef import AlbefConfig, AlbefTextConfig, AlbefVisionConfig
from albef_amc.conversion.bert_encoder import read_text_encoder, read_tokenizer
from albef_amc.conversion.original_checkpoints import choose_explained_layers
from albef_amc.conversion.report import EncodersReport
from albef_amc.conversion.timm_encoder import read_image_encoder
from albef_amc.conversion.transformers_encoder import find_family, read_normalization, read_transformers_encoder
from albef_amc.conversion.weight_files import EncoderWeights, ImageEncoderWeights, check_values, resize_positions
from albef_amc.image_processing_albef import AlbefImageProcessor
from albef_amc.pretrained_albef import SPECIAL_TOKEN_IDS
from albef_amc.pretraining_albef import AlbefForPreTraining
from albef_amc.processing_albef import AlbefProcessor
from albef_amc.processor_checks_albef import check_processor
from albef_amc.ranges_albef import check_names
from albef_amc.text_processing_albef import build_tokenizer_like

logger = logging.get_logger(__name__)

NOT_READ = r"^momentum_|_queue|^mlm_head\.decoder\.weight$"  # copies, empty at the start, or tied
NEW_WORD_HEAD = "masked-word head (`text` has none)"
NEW_PARTS = (
    (r"\.vision_model\.cls_token$", "class token of the image encoder (`vision` has none)"),
    (r"\.cross_attention", "cross-attention of the fusion layers"),
    (r"_projection\.|temperature", "contrastive projections and temperature"),
    (r"^itm_head\.", "matching head"),
    (r"^mlm_head\.", NEW_WORD_HEAD),
)


def build_from_encoders(
    model_class: type[AlbefForPreTraining],
    vision: str | os.PathLike,
    text: str | os.PathLike,
    vision_config: Mapping[str, Any],
    text_config: Mapping[str, Any],
    values: Mapping[str, Any],
) -> tuple[AlbefForPreTraining, EncodersReport]:
    """A model in evaluation mode, and a report of its parts; see [`AlbefForPreTraining.from_encoders`].

    Args:
        model_class (`type`): class of the model.
        vision, text (`str` or path): the encoders.
        vision_config, text_config, values (`Mapping[str, Any]`): values of [`AlbefVisionConfig`],
            [`AlbefTextConfig`] and [`AlbefConfig`] that the encoders do not determine.
    """
    family = find_family(vision)
    image_encoder = read_image_encoder(vision) if family is None else read_transformers_encoder(vision, family)
    text_encoder = read_text_encoder(text)
    report = EncodersReport(
        vision=image_encoder.source,
        text=text_encoder.source,
        model_class=model_class.__name__,
        ignored={**image_encoder.ignored, **text_encoder.ignored},
        notes=image_encoder.notes + text_encoder.notes,
    )
    config, guesses = _build_config(image_encoder, text_encoder, vision_config, text_config, values)
    report.notes += guesses
    parts = (("vision_config", image_encoder, "image_size"), ("text_config", text_encoder, "fusion_layer"))
    for part, encoder, chosen in parts:
        names = (*encoder.known, chosen)
        report.dimensions |= {f"{part}.{name}": getattr(getattr(config, part), name) for name in names}
    state = {**image_encoder.state, **text_encoder.state}
    new_grid = config.vision_config.grid_size
    resized, report.resized = resize_positions(state, image_encoder.grid, new_grid, image_encoder.antialias)
    model = model_class(config)
    report.num_read = len(state)
    report.new = _load(model, state | resized, f"{report.vision} and {report.text}")
    for line in report.describe():
        logger.info(line)
    if NEW_WORD_HEAD in report.new:
        logger.warning(
            f"{report.text} has no masked-word head: a new one is learned from scratch. A checkpoint of "
            "`BertForPreTraining` or `BertForMaskedLM` has one."
        )
    return model.eval(), report


def build_processor(
    text: str | os.PathLike, config: AlbefConfig, vision: str | os.PathLike | None = None
) -> AlbefProcessor:
    """The processor of a model from encoders: the tokens of its BERT, the normalisation of its image encoder.

    [CLS] comes first, and there is NO [SEP] at the end.

    Args:
        text (`str` or path): folder or repository of the BERT.
        config ([`AlbefConfig`]): configuration of the model.
        vision (`str` or path, *optional*): the image encoder. With one of transformers, images are rescaled and
            normalised as in its training; without, and with one of timm, by CLIP's mean and deviation, as in ALBEF.

    Raises:
        FileNotFoundError: there is no tokenizer, or no image processor of an encoder of transformers.
        ValueError: a tokenizer that is not WordPiece, or does not fit the model; a normalisation out of range.
    """
    tokenizer = read_tokenizer(text, config.text_config.vocab_size)
    if tokenizer is None:
        raise FileNotFoundError(
            f"`text`: {os.fspath(text)} has no tokenizer (`tokenizer.json` or `vocab.txt`). Save it there, or build "
            "one from a `vocab.txt` with `build_tokenizer`."
        )
    own = build_tokenizer_like(tokenizer, model_max_length=config.text_config.max_position_embeddings)
    height, width = config.vision_config.image_height_width
    normalization = {} if vision is None or find_family(vision) is None else read_normalization(vision)
    image_processor = AlbefImageProcessor(size={"height": height, "width": width}, **normalization)
    processor = AlbefProcessor(image_processor, own)
    check_processor(processor, text if vision is None else vision)
    return processor


def _build_config(
    image_encoder: ImageEncoderWeights,
    text_encoder: EncoderWeights,
    vision_config: Mapping[str, Any],
    text_config: Mapping[str, Any],
    values: Mapping[str, Any],
) -> tuple[AlbefConfig, list[str]]:
    """The configuration, checked, and a note for each value that is a guess."""
    vision_values = _merge("vision_config", AlbefVisionConfig, image_encoder, vision_config)
    if "num_attention_heads" not in vision_values:
        raise ValueError(
            f"`vision`: tensors do not show the attention heads of {image_encoder.source}, and width "
            f"{vision_values['hidden_size']} is none of the published ones. Give them: "
            "`vision_config={'num_attention_heads': ...}`."
        )
    text_encoder.assumed["fusion_layer"] = text_encoder.known["num_hidden_layers"] // 2
    text = AlbefTextConfig(**_merge("text_config", AlbefTextConfig, text_encoder, text_config))
    vision = AlbefVisionConfig(**vision_values)
    _check_special_ids(text, text_encoder.source)
    check_names(values, [*AlbefConfig.__annotations__], "a configuration of ALBEF", "value")
    explained, guesses = choose_explained_layers(
        vision.num_hidden_layers, text.fusion_layer, text.num_hidden_layers, images_per_text=1, given=values
    )
    return AlbefConfig(vision_config=vision, text_config=text, **explained, **values), guesses


def _check_special_ids(text: AlbefTextConfig, source: str) -> None:
    for name in SPECIAL_TOKEN_IDS:
        value = getattr(text, name)
        if value is None or not 0 <= value < text.vocab_size:
            raise ValueError(
                f"`text_config.{name}` is {value}, but {source} has {text.vocab_size} tokens. Save its tokenizer "
                f"with it, or give `text_config={{{name!r}: ...}}`."
            )


def _merge(
    part: str, config_class: type[PreTrainedConfig], encoder: EncoderWeights, given: Mapping[str, Any]
) -> dict[str, Any]:
    check_names(given, [*config_class.__annotations__], f"`{part}`", "value")
    for name, value in given.items():
        if name in encoder.known and encoder.known[name] != value:
            raise ValueError(
                f"`{part}.{name}` is {encoder.known[name]} according to {encoder.source}, and cannot be set to "
                f"{value!r}."
            )
    return {**encoder.known, **encoder.assumed, **given}


@torch.no_grad()
def _load(model: AlbefForPreTraining, state: Mapping[str, torch.Tensor], source: str) -> dict[str, list[str]]:
    """Loads the weights into the model and its momentum copies; returns names of new weights by part of the model."""
    own = model.state_dict()
    check_values(state, own, source)
    model.load_state_dict(state, strict=False)
    for follower, parameter in model.iterate_momentum_pairs():
        follower.copy_(parameter)
    new = sorted(name for name in own.keys() - state.keys() if not re.search(NOT_READ, name))
    parts = {part: [name for name in new if re.search(pattern, name)] for pattern, part in NEW_PARTS}
    return {part: names for part, names in parts.items() if names}


__all__ = ["EncodersReport", "build_from_encoders", "build_processor"]
