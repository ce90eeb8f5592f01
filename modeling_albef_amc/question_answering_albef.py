# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""ALBEF that answers questions about images: chooses from a list, writes freely, and shows where it looked.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651), section 5.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn
from transformers import AutoModelForVisualQuestionAnswering
from transformers.utils import can_return_tuple

from .base_albef import AlbefTaskModel
from .configuration_albef import AlbefConfig, AlbefTextConfig
from .decoder_albef import AlbefTextDecoder, build_decoder_config
from .encoders_albef import AlbefTextModel, AlbefVisionModel, KeysValues
from .explanation_albef import (
    Explanation,
    evaluation_mode,
    explain_attention,
    outside_inference_mode,
)
from .layout_albef import (
    PhraseInputs,
    PhraseLayout,
    build_layout,
    check_phrase_inputs,
    chunk_by_length,
    resolve_mask,
)
from .messages_albef import list_first
from .momentum_albef import MomentumCopies
from .outputs_albef import AlbefQuestionAnsweringOutput, RankedAnswers
from .pretraining_losses_albef import IGNORED_LABEL
from .ranges_albef import check_choice
from .warm_start_albef import KEY_AND_VALUE, copy_to_decoder

FirstToken = Literal["once", "twice"]

PUBLISHED_SHORTLIST = 128
SHORTEST_ANSWER = 3  # [CLS], a word and [SEP]
SHORTEST_QUESTION = 2  # [CLS] and a word


