# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What the models return, tensor by tensor."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers.utils import ModelOutput


@dataclass
class AlbefModelOutput(ModelOutput):
    """Outputs of [`AlbefModel`] for N images and P phrases of T tokens.

    Args:
        last_hidden_state (`torch.Tensor` of shape `(P, T, hidden_size)`): states of the fusion encoder.
        image_embeds (`torch.Tensor` of shape `(N, 1 + num_patches, hidden_size)`): image encoder, [CLS] first.
        text_embeds (`torch.Tensor` of shape `(P, T, hidden_size)`): text encoder, [CLS] first.
        image_features (`torch.Tensor` of shape `(N, projection_dim)`): projected image [CLS], unit length.
        text_features (`torch.Tensor` of shape `(P, projection_dim)`): projected text [CLS], unit length.
        logits_per_image (`torch.Tensor` of shape `(N, P)`): contrastive similarities over temperature.
        logits_per_text (`torch.Tensor` of shape `(P, N)`): their transpose.
    """

    last_hidden_state: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_features: torch.Tensor | None = None
    text_features: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None


@dataclass
class AlbefGroundingOutput(ModelOutput):
    """Outputs of [`AlbefForImageTextMatching`] for P phrases of T tokens on a grid of G_h x G_w patches.

    Args:
        loss (`torch.Tensor`, scalar, with `itm_labels`): cross-entropy of the matching scores, mean over phrases.
        itm_logits (`torch.Tensor` of shape `(P, 2)`): matching scores; index `ITM_MATCH_INDEX` = 1 is "match".
        heatmap (`torch.Tensor` of shape `(P, G_h, G_w)`, with `output_heatmap`): raw Grad-CAM, >= 0, float32; in the
            graph when gradients were enabled on entry.
        normalized_heatmap (`torch.Tensor` of shape `(P, G_h, G_w)`): minus minimum, over maximum; in [0, 1].
        token_heatmap (`torch.Tensor` of shape `(P, T, G_h, G_w)`, with `output_token_heatmap`): the map of every
            token before their mean; 0 for padding.
        image_index (`torch.Tensor` of shape `(P,)`): image row of every phrase; `None` where a pipeline gave none.
        original_sizes (`torch.Tensor` of shape `(N, 2)`): height and width of the stored images, passed through.
        match_probability (`torch.Tensor` of shape `(P,)`): probability that phrase and image match, in [0, 1], with
            the calibration of the configuration; at least float32, without gradient.
    """

    loss: torch.Tensor | None = None
    itm_logits: torch.Tensor | None = None
    heatmap: torch.Tensor | None = None
    normalized_heatmap: torch.Tensor | None = None
    token_heatmap: torch.Tensor | None = None
    image_index: torch.Tensor | None = None
    original_sizes: torch.Tensor | None = None
    match_probability: torch.Tensor | None = None

    def check_finite(self) -> None:
        """Raises `ValueError` where a score or a heatmap is not finite; waits for the device to have computed them."""
        if not torch.isfinite(self.itm_logits).all() or not torch.isfinite(self.heatmap).all():
            raise ValueError(
                "the matching scores or heatmaps are not finite: `pixel_values` or the model's weights hold NaN or "
                "infinity. Check the image and the checkpoint (`albef-amc convert` refuses such weights)."
            )


