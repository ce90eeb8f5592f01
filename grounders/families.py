# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What differs between the models whose phrases can be grounded: one entry of `FAMILIES` each."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.functional import normalize
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from albef_amc.explanation_albef import at_least_float32
from albef_amc.grounders.explained_scores import PairScore, SimilarityScore, Tensors
from albef_amc.grounders.relevancy import Relevancy, read_cross_relevance, read_pooled_relevance, read_self_relevance
from albef_amc.layout_albef import build_layout
from albef_amc.text_processing_albef import clean_with_offsets

NOT_TUNED = "rule of depth, not tuned"
LARGEST_SCALE = 100.0  # of CLIP (Radford et al., 2021, section 2.5)


def _keep_phrase(phrase: str) -> str:
    return phrase


def _reserve_none(config: PreTrainedConfig) -> int:
    return 0


def _reserve_padding(config: PreTrainedConfig) -> int:
    """RoBERTa counts positions from the id of the padding token."""
    return config.pad_token_id + 1


@dataclass(frozen=True)
class Contrast:
    """How a model compares every image with every text, which its contrastive loss and hard negatives need.

    Args:
        project_images (`Callable`): from the model and what phrases share (`share_images` of the score), N rows, to
            features of unit length `(N, width)`.
        encode_texts (`Callable`): from the model, `input_ids` and `attention_mask` `(P, T)` to features `(P, width)`.
        scale (`Callable`): from the model and cosines to logits.
        is_pairwise (`bool`): the loss is that of SigLIP, a sigmoid for each pair; otherwise that of CLIP, a softmax
            over images and one over texts.
        largest_scale (`float` or `None`): what the learned factor of the cosines was kept below in training.
    """

    project_images: Callable[[nn.Module, Tensors], torch.Tensor]
    encode_texts: Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
    scale: Callable[[nn.Module, torch.Tensor], torch.Tensor]
    is_pairwise: bool = False
    largest_scale: float | None = None


@dataclass(frozen=True)
class Family:
    """A kind of model and the score that is explained.

    Args:
        model_type (`str`): `model_type` of its configuration.
        score_name (`str`): `"itm"` for a matching head, `"itc"` for the similarity of image and text.
        class_name (`str`): class of transformers that has this score.
        score (`PairScore` or `SimilarityScore`): how it is computed.
        module_name (`str`): attention module that is explained, with `{layer}` for the number of a layer.
        layers_name (`str` or `None`): list of modules that are counted as layers; `None` where there is one only.
        default_layer (`Callable`): from the configuration and the number of layers that can be explained to the
            default one.
        default_source (`str`): where the default comes from.
        first_column (`Callable`): from the number of tokens to the first column of the map that is a cell.
        image_inputs (`tuple[str, ...]`): outputs of the image processor that the model reads.
        count_cells (`Callable`): from the configuration and these inputs to the number of cells of each image.
        read_score (`Callable`): from the model and logits `(P, K)` to the score of a result `(P,)`.
        is_probability (`bool`): the score of a result is a probability.
        padding (`bool` or `str`): option of the tokenizer that the model was trained with.
        first_token (`str` or `None`): token that replaces the first one, where the score was trained with it.
        counts_added_tokens (`bool`): the rows that are averaged include those of tokens that the tokenizer adds.
        count_reserved_positions (`Callable`): from the text configuration to the positions that no token has.
        clean_phrase (`Callable`): applied to a phrase before the tokenizer.
        relevancy (`Relevancy`, *optional*): modules of the method `"relevancy"`; a family without it has no such
            method.
        contrast (`Contrast` or `None`): how all images are compared with all texts in training, where the class has
            projections.
    """

    model_type: str
    score_name: str
    class_name: str
    score: PairScore | SimilarityScore
    module_name: str
    layers_name: str | None
    default_layer: Callable[[PreTrainedConfig, int], int]
    default_source: str
    first_column: Callable[[int], int]
    image_inputs: tuple[str, ...]
    count_cells: Callable[[PreTrainedConfig, Tensors], list[int]]
    read_score: Callable[[nn.Module, torch.Tensor], torch.Tensor]
    is_probability: bool
    padding: bool | str = True
    first_token: str | None = None
    counts_added_tokens: bool = False
    count_reserved_positions: Callable[[PreTrainedConfig], int] = _reserve_none
    clean_phrase: Callable[[str], str] = _keep_phrase
    relevancy: Relevancy | None = None
    contrast: Contrast | None = None

    @property
    def losses(self) -> tuple[str, ...]:
        """Losses that this score can be trained with: `"itm"` for a matching head, `"itc"` with projections."""
        return (*(["itm"] if self.score.has_token_rows else []), *(["itc"] if self.contrast is not None else []))

    @property
    def reads_first_token_alone(self) -> bool:
        """Whether words have no gradient in the last layer, because the score reads the first token after it."""
        return self.score.has_token_rows and not self.counts_added_tokens

    def describe_limit(self) -> str:
        """Why the last layer cannot be explained, if it cannot; the end of an error message."""
        if not self.reads_first_token_alone:
            return ""
        return "In the last one words have no gradient: the score reads the first token after it."


