# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Reads a vision transformer of transformers (DINOv2, ViT, SigLIP) as ALBEF's image encoder.

Sources: Oquab et al., "DINOv2", 2023 (arXiv 2304.07193); Darcet et al., "Vision Transformers Need Registers", ICLR
2024 (arXiv 2309.16588); Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023 (arXiv 2303.15343).
"""

import os
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    AutoImageProcessor,
    Dinov2Model,
    Dinov2WithRegistersModel,
    PreTrainedConfig,
    PreTrainedModel,
    SiglipVisionModel,
    ViTModel,
)

from albef_amc.checkpoint_files_albef import CONFIG_FILE
from albef_amc.configuration_albef import VISION_ACTIVATIONS
from albef_amc.conversion.report import list_names
from albef_amc.conversion.timm_encoder import is_file_or_timm_name
from albef_amc.conversion.weight_files import (
    ImageEncoderWeights,
    find_file,
    fold_layer_scale,
    load_with_transformers,
)
from albef_amc.processor_checks_albef import BYTE_STEP, IMAGE_FILE, PROCESSOR_FILE
from albef_amc.text_files_albef import load_json


@dataclass(frozen=True)
class VisionFamily:
    """What is particular to a kind of image encoder.

    Args:
        model_class (`type`): its class in transformers.
        has_class_token (`bool`): whether a class token comes before the patches.
        antialias (`bool`): whether the class filters positions before reducing them.
        required (`dict[str, Any]`): settings without which ALBEF's image encoder would compute something else.
    """

    model_class: type[PreTrainedModel]
    has_class_token: bool = True
    antialias: bool = False
    required: dict[str, Any] = field(default_factory=lambda: {"qkv_bias": True})


OF_DINOV2 = {"qkv_bias": True, "use_swiglu_ffn": False}  # the largest DINOv2 has gated layers
SIGLIP = VisionFamily(SiglipVisionModel, has_class_token=False, required={})
FAMILIES = {  # by `model_type`
    "dinov2": VisionFamily(Dinov2Model, required=OF_DINOV2),
    "dinov2_with_registers": VisionFamily(Dinov2WithRegistersModel, antialias=True, required=OF_DINOV2),
    "vit": VisionFamily(ViTModel),
    "siglip": SIGLIP,
    "siglip_vision_model": SIGLIP,
}
SAME_SETTINGS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_channels",
    "layer_norm_eps",
    "hidden_act",
)

# Our names of weights: rules that are applied one after the other.
RULES = (
    (r"^embeddings\.(cls_token|position_embeddings|register_tokens)$", r"\1"),
    (r"^embeddings\.position_embedding\.weight$", "position_embeddings"),
    (r"^embeddings\.patch_embeddings?\.(projection\.)?", "patch_embedding."),
    (r"^(encoder\.)?layers?\.", "layers."),
    (r"\.(layernorm_before|norm1)\.", ".layer_norm1."),
    (r"\.(layernorm_after|norm2)\.", ".layer_norm2."),
    (r"\.self_attn\.", ".attention."),
    (r"\.o_proj\.", ".out_proj."),
    (r"\.mlp\.", "."),
    (r"^(post_)?layernorm\.", "layer_norm."),
)
LAYER_SCALES = {"layer_scale1.lambda1": "attention.out_proj", "layer_scale2.lambda1": "fc2"}
POSITIONS = "position_embeddings"
IGNORED = (
    (r"^(pooler|head)\.", "pooling of the vision transformer"),
    (r"mask_token$", "mask token of the vision transformer"),
    (r"^(classifier|decoder)\.", "head of the vision transformer"),
    (r"^text_model\.|^logit_", "text encoder and scale of SigLIP"),
)


def find_family(vision: str | os.PathLike) -> VisionFamily | None:
    """The family of a model that transformers saved; `None` for what timm saved, a file of weights and a name of timm.

    Args:
        vision (`str` or path): folder or repository of the Hub.

    Raises:
        FileNotFoundError: there is no such folder or repository.
        ValueError: a model of transformers that is not an image encoder that ALBEF can start from.
    """
    source = os.path.expanduser(os.fspath(vision))
    if is_file_or_timm_name(source):
        return None
    path = find_file("vision", source, CONFIG_FILE, required=False)
    model_type = load_json(path).get("model_type") if path else None
    if model_type is None:
        return None
    if model_type not in FAMILIES:
        raise ValueError(
            f"`vision`: {source} has the `model_type` {model_type!r}; ALBEF's image encoder can be one of "
            f"{', '.join(FAMILIES)}, or a vision transformer of timm. Give one, such as `facebook/dinov2-base`."
        )
    return FAMILIES[model_type]


def read_transformers_encoder(vision: str | os.PathLike, family: VisionFamily) -> ImageEncoderWeights:
    """Read an image encoder that transformers saved. Its states after the last normalisation become image_embeds.

    Layer scale is folded into the projections before it. An encoder without a class token gets a new one, which its
    patches do not read.

    Args:
        vision (`str` or path): folder or repository of the Hub.
        family ([`VisionFamily`]): its family, as [`find_family`] found it.

    Raises:
        FileNotFoundError: weights that cannot be reached.
        ValueError: incomplete or damaged weights, or settings that ALBEF's image encoder does not have.
    """
    source = os.path.expanduser(os.fspath(vision))
    config = family.model_class.config_class.from_pretrained(source)
    _check_settings(source, config, family)
    model, missing, unexpected = load_with_transformers("vision", family.model_class, source, config)
    for problem, names in (("fewer", missing), ("more", unexpected)):
        essential = [name for name in names if _find_reason(name) is None]
        if essential:
            raise ValueError(
                f"`vision`: {source} has {problem} weights than a {family.model_class.__name__} of the sizes in its "
                f"`{CONFIG_FILE}`: {list_names(essential)}. It is incomplete, or of another kind or size."
            )
    state: dict[str, torch.Tensor] = {}
    ignored: dict[str, list[str]] = {}
    for name in unexpected:
        ignored.setdefault(str(_find_reason(name)), []).append(name)
    for name, tensor in model.state_dict().items():
        reason = _find_reason(name)
        if reason is None:
            state[_rename(name)] = tensor
        elif name not in missing:
            ignored.setdefault(reason, []).append(name)
    return _build_encoder(source, config, family, state, ignored)


def read_normalization(vision: str | os.PathLike) -> dict[str, list[float]]:
    """`image_mean` and `image_std`, of pixels in [0, 1], that an encoder of transformers was trained with.

    Args:
        vision (`str` or path): folder or repository of the Hub.

    Returns:
        `dict[str, list[float]]`: both per channel. Another rescaling than by 1/255 is part of them.

    Raises:
        FileNotFoundError: it has no image processor.
    """
    source = os.path.expanduser(os.fspath(vision))
    if all(find_file("vision", source, name, required=False) is None for name in (IMAGE_FILE, PROCESSOR_FILE)):
        raise FileNotFoundError(
            f"`vision`: {source} has no `{IMAGE_FILE}`, which gives the normalisation of its images. Save its image "
            "processor there."
        )
    settings = AutoImageProcessor.from_pretrained(source, backend="pil")
    factor = settings.rescale_factor / BYTE_STEP if settings.do_rescale else 1 / BYTE_STEP
    mean, deviation = (settings.image_mean, settings.image_std) if settings.do_normalize else ([0.0] * 3, [1.0] * 3)
    return {"image_mean": [value / factor for value in mean], "image_std": [value / factor for value in deviation]}


def _check_settings(source: str, config: PreTrainedConfig, family: VisionFamily) -> None:
    """Refuses settings with which the same weights compute something else than ALBEF's image encoder."""
    choices = {name: (value,) for name, value in family.required.items()} | {"hidden_act": tuple(VISION_ACTIVATIONS)}
    for name, allowed in choices.items():
        value = getattr(config, name)
        if value not in allowed:
            raise ValueError(
                f"`vision`: {source} has `{name}` {value!r}; ALBEF's image encoder has only "
                f"{' or '.join(map(repr, allowed))}. Use a vision transformer that was trained with it."
            )


