# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Original checkpoints of ALBEF and AMC: read them, recognise them, rename their entries, infer their architecture."""

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .configuration_albef import AlbefConfig, AlbefTextConfig, AlbefVisionConfig

# The published models have 64 channels in a head; the number of heads leaves no trace in the tensors.
PUBLISHED_HEAD_WIDTH = 64
# Heatmaps of the published models: layer 8 of 12 text layers (6 of them fusion layers), block 8 of 12 vision blocks.
PUBLISHED_FUSION_SHARE = 3
PUBLISHED_TEXT_DEPTH = (6, 12)
PUBLISHED_EXPLANATION_BLOCK, PUBLISHED_LAST_BLOCK = 8, 11

ZIP_SIGNATURE = b"PK\x03\x04"
NAMES_SHOWN = 8

# Renaming rules, applied in this order, each at most once to a name.
PREFIXES = (
    (r"^visual_encoder\.", "albef.vision_model."),
    (r"^visual_encoder_m\.", "momentum_vision_model."),
    (r"^text_encoder\.(bert\.)?(?=embeddings\.|encoder\.)", "albef.text_model."),
    (r"^text_encoder_m\.(bert\.)?(?=embeddings\.|encoder\.)", "momentum_text_model."),
    (r"^text_decoder\.bert\.", "answer_decoder."),
    (r"^text_decoder_m\.bert\.", "momentum_answer_decoder."),
    (r"^text_decoder\.cls\.predictions\.", "answer_decoder.lm_head."),
    (r"^text_decoder_m\.cls\.predictions\.", "momentum_answer_decoder.lm_head."),
    (r"^text_encoder\.cls\.predictions\.", "mlm_head."),
    (r"^text_encoder_m\.cls\.predictions\.", "momentum_mlm_head."),
    (r"^(vision|text)_proj\.", r"albef.\1_projection."),
    (r"^(vision|text)_proj_m\.", r"momentum_\1_projection."),
    (r"^temp$", "albef.temperature"),
    (r"^(itm_head)\.", r"\1."),
    (r"^(image|text)_queue$", r"\1_queue"),
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
    (r"lm_head\.transform\.dense\.", "lm_head.dense."),  # of the masked-word head, and of the decoder
    (r"lm_head\.transform\.LayerNorm\.", "lm_head.layer_norm."),
    (r"lm_head\.bias$", "lm_head.decoder.bias"),
)
IGNORED = ((r"\.position_ids$", "a count from 0, not a weight"),)
# Names that give away which model a checkpoint belongs to, most telling first.
OTHER_KINDS = (
    (r"^text_decoder\.", "ALBEF visual question answering"),
    (r"^ta_head\.", "ALBEF pre-training for NLVR"),
    (r"^cls_head\.", "ALBEF with a classification head (NLVR or visual entailment)"),
    (r"^idx_queue$", "ALBEF retrieval (also the evaluation model of AMC)"),
    (r"^text_encoder\.encoder\.", "ALBEF fine-tuned for another task"),
)


def load_original_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the weights of a `.pth` file without running any code that it may hold.

    Args:
        path (`str` or `Path`): `{'model': state_dict, ...}` or the state dict alone.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"No checkpoint at {path}. ALBEF.pth and AMC's checkpoints are downloaded by hand.")
    if not path.is_file():
        raise ValueError(f"{path} is not a file. Give the `.pth` of ALBEF or AMC, not a folder.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes): the download failed. Fetch it again.")
    with path.open("rb") as file:
        is_zip = file.read(len(ZIP_SIGNATURE)) == ZIP_SIGNATURE
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            raise ValueError(f"{path} is not a checkpoint that torch can read, or is damaged.") from error
        raise ValueError(
            f"{path} holds pickled objects that could run code ({found[1]}) and is not loaded. If you trust its "
            "origin, save its weights alone: `torch.save({'model': checkpoint['model']}, 'weights.pth')`."
        ) from error
    except Exception as error:  # a damaged file can make the reader raise anything
        raise ValueError(f"{path} is not a checkpoint that torch can read, or was cut off. Fetch it again.") from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        held = ", ".join(map(str, list(content)[:NAMES_SHOWN])) if isinstance(content, dict) else str(type(content))
        raise ValueError(f"{path} holds no state dict, at the top or under 'model'; it holds {held}.")
    return state


