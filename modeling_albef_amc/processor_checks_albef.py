# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Checks that a processor prepares pictures and phrases as in its model's training; else heatmaps would differ."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils import logging

from .checkpoint_files_albef import read_settings
from .configuration_albef import LONGEST_SIDE, AlbefConfig
from .ranges_albef import COUNT, Range, check_number, shorten_value
from .text_processing_albef import SPECIAL_TOKENS

if TYPE_CHECKING:
    from transformers.processing_utils import ProcessorMixin

logger = logging.get_logger(__name__)

PROCESSOR_FILE = "processor_config.json"
IMAGE_FILE = "preprocessor_config.json"  # image settings only
TOKENIZER_FILE, VOCABULARY_FILE = "tokenizer.json", "vocab.txt"
TOKENIZER_FILES = (TOKENIZER_FILE, "tokenizer_config.json")
OTHER_FILES = (IMAGE_FILE, "special_tokens_map.json", "added_tokens.json")
CHECKSUMS, IMAGE_SETTINGS = "checksums", "image_processor"
NEEDED_STEPS, GEOMETRIES_NOT_FOLLOWED = ("do_resize", "do_rescale", "do_normalize"), ("do_center_crop", "do_pad")
FILTERS = range(6)  # of Pillow
BYTE_STEP = 1 / 255
LARGEST_MEAN, SMALLEST_DEVIATION, LARGEST_DEVIATION = 1, 0.01, 1
NUM_CHANNELS = 3
SPECIAL_IDS = ("pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
NEEDED_INPUTS = ("input_ids", "attention_mask")
SHORTEST_LIMIT = 2  # [CLS] and one token


def check_processor(processor: "ProcessorMixin", source: str | os.PathLike) -> None:
    """Refuse a processor that no model of this package was trained with.

    Args:
        processor ([`AlbefProcessor`]): the processor.
        source (`str` or path): its source, for messages.

    Raises:
        TypeError, ValueError: an image or tokenizer setting would silently give other heatmaps.
    """
    _check_image_settings(processor.image_processor, source)
    _check_tokenizer(processor.tokenizer, source)


def _check_image_settings(settings: ImageProcessingMixin, source: str | os.PathLike) -> None:
    where = f"{IMAGE_SETTINGS} of {source}"
    for name in NEEDED_STEPS:
        if getattr(settings, name) is not True:
            raise ValueError(
                f"`{name}` in {where} is {shorten_value(getattr(settings, name))}: the model would see other "
                "values than in its training. Set it to true."
            )
    for name in GEOMETRIES_NOT_FOLLOWED:
        if getattr(settings, name, None):
            raise ValueError(f"`{name}` in {where} is set, but regions and heatmaps cover the full image. Remove it.")
    factor = settings.rescale_factor
    if not _is_number(factor) or not math.isclose(factor, BYTE_STEP, rel_tol=1e-6):
        raise ValueError(f"`rescale_factor` in {where} must be 1/255, got {shorten_value(factor)}.")
    for name, least, most in (
        ("image_mean", 0, LARGEST_MEAN),
        ("image_std", SMALLEST_DEVIATION, LARGEST_DEVIATION),
    ):
        values = getattr(settings, name)
        if (
            not isinstance(values, list | tuple)
            or len(values) != NUM_CHANNELS
            or not all(_is_number(value) and least <= value <= most for value in values)
        ):
            raise ValueError(
                f"`{name}` in {where} must be {NUM_CHANNELS} numbers between {least} and {most} (of pixels in "
                f"[0, 1]), got {shorten_value(values)}."
            )
    if isinstance(settings.resample, bool) or settings.resample not in FILTERS:
        raise ValueError(f"`resample` in {where} must be a filter of Pillow, 0 to 5, got {settings.resample!r}.")
    for side, value in zip(("height", "width"), _read_size(settings), strict=True):
        check_number(f"size.{side}` of `{where}", value, LONGEST_SIDE)
    check_number(f"max_image_pixels` of `{where}", settings.max_image_pixels, COUNT)


def _read_size(settings: ImageProcessingMixin) -> tuple[Any, Any]:
    """Read height and width, which a dictionary has as entries and the library's class as attributes."""
    size = settings.size
    return tuple(
        size.get(side) if isinstance(size, dict) else getattr(size, side, None) for side in ("height", "width")
    )


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, source: str | os.PathLike) -> None:
    where = f"the tokenizer of {source}"
    vocabulary = tokenizer.get_vocab()
    owners: dict[int, str] = {}
    for token, token_id in sorted(vocabulary.items()):
        if owners.setdefault(token_id, token) != token:
            raise ValueError(
                f"{where} gives the id {token_id} to {owners[token_id]!r} and {token!r}: a token needs a unique id."
            )
    special = {name: getattr(tokenizer, name) for name in SPECIAL_TOKENS}
    for name, token in special.items():
        if token not in vocabulary:
            raise ValueError(f"`{name}` of {where} is {token!r}, which is not in its vocabulary.")
    if len(set(special.values())) != len(special):
        raise ValueError(f"{where} uses one token for several purposes: {special}. Each needs a separate token.")
    if not set(NEEDED_INPUTS) <= set(tokenizer.model_input_names):
        raise ValueError(f"`model_input_names` of {where} must have {', '.join(NEEDED_INPUTS)}.")
    try:
        found = tokenizer(tokenizer.unk_token, padding=False, truncation=False, verbose=False)["input_ids"]
        tokenizer.tokenize("a")  # fails if the vocabulary lacks the unknown token
    except Exception as error:  # the library raises plain exceptions
        raise ValueError(f"{where} cannot read a word ({error}). Download or save it again.") from error
    expected = [tokenizer.cls_token_id, tokenizer.unk_token_id]
    if found != expected:
        raise ValueError(
            f"{where} must put {tokenizer.cls_token} before a phrase and nothing after it, but it reads "
            f"{tokenizer.unk_token} as {tokenizer.convert_ids_to_tokens(found)}: the model was trained otherwise. "
            "`build_tokenizer_like(tokenizer)` of `text_processing_albef` makes one that does."
        )
    if tokenizer.padding_side != "right":
        raise ValueError(f"`padding_side` of {where} must be 'right', got {tokenizer.padding_side!r}.")
    check_number(f"model_max_length` of `{where}", tokenizer.model_max_length, Range(SHORTEST_LIMIT, is_whole=True))


