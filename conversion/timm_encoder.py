# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Reads a vision transformer of timm as ALBEF's image encoder."""

import math
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from albef_amc.checkpoint_files_albef import CONFIG_FILE
from albef_amc.configuration.installation import name_installation
from albef_amc.conversion.original_checkpoints import count_layers, infer_vision, rename_original_key
from albef_amc.conversion.report import list_names
from albef_amc.conversion.weight_files import ImageEncoderWeights, find_file, fold_layer_scale
from albef_amc.text_files_albef import load_json

WEIGHTS_FILE, SUFFIX = "model.safetensors", ".safetensors"
TIMM_NAME = re.compile(r"(local-dir|hf-hub):.+|[\w.-]+")
# Attention heads of the published DeiT and ViT (tiny, small, base, large) by width: tensors do not show them.
PUBLISHED_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16}
LAYER_NORM_EPS = 1e-6  # of timm's vision transformers
GELU = "gelu"
# Arguments of timm's class that change what is computed with the same tensors.
HIDDEN_ARGUMENTS = ("act_layer", "norm_layer", "block_fn", "attn_layer", "mlp_layer")

ENTRIES = ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias")
BLOCK_PARTS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
LAYER_SCALES = {"ls1.gamma": "attn.proj", "ls2.gamma": "mlp.fc2"}  # and the projection before each
IGNORED = (
    (r"^(head|pre_logits)\.", "classification head of the vision transformer"),
    (r"^(fc_norm|attn_pool)\.", "pooling of the vision transformer"),
)
# What our image encoder cannot represent, by the names that show it.
REFUSED = (
    (r"^(dist_token$|head_dist\.)", "a second class token (distilled DeiT: use the version without distillation)"),
    (r"\.gamma_[12]$", "layer scale with the names of BEiT"),
    (r"^norm_pre\.", "a normalisation before the blocks (pre-norm)"),
    (r"^reg_token$", "register tokens"),
    (r"\.(q_norm|k_norm|attn\.norm|mlp\.norm)\.", "normalisations inside attention or MLP"),
    (r"rel_pos|relative_position|rope", "relative positions"),
    (r"^patch_embed\.(?!proj\.(weight|bias)$)", "a patch embedding that is more than one convolution"),
    (r"", "entries that have no place"),
)
LACKED = (
    (r"^cls_token$", "a class token"),
    (r"^pos_embed$", "absolute positions"),
    (r"\.qkv\.bias$", "biases of query, key and value"),
    (r"^norm\.", "the normalisation after the last block"),
    (r"", "weights that every block has"),
)


def is_file_or_timm_name(source: str) -> bool:
    """Whether an encoder is given as a safetensors file, or by a name of timm; else it is a folder or a repository."""
    return source.endswith(SUFFIX) or Path(source).is_file() or _is_timm_name(source)


def read_image_encoder(vision: str | os.PathLike) -> ImageEncoderWeights:
    """Read a vision transformer of timm. Layer scale is folded into the projections before it.

    Args:
        vision (`str` or path): a safetensors file with timm's names; a folder or a repository of the Hub that timm
            saved; or a name of timm (`deit_base_patch16_224.fb_in1k`, `local-dir:FOLDER`), which needs timm.

    Raises:
        FileNotFoundError: there is no such file, folder or repository.
        ImportError: a name of timm, and timm is not installed.
        ValueError: a model that is not a vision transformer, or one that ALBEF's image encoder cannot represent.
    """
    source = os.path.expanduser(os.fspath(vision))
    if source.endswith(SUFFIX) and not Path(source).exists():
        raise FileNotFoundError(f"`vision`: no file {source}.")
    if _is_timm_name(source):
        state, known = _load_with_timm(source)
    else:
        state, known = _load_files(source)
    ignored = _sort_names(source, state)
    kept = {name: tensor for name, tensor in state.items() if not any(name in names for names in ignored.values())}
    try:
        shapes = infer_vision(kept, prefix="")
    except ValueError as error:
        raise ValueError(f"`vision`: {source} cannot be ALBEF's image encoder: {error}") from error
    del shapes["image_size"]  # the caller chooses it
    known = {**shapes, "layer_norm_eps": LAYER_NORM_EPS, **known}
    side = math.isqrt(kept["pos_embed"].shape[1] - 1)
    encoder = ImageEncoderWeights(source, {}, known, ignored=ignored, grid=(side, side))
    if "num_attention_heads" not in encoder.known:
        width = encoder.known["hidden_size"]
        if width in PUBLISHED_HEADS:
            heads = encoder.assumed["num_attention_heads"] = PUBLISHED_HEADS[width]
            encoder.notes.append(f"vision_config.num_attention_heads = {heads} is assumed (width {width}).")
    stored = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in kept.values()})
    if stored != ["float32"]:
        encoder.notes.append(f"`vision` is stored as {', '.join(stored)} and used as float32.")
    for name, tensor in _fold_layer_scales(kept).items():
        encoder.state[rename_original_key(f"visual_encoder.{name}")] = tensor.float()
    return encoder


def _is_timm_name(source: str) -> bool:
    return TIMM_NAME.fullmatch(source) is not None and not Path(source).exists()


