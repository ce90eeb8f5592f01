# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Grad-CAM of an image-text score: from an attention map and its gradient to a heatmap over patches.

Method: Yang et al., CVPR 2023 (arXiv 2206.15462), section 3, which follows Li et al., NeurIPS 2021 (ALBEF).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn

from .ranges_albef import check_choice

ExplanationKind = Literal["itm", "itc"]
HeatmapDenominator = Literal["kept", "padded"]

NORMALIZATION_EPSILON = 1e-7


def check_explanation(explanation_kind: str, output_token_heatmap: bool) -> None:
    """Raises `ValueError` for an unknown kind, and for maps of pieces where there are none."""
    check_choice("explanation_kind", explanation_kind, get_args(ExplanationKind))
    if output_token_heatmap and explanation_kind != "itm":
        raise ValueError('`output_token_heatmap` needs `explanation_kind="itm"`: an `itc` map has no pieces.')


def resolve_token_mask(token_mask: torch.Tensor | None, attention_mask: torch.Tensor) -> torch.Tensor:
    """Pieces that a heatmap averages, `(P, T)`: `token_mask` among the real pieces, every real piece without it."""
    if token_mask is None:
        return attention_mask
    if token_mask.shape != attention_mask.shape:
        raise ValueError(
            f"`token_mask` has shape {tuple(token_mask.shape)} but `input_ids` {tuple(attention_mask.shape)}: one "
            "value a piece is needed."
        )
    piece_mask = token_mask.to(attention_mask.dtype) * attention_mask
    if not piece_mask.any(dim=1).all():
        empty = (~piece_mask.any(dim=1)).nonzero().flatten().tolist()
        raise ValueError(f"`token_mask` keeps no piece of phrase(s) {empty}: mark at least one real piece of each.")
    return piece_mask


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float32 if its precision is lower; products, normalisations and losses are computed so."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def compute_weighted_attention(score: torch.Tensor, attention: torch.Tensor, keep_graph: bool) -> torch.Tensor:
    r"""Attention weighted by the positive part of the gradient that the score sends to it, averaged over heads.

    Formula: `mean over heads of A * max(dS/dA, 0)` with `S` the sum of `score`. Rows of a batch do not depend on
    each other, so the gradient of the sum holds every row's own gradient. The product is at least float32.

    Args:
        score (`torch.Tensor` of shape `(P,)`): the score to explain, one a phrase, in the graph.
        attention (`torch.Tensor` of shape `(P, num_heads, T, S)`): probabilities before dropout, in the same graph.
        keep_graph (`bool`): keep the graph and make the result differentiable (training: AMC differentiates twice).

    Returns:
        `torch.Tensor` of shape `(P, T, S)`, float32 (float64 of a float64 model), >= 0.
    """
    (maps,) = compute_weighted_attentions(score, [attention], keep_graph)
    return maps


def compute_weighted_attentions(
    score: torch.Tensor, attentions: Sequence[torch.Tensor], keep_graph: bool
) -> list[torch.Tensor]:
    """As [`compute_weighted_attention`], for the attention of several layers from one backward pass."""
    gradients = torch.autograd.grad(score.sum(), attentions, create_graph=keep_graph, retain_graph=keep_graph)
    kept = attentions if keep_graph else [attention.detach() for attention in attentions]
    return [
        (at_least_float32(attention) * at_least_float32(gradient).clamp(min=0)).mean(dim=1)
        for attention, gradient in zip(kept, gradients, strict=True)
    ]


def average_over_pieces(
    token_heatmap: torch.Tensor, piece_mask: torch.Tensor, denominator: HeatmapDenominator = "kept"
) -> torch.Tensor:
    r"""Mean of the maps of the pieces that count.

    Args:
        token_heatmap (`torch.Tensor` of shape `(P, T, G_h, G_w)`): map of every piece.
        piece_mask (`torch.Tensor` of shape `(P, T)`): 1 for pieces that count, 0 for padding and pieces left out.
        denominator (`str`, defaults to `"kept"`): `"kept"` divides by the number of pieces that count, so that a
            heatmap does not depend on the padding of its batch; `"padded"` divides by T as the released code does.

    Returns:
        `torch.Tensor` of shape `(P, G_h, G_w)`.
    """
    weights = piece_mask.to(token_heatmap.dtype)
    total = (token_heatmap * weights[..., None, None]).sum(dim=1)  # a matrix product would be rounded under autocast
    if denominator == "padded":
        return total / token_heatmap.shape[1]
    return total / weights.sum(dim=1)[:, None, None]


def normalize_heatmap(heatmap: torch.Tensor) -> torch.Tensor:
    r"""Heatmap of each phrase minus its minimum, divided by its maximum after that plus 1e-7.

    Args:
        heatmap (`torch.Tensor` of shape `(P, G_h, G_w)`): raw Grad-CAM, >= 0.

    Returns:
        `torch.Tensor` of shape `(P, G_h, G_w)` in [0, 1].
    """
    shifted = heatmap - heatmap.amin(dim=(-2, -1), keepdim=True)
    return shifted / (shifted.amax(dim=(-2, -1), keepdim=True) + NORMALIZATION_EPSILON)


def outside_inference_mode(method: Callable) -> Callable:
    """Runs a method outside `torch.inference_mode`, whose tensors no gradient can pass: under `torch.no_grad`.

    Tensors among the arguments that were made in inference mode are copied.
    """

    def copy(value: Any) -> Any:
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
    "ExplanationKind",
    "HeatmapDenominator",
    "at_least_float32",
    "average_over_pieces",
    "check_explanation",
    "compute_weighted_attention",
    "compute_weighted_attentions",
    "evaluation_mode",
    "normalize_heatmap",
    "outside_inference_mode",
    "resolve_token_mask",
]