def check_fits_model(processor: "ProcessorMixin", config: AlbefConfig, check_size: bool = True) -> None:
    """Refuse a processor that does not fit a model; warn about a vocabulary that is smaller than the model's.

    Args:
        processor ([`AlbefProcessor`]): the processor.
        config ([`AlbefConfig`]): configuration of the model.
        check_size (`bool`, defaults to `True`): whether to compare image sizes.

    Raises:
        ValueError: tokens, special tokens, text positions or image size do not fit the model.
    """
    tokenizer, text = processor.tokenizer, config.text_config
    ids = tokenizer.get_vocab().values()
    last = max(ids, default=0)
    if last >= text.vocab_size:
        raise ValueError(
            f"the tokenizer has ids up to {last}, but the model {text.vocab_size} word embeddings. Use the tokenizer "
            "that the model was trained with, or `model.resize_token_embeddings(len(processor.tokenizer))` after "
            "`add_tokens`."
        )
    if len(ids) < text.vocab_size:
        logger.warning_once(
            f"the tokenizer has {len(ids)} tokens, but the model {text.vocab_size} word embeddings: the others are "
            "never used. Unless the model was padded, use the tokenizer that it was trained with."
        )
    for name in SPECIAL_IDS:
        stated, found = getattr(text, name), getattr(tokenizer, name)
        if stated is not None and stated < text.vocab_size and stated != found:
            raise ValueError(
                f"`text_config.{name}` of the model is {stated}, but the tokenizer has {found}. Use the tokenizer "
                "that the model was trained with."
            )
    if tokenizer.model_max_length > text.max_position_embeddings:
        raise ValueError(
            f"the tokenizer allows {shorten_value(tokenizer.model_max_length)} tokens (`model_max_length`), but the "
            f"model has {text.max_position_embeddings} text positions. Set it to that number."
        )
    size, needed = _read_size(processor.image_processor), config.vision_config.image_height_width
    if check_size and size != needed:
        raise ValueError(
            f"the processor makes images of {size[0]} x {size[1]} pixels, but the model reads {needed[0]} x "
            f"{needed[1]}. Load the processor with `size={{'height': {needed[0]}, 'width': {needed[1]}}}`, or the "
            "model with `image_size`."
        )


def add_checksums(file: Path) -> None:
    """Add checksums of the image settings and of the tokenizer's files to a saved `processor_config.json`."""
    settings = read_settings(file)
    found = {name: read_settings(file.with_name(name)) for name in TOKENIZER_FILES if file.with_name(name).is_file()}
    settings[CHECKSUMS] = _compute_checksums({**found, PROCESSOR_FILE: settings})
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def report_changes(stored: Mapping[str, dict[str, Any]], source: str | os.PathLike) -> None:
    """Warn about files that were changed after their processor was saved.

    Args:
        stored (`Mapping`): content of the files, by name.
        source (`str` or path): their folder or repository, for the message.
    """
    saved = stored.get(PROCESSOR_FILE, {}).get(CHECKSUMS)
    if not isinstance(saved, dict):
        return  # saved by an earlier version
    now = _compute_checksums(stored)
    changed = sorted(name for name in saved.keys() | now.keys() if saved.get(name) != now.get(name))
    if changed:
        logger.warning(
            f"{', '.join(changed)} of {source} was changed after the processor was saved: its heatmaps may differ "
            "from those that the model was measured with. If this is intended, load the processor and save it again."
        )


def _compute_checksums(files: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    parts = {name: files[name] for name in TOKENIZER_FILES if name in files}
    parts[IMAGE_SETTINGS] = files.get(PROCESSOR_FILE, {}).get(IMAGE_SETTINGS)
    return {
        name: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for name, part in parts.items()
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


__all__ = [
    "OTHER_FILES",
    "PROCESSOR_FILE",
    "TOKENIZER_FILES",
    "add_checksums",
    "check_fits_model",
    "check_processor",
    "report_changes",
]
