# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Answers to questions as word pieces: [CLS] answer [SEP]."""

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast
from transformers.feature_extraction_utils import BatchFeature

from .collections_albef import describe_type, is_collection, iterate
from .text_processing_albef import find_broken_character


class AnswerProcessing:
    """The part of [`AlbefProcessor`] that encodes answers. They are not cleaned, as in the released code."""

    tokenizer: PreTrainedTokenizerFast

    def encode_answers(self, answers: Sequence[str]) -> BatchFeature:
        r"""Answers to train on or to explain.

        Args:
            answers (sequence of `str`): one or more; the same answer may belong to several questions.

        Returns:
            `BatchFeature` with **answer_ids** and **answer_mask** `(A, L)` int64.
        """
        ids, mask = self._pad_answers(self._read_answers(answers))
        return BatchFeature({"answer_ids": ids, "answer_mask": mask})

    def encode_candidates(self, answers: Sequence[str]) -> BatchFeature:
        r"""Answers to choose from, such as the content of `answer_list.json`.

        Args:
            answers (sequence of `str`): one or more, each once.

        Returns:
            `BatchFeature` with **candidate_ids** and **candidate_mask** `(C, L)` int64.
        """
        rows = self._read_answers(answers)
        seen: dict[tuple[int, ...], int] = {}
        for index, row in enumerate(rows):
            first = seen.setdefault(tuple(row), index)
            if first != index:
                raise ValueError(
                    f"`answers` holds {answers[first]!r} and {answers[index]!r} (entries {first} and {index}), which "
                    "have the same pieces: one would take a share of the other's probability. Keep one of them."
                )
        ids, mask = self._pad_answers(rows)
        return BatchFeature({"candidate_ids": ids, "candidate_mask": mask})

    def _read_answers(self, answers: Sequence[str]) -> list[list[int]]:
        if not is_collection(answers):
            raise TypeError(f"`answers` must be a list of strings, got {answers!r:.80}.")
        answers = list(iterate(answers))
        for index, answer in enumerate(answers):
            if not isinstance(answer, str):
                raise TypeError(f"`answers` must be a list of strings, got {describe_type(answer)} as answer {index}.")
            broken = find_broken_character(answer)
            if broken:
                raise ValueError(f"answer {index} is {answer!r:.80}, which {broken}. Correct it.")
        if not answers:
            raise ValueError("`answers` is empty: give at least one.")
        limit = self.tokenizer.model_max_length
        rows = self.tokenizer(list(answers), verbose=False)["input_ids"]
        for index, row in enumerate(rows):
            row.append(self.tokenizer.sep_token_id)
            if len(row) == 2:  # [CLS] and [SEP]
                raise ValueError(f"answer {index} is {answers[index]!r}, which has no words. Drop it.")
            if len(row) > limit:
                raise ValueError(
                    f"answer {index} has {len(row)} pieces, [CLS] and [SEP] included, but the model has {limit} text "
                    "positions. Shorten it."
                )
        return rows

    def _pad_answers(self, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        pieces = [torch.tensor(row) for row in rows]
        ids = pad_sequence(pieces, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        return ids, pad_sequence([torch.ones_like(row) for row in pieces], batch_first=True)


__all__ = ["AnswerProcessing"]
