# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""ALBEF that classifies a text read with its image or images: visual entailment, and what visual reasoning shares.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651), section 5.
"""

from typing import get_args

import torch
from torch import nn
from transformers.utils import can_return_tuple

from .base_albef import AlbefTaskModel
from .configuration_albef import AlbefConfig
from .encoders_albef import AlbefTextModel, AlbefVisionModel, KeysValues
from .explanation_albef import (
    Explanation,
    HeatmapDenominator,
    at_least_float32,
    evaluation_mode,
    explain_attention,
    outside_inference_mode,
    resolve_token_mask,
)
from .layout_albef import PhraseLayout, check_phrase_inputs
from .momentum_albef import MomentumCopies
from .outputs_albef import AlbefClassificationOutput
from .ranges_albef import check_choice


class AlbefClassifier(nn.Module):
    """Head of a classification: linear, ReLU, linear, on the fused first token."""

    def __init__(self, config: AlbefConfig):
        super().__init__()
        self.dense = nn.Linear(config.text_config.hidden_size, config.text_config.hidden_size)
        self.out_proj = nn.Linear(config.text_config.hidden_size, config.num_labels)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`(..., hidden_size)` to `(..., num_labels)`."""
        return self.out_proj(nn.functional.relu(self.dense(states)))


def compute_classification_loss(
    logits: torch.Tensor, labels: torch.Tensor, momentum_logits: torch.Tensor | None = None, alpha: float = 0.0
) -> torch.Tensor:
    r"""Cross-entropy against the labels and against the momentum model's distribution, in float32 at least.

    Formula: `(1 - alpha) * CE(logits, labels) - alpha * sum(softmax(momentum_logits) * log_softmax(logits))`.

    Args:
        logits, momentum_logits (`torch.Tensor` of shape `(P, num_labels)`): scores; without the momentum model's the
            cross-entropy against the labels alone.
        labels (`torch.Tensor` of shape `(P,)`): true classes.
        alpha (`float`): weight of the momentum model's distribution, in [0, 1].

    Reduction: mean over samples.
    """
    logits = at_least_float32(logits)
    loss = nn.functional.cross_entropy(logits, labels)
    if momentum_logits is None:
        return loss
    targets = at_least_float32(momentum_logits).softmax(dim=-1)
    return (1 - alpha) * loss - alpha * (targets * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


class AlbefClassificationModel(MomentumCopies, AlbefTaskModel):
    """Classifier of texts with their images, its distillation from momentum copies, and its heatmaps."""

    optional_weights = new_weights = ("classifier.",)
    reported_settings = ("num_labels",)
    original_names = ((r"^cls_head\.0\.", "classifier.dense."), (r"^cls_head\.2\.", "classifier.out_proj."))
    _momentum_of = {
        "momentum_vision_model": "albef.vision_model",
        "momentum_text_model": "albef.text_model",
        "momentum_classifier": "classifier",
    }

    def __init__(self, config: AlbefConfig):
        super().__init__(config)
        self.classifier = AlbefClassifier(config)
        self.momentum_vision_model = AlbefVisionModel(config.vision_config)
        self.momentum_text_model = AlbefTextModel(config.text_config)
        self.momentum_classifier = AlbefClassifier(config)
        self.post_init()
        self._settle_momentum()

    @can_return_tuple
    @outside_inference_mode
    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        token_mask: torch.Tensor | None = None,
        original_sizes: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        distillation_alpha: float | None = None,
        output_heatmap: bool = False,
        output_token_heatmap: bool = False,
        explained_class: int | torch.Tensor | None = None,
        heatmap_denominator: HeatmapDenominator = "kept",
        layout: PhraseLayout | None = None,
    ) -> AlbefClassificationOutput:
        r"""Scores the classes of P texts; every image is encoded once.

        Args:
            pixel_values (`torch.Tensor` of shape `(N, 3, image_height, image_width)`): normalised images.
            input_ids, attention_mask (`torch.Tensor` of shape `(P, T)`): tokens, and 1 for real ones.
            image_index (`torch.Tensor` of shape `(P,)` or `(P, m)`, *optional*): image row of each text, or, where a
                text is read with m = `text_config.images_per_text` images, its m rows. Not needed if every text has
                images of its own: then the first P rows of `pixel_values` are the first images, the next P the second.
            token_mask (`torch.Tensor` of shape `(P, T)`, *optional*): 1 for the tokens whose maps are averaged; every
                real token by default.
            original_sizes (`torch.Tensor` of shape `(N, 2)`, *optional*): passed through to the output.
            labels (`torch.Tensor` of shape `(P,)`, *optional*): true classes, for the loss.
            distillation_alpha (`float`, *optional*): weight of the momentum model's targets in the loss; the
                configuration's `distillation_alpha` by default, 0 for the cross-entropy alone.
            output_heatmap, output_token_heatmap (`bool`): explain a class, per text and per token.
            explained_class (`int` or `torch.Tensor` of shape `(P,)`, *optional*): the class whose score is explained;
                by default the one with the highest score, also where `labels` are given.
            heatmap_denominator (`str`, defaults to `"kept"`): see [`~explanation_albef.explain_attention`].
            layout ([`~layout_albef.PhraseLayout`], *optional*): what the processor computed of `attention_mask` and
                `image_index`; built here where it is missing.
        """
        check_choice("heatmap_denominator", heatmap_denominator, get_args(HeatmapDenominator))
        phrases = check_phrase_inputs(
            pixel_values, input_ids, attention_mask, image_index, layout, self.config.text_config.images_per_text
        )
        layout = phrases.layout.to(pixel_values.device)
        token_mask = resolve_token_mask(token_mask, phrases.attention_mask)
        labels = self._check_classes("labels", labels, input_ids)
        explained_class = self._check_classes("explained_class", explained_class, input_ids)
        text_model, first = self.albef.text_model, self.config.text_config.fusion_layer
        image_embeds = self.albef.vision_model(pixel_values)
        text_embeds = text_model.encode(input_ids, layout)
        keys_values = text_model.project_image(image_embeds)
        output = AlbefClassificationOutput(image_index=phrases.image_index, original_sizes=original_sizes)
        if output_heatmap or output_token_heatmap:
            output.logits, explanation = self._explain_classes(
                text_embeds, layout, keys_values, explained_class, token_mask, heatmap_denominator
            )
            output.heatmap, output.normalized_heatmap = explanation.heatmap, explanation.normalized_heatmap
            output.token_heatmap = explanation.token_heatmap if output_token_heatmap else None
        else:
            fused = text_model.run_layers(text_embeds, layout, keys_values, first=first, first_token_only=True)
            output.logits = self.classifier(fused[:, 0])
        if labels is not None:
            alpha = self.config.distillation_alpha if distillation_alpha is None else distillation_alpha
            momentum_logits = self._compute_momentum_logits(pixel_values, input_ids, layout) if alpha > 0 else None
            output.loss = compute_classification_loss(output.logits, labels, momentum_logits, alpha)
        return output

    def explain(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        token_mask: torch.Tensor | None = None,
        original_sizes: torch.Tensor | None = None,
        explained_class: int | torch.Tensor | None = None,
        layout: PhraseLayout | None = None,
        **unused_inputs,
    ) -> AlbefClassificationOutput:
        r"""Scores and heatmaps as of `forward` with `output_heatmap`, without dropout and without side effects.

        No parameter, `.grad`, mode or hook is changed, under `torch.no_grad()` and `torch.inference_mode()` as well.
        """
        with torch.no_grad(), evaluation_mode(self):
            return self(
                pixel_values,
                input_ids,
                attention_mask,
                image_index,
                token_mask,
                original_sizes,
                explained_class=explained_class,
                output_heatmap=True,
                layout=layout,
            )

    def _check_classes(
        self, name: str, classes: int | torch.Tensor | None, input_ids: torch.Tensor
    ) -> torch.Tensor | None:
        """Classes `(P,)` that are given for each text, or as one for all."""
        if isinstance(classes, int):
            classes = torch.full((len(input_ids),), classes, device=input_ids.device)
        if classes is None:
            return None
        if classes.shape != (len(input_ids),):
            raise ValueError(
                f"`{name}` must have shape ({len(input_ids)},), one class per text, got {tuple(classes.shape)}."
            )
        if classes.min() < 0 or classes.max() >= self.config.num_labels:
            raise ValueError(
                f"`{name}` must hold classes between 0 and {self.config.num_labels - 1} (`config.num_labels` is "
                f"{self.config.num_labels}), got {classes.tolist()}."
            )
        return classes

    def _explain_classes(
        self,
        text_embeds: torch.Tensor,
        layout: PhraseLayout,
        keys_values: list[KeysValues],
        explained_class: torch.Tensor | None,
        token_mask: torch.Tensor,
        heatmap_denominator: HeatmapDenominator,
    ) -> tuple[torch.Tensor, Explanation]:
        """Scores of the classes, and heatmaps `(P, ...)` of the only image of a text, or `(P, m, ...)` of m images."""

        def read_class(fused: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = self.classifier(fused[:, 0])
            classes = logits.argmax(dim=-1) if explained_class is None else explained_class
            return logits, logits.gather(1, classes[:, None])[:, 0]

        text_model, first = self.albef.text_model, self.config.text_config.fusion_layer
        layers = text_model.find_group(self.config.explanation_layer)
        states = text_model.run_layers(text_embeds, layout, keys_values, first=first, last=layers[0])
        explained = text_model.explain_score(states, layout, keys_values, layers, read_class)
        grid_size = self.config.vision_config.grid_size
        per_image = [
            explain_attention(attention_map, gradient, token_mask, grid_size, heatmap_denominator)
            for attention_map, gradient in zip(explained.attention_maps, explained.gradients, strict=True)
        ]
        if len(per_image) == 1:
            return explained.logits, per_image[0]
        return explained.logits, Explanation(*(torch.stack(maps, dim=1) for maps in zip(*per_image, strict=True)))

    @torch.no_grad()
    def _compute_momentum_logits(
        self, pixel_values: torch.Tensor, input_ids: torch.Tensor, layout: PhraseLayout
    ) -> torch.Tensor:
        text_model, first = self.momentum_text_model, self.config.text_config.fusion_layer
        image_embeds = self.momentum_vision_model(pixel_values)
        text_embeds = text_model.encode(input_ids, layout)
        keys_values = text_model.project_image(image_embeds)
        fused = text_model.run_layers(text_embeds, layout, keys_values, first=first, first_token_only=True)
        return self.momentum_classifier(fused[:, 0])


class AlbefForVisualEntailment(AlbefClassificationModel):
    r"""ALBEF that decides whether an image entails a text: the class for SNLI-VE (`num_labels=3`).

    A training step calls [`update_momentum`] before `forward`; with `labels`, `forward` returns the loss. With
    `output_heatmap=True` it adds the Grad-CAM heatmap of a class, differentiable when gradients are enabled.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc import AlbefConfig, AlbefForVisualEntailment
    >>> small = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    >>> config = AlbefConfig(
    ...     vision_config=dict(small, image_size=32, patch_size=16), explanation_layer=1, explanation_block=1,
    ...     text_config=dict(small, fusion_layer=1, vocab_size=50), num_labels=3)
    >>> outputs = AlbefForVisualEntailment(config)(
    ...     torch.zeros(1, 3, 32, 32), torch.tensor([[2, 7, 9], [2, 8, 9]]), image_index=torch.tensor([0, 0]),
    ...     output_heatmap=True, explained_class=0)
    >>> outputs.logits.shape, outputs.heatmap.shape
    (torch.Size([2, 3]), torch.Size([2, 2, 2]))

    ```
    """

    task = "visual entailment"
    label_names = ("contradiction", "neutral", "entailment")
    original_kinds = {"ALBEF visual entailment": ("cls_head.",)}

    def __init__(self, config: AlbefConfig):
        if config.text_config.images_per_text != 1:
            raise ValueError(
                f"`text_config.images_per_text` is {config.text_config.images_per_text}, but entailment reads a text "
                "with one image. Use `AlbefForVisualReasoning` for several, or set it to 1."
            )
        super().__init__(config)


__all__ = [
    "AlbefClassificationModel",
    "AlbefClassifier",
    "AlbefForVisualEntailment",
    "compute_classification_loss",
]
