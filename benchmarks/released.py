# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The released code's way of working on this package's layers and weights: what the benchmarks compare with.

Its habits that cost time, from reading it: every phrase has its image encoded again, in evaluation and in training;
every fusion pass projects the keys and values of its images again; evaluation differentiates the score with respect
to every parameter; the vocabulary projection runs on every token, padding included; attention probabilities are
stored in every layer; weights are averaged and updated in a loop over tensors. Each habit can be switched off, to see
what it costs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from albef_amc import ITM_MATCH_INDEX, AlbefForPreTraining, AlbefPreTrainingOutput
from albef_amc.explanation_albef import Explanation, differentiate_score, explain_attention
from albef_amc.layout_albef import PhraseLayout, build_layout
from albef_amc.pretraining_losses_albef import (
    IGNORED_LABEL,
    JointBatch,
    compute_distillation_loss,
    compute_masked_word_loss,
)

EVALUATION_BATCH = 8  # pairs, as released
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Habits:
    """The released code's habits; all of them by default."""

    image_per_phrase: bool = True
    keys_per_pass: bool = True
    all_parameters: bool = True
    all_vocabulary: bool = True
    eager_attention: bool = True
    loops_over_tensors: bool = True


RELEASED = Habits()


@contextmanager
def using_attention(model: torch.nn.Module, eager: bool) -> Iterator[None]:
    """The attention that stores its probabilities in every layer, for the time of the context."""
    if eager:
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation("sdpa")


def ground_released_way(model: Any, inputs: Batch, habits: Habits = RELEASED) -> torch.Tensor:
    """Heatmaps `(P, G_h, G_w)` in batches of [`EVALUATION_BATCH`] pairs."""
    text_model, pixel_values = model.albef.text_model, inputs["pixel_values"]
    with using_attention(model, habits.eager_attention), torch.set_grad_enabled(habits.all_parameters):
        image_embeds = None if habits.image_per_phrase else model.albef.vision_model(pixel_values)
        keys_values = None if habits.keys_per_pass else text_model.project_image(image_embeds)
        heatmaps = []
        for rows in torch.arange(len(inputs["input_ids"])).split(EVALUATION_BATCH):
            images, keys = inputs["image_index"][rows], keys_values
            if keys is None:
                own = model.albef.vision_model(pixel_values[images]) if image_embeds is None else image_embeds[images]
                keys, images = text_model.project_image(own), None
            mask = inputs["attention_mask"][rows]
            layout = build_layout(mask, images, len(keys[0][0]), keep_padding=True)
            states = text_model.encode(inputs["input_ids"][rows], layout)
            keep_graph = None if habits.all_parameters else False
            heatmaps.append(explain_padded(model, states, layout, keys, keep_graph)[1].heatmap)
    model.zero_grad()
    return torch.cat(heatmaps)


def explain_padded(
    model: Any, states: torch.Tensor, layout: PhraseLayout, keys_values: Any, keep_graph: bool | None
) -> tuple[torch.Tensor, Explanation]:
    """Scores `(P, 2)` and heatmaps, padding computed as well. With `keep_graph` None the gradient goes into every
    parameter, and the map's is read on its way."""
    text_model, explained = model.albef.text_model, model.config.explanation_layer
    first = model.config.text_config.fusion_layer
    states = text_model.run_layers(states, layout, keys_values, first=first, last=explained)
    with torch.enable_grad():
        states, attention = text_model.run_explained_layer(explained, states, layout, keys_values)
        fused = text_model.run_layers(states, layout, keys_values, first=explained + 1, use_eager=True)
        logits = model.itm_head(fused[:, 0])
        score = logits[:, ITM_MATCH_INDEX]
        if keep_graph is not None:
            (gradient,) = differentiate_score(score, [attention], keep_graph)
        else:
            attention.retain_grad()
            score.sum().backward()
            gradient = attention.grad
    if not keep_graph:
        attention = attention.detach()
    return logits, explain_attention(attention, gradient, layout.attention_mask, model.config.vision_config.grid_size)


