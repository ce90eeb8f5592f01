# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Losses of pairs of image and phrase that other models are trained with: contrastive and matching, as ALBEF's.

What is true of an image is no negative of it: its own phrases, phrases of the same image in other rows, and equal
texts. With several processes the candidates are those of the joint batch.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import logsigmoid, pad

from albef_amc.explanation_albef import at_least_float32
from albef_amc.grounders.explained_scores import Tensors
from albef_amc.grounders.families import Contrast, Family
from albef_amc.parallel_albef import CandidateScope, JointRows, largest_over_processes
from albef_amc.pretraining_losses_albef import (
    JointBatch,
    Negatives,
    NegativeSampling,
    compute_contrastive_targets,
    compute_matching_loss,
    draw_negative_pairs,
    pair_descriptions,
    soft_cross_entropy,
)


class PairLosses(NamedTuple):
    """Losses of a batch by name, and the pairs of the matching loss; None for what was not asked for.

    Args:
        itc_loss, itm_loss (`torch.Tensor`, scalar): contrastive and matching loss.
        itm_pair_logits (`torch.Tensor` of shape `(K, 2)`): matching logits of the P phrases, then of pairs that do not
            match.
        excluded_negatives (`torch.Tensor`, scalar): see [`~pretraining_losses_albef.Negatives`].
    """

    itc_loss: torch.Tensor | None = None
    itm_loss: torch.Tensor | None = None
    itm_pair_logits: torch.Tensor | None = None
    excluded_negatives: torch.Tensor | None = None


class Similarities(NamedTuple):
    """Contrastive logits of this process' images `(N, joint P)` and phrases `(P, joint N)`."""

    per_image: torch.Tensor
    per_text: torch.Tensor


def compute_pair_losses(
    model: nn.Module,
    family: Family,
    states: Tensors,
    texts: Tensors,
    contrast_texts: Tensors,
    logits: torch.Tensor,
    batch: Mapping[str, torch.Tensor],
    losses: Collection[str],
    negative_sampling: NegativeSampling,
    candidate_scope: CandidateScope,
) -> PairLosses:
    """Compute the contrastive and the matching loss of N images and P phrases.

    Args:
        model (`nn.Module`): the model.
        family ([`~families.Family`]): what is particular to it.
        states (`dict`): what phrases share, N rows.
        texts (`dict`): `input_ids` and `attention_mask` `(P, T)`, as the score reads them.
        contrast_texts (`dict`): the same, as the contrastive loss reads them.
        logits (`torch.Tensor` of shape `(P, K)`): scores of the phrases with their own images.
        batch (mapping): `image_index` `(P,)`, and of what [`AlbefForPreTraining.forward`] takes under these names
            what there is: `image_ids`, `text_ids`, `description_ids`, `description_index`, `negative_uniforms`,
            `false_input_ids`, `false_attention_mask`, `false_image_index`.
        losses (collection of `str`): of `family.losses`.
        negative_sampling (`str`): see [`~pretraining_losses_albef.compute_negative_probabilities`].
        candidate_scope (`str`): `"joint"` or `"local"`.
    """
    image_index = batch["image_index"]
    num_images = len(next(iter(states.values())))
    known = JointBatch.gather(
        batch.get("image_ids"),
        num_images,
        image_index,
        candidate_scope,
        batch.get("text_ids"),
        pair_descriptions(batch.get("description_ids"), batch.get("description_index")),
    )
    similarities, itc_loss = None, None
    if "itc" in losses or ("itm" in losses and negative_sampling == "hard"):
        similarities = _compare_all(model, family.contrast, states, contrast_texts, known)
    if "itc" in losses:
        compute = compute_sigmoid_loss if family.contrast.is_pairwise else compute_softmax_loss
        itc_loss = compute(similarities, known)
    if "itm" not in losses:
        return PairLosses(itc_loss)
    negatives = _draw_negatives(similarities, known, batch, negative_sampling)
    rows, pairs, received = _collect_negatives(states, texts, batch, known, negatives, model)
    pair_logits = _as_two_columns(logits)
    if len(pairs["image_index"]):
        texts_of_pairs = {name: pairs[name] for name in texts}
        others = family.score.compute(model, rows, pairs["image_index"], texts_of_pairs)
        pair_logits = torch.cat([pair_logits, _as_two_columns(others)])
    itm_loss = compute_matching_loss(pair_logits, len(logits), known.phrases, received)
    return PairLosses(itc_loss, itm_loss, pair_logits, negatives.excluded)


def compute_softmax_loss(similarities: Similarities, known: JointBatch) -> torch.Tensor:
    """CLIP's loss: softmax over the texts of each image and over the images of each phrase, equal shares over all
    that are true. Reduction: mean over images and mean over phrases, then their mean."""
    parts = (
        (similarities.per_image, known.find_texts(), known.images),
        (similarities.per_text, known.find_images(), known.phrases),
    )
    losses = [
        soft_cross_entropy(logits, compute_contrastive_targets(is_true, logits.detach(), 0.0), rows)
        for logits, is_true, rows in parts
    ]
    return (losses[0] + losses[1]) / 2


