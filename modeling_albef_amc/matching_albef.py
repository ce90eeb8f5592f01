# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""ALBEF with the matching head, whose score is explained by heatmaps: the grounding models.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651). The heatmap that the heads return with
`output_heatmap=True` is the Grad-CAM of Yang et al., CVPR 2023 (arXiv 2206.15462), computed inside `forward`.
"""

from typing import get_args

import torch
from torch import nn
from transformers import AutoModelForZeroShotObjectDetection
from transformers.utils import can_return_tuple

from .base_albef import AlbefModel
from .configuration_albef import ITM_MATCH_INDEX, AlbefConfig
from .encoders_albef import AlbefTextModel, AlbefVisionModel, KeysValues
from .explanation_albef import (
    ExplanationKind,
    HeatmapDenominator,
    at_least_float32,
    average_over_pieces,
    check_explanation,
    compute_weighted_attention,
    evaluation_mode,
    normalize_heatmap,
    outside_inference_mode,
    resolve_token_mask,
)
from .fusion_albef import explain_fusion, fuse_below, fuse_first_pieces
from .grouping_albef import PhraseGroups, PhraseRows, PieceLayout, divide_by_length
from .inputs_albef import check_phrase_inputs
from .outputs_albef import AlbefGroundingOutput
from .parallel_albef import pad_pieces
from .ranges_albef import COUNT, check_choice, check_number
from .two_stage_albef import TwoStageRetrieval

# Graphs of `compile_encoders` at most; all layers of all encoders, in training and in evaluation, share them.
RECOMPILE_LIMIT = 32


class AlbefMatchingModel(TwoStageRetrieval):
    """Matching head, heatmaps, `ground` and `retrieve`, shared by the classes that score pairs of image and phrase.

    A subclass adds its own modules after `super().__init__` and ends with `self.post_init()`.
    """

    def __init__(self, config: AlbefConfig):
        super().__init__(config)
        self.albef = AlbefModel(config)
        self.itm_head = nn.Linear(config.text_config.hidden_size, 2)

    def get_input_embeddings(self) -> nn.Module:
        return self.albef.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.albef.set_input_embeddings(value)

    def compile_encoders(self, **options) -> None:
        r"""Compiles image and text encoder in place, layer by layer, with [`torch.compile`].

        Weights keep their names, so checkpoints stay as they are. The first calls take the time to compile: once for
        a new number of images and once for any further ones, and likewise for phrases; later calls do not compile
        again. Fusion layers are left alone. From the explanation layer on they are differentiated twice, which
        compiled code cannot be. Below it, phrases share images in so many ways that they would be compiled again and
        again. With `explanation_kind="itc"` the blocks from `explanation_block` on run uncompiled.

        Args:
            options: as for `torch.compile` (`backend`, `mode`, `dynamic`, ...). `recompile_limit` is 32 by default.

        Example:

        ```python
        >>> from albef_amc import AlbefConfig, AlbefForImageTextMatching
        >>> small = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
        >>> config = AlbefConfig(
        ...     vision_config=dict(small, image_size=32, patch_size=16), explanation_layer=1, explanation_block=1,
        ...     text_config=dict(small, fusion_layer=1, vocab_size=50))
        >>> model = AlbefForImageTextMatching(config)
        >>> model.compile_encoders(mode="reduce-overhead")

        ```
        """
        options.setdefault("recompile_limit", RECOMPILE_LIMIT)
        for encoder in self.modules():
            if isinstance(encoder, (AlbefVisionModel, AlbefTextModel)):
                last = encoder.config.fusion_layer if isinstance(encoder, AlbefTextModel) else None
                for layer in encoder.layers[:last]:
                    layer.compile(**options)

    def match(
        self,
        rows: PhraseRows,
        keys_values: list[KeysValues],
        explain: bool = False,
        keep_graph: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        r"""Fuses phrases with images and scores the pairs.

        Args:
            rows ([`~grouping_albef.PhraseRows`]): P phrases as the text encoder left them, and their images.
            keys_values (`list`): keys and values of the images, one pair a fusion layer.
            explain, keep_graph (`bool`): compute the maps of the matching score; keep them in the graph.

        Returns:
            `tuple`: `itm_logits` `(P, 2)`; with `explain` the map of every piece `(P, T, G_h, G_w)`, 0 for padding,
            else None.
        """
        if not explain:
            return self.score(rows, keys_values, first=self.config.text_config.fusion_layer), None
        rows = fuse_below(self.albef.text_model, rows, keys_values, last=self.config.explanation_layer)
        return self.explain_match(rows, keys_values, keep_graph)

    def score(self, rows: PhraseRows, keys_values: list[KeysValues], first: int) -> torch.Tensor:
        """Matching scores `(P, 2)` of phrases that have passed the layers below `first`."""
        return self.itm_head(fuse_first_pieces(self.albef.text_model, rows, keys_values, first))

    def explain_match(
        self, rows: PhraseRows, keys_values: list[KeysValues], keep_graph: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and maps as for [`match`], of phrases that have passed the layers below the explanation layer."""
        layers = range(self.config.explanation_layer, self.config.explanation_layer + 1)
        itm_logits, _, (maps,) = explain_fusion(
            self.albef.text_model, rows, keys_values, layers, self._read_match, keep_graph
        )
        return itm_logits, maps.unflatten(-1, self.config.vision_config.grid_size)

    def _read_match(self, fused: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        itm_logits = self.itm_head(fused[:, 0])
        return itm_logits, itm_logits[:, ITM_MATCH_INDEX]

    def explain_similarity(
        self, pixel_values: torch.Tensor, text_embeds: torch.Tensor, image_index: torch.Tensor, keep_graph: bool
    ) -> torch.Tensor:
        r"""Grad-CAM of the contrastive similarity: class-token attention of vision block `explanation_block`.

        The rows that enter the block are expanded by `image_index`, so that each phrase has a gradient of its own.

        Returns:
            `torch.Tensor` of shape `(P, G_h, G_w)`, >= 0, float32.
        """
        vision_model, block = self.albef.vision_model, self.config.explanation_block
        text_features = self.albef.project_texts(text_embeds)
        states = vision_model.run_layers(vision_model.embed(pixel_values), last=block).index_select(0, image_index)
        with torch.enable_grad():
            states, attention = vision_model.run_explained_layer(block, states)
            states = vision_model.run_layers(states, first=block + 1, use_eager=True)
            image_features = self.albef.project_images(vision_model.layer_norm(states))
            similarity = (image_features * text_features).sum(dim=-1) / self.albef.temperature
            maps = compute_weighted_attention(similarity, attention, keep_graph)
        return maps[:, 0, 1:].unflatten(-1, self.config.vision_config.grid_size)  # row of the class token

    @outside_inference_mode
    def ground(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        token_mask: torch.Tensor | None = None,
        original_sizes: torch.Tensor | None = None,
        explanation_kind: ExplanationKind = "itm",
        output_token_heatmap: bool = False,
        phrases_per_chunk: int = 32,
        check_finite: bool = True,
        **unused_inputs,
    ) -> AlbefGroundingOutput:
        r"""Heatmap and matching score of every phrase, without dropout and without a trace.

        No parameter, `.grad`, mode or hook is changed, under `torch.no_grad()` and `torch.inference_mode()` as well.
        It costs a forward pass, with every image encoded once, and a backward pass from the score to the
        explanation layer. What describes the phrases may stay on the CPU where the model is elsewhere: it is checked
        and laid out there, without waiting for the device.

        Args:
            pixel_values, input_ids, attention_mask, image_index, token_mask, original_sizes, explanation_kind,
            output_token_heatmap: as for [`forward`].
            phrases_per_chunk (`int`, defaults to 32): phrases explained at once; bounds the memory. Where there are
                more, those of similar length are explained together.
            check_finite (`bool`, defaults to `True`): check the results. A caller who has more work for the device
                than these phrases passes `False` and calls `check_finite` of the output when it reads them.
            unused_inputs: other outputs of the processor or the collator (regions, identities) are not read.

        Returns:
            [`AlbefGroundingOutput`] for [`AlbefProcessor.post_process_grounding`].

        Raises:
            ValueError: shapes that do not fit, or scores that are not finite (NaN in the checkpoint or the image).
        """
        check_explanation(explanation_kind, output_token_heatmap)
        with torch.no_grad(), evaluation_mode(self):
            attention_mask, image_index = check_phrase_inputs(pixel_values, input_ids, attention_mask, image_index)
            itm_logits, heatmaps, token_maps = self._ground_chunks(
                pixel_values, input_ids, attention_mask, image_index, token_mask, explanation_kind, phrases_per_chunk
            )
        outputs = AlbefGroundingOutput(
            itm_logits=itm_logits,
            heatmap=heatmaps,
            normalized_heatmap=normalize_heatmap(heatmaps),
            token_heatmap=token_maps if output_token_heatmap else None,
            image_index=image_index.to(heatmaps.device, non_blocking=True),
            original_sizes=original_sizes,
        )
        if check_finite:
            outputs.check_finite()
        return outputs

    def _ground_chunks(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_index: torch.Tensor,
        token_mask: torch.Tensor | None,
        explanation_kind: ExplanationKind,
        phrases_per_chunk: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scores, heatmaps and piece maps `(P, T, G_h, G_w)` (`(P, 0, G_h, G_w)` for `itc`), computed in chunks of
        similar length."""
        check_number("phrases_per_chunk", phrases_per_chunk, COUNT)
        explain_match = explanation_kind == "itm"
        piece_mask = resolve_token_mask(token_mask, attention_mask)
        text_model = self.albef.text_model
        keys_values = text_model.project_image(self.albef.vision_model(pixel_values))
        chunks = divide_by_length(attention_mask, phrases_per_chunk)
        device, parts = pixel_values.device, []
        for rows, length in chunks:
            mask, images = attention_mask[rows, :length], image_index[rows]
            pieces = PieceLayout.of(mask).to(device)
            groups = PhraseGroups.of(images, len(pixel_values)).to(device)
            text_embeds = text_model.encode(input_ids[rows, :length].to(device, non_blocking=True), pieces)
            phrase_rows = PhraseRows(text_embeds, mask, images, pieces=pieces, groups=groups)
            itm_logits, maps = self.match(phrase_rows, keys_values, explain=explain_match)
            if explain_match:
                heatmap = average_over_pieces(maps, piece_mask[rows, :length].to(device, non_blocking=True))
                maps = pad_pieces(maps, input_ids.shape[1])
            else:
                of_phrases = images.to(device, non_blocking=True)
                heatmap = self.explain_similarity(pixel_values, text_embeds, of_phrases, keep_graph=False)
                maps = heatmap[:, None][:, :0]
            parts.append((itm_logits, heatmap, maps))
        back = torch.cat([rows for rows, _ in chunks]).argsort().to(device, non_blocking=True)
        return tuple(torch.cat(of_chunks)[back] for of_chunks in zip(*parts, strict=True))


class AlbefForImageTextMatching(AlbefMatchingModel):
    r"""ALBEF that scores whether a phrase matches an image, and shows where: the class for grounding.

    `forward` with `output_heatmap=True` adds the Grad-CAM heatmap of the score, differentiable when gradients are
    enabled. [`ground`] is the call for using a trained model. The pipeline `zero-shot-object-detection` of
    `transformers` works, too: it calls `forward` and [`AlbefImageProcessor.post_process_object_detection`].
    """

    task = "matching and grounding"
    auto_class = AutoModelForZeroShotObjectDetection
    is_general = True
    optional_weights = ("itm_head.",)
    _keys_to_ignore_on_load_unexpected = [r"^momentum_", r"_queue", r"^mlm_head\."]

    def __init__(self, config: AlbefConfig):
        super().__init__(config)
        self.post_init()

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
        itm_labels: torch.Tensor | None = None,
        output_heatmap: bool | None = None,
        output_token_heatmap: bool = False,
        explanation_kind: ExplanationKind = "itm",
        heatmap_denominator: HeatmapDenominator = "kept",
    ) -> AlbefGroundingOutput:
        r"""Scores P phrases against their images; every image is encoded once.

        Args:
            pixel_values (`torch.Tensor` of shape `(N, 3, image_height, image_width)`): normalised images.
            input_ids, attention_mask (`torch.Tensor` of shape `(P, T)`): pieces, and 1 for real ones.
            image_index (`torch.Tensor` of shape `(P,)`, *optional*): image row of each phrase; not needed if P = N.
            token_mask (`torch.Tensor` of shape `(P, T)`, *optional*): 1 for the pieces whose maps are averaged, to
                explain a phrase inside its caption; every real piece by default.
            original_sizes (`torch.Tensor` of shape `(N, 2)`, *optional*): passed through to the output.
            itm_labels (`torch.Tensor` of shape `(P,)`, *optional*): 1 where phrase and image match, else 0.
            output_heatmap (`bool`, *optional*): compute the explanation of every phrase. By default it is computed
                where the output can only be meant for post-processing, as pipelines of `transformers` call a detector:
                with `original_sizes`, without `itm_labels`, in evaluation mode, and without gradients. Pipelines then
                take batches apart row by row, so the output has an `image_index` only if one was given.
            output_token_heatmap (`bool`): compute the explanation of every piece, too.
            explanation_kind (`str`, defaults to `"itm"`): `"itm"` explains the matching score at the cross-attention
                of `explanation_layer`, `"itc"` the contrastive similarity at vision block `explanation_block`.
            heatmap_denominator (`str`, defaults to `"kept"`): see
                [`~explanation_albef.average_over_pieces`].
        """
        check_explanation(explanation_kind, output_token_heatmap)
        check_choice("heatmap_denominator", heatmap_denominator, get_args(HeatmapDenominator))
        is_for_pipeline = output_heatmap is None and not (
            torch.is_grad_enabled() or self.training or original_sizes is None or itm_labels is not None
        )
        has_index = image_index is not None
        attention_mask, image_index = check_phrase_inputs(pixel_values, input_ids, attention_mask, image_index)
        if is_for_pipeline and (attention_mask.sum(dim=1) < 2).any():
            raise ValueError("a label has no words, so that it would be found anywhere. Leave empty labels out.")
        piece_mask = resolve_token_mask(token_mask, attention_mask)
        wants_heatmap = output_heatmap or output_token_heatmap or is_for_pipeline
        keep_graph = torch.is_grad_enabled()
        wants_itm_map = wants_heatmap and explanation_kind == "itm"

        image_embeds = self.albef.vision_model(pixel_values)
        text_embeds = self.albef.text_model.encode(input_ids, attention_mask)
        itm_logits, token_maps = self.match(
            PhraseRows(text_embeds, attention_mask, image_index),
            self.albef.text_model.project_image(image_embeds),
            explain=wants_itm_map,
            keep_graph=keep_graph,
        )
        output = AlbefGroundingOutput(itm_logits=itm_logits, original_sizes=original_sizes)
        output.image_index = image_index if has_index or not is_for_pipeline else None
        if wants_itm_map:
            output.heatmap = average_over_pieces(token_maps, piece_mask, heatmap_denominator)
            output.token_heatmap = token_maps if output_token_heatmap else None
        elif wants_heatmap:
            output.heatmap = self.explain_similarity(pixel_values, text_embeds, image_index, keep_graph)
        if output.heatmap is not None:
            output.normalized_heatmap = normalize_heatmap(output.heatmap)
        if itm_labels is not None:
            output.loss = nn.functional.cross_entropy(at_least_float32(itm_logits), itm_labels)
        return output


__all__ = ["AlbefForImageTextMatching", "AlbefMatchingModel"]