@dataclass(frozen=True)
class AnswerRows:
    """A answers to P questions.

    Args:
        ids, mask (`torch.Tensor` of shape `(A, L)`): tokens [CLS] answer [SEP], and 1 for real ones.
        question_index (`torch.Tensor` of shape `(A,)`): question of each.
        weights (`torch.Tensor` of shape `(A,)`): share in the loss.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    question_index: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def check(
        cls,
        config: AlbefTextConfig,
        num_questions: int,
        ids: torch.Tensor,
        mask: torch.Tensor | None,
        question_index: torch.Tensor | None,
        weights: torch.Tensor | None,
    ) -> "AnswerRows":
        """Fills in what is optional; raises `ValueError` naming the argument of
        [`AlbefForQuestionAnswering.forward`] that does not fit."""
        mask = check_answers("answer", ids, mask, config)
        if question_index is None:
            if len(ids) != num_questions:
                raise ValueError(
                    f"`answer_index` is needed for {len(ids)} answers to {num_questions} questions: pass the row of "
                    "the question of every answer."
                )
            question_index = torch.arange(num_questions, device=ids.device)
        elif question_index.shape != (len(ids),) or question_index.min() < 0 or question_index.max() >= num_questions:
            raise ValueError(
                f"`answer_index` must hold {len(ids)} rows of questions between 0 and {num_questions - 1}, got "
                f"{question_index.tolist()}."
            )
        if weights is None:
            weights = torch.ones(len(ids), device=ids.device)
        elif weights.shape != (len(ids),):
            raise ValueError(
                f"`answer_weights` has shape {tuple(weights.shape)} but there are {len(ids)} answers: pass one weight "
                "per answer."
            )
        return cls(ids, mask, question_index, weights)


class AlbefForQuestionAnswering(MomentumCopies, AlbefTaskModel):
    r"""ALBEF for visual question answering: image and question are fused, a decoder scores or writes the answer.

    [`rank_answers`] chooses from a list of answers, [`generate`] writes one freely. `forward` gives the loss of known
    answers and, with `output_heatmap=True`, the Grad-CAM heatmap of their log-probability.

    A training step calls [`update_momentum`], then `forward` and backward.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc import AlbefConfig, AlbefForQuestionAnswering
    >>> small = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    >>> config = AlbefConfig(
    ...     vision_config=dict(small, image_size=32, patch_size=16), decoder_layers=1,
    ...     text_config=dict(small, fusion_layer=1, vocab_size=50, cls_token_id=2, sep_token_id=3),
    ...     explanation_layer=1, explanation_block=1)
    >>> model = AlbefForQuestionAnswering(config)
    >>> photo, question = torch.zeros(1, 3, 32, 32), torch.tensor([[2, 7, 9]])
    >>> outputs = model(photo, question, answer_ids=torch.tensor([[2, 8, 3]]), output_heatmap=True)
    >>> outputs.answer_losses.shape, outputs.heatmap.shape
    (torch.Size([1]), torch.Size([1, 2, 2]))
    >>> ranking = model.rank_answers(photo, question, candidate_ids=torch.tensor([[2, 8, 3], [2, 9, 3]]))
    >>> sorted(ranking.candidate_index[0].tolist())
    [0, 1]

    ```
    """

    task = "question answering"
    auto_class = AutoModelForVisualQuestionAnswering
    new_weights = ("answer_decoder.lm_head.", "answer_decoder.layers.")  # layers: where widths differ
    reported_settings = ("decoder_layers",)
    original_kinds = {"ALBEF visual question answering": ("text_decoder.",)}
    original_names = (
        (r"^text_decoder\.cls\.predictions\.", "answer_decoder.lm_head."),
        (r"^text_decoder\.(?:bert\.)?", "answer_decoder."),
    )
    _supports_flash_attn = False  # as its decoder
    _tied_weights_keys = {
        "answer_decoder.lm_head.decoder.weight": "answer_decoder.word_embeddings.weight",
        "momentum_answer_decoder.lm_head.decoder.weight": "momentum_answer_decoder.word_embeddings.weight",
    }
    _momentum_of = {
        "momentum_vision_model": "albef.vision_model",
        "momentum_text_model": "albef.text_model",
        "momentum_answer_decoder": "answer_decoder",
    }

    def __init__(self, config: AlbefConfig):
        super().__init__(config)
        if config.text_config.cls_token_id is None or config.text_config.sep_token_id is None:
            raise ValueError(
                "`text_config.cls_token_id` and `text_config.sep_token_id` must be set: an answer is written from one "
                "to the other."
            )
        decoder_config = build_decoder_config(config)
        self.answer_decoder = AlbefTextDecoder(decoder_config)
        self.momentum_vision_model = AlbefVisionModel(config.vision_config)
        self.momentum_text_model = AlbefTextModel(config.text_config)
        self.momentum_answer_decoder = AlbefTextDecoder(decoder_config)
        self.post_init()
        self._settle_momentum()

    @classmethod
    def fit_config(cls, config: AlbefConfig, stored: AlbefConfig, path: str, chosen: Collection[str]) -> None:
        """Use as many decoder layers as there are fusion layers to copy, unless fewer are requested."""
        num_fusion_layers = stored.text_config.num_hidden_layers - stored.text_config.fusion_layer
        is_chosen = "decoder_layers" in chosen or config.decoder_layers != stored.decoder_layers
        if is_chosen and config.decoder_layers > num_fusion_layers:
            raise ValueError(
                f"`decoder_layers` is {config.decoder_layers}, but {path} has {num_fusion_layers} fusion layers to "
                f"copy to the answer decoder. Choose {num_fusion_layers} or fewer."
            )
        config.decoder_layers = min(config.decoder_layers, num_fusion_layers)

    @classmethod
    def adapt_weights(
        cls, weights: dict[str, torch.Tensor], stored: AlbefConfig, config: AlbefConfig
    ) -> tuple[dict[str, torch.Tensor], list[str]]:
        """Copies text layers to the answer decoder, whose layers read questions as fusion layers read images."""
        first = stored.text_config.fusion_layer
        copies = copy_to_decoder(weights, first, config.decoder_layers)
        last = first + config.decoder_layers - 1
        steps = [f"text layers {first} to {last} and embeddings copied to the answer decoder"]
        if any(name.startswith("mlm_head.") for name in weights):
            steps.append("masked-word head copied to the answer decoder")
        if stored.vision_config.hidden_size != stored.text_config.hidden_size:  # cross-attention reads texts instead
            copies = {name: copy for name, copy in copies.items() if not any(part in name for part in KEY_AND_VALUE)}
        return weights | copies, steps

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Resize like [`AlbefPreTrainedModel`], also the separate word embeddings of the answer decoder."""
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        self.answer_decoder.resize_token_embeddings(embeddings.num_embeddings, mean_resizing=mean_resizing)
        self._fit_copies()
        return embeddings

    @can_return_tuple
    @outside_inference_mode
    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        answer_ids: torch.Tensor | None = None,
        answer_mask: torch.Tensor | None = None,
        answer_index: torch.Tensor | None = None,
        answer_weights: torch.Tensor | None = None,
        distillation_alpha: float | None = None,
        original_sizes: torch.Tensor | None = None,
        output_heatmap: bool = False,
        output_token_heatmap: bool = False,
        layout: PhraseLayout | None = None,
    ) -> AlbefQuestionAnsweringOutput:
        r"""Reads P questions about N images, and scores A answers to them; every image is encoded once.

        Args:
            pixel_values (`torch.Tensor` of shape `(N, 3, image_height, image_width)`): normalised images.
            input_ids, attention_mask (`torch.Tensor` of shape `(P, T)`): tokens of questions, and 1 for real ones.
            image_index (`torch.Tensor` of shape `(P,)`, *optional*): image row of each question; not needed if P = N.
            answer_ids, answer_mask (`torch.Tensor` of shape `(A, L)`, *optional*): tokens [CLS] answer [SEP], and 1
                for real ones. Without answers there is no loss.
            answer_index (`torch.Tensor` of shape `(A,)`, *optional*): question of each answer; not needed if A = P.
            answer_weights (`torch.Tensor` of shape `(A,)`, *optional*): weight of each answer in the loss, such as the
                share of people who gave it; 1 by default.
            distillation_alpha (`float`, *optional*): weight of the momentum model's targets; the configuration's
                `distillation_alpha` by default.
            original_sizes (`torch.Tensor` of shape `(N, 2)`, *optional*): passed through to the output.
            output_heatmap, output_token_heatmap (`bool`): compute the explanation of the log-probability of every
                answer at the cross-attention of `explanation_layer`: per answer, and per token of its question.
            layout ([`~layout_albef.PhraseLayout`], *optional*): what the processor computed of `attention_mask` and
                `image_index`; built here where it is missing.
        """
        questions = _check_questions(pixel_values, input_ids, attention_mask, image_index, layout)
        layout = questions.layout
        output = AlbefQuestionAnsweringOutput(image_index=questions.image_index, original_sizes=original_sizes)
        answers, explains = None, output_heatmap or output_token_heatmap
        if answer_ids is not None:
            text_config = self.config.text_config
            answers = AnswerRows.check(
                text_config, len(input_ids), answer_ids, answer_mask, answer_index, answer_weights
            )
            output.answer_index = answers.question_index
        elif explains:
            raise ValueError("a heatmap explains the score of an answer: pass `answer_ids`.")

        text_model, explained = self.albef.text_model, self.config.explanation_layer
        keys_values = text_model.project_image(self.albef.vision_model(pixel_values))
        first = self.config.text_config.fusion_layer
        states = text_model.encode(input_ids, layout)
        states = text_model.run_layers(states, layout, keys_values, first=first, last=explained)
        output.question_states = text_model.run_layers(states, layout, keys_values, first=explained)
        if answers is None:
            return output
        if explains:
            output.answer_logits, output.answer_losses, explanation = self._explain_answers(
                states, questions, keys_values, answers
            )
            output.heatmap, output.normalized_heatmap = explanation.heatmap, explanation.normalized_heatmap
            output.token_heatmap = explanation.token_heatmap if output_token_heatmap else None
        else:
            output.answer_logits = self.answer_decoder(
                answers.ids, answers.mask, output.question_states, questions.attention_mask, answers.question_index
            ).logits
            output.answer_losses = compute_answer_losses(output.answer_logits, answers.ids, answers.mask)
        alpha = self.config.distillation_alpha if distillation_alpha is None else distillation_alpha
        losses = output.answer_losses
        if alpha > 0:
            momentum_logits = self._compute_momentum_logits(pixel_values, input_ids, questions, answers)
            distillation = compute_answer_distillation(output.answer_logits, momentum_logits, answers.mask)
            losses = (1 - alpha) * losses + alpha * distillation
        output.loss = (answers.weights * losses).sum() / len(input_ids)
        return output

    @torch.no_grad()
    def _compute_momentum_logits(
        self, pixel_values: torch.Tensor, input_ids: torch.Tensor, questions: PhraseInputs, answers: AnswerRows
    ) -> torch.Tensor:
        """Scores of the answers' tokens `(A, L, vocab_size)` of the momentum copies."""
        vision_model, text_model = self.momentum_vision_model, self.momentum_text_model
        states = _read_questions(vision_model, text_model, pixel_values, input_ids, questions.layout)
        return self.momentum_answer_decoder(
            answers.ids, answers.mask, states, questions.attention_mask, answers.question_index
        ).logits

    def _explain_answers(
        self, states: torch.Tensor, questions: PhraseInputs, keys_values: list[KeysValues], answers: AnswerRows
    ) -> tuple[torch.Tensor, torch.Tensor, Explanation]:
        """Scores of the answers' tokens, losses `(A,)` of the answers and heatmaps of their log-probabilities.

        From the explanation layer on every answer has a copy of its question (`states` are those before it), hence a
        gradient of its own.
        """
        attention_mask = questions.attention_mask[answers.question_index]
        image_index = questions.image_index[answers.question_index]
        layout = build_layout(attention_mask, image_index, questions.layout.num_images, keep_padding=True)

        def read_answers(fused: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = self.answer_decoder(answers.ids, answers.mask, fused, attention_mask, use_eager=True).logits
            return logits, -compute_answer_losses(logits, answers.ids, answers.mask)

        layers = range(self.config.explanation_layer, self.config.explanation_layer + 1)
        explained = self.albef.text_model.explain_score(
            states.index_select(0, answers.question_index),
            layout,
            keys_values,
            layers,
            read_answers,
            first_token_only=False,
        )
        (attention_map,), (gradient,) = explained.attention_maps, explained.gradients
        explanation = explain_attention(attention_map, gradient, attention_mask, self.config.vision_config.grid_size)
        token_heatmap = explanation.token_heatmap * attention_mask[..., None, None]
        return explained.logits, -explained.score, explanation._replace(token_heatmap=token_heatmap)

    def rank_answers(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        candidate_ids: torch.Tensor | None = None,
        candidate_mask: torch.Tensor | None = None,
        k: int = PUBLISHED_SHORTLIST,
        first_token: FirstToken = "once",
        image_index: torch.Tensor | None = None,
        original_sizes: torch.Tensor | None = None,
        answers_per_chunk: int = 256,
        layout: PhraseLayout | None = None,
    ) -> RankedAnswers:
        r"""Chooses from a list of C answers: the k with the most probable first token are scored completely.

        The k probabilities are a softmax over the sums of log-probabilities, so they depend on k.

        Args:
            pixel_values, input_ids, attention_mask, image_index, layout: as for `forward`.
            candidate_ids, candidate_mask (`torch.Tensor` of shape `(C, L)`): tokens [CLS] answer [SEP], and 1 for real
                ones; see [`AlbefProcessor.encode_candidates`]. None may be there twice.
            k (`int`, defaults to 128): answers that are scored and returned; all of them if there are fewer.
            first_token (`str`, defaults to `"once"`): `"once"` sums the log-probability of every token; `"twice"` adds
                that of the first token again, as in the released implementation.
            original_sizes: accepted so that the processor's output can be passed as it is; not read.
            answers_per_chunk (`int`, defaults to 256): pairs of question and answer that are decoded together, which
                bounds the memory.

        Returns:
            [`RankedAnswers`]: `candidate_index` and `probabilities`, each `(P, min(k, C))`, best first.

        Raises:
            ValueError: no candidate, an empty one, one that is there twice, a question without words, `k` below 1.
        """
        check_choice("first_token", first_token, get_args(FirstToken))
        for name, value in (("k", k), ("answers_per_chunk", answers_per_chunk)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if candidate_ids is None:
            raise ValueError("`candidate_ids` is needed: pass what `processor.encode_candidates(answers)` returns.")
        candidate_mask = check_candidates(candidate_ids, candidate_mask, self.config.text_config)
        questions = _check_questions(pixel_values, input_ids, attention_mask, image_index, layout)
        attention_mask = questions.attention_mask
        with torch.no_grad(), evaluation_mode(self):
            states = _read_questions(
                self.albef.vision_model, self.albef.text_model, pixel_values, input_ids, questions.layout
            )
            keys_values = self.answer_decoder.project_questions(states)
            first = self._score_first_tokens(candidate_ids, keys_values, attention_mask)
            first, shortlist = (best[:, :k] for best in first.sort(dim=1, descending=True, stable=True))
            scores = self._score_shortlist(
                candidate_ids, candidate_mask, shortlist, keys_values, attention_mask, answers_per_chunk
            )
        if first_token == "twice":
            scores = scores + first
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        return RankedAnswers(shortlist.gather(1, order), scores.softmax(dim=1))

    def _score_first_tokens(
        self, candidate_ids: torch.Tensor, keys_values: list[KeysValues], attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Log-probability of the first token after [CLS] of every candidate, `(P, C)`."""
        start = candidate_ids[:1, :1].expand(len(attention_mask), 1)
        logits = self.answer_decoder.decode(start, torch.ones_like(start), keys_values, attention_mask)
        return logits[:, 0].log_softmax(dim=-1).index_select(1, candidate_ids[:, 1])

    def _score_shortlist(
        self,
        candidate_ids: torch.Tensor,
        candidate_mask: torch.Tensor,
        shortlist: torch.Tensor,
        keys_values: list[KeysValues],
        attention_mask: torch.Tensor,
        answers_per_chunk: int,
    ) -> torch.Tensor:
        """Log-probability of the candidates `(P, k)` of each question, computed in chunks of similar length."""
        chosen, width = shortlist.flatten(), shortlist.shape[1]
        chunks, parts = chunk_by_length(candidate_mask[chosen], answers_per_chunk), []
        for rows, length in chunks:
            ids, mask = candidate_ids[chosen[rows], :length], candidate_mask[chosen[rows], :length]
            logits = self.answer_decoder.decode(ids, mask, keys_values, attention_mask, rows // width)
            parts.append(-compute_answer_losses(logits, ids, mask))
        order = torch.cat([rows for rows, _ in chunks]).argsort()
        return torch.cat(parts)[order].unflatten(0, shortlist.shape)

    def generate(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        original_sizes: torch.Tensor | None = None,
        layout: PhraseLayout | None = None,
        **options,
    ):
        r"""Generate an answer to every question, token by token.

        Args:
            pixel_values, input_ids, attention_mask, image_index, layout: as for `forward`.
            original_sizes: accepted so that the processor's output can be passed as it is; not read.
            options: as for [`~transformers.GenerationMixin.generate`]: `num_beams`, `max_new_tokens`, `do_sample`, ...

        Returns:
            `torch.Tensor` of shape `(P, L)`: tokens of the answers from [CLS] to [SEP], then padding; what
            `transformers` returns instead if the options say so. `processor.batch_decode(ids,
            skip_special_tokens=True)` makes it text.
        """
        questions = _check_questions(pixel_values, input_ids, attention_mask, image_index, layout)
        with torch.no_grad(), evaluation_mode(self):
            states = _read_questions(
                self.albef.vision_model, self.albef.text_model, pixel_values, input_ids, questions.layout
            )
            start = input_ids.new_full((len(input_ids), 1), self.config.text_config.cls_token_id)
            return self.answer_decoder.generate(
                start, encoder_hidden_states=states, encoder_attention_mask=questions.attention_mask, **options
            )


def _check_questions(
    pixel_values: torch.Tensor,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    image_index: torch.Tensor | None,
    layout: PhraseLayout | None,
) -> PhraseInputs:
    """Questions as [`~layout_albef.check_phrase_inputs`], each with a word; their states at padding are computed."""
    questions = check_phrase_inputs(pixel_values, input_ids, attention_mask, image_index, layout)
    check_questions(questions.attention_mask)
    layout = questions.layout.to(pixel_values.device).keep_padding()
    return PhraseInputs(questions.attention_mask, questions.image_index, layout)


def _read_questions(
    vision_model: AlbefVisionModel,
    text_model: AlbefTextModel,
    pixel_values: torch.Tensor,
    input_ids: torch.Tensor,
    layout: PhraseLayout,
) -> torch.Tensor:
    """States of P questions about their images, `(P, T, hidden_size)`."""
    keys_values = text_model.project_image(vision_model(pixel_values))
    text_embeds = text_model.encode(input_ids, layout)
    return text_model.run_layers(text_embeds, layout, keys_values, first=text_model.config.fusion_layer)


def check_questions(attention_mask: torch.Tensor) -> None:
    """Raises `ValueError` for a question `(P, T)` without words."""
    is_empty = attention_mask.sum(dim=1) < SHORTEST_QUESTION
    if is_empty.any():
        raise ValueError(
            f"`input_ids` has questions without words, in rows {_list_rows(is_empty)}: they hold [CLS] alone. Drop "
            "them."
        )


def check_answers(name: str, ids: torch.Tensor, mask: torch.Tensor | None, config: AlbefTextConfig) -> torch.Tensor:
    """Mask `(A, L)` of answers; raises `ValueError` where one is not [CLS] words [SEP].

    Args:
        name (`str`): `"answer"` or `"candidate"`, the prefix of the arguments' names.
        ids, mask (`torch.Tensor` of shape `(A, L)`): tokens, and 1 for real ones; without a mask all are real.
        config ([`AlbefTextConfig`]): specifies the special tokens.
    """
    if ids.ndim != 2 or len(ids) == 0:
        raise ValueError(f"`{name}_ids` must have shape ({name}s, tokens) with at least one, got {tuple(ids.shape)}.")
    mask = resolve_mask(ids, mask, f"{name}_ids", f"{name}_mask")
    lengths = mask.sum(dim=1)
    last = ids.gather(1, (lengths - 1).clamp(min=0)[:, None])[:, 0]
    is_wrong = (ids[:, 0] != config.cls_token_id) | (last != config.sep_token_id)
    if is_wrong.any():
        raise ValueError(
            f"`{name}_ids` must begin with [CLS] and end with [SEP]; rows {_list_rows(is_wrong)} do not. "
            f"`processor.encode_{name}s` makes them so; `processor(text=...)`, which is for questions, does not."
        )
    is_empty = lengths < SHORTEST_ANSWER
    if is_empty.any():
        raise ValueError(f"`{name}_ids` has empty {name}s, in rows {_list_rows(is_empty)}: drop them.")
    return mask


def check_candidates(ids: torch.Tensor, mask: torch.Tensor | None, config: AlbefTextConfig) -> torch.Tensor:
    """Check candidates like [`check_answers`], and refuse duplicates."""
    mask = check_answers("candidate", ids, mask, config)
    _, group, counts = ids.masked_fill(mask == 0, -1).unique(dim=0, return_inverse=True, return_counts=True)
    if (counts > 1).any():
        rows = (group == counts.argmax()).nonzero().flatten().tolist()
        raise ValueError(
            f"`candidate_ids` has the same answer in rows {rows}: it would take a share of its own probability. Keep "
            "one of them."
        )
    return mask


def compute_answer_losses(logits: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    r"""Minus the log-probability of each answer.

    Args:
        logits (`torch.Tensor` of shape `(A, L, vocab_size)`): scores of the token that follows each token.
        ids, mask (`torch.Tensor` of shape `(A, L)`): tokens [CLS] answer [SEP], and 1 for real ones.

    Reduction: sum over the tokens after [CLS], [SEP] included, padding not; `(A,)`.
    """
    following = ids[:, 1:].masked_fill(mask[:, 1:] == 0, IGNORED_LABEL)
    scores = logits[:, :-1].transpose(1, 2)  # (A, vocab_size, L - 1)
    return nn.functional.cross_entropy(scores, following, ignore_index=IGNORED_LABEL, reduction="none").sum(dim=1)


def compute_answer_distillation(
    logits: torch.Tensor, momentum_logits: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    r"""Cross-entropy of the scores against the momentum decoder's distribution over the vocabulary.

    Args:
        logits, momentum_logits (`torch.Tensor` of shape `(A, L, vocab_size)`): scores of the token that follows.
        mask (`torch.Tensor` of shape `(A, L)`): 1 for real tokens.

    Reduction: as for [`compute_answer_losses`].
    """
    log_probabilities = logits[:, :-1].log_softmax(dim=-1)
    per_token = -(log_probabilities * momentum_logits[:, :-1].softmax(dim=-1)).sum(dim=-1)
    return (per_token * mask[:, 1:]).sum(dim=1)


def _list_rows(is_wrong: torch.Tensor) -> str:
    return list_first(is_wrong.nonzero().flatten().tolist())


__all__ = [
    "AlbefForQuestionAnswering",
    "FirstToken",
    "check_answers",
    "check_candidates",
    "compute_answer_distillation",
    "compute_answer_losses",
]