def find_kind(state_dict: Mapping[str, torch.Tensor], source: str = "the checkpoint") -> str:
    """Which model a state dict belongs to, by its names; an error for all but the two that can be converted."""
    for pattern, kind in OTHER_KINDS:
        if any(re.search(pattern, name) for name in state_dict):
            raise ValueError(f"{source} is {kind}. Only pre-training checkpoints of ALBEF and AMC can be converted.")
    for needed in ("visual_encoder.", "text_encoder.bert."):
        if not any(name.startswith(needed) for name in state_dict):
            raise ValueError(
                f"{source} belongs to another architecture: it has no `{needed}*`. Its entries begin with "
                f"{list_names(list(state_dict))}. Pre-training checkpoints of ALBEF and AMC can be converted."
            )
    return "AMC pre-training" if "queue_ptr_img" in state_dict else "ALBEF pre-training"


def rename_original_key(name: str) -> str | None:
    """Our name of an entry of an original pre-training checkpoint; `None` for an entry without a place in our models.

    Example:

    ```python
    >>> from albef_amc.original_albef import rename_original_key
    >>> rename_original_key("text_encoder.bert.encoder.layer.6.crossattention.self.query.weight")
    'albef.text_model.layers.6.cross_attention.q_proj.weight'

    ```
    """
    for pattern, replacement in PREFIXES:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            break
    else:
        return None
    if find_ignored_reason(name):
        return None
    for part, ours in PARTS:
        renamed = re.sub(part, ours, renamed, count=1)
    return renamed


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
    told = {**_infer_vision(state_dict), **_infer_text(state_dict)}
    told["projection_dim"] = _shape(state_dict, "vision_proj.weight")[0]
    if "image_queue" in state_dict:
        told["queue_size"] = state_dict["image_queue"].shape[1]
    overrides = dict(overrides or {})
    _check_overrides(overrides, told)
    assumed, notes = _assume(told, overrides)
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
        "num_hidden_layers": _count(state_dict, r"^visual_encoder\.blocks\.(\d+)\."),
        "image_size": image_size,
        "patch_size": patch_size,
        "num_channels": num_channels,
    }
    return {f"vision_config.{name}": value for name, value in values.items()}


def _infer_text(state_dict: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    embeddings, layer = "text_encoder.bert.embeddings", r"^text_encoder\.bert\.encoder\.layer\.(\d+)\."
    vocab_size, hidden_size = _shape(state_dict, f"{embeddings}.word_embeddings.weight")
    fusion_layers = {int(match[1]) for name in state_dict if (match := re.match(f"{layer}crossattention", name))}
    if not fusion_layers:
        raise ValueError("the text encoder has no layer with cross-attention: this is not ALBEF's fusion encoder.")
    values = {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": _shape(state_dict, "text_encoder.bert.encoder.layer.0.intermediate.dense.weight")[0],
        "num_hidden_layers": _count(state_dict, layer),
        "fusion_layer": min(fusion_layers),
        "max_position_embeddings": _shape(state_dict, f"{embeddings}.position_embeddings.weight")[0],
        "type_vocab_size": _shape(state_dict, f"{embeddings}.token_type_embeddings.weight")[0],
    }
    return {f"text_config.{name}": value for name, value in values.items()}


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
    fusion_layer, num_layers = told["text_config.fusion_layer"], told["text_config.num_hidden_layers"]
    num_blocks = told["vision_config.num_hidden_layers"]
    chosen = {
        "explanation_layer": fusion_layer + (num_layers - fusion_layer) // PUBLISHED_FUSION_SHARE,
        "explanation_block": PUBLISHED_EXPLANATION_BLOCK * (num_blocks - 1) // PUBLISHED_LAST_BLOCK,
    }
    published = {"explanation_layer": (fusion_layer, num_layers) == PUBLISHED_TEXT_DEPTH}
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


def _count(state_dict: Mapping[str, torch.Tensor], pattern: str) -> int:
    return 1 + max(int(match[1]) for name in state_dict if (match := re.match(pattern, name)))


def list_names(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(f"`{name}`" for name in names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


__all__ = [
    "find_ignored_reason",
    "find_kind",
    "infer_config",
    "list_names",
    "load_original_state_dict",
    "rename_original_key",
]
