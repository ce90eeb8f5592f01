# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""From images and phrases to the fused first pieces that heads read, and the explained pass of a head's score."""

from collections.abc import Callable
from dataclasses import replace

import torch

from .encoders_albef import AlbefTextModel, KeysValues
from .explanation_albef import compute_weighted_attentions
from .grouping_albef import PhraseGroups, PhraseRows, PieceLayout

# From fused states `(R, T, hidden_size)`, of first pieces alone `(R, 1, hidden_size)`, to the logits of a head
# `(R, ...)` and the score to explain `(R,)`.
ReadScore = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def encode_rows(
    text_model: AlbefTextModel,
    image_embeds: torch.Tensor,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    image_index: torch.Tensor,
) -> tuple[PhraseRows, list[KeysValues]]:
    """P phrases as the text encoder leaves them, and keys and values of their images.

    Args:
        image_embeds (`torch.Tensor` of shape `(N, 1 + num_patches, hidden_size)`): encoded images.
        input_ids, attention_mask (`torch.Tensor` of shape `(P, T)`): pieces, and 1 for real ones.
        image_index (`torch.Tensor` of shape `(P,)` or `(P, m)`): image row of each phrase, or its m rows.
    """
    pieces, groups = PieceLayout.of(attention_mask), PhraseGroups.of_each(image_index, len(image_embeds))
    rows = PhraseRows(text_model.encode(input_ids, pieces), attention_mask, image_index, pieces=pieces, groups=groups)
    return rows, text_model.project_image(image_embeds)


def fuse_first_pieces(
    text_model: AlbefTextModel, rows: PhraseRows, keys_values: list[KeysValues], first: int
) -> torch.Tensor:
    """First pieces `(R, hidden_size)` behind the last layer, of phrases that have passed the layers below `first`."""
    pieces, groups = rows.find_layout(len(keys_values[0][0]))
    fused = text_model.run_layers(rows.states, pieces, keys_values, groups, first=first, first_piece_only=True)
    return fused[:, 0]


def fuse_below(text_model: AlbefTextModel, rows: PhraseRows, keys_values: list[KeysValues], last: int) -> PhraseRows:
    """Phrases as the text encoder left them, behind the fusion layers below `last`, with their layout."""
    pieces, groups = rows.find_layout(len(keys_values[0][0]))
    first = text_model.config.fusion_layer
    states = text_model.run_layers(rows.states, pieces, keys_values, groups, first=first, last=last)
    return replace(rows, states=states, pieces=pieces, groups=groups)


def explain_fusion(
    text_model: AlbefTextModel,
    rows: PhraseRows,
    keys_values: list[KeysValues],
    layers: range,
    read_score: ReadScore,
    keep_graph: bool,
    first_piece_only: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    r"""Grad-CAM of a head's score at the cross-attention of neighbouring layers, one for each image of a phrase.

    Args:
        rows ([`~grouping_albef.PhraseRows`]): R phrases that have passed the layers below the first of `layers`.
        keys_values (`list`): keys and values of the images, one pair a fusion layer.
        layers (`range`): the explained layers.
        read_score (`Callable`): the head, from fused states to its logits and the score of each phrase.
        keep_graph (`bool`): keep logits, score and maps in the graph.
        first_piece_only (`bool`): the head reads first pieces alone.

    Returns:
        `tuple`: the logits; the score `(R,)`; for each of `layers` the maps of the pieces `(R, T, num_patches)`, 0 for
        padding.
    """
    pieces, groups = rows.find_layout(len(keys_values[0][0]))
    states, attentions = rows.states, []
    with torch.enable_grad():  # without a graph to keep, it begins at the attention map and ends at the score
        for index in layers:
            states, attention = text_model.run_explained_layer(
                index, states, pieces, keys_values, groups, use_eager=index > layers[0]
            )
            attentions.append(attention)
        options = {"first_piece_only": first_piece_only, "use_eager": True}
        fused = text_model.run_layers(states, pieces, keys_values, groups, first=layers[-1] + 1, **options)
        logits, score = read_score(fused)
        maps = compute_weighted_attentions(score, attentions, keep_graph)
    is_kept = rows.attention_mask[..., None].to(logits.device, non_blocking=True)
    maps = [of_image[..., 1:] * is_kept for of_image in maps]  # drop the class token
    if not keep_graph:
        logits, score = logits.detach(), score.detach()
    return logits, score, maps


__all__ = ["ReadScore", "encode_rows", "explain_fusion", "fuse_below", "fuse_first_pieces"]
