# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What learning from pairs of image and text shares: contrastive loss with queues, hard negatives, matching loss.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651), sections 3.2 and 3.3.
"""

from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import nn

from .configuration_albef import ITM_MATCH_INDEX, AlbefConfig
from .contrastive_albef import (
    JointBatch,
    MaskedPhrases,
    compare_features,
    compute_contrastive_targets,
    compute_negative_probabilities,
    draw_negatives,
    soft_cross_entropy,
)
from .encoders_albef import AlbefTextModel, AlbefVisionModel, KeysValues
from .explanation_albef import (
    HeatmapDenominator,
    at_least_float32,
    average_over_pieces,
    normalize_heatmap,
    resolve_token_mask,
)
from .grouping_albef import PhraseRows, divide_rows
from .inputs_albef import check_phrase_inputs
from .matching_albef import AlbefMatchingModel
from .momentum_albef import MomentumCopies
from .outputs_albef import AlbefRetrievalOutput
from .parallel_albef import CandidateScope, attach, largest_over_processes, pad_pieces
from .queues_albef import FeatureQueues
from .ranges_albef import check_choice

ITM_MISMATCH_INDEX = 0


@dataclass(frozen=True)
class PairInputs:
    """N images and P phrases to learn from, checked; what a field means is said at [`AlbefForPreTraining.forward`].

    Args:
        piece_mask (`torch.Tensor` of shape `(P, T)`, *optional*): pieces whose maps are averaged; None where no
            heatmap is needed.
        batch ([`~contrastive_albef.JointBatch`]): where candidates come from.
        alpha (`float`): weight of the momentum model's targets.
        negatives (`tuple`): `negative_image_index`, `negative_text_index` and `negative_uniforms`, each may be None.
    """

    pixel_values: torch.Tensor
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    image_index: torch.Tensor
    piece_mask: torch.Tensor | None
    batch: JointBatch
    alpha: float
    negatives: tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]
    output_token_heatmap: bool
    heatmap_denominator: HeatmapDenominator
    explained_phrases: torch.Tensor | None


@dataclass(frozen=True)
class MaskedStates:
    """States of R masked phrases for their head.

    Args:
        image_index (`torch.Tensor` of shape `(R,)`): image row of each.
        fused (`torch.Tensor` of shape `(R, T, hidden_size)`): after all layers.
        momentum_image_embeds (`torch.Tensor` of shape `(N, 1 + num_patches, hidden_size)`): images of the momentum
            model.
        momentum_text_embeds (`torch.Tensor` of shape `(R, T, hidden_size)`, *optional*): after the text layers of the
            momentum model; None where nothing is distilled.
    """

    image_index: torch.Tensor
    fused: torch.Tensor
    momentum_image_embeds: torch.Tensor
    momentum_text_embeds: torch.Tensor | None


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


class AlbefContrastiveModel(FeatureQueues, MomentumCopies, AlbefMatchingModel):
    """Matching model that learns from pairs: momentum encoders, queues, contrastive loss, hard negatives.

    A subclass adds its own modules, then calls `_build_momentum`, `post_init` and `_settle_momentum`, in this order.
    """

    _keys_to_ignore_on_load_missing = [r"^momentum_", r"_queue"]  # made from the online weights, or empty
    _keep_in_fp32_modules_strict = ["momentum_*", "image_queue", "text_queue"]
    _momentum_of = {
        "momentum_vision_model": "albef.vision_model",
        "momentum_text_model": "albef.text_model",
        "momentum_vision_projection": "albef.vision_projection",
        "momentum_text_projection": "albef.text_projection",
    }

    def _build_momentum(self, config: AlbefConfig) -> None:
        text_config, vision_config = config.text_config, config.vision_config
        self.momentum_vision_model = AlbefVisionModel(vision_config)
        self.momentum_text_model = AlbefTextModel(text_config)
        self.momentum_vision_projection = nn.Linear(vision_config.hidden_size, config.projection_dim)
        self.momentum_text_projection = nn.Linear(text_config.hidden_size, config.projection_dim)
        self._build_queues(config.projection_dim, config.queue_size)

    def _settle_momentum(self) -> None:
        super()._settle_momentum()
        self._keep_queues_precise()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            self._reset_queues()

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Clamps the contrastive temperature to `[temperature_min, temperature_max]` of the configuration."""
        self.albef.temperature.clamp_(self.config.temperature_min, self.config.temperature_max)

    def _check_pairs(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        image_index: torch.Tensor | None,
        image_ids: torch.Tensor | None,
        token_mask: torch.Tensor | None,
        negatives: tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None],
        distillation_alpha: float | None,
        candidate_scope: CandidateScope,
        output_heatmap: bool,
        **explanation: Any,
    ) -> PairInputs:
        check_choice("candidate_scope", candidate_scope, get_args(CandidateScope))
        check_choice("heatmap_denominator", explanation["heatmap_denominator"], get_args(HeatmapDenominator))
        attention_mask, image_index = check_phrase_inputs(pixel_values, input_ids, attention_mask, image_index)
        explains = output_heatmap or explanation["output_token_heatmap"]
        return PairInputs(
            pixel_values,
            input_ids,
            attention_mask,
            image_index,
            piece_mask=resolve_token_mask(token_mask, attention_mask) if explains else None,
            batch=JointBatch.gather(image_ids, len(pixel_values), image_index, candidate_scope),
            alpha=self.config.distillation_alpha if distillation_alpha is None else distillation_alpha,
            negatives=negatives,
            **explanation,
        )

    def _learn_from_pairs(
        self,
        output: AlbefRetrievalOutput,
        pairs: PairInputs,
        masked: MaskedPhrases | None = None,
        compares: bool = True,
    ) -> MaskedStates:
        """Puts everything but the total loss into `output`: contrastive part, with `compares` the matching loss, and
        the heatmap. Masked phrases go with the others; what their head needs is returned."""
        phrases = [(pairs.input_ids, pairs.attention_mask)] + ([masked.pieces] if masked is not None else [])
        keep_padding = masked is not None and masked.reads_padding
        text_model = self.albef.text_model
        image_embeds = self.albef.vision_model(pairs.pixel_values)
        text_embeds, *masked_embeds = text_model.encode_together(phrases, keep_padding)
        keys_values = text_model.project_image(image_embeds)
        distilled = phrases if pairs.alpha > 0 else phrases[:1]
        momentum = self._contrast(
            output, pairs.pixel_values, distilled, keep_padding, image_embeds, text_embeds, pairs.batch, pairs.alpha
        )
        given = PhraseRows(text_embeds, pairs.attention_mask, pairs.image_index)
        negative, received = given[:0], ()
        if compares:
            negative, keys_values, received = self._collect_negatives(
                pairs.batch, image_embeds, given, keys_values, *self._choose_negatives(output, pairs)
            )
        with_gaps = given[:0]
        if masked is not None:
            image_index = pairs.image_index[masked.rows]
            with_gaps = PhraseRows(masked_embeds[0], masked.attention_mask, image_index, keep_padding)
        explains = pairs.piece_mask is not None
        fused = self._fuse(given, negative, with_gaps, keys_values, explains, pairs.explained_phrases)
        output.itm_logits = fused.itm_logits
        if explains:
            output.heatmap = average_over_pieces(fused.maps, pairs.piece_mask, pairs.heatmap_denominator)
            output.normalized_heatmap = normalize_heatmap(output.heatmap)
            output.token_heatmap = fused.maps if pairs.output_token_heatmap else None
        if compares:
            self._compare_pairs(output, pairs.batch, fused.negative_logits, received)
        return MaskedStates(with_gaps.image_index, fused.masked_states, *momentum)

    def _contrast(
        self,
        output: AlbefRetrievalOutput,
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

    def _choose_negatives(self, output: AlbefRetrievalOutput, pairs: PairInputs) -> list[torch.Tensor]:
        """Images and phrases `(P,)` of the negative pairs: the given ones, or drawn."""
        *given, uniforms = pairs.negatives
        if any(one is None for one in given):
            drawn = self._draw_negatives(output, pairs.batch, uniforms)
            given = [own if one is None else one for one, own in zip(given, drawn, strict=True)]
        return given

    @torch.no_grad()
    def _draw_negatives(
        self, output: AlbefRetrievalOutput, batch: JointBatch, uniforms: torch.Tensor | None
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
        output: AlbefRetrievalOutput,
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


__all__ = ["AlbefContrastiveModel"]
