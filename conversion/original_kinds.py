# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Which of the published models an original checkpoint holds, by the names of its entries."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from albef_amc.conversion.weight_files import list_names
from albef_amc.pretrained_albef import AlbefPreTrainedModel

TEXT_PREFIXES = ("text_encoder.bert.", "text_encoder.")  # the second where the encoder has no masked-word head
PUBLISHED_TEXT_DEPTH, PUBLISHED_PAIR_DEPTH = (6, 12), (6, 18)  # first fusion layer, number of layers
SHARED_BY_PAIRS = ("crossattention.self.key.weight", "crossattention.self.value.weight")


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


def find_kind(
    state_dict: Mapping[str, torch.Tensor], source: str = "the checkpoint", images_per_text: int | None = None
) -> OriginalKind:
    """Which model a state dict belongs to, by the names of its entries.

    A head that only one task has decides. Among the kinds that any task can start from, the one with the most
    prefixes is taken.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): entries under their original names.
        source (`str`): what errors call it.
        images_per_text (`int`, *optional*): 2 for NLVR, 1 for entailment; see [`count_images_per_text`] without.
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
    kinds = [kind for kind, rank in ranks.items() if rank == min(ranks.values())]
    if len(kinds) > 1:
        has_pairs = (images_per_text or count_images_per_text(state_dict)) > 1
        kinds = [kind for kind in kinds if (kind.trained_class.images_per_text > 1) == has_pairs]
    return kinds[0]


def may_read_pairs(state_dict: Mapping[str, torch.Tensor]) -> bool:
    """Whether the entries are those of a kind that reads texts with two images, or of one that shares its head."""
    pairs = [marks for kind, marks in list_kinds().items() if kind.trained_class.images_per_text > 1]
    return any(all(any(name.startswith(mark) for name in state_dict) for mark in marks) for marks in pairs)


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


def count_images_per_text(state_dict: Mapping[str, torch.Tensor]) -> int:
    """2 where neighbouring fusion layers share the keys and values of images, as in ALBEF's models for NLVR; else 1.

    Where values do not show it (tensors without values, or of one number), the depth decides: two fusion layers for
    each text layer.
    """
    shares = [
        share for first in _list_pair_starts(state_dict) if (share := _shares_images(state_dict, first)) is not None
    ]
    if shares:
        return 2 if any(shares) else 1
    fusion_layer = find_fusion_layer(state_dict)
    return 2 if _count_text_layers(state_dict) - fusion_layer == 2 * fusion_layer else 1


def describe_images_per_text(state_dict: Mapping[str, torch.Tensor]) -> str | None:
    """How [`count_images_per_text`] decided, for a depth that is not a published one; else `None`."""
    if (find_fusion_layer(state_dict), _count_text_layers(state_dict)) in (PUBLISHED_TEXT_DEPTH, PUBLISHED_PAIR_DEPTH):
        return None
    number = count_images_per_text(state_dict)
    if all(_shares_images(state_dict, first) is None for first in _list_pair_starts(state_dict)):
        return f"text_config.images_per_text = {number} IS A GUESS from the number of layers. Set it if you know it."
    how = "share" if number > 1 else "do not share"
    return f"text_config.images_per_text = {number}: neighbouring fusion layers {how} the keys and values of images."


def _count_text_layers(state_dict: Mapping[str, torch.Tensor]) -> int:
    return count_layers(state_dict, f"{find_text_prefix(state_dict)}encoder.layer.")


def _list_pair_starts(state_dict: Mapping[str, torch.Tensor]) -> range:
    """The first layer of every two fusion layers."""
    return range(find_fusion_layer(state_dict), _count_text_layers(state_dict) - 1, 2)


def _shares_images(state_dict: Mapping[str, torch.Tensor], first: int) -> bool | None:
    """Whether a fusion layer and the next one share their projections; `None` where the values do not show it.

    One equal projection is enough: the conversion raises an error that names the others if they differ.
    """
    layers = [f"{find_text_prefix(state_dict)}encoder.layer.{first + index}." for index in range(2)]
    shared = []
    for part in SHARED_BY_PAIRS:
        own, other = (state_dict.get(layer + part) for layer in layers)
        if own is None or own.is_meta or not own.numel() or (own == own.flatten()[0]).all():
            continue
        shared.append(other is None or (own.shape == other.shape and torch.equal(own, other)))
    return any(shared) if shared else None


__all__ = [
    "OriginalKind",
    "count_images_per_text",
    "count_layers",
    "describe_images_per_text",
    "find_fusion_layer",
    "find_kind",
    "find_text_prefix",
    "list_kinds",
    "may_read_pairs",
]
