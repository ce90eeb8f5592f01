# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
r"""Relevancy propagation: how much each image token counts for a score, through several attention layers.

Method: Chefer et al., ICCV 2021 (arXiv 2103.15679), sections 3.1 and 3.2. Of every attention map A, with the score S,
`C = mean over heads of max(A * dS/dA, 0)`. Relevance R of tokens for tokens begins as the identity, and each layer of
self-attention adds `C R` to it, from the first layer up. What counts is the row of the token that the score reads.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from albef_amc.explanation_albef import at_least_float32
from albef_amc.grounders.explained_scores import ReadMaps


def _begin_at_first(config: PreTrainedConfig) -> int:
    return 0


@dataclass(frozen=True)
class Relevancy:
    """The modules of a kind of model that relevance passes, and the rule.

    Args:
        layers_name (`str`): list of modules that are counted as layers.
        layer_modules (`tuple[str, ...]`): attention modules of a layer in the order in which they run, with `{layer}`
            for its number.
        read (`Callable`): the rule, from the maps and gradients of all modules, in their order, to the relevance of
            columns for the token that the score reads, `(P, 1, columns)`.
        pooling_name (`str`, *optional*): attention module after the last layer.
        first_layer (`Callable`): from the configuration to the layer where relevance begins by default.
    """

    layers_name: str
    layer_modules: tuple[str, ...]
    read: ReadMaps
    pooling_name: str | None = None
    first_layer: Callable[[PreTrainedConfig], int] = _begin_at_first

    def count_layers(self, model: PreTrainedModel) -> int:
        """Number of layers."""
        return len(model.get_submodule(self.layers_name))

    def list_modules(self, model: PreTrainedModel, first_layer: int) -> list[str]:
        """Names of the modules from a layer on, in the order in which they run."""
        layers = range(first_layer, self.count_layers(model))
        names = [name.format(layer=layer) for layer in layers for name in self.layer_modules]
        return names if self.pooling_name is None else [*names, self.pooling_name]


def weigh_attention(attention_map: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """`mean over heads of A * max(dS/dA, 0)`, at least float32: `(P, rows, columns)` from `(P, num_heads, rows,
    columns)`."""
    return (at_least_float32(attention_map) * at_least_float32(gradient).clamp(min=0)).mean(dim=1)


def read_self_relevance(attention_maps: list[torch.Tensor], gradients: list[torch.Tensor]) -> torch.Tensor:
    """Relevance of all tokens for the first one, through layers of self-attention.

    The row of the product of all `I + C` is computed from the last layer down, so that no product of two matrices is
    needed.
    """
    steps = _weigh_all(attention_maps, gradients)
    first = torch.zeros_like(steps[0][:, :1])
    first[:, :, 0] = 1
    return _trace(first, steps)


def read_pooled_relevance(attention_maps: list[torch.Tensor], gradients: list[torch.Tensor]) -> torch.Tensor:
    """Relevance of all tokens for the probe of a pooling head, the last module, through the layers below it."""
    *steps, pooling = _weigh_all(attention_maps, gradients)
    return _trace(pooling, steps)


def read_cross_relevance(attention_maps: list[torch.Tensor], gradients: list[torch.Tensor]) -> torch.Tensor:
    """Relevance of image tokens for the first token of a phrase, through layers of self- and cross-attention in turn.

    Self-attention of words adds `C R` to the relevance of words and of image tokens for words; cross-attention adds
    `N(R)^T C` to the latter, R the relevance of words for words, and N divides the rows of what R has beside the
    identity by their sums (rows without relevance stay 0). Image tokens are what the image encoder makes of them: its
    layers take no part.
    """
    steps = _weigh_all(attention_maps, gradients)
    identity = torch.eye(steps[0].shape[-1], dtype=steps[0].dtype, device=steps[0].device)
    words, image = identity.expand_as(steps[0]), torch.zeros_like(steps[1])
    for within, across in zip(steps[::2], steps[1::2], strict=True):
        image = image + within @ image
        words = words + within @ words
        extra = words - identity
        totals = extra.sum(dim=-1, keepdim=True)
        shares = extra / totals.where(totals > 0, 1)
        image = image + (shares + identity).transpose(1, 2) @ across
    return image[:, :1]


def _weigh_all(attention_maps: list[torch.Tensor], gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    return [weigh_attention(*pair) for pair in zip(attention_maps, gradients, strict=True)]


def _trace(row: torch.Tensor, steps: list[torch.Tensor]) -> torch.Tensor:
    """`row (I + C_last) ... (I + C_first)`."""
    for step in reversed(steps):
        row = row + row @ step
    return row


__all__ = ["Relevancy", "read_cross_relevance", "read_pooled_relevance", "read_self_relevance", "weigh_attention"]
