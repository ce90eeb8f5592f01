# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""ALBEF as `transformers` models: image encoder, text encoder, fusion encoder, and the heads that read them.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651). The heatmap that the heads return with
`output_heatmap=True` is the Grad-CAM of Yang et al., CVPR 2023 (arXiv 2206.15462), computed inside `forward`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import can_return_tuple

from .configuration_albef import ITM_MATCH_INDEX, AlbefConfig, AlbefTextConfig
from .contrastive_albef import (
    DistillationAxis,
    JointBatch,
    MaskedPhrases,
    compare_features,
    compute_contrastive_targets,
    compute_distillation_loss,
    compute_masked_word_loss,
    compute_negative_probabilities,
    draw_negatives,
    mask_pieces,
    soft_cross_entropy,
)
from .encoders_albef import AlbefPreTrainedModel, AlbefTextModel, AlbefVisionModel, KeysValues
from .explanation_albef import (
    ExplanationKind,
    HeatmapDenominator,
    at_least_float32,
    average_over_pieces,
    check_choice,
    check_explanation,
    compute_weighted_attention,
    evaluation_mode,
    normalize_heatmap,
    outside_inference_mode,
    resolve_token_mask,
)
from .grouping_albef import PhraseGroups, PhraseRows, PieceLayout, divide_by_length, divide_rows
from .inputs_albef import check_phrase_inputs
from .outputs_albef import AlbefGroundingOutput, AlbefModelOutput, AlbefPreTrainingOutput
from .parallel_albef import CandidateScope, attach, largest_over_processes, pad_pieces
from .queues_albef import FeatureQueues

ITM_MISMATCH_INDEX = 0
OBJECTIVES = ("itc", "itm", "mlm")
# Graphs of `compile_encoders` at most; all layers of all encoders, in training and in evaluation, share them.
RECOMPILE_LIMIT = 32


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
    ) -> AlbefModelOutput:
        r"""Encodes N images once and P phrases, and fuses every phrase with its image.

        Args:
            pixel_values (`torch.Tensor` of shape `(N, 3, image_height, image_width)`): normalised images.
            input_ids, attention_mask (`torch.Tensor` of shape `(P, T)`): pieces, and 1 for real ones.
            image_index (`torch.Tensor` of shape `(P,)`, *optional*): image row of each phrase; not needed if P = N.
        """
        attention_mask, image_index = check_phrase_inputs(pixel_values, input_ids, attention_mask, image_index)
        image_embeds = self.vision_model(pixel_values)
        text_embeds = self.text_model.encode(input_ids, attention_mask, keep_padding=True)
        options = {"first": self.config.text_config.fusion_layer, "keep_padding": True}
        keys_values = self.text_model.project_image(image_embeds)
        fused = self.text_model.run_layers(text_embeds, attention_mask, keys_values, image_index, **options)
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