@dataclass
class AlbefRetrievalOutput(ModelOutput):
    """Outputs of [`AlbefForImageTextRetrieval`] for N images and P phrases of T tokens.

    Args:
        loss (`torch.Tensor`, scalar): sum of the objectives.
        itc_loss, itm_loss (`torch.Tensor`, scalars): contrastive and matching losses.
        itm_logits (`torch.Tensor` of shape `(P, 2)`): matching scores of the given pairs.
        itm_pair_logits (`torch.Tensor` of shape `(up to 3P, 2)`): given pairs; each phrase with a negative image;
            a negative phrase with each phrase's image. Phrases without a candidate add no pair.
        heatmap, normalized_heatmap, token_heatmap: as in [`AlbefGroundingOutput`].
        image_features, text_features (`torch.Tensor` of shape `(N | P, projection_dim)`): online, unit length.
        momentum_image_features, momentum_text_features (same shapes): of the momentum model, for `enqueue`.
        logits_per_image (`torch.Tensor` of shape `(N, P + queue_size)`), logits_per_text (`(P, N + queue_size)`):
            similarities to the momentum features of the batch and then of the queue, over temperature.
        image_index (`torch.Tensor` of shape `(P,)`): image row of every phrase.
        excluded_negatives (`torch.Tensor`, scalar): images of another identity that hold a phrase's text, and are
            therefore not negatives of it: mean number per phrase. None if the negatives were given.
    """

    loss: torch.Tensor | None = None
    itc_loss: torch.Tensor | None = None
    itm_loss: torch.Tensor | None = None
    itm_logits: torch.Tensor | None = None
    itm_pair_logits: torch.Tensor | None = None
    heatmap: torch.Tensor | None = None
    normalized_heatmap: torch.Tensor | None = None
    token_heatmap: torch.Tensor | None = None
    image_features: torch.Tensor | None = None
    text_features: torch.Tensor | None = None
    momentum_image_features: torch.Tensor | None = None
    momentum_text_features: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    image_index: torch.Tensor | None = None
    excluded_negatives: torch.Tensor | None = None


@dataclass
class AlbefPreTrainingOutput(AlbefRetrievalOutput):
    """Outputs of [`AlbefForPreTraining`]: those of [`AlbefRetrievalOutput`], with masked words.

    Args:
        loss (`torch.Tensor`, scalar): sum of the objectives that were asked for; None without any.
        mlm_loss (`torch.Tensor`, scalar): masked-word loss.
        mlm_logits (`torch.Tensor` of shape `(num_masked, vocab_size)`, or `(P, T, vocab_size)` with the sequence
            axis): scores of masked words.
    """

    mlm_loss: torch.Tensor | None = None
    mlm_logits: torch.Tensor | None = None


@dataclass
class AlbefRetrievalScores(ModelOutput):
    """Similarity of N images and P texts, as [`AlbefForImageTextRetrieval.rank`] returns it.

    Args:
        similarities (`torch.Tensor` of shape `(N, P)`): contrastive similarities in [-1, 1], at least float32.
        scores_per_image (`torch.Tensor` of shape `(N, P)`): matching scores of each image's shortlist of texts,
            `NOT_LISTED` = -100 outside it.
        scores_per_text (`torch.Tensor` of shape `(P, N)`): matching scores of each text's shortlist of images, -100
            outside it.
        ranked_texts (`torch.Tensor` of shape `(N, min(k, P))`, int64): each image's shortlist, best text first.
        ranked_images (`torch.Tensor` of shape `(P, min(k, N))`, int64): each text's shortlist, best image first.
    """

    similarities: torch.Tensor | None = None
    scores_per_image: torch.Tensor | None = None
    scores_per_text: torch.Tensor | None = None
    ranked_texts: torch.Tensor | None = None
    ranked_images: torch.Tensor | None = None


@dataclass
class AlbefQuestionAnsweringOutput(ModelOutput):
    """Outputs of [`AlbefForQuestionAnswering`] for P questions of T tokens and A answers of L tokens.

    Args:
        loss (`torch.Tensor`, scalar, with answers): weighted losses of the answers over the number of questions.
        answer_losses (`torch.Tensor` of shape `(A,)`, with answers): minus the log-probability of each answer, summed
            over its tokens after [CLS]; without the share of the momentum model.
        answer_logits (`torch.Tensor` of shape `(A, L, vocab_size)`, with answers): scores of the token that follows
            each token, float32; meaningless at padding.
        question_states (`torch.Tensor` of shape `(P, T, hidden_size)`): what the decoder reads.
        heatmap (`torch.Tensor` of shape `(A, G_h, G_w)`, with `output_heatmap`): raw Grad-CAM of the answer's
            log-probability, >= 0, float32; in the graph when gradients were enabled on entry.
        normalized_heatmap (`torch.Tensor` of shape `(A, G_h, G_w)`): minus minimum, over maximum; in [0, 1].
        token_heatmap (`torch.Tensor` of shape `(A, T, G_h, G_w)`, with `output_token_heatmap`): the map of every
            token of the answer's question before their mean; 0 for padding.
        image_index (`torch.Tensor` of shape `(P,)`): image row of every question.
        answer_index (`torch.Tensor` of shape `(A,)`, with answers): question of every answer.
        original_sizes (`torch.Tensor` of shape `(N, 2)`): height and width of the stored images, passed through.
    """

    loss: torch.Tensor | None = None
    answer_losses: torch.Tensor | None = None
    answer_logits: torch.Tensor | None = None
    question_states: torch.Tensor | None = None
    heatmap: torch.Tensor | None = None
    normalized_heatmap: torch.Tensor | None = None
    token_heatmap: torch.Tensor | None = None
    image_index: torch.Tensor | None = None
    answer_index: torch.Tensor | None = None
    original_sizes: torch.Tensor | None = None