def _build_encoder(
    source: str,
    config: PreTrainedConfig,
    family: VisionFamily,
    state: dict[str, torch.Tensor],
    ignored: dict[str, list[str]],
) -> ImageEncoderWeights:
    known = {name: getattr(config, name) for name in SAME_SETTINGS}
    known |= {"patch_size": config.patch_size, "intermediate_size": len(state["layers.0.fc1.weight"])}
    known |= {"num_register_tokens": state["register_tokens"].shape[1] if "register_tokens" in state else 0}
    known |= {"is_class_token_read": family.has_class_token}
    (height, width), (patch_height, patch_width) = _as_pair(config.image_size), _as_pair(config.patch_size)
    grid = height // patch_height, width // patch_width
    image_size = [grid[0] * patch_height, grid[1] * patch_width]
    encoder = ImageEncoderWeights(source, {}, known, ignored=ignored, grid=grid, antialias=family.antialias)
    encoder.assumed["image_size"] = image_size[0] if image_size[0] == image_size[1] else image_size
    if image_size != [height, width]:
        encoder.notes.append(
            f"`vision` has images of {height} x {width} pixels, of which its patches cover {image_size}."
        )
    if not family.has_class_token:
        state[POSITIONS] = torch.cat([torch.zeros_like(state[POSITIONS][:1]), state[POSITIONS]])[None]
        encoder.notes.append(
            "`vision` has no class token: a new one reads the patches, which do not read it. Its pooling is not used."
        )
    encoder.state = {f"albef.vision_model.{name}": tensor for name, tensor in _join(state, config).items()}
    return encoder


def _join(state: dict[str, torch.Tensor], config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """Weights with layer scales folded, and queries, keys and values in one matrix."""
    joined = {name: tensor for name, tensor in state.items() if not re.search(r"\.[qkv]_proj\.|\.layer_scale", name)}
    for layer in range(config.num_hidden_layers):
        attention = f"layers.{layer}.attention"
        for kind in ("weight", "bias"):
            joined[f"{attention}.qkv.{kind}"] = torch.cat([state[f"{attention}.{part}_proj.{kind}"] for part in "qkv"])
        for scale, projection in LAYER_SCALES.items():
            if f"layers.{layer}.{scale}" in state:
                joined |= fold_layer_scale(state, f"layers.{layer}.{projection}", f"layers.{layer}.{scale}")
    return joined


def _rename(name: str) -> str:
    for pattern, replacement in RULES:
        name = re.sub(pattern, replacement, name)
    return name


def _find_reason(name: str) -> str | None:
    """Why an entry is skipped; `None` for one that is used."""
    return next((reason for pattern, reason in IGNORED if re.search(pattern, name)), None)


def _as_pair(value: int | list[int] | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


__all__ = ["FAMILIES", "VisionFamily", "find_family", "read_normalization", "read_transformers_encoder"]
