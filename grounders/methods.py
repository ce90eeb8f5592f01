# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
r"""Methods: how a heatmap over the cells of an image is made from what a model computes for a phrase.

- `"grad_cam"`: attention of one layer times the positive part of the gradient that the score sends to it, mean over
  heads (Yang et al., CVPR 2023).
- `"attention"`: the attention of the same layer and rows alone, mean over heads. Where an image is encoded without the
  phrase, it is the same for all phrases.
- `"similarity"`: cosine of the embeddings of patch and phrase, minus the least of the image, so that it is >= 0. A
  patch is embedded as the class embeds the image: through the same LayerNorm and projection as the class token, or
  through the pooling head as if it were the whole image.
- `"relevancy"`: Chefer et al., ICCV 2021, see [`relevancy`].

All are computed at least in float32 and can be differentiated as often as the others.
"""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from albef_amc.explanation_albef import NORMALIZATION_EPSILON, at_least_float32
from albef_amc.grounders.attention_tap import AttentionTap
from albef_amc.grounders.explained_scores import SimilarityScore, Tensors
from albef_amc.grounders.families import Family
from albef_amc.grounders.relevancy import weigh_attention
from albef_amc.ranges_albef import check_choice

GRAD_CAM, ATTENTION, SIMILARITY, RELEVANCY = METHODS = ("grad_cam", "attention", "similarity", "relevancy")


@dataclass(frozen=True)
class PhraseBatch:
    """P phrases and their images, as a model reads them.

    Args:
        states (`dict`): what phrases of N images share, of `share_images` of the family's score.
        image_index (`torch.Tensor` of shape `(P,)`): image row of each phrase.
        texts (`dict`): `input_ids` and `attention_mask` `(P, T)`.
        token_mask (`torch.Tensor` of shape `(P, T)`): tokens whose rows count.
        cell_mask (`torch.Tensor` of shape `(P, C)`): False for cells that are padding.
    """

    states: Tensors
    image_index: torch.Tensor
    texts: Tensors
    token_mask: torch.Tensor
    cell_mask: torch.Tensor


def list_methods(family: Family) -> list[str]:
    """Methods that a family has."""
    lacking = {SIMILARITY: not isinstance(family.score, SimilarityScore), RELEVANCY: family.relevancy is None}
    return [method for method in METHODS if not lacking.get(method, False)]


def check_method(method: str, family: Family) -> None:
    """Refuse a method that does not exist, or that a family does not have.

    Raises:
        ValueError: such a method; the message has those of the family.
    """
    check_choice("method", method, METHODS)
    available = list_methods(family)
    if method not in available:
        lacking = {
            SIMILARITY: "has no projection of patches into a space with phrases",
            RELEVANCY: "has attention in both directions, whose rule is not built in",
        }[method]
        raise ValueError(
            f'`method` is "{method}", but `{family.class_name}` with the score "{family.score_name}" {lacking}. '
            f"Methods that it has: {', '.join(available)}."
        )


def count_layers(method: str, family: Family, model: PreTrainedModel) -> int:
    """Number of layers that a method can explain, or begin at; 0 where it reads none."""
    if method == SIMILARITY:
        return 0
    if method == RELEVANCY:
        return family.relevancy.count_layers(model)
    if family.layers_name is None:
        return 1
    return len(model.get_submodule(family.layers_name)) - family.reads_first_token_alone


def choose_layer(method: str, family: Family, model: PreTrainedModel) -> int | None:
    """The layer without a choice of the user: of `"relevancy"` the first, of `"similarity"` none."""
    if method == SIMILARITY:
        return None
    if method == RELEVANCY:
        return family.relevancy.first_layer(model.config)
    return family.default_layer(model.config, count_layers(method, family, model))


def list_modules(method: str, family: Family, model: PreTrainedModel, layer: int | None) -> list[str]:
    """Names of the attention modules that a method reads at, or from, a layer."""
    if method == SIMILARITY:
        return []
    if method == RELEVANCY:
        return family.relevancy.list_modules(model, layer)
    return [family.module_name.format(layer=layer)]


def describe_layers(method: str, family: Family, model: PreTrainedModel) -> str:
    """Which layers can be chosen; the end of an error message."""
    if method == SIMILARITY:
        return f'`method="{SIMILARITY}"` explains no layer. Leave it out.'
    last = count_layers(method, family, model) - 1
    if method == RELEVANCY:
        return f"relevancy can begin at layers 0 to {last} of `{family.relevancy.layers_name}`."
    limit = family.describe_limit()
    if last < 0:
        return f"no layer of `{family.module_name}` can be explained: the model has too few. {limit}".rstrip()
    return f"the layers of `{family.module_name}` that can be explained are 0 to {last}. {limit}".rstrip()