class AlbefMatchingModel(AlbefPreTrainedModel):
    """Matching head, heatmaps and `ground`, shared by the classes that score pairs of image and phrase.

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
        fusion_layer = self.config.text_config.fusion_layer
        if not explain:
            return self.score(rows, keys_values, first=fusion_layer), None
        pieces, groups = rows.find_layout(len(keys_values[0][0]))
        last = self.config.explanation_layer
        states = self.albef.text_model.run_layers(
            rows.states, pieces, keys_values, groups, first=fusion_layer, last=last
        )
        return self.explain_match(replace(rows, states=states, pieces=pieces, groups=groups), keys_values, keep_graph)

    def score(self, rows: PhraseRows, keys_values: list[KeysValues], first: int) -> torch.Tensor:
        """Matching scores `(P, 2)` of phrases that have passed the layers below `first`."""
        pieces, groups = rows.find_layout(len(keys_values[0][0]))
        fused = self.albef.text_model.run_layers(
            rows.states, pieces, keys_values, groups, first=first, first_piece_only=True
        )
        return self.itm_head(fused[:, 0])

    def explain_match(
        self, rows: PhraseRows, keys_values: list[KeysValues], keep_graph: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and maps as for [`match`], of phrases that have passed the layers below the explanation layer."""
        text_model, explained = self.albef.text_model, self.config.explanation_layer
        pieces, groups = rows.find_layout(len(keys_values[0][0]))
        fusion = (pieces, keys_values, groups)
        with torch.enable_grad():  # without a graph to keep, it begins at the attention map and ends at the score
            states, attention = text_model.run_explained_layer(explained, rows.states, *fusion)
            options = {"first_piece_only": True, "use_eager": True}
            fused = text_model.run_layers(states, *fusion, first=explained + 1, **options)
            itm_logits = self.itm_head(fused[:, 0])
            maps = compute_weighted_attention(itm_logits[:, ITM_MATCH_INDEX], attention, keep_graph)
        maps = maps[..., 1:].unflatten(-1, self.config.vision_config.grid_size)  # drop the class token
        maps = maps * rows.attention_mask[..., None, None].to(maps.device, non_blocking=True)
        return itm_logits if keep_graph else itm_logits.detach(), maps

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
        if phrases_per_chunk < 1:
            raise ValueError(f"`phrases_per_chunk` must be at least 1, got {phrases_per_chunk}.")
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
    enabled. [`ground`] is the call for using a trained model.
    """

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
        output_heatmap: bool = False,
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
            output_heatmap, output_token_heatmap (`bool`): compute the explanation, per phrase and per piece.
            explanation_kind (`str`, defaults to `"itm"`): `"itm"` explains the matching score at the cross-attention
                of `explanation_layer`, `"itc"` the contrastive similarity at vision block `explanation_block`.
            heatmap_denominator (`str`, defaults to `"kept"`): see
                [`~explanation_albef.average_over_pieces`].
        """
        check_explanation(explanation_kind, output_token_heatmap)
        check_choice("heatmap_denominator", heatmap_denominator, HeatmapDenominator)
        attention_mask, image_index = check_phrase_inputs(pixel_values, input_ids, attention_mask, image_index)
        piece_mask = resolve_token_mask(token_mask, attention_mask)
        wants_heatmap = output_heatmap or output_token_heatmap
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
        output = AlbefGroundingOutput(itm_logits=itm_logits, image_index=image_index, original_sizes=original_sizes)
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


@dataclass(frozen=True)
class FusedPhrases:
    """What the fusion layers made of P given pairs, K negative pairs and R masked phrases.

    Args:
        itm_logits (`torch.Tensor` of shape `(P, 2)`), negative_logits (`(K, 2)`): matching scores.
        masked_states (`torch.Tensor` of shape `(R, T, hidden_size)`): states of the masked phrases.
        maps (`torch.Tensor` of shape `(P, T, G_h, G_w)`, *optional*): of the given pairs, 0 where not explained.
    """

    itm_logits: torch.Tensor
    negative_logits: torch.Tensor
    masked_states: torch.Tensor
    maps: torch.Tensor | None


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


