# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""ALBEF with its three pre-training objectives: contrastive, matching, masked words.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651), section 3.2.
"""

import importlib
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import nn
from transformers import AutoModelForPreTraining
from transformers.utils import can_return_tuple

from .configuration_albef import AlbefConfig, AlbefTextConfig
from .contrastive_albef import AlbefContrastiveModel, MaskedStates
from .explanation_albef import HeatmapDenominator, at_least_float32, outside_inference_mode
from .layout_albef import FalsePhrases, PhraseLayout, build_layout
from .matching_albef import AlbefForImageTextMatching
from .outputs_albef import AlbefPreTrainingOutput
from .parallel_albef import CandidateScope
from .pretraining_losses_albef import (
    DistillationAxis,
    MaskedPhrases,
    NegativeSampling,
    compute_distillation_loss,
    compute_masked_word_loss,
    mask_tokens,
    pair_descriptions,
)
from .ranges_albef import check_choice

PRETRAINING_OBJECTIVES = ("itc", "itm", "mlm")


class AlbefMaskedWordHead(nn.Module):
    """BERT's masked-word head; its decoder is tied to the word embeddings."""

    def __init__(self, config: AlbefTextConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`(..., hidden_size)` to `(..., vocab_size)`."""
        return self.decoder(self.layer_norm(nn.functional.gelu(self.dense(states))))


class AlbefForPreTraining(AlbefContrastiveModel):
    r"""ALBEF with its three pre-training objectives: contrastive (ITC), matching (ITM), masked words (MLM).

    `forward` changes no state. A training step calls, in this order: [`clamp_temperature`] and [`update_momentum`]
    before the first micro-batch, `forward` and backward, then [`enqueue`] with the momentum features of the output.
    """

    task = "pre-training"
    auto_class = AutoModelForPreTraining
    is_general = True
    optional_weights = ("itm_head.", "mlm_head.")
    original_kinds = {
        "AMC pre-training": ("text_encoder.bert.", "queue_ptr_img"),
        "ALBEF pre-training": ("text_encoder.bert.",),
    }
    written_classes = ("AlbefForImageTextMatching", "AlbefForPreTraining")
    _tied_weights_keys = {
        "mlm_head.decoder.weight": "albef.text_model.word_embeddings.weight",
        "momentum_mlm_head.decoder.weight": "momentum_text_model.word_embeddings.weight",
    }
    _momentum_of = {**AlbefContrastiveModel._momentum_of, "momentum_mlm_head": "mlm_head"}

    def __init__(self, config: AlbefConfig):
        super().__init__(config)
        self.mlm_head = AlbefMaskedWordHead(config.text_config)
        self._build_momentum(config)
        self.momentum_mlm_head = AlbefMaskedWordHead(config.text_config)
        self.post_init()
        self._settle_momentum()

    @classmethod
    def from_encoders(
        cls,
        vision: str | os.PathLike,
        text: str | os.PathLike,
        image_size: int | tuple[int, int] | None = None,
        fusion_layer: int | None = None,
        vision_config: Mapping[str, Any] | None = None,
        text_config: Mapping[str, Any] | None = None,
        output_loading_info: bool = False,
        **kwargs,
    ) -> "AlbefForPreTraining":
        r"""Builds a model to pre-train from a vision transformer and a BERT, as the authors of ALBEF did.

        BERT's layers become the text layers and, with new cross-attention, the fusion layers; its masked-word head is
        used if the checkpoint has one. Projections and matching head are new: the global generator draws them.
        [`~conversion.from_encoders.build_processor`] makes the processor.

        Args:
            vision (`str` or path): a DINOv2, ViT or SigLIP that transformers saved: a folder or a repository of the
                Hub (`facebook/dinov2-base`). Or a vision transformer with timm's names: a folder or a repository
                (`timm/deit_base_patch16_224.fb_in1k`), a safetensors file, or a name of timm, which needs timm.
            text (`str` or path): a BERT of transformers: a folder or a repository (`google-bert/bert-base-uncased`).
            image_size (`int` or (height, width), *optional*): image size in pixels, by default that of an encoder of
                transformers and 256 with one of timm; the position embeddings are resized.
            fusion_layer (`int`, *optional*): index of the first layer with cross-attention; half of BERT's layers by
                default, as published.
            vision_config, text_config (`Mapping[str, Any]`, *optional*): values of their configurations that the
                encoders do not determine, such as `{"num_attention_heads": 12}` of a bare safetensors file.
            output_loading_info (`bool`, defaults to `False`): also return the
                [`~conversion.report.EncodersReport`], which is logged in any case.
            kwargs: further values of [`AlbefConfig`] (`queue_size=4096`).

        Returns:
            [`AlbefForPreTraining`] in evaluation mode, its momentum copies equal to what they follow.
        """
        try:
            builder = importlib.import_module("albef_amc.conversion.from_encoders")
        except ModuleNotFoundError as error:
            raise ImportError(
                "`from_encoders` is not part of the code that a checkpoint ships. Install the package `albef-amc` "
                "(`pip install .` in a clone of its repository) and call it there: `from albef_amc import "
                "AlbefForPreTraining`."
            ) from error
        of_vision, of_text = dict(vision_config or {}), dict(text_config or {})
        if image_size is not None:
            of_vision["image_size"] = image_size
        if fusion_layer is not None:
            of_text["fusion_layer"] = fusion_layer
        model, report = builder.build_from_encoders(cls, vision, text, of_vision, of_text, kwargs)
        return (model, report) if output_loading_info else model

    def get_output_embeddings(self) -> nn.Module:
        return self.mlm_head.decoder

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.mlm_head.decoder = value

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
        mlm_input_ids: torch.Tensor | None = None,
        mlm_labels: torch.Tensor | None = None,
        negative_image_index: torch.Tensor | None = None,
        negative_text_index: torch.Tensor | None = None,
        negative_uniforms: torch.Tensor | None = None,
        distillation_alpha: float | None = None,
        distillation_axis: DistillationAxis = "vocabulary",
        candidate_scope: CandidateScope = "local",
        objectives: tuple[str, ...] = PRETRAINING_OBJECTIVES,
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
    ) -> AlbefPreTrainingOutput:
        r"""The pre-training losses of N images and P phrases, with the heatmap of the given pairs on request.

        Args:
            pixel_values, input_ids, attention_mask, image_index, token_mask, output_heatmap, output_token_heatmap,
            heatmap_denominator, layout: as for [`AlbefForImageTextMatching`] (the `itm` explanation).
            image_ids (`torch.Tensor` of shape `(N,)`, *optional*): identity of each image, >= 0: entries of the same
                image are positives of the contrastive loss and never hard negatives. Every image is its own without.
            mlm_input_ids, mlm_labels (`torch.Tensor` of shape `(P, T)`, *optional*): masked tokens, and the true ones
                (-100 where nothing is predicted). Drawn when absent.
            negative_image_index, negative_text_index (`torch.Tensor` of shape `(P,)`, *optional*): image row that
                phrase p does not match; phrase that the image of phrase p does not match; -1 for none. Numbers in the
                joint batch with the scope `"joint"`. The absent ones are drawn from the similarities.
            negative_uniforms (`torch.Tensor` of shape `(P, 2)`, *optional*): numbers in [0, 1) that decide those
                draws (image, text); from the global generator when absent.
            distillation_alpha (`float`, *optional*): weight of the momentum model's targets; the configuration's
                `distillation_alpha` by default.
            distillation_axis (`str`, defaults to `"vocabulary"`): see
                [`~pretraining_losses_albef.compute_distillation_loss`].
            candidate_scope (`str`, defaults to `"local"`): where the contrastive loss and the hard negatives find
                their candidates: `"local"`, this process' batch as published; `"joint"`, the batches of all processes
                (in the order of ranks), as if one process had them all. Then every process must call `forward`, and
                `itc_loss` and `itm_loss` are such that their mean over processes is that of the joint batch.
            objectives (`tuple` of `str`): which of `"itc"`, `"itm"`, `"mlm"` to compute.
            explained_phrases (`torch.Tensor` of shape `(P,)`, bool, *optional*): the phrases whose heatmap is needed;
                those of the others are 0. Every phrase by default.
            text_ids (`torch.Tensor` of shape `(P,)`, *optional*): identity of each phrase's text, >= 0. An image with
                a phrase of the same text is a positive of the contrastive loss and never a negative of the phrase, and
                the other way round. Without, all texts differ; an identity below 0 is unknown and equal to no other.
            description_ids, description_index (`torch.Tensor` of shape `(D,)`, *optional*): further texts that are
                true of images of the batch, and their image rows; they are used for these two decisions only.
            negative_sampling (`str`, defaults to `"hard"`): see
                [`~pretraining_losses_albef.compute_negative_probabilities`].
            false_input_ids, false_attention_mask (`torch.Tensor` of shape `(F, T)`, *optional*), false_image_index
                (`(F,)`), false_layout: phrases that are false of their images, best a word away from true ones.
                Each is a further pair that does not match (Yuksekgonul et al., ICLR 2023, add such texts to the
                contrastive loss; here they enter the matching loss alone).
        """
        if not set(objectives) <= set(PRETRAINING_OBJECTIVES):
            raise ValueError(
                f"`objectives` may hold {', '.join(map(repr, PRETRAINING_OBJECTIVES))}, got {objectives}."
            )
        check_choice("distillation_axis", distillation_axis, get_args(DistillationAxis))
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
        masked = None
        if "mlm" in objectives:
            described = pairs.layout
            if mlm_input_ids is None or mlm_labels is None:
                mlm_input_ids, mlm_labels = self._mask_tokens(input_ids, pairs.attention_mask)
                described = replace(described, masked_tokens=None)
            masked = MaskedPhrases.select(mlm_input_ids, mlm_labels, described, distillation_axis)
        learned, states = self._learn_from_pairs(pairs, masked, compares="itm" in objectives)
        output = AlbefPreTrainingOutput(**learned)
        if masked is not None:
            output.mlm_logits, output.mlm_loss = self._predict_masked_words(masked, states, pairs.alpha)
        terms = {"itc": output.itc_loss, "itm": output.itm_loss, "mlm": output.mlm_loss}
        output.loss = sum(terms[name] for name in objectives) if objectives else None
        return output

    def _mask_tokens(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        text_config = self.config.text_config
        maskable = attention_mask.bool() & (input_ids != text_config.cls_token_id)
        return mask_tokens(
            input_ids, maskable, text_config.mask_token_id, text_config.vocab_size, self.config.mlm_probability
        )

    def _predict_masked_words(
        self, masked: MaskedPhrases, states: MaskedStates, alpha: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of R phrases with masked tokens, and their masked-word loss."""
        mlm_logits = at_least_float32(self.mlm_head(masked.read(states.fused)))
        mlm_loss = (1 - alpha) * compute_masked_word_loss(mlm_logits, masked.labels)
        if alpha == 0:
            return mlm_logits, mlm_loss
        text_model, first = self.momentum_text_model, self.config.text_config.fusion_layer
        with torch.no_grad():
            num_images = len(states.momentum_image_embeds)
            layout = build_layout(masked.attention_mask, states.image_index, num_images, masked.reads_padding)
            layout = layout.to(states.fused.device)
            keys_values = text_model.project_image(states.momentum_image_embeds)
            fused = text_model.run_layers(states.momentum_text_embeds, layout, keys_values, first=first)
            momentum_logits = at_least_float32(self.momentum_mlm_head(masked.read(fused)))
        distillation = compute_distillation_loss(mlm_logits, momentum_logits, masked.labels, masked.axis)
        return mlm_logits, mlm_loss + alpha * distillation

    def export_matching_model(self) -> AlbefForImageTextMatching:
        """The same weights as [`AlbefForImageTextMatching`], without momentum copies, queues and masked-word head."""
        return self.build_matching_model(self.state_dict()).to(device=self.device, dtype=self.dtype)

    def build_matching_model(self, weights: Mapping[str, torch.Tensor]) -> AlbefForImageTextMatching:
        """A matching model with weights of a state dict of this class, in this model's mode."""
        model = AlbefForImageTextMatching(self.config)
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
        return model.train(self.training)


__all__ = ["PRETRAINING_OBJECTIVES", "AlbefForPreTraining", "AlbefMaskedWordHead"]
