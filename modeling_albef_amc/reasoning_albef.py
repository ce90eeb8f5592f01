# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""ALBEF that reads a text with two images: visual reasoning, and text assignment, which is pre-training for it.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651), section 5.
"""

import torch
from torch import nn
from transformers.utils import can_return_tuple

from .base_albef import AlbefModel, AlbefTaskModel
from .classification_albef import AlbefClassificationModel
from .configuration_albef import AlbefConfig
from .explanation_albef import at_least_float32
from .layout_albef import PhraseLayout, build_layout, check_phrase_inputs
from .outputs_albef import AlbefTextAssignmentOutput
from .pretrained_albef import AlbefPreTrainedModel
from .pretraining_losses_albef import compute_negative_probabilities, resolve_ids
from .warm_start_albef import IMAGES_PER_PAIR

# Classes of text assignment: the image that a text belongs to.
FIRST_IMAGE, SECOND_IMAGE, NEITHER_IMAGE = 0, 1, 2
NUM_ASSIGNMENTS = 3
NO_IMAGE = -1


def _check_is_pair(model_name: str, config: AlbefConfig) -> None:
    if config.text_config.images_per_text != IMAGES_PER_PAIR:
        raise ValueError(
            f"{model_name} reads a text with {IMAGES_PER_PAIR} images, but `text_config.images_per_text` is "
            f"{config.text_config.images_per_text}. Set it to {IMAGES_PER_PAIR}; each fusion layer of the "
            "one-image model then becomes a group of as many (`num_hidden_layers` of the published one: 18)."
        )


class AlbefForVisualReasoning(AlbefClassificationModel):
    r"""ALBEF that decides whether a text is true of a pair of images: the class for NLVR2 (`num_labels=2`).

    A training step calls [`update_momentum`] before `forward`; with `labels`, `forward` returns the loss. With
    `output_heatmap=True` it adds the Grad-CAM heatmaps of a class, one for each of the two images, differentiable when
    gradients are enabled.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc import AlbefConfig, AlbefForVisualReasoning
    >>> small = dict(hidden_size=32, intermediate_size=64, num_attention_heads=2)
    >>> config = AlbefConfig(
    ...     vision_config=dict(small, num_hidden_layers=2, image_size=32, patch_size=16),
    ...     text_config=dict(small, num_hidden_layers=3, fusion_layer=1, images_per_text=2, vocab_size=50),
    ...     explanation_layer=1, explanation_block=1)
    >>> outputs = AlbefForVisualReasoning(config)(
    ...     torch.zeros(2, 3, 32, 32), torch.tensor([[2, 7, 9], [2, 8, 9]]),
    ...     image_index=torch.tensor([[0, 1], [1, 0]]), output_heatmap=True)
    >>> outputs.logits.shape, outputs.heatmap.shape
    (torch.Size([2, 2]), torch.Size([2, 2, 2, 2]))

    ```
    """

    task = "visual reasoning (NLVR2)"
    also_starts_from = ("AlbefForTextAssignment",)
    images_per_text = IMAGES_PER_PAIR
    label_names = ("False", "True")
    original_kinds = {"ALBEF visual reasoning (NLVR)": ("cls_head.",)}
    _keys_to_ignore_on_load_unexpected = [*AlbefTaskModel._keys_to_ignore_on_load_unexpected, r"^assignment_head\."]

    def __init__(self, config: AlbefConfig):
        _check_is_pair("AlbefForVisualReasoning", config)
        super().__init__(config)


class AlbefForTextAssignment(AlbefPreTrainedModel):
    r"""ALBEF that says which of two images a text belongs to, if any: pre-training for [`AlbefForVisualReasoning`].

    `forward` pairs the image of every text with others of the batch and returns the loss. There are no momentum
    copies; the contrastive projections stay as they are and say which images resemble each other.
    """

    task = "text assignment (pre-training for NLVR2)"
    images_per_text = IMAGES_PER_PAIR
    optional_weights = new_weights = ("assignment_head.",)
    reported_settings = ("projection_dim",)
    original_kinds = {"ALBEF pre-training for NLVR (text assignment)": ("ta_head.",)}
    original_names = ((r"^ta_head\.", "assignment_head."),)
    _keys_to_ignore_on_load_unexpected = [r"^momentum_", r"_queue", r"^mlm_head\.", r"^itm_head\."]

    def __init__(self, config: AlbefConfig):
        _check_is_pair("AlbefForTextAssignment", config)
        super().__init__(config)
        self.albef = AlbefModel(config)
        self.assignment_head = nn.Linear(config.text_config.hidden_size, NUM_ASSIGNMENTS)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.albef.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.albef.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        image_ids: torch.Tensor | None = None,
        assignments: torch.Tensor | None = None,
        negative_image_index: torch.Tensor | None = None,
        layout: PhraseLayout | None = None,
    ) -> AlbefTextAssignmentOutput:
        r"""The text-assignment loss of N images and P texts; every image is encoded once.

        Args:
            pixel_values (`torch.Tensor` of shape `(N, 3, image_height, image_width)`): normalised images.
            input_ids, attention_mask (`torch.Tensor` of shape `(P, T)`): tokens, and 1 for real ones.
            image_index (`torch.Tensor` of shape `(P,)`, *optional*): row of the image that each text belongs to; not
                needed if P = N.
            image_ids (`torch.Tensor` of shape `(N,)`, *optional*): identity of each image, >= 0: another row of the
                same image is not drawn as a negative. Every image is its own without.
            assignments (`torch.Tensor` of shape `(P,)`, *optional*): where the image of each text stands: 0 in the
                first place, 1 in the second, 2 in neither. Drawn with equal chances when absent.
            negative_image_index (`torch.Tensor` of shape `(P, 2)`, *optional*): two rows of images that each text does
                not belong to, -1 for none; the second is read for texts that belong to neither. Drawn when absent, an
                image the more often the more it resembles the text's. A text that lacks an image it needs is
                dropped.
            layout ([`~layout_albef.PhraseLayout`], *optional*): what the processor computed of `attention_mask` and
                `image_index`. It spares their check; the layout of the pairs is built here.
        """
        texts = check_phrase_inputs(pixel_values, input_ids, attention_mask, image_index, layout)
        image_index = texts.image_index
        if assignments is None:
            assignments = torch.randint(NUM_ASSIGNMENTS, image_index.shape, device=image_index.device)
        image_embeds = self.albef.vision_model(pixel_values)
        if negative_image_index is None:
            negative_image_index = self._draw_negatives(image_embeds, image_index, image_ids)
        _check_assignments(assignments, negative_image_index, len(input_ids), len(pixel_values))
        pairs = pair_images(image_index, assignments, negative_image_index)
        kept = (pairs != NO_IMAGE).all(dim=1).nonzero().flatten()
        pairs, assignments = pairs[kept], assignments[kept]
        text_model, first = self.albef.text_model, self.config.text_config.fusion_layer
        layout = build_layout(texts.attention_mask[kept], pairs, len(pixel_values))
        text_embeds = text_model.encode(input_ids[kept], layout)
        keys_values = text_model.project_image(image_embeds)
        fused = text_model.run_layers(text_embeds, layout, keys_values, first=first, first_token_only=True)
        logits = self.assignment_head(fused[:, 0])
        total = nn.functional.cross_entropy(at_least_float32(logits), assignments, reduction="sum")
        return AlbefTextAssignmentOutput(
            loss=total / max(len(kept), 1),
            assignment_logits=logits,
            assignments=assignments,
            text_index=kept,
            image_index=pairs,
        )

    @torch.no_grad()
    def _draw_negatives(
        self, image_embeds: torch.Tensor, image_index: torch.Tensor, image_ids: torch.Tensor | None
    ) -> torch.Tensor:
        """Two other images `(P, 2)` for every text; their similarity is taken at the initial temperature."""
        features = self.albef.project_images(image_embeds)
        logits = features @ features.T / self.config.temperature_init
        ids = resolve_ids("image_ids", image_ids, len(image_embeds), image_index.device)
        return draw_two(compute_negative_probabilities(logits[image_index], ids[image_index][:, None] == ids))


def draw_two(probabilities: torch.Tensor) -> torch.Tensor:
    r"""Draws two different candidates per row, one after the other.

    Dividing by exponential random numbers and taking the largest draws without replacement.

    Args:
        probabilities (`torch.Tensor` of shape `(P, N)`): chance of each candidate; 0 for those never to be drawn.

    Returns:
        `torch.Tensor` of shape `(P, 2)`, int64; -1 where no candidate is left.
    """
    order = probabilities / torch.empty_like(probabilities).exponential_()
    highest, drawn = nn.functional.pad(order, [0, IMAGES_PER_PAIR]).topk(IMAGES_PER_PAIR, dim=1)
    return drawn.masked_fill(highest == 0, NO_IMAGE)


def pair_images(
    image_index: torch.Tensor, assignments: torch.Tensor, negative_image_index: torch.Tensor
) -> torch.Tensor:
    """Image rows `(P, 2)` in which the image of a text stands as `assignments` `(P,)` says, beside the first of its
    negatives `(P, 2)`, or in which both of these stand."""
    negative, other_negative = negative_image_index.unbind(dim=1)
    first = torch.where(assignments == FIRST_IMAGE, image_index, negative)
    second = torch.where(assignments == SECOND_IMAGE, image_index, other_negative)
    return torch.stack([first, torch.where(assignments == FIRST_IMAGE, negative, second)], dim=1)


def _check_assignments(
    assignments: torch.Tensor, negative_image_index: torch.Tensor, num_texts: int, num_images: int
) -> None:
    if assignments.shape != (num_texts,) or assignments.min() < 0 or assignments.max() >= NUM_ASSIGNMENTS:
        raise ValueError(
            f"`assignments` must hold {num_texts} classes between 0 and {NUM_ASSIGNMENTS - 1}, got "
            f"{assignments.tolist()}."
        )
    lowest, highest = negative_image_index.min(), negative_image_index.max()
    if negative_image_index.shape != (num_texts, IMAGES_PER_PAIR) or lowest < NO_IMAGE or highest >= num_images:
        raise ValueError(
            f"`negative_image_index` must have shape ({num_texts}, {IMAGES_PER_PAIR}) and hold image rows between 0 "
            f"and {num_images - 1}, or {NO_IMAGE} for none, got {negative_image_index.tolist()}."
        )


__all__ = ["AlbefForTextAssignment", "AlbefForVisualReasoning", "draw_two", "pair_images"]
