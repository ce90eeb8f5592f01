# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The answer decoder of ALBEF's question answering: BERT that reads from left to right and attends to the question.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651), section 5.
"""

import copy

import torch
from transformers.generation import GenerationConfig, GenerationMixin
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils import can_return_tuple

from .configuration_albef import AlbefConfig, AlbefTextConfig
from .encoders_albef import AlbefTextStack, KeysValues
from .explanation_albef import at_least_float32
from .layout_albef import build_layout
from .pretraining_albef import AlbefMaskedWordHead


def build_decoder_config(config: AlbefConfig) -> AlbefTextConfig:
    """The text encoder's configuration with `decoder_layers` layers, all of which attend to the question."""
    decoder_config = copy.deepcopy(config.text_config)
    decoder_config.num_hidden_layers = config.decoder_layers
    decoder_config.fusion_layer = 0
    decoder_config.encoder_width = config.text_config.hidden_size
    return decoder_config


class AlbefTextDecoder(AlbefTextStack, GenerationMixin):
    """Scores of the next token of an answer, given the tokens before it and the states of its question.

    Several answers may read the same question, whose keys and values are computed once. Padding is computed like any
    other token: answers are short.
    """

    _supports_flash_attn = False  # cross-attention masks the padding of questions
    generation_config: GenerationConfig

    def __init__(self, config: AlbefTextConfig):
        super().__init__(config)
        self.lm_head = AlbefMaskedWordHead(config)
        self.generation_config = GenerationConfig(
            bos_token_id=config.cls_token_id,
            eos_token_id=config.sep_token_id,
            pad_token_id=config.pad_token_id,
            use_cache=False,
        )
        self.post_init()

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.lm_head.decoder

    def set_output_embeddings(self, value: torch.nn.Module) -> None:
        self.lm_head.decoder = value

    def project_questions(self, question_states: torch.Tensor) -> list[KeysValues]:
        """Keys and values of every layer, each `(P, num_heads, T, head_dim)`."""
        return [layer.cross_attention.project_image(question_states) for layer in self.layers]

    def decode(
        self,
        answer_ids: torch.Tensor,
        answer_mask: torch.Tensor,
        keys_values: list[KeysValues],
        question_mask: torch.Tensor,
        answer_index: torch.Tensor | None = None,
        use_eager: bool = False,
    ) -> torch.Tensor:
        r"""Scores of the token that follows each token of A answers.

        Args:
            answer_ids, answer_mask (`torch.Tensor` of shape `(A, L)`): tokens, and 1 for real ones.
            keys_values (`list`): of P questions, from [`project_questions`].
            question_mask (`torch.Tensor` of shape `(P, T)`): 1 for real tokens of the questions.
            answer_index (`torch.Tensor` of shape `(A,)`, *optional*): question of each answer; not needed if A = P.
            use_eager (`bool`): attention that can be differentiated twice.

        Returns:
            `torch.Tensor` of shape `(A, L, vocab_size)`, float32 at least.
        """
        layout = build_layout(answer_mask, answer_index, len(question_mask), keep_padding=True)
        (by_question,) = layout.groupings
        key_mask = by_question.select_images(question_mask)[:, None, None, :].bool()
        causal_mask = _make_causal_mask(answer_mask)
        states = layout.pack(self.embed(answer_ids))
        for layer, keys_and_values in zip(self.layers, keys_values, strict=True):
            key, value = map(by_question.select_images, keys_and_values)
            states, _ = layer(states, layout, causal_mask, key, value, use_eager=use_eager, key_mask=key_mask)
        return at_least_float32(self.lm_head(layout.unpack(states)))

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        answer_index: torch.Tensor | None = None,
        use_eager: bool = False,
    ) -> CausalLMOutput:
        r"""Run [`decode`] with the argument names that generation in `transformers` uses.

        Args:
            input_ids, attention_mask (`torch.Tensor` of shape `(A, L)`): tokens of answers, and 1 for real ones.
            encoder_hidden_states (`torch.Tensor` of shape `(P, T, hidden_size)`): states of the questions.
            encoder_attention_mask (`torch.Tensor` of shape `(P, T)`): 1 for real tokens of the questions.
            answer_index, use_eager: as for [`decode`].
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        keys_values = self.project_questions(encoder_hidden_states)
        logits = self.decode(input_ids, attention_mask, keys_values, encoder_attention_mask, answer_index, use_eager)
        return CausalLMOutput(logits=logits)

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        **unused,
    ) -> dict[str, torch.Tensor | None]:
        """Inputs of a step of generation: the complete answer so far, as nothing is cached."""
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "encoder_hidden_states": encoder_hidden_states,
            "encoder_attention_mask": encoder_attention_mask,
        }


def _make_causal_mask(answer_mask: torch.Tensor) -> torch.Tensor:
    """Build the causal mask `(A, 1, L, L)`: each token attends to the real tokens up to itself."""
    length = answer_mask.shape[1]
    up_to_itself = torch.ones(length, length, dtype=torch.bool, device=answer_mask.device).tril()
    return up_to_itself & answer_mask[:, None, None, :].bool()


__all__ = ["AlbefTextDecoder", "build_decoder_config"]
