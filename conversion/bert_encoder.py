# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Reads a BERT of transformers as ALBEF's text and fusion encoder."""

import os
import re

import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, PreTrainedTokenizerBase

from albef_amc.checkpoint_files_albef import CONFIG_FILE
from albef_amc.conversion.original_checkpoints import rename_original_key
from albef_amc.conversion.report import list_names
from albef_amc.conversion.weight_files import EncoderWeights, find_file, load_with_transformers
from albef_amc.pretrained_albef import SPECIAL_TOKEN_IDS
from albef_amc.text_files_albef import load_json

# What our layers compute; a BERT with other settings is refused.
REQUIRED = dict(hidden_act="gelu", position_embedding_type="absolute", is_decoder=False, add_cross_attention=False)
SHAPES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
)
SETTINGS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "pad_token_id")
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
OFFSET_TYPES = ("roberta", "camembert")  # their positions begin after the id of padding

HEAD, TIED = "cls.predictions.", "cls.predictions.decoder.weight"
IGNORED = (
    (r"(^|\.)pooler\.", "pooler of BERT"),
    (r"\.seq_relationship\.", "next-sentence head of BERT"),
    (r"", "entries that BERT does not have"),
)


def read_text_encoder(text: str | os.PathLike) -> EncoderWeights:
    """Read a BERT, with its masked-word head where the checkpoint has one.

    Args:
        text (`str` or path): folder or repository of the Hub that transformers saved.

    Raises:
        FileNotFoundError: there is no such folder or repository.
        ValueError: a model that is not a BERT, or one that ALBEF's text encoder cannot represent.
    """
    source = os.path.expanduser(os.fspath(text))
    config = _read_config(source)
    model, missing, unexpected = _load(source, config)
    tokenizer = read_tokenizer(source, config.vocab_size)
    encoder = EncoderWeights(source, {}, {name: getattr(config, name) for name in SHAPES})
    encoder.assumed = {name: getattr(config, name) for name in SETTINGS}
    if tokenizer is None:
        encoder.notes.append("`text` has no tokenizer: the ids of [CLS], [SEP] and [MASK] are assumed to be BERT's.")
    else:
        encoder.assumed |= {name: getattr(tokenizer, name) for name in SPECIAL_TOKEN_IDS}
    for name in unexpected:
        reason = next(reason for pattern, reason in IGNORED if re.search(pattern, name))
        encoder.ignored.setdefault(reason, []).append(name)
    has_head = not any(name.startswith(HEAD) for name in missing)
    state = model.state_dict()
    if has_head and not torch.equal(state[TIED], model.get_input_embeddings().weight):
        encoder.ignored["ALBEF predicts words with the word embeddings"] = [TIED]
    for name, tensor in state.items():
        if name != TIED and (has_head or not name.startswith(HEAD)):
            encoder.state[rename_original_key(f"text_encoder.{name}")] = tensor
    return encoder


def read_tokenizer(text: str | os.PathLike, vocab_size: int) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a BERT; `None` if its folder or repository has none.

    Args:
        text (`str` or path): folder or repository.
        vocab_size (`int`): word embeddings of the model.

    Raises:
        ValueError: the tokenizer has more tokens than the model, or lacks a special one.
    """
    source = os.path.expanduser(os.fspath(text))
    if all(find_file("text", source, name, required=False) is None for name in TOKENIZER_FILES):
        return None
    tokenizer = AutoTokenizer.from_pretrained(source)
    if len(tokenizer) > vocab_size:
        raise ValueError(
            f"`text`: the tokenizer of {source} has {len(tokenizer)} tokens but the model {vocab_size} word "
            "embeddings. Give the folder of a model with its own tokenizer."
        )
    missing = [name.removesuffix("_id") for name in SPECIAL_TOKEN_IDS if getattr(tokenizer, name) is None]
    if missing:
        raise ValueError(
            f"`text`: the tokenizer of {source} has no {', '.join(missing)}, which ALBEF needs. Use a BERT that was "
            "trained to predict masked words."
        )
    return tokenizer


def _read_config(source: str) -> BertConfig:
    path = find_file("text", source, CONFIG_FILE)
    values = load_json(path)
    model_type = values.get("model_type")
    if model_type != BertConfig.model_type:
        reason = ""
        if any(part in str(model_type) for part in OFFSET_TYPES):
            reason = " Its positions begin after the id of padding, and its tokens are not those of BERT."
        raise ValueError(
            f"`text`: {source} has the `model_type` {model_type!r}; ALBEF's text encoder is a BERT.{reason} Give a "
            "model of type 'bert', such as `google-bert/bert-base-uncased`."
        )
    for name, required in REQUIRED.items():
        if values.get(name, required) != required:
            raise ValueError(
                f"`text`: {source} has `{name}` {values[name]!r}; ALBEF's text encoder has only {required!r}. Use a "
                "BERT that was trained with it."
            )
    config = BertConfig.from_dict(values)
    if config.num_hidden_layers < 2:
        raise ValueError(
            f"`text`: {source} has {config.num_hidden_layers} layer; ALBEF needs at least two, one for the text and "
            "one for the fusion with the image. Use a deeper BERT."
        )
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"`text`: {source} has the width {config.hidden_size}, which is not a multiple of its "
            f"{config.num_attention_heads} attention heads. Correct its `config.json`."
        )
    return config


def _load(source: str, config: BertConfig) -> tuple[BertForMaskedLM, list[str], list[str]]:
    """The model, the names of weights that the checkpoint lacks, and those of entries that the model lacks."""
    model, missing, unexpected = load_with_transformers("text", BertForMaskedLM, source, config)
    essential = [name for name in missing if not name.startswith(HEAD)]
    if essential:
        raise ValueError(
            f"`text`: {source} lacks {len(essential)} weights of a BERT: {list_names(essential)}. It is incomplete, "
            "or a model of another kind."
        )
    return model, missing, unexpected


__all__ = ["read_text_encoder", "read_tokenizer"]
