# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What learning from pairs of image and text shares: contrastive loss with queues, hard negatives, matching loss.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651), sections 3.2, 3.3 and 4.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

import torch
from torch import nn
from transformers import initialization as init

from .configuration_albef import AlbefConfig
from .encoders_albef import AlbefTextModel, AlbefVisionModel, KeysValues
from .explanation_albef import (
    ExplainedScore,
    Explanation,
    HeatmapDenominator,
    at_least_float32,
    explain_attention,
    resolve_token_mask,
)
from .layout_albef import (
    FalsePhrases,
    PhraseLayout,
    PhraseRows,
    build_layout,
    check_phrase_inputs,
    find_explained_rows,
    join_rows,
    pad_tokens,
    select_rows,
    split_rows,
)
from .matching_albef import AlbefMatchingModel
from .momentum_albef import MomentumCopies
from .outputs_albef import AlbefRetrievalOutput
from .parallel_albef import CandidateScope, JointRows, largest_over_processes
from .pretraining_losses_albef import (
    UNKNOWN_ID,
    Descriptions,
    JointBatch,
    KnownPairs,
    MaskedPhrases,
    Negatives,
    NegativeSampling,
    QueueIds,
    compare_features,
    compute_contrastive_targets,
    compute_matching_loss,
    draw_negative_pairs,
    resolve_ids,
    soft_cross_entropy,
)
from .ranges_albef import check_choice

MODALITIES = ("image", "text")
TEXT_IDS = "text_queue_text_ids"
QUEUE_IDS = ("image_queue_ids", "text_queue_ids", TEXT_IDS)


@dataclass(frozen=True)
class PairInputs:
    """N images and P phrases to learn from, checked; the fields mean what [`AlbefForPreTraining.forward`] says.

    Args:
        token_mask (`torch.Tensor` of shape `(P, T)`, *optional*): tokens whose maps are averaged; None where no
            heatmap is needed.
        layout ([`~layout_albef.PhraseLayout`]): of the phrases, for states on the device; what describes them is on
            the CPU.
        batch ([`~pretraining_losses_albef.JointBatch`]): where candidates come from.
        alpha (`float`): weight of the momentum model's targets.
        false_phrases ([`~layout_albef.FalsePhrases`], *optional*): pairs that do not match, beside those that are
            chosen in the batch.
    """

    pixel_values: torch.Tensor
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    image_index: torch.Tensor
    layout: PhraseLayout
    token_mask: torch.Tensor | None
    batch: JointBatch
    alpha: float
    negative_image_index: torch.Tensor | None
    negative_text_index: torch.Tensor | None
    negative_uniforms: torch.Tensor | None
    output_token_heatmap: bool
    heatmap_denominator: HeatmapDenominator
    negative_sampling: NegativeSampling
    false_phrases: FalsePhrases | None


class Contrast(NamedTuple):
    """Contrastive part of a step; the fields are those of [`AlbefRetrievalOutput`]."""

    itc_loss: torch.Tensor
    image_features: torch.Tensor
    text_features: torch.Tensor
    momentum_image_features: torch.Tensor
    momentum_text_features: torch.Tensor
    logits_per_image: torch.Tensor
    logits_per_text: torch.Tensor


class MaskedStates(NamedTuple):
    """States of R masked phrases for their head.

    Args:
        image_index (`torch.Tensor` of shape `(R,)`): image row of each; on the CPU.
        fused (`torch.Tensor` of shape `(R, T, hidden_size)`): after all layers.
        momentum_image_embeds (`torch.Tensor` of shape `(N, 1 + num_patches, hidden_size)`): images of the momentum
            model.
        momentum_text_embeds (`torch.Tensor` of shape `(R, T, hidden_size)`): after the text layers of the momentum
            model; without rows where nothing is distilled.
    """

    image_index: torch.Tensor
    fused: torch.Tensor
    momentum_image_embeds: torch.Tensor
    momentum_text_embeds: torch.Tensor