class ReleasedTraining:
    """A training step the released code's way.

    Args:
        model ([`AlbefForPreTraining`]): the model; its weights are trained.
        inputs (`dict`): inputs of its `forward`, with masked words and negatives of another image for every phrase,
            `region_mask` and `has_region`.
        objective (callable, *optional*): the objective on heatmaps.
        habits ([`Habits`]): what it does that costs time.
    """

    def __init__(self, model: AlbefForPreTraining, inputs: Batch, objective: Any = None, habits: Habits = RELEASED):
        self.model, self.inputs, self.objective, self.habits = model, inputs, objective, habits
        self.alpha = model.config.distillation_alpha
        self.text_model = model.albef.text_model
        self.ids, self.mask = inputs["input_ids"], inputs["attention_mask"]
        self.pixel_values, self.image_ids = inputs["pixel_values"], inputs["image_ids"]
        self.images, self.negative_images = inputs["image_index"], inputs["negative_image_index"]
        if habits.image_per_phrase:
            phrases = [(self.images == image).nonzero()[0, 0] for image in range(len(self.pixel_values))]
            self.negative_images = torch.stack(phrases)[self.negative_images]
            self.pixel_values, self.image_ids = self.pixel_values[self.images], self.image_ids[self.images]
            self.images = torch.arange(len(self.images))

    def compute_loss(self) -> tuple[torch.Tensor, AlbefPreTrainingOutput]:
        """ITC + ITM + MLM and the objective on the heatmaps of the given pairs, with what they were computed from."""
        with using_attention(self.model, self.habits.eager_attention):
            image_embeds = self.model.albef.vision_model(self.pixel_values)
            layout = build_layout(self.mask, self.images, len(self.pixel_values), keep_padding=True)
            text_embeds = self.text_model.encode(self.ids, layout)
            batch = JointBatch.gather(self.image_ids, len(self.pixel_values), self.images, "local")
            with torch.no_grad():
                momentum_image_embeds = self.model.momentum_vision_model(self.pixel_values)
                momentum_text_embeds = self.model.momentum_text_model.encode(self.ids, layout)
            contrast = self.model._contrast(
                batch, self.alpha, image_embeds, text_embeds, momentum_image_embeds, momentum_text_embeds
            )
            output = AlbefPreTrainingOutput(**contrast._asdict())
            shared = None if self.habits.keys_per_pass else self.text_model.project_image(image_embeds)
            self._match_given_pairs(output, text_embeds, *self._keys(image_embeds, self.images, shared))
            self._match_negatives(output, text_embeds, image_embeds, shared)
            self._predict_words(output, image_embeds, momentum_image_embeds, shared)
        loss = output.itc_loss + output.itm_loss + output.mlm_loss
        if self.objective is not None:
            regions = (self.inputs["region_mask"], self.inputs["has_region"])
            loss = loss + self.objective(output.normalized_heatmap, *regions)["amc_loss"]
        return loss, output

    def _keys(self, image_embeds: torch.Tensor, images: torch.Tensor, shared: Any) -> tuple[Any, torch.Tensor | None]:
        """Keys and values for a pass whose rows have these images, and the row of each."""
        return (self.text_model.project_image(image_embeds[images]), None) if shared is None else (shared, images)

    def _fuse(self, states: torch.Tensor, mask: torch.Tensor, keys_values: Any, images: Any) -> torch.Tensor:
        first = self.model.config.text_config.fusion_layer
        layout = build_layout(mask, images, len(keys_values[0][0]), keep_padding=True)
        return self.text_model.run_layers(states, layout, keys_values, first=first)

    def _match_given_pairs(self, output: Any, states: torch.Tensor, keys_values: Any, images: Any) -> None:
        if self.objective is None:
            output.itm_logits = self.model.itm_head(self._fuse(states, self.mask, keys_values, images)[:, 0])
            return
        layout = build_layout(self.mask, images, len(keys_values[0][0]), keep_padding=True)
        output.itm_logits, explanation = explain_padded(self.model, states, layout, keys_values, keep_graph=True)
        output.heatmap, output.normalized_heatmap = explanation.heatmap, explanation.normalized_heatmap

    def _match_negatives(
        self, output: Any, text_embeds: torch.Tensor, image_embeds: torch.Tensor, shared: Any
    ) -> None:
        others = self.inputs["negative_text_index"]
        states, mask = torch.cat([text_embeds, text_embeds[others]]), torch.cat([self.mask, self.mask[others]])
        keys = self._keys(image_embeds, torch.cat([self.negative_images, self.images]), shared)
        negative_logits = self.model.itm_head(self._fuse(states, mask, *keys)[:, 0])
        output.itm_pair_logits = torch.cat([output.itm_logits, negative_logits])
        labels = torch.zeros(len(output.itm_pair_logits), dtype=torch.int64)
        labels[: len(self.ids)] = ITM_MATCH_INDEX
        output.itm_loss = torch.nn.functional.cross_entropy(output.itm_pair_logits, labels)

    def _predict_words(self, output: Any, image_embeds: Any, momentum_image_embeds: Any, shared: Any) -> None:
        ids, labels = self.inputs["mlm_input_ids"], self.inputs["mlm_labels"]
        read = labels != IGNORED_LABEL
        if self.habits.all_vocabulary:
            read = torch.ones_like(read)
        layout = build_layout(self.mask, self.images, len(self.pixel_values), keep_padding=True)
        states = self.text_model.encode(ids, layout)
        states = self._fuse(states, self.mask, *self._keys(image_embeds, self.images, shared))
        output.mlm_logits = self.model.mlm_head(states[read])
        with torch.no_grad():
            text_model, first = self.model.momentum_text_model, self.model.config.text_config.fusion_layer
            states = text_model.encode(ids, layout)
            keys_values = text_model.project_image(momentum_image_embeds)
            states = text_model.run_layers(states, layout, keys_values, first=first)
            momentum_logits = self.model.momentum_mlm_head(states[read])
        hard = compute_masked_word_loss(output.mlm_logits, labels[read])
        soft = compute_distillation_loss(output.mlm_logits, momentum_logits, labels[read], "vocabulary")
        output.mlm_loss = (1 - self.alpha) * hard + self.alpha * soft

    @torch.no_grad()
    def update_momentum(self) -> None:
        """The momentum weights, tensor by tensor."""
        if not self.habits.loops_over_tensors:
            self.model.update_momentum()
            return
        share = self.model.config.momentum
        for follower, weight in self.model.iterate_momentum_pairs():
            follower.data = follower.data * share + weight.data * (1.0 - share)

    def build_optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        """AdamW over all weights, tensor by tensor."""
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        loops = self.habits.loops_over_tensors
        return torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.02, foreach=False, fused=not loops)
