# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""ALBEF for retrieval: what is trained by contrast and matching. How a trained model retrieves is in `matching_albef`.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651), section 4.
"""

import torch
from transformers.utils import can_return_tuple

from .configuration_albef import AlbefConfig
from .contrastive_albef import QUEUE_IDS, AlbefContrastiveModel
from .explanation_albef import HeatmapDenominator, outside_inference_mode
from .layout_albef import FalsePhrases, PhraseLayout
from .outputs_albef import AlbefRetrievalOutput
from .parallel_albef import CandidateScope
from .pretraining_losses_albef import UNKNOWN_ID, NegativeSampling, pair_descriptions


class AlbefForImageTextRetrieval(AlbefContrastiveModel):
    r"""ALBEF that is trained by contrast and matching, and ranks texts for images and images for texts.

    `forward` changes no state. A training step is that of [`AlbefForPreTraining`]: [`clamp_temperature`] and
    [`update_momentum`], `forward` and backward, then [`enqueue`] with the momentum features and the image identities.
    [`encode_images`], [`encode_texts`] and [`retrieve`] use a trained model; [`AlbefForImageTextMatching`] has them
    as well, and no momentum copies.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc import AlbefConfig, AlbefForImageTextRetrieval, compute_retrieval_recall
    >>> small = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    >>> config = AlbefConfig(
    ...     vision_config=dict(small, image_size=32, patch_size=16), explanation_layer=1, explanation_block=1,
    ...     text_config=dict(small, fusion_layer=1, vocab_size=50), projection_dim=8, queue_size=8)
    >>> model = AlbefForImageTextRetrieval(config)
    >>> texts = {"input_ids": torch.tensor([[2, 7, 9], [2, 8, 9], [2, 8, 5]])}
    >>> images = {"pixel_values": torch.randn(2, 3, 32, 32)}
    >>> outputs = model(**images, **texts, image_index=torch.tensor([0, 0, 1]), image_ids=torch.tensor([12, 40]))
    >>> outputs.loss.backward()
    >>> scores = model.retrieve(model.encode_images(images), model.encode_texts(texts), k=2)
    >>> scores.ranked_texts.shape, scores.ranked_images.shape
    (torch.Size([2, 2]), torch.Size([3, 2]))
    >>> recall = compute_retrieval_recall(
    ...     scores.scores_per_image, scores.scores_per_text, image_index=torch.tensor([0, 0, 1]))
    >>> recall["image_recall_at_5"]
    100.0

    ```
    """

    task = "retrieval"
    is_general = True
    optional_weights = new_weights = ("itm_head.",)
    original_kinds = {
        "ALBEF retrieval, or AMC evaluation, which has the same entries": ("text_encoder.encoder.", "itm_head."),
    }
    written_classes = ("AlbefForImageTextRetrieval", "AlbefForImageTextMatching")
    _keys_to_ignore_on_load_unexpected = [r"^(momentum_)?mlm_head\."]

    def __init__(self, config: AlbefConfig):
        super().__init__(config)
        self._build_momentum(config)
        self.post_init()
        self._settle_momentum()

    @classmethod
    def adapt_weights(
        cls, weights: dict[str, torch.Tensor], stored: AlbefConfig, config: AlbefConfig
    ) -> tuple[dict[str, torch.Tensor], list[str]]:
        """Queue entries of another data set are images that no identity of the new one may be taken for."""
        ids = {name: torch.full_like(weights[name], UNKNOWN_ID) for name in QUEUE_IDS if name in weights}
        return weights | ids, ["queues kept, their image identities forgotten"] if ids else []

    @can_return_tuple
    @outside_inference_mode
    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        image_ids: torch.Tensor | None = None,
        token_mask: torch.Tensor | None = None,
        negative_image_index: torch.Tensor | None = None,
        negative_text_index: torch.Tensor | None = None,
        negative_uniforms: torch.Tensor | None = None,
        distillation_alpha: float | None = None,
        candidate_scope: CandidateScope = "local",
        output_heatmap: bool = False,
        output_token_heatmap: bool = False,
        heatmap_denominator: HeatmapDenominator = "kept",
        explained_phrases: torch.Tensor | None = None,
        layout: PhraseLayout | None = None,
        text_ids: torch.Tensor | None = None,
        description_ids: torch.Tensor | None = None,
        description_index: torch.Tensor | None = None,
        negative_sampling: NegativeSampling = "hard",
        false_input_ids: torch.Tensor | None = None,
        false_attention_mask: torch.Tensor | None = None,
        false_image_index: torch.Tensor | None = None,
        false_layout: PhraseLayout | None = None,
    ) -> AlbefRetrievalOutput:
        r"""Contrastive and matching loss of N images and P texts, with the heatmap of the given pairs on request.

        Args:
            pixel_values, input_ids, attention_mask, image_index, token_mask, output_heatmap, output_token_heatmap,
            heatmap_denominator, layout: as for [`AlbefForImageTextMatching`] (the `itm` explanation).
            image_ids, text_ids, description_ids, description_index, negative_image_index, negative_text_index,
            negative_uniforms, negative_sampling, distillation_alpha, candidate_scope, explained_phrases,
            false_input_ids, false_attention_mask, false_image_index, false_layout: as for [`AlbefForPreTraining`].
                Without `image_ids` every image is its own; with `distillation_alpha=0` the
                targets are equal shares over the entries that are true.
        """
        pairs = self._check_pairs(
            pixel_values,
            input_ids,
            attention_mask,
            image_index,
            layout,
            image_ids,
            token_mask,
            negative_image_index,
            negative_text_index,
            negative_uniforms,
            distillation_alpha,
            candidate_scope,
            output_heatmap,
            output_token_heatmap,
            heatmap_denominator,
            explained_phrases,
            text_ids,
            pair_descriptions(description_ids, description_index),
            negative_sampling,
            FalsePhrases.check(pixel_values, false_input_ids, false_attention_mask, false_image_index, false_layout),
        )
        output, _ = self._learn_from_pairs(pairs)
        output.loss = output.itc_loss + output.itm_loss
        return output


__all__ = ["AlbefForImageTextRetrieval"]