def _fold_layer_scales(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights without layer scales, which the projections before them take."""
    folded = {name: tensor for name, tensor in state.items() if not name.endswith(tuple(LAYER_SCALES))}
    for name in state.keys() - folded.keys():
        block, part = name.rsplit(".", 2)[0], ".".join(name.rsplit(".", 2)[1:])
        folded |= fold_layer_scale(state, f"{block}.{LAYER_SCALES[part]}", name)
    return folded


def _load_files(source: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights of a file, a folder or a repository, and the values that its `config.json` gives."""
    known: dict[str, Any] = {}
    path = Path(source)
    if not path.is_file():
        path = find_file("vision", source, WEIGHTS_FILE)
        known = _read_arguments(source)
    try:
        return load_file(path), known
    except SafetensorError as error:
        raise ValueError(
            f"`vision`: {path} cannot be read ({error}). Give a safetensors file that is complete and holds a vision "
            "transformer with timm's names."
        ) from error


def _read_arguments(source: str) -> dict[str, Any]:
    """Values of our configuration in timm's `config.json`; an error for arguments that we cannot represent."""
    path = find_file("vision", source, CONFIG_FILE, required=False)
    arguments = (load_json(path) if path else {}).get("model_args") or {}
    given = {name: arguments[name] for name in HIDDEN_ARGUMENTS if arguments.get(name) not in (None, GELU)}
    if given:
        raise ValueError(
            f"`vision`: `{CONFIG_FILE}` of {source} sets {given}; ALBEF's image encoder has timm's usual blocks, with "
            "`LayerNorm` and exact GELU. Use a plain vision transformer such as DeiT."
        )
    return {"num_attention_heads": arguments["num_heads"]} if "num_heads" in arguments else {}


def _load_with_timm(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights of a name of timm, and the values that its model gives."""
    try:
        import timm
        from timm.models.vision_transformer import Block, VisionTransformer
    except ImportError as error:
        raise ImportError(
            f"`vision` is {name!r}: there is no such file or folder here, and a name of timm needs timm, which cannot "
            f"be imported ({error}). Install it ({name_installation('timm')}), or give a repository "
            "(`timm/deit_base_patch16_224.fb_in1k`), a folder or a safetensors file, which do not need it."
        ) from error
    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # timm lets errors of every kind through
        raise ValueError(
            f"`vision`: timm cannot load {name!r}: {error}. Give a name of `timm.list_pretrained()`."
        ) from error
    blocks = getattr(model, "blocks", [None])
    if not isinstance(model, VisionTransformer) or type(blocks[0]) is not Block:
        raise ValueError(
            f"`vision`: {name!r} is a {type(model).__name__} with blocks {type(blocks[0]).__name__}; ALBEF's image "
            "encoder is timm's `VisionTransformer` with `Block`. Use a plain vision transformer such as DeiT."
        )
    activation = blocks[0].mlp.act
    if type(activation).__name__ != "GELU" or getattr(activation, "approximate", "none") != "none":
        raise ValueError(f"`vision`: {name!r} has the activation {activation}; ALBEF's image encoder has exact GELU.")
    known = {"num_attention_heads": blocks[0].attn.num_heads, "layer_norm_eps": float(blocks[0].norm1.eps)}
    return model.state_dict(), known


def _sort_names(source: str, state: dict[str, torch.Tensor]) -> dict[str, list[str]]:
    """Entries to ignore, by reason; an error if the others are not exactly those of ALBEF's image encoder."""
    num_blocks = count_layers(state, "blocks.")
    if not num_blocks:
        raise ValueError(
            f"`vision`: {source} has no `blocks.*`, as timm's vision transformers have. Its entries begin with "
            f"{list_names(list(state))}. Give a vision transformer that timm saved."
        )
    expected = {*ENTRIES}
    for block in range(num_blocks):
        expected |= {f"blocks.{block}.{part}.{kind}" for part in BLOCK_PARTS for kind in ("weight", "bias")}
        if any(name.endswith(tuple(LAYER_SCALES)) for name in state):
            expected |= {f"blocks.{block}.{scale}" for scale in LAYER_SCALES}
    ignored: dict[str, list[str]] = {}
    problems: dict[str, list[str]] = {}
    for name in sorted(state.keys() - expected):
        reason = _find_meaning(IGNORED, name)
        if reason is not None:
            ignored.setdefault(reason, []).append(name)
        else:
            problems.setdefault(f"it has {_find_meaning(REFUSED, name)}", []).append(name)
    for name in sorted(expected - state.keys()):
        problems.setdefault(f"it lacks {_find_meaning(LACKED, name)}", []).append(name)
    if problems:
        found = "; ".join(f"{meaning}: {list_names(names)}" for meaning, names in problems.items())
        raise ValueError(
            f"`vision`: {source} cannot be ALBEF's image encoder: {found}. Use a plain vision transformer such as "
            "`timm/deit_base_patch16_224.fb_in1k`."
        )
    return ignored


def _find_meaning(meanings: tuple[tuple[str, str], ...], name: str) -> str | None:
    return next((meaning for pattern, meaning in meanings if re.search(pattern, name)), None)


__all__ = ["is_file_or_timm_name", "read_image_encoder"]
