# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""How well a vocabulary covers the words of phrases, and how many phrases are cut off."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from albef_amc.text_processing_albef import clean_caption

LOW_COVERAGE = 0.9
SHOWN_CHARACTERS = 80

WordKind = Literal["own", "parts", "letters", "unknown"]


def classify_word(word: str, tokenizer: Any) -> tuple[WordKind, int]:
    """What a vocabulary has for a cleaned word, and how many tokens the word becomes.

    Args:
        word (`str`): without white space.
        tokenizer: of the model.

    Returns:
        `"own"`: a token of its own; `"parts"`: it is put together from parts; `"letters"`: it is spelled letter by
        letter, or it is written in another script than the Latin one, of which such vocabularies have single
        characters only; `"unknown"`: there is no token for it, or for a part of it.
    """
    tokens = tokenizer.tokenize(word)
    if not tokens or tokenizer.unk_token in tokens:
        return "unknown", len(tokens)
    if any(sign.isalpha() and not unicodedata.name(sign, "").startswith("LATIN") for sign in word):
        return "letters", len(tokens)
    if len(tokens) == 1:
        return "own", 1
    is_spelled = all(len(token.removeprefix("##")) == 1 for token in tokens)
    return "letters" if is_spelled else "parts", len(tokens)


def find_unknown_words(phrase: str, tokenizer: Any) -> list[str]:
    """Words of a phrase that a model cannot know: unknown to its vocabulary, or spelled letter by letter.

    Args:
        phrase (`str`): as a user writes it.
        tokenizer: of the model.

    Example:

    ```python
    >>> from albef_amc.text_processing_albef import build_tokenizer
    >>> from albef_amc.evaluation.phrase_coverage import find_unknown_words
    >>> special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    >>> tokenizer = build_tokenizer([*special, "a", "dog", "##s", "c", "##a", "##t"])
    >>> find_unknown_words("a cat, dogs and x", tokenizer)
    ['cat', 'and', 'x']

    ```
    """
    return [
        word for word in clean_caption(phrase).split() if classify_word(word, tokenizer)[0] in ("letters", "unknown")
    ]


@dataclass
class PhraseCoverage:
    """What [`measure_coverage`] counted.

    Args:
        num_phrases (`int`): phrases that were read.
        num_cut (`int`): phrases that have more tokens than `max_length`.
        example (`str`): the first of those.
        words (`Counter`): occurrences of words by what the vocabulary has for them; see [`classify_word`].
        max_length (`int`, *optional*): tokens of a phrase at most, [CLS] included.
    """

    num_phrases: int = 0
    num_cut: int = 0
    example: str = ""
    words: Counter[str] = field(default_factory=Counter)
    max_length: int | None = None

    @property
    def known_share(self) -> float:
        """Share of the words with a token of their own or put together from parts; 1 where there are no words."""
        total = self.words.total()
        return (self.words["own"] + self.words["parts"]) / total if total else 1.0

    def describe(self) -> str:
        """The counts in one sentence."""
        total = max(1, self.words.total())
        own, parts, letters, unknown = (
            f"{100 * self.words[kind] / total:.1f} %" for kind in ("own", "parts", "letters", "unknown")
        )
        return (
            f"{self.num_phrases} phrases, {self.words.total()} words: {own} have a token of their own, {parts} are "
            f"put together from parts, {letters} are spelled letter by letter, {unknown} are unknown"
        )

    def list_warnings(self) -> list[str]:
        """What is worth a warning, each in a sentence of its own."""
        warnings = []
        if self.num_cut:
            warnings.append(
                f"{self.num_cut} of {self.num_phrases} phrases have more than {self.max_length} tokens and lose their "
                f"last words, such as {self.example!r}. Raise `max_length`, or use a vocabulary that has their words."
            )
        if self.known_share < LOW_COVERAGE:
            warnings.append(
                f"{100 * (1 - self.known_share):.1f} % of the words of phrases are unknown to the vocabulary or "
                "spelled letter by letter: little can be learned from them. Use a vocabulary that has them."
            )
        return warnings


def measure_coverage(phrases: Iterable[str], tokenizer: Any, max_length: int | None = None) -> PhraseCoverage:
    """Counts cut phrases and what the vocabulary has for their words; every different word is looked up once.

    Args:
        phrases (iterable of `str`): phrases as the data set has them.
        tokenizer: of the model.
        max_length (`int`, *optional*): tokens of a phrase at most, [CLS] included; not cut by default.
    """
    coverage, known = PhraseCoverage(max_length=max_length), {}
    for phrase in phrases:
        coverage.num_phrases += 1
        length = 1  # [CLS]
        for word in clean_caption(phrase).split():
            if word not in known:
                known[word] = classify_word(word, tokenizer)
            kind, num_tokens = known[word]
            coverage.words[kind] += 1
            length += num_tokens
        if max_length is not None and length > max_length:
            coverage.num_cut += 1
            if not coverage.example:
                coverage.example = phrase if len(phrase) <= SHOWN_CHARACTERS else f"{phrase[:SHOWN_CHARACTERS]}..."
    return coverage


__all__ = ["PhraseCoverage", "classify_word", "find_unknown_words", "measure_coverage"]