class FusedPhrases(NamedTuple):
    """Results of the fusion layers for P given pairs, K negative pairs and R masked phrases.

    Args:
        itm_logits (`torch.Tensor` of shape `(P, 2)`), negative_logits (`(K, 2)`): matching scores.
        masked_states (`torch.Tensor` of shape `(R, T, hidden_size)`): states of the masked phrases.
        explained_rows (`torch.Tensor` of shape `(E,)`): given pairs whose score is explained; on the CPU.
        explained ([`~explanation_albef.ExplainedScore`], *optional*): theirs; None where nothing is explained.
    """

    itm_logits: torch.Tensor
    negative_logits: torch.Tensor
    masked_states: torch.Tensor
    explained_rows: torch.Tensor
    explained: ExplainedScore | None


class AlbefContrastiveModel(MomentumCopies, AlbefMatchingModel):
    """Matching model that learns from pairs: momentum encoders, queues, contrastive loss, hard negatives.

    Each of the two queues of momentum features has the image identity of every column and a pointer to the oldest;
    that of texts has their own identities, too. A subclass adds its own modules, then calls `_build_momentum`,
    `post_init` and `_settle_momentum`, in this order.
    """

    image_queue: torch.Tensor
    text_queue: torch.Tensor
    image_queue_ids: torch.Tensor
    text_queue_ids: torch.Tensor
    text_queue_text_ids: torch.Tensor

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
        for modality in MODALITIES:
            self.register_buffer(f"{modality}_queue", torch.zeros(config.projection_dim, config.queue_size))
            ids = torch.full((config.queue_size,), UNKNOWN_ID, dtype=torch.int64)
            self.register_buffer(f"{modality}_queue_ids", ids)
            self.register_buffer(f"{modality}_queue_pointer", torch.zeros(1, dtype=torch.int64))
        self.register_buffer(TEXT_IDS, torch.full((config.queue_size,), UNKNOWN_ID, dtype=torch.int64))
        self.register_load_state_dict_pre_hook(_add_unknown_texts)

    def _settle_momentum(self) -> None:
        super()._settle_momentum()
        for modality in MODALITIES:
            setattr(self, f"{modality}_queue", at_least_float32(getattr(self, f"{modality}_queue")))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise like [`AlbefPreTrainedModel`]; queues get random unit features of no image."""
        super()._init_weights(module)
        if module is not self:
            return
        for modality in MODALITIES:
            queue = getattr(self, f"{modality}_queue")
            init.copy_(queue, nn.functional.normalize(torch.randn_like(queue), dim=0))
            init.constant_(getattr(self, f"{modality}_queue_ids"), UNKNOWN_ID)
            init.zeros_(getattr(self, f"{modality}_queue_pointer"))
        init.constant_(self.text_queue_text_ids, UNKNOWN_ID)

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Clamps the contrastive temperature to `[temperature_min, temperature_max]` of the configuration."""
        self.albef.temperature.clamp_(self.config.temperature_min, self.config.temperature_max)

    @torch.no_grad()
    def enqueue(
        self,
        image_features: torch.Tensor,
        text_features: torch.Tensor,
        image_ids: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        across_processes: bool = False,
        is_valid: torch.Tensor | None = None,
        text_ids: torch.Tensor | None = None,
    ) -> None:
        r"""Write momentum features to the queues, oldest entries first: one column per image, one per phrase.

        Args:
            image_features (`torch.Tensor` of shape `(N, projection_dim)`), text_features
                (`torch.Tensor` of shape `(P, projection_dim)`): momentum features, unit length.
            image_ids (`torch.Tensor` of shape `(N,)`, *optional*): identities; unknown (-1) without.
            image_index (`torch.Tensor` of shape `(P,)`, *optional*): image row of each phrase; needed if P != N.
            across_processes (`bool`, defaults to `False`): write the features of every process, in the order of
                ranks, so that the queues are equal everywhere. Every process must call it.
            is_valid (`torch.Tensor`, scalar bool, *optional*): if False, nothing is written. A value on the device of
                the queues is not read, so nothing waits for it.
            text_ids (`torch.Tensor` of shape `(P,)`, *optional*): identities of the texts; unknown (-1) without.
        """
        if image_ids is None:
            image_ids = torch.full((len(image_features),), UNKNOWN_ID, device=image_features.device)
        if image_index is None and len(image_features) != len(text_features):
            raise ValueError(
                f"`image_index` is needed for {len(text_features)} phrases on {len(image_features)} images: pass the "
                "image row of every phrase."
            )
        phrase_ids = image_ids if image_index is None else image_ids[image_index]
        if text_ids is None:
            text_ids = torch.full((len(text_features),), UNKNOWN_ID, device=text_features.device)
        scope: CandidateScope = "joint" if across_processes else "local"
        images = JointRows.of(len(image_features), image_features.device, scope)
        texts = JointRows.of(len(text_features), text_features.device, scope)
        image_values = {"image_queue_ids": images.gather(image_ids)}
        text_values = {"text_queue_ids": texts.gather(phrase_ids), TEXT_IDS: texts.gather(text_ids)}
        self._write_queue("image", images.gather(image_features), image_values, is_valid)
        self._write_queue("text", texts.gather(text_features), text_values, is_valid)

    def _write_queue(
        self, modality: str, features: torch.Tensor, ids: dict[str, torch.Tensor], is_valid: torch.Tensor | None
    ) -> None:
        queue, pointer = getattr(self, f"{modality}_queue"), getattr(self, f"{modality}_queue_pointer")
        size, count = queue.shape[1], len(features)
        columns = (pointer + torch.arange(count, device=queue.device)) % size
        kept = slice(max(0, count - size), None)  # of a batch larger than the queue the last ones stay
        columns, features = columns[kept], features[kept].T.to(queue.dtype)
        new_pointer = (pointer + count) % size
        values = {name: of_queue[kept] for name, of_queue in ids.items()}
        if is_valid is not None:
            features = torch.where(is_valid, features, queue[:, columns])
            new_pointer = torch.where(is_valid, new_pointer, pointer)
            values = {name: torch.where(is_valid, new, getattr(self, name)[columns]) for name, new in values.items()}
        queue[:, columns] = features
        for name, new in values.items():
            getattr(self, name)[columns] = new
        pointer.copy_(new_pointer)

    def _check_pairs(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        image_index: torch.Tensor | None,
        layout: PhraseLayout | None,
        image_ids: torch.Tensor | None,
        token_mask: torch.Tensor | None,
        negative_image_index: torch.Tensor | None,
        negative_text_index: torch.Tensor | None,
        negative_uniforms: torch.Tensor | None,
        distillation_alpha: float | None,
        candidate_scope: CandidateScope,
        output_heatmap: bool,
        output_token_heatmap: bool,
        heatmap_denominator: HeatmapDenominator,
        explained_phrases: torch.Tensor | None,
        text_ids: torch.Tensor | None,
        descriptions: Descriptions | None,
        negative_sampling: NegativeSampling,
        false_phrases: FalsePhrases | None,
    ) -> PairInputs:
        check_choice("negative_sampling", negative_sampling, get_args(NegativeSampling))
        check_choice("candidate_scope", candidate_scope, get_args(CandidateScope))
        check_choice("heatmap_denominator", heatmap_denominator, get_args(HeatmapDenominator))
        phrases = check_phrase_inputs(pixel_values, input_ids, attention_mask, image_index, layout)
        explains, described = output_heatmap or output_token_heatmap, phrases.layout
        if explained_phrases is not None:
            described = replace(described, explained_phrases=explained_phrases.cpu())
        return PairInputs(
            pixel_values,
            input_ids,
            phrases.attention_mask,
            phrases.image_index,
            described.to(pixel_values.device),
            token_mask=resolve_token_mask(token_mask, phrases.attention_mask) if explains else None,
            batch=JointBatch.gather(
                image_ids, len(pixel_values), phrases.image_index, candidate_scope, text_ids, descriptions
            ),
            alpha=self.config.distillation_alpha if distillation_alpha is None else distillation_alpha,
            negative_image_index=negative_image_index,
            negative_text_index=negative_text_index,
            negative_uniforms=negative_uniforms,
            output_token_heatmap=output_token_heatmap,
            heatmap_denominator=heatmap_denominator,
            negative_sampling=negative_sampling,
            false_phrases=false_phrases,
        )

    def _learn_from_pairs(
        self, pairs: PairInputs, masked: MaskedPhrases | None = None, compares: bool = True
    ) -> tuple[AlbefRetrievalOutput, MaskedStates]:
        """Everything but the total loss: contrastive part, with `compares` the matching loss, and the heatmap. Masked
        phrases go with the others; the states that their head reads are the second value."""
        text_model, num_phrases = self.albef.text_model, len(pairs.input_ids)
        false = pairs.false_phrases if compares else None
        input_ids, layout = _join_phrases(pairs, masked, false)
        image_embeds = self.albef.vision_model(pairs.pixel_values)
        num_false = 0 if false is None else len(false.input_ids)
        parts = [num_phrases, len(input_ids) - num_false]
        text_embeds, masked_embeds, false_embeds = text_model.encode(input_ids, layout).tensor_split(parts)
        length = pairs.input_ids.shape[1]  # that of masked phrases too; false ones may be longer
        text_embeds, masked_embeds = text_embeds[:, :length], masked_embeds[:, :length]
        keys_values = text_model.project_image(image_embeds)
        if pairs.alpha == 0:
            input_ids, layout = pairs.input_ids, pairs.layout  # nothing is distilled
        elif false is not None:
            input_ids, layout = _join_phrases(pairs, masked)
        with torch.no_grad():
            momentum_image_embeds = self.momentum_vision_model(pairs.pixel_values)
            momentum_states = self.momentum_text_model.encode(input_ids, layout)
            momentum_text_embeds, momentum_masked_embeds = momentum_states.tensor_split([num_phrases])
        contrast = self._contrast(
            pairs.batch, pairs.alpha, image_embeds, text_embeds, momentum_image_embeds, momentum_text_embeds
        )
        output = AlbefRetrievalOutput(**contrast._asdict(), image_index=pairs.image_index)

        given = PhraseRows(text_embeds, pairs.layout.attention_mask, pairs.layout.image_index)
        no_row = given.select(torch.arange(0))
        negative, received, with_gaps = no_row, (), no_row
        if compares:
            chosen = self._choose_negatives(pairs, contrast)
            output.excluded_negatives = chosen.excluded
            negative, keys_values, received = self._collect_negatives(
                pairs.batch, image_embeds, given, keys_values, chosen.image_index, chosen.text_index
            )
            if false is not None:
                negative = join_rows([negative, false.take(false_embeds)])
        if masked is not None:
            image_index = pairs.layout.image_index[masked.rows]
            with_gaps = PhraseRows(masked_embeds, masked.attention_mask, image_index, masked.reads_padding)
        fused = self._fuse(pairs, given, negative, with_gaps, keys_values)
        output.itm_logits = fused.itm_logits
        if fused.explained is not None:
            (attention_map,), (gradient,) = fused.explained.attention_maps, fused.explained.gradients
            token_mask = select_rows(pairs.token_mask, fused.explained_rows)
            grid_size = self.config.vision_config.grid_size
            maps = explain_attention(attention_map, gradient, token_mask, grid_size, pairs.heatmap_denominator)
            if pairs.layout.explained_phrases is not None:  # 0 for the others
                zeros = [values.new_zeros(num_phrases, *values.shape[1:]) for values in maps]
                rows = fused.explained_rows.to(pairs.pixel_values.device, non_blocking=True)
                maps = Explanation(*(all_.index_copy(0, rows, part) for all_, part in zip(zeros, maps, strict=True)))
            output.heatmap, output.normalized_heatmap = maps.heatmap, maps.normalized_heatmap
            output.token_heatmap = maps.token_heatmap if pairs.output_token_heatmap else None
        if compares:
            output.itm_pair_logits = torch.cat([fused.itm_logits, fused.negative_logits])
            output.itm_loss = compute_matching_loss(output.itm_pair_logits, num_phrases, pairs.batch.phrases, received)
        return output, MaskedStates(
            with_gaps.image_index, fused.masked_states, momentum_image_embeds, momentum_masked_embeds
        )

    def _contrast(
        self,
        batch: JointBatch,
        alpha: float,
        image_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        momentum_image_embeds: torch.Tensor,
        momentum_text_embeds: torch.Tensor,
    ) -> Contrast:
        temperature = self.albef.temperature
        image_features, text_features = self.albef.project_images(image_embeds), self.albef.project_texts(text_embeds)
        with torch.no_grad():
            momentum_image_features = nn.functional.normalize(
                at_least_float32(self.momentum_vision_projection(momentum_image_embeds[:, 0])), dim=-1
            )
            momentum_text_features = nn.functional.normalize(
                at_least_float32(self.momentum_text_projection(momentum_text_embeds[:, 0])), dim=-1
            )
            images = (batch.images.gather(momentum_image_features), self.image_queue)
            texts = (batch.phrases.gather(momentum_text_features), self.text_queue)
            queued_texts = resolve_ids(
                "text_queue_text_ids",
                self.text_queue_text_ids,
                len(self.text_queue_text_ids),
                self.text_queue.device,
                first=len(batch.text_ids),
            )
            queues = QueueIds(self.image_queue_ids, KnownPairs(self.text_queue_ids, queued_texts))
            image_targets = compute_contrastive_targets(
                batch.find_texts(queues),
                compare_features(momentum_image_features, *texts) / temperature,
                alpha,
            )
            text_targets = compute_contrastive_targets(
                batch.find_images(queues),
                compare_features(momentum_text_features, *images) / temperature,
                alpha,
            )
        logits_per_image = compare_features(at_least_float32(image_features), *texts) / temperature
        logits_per_text = compare_features(at_least_float32(text_features), *images) / temperature
        itc_loss = (
            soft_cross_entropy(logits_per_image, image_targets, batch.images)
            + soft_cross_entropy(logits_per_text, text_targets, batch.phrases)
        ) / 2
        return Contrast(
            itc_loss,
            image_features,
            text_features,
            momentum_image_features,
            momentum_text_features,
            logits_per_image,
            logits_per_text,
        )

    def _choose_negatives(self, pairs: PairInputs, contrast: Contrast) -> Negatives:
        """The negative pairs, as given or drawn. They decide what the fusion layers compute, so both indices are
        fetched to the CPU; nothing else in a step is."""
        image, text, excluded = pairs.negative_image_index, pairs.negative_text_index, None
        if image is None or text is None:
            drawn = self._draw_negatives(pairs, contrast)
            image, text = drawn.image_index if image is None else image, drawn.text_index if text is None else text
            excluded = drawn.excluded
        image, text = torch.stack([image, text]).cpu().unbind()
        return Negatives(image, text, excluded)

    def _draw_negatives(self, pairs: PairInputs, contrast: Contrast) -> Negatives:
        """Negative pairs by the contrastive similarities."""
        uniforms, batch = pairs.negative_uniforms, pairs.batch
        if uniforms is None:
            uniforms = torch.rand(len(pairs.image_index), 2, device=pairs.image_index.device)
        return draw_negative_pairs(
            batch,
            contrast.logits_per_text[:, : len(batch.image_ids)],
            contrast.logits_per_image[:, : len(batch.text_ids)],
            pairs.image_index,
            uniforms,
            pairs.negative_sampling,
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
        """Negative pairs before the fusion layers; keys and values of all images that they need; and the states of
        images and phrases, those of other processes included, which every process must have in its loss."""
        has_image, has_text = negative_image_index >= 0, negative_text_index >= 0
        own_text = torch.arange(len(given))[has_image]
        length = largest_over_processes(given.states.shape[1], image_embeds.device, batch.phrases)
        text_embeds, attention_mask = pad_tokens(given.states, length), pad_tokens(given.attention_mask, length)
        images, image_rows = batch.images.collect(image_embeds, negative_image_index[has_image])
        texts, text_rows = batch.phrases.collect(text_embeds, negative_text_index[has_text])
        masks = attention_mask
        if batch.phrases.is_joint:  # the processes exchange what is on their devices
            masks, _ = batch.phrases.collect(masks.to(image_embeds.device), negative_text_index[has_text])
            masks = masks.cpu()
        if len(images) > len(image_embeds):
            others = self.albef.text_model.project_image(images[len(image_embeds) :])
            pairs = zip(keys_values, others, strict=True)
            keys_values = [(torch.cat([key, more[0]]), torch.cat([value, more[1]])) for (key, value), more in pairs]
        rows = torch.cat([own_text, text_rows])
        image_index = torch.cat([image_rows, given.image_index[has_text]])
        negative = PhraseRows(select_rows(texts, rows), masks[rows], image_index)
        return negative, keys_values, (images, texts)

    def _fuse(
        self,
        pairs: PairInputs,
        given: PhraseRows,
        negative: PhraseRows,
        masked: PhraseRows,
        keys_values: list[KeysValues],
    ) -> FusedPhrases:
        """The fusion layers for given pairs, negative pairs and masked phrases, together where nothing divides them:
        explained phrases leave at the explanation layer, and scores need the first token of the last layer alone."""
        num_images, last = len(keys_values[0][0]), len(self.albef.text_model.layers) - 1
        explains, first = pairs.token_mask is not None, self.config.text_config.fusion_layer
        divide_at = self.config.explanation_layer if explains else last
        given, negative, masked = self._run_together([given, negative, masked], keys_values, first, divide_at)
        rows = torch.arange(len(given))
        explained_rows, other_rows, logits, explained = rows[:0], rows, [], None
        if explains:
            explained_rows, other_rows = rows, rows[:0]
            if pairs.layout.explained_phrases is not None:
                explained_rows, other_rows = find_explained_rows(pairs.layout.explained_phrases)
            chosen = given.select(explained_rows)
            layout = chosen.build_layout(num_images)
            explained = self.explain_match(chosen.states, layout, keys_values, first=divide_at)
            logits.append(explained.logits)
        parts = [given.select(other_rows), negative, masked]
        *matched, masked = self._run_together(parts, keys_values, divide_at, last)
        if sum(map(len, matched)) > 0:
            joined = join_rows(matched)
            logits.append(self.match(joined.states, joined.build_layout(num_images), keys_values, first=last))
        (masked,) = self._run_together([masked], keys_values, last, last + 1)
        itm_logits, negative_logits = torch.cat(logits).split([len(given), len(negative)])
        itm_logits = select_rows(itm_logits, torch.cat([explained_rows, other_rows]).argsort())
        return FusedPhrases(itm_logits, negative_logits, masked.states, explained_rows, explained)

    def _run_together(
        self, parts: list[PhraseRows], keys_values: list[KeysValues], first: int, last: int
    ) -> list[PhraseRows]:
        """Layers `first` to `last - 1` in one pass for phrases of several kinds."""
        joined = join_rows(parts)
        if first >= last or len(joined) == 0:
            return parts
        layout = joined.build_layout(len(keys_values[0][0]))
        states = self.albef.text_model.run_layers(joined.states, layout, keys_values, first=first, last=last)
        return split_rows(states, parts)


def _join_phrases(
    pairs: PairInputs, masked: MaskedPhrases | None, false: FalsePhrases | None = None
) -> tuple[torch.Tensor, PhraseLayout]:
    """Tokens of given phrases, then of masked and of false ones, for the text encoder; and their layout."""
    if masked is None and false is None:
        return pairs.input_ids, pairs.layout
    parts = [(pairs.input_ids, pairs.layout.attention_mask)]
    if masked is not None:
        parts.append((masked.input_ids, masked.attention_mask))
    if false is not None:
        parts.append((false.input_ids, false.layout.attention_mask))
    length = max(ids.shape[1] for ids, _ in parts)
    input_ids, attention_mask = (
        torch.cat([pad_tokens(of_part, length) for of_part in of_all]) for of_all in zip(*parts, strict=True)
    )
    layout = build_layout(attention_mask, None, len(input_ids), masked is not None and masked.reads_padding)
    return input_ids, layout.to(input_ids.device)


def _add_unknown_texts(module: nn.Module, state_dict: dict[str, torch.Tensor], prefix: str, *_: Any) -> None:
    """States of earlier releases have queues without identities of texts."""
    state_dict.setdefault(f"{prefix}{TEXT_IDS}", torch.full_like(module.get_buffer(TEXT_IDS), UNKNOWN_ID))


__all__ = ["QUEUE_IDS", "TEXT_IDS", "AlbefContrastiveModel", "MaskedStates"]