class RankedAnswers(NamedTuple):
    """The best of a list of candidate answers for each of P questions, best first.

    Args:
        candidate_index (`torch.Tensor` of shape `(P, k)`): rows of `candidate_ids`.
        probabilities (`torch.Tensor` of shape `(P, k)`): float32; they sum to 1 over the k candidates.
    """

    candidate_index: torch.Tensor
    probabilities: torch.Tensor


@dataclass
class AlbefClassificationOutput(ModelOutput):
    """Outputs of [`AlbefForVisualEntailment`] and [`AlbefForVisualReasoning`] for P texts of T tokens on a grid of
    G_h x G_w patches; where a text has m > 1 images, heatmaps have them as a second dimension.

    Args:
        loss (`torch.Tensor`, scalar, with `labels`): cross-entropy, mixed with the distillation loss.
        logits (`torch.Tensor` of shape `(P, num_labels)`): scores of the classes.
        heatmap (`torch.Tensor` of shape `(P, G_h, G_w)` or `(P, m, G_h, G_w)`, with `output_heatmap`): raw Grad-CAM
            of a class, >= 0, float32; in the graph when gradients were enabled on entry.
        normalized_heatmap (same shape): minus minimum, over maximum, of each image; in [0, 1].
        token_heatmap (`torch.Tensor` of shape `(P, T, G_h, G_w)` or `(P, m, T, G_h, G_w)`, with
            `output_token_heatmap`): the map of every token before their mean; 0 for padding.
        image_index (`torch.Tensor` of shape `(P,)` or `(P, m)`): image row of every text, or its m rows.
        original_sizes (`torch.Tensor` of shape `(N, 2)`): height and width of the stored images, passed through.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    heatmap: torch.Tensor | None = None
    normalized_heatmap: torch.Tensor | None = None
    token_heatmap: torch.Tensor | None = None
    image_index: torch.Tensor | None = None
    original_sizes: torch.Tensor | None = None


@dataclass
class AlbefTextAssignmentOutput(ModelOutput):
    """Outputs of [`AlbefForTextAssignment`]: R of P texts, those that have the images that they need.

    Args:
        loss (`torch.Tensor`, scalar): cross-entropy, mean over the R texts; 0 without any.
        assignment_logits (`torch.Tensor` of shape `(R, 3)`): first image, second image, neither.
        assignments (`torch.Tensor` of shape `(R,)`): which of them is true.
        text_index (`torch.Tensor` of shape `(R,)`): the rows of `input_ids`.
        image_index (`torch.Tensor` of shape `(R, 2)`): the image rows that a text was read with.
    """

    loss: torch.Tensor | None = None
    assignment_logits: torch.Tensor | None = None
    assignments: torch.Tensor | None = None
    text_index: torch.Tensor | None = None
    image_index: torch.Tensor | None = None


__all__ = [
    "AlbefClassificationOutput",
    "AlbefGroundingOutput",
    "AlbefModelOutput",
    "AlbefPreTrainingOutput",
    "AlbefQuestionAnsweringOutput",
    "AlbefRetrievalOutput",
    "AlbefRetrievalScores",
    "AlbefTextAssignmentOutput",
    "RankedAnswers",
]