def compute_sigmoid_loss(similarities: Similarities, known: JointBatch) -> torch.Tensor:
    """SigLIP's loss (Zhai et al., ICCV 2023): `-log sigmoid(z logit)` of every pair, z = 1 where the phrase is true of
    the image and -1 elsewhere. Reduction: sum over images, mean over phrases, as in transformers."""
    signs = torch.where(known.find_images(), 1.0, -1.0).to(similarities.per_text.dtype)
    total = -logsigmoid(signs * similarities.per_text).sum()
    return total / known.phrases.share(torch.full((), len(signs), device=total.device))


def _compare_all(
    model: nn.Module, contrast: Contrast, states: Tensors, texts: Tensors, known: JointBatch
) -> Similarities:
    images = at_least_float32(contrast.project_images(model, states))
    phrases = at_least_float32(contrast.encode_texts(model, texts["input_ids"], texts["attention_mask"]))
    with torch.autocast(images.device.type, enabled=False):
        return Similarities(
            contrast.scale(model, images @ _collect_all(known.phrases, phrases).T),
            contrast.scale(model, phrases @ _collect_all(known.images, images).T),
        )


def _collect_all(rows: JointRows, features: torch.Tensor) -> torch.Tensor:
    """Features of the joint batch, in its order and with gradient to the processes that have them."""
    collected, index = rows.collect(features, torch.arange(sum(rows.counts)))
    return collected.index_select(0, index.to(features.device)) if rows.is_joint else features


def _draw_negatives(
    similarities: Similarities | None,
    known: JointBatch,
    batch: Mapping[str, torch.Tensor],
    sampling: NegativeSampling,
) -> Negatives:
    image_index, uniforms = batch["image_index"], batch.get("negative_uniforms")
    if uniforms is None:
        uniforms = torch.rand(len(image_index), 2, device=image_index.device)
    if similarities is None:
        similarities = Similarities(
            uniforms.new_zeros(known.images.count, len(known.text_ids)),
            uniforms.new_zeros(known.phrases.count, len(known.image_ids)),
        )
    return draw_negative_pairs(known, similarities.per_text, similarities.per_image, image_index, uniforms, sampling)


def _collect_negatives(
    states: Tensors,
    texts: Tensors,
    batch: Mapping[str, torch.Tensor],
    known: JointBatch,
    negatives: Negatives,
    model: Any,
) -> tuple[Tensors, Tensors, tuple[torch.Tensor, ...]]:
    """States of all images of the pairs that do not match; their texts, with the `image_index` of each among these;
    and states that every process must have in its loss."""
    device = batch["image_index"].device
    image, text = torch.stack([negatives.image_index, negatives.text_index]).cpu().unbind()
    has_image, has_text = image >= 0, text >= 0
    rows: Tensors = {}
    image_rows = text_rows = image[:0]
    for name, values in states.items():
        rows[name], image_rows = known.images.collect(_pad_to_joint(values, 0, known.images), image[has_image])
    fill = {"input_ids": model.config.get_text_config().pad_token_id, "attention_mask": 0}
    false = {name: batch[f"false_{name}"] for name in texts if f"false_{name}" in batch}
    pairs: Tensors = {}
    for name, values in texts.items():
        joint, text_rows = known.phrases.collect(_pad_to_joint(values, fill[name], known.phrases), text[has_text])
        own = joint[: len(values)][has_image.to(device)]
        parts = [own, joint.index_select(0, text_rows.to(device)), *([false[name]] if false else [])]
        length = max(part.shape[1] for part in parts)
        pairs[name] = torch.cat([pad(part, (0, length - part.shape[1]), value=fill[name]) for part in parts])
    of_false = [batch["false_image_index"]] if false else []
    pairs["image_index"] = torch.cat([image_rows.to(device), batch["image_index"][has_text.to(device)], *of_false])
    return rows, pairs, tuple(values for values in rows.values() if values.is_floating_point())


def _pad_to_joint(values: torch.Tensor, fill: int, rows: JointRows) -> torch.Tensor:
    """Rows whose second dimension is the largest among the processes of the joint batch."""
    missing = largest_over_processes(values.shape[1], values.device, rows) - values.shape[1]
    return pad(values, (*(0, 0) * (values.ndim - 2), 0, missing), value=fill) if missing else values


def _as_two_columns(logits: torch.Tensor) -> torch.Tensor:
    """Logits of "no match" and "match"; a head with one logit compares it with 0."""
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


__all__ = ["PairLosses", "Similarities", "compute_pair_losses", "compute_sigmoid_loss", "compute_softmax_loss"]
