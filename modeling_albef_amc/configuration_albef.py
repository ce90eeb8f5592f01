# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Configuration classes of ALBEF: image encoder, text and fusion encoder, and the complete model."""

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from .ranges_albef import (
    BELOW_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    WHOLE,
    Range,
    check_choice,
    check_number,
    check_ranges,
)

ITM_MATCH_INDEX = 1  # column of the matching logits that means "phrase and image match"

# Limits far above those of any trained model: a larger size is a mistake, or an attempt to exhaust the memory.
WIDTH = Range(1, 1 << 16, is_whole=True)
LAYERS = Range(1, 1024, is_whole=True)
ENTRIES = Range(1, 1 << 24, is_whole=True)
LONGEST_SIDE = Range(1, 1 << 14, is_whole=True)
TRANSFORMER_RANGES = {
    "hidden_size": WIDTH,
    "intermediate_size": Range(1, 1 << 18, is_whole=True),
    "num_hidden_layers": LAYERS,
    "num_attention_heads": WIDTH,
    "layer_norm_eps": Range(0, 1, is_above=True),
    "hidden_dropout_prob": BELOW_ONE,
    "attention_probs_dropout_prob": BELOW_ONE,
    "initializer_range": NOT_NEGATIVE,
}
VISION_RANGES = {
    **TRANSFORMER_RANGES,
    "num_channels": Range(1, 1024, is_whole=True),
    "num_register_tokens": Range(0, 1024, is_whole=True),
}
VISION_ACTIVATIONS = {"gelu": "none", "gelu_pytorch_tanh": "tanh"}  # and torch's name of the approximation
TEXT_RANGES = {
    **TRANSFORMER_RANGES,
    "vocab_size": ENTRIES,
    "fusion_layer": LAYERS,
    "images_per_text": LAYERS,
    "encoder_width": WIDTH,
    "max_position_embeddings": ENTRIES,
    "type_vocab_size": WIDTH,
    "pad_token_id": WHOLE,
    "cls_token_id": WHOLE,
    "sep_token_id": WHOLE,
    "mask_token_id": WHOLE,
}
MODEL_RANGES = {
    "projection_dim": WIDTH,
    "decoder_layers": LAYERS,
    "explanation_layer": WHOLE,
    "explanation_block": WHOLE,
    "queue_size": ENTRIES,
    "momentum": SHARE,
    "distillation_alpha": SHARE,
    "mlm_probability": SHARE,
    "temperature_init": POSITIVE,
    "temperature_min": POSITIVE,
    "temperature_max": POSITIVE,
    "initializer_range": NOT_NEGATIVE,
    "match_scale": POSITIVE,
    "match_bias": Range(),
}

MAX_PATCHES = 1 << 18  # per image
LABELS = Range(1, 1 << 17, is_whole=True)


def _check_labels(config: PreTrainedConfig, options: dict[str, Any]) -> None:
    """Refuse labels that are not a dictionary, and so many labels that their names would exhaust the memory."""
    for name in ("id2label", "label2id"):
        value = options.get(name, getattr(config, name, None))
        if value is not None and not isinstance(value, dict):
            raise TypeError(f"`{name}` must be a dictionary, got {type(value).__name__}.")
    if options.get("num_labels") is not None:
        check_number("num_labels", options["num_labels"], LABELS)


def _check_heads(name: str, hidden_size: int, num_attention_heads: int) -> None:
    if num_attention_heads < 1 or hidden_size % num_attention_heads:
        raise ValueError(
            f"`{name}.hidden_size` ({hidden_size}) must be a multiple of `{name}.num_attention_heads` "
            f"({num_attention_heads}). Change one of the two."
        )


