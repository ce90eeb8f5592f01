# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Answers as tensors: what they must look like, and their losses under the answer decoder."""

from dataclasses import dataclass

import torch
from torch import nn

from .configuration_albef import AlbefTextConfig
from .contrastive_albef import IGNORED_LABEL
from .messages_albef import list_first

SHORTEST_ANSWER = 3  # [CLS], a word and [SEP]
SHORTEST_QUESTION = 2  # [CLS] and a word


@dataclass(frozen=True)
class AnswerRows:
    """A answers to P questions.

    Args:
        ids, mask (`torch.Tensor` of shape `(A, L)`): pieces [CLS] answer [SEP], and 1 for real ones.
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
        [`~question_answering_albef.AlbefForQuestionAnswering.forward`] that does not fit."""
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
                "an answer."
            )
        return cls(ids, mask, question_index, weights)


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
        name (`str`): `"answer"` or `"candidate"`, with which the names of the arguments begin.
        ids, mask (`torch.Tensor` of shape `(A, L)`): pieces, and 1 for real ones; without a mask all are real.
        config ([`AlbefTextConfig`]): tells the special pieces.
    """
    if ids.ndim != 2 or len(ids) == 0:
        raise ValueError(f"`{name}_ids` must have shape ({name}s, pieces) with at least one, got {tuple(ids.shape)}.")
    if mask is None:
        mask = torch.ones_like(ids)
    elif mask.shape != ids.shape:
        raise ValueError(
            f"`{name}_mask` has shape {tuple(mask.shape)} but `{name}_ids` {tuple(ids.shape)}: pass both as the "
            "processor returned them."
        )
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
    """As [`check_answers`] for candidates, none of which may be there twice."""
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
        logits (`torch.Tensor` of shape `(A, L, vocab_size)`): scores of the piece that follows each piece.
        ids, mask (`torch.Tensor` of shape `(A, L)`): pieces [CLS] answer [SEP], and 1 for real ones.

    Reduction: sum over the pieces after [CLS], [SEP] included, padding not; `(A,)`.
    """
    following = ids[:, 1:].masked_fill(mask[:, 1:] == 0, IGNORED_LABEL)
    scores = logits[:, :-1].transpose(1, 2)  # (A, vocab_size, L - 1)
    return nn.functional.cross_entropy(scores, following, ignore_index=IGNORED_LABEL, reduction="none").sum(dim=1)


def compute_answer_distillation(
    logits: torch.Tensor, momentum_logits: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    r"""Cross-entropy of the scores against the momentum decoder's distribution over the vocabulary.

    Args:
        logits, momentum_logits (`torch.Tensor` of shape `(A, L, vocab_size)`): scores of the piece that follows.
        mask (`torch.Tensor` of shape `(A, L)`): 1 for real pieces.

    Reduction: as for [`compute_answer_losses`].
    """
    log_probabilities = logits[:, :-1].log_softmax(dim=-1)
    per_piece = -(log_probabilities * momentum_logits[:, :-1].softmax(dim=-1)).sum(dim=-1)
    return (per_piece * mask[:, 1:]).sum(dim=1)


def _list_rows(is_wrong: torch.Tensor) -> str:
    return list_first(is_wrong.nonzero().flatten().tolist())


__all__ = [
    "AnswerRows",
    "check_answers",
    "check_candidates",
    "check_questions",
    "compute_answer_distillation",
    "compute_answer_losses",
]