def _encode_blip_images(model: nn.Module, images: Tensors) -> Tensors:
    return {"states": model.vision_model(images["pixel_values"], interpolate_pos_encoding=True).last_hidden_state}


def _match_blip(
    model: nn.Module, states: Tensors, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    # Without a mask of the image, its keys and values may have one row for all phrases.
    fused = model.text_encoder(
        input_ids=input_ids, attention_mask=attention_mask, encoder_hidden_states=states["states"]
    )
    return model.itm_head(fused.last_hidden_state[:, 0])


def _project_blip_states(model: nn.Module, states: Tensors) -> torch.Tensor:
    return normalize(model.vision_proj(states["states"][:, 0]), dim=-1)


def _project_blip_images(model: nn.Module, images: Tensors) -> torch.Tensor:
    return _project_blip_states(model, _encode_blip_images(model, images))


def _project_blip_patches(model: nn.Module, images: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    features = normalize(model.vision_proj(_encode_blip_images(model, images)["states"]), dim=-1)
    return features[:, 0], features[:, 1:]


def _project_blip_texts(model: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    encoded = model.text_encoder(input_ids=input_ids, attention_mask=attention_mask)
    return normalize(model.text_proj(encoded.last_hidden_state[:, 0]), dim=-1)


def _project_albef_images(model: nn.Module, images: Tensors) -> Tensors:
    keys_values = model.albef.text_model.project_image(model.albef.vision_model(images["pixel_values"]))
    return {f"{index}": torch.stack(pair, dim=1) for index, pair in enumerate(keys_values)}


def _match_albef(
    model: nn.Module, states: Tensors, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    text_model = model.albef.text_model
    keys_values = [rows.unbind(dim=1) for rows in states.values()]
    layout = build_layout(attention_mask, None, len(attention_mask))
    encoded = text_model.encode(input_ids, layout)
    fused = text_model.run_layers(encoded, layout, keys_values, first=text_model.config.fusion_layer)
    return model.itm_head(fused[:, 0])


def _keep_inputs(model: nn.Module, images: Tensors) -> Tensors:
    return dict(images)


def _match_bridgetower(
    model: nn.Module, states: Tensors, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    return model(input_ids=input_ids, attention_mask=attention_mask, pixel_values=states["pixel_values"]).logits


def _embed_vilt_images(model: nn.Module, images: Tensors) -> Tensors:
    """Patches with positions in the order of rows, padding last; the model draws their order at random."""
    embeddings = model.vilt.embeddings
    with torch.random.fork_rng(devices=[]):  # drawn on the CPU
        states, mask, (index, (_, width)) = embeddings.visual_embed(
            images["pixel_values"], images["pixel_mask"], max_image_length=-1
        )
    is_patch = mask[:, 1:] > 0  # without the class token
    position = index[..., 0] * width + index[..., 1]
    order = torch.where(is_patch, position, position.max() + 1).argsort(dim=1, stable=True)
    patches = states[:, 1:].gather(1, order[..., None].expand(-1, -1, states.shape[-1]))
    mask = torch.cat([mask[:, :1], is_patch.gather(1, order).to(mask.dtype)], dim=1)
    return {"states": torch.cat([states[:, :1], patches], dim=1), "mask": mask}


def _match_vilt(
    model: nn.Module, states: Tensors, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    return model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        image_embeds=states["states"],
        pixel_mask=states["mask"],
    ).logits


def _encode_clip_images(model: nn.Module, images: Tensors) -> torch.Tensor:
    features = model.get_image_features(images["pixel_values"], interpolate_pos_encoding=True)
    return normalize(features.pooler_output, dim=-1)


def _encode_clip_patches(model: nn.Module, images: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    encoded = model.get_image_features(images["pixel_values"], interpolate_pos_encoding=True)
    patches = model.visual_projection(model.vision_model.post_layernorm(encoded.last_hidden_state[:, 1:]))
    return normalize(encoded.pooler_output, dim=-1), normalize(patches, dim=-1)


def _encode_siglip_patches(model: nn.Module, images: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    return _pool_patches_alone(model, model.get_image_features(images["pixel_values"], interpolate_pos_encoding=True))


def _encode_siglip2_patches(model: nn.Module, images: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    return _pool_patches_alone(model, model.get_image_features(**images))


def _pool_patches_alone(model: nn.Module, encoded: BaseModelOutputWithPooling) -> tuple[torch.Tensor, torch.Tensor]:
    """The pooling head as if a patch were the whole image."""
    states = encoded.last_hidden_state
    patches = model.vision_model.head(states.flatten(0, 1)[:, None]).unflatten(0, states.shape[:2])
    return normalize(encoded.pooler_output, dim=-1), normalize(patches, dim=-1)


def _encode_texts(model: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    features = model.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
    return normalize(features.pooler_output, dim=-1)


def _encode_padded_texts(model: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    return normalize(model.get_text_features(input_ids=input_ids).pooler_output, dim=-1)  # padding is read, as trained


def _encode_siglip2_images(model: nn.Module, images: Tensors) -> torch.Tensor:
    return normalize(model.get_image_features(**images).pooler_output, dim=-1)


def _scale_blip(model: nn.Module, cosines: torch.Tensor) -> torch.Tensor:
    return cosines * math.exp(model.config.logit_scale_init_value)  # the class has no learned temperature


def _scale(model: nn.Module, cosines: torch.Tensor) -> torch.Tensor:
    return cosines * model.logit_scale.exp()


def _scale_and_bias(model: nn.Module, cosines: torch.Tensor) -> torch.Tensor:
    return _scale(model, cosines) + model.logit_bias


def _compare_cosine(model: nn.Module, image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
    return (image_features * text_features).sum(dim=-1)


def _compare_scaled(model: nn.Module, image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
    return _scale(model, _compare_cosine(model, image_features, text_features))


def _compare_biased(model: nn.Module, image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
    return _scale_and_bias(model, _compare_cosine(model, image_features, text_features))


def _read_match_probability(model: nn.Module, logits: torch.Tensor) -> torch.Tensor:
    return at_least_float32(logits).softmax(dim=-1)[:, -1]


def _read_calibrated_probability(model: nn.Module, logits: torch.Tensor) -> torch.Tensor:
    return model.compute_match_probability(logits)


def _read_logit(model: nn.Module, logits: torch.Tensor) -> torch.Tensor:
    return at_least_float32(logits)[:, -1]


def _read_cosine(model: nn.Module, logits: torch.Tensor) -> torch.Tensor:
    return at_least_float32(logits)[:, -1] / at_least_float32(model.logit_scale).exp()


def _read_pair_probability(model: nn.Module, logits: torch.Tensor) -> torch.Tensor:
    return at_least_float32(logits)[:, -1].sigmoid()


def _count_patches(config: PreTrainedConfig, images: Tensors) -> list[int]:
    pixel_values = images["pixel_values"]
    patch_size = int(config.vision_config.patch_size)
    rows, columns = (side // patch_size for side in pixel_values.shape[-2:])
    return [rows * columns] * len(pixel_values)


def _count_patches_of_mask(config: PreTrainedConfig, images: Tensors) -> list[int]:
    patch_size = config.patch_size
    mask = images["pixel_mask"]
    rows, columns = mask[:, :, 0].sum(dim=1) // patch_size, mask[:, 0].sum(dim=1) // patch_size
    return (rows * columns).tolist()


def _count_patches_of_shapes(config: PreTrainedConfig, images: Tensors) -> list[int]:
    return images["spatial_shapes"].prod(dim=1).tolist()


def _half(config: PreTrainedConfig, num_layers: int) -> int:
    return min((num_layers + 1) // 2, num_layers - 1)  # the last layer is not among them


def _last(config: PreTrainedConfig, num_layers: int) -> int:
    return num_layers - 1


def _read_explanation_layer(config: PreTrainedConfig, num_layers: int) -> int:
    return config.explanation_layer


def _read_fusion_layer(config: PreTrainedConfig) -> int:
    return config.text_config.fusion_layer


def _clean_albef_phrase(phrase: str) -> str:
    return clean_with_offsets(phrase)[0]


def _at_start(num_tokens: int) -> int:
    return 0


def _after_class_token(num_tokens: int) -> int:
    return 1


def _after_text_and_class_token(num_tokens: int) -> int:
    return num_tokens + 1


BLIP_ITM = Family(
    model_type="blip",
    score_name="itm",
    class_name="BlipForImageTextRetrieval",
    score=PairScore(_encode_blip_images, _match_blip, shares_states=True),
    module_name="text_encoder.encoder.layer.{layer}.crossattention.self",
    layers_name="text_encoder.encoder.layer",
    default_layer=_half,
    default_source="LAVIS, `compute_gradcam`: layer 6 of 12",
    first_column=_after_class_token,
    image_inputs=("pixel_values",),
    count_cells=_count_patches,
    read_score=_read_match_probability,
    is_probability=True,
    first_token="[ENC]",
    relevancy=Relevancy(
        "text_encoder.encoder.layer",
        (
            "text_encoder.encoder.layer.{layer}.attention.self",
            "text_encoder.encoder.layer.{layer}.crossattention.self",
        ),
        read_cross_relevance,
    ),
    contrast=Contrast(_project_blip_states, _project_blip_texts, _scale_blip),
)
BLIP_ITC = Family(
    model_type="blip",
    score_name="itc",
    class_name="BlipForImageTextRetrieval",
    score=SimilarityScore(_project_blip_images, _project_blip_texts, _compare_cosine, _project_blip_patches),
    module_name="vision_model.encoder.layers.{layer}.self_attn",
    layers_name="vision_model.encoder.layers",
    default_layer=_last,
    default_source=f"{NOT_TUNED}: the last, as CLIP",
    first_column=_after_class_token,
    image_inputs=("pixel_values",),
    count_cells=_count_patches,
    read_score=_read_logit,
    is_probability=False,
    relevancy=Relevancy(
        "vision_model.encoder.layers", ("vision_model.encoder.layers.{layer}.self_attn",), read_self_relevance
    ),
    contrast=Contrast(_project_blip_images, _project_blip_texts, _scale_blip),
)
CLIP = Family(
    model_type="clip",
    score_name="itc",
    class_name="CLIPModel",
    score=SimilarityScore(_encode_clip_images, _encode_texts, _compare_scaled, _encode_clip_patches),
    module_name="vision_model.encoder.layers.{layer}.self_attn",
    layers_name="vision_model.encoder.layers",
    default_layer=_last,
    default_source="Chefer et al., ICCV 2021, notebook for CLIP: `start_layer = -1`",
    first_column=_after_class_token,
    image_inputs=("pixel_values",),
    count_cells=_count_patches,
    read_score=_read_cosine,
    is_probability=False,
    relevancy=Relevancy(
        "vision_model.encoder.layers", ("vision_model.encoder.layers.{layer}.self_attn",), read_self_relevance
    ),
    contrast=Contrast(_encode_clip_images, _encode_texts, _scale, largest_scale=LARGEST_SCALE),
)
SIGLIP = Family(
    model_type="siglip",
    score_name="itc",
    class_name="SiglipModel",
    score=SimilarityScore(_encode_clip_images, _encode_padded_texts, _compare_biased, _encode_siglip_patches),
    module_name="vision_model.head.attention",
    layers_name=None,
    default_layer=_last,
    default_source="the pooling head, the only attention that the score reads the patches with",
    first_column=_at_start,
    image_inputs=("pixel_values",),
    count_cells=_count_patches,
    read_score=_read_pair_probability,
    is_probability=True,
    padding="max_length",
    relevancy=Relevancy(
        "vision_model.encoder.layers",
        ("vision_model.encoder.layers.{layer}.self_attn",),
        read_pooled_relevance,
        pooling_name="vision_model.head.attention",
    ),
    contrast=Contrast(_encode_clip_images, _encode_padded_texts, _scale_and_bias, is_pairwise=True),
)
SIGLIP2 = replace(
    SIGLIP,
    model_type="siglip2",
    class_name="Siglip2Model",
    score=SimilarityScore(_encode_siglip2_images, _encode_padded_texts, _compare_biased, _encode_siglip2_patches),
    image_inputs=("pixel_values", "pixel_attention_mask", "spatial_shapes"),
    count_cells=_count_patches_of_shapes,
    contrast=Contrast(_encode_siglip2_images, _encode_padded_texts, _scale_and_bias, is_pairwise=True),
)
VILT = Family(
    model_type="vilt",
    score_name="itm",
    class_name="ViltForImageAndTextRetrieval",
    score=PairScore(_embed_vilt_images, _match_vilt, shares_states=False),
    module_name="vilt.encoder.layer.{layer}.attention.attention",
    layers_name="vilt.encoder.layer",
    default_layer=_half,
    default_source=f"{NOT_TUNED}: half the layers",
    first_column=_after_text_and_class_token,
    image_inputs=("pixel_values", "pixel_mask"),
    count_cells=_count_patches_of_mask,
    read_score=_read_logit,
    is_probability=False,
    relevancy=Relevancy(
        "vilt.encoder.layer", ("vilt.encoder.layer.{layer}.attention.attention",), read_self_relevance
    ),
)
BRIDGETOWER = Family(
    model_type="bridgetower",
    score_name="itm",
    class_name="BridgeTowerForImageAndTextRetrieval",
    score=PairScore(_keep_inputs, _match_bridgetower, shares_states=False),
    module_name="bridgetower.cross_modal_text_layers.{layer}.crossattention.self",
    layers_name="bridgetower.cross_modal_text_layers",
    default_layer=_half,
    default_source=f"{NOT_TUNED}: half the cross-modal layers",
    first_column=_after_class_token,
    image_inputs=("pixel_values",),
    count_cells=_count_patches,
    read_score=_read_match_probability,
    is_probability=True,
    count_reserved_positions=_reserve_padding,
)
ALBEF = Family(
    model_type="albef",
    score_name="itm",
    class_name="AlbefForImageTextMatching",
    score=PairScore(_project_albef_images, _match_albef, shares_states=False),
    module_name="albef.text_model.layers.{layer}.cross_attention",
    layers_name="albef.text_model.layers",
    default_layer=_read_explanation_layer,
    default_source="configuration of the checkpoint: `explanation_layer`",
    first_column=_after_class_token,
    image_inputs=("pixel_values",),
    count_cells=_count_patches,
    read_score=_read_calibrated_probability,
    is_probability=True,
    counts_added_tokens=True,
    clean_phrase=_clean_albef_phrase,
    relevancy=Relevancy(
        "albef.text_model.layers",
        ("albef.text_model.layers.{layer}.attention", "albef.text_model.layers.{layer}.cross_attention"),
        read_cross_relevance,
        first_layer=_read_fusion_layer,
    ),
)
FAMILIES = (ALBEF, BLIP_ITM, BLIP_ITC, CLIP, SIGLIP, SIGLIP2, VILT, BRIDGETOWER)

__all__ = ["FAMILIES", "Contrast", "Family"]
