# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Grad-CAM of an image-text score: from an attention map and its gradient to a heatmap over patches.

Method: Yang et al., CVPR 2023 (arXiv 2206.15462), section 3, which follows Li et al., NeurIPS 2021 (ALBEF).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import nn

from .layout_albef import PhraseLayout
from .ranges_albef import check_choice

ExplanationKind = Literal["itm", "itc"]
HeatmapDenominator = Literal["kept", "padded"]

NORMALIZATION_EPSILON = 1e-7

# From fused states `(P, T, hidden_size)`, of first tokens alone `(P, 1, hidden_size)`, to the logits of a head
# `(P, ...)` and the score to explain `(P,)`.
ReadScore = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def check_explanation(explanation_kind: str, output_token_heatmap: bool) -> None:
    """Raises `ValueError` for an unknown kind, and for maps of tokens where there are none."""
    check_choice("explanation_kind", explanation_kind, get_args(ExplanationKind))
    if output_token_heatmap and explanation_kind != "itm":
        raise ValueError('`output_token_heatmap` needs `explanation_kind="itm"`: an `itc` map has no tokens.')


def resolve_token_mask(token_mask: torch.Tensor | None, attention_mask: torch.Tensor) -> torch.Tensor:
    """Tokens that a heatmap averages, `(P, T)`: `token_mask` among the real tokens, every real token without it."""
    if token_mask is None:
        return attention_mask
    if token_mask.shape != attention_mask.shape:
        raise ValueError(
            f"`token_mask` has shape {tuple(token_mask.shape)} but `input_ids` {tuple(attention_mask.shape)}: one "
            "value per token is needed."
        )
    token_mask = token_mask.to(attention_mask.dtype) * attention_mask
    if not token_mask.any(dim=1).all():
        empty = (~token_mask.any(dim=1)).nonzero().flatten().tolist()
        raise ValueError(f"`token_mask` keeps no token of phrase(s) {empty}: mark at least one real token of each.")
    return token_mask


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float32 if its precision is lower; products, normalisations and losses are computed so."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class ExplainedScore(NamedTuple):
    """A head's scores, with the attention that is explained and its gradient.

    Args:
        logits (`torch.Tensor` of shape `(P, ...)`): outputs of the head.
        score (`torch.Tensor` of shape `(P,)`): the score of each phrase that is explained.
        attention_maps (`list` of `torch.Tensor` of shape `(P, num_heads, T, 1 + num_patches)`): probabilities before
            dropout, one map for each image of a phrase.
        gradients (`list` of `torch.Tensor`, shaped like these): gradient of each phrase's score.
    """

    logits: torch.Tensor
    score: torch.Tensor
    attention_maps: list[torch.Tensor]
    gradients: list[torch.Tensor]


class Explanation(NamedTuple):
    """Grad-CAM of P scores on a grid of G_h x G_w patches, float32 (float64 of a float64 model).

    Args:
        token_heatmap (`torch.Tensor` of shape `(P, T, G_h, G_w)`): the map of every token, >= 0.
        heatmap (`torch.Tensor` of shape `(P, G_h, G_w)`): its mean over tokens, >= 0.
        normalized_heatmap (`torch.Tensor` of shape `(P, G_h, G_w)`): minus minimum, over maximum; in [0, 1].
    """

    token_heatmap: torch.Tensor
    heatmap: torch.Tensor
    normalized_heatmap: torch.Tensor


def differentiate_score(
    score: torch.Tensor, attention_maps: Sequence[torch.Tensor], keep_graph: bool
) -> list[torch.Tensor]:
    """Gradients of scores with respect to attention maps, from one backward pass.

    Rows of a batch do not depend on each other, so the gradient of the sum holds every row's own gradient.

    Args:
        score (`torch.Tensor` of shape `(P,)`): the score to explain, one per phrase, in the graph.
        attention_maps (sequence of `torch.Tensor` of shape `(P, num_heads, T, S)`): probabilities before dropout, in
            the same graph.
        keep_graph (`bool`): keep the graph, and make the gradients differentiable (AMC differentiates twice).
    """
    gradients = torch.autograd.grad(score.sum(), attention_maps, create_graph=keep_graph, retain_graph=keep_graph)
    return list(gradients)


