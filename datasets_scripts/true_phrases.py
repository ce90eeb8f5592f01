# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Which words are known to be true of an image: no image of which a phrase is true is a negative of the phrase."""

import hashlib
from collections.abc import Mapping
from typing import Any

from albef_amc.text_processing_albef import clean_caption, find_text_problem


def list_true_phrases(row: Mapping[str, Any]) -> set[str]:
    """Cleaned words that are known to be true of an image: its phrases and their paraphrases.

    Args:
        row (mapping): a row of the grounding schema; `phrases` alone is read.
    """
    words = [phrase.get("phrase") for phrase in row["phrases"] or ()]
    words += [wording for phrase in row["phrases"] or () for wording in phrase.get("paraphrases") or ()]
    return {clean_caption(text) for text in words if find_text_problem(text) is None}


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
