# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""ALBEF without a task head: image encoder, text encoder, fusion encoder, contrastive projections.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651), section 3.1.
"""

import torch
from torch import nn
from transformers import AutoModel
from transformers import initialization as init
from transformers.utils import can_return_tuple

from .configuration_albef import AlbefConfig
from .encoders_albef import AlbefTextModel, AlbefVisionModel
from .layout_albef import PhraseLayout, check_phrase_inputs
from .outputs_albef import AlbefModelOutput
from .pretrained_albef import AlbefPreTrainedModel


class AlbefModel(AlbefPreTrainedModel):
    r"""ALBEF without a task head: image encoder, text and fusion encoder, contrastive projections.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc import AlbefConfig, AlbefModel
    >>> config = AlbefConfig(
    ...     vision_config=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    ...                        image_size=32, patch_size=16),
    ...     text_config=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    ...                      fusion_layer=1, vocab_size=50),
    ...     projection_dim=8, explanation_layer=1, explanation_block=1, queue_size=8)
    >>> outputs = AlbefModel(config)(torch.zeros(1, 3, 32, 32), torch.tensor([[2, 7, 9], [2, 8, 9]]),
    ...                              image_index=torch.tensor([0, 0]))
    >>> outputs.last_hidden_state.shape, outputs.logits_per_image.shape
    (torch.Size([2, 3, 32]), torch.Size([1, 2]))

    ```
    """

    task = "features of images and texts"
    auto_class = AutoModel
    is_general = True
    _keys_to_ignore_on_load_unexpected = [r"^momentum_", r"_queue", r"^mlm_head\.", r"^itm_head\."]

    def __init__(self, config: AlbefConfig):
        super().__init__(config)
        self.vision_model = AlbefVisionModel(config.vision_config)
        self.text_model = AlbefTextModel(config.text_config)
        self.vision_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim)
        # One entry rather than a scalar: FSDP2 and DeepSpeed refuse parameters without a dimension.
        self.temperature = nn.Parameter(torch.full((1,), float(config.temperature_init)))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.constant_(self.temperature, self.config.temperature_init)

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.word_embeddings = value

    def project_images(self, image_embeds: torch.Tensor) -> torch.Tensor:
        """Contrastive image features `(N, projection_dim)`, unit length, from the class token."""
        return nn.functional.normalize(self.vision_projection(image_embeds[:, 0]), dim=-1)

    def project_texts(self, text_embeds: torch.Tensor) -> torch.Tensor:
        """Contrastive text features `(P, projection_dim)`, unit length, from the first token."""
        return nn.functional.normalize(self.text_projection(text_embeds[:, 0]), dim=-1)

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Contrastive features of images, `(N, projection_dim)`, unit length."""
        return self.project_images(self.vision_model(pixel_values))

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Contrastive features of phrases, `(P, projection_dim)`, unit length."""
        return self.project_texts(self.text_model(input_ids, attention_mask))

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        layout: PhraseLayout | None = None,
    ) -> AlbefModelOutput:
        r"""Encodes N images once and P phrases, and fuses every phrase with its image.

        Args:
            pixel_values (`torch.Tensor` of shape `(N, 3, image_height, image_width)`): normalised images.
            input_ids, attention_mask (`torch.Tensor` of shape `(P, T)`): tokens, and 1 for real ones.
            image_index (`torch.Tensor` of shape `(P,)`, *optional*): image row of each phrase; not needed if P = N.
            layout ([`~layout_albef.PhraseLayout`], *optional*): what the processor computed of these two; built here
                where it is missing.
        """
        phrases = check_phrase_inputs(pixel_values, input_ids, attention_mask, image_index, layout)
        layout = phrases.layout.to(pixel_values.device).keep_padding()
        image_embeds = self.vision_model(pixel_values)
        text_embeds = self.text_model.encode(input_ids, layout)
        keys_values = self.text_model.project_image(image_embeds)
        first = self.config.text_config.fusion_layer
        fused = self.text_model.run_layers(text_embeds, layout, keys_values, first=first)
        image_features, text_features = self.project_images(image_embeds), self.project_texts(text_embeds)
        logits_per_image = image_features @ text_features.T / self.temperature
        return AlbefModelOutput(
            last_hidden_state=fused,
            image_embeds=image_embeds,
            text_embeds=text_embeds,
            image_features=image_features,
            text_features=text_features,
            logits_per_image=logits_per_image,
            logits_per_text=logits_per_image.T,
        )


class AlbefEncoders(nn.Module):
    """The encoders alone, under the names that they have in [`AlbefModel`]: what tasks without a contrastive part
    are built on, so that a pre-training checkpoint loads into them."""

    def __init__(self, config: AlbefConfig):
        super().__init__()
        self.vision_model = AlbefVisionModel(config.vision_config)
        self.text_model = AlbefTextModel(config.text_config)

    @property
    def all_tied_weights_keys(self) -> dict[str, str]:
        """Names of weights that are shared, as a model finds them in its parts."""
        tied = self.text_model.all_tied_weights_keys
        return {f"text_model.{name}": f"text_model.{source}" for name, source in tied.items()}


class AlbefTaskModel(AlbefPreTrainedModel):
    """Encoders for a task that reads the fused states; a subclass adds its head and ends with `post_init`."""

    # what pre-training leaves in a checkpoint
    _keys_to_ignore_on_load_unexpected = [
        r"^(albef\.|momentum_)(vision|text)_projection\.",
        r"^albef\.temperature$",
        r"_queue",
        r"^(momentum_)?mlm_head\.",
        r"^itm_head\.",
    ]

    def __init__(self, config: AlbefConfig):
        super().__init__(config)
        self.albef = AlbefEncoders(config)

    def get_input_embeddings(self) -> nn.Module:
        return self.albef.text_model.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.albef.text_model.word_embeddings = value


__all__ = ["AlbefEncoders", "AlbefModel", "AlbefTaskModel"]
