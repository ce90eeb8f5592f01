# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Which words are known to be true of an image: no image of which a phrase is true is a negative of the phrase."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from albef_amc.text_processing_albef import clean_caption, find_text_problem

MOST_TEXTS = 1 << 16  # whose cleaned form is kept


def list_true_phrases(row: Mapping[str, Any]) -> set[str]:
    """Cleaned words that are known to be true of an image: its phrases, their paraphrases, and its `true_phrases`.

    Args:
        row (mapping): a row of the grounding schema; `phrases` and, if it has them, `true_phrases` are read.
    """
    words = [*(row.get("true_phrases") or ()), *(phrase.get("phrase") for phrase in row["phrases"] or ())]
    words += [wording for phrase in row["phrases"] or () for wording in phrase.get("paraphrases") or ()]
    cleaned = {_clean_text(text) for text in words if isinstance(text, str)}
    return {text for text in cleaned if text is not None}


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


__all__ = ["hash_text", "list_true_phrases"]