def compute_heatmap(
    method: str, family: Family, model: PreTrainedModel, module_names: list[str], batch: PhraseBatch, keep_graph: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and heatmaps of P phrases.

    Args:
        method (`str`): one of [`list_methods`].
        family ([`~families.Family`]): the kind of model.
        model ([`~transformers.PreTrainedModel`]): the model.
        module_names (list of `str`): of [`list_modules`].
        batch ([`PhraseBatch`]): phrases and images.
        keep_graph (`bool`): keep the graph, for a loss on the result.

    Returns:
        Logits `(P, K)`, of which the last column is the score, and heatmaps `(P, C)`, >= 0 and 0 for padding.
    """
    score, arguments = family.score, (batch.states, batch.image_index, batch.texts)
    only_row = torch.ones_like(batch.token_mask[:, :1])
    row_mask = batch.token_mask if score.has_token_rows else only_row
    if method == GRAD_CAM:
        logits, *parts = score.explain(model, module_names[0], *arguments, keep_graph)
        attention_map, gradient = (_select_cells(rows, family, batch) for rows in parts)
        return logits, compute_cell_heatmap(attention_map, gradient, row_mask, batch.cell_mask)
    if method == RELEVANCY:
        logits, values = score.explain_modules(model, module_names, *arguments, keep_graph, family.relevancy.read)
        return logits, average_rows(_select_cells(values, family, batch), only_row, batch.cell_mask)
    with torch.set_grad_enabled(keep_graph):
        if method == SIMILARITY:
            logits, cosines = score.compare_patches(model, *arguments)
            return logits, subtract_minimum(at_least_float32(cosines), batch.cell_mask)
        with AttentionTap(model, module_names, keep_graph) as tap:
            logits = score.compute(model, *arguments)
        (attention_map,) = tap.read_single_maps()
        if not score.has_token_rows:
            attention_map = attention_map[batch.image_index, :, :1]
        values = at_least_float32(_select_cells(attention_map, family, batch)).mean(dim=1)
        return logits, average_rows(values, row_mask, batch.cell_mask)


def _select_cells(rows: torch.Tensor, family: Family, batch: PhraseBatch) -> torch.Tensor:
    """Rows of tokens and columns of cells, of `(P, ..., rows, columns)`."""
    num_tokens, num_cells = batch.token_mask.shape[1], batch.cell_mask.shape[1]
    first = family.first_column(num_tokens)
    return rows[..., :num_tokens, first : first + num_cells]


def compute_cell_heatmap(
    attention_map: torch.Tensor, gradient: torch.Tensor, row_mask: torch.Tensor, cell_mask: torch.Tensor
) -> torch.Tensor:
    r"""Grad-CAM of cells: `mean over heads of A * max(dS/dA, 0)`, mean over the rows that count.

    Args:
        attention_map, gradient (`torch.Tensor` of shape `(P, num_heads, R, C)`): probabilities before dropout of rows
            and cells, and dS/dA.
        row_mask (`torch.Tensor` of shape `(P, R)`): rows that count, at least one of each phrase.
        cell_mask (`torch.Tensor` of shape `(P, C)`): False for cells that are padding.

    Returns:
        `torch.Tensor` of shape `(P, C)`, at least float32, >= 0; 0 for padding.
    """
    return average_rows(weigh_attention(attention_map, gradient), row_mask, cell_mask)


def average_rows(values: torch.Tensor, row_mask: torch.Tensor, cell_mask: torch.Tensor) -> torch.Tensor:
    """Mean `(P, C)` of the rows `(P, R, C)` that count; 0 for cells that are padding."""
    weights = row_mask.to(values.dtype)
    heatmap = (values * weights[..., None]).sum(dim=1) / weights.sum(dim=1)[:, None]
    return heatmap.where(cell_mask, 0)


def subtract_minimum(values: torch.Tensor, cell_mask: torch.Tensor) -> torch.Tensor:
    """Values `(P, C)` minus their minimum among cells of the mask; 0 for the others."""
    lowest = values.masked_fill(~cell_mask, torch.inf).amin(dim=1, keepdim=True)
    return (values - lowest).where(cell_mask, 0)


def normalize_cells(heatmap: torch.Tensor, cell_mask: torch.Tensor) -> torch.Tensor:
    """Heatmaps `(P, C)` minus their minimum, over their maximum after that plus 1e-7, among cells of the mask; 0 for
    the others."""
    shifted = subtract_minimum(heatmap, cell_mask)
    return shifted / (shifted.amax(dim=1, keepdim=True) + NORMALIZATION_EPSILON)


__all__ = [
    "METHODS",
    "PhraseBatch",
    "average_rows",
    "check_method",
    "choose_layer",
    "compute_cell_heatmap",
    "compute_heatmap",
    "count_layers",
    "describe_layers",
    "list_methods",
    "list_modules",
    "normalize_cells",
    "subtract_minimum",
]