class AlbefForPreTraining(FeatureQueues, AlbefMatchingModel):
    r"""ALBEF with its three pre-training objectives: contrastive (ITC), matching (ITM), masked words (MLM).

    `forward` changes no state. A training step calls, in this order: [`clamp_temperature`] and [`update_momentum`]
    before the first micro-batch, `forward` and backward, then [`enqueue`] with the momentum features of the output.
    """

    _keys_to_ignore_on_load_missing = [r"^momentum_", r"_queue"]  # made from the online weights, or empty
    _tied_weights_keys = {
        "mlm_head.decoder.weight": "albef.text_model.word_embeddings.weight",
        "momentum_mlm_head.decoder.weight": "momentum_text_model.word_embeddings.weight",
    }
    _keep_in_fp32_modules_strict = ["momentum_*", "image_queue", "text_queue"]  # in bfloat16 they stop moving

    def __init__(self, config: AlbefConfig):
        super().__init__(config)
        text_config, vision_config = config.text_config, config.vision_config
        self.mlm_head = AlbefMaskedWordHead(text_config)
        self.momentum_vision_model = AlbefVisionModel(vision_config)
        self.momentum_text_model = AlbefTextModel(text_config)
        self.momentum_vision_projection = nn.Linear(vision_config.hidden_size, config.projection_dim)
        self.momentum_text_projection = nn.Linear(text_config.hidden_size, config.projection_dim)
        self.momentum_mlm_head = AlbefMaskedWordHead(text_config)
        self._build_queues(config.projection_dim, config.queue_size)
        self.post_init()
        self._settle_momentum()

    @classmethod
    def from_pretrained(cls, *args, **kwargs) -> "AlbefForPreTraining":
        """As for [`AlbefPreTrainedModel`]; momentum copies and queues are float32 in any `dtype`, and frozen."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded)._settle_momentum()
        return loaded

    def _settle_momentum(self) -> None:
        for name, module in self.named_children():
            if name.startswith("momentum_"):
                module.requires_grad_(False)
                module.to(torch.promote_types(self.momentum_vision_model.dtype, torch.float32))
        self._keep_queues_precise()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is not self:
            return
        for momentum_parameter, parameter in self.iterate_momentum_pairs():
            init.copy_(momentum_parameter, parameter)
        self._reset_queues()

    def tie_weights(self, missing_keys: set[str] | None = None, **kwargs) -> None:
        """Ties both masked-word heads; a checkpoint without momentum copies is complete, they follow the others."""
        momentum_head, momentum_embeddings = list(self._tied_weights_keys.items())[1]
        if missing_keys is not None and momentum_head in missing_keys:
            missing_keys.discard(momentum_embeddings)
        super().tie_weights(missing_keys, **kwargs)

    def get_output_embeddings(self) -> nn.Module:
        return self.mlm_head.decoder

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.mlm_head.decoder = value

    def iterate_momentum_pairs(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        """Every momentum parameter, once, with the online parameter that it follows."""
        pairs = (
            (self.momentum_vision_model, self.albef.vision_model),
            (self.momentum_text_model, self.albef.text_model),
            (self.momentum_vision_projection, self.albef.vision_projection),
            (self.momentum_text_projection, self.albef.text_projection),
            (self.momentum_mlm_head, self.mlm_head),
        )
        seen = set()
        for momentum_module, module in pairs:
            for followers in zip(momentum_module.parameters(), module.parameters(), strict=True):
                if id(followers[0]) not in seen:
                    seen.add(id(followers[0]))
                    yield followers

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Clamps the contrastive temperature to `[temperature_min, temperature_max]` of the configuration."""
        self.albef.temperature.clamp_(self.config.temperature_min, self.config.temperature_max)

    @torch.no_grad()
    def update_momentum(self) -> None:
        """Moves every momentum weight: `momentum * old + (1 - momentum) * online`."""
        momentum_parameters, parameters = zip(*self.iterate_momentum_pairs(), strict=True)
        parameters = [value.to(own.dtype) for own, value in zip(momentum_parameters, parameters, strict=True)]
        torch._foreach_lerp_(momentum_parameters, parameters, 1 - self.config.momentum)

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
        objectives: tuple[str, ...] = OBJECTIVES,
        output_heatmap: bool = False,
        output_token_heatmap: bool = False,
        heatmap_denominator: HeatmapDenominator = "kept",
        explained_phrases: torch.Tensor | None = None,
    ) -> AlbefPreTrainingOutput:
        r"""The pre-training losses of N images and P phrases, with the heatmap of the given pairs on request.

        Args:
            pixel_values, input_ids, attention_mask, image_index, token_mask, output_heatmap, output_token_heatmap,
            heatmap_denominator: as for [`AlbefForImageTextMatching`] (the `itm` explanation).
            image_ids (`torch.Tensor` of shape `(N,)`, *optional*): identity of each image, >= 0: entries of the same
                image are positives of the contrastive loss and never hard negatives. Every image is its own without.
            mlm_input_ids, mlm_labels (`torch.Tensor` of shape `(P, T)`, *optional*): masked pieces, and the true ones
                (-100 where nothing is predicted). Drawn when absent.
            negative_image_index, negative_text_index (`torch.Tensor` of shape `(P,)`, *optional*): image row that
                phrase p does not match; phrase that the image of phrase p does not match; -1 for none. Numbers in the
                joint batch with the scope `"joint"`. The absent ones are drawn from the similarities.
            negative_uniforms (`torch.Tensor` of shape `(P, 2)`, *optional*): numbers in [0, 1) that decide those
                draws (image, text); from the global generator when absent.
            distillation_alpha (`float`, *optional*): weight of the momentum model's targets; the configuration's
                `distillation_alpha` by default.
            distillation_axis (`str`, defaults to `"vocabulary"`): see
                [`~contrastive_albef.compute_distillation_loss`].
            candidate_scope (`str`, defaults to `"local"`): where the contrastive loss and the hard negatives find
                their candidates: `"local"`, this process' batch as published; `"joint"`, the batches of all processes
                (in the order of ranks), as if one process had them all. Then every process must call `forward`, and
                `itc_loss` and `itm_loss` are such that their mean over processes is that of the joint batch.
            objectives (`tuple` of `str`): which of `"itc"`, `"itm"`, `"mlm"` to compute.
            explained_phrases (`torch.Tensor` of shape `(P,)`, bool, *optional*): the phrases whose heatmap is needed;
                those of the others are 0. Every phrase by default.
        """
        if not set(objectives) <= set(OBJECTIVES):
            raise ValueError(f"`objectives` may hold {', '.join(map(repr, OBJECTIVES))}, got {objectives}.")
        check_choice("distillation_axis", distillation_axis, DistillationAxis)
        check_choice("candidate_scope", candidate_scope, CandidateScope)
        check_choice("heatmap_denominator", heatmap_denominator, HeatmapDenominator)
        attention_mask, image_index = check_phrase_inputs(pixel_values, input_ids, attention_mask, image_index)
        alpha = self.config.distillation_alpha if distillation_alpha is None else distillation_alpha
        batch = JointBatch.gather(image_ids, len(pixel_values), image_index, candidate_scope)
        output = AlbefPreTrainingOutput(image_index=image_index)

        masked = None
        if "mlm" in objectives:
            if mlm_input_ids is None or mlm_labels is None:
                mlm_input_ids, mlm_labels = self._mask_pieces(input_ids, attention_mask)
            masked = MaskedPhrases.select(mlm_input_ids, mlm_labels, attention_mask, distillation_axis)
        phrases = [(input_ids, attention_mask)] + ([masked.pieces] if masked is not None else [])
        keep_padding = masked is not None and masked.reads_padding
        image_embeds = self.albef.vision_model(pixel_values)
        text_embeds, *masked_embeds = self.albef.text_model.encode_together(phrases, keep_padding)
        keys_values = self.albef.text_model.project_image(image_embeds)
        distilled = phrases if alpha > 0 else phrases[:1]
        momentum_image_embeds, momentum_masked_embeds = self._contrast(
            output, pixel_values, distilled, keep_padding, image_embeds, text_embeds, batch, alpha
        )
        given = PhraseRows(text_embeds, attention_mask, image_index)
        negative, received = given[:0], ()
        if "itm" in objectives:
            negatives = (negative_image_index, negative_text_index)
            if any(one is None for one in negatives):
                drawn = self._draw_negatives(output, batch, negative_uniforms)
                negatives = [own if one is None else one for one, own in zip(negatives, drawn, strict=True)]
            negative, keys_values, received = self._collect_negatives(
                batch, image_embeds, given, keys_values, *negatives
            )
        with_gaps = given[:0]
        if masked is not None:
            with_gaps = PhraseRows(masked_embeds[0], masked.attention_mask, image_index[masked.rows], keep_padding)
        explains = output_heatmap or output_token_heatmap
        fused = self._fuse(given, negative, with_gaps, keys_values, explains, explained_phrases)
        output.itm_logits = fused.itm_logits
        if explains:
            piece_mask = resolve_token_mask(token_mask, attention_mask)
            output.heatmap = average_over_pieces(fused.maps, piece_mask, heatmap_denominator)
            output.normalized_heatmap = normalize_heatmap(output.heatmap)
            output.token_heatmap = fused.maps if output_token_heatmap else None
        if "itm" in objectives:
            self._compare_pairs(output, batch, fused.negative_logits, received)
        if masked is not None:
            momentum = (momentum_image_embeds, momentum_masked_embeds)
            self._predict_masked_words(output, masked, with_gaps.image_index, fused.masked_states, *momentum, alpha)
        terms = {"itc": output.itc_loss, "itm": output.itm_loss, "mlm": output.mlm_loss}
        output.loss = sum(terms[name] for name in objectives) if objectives else None
        return output

    def _contrast(
        self,
        output: AlbefPreTrainingOutput,
        pixel_values: torch.Tensor,
        phrases: list[tuple[torch.Tensor, torch.Tensor]],
        keep_padding: bool,
        image_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        batch: JointBatch,
        alpha: float,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Contrastive part of the output; returns the momentum states of the images and, if they are among
        `phrases` (pieces and mask of each kind), of the masked phrases."""
        temperature = self.albef.temperature
        output.image_features = self.albef.project_images(image_embeds)
        output.text_features = self.albef.project_texts(text_embeds)
        with torch.no_grad():
            momentum_image_embeds = self.momentum_vision_model(pixel_values)
            momentum_text_embeds, *others = self.momentum_text_model.encode_together(phrases, keep_padding)
            image_features = nn.functional.normalize(
                at_least_float32(self.momentum_vision_projection(momentum_image_embeds[:, 0])), dim=-1
            )
            text_features = nn.functional.normalize(
                at_least_float32(self.momentum_text_projection(momentum_text_embeds[:, 0])), dim=-1
            )
            images = (batch.images.gather(image_features), self.image_queue)
            texts = (batch.phrases.gather(text_features), self.text_queue)
            image_targets = compute_contrastive_targets(
                batch.own_image_ids,
                torch.cat([batch.phrase_ids, self.text_queue_ids]),
                compare_features(image_features, *texts) / temperature,
                alpha,
            )
            text_targets = compute_contrastive_targets(
                batch.own_phrase_ids,
                torch.cat([batch.image_ids, self.image_queue_ids]),
                compare_features(text_features, *images) / temperature,
                alpha,
            )
        output.momentum_image_features, output.momentum_text_features = image_features, text_features
        output.logits_per_image = compare_features(at_least_float32(output.image_features), *texts) / temperature
        output.logits_per_text = compare_features(at_least_float32(output.text_features), *images) / temperature
        output.itc_loss = (
            soft_cross_entropy(output.logits_per_image, image_targets, batch.images)
            + soft_cross_entropy(output.logits_per_text, text_targets, batch.phrases)
        ) / 2
        return momentum_image_embeds, others[0] if others else None

    @torch.no_grad()
    def _draw_negatives(
        self, output: AlbefPreTrainingOutput, batch: JointBatch, uniforms: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hard negatives `(P,)`: an image for every phrase, and a phrase for every phrase's image; -1 for none."""
        num_images, num_phrases = len(batch.image_ids), len(batch.phrase_ids)
        if uniforms is None:
            uniforms = torch.rand(len(output.image_index), 2, device=output.image_index.device)
        over_images = compute_negative_probabilities(
            output.logits_per_text[:, :num_images], batch.own_phrase_ids, batch.image_ids
        )
        over_texts = compute_negative_probabilities(
            output.logits_per_image[:, :num_phrases], batch.own_image_ids, batch.phrase_ids
        )
        return (
            draw_negatives(over_images, uniforms[:, 0]),
            draw_negatives(over_texts[output.image_index], uniforms[:, 1]),
        )

    def _collect_negatives(
        self,
        batch: JointBatch,
        image_embeds: torch.Tensor,
        given: PhraseRows,
        keys_values: list[KeysValues],
        negative_image_index: torch.Tensor,
        negative_text_index: torch.Tensor,
    ) -> tuple[PhraseRows, list[KeysValues], tuple[torch.Tensor, torch.Tensor]]:
        """Negative pairs as far as the fusion layers; keys and values of all images that they need; and the states of
        images and phrases, those of other processes included, which every process must have in its loss."""
        has_image, has_text = negative_image_index >= 0, negative_text_index >= 0
        own_text = torch.arange(len(given), device=image_embeds.device)[has_image]
        length = largest_over_processes(given.states.shape[1], image_embeds.device, batch.phrases)
        text_embeds, attention_mask = pad_pieces(given.states, length), pad_pieces(given.attention_mask, length)
        images, image_rows = batch.images.collect(image_embeds, negative_image_index[has_image])
        texts, text_rows = batch.phrases.collect(text_embeds, negative_text_index[has_text])
        masks, _ = batch.phrases.collect(attention_mask, negative_text_index[has_text])
        if len(images) > len(image_embeds):
            others = self.albef.text_model.project_image(images[len(image_embeds) :])
            pairs = zip(keys_values, others, strict=True)
            keys_values = [(torch.cat([key, more[0]]), torch.cat([value, more[1]])) for (key, value), more in pairs]
        rows = torch.cat([own_text, text_rows])
        negative = PhraseRows(texts[rows], masks[rows], torch.cat([image_rows, given.image_index[has_text]]))
        return negative, keys_values, (images, texts)

    def _fuse(
        self,
        given: PhraseRows,
        negative: PhraseRows,
        masked: PhraseRows,
        keys_values: list[KeysValues],
        explains: bool,
        explained_phrases: torch.Tensor | None,
    ) -> FusedPhrases:
        """The fusion layers for given pairs, negative pairs and masked phrases, together where nothing divides them:
        explained phrases leave at the explanation layer, and scores need the first piece of the last layer alone."""
        last = len(self.albef.text_model.layers) - 1
        divide_at = self.config.explanation_layer if explains else last
        first = self.config.text_config.fusion_layer
        given, negative, masked = self._run_together([given, negative, masked], keys_values, first, divide_at)
        order = torch.arange(len(given), device=given.states.device)
        explained, others, logits, maps = order[:0], order, [], None
        if explains:
            if explained_phrases is not None:
                explained, others = divide_rows(explained_phrases)
            else:
                explained, others = order, order[:0]
            explained_logits, of_explained = self.explain_match(
                given[explained], keys_values, keep_graph=torch.is_grad_enabled()
            )
            logits.append(explained_logits)
            maps = of_explained.new_zeros(len(given), *of_explained.shape[1:]).index_copy(0, explained, of_explained)
        parts = [given[others], negative, masked]
        *matched, masked = self._run_together(parts, keys_values, divide_at, last)
        if sum(map(len, matched)) > 0:
            logits.append(self.score(PhraseRows.join(matched), keys_values, first=last))
        (masked,) = self._run_together([masked], keys_values, last, last + 1)
        itm_logits, negative_logits = torch.cat(logits).split([len(given), len(negative)])
        return FusedPhrases(itm_logits[torch.cat([explained, others]).argsort()], negative_logits, masked.states, maps)

    def _run_together(
        self, parts: list[PhraseRows], keys_values: list[KeysValues], first: int, last: int
    ) -> list[PhraseRows]:
        """Layers `first` to `last - 1` in one pass for phrases of several kinds."""
        joined = PhraseRows.join(parts)
        fusion = (joined.attention_mask, keys_values, joined.image_index)
        options = {"first": first, "last": last, "keep_padding": joined.keep_padding}
        return PhraseRows.split(self.albef.text_model.run_layers(joined.states, *fusion, **options), parts)

    def _compare_pairs(
        self,
        output: AlbefPreTrainingOutput,
        batch: JointBatch,
        negative_logits: torch.Tensor,
        received: tuple[torch.Tensor, ...],
    ) -> None:
        """Matching loss over the given pairs and the negative ones; `received` as [`_collect_negatives`] returns."""
        output.itm_pair_logits = torch.cat([output.itm_logits, negative_logits])
        labels = torch.full((len(output.itm_pair_logits),), ITM_MISMATCH_INDEX, device=negative_logits.device)
        labels[: len(output.itm_logits)] = ITM_MATCH_INDEX
        total = nn.functional.cross_entropy(at_least_float32(output.itm_pair_logits), labels, reduction="sum")
        output.itm_loss = total / batch.phrases.share(torch.tensor(len(labels), device=labels.device))
        if batch.phrases.is_joint:
            for rows in received:
                output.itm_loss = attach(output.itm_loss, rows)

    def _mask_pieces(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        text_config = self.config.text_config
        maskable = attention_mask.bool() & (input_ids != text_config.cls_token_id)
        return mask_pieces(
            input_ids, maskable, text_config.mask_token_id, text_config.vocab_size, self.config.mlm_probability
        )

    def _predict_masked_words(
        self,
        output: AlbefPreTrainingOutput,
        masked: MaskedPhrases,
        image_index: torch.Tensor,
        states: torch.Tensor,
        momentum_image_embeds: torch.Tensor,
        momentum_states: torch.Tensor | None,
        alpha: float,
    ) -> None:
        """Masked-word loss of R phrases with masked pieces: `states` `(R, T, hidden_size)` have passed all layers,
        `momentum_states` the text layers of the momentum model."""
        output.mlm_logits = at_least_float32(self.mlm_head(masked.read(states)))
        output.mlm_loss = (1 - alpha) * compute_masked_word_loss(output.mlm_logits, masked.labels)
        if alpha > 0:
            text_model = self.momentum_text_model
            with torch.no_grad():
                fusion = (masked.attention_mask, text_model.project_image(momentum_image_embeds), image_index)
                options = {"first": self.config.text_config.fusion_layer, "keep_padding": masked.reads_padding}
                fused = text_model.run_layers(momentum_states, *fusion, **options)
                momentum_logits = at_least_float32(self.momentum_mlm_head(masked.read(fused)))
            distillation = compute_distillation_loss(output.mlm_logits, momentum_logits, masked.labels, masked.axis)
            output.mlm_loss = output.mlm_loss + alpha * distillation

    def export_matching_model(self) -> AlbefForImageTextMatching:
        """The same weights as [`AlbefForImageTextMatching`], without momentum copies, queues and masked-word head."""
        return self.build_matching_model(self.state_dict()).to(device=self.device, dtype=self.dtype)

    def build_matching_model(self, weights: Mapping[str, torch.Tensor]) -> AlbefForImageTextMatching:
        """A matching model with weights of a state dict of this class, in this model's mode."""
        model = AlbefForImageTextMatching(self.config)
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
        return model.train(self.training)


AlbefModel.register_for_auto_class("AutoModel")
AlbefForImageTextMatching.register_for_auto_class("AutoModelForZeroShotObjectDetection")
AlbefForPreTraining.register_for_auto_class("AutoModelForPreTraining")
AlbefConfig.register_for_auto_class()

__all__ = [
    "ITM_MATCH_INDEX",
    "AlbefForImageTextMatching",
    "AlbefForPreTraining",
    "AlbefGroundingOutput",
    "AlbefModel",
    "AlbefModelOutput",
    "AlbefPreTrainingOutput",
]
