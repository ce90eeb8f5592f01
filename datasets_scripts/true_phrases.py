# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Which words are known to be true of an image: no image of which a phrase is true is a negative of the phrase."""

import hashlib
from collections.abc import Iterable, Mapping, Set
from functools import lru_cache
from typing import Any

from albef_amc.text_processing_albef import clean_caption, find_text_problem

MOST_TEXTS = 1 << 16  # whose cleaned form is kept


def list_true_phrases(row: Mapping[str, Any]) -> set[str]:
    """Cleaned words that are known to be true of an image: its phrases, their paraphrases, and its `true_phrases`.

    Args:
        row (mapping): a row of the grounding schema; `phrases` and, if it has them, `true_phrases` are read.
    """
    cleaned = {_clean_text(text) for text in list_true_texts(row)}
    return {text for text in cleaned if text is not None}


def refuse_contradictions(false_phrases: Iterable[str], true_phrases: Set[str], name: str) -> None:
    """Refuse a false phrase of an image that is known to be true of it.

    Args:
        false_phrases (iterable of `str`): texts with words.
        true_phrases (set of `str`): what [`list_true_phrases`] returns for the row.
        name (`str`): of the row, in the message.

    Raises:
        ValueError: a text is among both.
    """
    for text in false_phrases:
        if _clean_text(text) in true_phrases:
            raise ValueError(
                f"{name}: {text!r:.80} is among `false_phrases`, but the image has it among its phrases, their "
                "paraphrases or `true_phrases`. Remove it from one of them."
            )


def list_true_texts(row: Mapping[str, Any]) -> list[str]:
    """The texts that [`list_true_phrases`] cleans, as they are written, each once."""
    phrases = [phrase for phrase in row["phrases"] or () if isinstance(phrase, Mapping)]
    texts = [*(row.get("true_phrases") or ()), *(phrase.get("phrase") for phrase in phrases)]
    texts += [wording for phrase in phrases for wording in phrase.get("paraphrases") or ()]
    return list(dict.fromkeys(text for text in texts if isinstance(text, str)))


@lru_cache(maxsize=MOST_TEXTS)
def _clean_text(text: str) -> str | None:
    """A cleaned text; None for one without words. The short texts of images repeat."""
    return clean_caption(text) if find_text_problem(text) is None else None


def hash_text(text: str) -> int:
    """63-bit number of a text, the same in every process and run.

    Example:

    ```python
    >>> from albef_amc.datasets_scripts.true_phrases import hash_text
    >>> hash_text("a dog") == hash_text("a dog") >= 0
    True

    ```
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


__all__ = ["hash_text", "list_true_phrases", "list_true_texts", "refuse_contradictions"]
