# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""ALBEF that answers questions about images: chooses from a list, writes freely, and shows where it looked.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651), section 5.
"""

from collections.abc import Collection
from typing import Literal, get_args

import torch
from torch import nn
from transformers import AutoModelForVisualQuestionAnswering
from transformers.utils import can_return_tuple

from .answers_albef import (
    AnswerRows,
    check_candidates,
    check_questions,
    compute_answer_distillation,
    compute_answer_losses,
)
from .base_albef import AlbefTaskModel
from .configuration_albef import AlbefConfig
from .decoder_albef import AlbefTextDecoder, build_decoder_config
from .encoders_albef import AlbefTextModel, AlbefVisionModel, KeysValues
from .explanation_albef import (
    average_over_pieces,
    evaluation_mode,
    normalize_heatmap,
    outside_inference_mode,
)
from .fusion_albef import explain_fusion
from .grouping_albef import PhraseRows, PieceLayout, divide_by_length
from .inputs_albef import check_phrase_inputs
from .momentum_albef import MomentumCopies
from .outputs_albef import AlbefQuestionAnsweringOutput, RankedAnswers
from .ranges_albef import check_choice
from .warm_start_albef import KEY_AND_VALUE, copy_to_decoder

FirstToken = Literal["once", "twice"]

PUBLISHED_SHORTLIST = 128


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
        """As many decoder layers as there are fusion layers to copy, unless fewer are asked for."""
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
        """As for [`AlbefPreTrainedModel`]; the answer decoder, which has word embeddings of its own, follows."""
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
    ) -> AlbefQuestionAnsweringOutput:
        r"""Reads P questions about N images, and scores A answers to them; every image is encoded once.

        Args:
            pixel_values (`torch.Tensor` of shape `(N, 3, image_height, image_width)`): normalised images.
            input_ids, attention_mask (`torch.Tensor` of shape `(P, T)`): pieces of questions, and 1 for real ones.
            image_index (`torch.Tensor` of shape `(P,)`, *optional*): image row of each question; not needed if P = N.
            answer_ids, answer_mask (`torch.Tensor` of shape `(A, L)`, *optional*): pieces [CLS] answer [SEP], and 1
                for real ones. Without answers there is no loss.
            answer_index (`torch.Tensor` of shape `(A,)`, *optional*): question of each answer; not needed if A = P.
            answer_weights (`torch.Tensor` of shape `(A,)`, *optional*): weight of each answer in the loss, such as the
                share of people who gave it; 1 by default.
            distillation_alpha (`float`, *optional*): weight of the momentum model's targets; the configuration's
                `distillation_alpha` by default.
            original_sizes (`torch.Tensor` of shape `(N, 2)`, *optional*): passed through to the output.
            output_heatmap, output_token_heatmap (`bool`): compute the explanation of the log-probability of every
                answer at the cross-attention of `explanation_layer`: per answer, and per piece of its question.
        """
        attention_mask, image_index = _check_inputs(pixel_values, input_ids, attention_mask, image_index)
        output = AlbefQuestionAnsweringOutput(image_index=image_index, original_sizes=original_sizes)
        answers, explains = None, output_heatmap or output_token_heatmap
        if answer_ids is not None:
            text_config = self.config.text_config
            answers = AnswerRows.check(
                text_config, len(input_ids), answer_ids, answer_mask, answer_index, answer_weights
            )
            output.answer_index = answers.question_index
        elif explains:
            raise ValueError("a heatmap explains the score of an answer: pass `answer_ids`.")

        questions = (pixel_values, input_ids, attention_mask, image_index)
        text_model, explained = self.albef.text_model, self.config.explanation_layer
        below, keys_values = self._read_questions(self.albef.vision_model, text_model, *questions, last=explained)
        pieces = PieceLayout.of(attention_mask, keep_padding=True)
        output.question_states = text_model.run_layers(below, pieces, keys_values, image_index, first=explained)
        if answers is None:
            return output
        if explains:
            maps = self._explain_answers(
                output, below, attention_mask, keys_values, image_index, answers, torch.is_grad_enabled()
            )
            output.heatmap = average_over_pieces(maps, attention_mask[answers.question_index])
            output.normalized_heatmap = normalize_heatmap(output.heatmap)
            output.token_heatmap = maps if output_token_heatmap else None
        else:
            output.answer_logits = self._score_answers(
                self.answer_decoder, output.question_states, attention_mask, answers
            )
            output.answer_losses = compute_answer_losses(output.answer_logits, answers.ids, answers.mask)
        alpha = self.config.distillation_alpha if distillation_alpha is None else distillation_alpha
        output.loss = self._combine_losses(output, questions, answers, alpha)
        return output

    def _read_questions(
        self,
        vision_model: AlbefVisionModel,
        text_model: AlbefTextModel,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_index: torch.Tensor,
        last: int | None = None,
    ) -> tuple[torch.Tensor, list[KeysValues]]:
        """States of P questions `(P, T, hidden_size)` after the layers below `last`, padding included, and the keys
        and values of the images."""
        pieces = PieceLayout.of(attention_mask, keep_padding=True)
        keys_values = text_model.project_image(vision_model(pixel_values))
        text_embeds = text_model.encode(input_ids, pieces)
        options = {"first": text_model.config.fusion_layer, "last": last}
        return text_model.run_layers(text_embeds, pieces, keys_values, image_index, **options), keys_values

    @staticmethod
    def _score_answers(
        decoder: AlbefTextDecoder,
        question_states: torch.Tensor,
        attention_mask: torch.Tensor,
        answers: AnswerRows,
    ) -> torch.Tensor:
        outputs = decoder(
            answers.ids, answers.mask, question_states, attention_mask, answer_index=answers.question_index
        )
        return outputs.logits

    def _explain_answers(
        self,
        output: AlbefQuestionAnsweringOutput,
        below: torch.Tensor,
        attention_mask: torch.Tensor,
        keys_values: list[KeysValues],
        image_index: torch.Tensor,
        answers: AnswerRows,
        keep_graph: bool,
    ) -> torch.Tensor:
        """Scores and losses of the answers in the output; returns the maps of the pieces of their questions
        `(A, T, G_h, G_w)`.

        From the explanation layer on every answer has a copy of its question, hence a gradient of its own.
        """
        explained, question = self.config.explanation_layer, answers.question_index
        mask = attention_mask[question]
        rows = PhraseRows(below[question], mask, image_index[question], pieces=PieceLayout.of(mask, keep_padding=True))

        def read_answers(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = self.answer_decoder(answers.ids, answers.mask, states, mask, use_eager=True).logits
            return logits, -compute_answer_losses(logits, answers.ids, answers.mask)

        layers, text_model = range(explained, explained + 1), self.albef.text_model
        output.answer_logits, log_probabilities, (maps,) = explain_fusion(
            text_model, rows, keys_values, layers, read_answers, keep_graph, first_piece_only=False
        )
        output.answer_losses = -log_probabilities
        return maps.unflatten(-1, self.config.vision_config.grid_size)

    def _combine_losses(
        self,
        output: AlbefQuestionAnsweringOutput,
        questions: tuple[torch.Tensor, ...],
        answers: AnswerRows,
        alpha: float,
    ) -> torch.Tensor:
        """Weighted sum over the answers, with the share `alpha` of distillation, over the number of questions."""
        losses = output.answer_losses
        if alpha > 0:
            with torch.no_grad():
                momentum_states, _ = self._read_questions(
                    self.momentum_vision_model, self.momentum_text_model, *questions
                )
                _, input_ids, attention_mask, _ = questions
                momentum_logits = self._score_answers(
                    self.momentum_answer_decoder, momentum_states, attention_mask, answers
                )
            distillation = compute_answer_distillation(output.answer_logits, momentum_logits, answers.mask)
            losses = (1 - alpha) * losses + alpha * distillation
        return (answers.weights * losses).sum() / len(questions[1])

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
    ) -> RankedAnswers:
        r"""Chooses from a list of C answers: the k with the most probable first piece are scored as a whole.

        The k probabilities are a softmax over the sums of log-probabilities, so they depend on k.

        Args:
            pixel_values, input_ids, attention_mask, image_index: as for `forward`.
            candidate_ids, candidate_mask (`torch.Tensor` of shape `(C, L)`): pieces [CLS] answer [SEP], and 1 for real
                ones; see [`AlbefProcessor.encode_candidates`]. None may be there twice.
            k (`int`, defaults to 128): answers that are scored and returned; all of them if there are fewer.
            first_token (`str`, defaults to `"once"`): `"once"` sums the log-probability of every piece; `"twice"` adds
                that of the first piece again, as the released code does.
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
        questions = _check_inputs(pixel_values, input_ids, attention_mask, image_index)
        with torch.no_grad(), evaluation_mode(self):
            states, _ = self._read_questions(
                self.albef.vision_model, self.albef.text_model, pixel_values, input_ids, *questions
            )
            keys_values, attention_mask = self.answer_decoder.project_questions(states), questions[0]
            first = self._score_first_pieces(candidate_ids, keys_values, attention_mask)
            first, shortlist = (best[:, :k] for best in first.sort(dim=1, descending=True, stable=True))
            scores = self._score_shortlist(
                candidate_ids, candidate_mask, shortlist, keys_values, attention_mask, answers_per_chunk
            )
        if first_token == "twice":
            scores = scores + first
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        return RankedAnswers(shortlist.gather(1, order), scores.softmax(dim=1))

    def _score_first_pieces(
        self, candidate_ids: torch.Tensor, keys_values: list[KeysValues], attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Log-probability of the first piece after [CLS] of every candidate, `(P, C)`."""
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
        chunks, parts = divide_by_length(candidate_mask[chosen], answers_per_chunk), []
        for rows, length in chunks:
            ids, mask = candidate_ids[chosen[rows], :length], candidate_mask[chosen[rows], :length]
            logits = self.answer_decoder.decode(ids, mask, keys_values, attention_mask, rows // width)
            parts.append(-compute_answer_losses(logits, ids, mask))
        back = torch.cat([rows for rows, _ in chunks]).argsort()
        return torch.cat(parts)[back].unflatten(0, shortlist.shape)

    def generate(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        original_sizes: torch.Tensor | None = None,
        **options,
    ):
        r"""Writes an answer to every question, piece by piece.

        Args:
            pixel_values, input_ids, attention_mask, image_index: as for `forward`.
            original_sizes: accepted so that the processor's output can be passed as it is; not read.
            options: as for [`~transformers.GenerationMixin.generate`]: `num_beams`, `max_new_tokens`, `do_sample`, ...

        Returns:
            `torch.Tensor` of shape `(P, L)`: pieces of the answers from [CLS] to [SEP], then padding; what
            `transformers` returns instead if the options say so. `processor.batch_decode(ids,
            skip_special_tokens=True)` makes it text.
        """
        questions = _check_inputs(pixel_values, input_ids, attention_mask, image_index)
        with torch.no_grad(), evaluation_mode(self):
            states, _ = self._read_questions(
                self.albef.vision_model, self.albef.text_model, pixel_values, input_ids, *questions
            )
            start = input_ids.new_full((len(input_ids), 1), self.config.text_config.cls_token_id)
            encoded = {"encoder_hidden_states": states, "encoder_attention_mask": questions[0]}
            return self.answer_decoder.generate(start, **encoded, **options)


def _check_inputs(
    pixel_values: torch.Tensor,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    image_index: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`attention_mask` and `image_index` as [`~inputs_albef.check_phrase_inputs`]; every question has a word."""
    attention_mask, image_index = check_phrase_inputs(pixel_values, input_ids, attention_mask, image_index)
    check_questions(attention_mask)
    return attention_mask, image_index


__all__ = ["AlbefForQuestionAnswering", "FirstToken"]
