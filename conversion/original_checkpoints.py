# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Original checkpoints of ALBEF and AMC: which model their entries belong to, our names for them, the architecture."""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from albef_amc.configuration_albef import AlbefConfig, AlbefTextConfig, AlbefVisionConfig
from albef_amc.conversion.report import list_names
from albef_amc.pretrained_albef import AlbefPreTrainedModel
from albef_amc.ranges_albef import check_names

TEXT_PREFIXES = ("text_encoder.bert.", "text_encoder.")  # the second where the encoder has no masked-word head
PUBLISHED_TEXT_DEPTH, PUBLISHED_PAIR_DEPTH = (6, 12), (6, 18)  # first fusion layer, number of layers
SHARED_BY_PAIRS = ("crossattention.self.key.weight", "crossattention.self.value.weight")
# The published models have 64 channels per head; the tensors do not show the number of heads.
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
    (r"\.embeddings\.LayerNorm\.", ".embedding_layer_norm."),
    (r"\.embeddings\.(\w+_embeddings)\.", r".\1."),
    (r"\.encoder\.layer\.", ".layers."),
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


@dataclass(frozen=True)
class OriginalKind:
    """A kind of original checkpoint.

    Args:
        name (`str`): what reports call it.
        trained_class (class of [`~pretrained_albef.AlbefPreTrainedModel`]): holds all of it, momentum copies included.
    """

    name: str
    trained_class: type[Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all classes that it can be converted to, the default first."""
        return self.trained_class.written_classes or (self.trained_class.__name__,)


def list_kinds() -> dict[OriginalKind, tuple[str, ...]]:
    """Every kind that a model class declares, with the prefixes of entries by which it is recognised."""
    classes = AlbefPreTrainedModel.task_classes.values()
    return {OriginalKind(name, cls): marks for cls in classes for name, marks in cls.original_kinds.items()}


def list_candidates(state_dict: Mapping[str, torch.Tensor], source: str = "the checkpoint") -> list[OriginalKind]:
    """Kinds that the names of the entries fit: several where heads for one image and for two have the same names.

    A head that only one task has decides. Among the kinds that any task can start from, the one with the most
    prefixes is taken.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): entries under their original names.
        source (`str`): what errors call it.
    """
    names = list(state_dict)

    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in names)

    for needed in ("visual_encoder.", "text_encoder."):
        if not has(needed):
            raise ValueError(
                f"{source} belongs to another architecture: it has no `{needed}*`. Its entries begin with "
                f"{list_names(names)}. Checkpoints of ALBEF and AMC can be converted."
            )
    ranks = {
        kind: (kind.trained_class.is_general, -len(marks))
        for kind, marks in list_kinds().items()
        if all(has(mark) for mark in marks)
    }
    if not ranks:
        raise ValueError(
            f"{source} has the encoders of ALBEF but the head of no published model, which identifies the kind. Its "
            f"entries begin with {list_names(names)}."
        )
    return [kind for kind, rank in ranks.items() if rank == min(ranks.values())]


def find_kind(
    state_dict: Mapping[str, torch.Tensor], source: str = "the checkpoint", images_per_text: int | None = None
) -> OriginalKind:
    """Which model a state dict belongs to, by the names of its entries.

    Args:
        state_dict, source: as for [`list_candidates`].
        images_per_text (`int`, *optional*): 2 for NLVR, 1 for entailment; inferred by default.
    """
    kinds = list_candidates(state_dict, source)
    if len(kinds) > 1:
        has_pairs = (images_per_text or infer_images_per_text(state_dict)[0]) > 1
        kinds = [kind for kind in kinds if (kind.trained_class.images_per_text > 1) == has_pairs]
    return kinds[0]


def rename_original_key(name: str) -> str | None:
    """Our name of an entry of an original checkpoint of any kind; `None` for one that our models do not have.

    Example:

    ```python
    >>> from albef_amc.conversion.original_checkpoints import rename_original_key
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
    """Why an original entry that our models do not have is expected; `None` if it is not."""
    return next((reason for pattern, reason in IGNORED if re.search(pattern, name)), None)


def infer_config(
    state_dict: Mapping[str, torch.Tensor], overrides: Mapping[str, Any] | None = None
) -> tuple[AlbefConfig, list[str]]:
    """Infer the architecture from the shapes of an original checkpoint.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): entries under their original names.
        overrides (`Mapping[str, Any]`, *optional*): values that shapes do not determine, by dotted name.

    Returns:
        `tuple[AlbefConfig, list[str]]`: the configuration, and what was assumed because the tensors do not show it.
    """
    overrides = dict(overrides or {})
    vision = infer_vision(state_dict, "visual_encoder.")
    inferred = {f"vision_config.{name}": value for name, value in vision.items()} | _infer_text(state_dict)
    images_per_text, notes = overrides.get(IMAGES_PER_TEXT), []
    if any(kind.trained_class.images_per_text > 1 for kind in list_candidates(state_dict)):
        if images_per_text is None:
            images_per_text, note = infer_images_per_text(state_dict)
            depth = (inferred["text_config.fusion_layer"], inferred["text_config.num_hidden_layers"])
            notes += [note] if depth not in (PUBLISHED_TEXT_DEPTH, PUBLISHED_PAIR_DEPTH) else []
        inferred |= {IMAGES_PER_TEXT: images_per_text} if images_per_text > 1 else {}
    inferred |= _infer_heads(state_dict, images_per_text)
    _check_overrides(overrides, inferred)
    assumed, assumptions = _assume(inferred, overrides)
    nested: dict[str, Any] = {"vision_config": {}, "text_config": {}}
    for name, value in {**inferred, **assumed, **overrides}.items():
        *owner, leaf = name.split(".")
        (nested[owner[0]] if owner else nested)[leaf] = value
    return AlbefConfig(**nested), assumptions + notes


def infer_vision(state_dict: Mapping[str, torch.Tensor], prefix: str) -> dict[str, Any]:
    """Values of [`AlbefVisionConfig`] that the shapes of a vision transformer under `prefix` determine."""
    hidden_size, num_channels, *patch = _shape(state_dict, f"{prefix}patch_embed.proj.weight")
    num_positions = _shape(state_dict, f"{prefix}pos_embed")[1]
    side = math.isqrt(num_positions - 1)
    if side * side != num_positions - 1:
        raise ValueError(
            f"`{prefix}pos_embed` has {num_positions} positions, which are not those of a class token and a square "
            "grid of patches: the image size cannot be inferred. Use a model for square images whose class token has "
            "a position."
        )
    is_square = patch[0] == patch[1]
    return {
        "hidden_size": hidden_size,
        "intermediate_size": _shape(state_dict, f"{prefix}blocks.0.mlp.fc1.weight")[0],
        "num_hidden_layers": count_layers(state_dict, f"{prefix}blocks."),
        "image_size": side * patch[0] if is_square else [side * patch[0], side * patch[1]],
        "patch_size": patch[0] if is_square else patch,
        "num_channels": num_channels,
    }


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


def find_text_prefix(names: Iterable[str]) -> str:
    """Prefix of the names of the text encoder."""
    return next(prefix for prefix in TEXT_PREFIXES if any(name.startswith(prefix) for name in names))


def count_layers(names: Iterable[str], prefix: str) -> int:
    """Number of layers under `prefix`, which ends before the number."""
    found = (re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in names)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def find_fusion_layer(names: Iterable[str]) -> int:
    """Index of the first text layer with cross-attention."""
    found = (re.match(r"text_encoder\.(?:bert\.)?encoder\.layer\.(\d+)\.crossattention", name) for name in names)
    layers = {int(match[1]) for match in found if match}
    if not layers:
        raise ValueError("the text encoder has no layer with cross-attention: this is not ALBEF's fusion encoder.")
    return min(layers)


def infer_images_per_text(state_dict: Mapping[str, torch.Tensor]) -> tuple[int, str]:
    """Number of images per text, and a note on how it was decided.

    It is 2 where neighbouring fusion layers share the keys and values of images, as in ALBEF's models for NLVR; else
    1. Where values do not show it (tensors without values, or of one number), the depth decides: two fusion layers for
    each text layer.
    """
    prefix, first = f"{find_text_prefix(state_dict)}encoder.layer.", find_fusion_layer(state_dict)
    num_layers = count_layers(state_dict, prefix)
    shares = [_share_images(state_dict, prefix, layer) for layer in range(first, num_layers - 1, 2)]
    known = [share for share in shares if share is not None]
    if not known:
        number = 2 if num_layers - first == 2 * first else 1
        return number, f"{IMAGES_PER_TEXT} = {number} IS A GUESS from the number of layers. Set it if you know it."
    number, how = (2, "share") if any(known) else (1, "do not share")
    return number, f"{IMAGES_PER_TEXT} = {number}: neighbouring fusion layers {how} the keys and values of images."


def _share_images(state_dict: Mapping[str, torch.Tensor], prefix: str, first: int) -> bool | None:
    """Whether a fusion layer and the next one share their projections; `None` where the values do not show it.

    One equal projection is enough: the conversion raises an error that names the others if they differ.
    """
    shared = []
    for part in SHARED_BY_PAIRS:
        own, other = (state_dict.get(f"{prefix}{layer}.{part}") for layer in (first, first + 1))
        if own is None or own.is_meta or not own.numel() or (own == own.flatten()[0]).all():
            continue
        shared.append(other is None or (own.shape == other.shape and torch.equal(own, other)))
    return any(shared) if shared else None


def _infer_heads(state_dict: Mapping[str, torch.Tensor], images_per_text: int | None) -> dict[str, Any]:
    """Values that the heads of a kind determine."""
    inferred: dict[str, Any] = {}
    if "vision_proj.weight" in state_dict:
        inferred["projection_dim"] = state_dict["vision_proj.weight"].shape[0]
    if "image_queue" in state_dict:
        inferred["queue_size"] = state_dict["image_queue"].shape[1]
    if num_decoder_layers := count_layers(state_dict, "text_decoder.bert.encoder.layer."):
        inferred["decoder_layers"] = num_decoder_layers
    if labels := find_kind(state_dict, images_per_text=images_per_text).trained_class.label_names:
        classifier = state_dict.get("cls_head.2.weight")
        if classifier is not None and len(classifier) != len(labels):
            labels = tuple(f"LABEL_{index}" for index in range(len(classifier)))
        inferred["id2label"] = dict(enumerate(labels))
        inferred["label2id"] = {label: index for index, label in enumerate(labels)}
    return inferred


def _check_overrides(overrides: Mapping[str, Any], inferred: Mapping[str, Any]) -> None:
    owners = {"": AlbefConfig, "vision_config.": AlbefVisionConfig, "text_config.": AlbefTextConfig}
    known = {prefix + name for prefix, owner in owners.items() for name in owner.__annotations__}
    check_names(overrides, sorted(known - {"vision_config", "text_config"}), "a configuration of ALBEF", "value")
    for name, value in overrides.items():
        if name in inferred and inferred[name] != value:
            hint = " Use `image_size` (`--image-size`) to resize." if name.endswith("image_size") else ""
            raise ValueError(
                f"`{name}` is {inferred[name]} according to the shapes of the checkpoint, and cannot be set to "
                f"{value!r}.{hint}"
            )


def _assume(inferred: Mapping[str, Any], overrides: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Values that shapes do not determine: as in the published models, unless they are set."""
    assumed, notes = {}, []
    for part in ("vision_config", "text_config"):
        name, width = f"{part}.num_attention_heads", inferred[f"{part}.hidden_size"]
        if name in overrides:
            continue
        if width % PUBLISHED_HEAD_WIDTH:
            raise ValueError(
                f"`{name}` leaves no trace in the tensors, and width {width} is not a multiple of the published "
                f"{PUBLISHED_HEAD_WIDTH} channels per head. Set it (`--set {name}=...`)."
            )
        assumed[name] = width // PUBLISHED_HEAD_WIDTH
        notes.append(f"{name} = {assumed[name]} is assumed ({PUBLISHED_HEAD_WIDTH} channels per head).")
    explained, guesses = choose_explained_layers(
        inferred["vision_config.num_hidden_layers"],
        inferred["text_config.fusion_layer"],
        inferred["text_config.num_hidden_layers"],
        images_per_text=inferred.get(IMAGES_PER_TEXT, 1),
        given=overrides,
    )
    return assumed | explained, notes + guesses


def choose_explained_layers(
    num_blocks: int, fusion_layer: int, num_text_layers: int, images_per_text: int, given: Collection[str]
) -> tuple[dict[str, int], list[str]]:
    """Layers that heatmaps are read from: the published ones, or those at the same place in other depths.

    Args:
        num_blocks, num_text_layers (`int`): depths of the encoders.
        fusion_layer (`int`): first fusion layer.
        images_per_text (`int`): fusion layers for each of the published model.
        given (collection of `str`): values that are set already and not chosen.

    Returns:
        `tuple[dict[str, int], list[str]]`: values of [`AlbefConfig`], and a note for each that is a guess.
    """
    num_fusion_layers = (num_text_layers - fusion_layer) // images_per_text  # of a single image
    above = images_per_text * (num_fusion_layers // PUBLISHED_FUSION_SHARE)
    block = PUBLISHED_EXPLANATION_BLOCK * (num_blocks - 1) // PUBLISHED_LAST_BLOCK
    is_published = {
        "explanation_layer": (fusion_layer, fusion_layer + num_fusion_layers) == PUBLISHED_TEXT_DEPTH,
        "explanation_block": num_blocks == PUBLISHED_LAST_BLOCK + 1,
    }
    chosen = {"explanation_layer": fusion_layer + above, "explanation_block": block}
    chosen = {name: value for name, value in chosen.items() if name not in given}
    ending = "IS A GUESS: the depth is not the published one. Set it if you know it."
    return chosen, [f"{name} = {value} {ending}" for name, value in chosen.items() if not is_published[name]]


def _shape(state_dict: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...]:
    if name not in state_dict:
        raise ValueError(f"the checkpoint lacks `{name}`, whose shape shows the architecture: it is incomplete.")
    return tuple(state_dict[name].shape)


__all__ = [
    "IMAGES_PER_TEXT",
    "OriginalKind",
    "choose_explained_layers",
    "count_layers",
    "find_ignored_reason",
    "find_kind",
    "infer_config",
    "infer_vision",
    "list_kinds",
    "rename_original_key",
]