def explain_attention(
    attention_map: torch.Tensor,
    gradient: torch.Tensor,
    token_mask: torch.Tensor,
    grid_size: tuple[int, int],
    denominator: HeatmapDenominator = "kept",
) -> Explanation:
    r"""Heatmaps from an attention map and the gradient that the score sends to it.

    Formula, with attention A and score S: the map of a token is `mean over heads of A * max(dS/dA, 0)`; `heatmap` is
    the mean over tokens that count; `normalized_heatmap` is `heatmap` minus its minimum, divided by its maximum after
    that plus 1e-7. All products are at least float32.

    Args:
        attention_map, gradient (`torch.Tensor` of shape `(P, num_heads, T, 1 + num_patches)`): probabilities before
            dropout, class token first, and dS/dA. Of a vision block with registers, these come after the class token.
        token_mask (`torch.Tensor` of shape `(P, T)`): 1 for tokens that count, 0 for padding and tokens that are
            ignored. With fewer columns than the map has rows, the first rows are read.
        grid_size (`tuple`): G_h, G_w.
        denominator (`str`, defaults to `"kept"`): `"kept"` divides by the number of tokens that count, so that a
            heatmap does not depend on the padding of its batch; `"padded"` divides by T, the published code's
            behaviour.
    """
    weighted = (at_least_float32(attention_map) * at_least_float32(gradient).clamp(min=0)).mean(dim=1)
    patches = slice(-math.prod(grid_size), None)  # drop the class token and registers
    token_heatmap = weighted[:, : token_mask.shape[1], patches].unflatten(-1, grid_size)
    weights = token_mask.to(token_heatmap.dtype)
    total = (token_heatmap * weights[..., None, None]).sum(dim=1)  # a matrix product would be rounded under autocast
    num_tokens = weights.sum(dim=1)[:, None, None] if denominator == "kept" else token_heatmap.shape[1]
    heatmap = total / num_tokens
    shifted = heatmap - heatmap.amin(dim=(-2, -1), keepdim=True)
    normalized_heatmap = shifted / (shifted.amax(dim=(-2, -1), keepdim=True) + NORMALIZATION_EPSILON)
    return Explanation(token_heatmap, heatmap, normalized_heatmap)


def outside_inference_mode(method: Callable) -> Callable:
    """Runs a method outside `torch.inference_mode`, whose tensors no gradient can pass: under `torch.no_grad`.

    Tensors among the arguments that were made in inference mode are copied.
    """

    def copy(value: Any) -> Any:
        if isinstance(value, PhraseLayout):
            return value.map_tensors(copy)
        return value.clone() if isinstance(value, torch.Tensor) and value.is_inference() else value

    @functools.wraps(method)
    def run(*args, **kwargs):
        if not torch.is_inference_mode_enabled():
            return method(*map(copy, args), **{name: copy(value) for name, value in kwargs.items()})
        with torch.inference_mode(False), torch.no_grad():
            return run(*args, **kwargs)

    return run


class evaluation_mode:
    """Context in which a model is in evaluation mode; afterwards every module has the mode it had before."""

    def __init__(self, model: nn.Module):
        self.model = model

    def __enter__(self) -> None:
        self.training_modules = [module for module in self.model.modules() if module.training]
        if self.training_modules:
            self.model.eval()

    def __exit__(self, *exception) -> None:
        for module in self.training_modules:
            module.training = True


__all__ = [
    "ExplainedScore",
    "Explanation",
    "ExplanationKind",
    "HeatmapDenominator",
    "ReadScore",
    "at_least_float32",
    "check_explanation",
    "differentiate_score",
    "evaluation_mode",
    "explain_attention",
    "outside_inference_mode",
    "resolve_token_mask",
]
