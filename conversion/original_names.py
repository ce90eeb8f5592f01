# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Entries of original checkpoints of ALBEF and AMC: our names for them, and the architecture that they tell."""

import re
from collections.abc import Mapping
from typing import Any

import torch

from albef_amc.configuration_albef import AlbefConfig, AlbefTextConfig, AlbefVisionConfig
from albef_amc.conversion.original_kinds import (
    PUBLISHED_TEXT_DEPTH,
    count_images_per_text,
    count_layers,
    describe_images_per_text,
    find_fusion_layer,
    find_kind,
    find_text_prefix,
    may_read_pairs,
)
from albef_amc.pretrained_albef import AlbefPreTrainedModel

# The published models have 64 channels in a head; the number of heads leaves no trace in the tensors.
PUBLISHED_HEAD_WIDTH = 64
# Heatmaps of the published models: layer 8 of 12 text layers (6 of them fusion layers), block 8 of 12 vision blocks.
PUBLISHED_FUSION_SHARE = 3
PUBLISHED_EXPLANATION_BLOCK, PUBLISHED_LAST_BLOCK = 8, 11
IMAGES_PER_TEXT = "text_config.images_per_text"

# Renaming rules, applied in this order, each at most once to a name. Heads of one class are listed by the class, and
# momentum copies have the names of the modules that they follow.
PREFIXES = (
    (r"^visual_encoder\.", "albef.vision_model."),
    (r"^text_encoder\.cls\.predictions\.", "mlm_head."),
    (r"^text_encoder\.(?:bert\.)?", "albef.text_model."),
    (r"^(vision|text)_proj\.", r"albef.\1_projection."),
    (r"^temp$", "albef.temperature"),
    (r"^(itm_head\.|(?:image|text)_queue$)", r"\1"),
    (r"^idx_queue$", "image_queue_ids"),
    (r"^queue_ptr(_img)?$", "image_queue_pointer"),
    (r"^queue_ptr_txt$", "text_queue_pointer"),
)
PARTS = (
    (r"vision_model\.pos_embed$", "vision_model.position_embeddings"),
    (r"vision_model\.patch_embed\.proj\.", "vision_model.patch_embedding."),
    (r"vision_model\.norm\.", "vision_model.layer_norm."),
    (r"vision_model\.blocks\.", "vision_model.layers."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.attn\.qkv\.", ".attention.qkv."),
    (r"\.attn\.proj\.", ".attention.out_proj."),
    (r"\.mlp\.(fc[12])\.", r".\1."),
    (r"(text_model|answer_decoder)\.embeddings\.LayerNorm\.", r"\1.embedding_layer_norm."),
    (r"(text_model|answer_decoder)\.embeddings\.(\w+_embeddings)\.", r"\1.\2."),
    (r"(text_model|answer_decoder)\.encoder\.layer\.", r"\1.layers."),
    (r"\.crossattention\.", ".cross_attention."),
    (r"attention\.self\.(query|key|value)\.", lambda match: f"attention.{match[1][0]}_proj."),
    (r"attention\.output\.dense\.", "attention.out_proj."),
    (r"attention\.output\.LayerNorm\.", "attention_layer_norm."),
    (r"\.intermediate\.dense\.", ".fc1."),
    (r"\.output\.dense\.", ".fc2."),
    (r"\.output\.LayerNorm\.", ".output_layer_norm."),
    (r"lm_head\.transform\.dense\.", "lm_head.dense."),
    (r"lm_head\.transform\.LayerNorm\.", "lm_head.layer_norm."),
    (r"lm_head\.bias$", "lm_head.decoder.bias"),
)
IGNORED = ((r"\.position_ids$", "a count from 0, not a weight"),)


def rename_original_key(name: str) -> str | None:
    """Our name of an entry of an original checkpoint of any kind; `None` for one without a place in our models.

    Example:

    ```python
    >>> from albef_amc.conversion.original_names import rename_original_key
    >>> rename_original_key("text_encoder.bert.encoder.layer.6.crossattention.self.query.weight")
    'albef.text_model.layers.6.cross_attention.q_proj.weight'

    ```
    """
    if find_ignored_reason(name):
        return None
    momentum = re.fullmatch(r"(\w+)_m(\..+)", name)
    if momentum is not None:
        followed = rename_original_key(momentum[1] + momentum[2])
        return None if followed is None else f"momentum_{followed.removeprefix('albef.')}"
    of_heads = [rule for cls in AlbefPreTrainedModel.task_classes.values() for rule in cls.original_names]
    for pattern, replacement in (*PREFIXES, *of_heads):
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            for part, ours in PARTS:
                renamed = re.sub(part, ours, renamed, count=1)
            return renamed
    return None


def find_ignored_reason(name: str) -> str | None:
    """Why an original entry that has no place in our models is none the less expected; `None` if it is not."""
    return next((reason for pattern, reason in IGNORED if re.search(pattern, name)), None)


def infer_config(
    state_dict: Mapping[str, torch.Tensor], overrides: Mapping[str, Any] | None = None
) -> tuple[AlbefConfig, list[str]]:
    """Read the architecture off the shapes of an original checkpoint.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): entries under their original names; only shapes are read.
        overrides (`Mapping[str, Any]`, *optional*): values that shapes do not tell, by dotted name.

    Returns:
        `tuple[AlbefConfig, list[str]]`: the configuration, and what was assumed for want of a trace in the tensors.
    """
    overrides = dict(overrides or {})
    told = {**_infer_vision(state_dict), **_infer_text(state_dict)}
    told |= _infer_heads(state_dict, overrides.get(IMAGES_PER_TEXT))
    _check_overrides(overrides, told)
    assumed, notes = _assume(told, overrides)
    if may_read_pairs(state_dict) and IMAGES_PER_TEXT not in overrides:
        note = describe_images_per_text(state_dict)
        notes += [] if note is None else [note]
    nested: dict[str, Any] = {"vision_config": {}, "text_config": {}}
    for name, value in {**told, **assumed, **overrides}.items():
        *owner, leaf = name.split(".")
        (nested[owner[0]] if owner else nested)[leaf] = value
    return AlbefConfig(**nested), notes


def _infer_vision(state_dict: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    hidden_size, num_channels, *patch = _shape(state_dict, "visual_encoder.patch_embed.proj.weight")
    num_patches = _shape(state_dict, "visual_encoder.pos_embed")[1] - 1
    side = round(num_patches**0.5)
    if side * side != num_patches:
        raise ValueError(
            f"`visual_encoder.pos_embed` has {num_patches} patch positions, which is no square grid: the image size "
            "cannot be inferred."
        )
    is_square = patch[0] == patch[1]
    image_size = side * patch[0] if is_square else [side * patch[0], side * patch[1]]
    patch_size = patch[0] if is_square else patch
    values = {
        "hidden_size": hidden_size,
        "intermediate_size": _shape(state_dict, "visual_encoder.blocks.0.mlp.fc1.weight")[0],
        "num_hidden_layers": count_layers(state_dict, "visual_encoder.blocks."),
        "image_size": image_size,
        "patch_size": patch_size,
        "num_channels": num_channels,
    }
    return {f"vision_config.{name}": value for name, value in values.items()}


def _infer_text(state_dict: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    encoder = find_text_prefix(state_dict)
    vocab_size, hidden_size = _shape(state_dict, f"{encoder}embeddings.word_embeddings.weight")
    values = {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": _shape(state_dict, f"{encoder}encoder.layer.0.intermediate.dense.weight")[0],
        "num_hidden_layers": count_layers(state_dict, f"{encoder}encoder.layer."),
        "fusion_layer": find_fusion_layer(state_dict),
        "max_position_embeddings": _shape(state_dict, f"{encoder}embeddings.position_embeddings.weight")[0],
        "type_vocab_size": _shape(state_dict, f"{encoder}embeddings.token_type_embeddings.weight")[0],
    }
    return {f"text_config.{name}": value for name, value in values.items()}


def _infer_heads(state_dict: Mapping[str, torch.Tensor], images_per_text: int | None) -> dict[str, Any]:
    """What the heads of a kind tell; nothing of heads that it has not."""
    told: dict[str, Any] = {}
    if "vision_proj.weight" in state_dict:
        told["projection_dim"] = state_dict["vision_proj.weight"].shape[0]
    if "image_queue" in state_dict:
        told["queue_size"] = state_dict["image_queue"].shape[1]
    if num_decoder_layers := count_layers(state_dict, "text_decoder.bert.encoder.layer."):
        told["decoder_layers"] = num_decoder_layers
    if may_read_pairs(state_dict):
        images_per_text = images_per_text or count_images_per_text(state_dict)
        told |= {IMAGES_PER_TEXT: images_per_text} if images_per_text > 1 else {}
    if labels := find_kind(state_dict, images_per_text=images_per_text).trained_class.label_names:
        classifier = state_dict.get("cls_head.2.weight")
        num_labels = len(labels) if classifier is None else len(classifier)
        if len(labels) != num_labels:
            labels = tuple(f"LABEL_{index}" for index in range(num_labels))
        told["id2label"] = dict(enumerate(labels))
        told["label2id"] = {label: index for index, label in enumerate(labels)}
    return told


def _check_overrides(overrides: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    owners = {"": AlbefConfig, "vision_config.": AlbefVisionConfig, "text_config.": AlbefTextConfig}
    known = [prefix + name for prefix, owner in owners.items() for name in owner.__annotations__]
    for name, value in overrides.items():
        if name not in known or name in ("vision_config", "text_config"):
            raise ValueError(f"`{name}` is no configuration value. There are: {', '.join(sorted(known))}.")
        if name in told and told[name] != value:
            raise ValueError(
                f"`{name}` is {told[name]}, as the shapes of the checkpoint tell, and cannot be set to {value!r}."
                + (" Use `image_size` (`--image-size`) to resize." if name.endswith("image_size") else "")
            )


def _assume(told: Mapping[str, Any], overrides: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What shapes do not tell: as in the published models, unless it is set."""
    assumed, notes = {}, []
    for part in ("vision_config", "text_config"):
        name, width = f"{part}.num_attention_heads", told[f"{part}.hidden_size"]
        if name in overrides:
            continue
        if width % PUBLISHED_HEAD_WIDTH:
            raise ValueError(
                f"`{name}` leaves no trace in the tensors, and width {width} is no multiple of the published "
                f"{PUBLISHED_HEAD_WIDTH} channels a head. Set it (`--set {name}=...`)."
            )
        assumed[name] = width // PUBLISHED_HEAD_WIDTH
        notes.append(f"{name} = {assumed[name]} is assumed ({PUBLISHED_HEAD_WIDTH} channels a head).")
    fusion_layer, num_images = told["text_config.fusion_layer"], told.get(IMAGES_PER_TEXT, 1)
    num_fusion_layers = (told["text_config.num_hidden_layers"] - fusion_layer) // num_images  # of a single image
    num_blocks = told["vision_config.num_hidden_layers"]
    chosen = {
        "explanation_layer": fusion_layer + num_images * (num_fusion_layers // PUBLISHED_FUSION_SHARE),
        "explanation_block": PUBLISHED_EXPLANATION_BLOCK * (num_blocks - 1) // PUBLISHED_LAST_BLOCK,
    }
    published = {"explanation_layer": (fusion_layer, fusion_layer + num_fusion_layers) == PUBLISHED_TEXT_DEPTH}
    published["explanation_block"] = num_blocks == PUBLISHED_LAST_BLOCK + 1
    for name, value in chosen.items():
        if name not in overrides:
            assumed[name] = value
            if not published[name]:
                notes.append(
                    f"{name} = {value} IS A GUESS: the depth is not the published one. Set it if you know it."
                )
    return assumed, notes


def _shape(state_dict: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...]:
    if name not in state_dict:
        raise ValueError(f"the checkpoint lacks `{name}`, whose shape tells its architecture: it is incomplete.")
    return tuple(state_dict[name].shape)


__all__ = ["IMAGES_PER_TEXT", "find_ignored_reason", "infer_config", "rename_original_key"]