@strict
class AlbefVisionConfig(PreTrainedConfig):
    r"""Image encoder: a vision transformer (ViT-B/16 of DeiT in the published models).

    Args:
        hidden_size (`int`, defaults to 768): width of the transformer.
        intermediate_size (`int`, defaults to 3072): width of the MLP.
        num_hidden_layers (`int`, defaults to 12): number of blocks.
        num_attention_heads (`int`, defaults to 12): attention heads per block.
        image_size (`int` or pair of `int`, defaults to 256): image side, or (height, width), in pixels. 256 in
            pre-training and for Flickr30k Entities, 384 for RefCOCO+ and RefCLEF.
        patch_size (`int` or pair of `int`, defaults to 16): patch side, or (height, width), in pixels.
        num_channels (`int`, defaults to 3): channels of the image.
        layer_norm_eps (`float`, defaults to 1e-6): epsilon of the layer normalisations.
        hidden_act (`str`, defaults to `"gelu"`): activation of the MLP; `"gelu_pytorch_tanh"` is its approximation by
            a hyperbolic tangent, which SigLIP was trained with.
        num_register_tokens (`int`, defaults to 0): learned tokens between class token and patches, which only the
            blocks read: image_embeds and heatmaps have none of them. DINOv2 has 4 in its version with registers.
        is_class_token_read (`bool`, defaults to `True`): whether patches and registers attend to the class token.
            `False` for an encoder trained without a class token, such as SigLIP: the class token attends to the
            patches, whose states stay those of the encoder.
        hidden_dropout_prob (`float`, defaults to 0): dropout after projections and embeddings.
        attention_probs_dropout_prob (`float`, defaults to 0): dropout on the attention probabilities.
        initializer_range (`float`, defaults to 0.02): standard deviation of the initial weights.
    """

    model_type = "albef_vision"
    base_config_key = "vision_config"

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int | list[int] | tuple[int, ...] = 256
    patch_size: int | list[int] | tuple[int, ...] = 16
    num_channels: int = 3
    layer_norm_eps: float = 1e-6
    hidden_act: str = "gelu"
    num_register_tokens: int = 0
    is_class_token_read: bool = True
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        _check_labels(self, kwargs)
        super().__post_init__(**kwargs)
        check_ranges(self, VISION_RANGES, "vision_config.")
        check_choice("vision_config.hidden_act", self.hidden_act, VISION_ACTIVATIONS)
        for name in ("image_size", "patch_size"):
            for side in _as_pair(getattr(self, name)):
                check_number(f"vision_config.{name}", side, LONGEST_SIDE)
        _check_heads("vision_config", self.hidden_size, self.num_attention_heads)
        for name, image_side, patch_side in zip(
            ("height", "width"), _as_pair(self.image_size), _as_pair(self.patch_size), strict=True
        ):
            if patch_side < 1 or image_side < patch_side or image_side % patch_side:
                raise ValueError(
                    f"`vision_config.image_size` gives {name} {image_side}, which is not a positive multiple of the "
                    f"patch {name} {patch_side}. Choose an image size that is a multiple of the patch size."
                )
        if math.prod(self.grid_size) > MAX_PATCHES:
            raise ValueError(
                f"`vision_config` gives {math.prod(self.grid_size)} patches per image (`image_size`, `patch_size`), "
                f"more than {MAX_PATCHES}."
            )

    @property
    def image_height_width(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return _as_pair(self.image_size)

    @property
    def patch_height_width(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return _as_pair(self.patch_size)

    @property
    def grid_size(self) -> tuple[int, int]:
        """Patches per column and per row: `(grid_height, grid_width)`."""
        (height, width), (patch_height, patch_width) = self.image_height_width, self.patch_height_width
        return height // patch_height, width // patch_width


def _as_pair(value: int | list[int] | tuple[int, ...]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    if len(value) != 2:
        raise ValueError(f"a size must be one integer or (height, width), got {value!r}.")
    return value[0], value[1]


@strict
class AlbefTextConfig(PreTrainedConfig):
    r"""Text and fusion encoder: BERT whose upper layers also attend to the image.

    Layers below `fusion_layer` process the text only; those from `fusion_layer` on have cross-attention.

    Args:
        vocab_size (`int`, defaults to 30522): number of tokens in the vocabulary.
        hidden_size (`int`, defaults to 768): width of the transformer.
        intermediate_size (`int`, defaults to 3072): width of the MLP.
        num_hidden_layers (`int`, defaults to 12): number of text and fusion layers together.
        num_attention_heads (`int`, defaults to 12): attention heads per layer.
        fusion_layer (`int`, defaults to 6): index of the first layer with cross-attention.
        images_per_text (`int`, defaults to 1): images per text. The fusion layers form groups of this size: the
            i-th layer of a group attends to the i-th image, and a group shares key and value projections (2 for
            NLVR2, whose published model has 18 layers).
        encoder_width (`int`, *optional*): width of the image states that the cross-attention reads; set from
            `vision_config.hidden_size` by [`AlbefConfig`].
        max_position_embeddings (`int`, defaults to 512): longest text in tokens.
        type_vocab_size (`int`, defaults to 2): token types (always 0 here; the table matches BERT's weights).
        layer_norm_eps (`float`, defaults to 1e-12): epsilon of the layer normalisations.
        hidden_dropout_prob (`float`, defaults to 0.1): dropout after projections and embeddings.
        attention_probs_dropout_prob (`float`, defaults to 0.1): dropout on the attention probabilities.
        initializer_range (`float`, defaults to 0.02): standard deviation of the initial weights.
        pad_token_id, cls_token_id, sep_token_id, mask_token_id (`int`): special tokens (BERT's 0, 101, 102, 103).
    """

    model_type = "albef_text"
    base_config_key = "text_config"

    vocab_size: int = 30522
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    fusion_layer: int = 6
    images_per_text: int = 1
    encoder_width: int | None = None
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    cls_token_id: int | None = 101
    sep_token_id: int | None = 102
    mask_token_id: int | None = 103

    def __post_init__(self, **kwargs):
        _check_labels(self, kwargs)
        super().__post_init__(**kwargs)
        check_ranges(self, TEXT_RANGES, "text_config.")
        _check_heads("text_config", self.hidden_size, self.num_attention_heads)
        if self.pad_token_id is not None and self.pad_token_id >= self.vocab_size:
            raise ValueError(
                f"`text_config.pad_token_id` must be a token, 0 to {self.vocab_size - 1}, got {self.pad_token_id}."
            )
        if not 0 < self.fusion_layer < self.num_hidden_layers:
            raise ValueError(
                f"`text_config.fusion_layer` must lie between 1 and {self.num_hidden_layers - 1} (one text layer and "
                f"one fusion layer at least), got {self.fusion_layer}."
            )
        num_fusion_layers = self.num_hidden_layers - self.fusion_layer
        if self.images_per_text < 1 or num_fusion_layers % self.images_per_text:
            raise ValueError(
                f"`text_config.images_per_text` must be positive and divide the number of fusion layers "
                f"({num_fusion_layers}: `num_hidden_layers` - `fusion_layer`), got {self.images_per_text}."
            )


@strict
class AlbefConfig(PreTrainedConfig):
    r"""ALBEF (Li et al., "Align before Fuse", NeurIPS 2021) with the explanation of AMC (Yang et al., CVPR 2023).

    Args:
        vision_config ([`AlbefVisionConfig`] or `dict`, *optional*): the image encoder.
        text_config ([`AlbefTextConfig`] or `dict`, *optional*): the text and fusion encoder.
        projection_dim (`int`, defaults to 256): width of the contrastive features.
        decoder_layers (`int`, defaults to 6): layers of the answer decoder of [`AlbefForQuestionAnswering`].
        explanation_layer (`int`, defaults to 8): text layer whose cross-attention gives the heatmap of a score; if a
            text has several images, all layers of its group.
        explanation_block (`int`, defaults to 8): vision block whose attention gives the `itc` heatmap.
        queue_size (`int`, defaults to 65536): momentum features kept as contrastive candidates.
        momentum (`float`, defaults to 0.995): share of the old momentum weights kept in an update.
        distillation_alpha (`float`, defaults to 0.4): weight of the momentum model's targets in pre-training.
        mlm_probability (`float`, defaults to 0.15): share of tokens to predict in pre-training.
        temperature_init (`float`, defaults to 0.07): initial contrastive temperature.
        temperature_min, temperature_max (`float`, default to 0.001 and 0.5): range the temperature is clamped to.
        initializer_range (`float`, defaults to 0.02): standard deviation of the initial weights.
        tie_word_embeddings (`bool`, defaults to `True`): share the word embeddings with the masked-language head.
        match_scale, match_bias (`float`, default to 1 and 0): calibration of the matching score: its probability is
            `sigmoid(match_scale * (match logit - no-match logit) + match_bias)` (Platt scaling).
        match_calibration (`dict`, *optional*): what the two were fitted to, as `albef-amc calibrate` writes it: data,
            their SHA-256, base rate and number of pairs.

    Example:

    ```python
    >>> from albef_amc import AlbefConfig
    >>> AlbefConfig().vision_config.grid_size
    (16, 16)

    ```
    """

    model_type = "albef"
    sub_configs_defaults = {"vision_config": AlbefVisionConfig, "text_config": AlbefTextConfig}

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    projection_dim: int = 256
    decoder_layers: int = 6
    explanation_layer: int = 8
    explanation_block: int = 8
    queue_size: int = 65536
    momentum: float | int = 0.995
    distillation_alpha: float | int = 0.4
    mlm_probability: float = 0.15
    temperature_init: float = 0.07
    temperature_min: float = 0.001
    temperature_max: float = 0.5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    match_scale: float | int = 1.0
    match_bias: float | int = 0.0
    match_calibration: dict | None = None

    def __post_init__(self, **kwargs):
        _check_labels(self, kwargs)
        super().__post_init__(**kwargs)
        check_ranges(self, MODEL_RANGES)
        if self.temperature_min > self.temperature_max:
            raise ValueError(
                f"`temperature_min` ({self.temperature_min}) must not be above `temperature_max` "
                f"({self.temperature_max})."
            )
        text, vision = self.text_config, self.vision_config
        text.encoder_width = vision.hidden_size
        if not text.fusion_layer <= self.explanation_layer < text.num_hidden_layers:
            raise ValueError(
                f"`explanation_layer` must be a fusion layer, {text.fusion_layer} to {text.num_hidden_layers - 1}, "
                f"got {self.explanation_layer}."
            )
        if not 0 <= self.explanation_block < vision.num_hidden_layers:
            raise ValueError(
                f"`explanation_block` must be a vision block, 0 to {vision.num_hidden_layers - 1}, "
                f"got {self.explanation_block}."
            )

    def reset_calibration(self) -> None:
        """Forgets the calibration of the matching score: it belongs to the weights that it was measured on."""
        self.match_scale, self.match_bias, self.match_calibration = 1.0, 0.0, None


__all__ = ["ITM_MATCH_INDEX", "AlbefConfig", "AlbefTextConfig", "AlbefVisionConfig"]
