# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Text processing of ALBEF: cleaning of captions and questions, and BERT's tokenizer with [CLS] and without [SEP]."""

import json
import re
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .collections_albef import describe_type
from .text_files_albef import read_text_file

# Applied in this order: (pattern, replacement, characters to skip in a match to find the source of the replacement).
DELETIONS = (r"[,.'!?\"()*#:;~]", "", 0)
BREAKS = (r"[-/]", " ", 0)
PERSON_TAG = (r"<person>", "person", 1)
WHITE_SPACE_RUNS = (r"\s{2,}", " ", 0)
SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
# What BERT's normaliser deletes or treats as white space: control and format characters, and combining marks.
NO_WORD_CATEGORIES = ("Cc", "Cf", "Co", "Mn", "Zl", "Zp", "Zs")
REPLACEMENT_CHARACTER = "\ufffd"
PLAIN_WORD = re.compile(r"[A-Za-z0-9]")  # kept by the cleaning and by every normaliser


def find_text_problem(text: Any) -> str | None:
    """Explain why a phrase, caption or question cannot be used, as the end of a sentence; `None` if it can.

    All parts of the package share this rule: builders skip a text that it refuses, training and the processor raise
    an error, and an evaluation names the phrase and continues.

    Args:
        text: the value given as a text.

    Example:

    ```python
    >>> from albef_amc.text_processing_albef import find_text_problem
    >>> find_text_problem("a dog"), find_text_problem("..."), find_text_problem(5)
    (None, 'has no words once it is cleaned (punctuation is removed)', 'is a int, not a text')

    ```
    """
    if not isinstance(text, str):
        return f"is {describe_type(text)}, not a text"
    broken = find_broken_character(text)
    if broken is not None or PLAIN_WORD.search(text):
        return broken
    characters = unicodedata.normalize("NFD", clean_caption(text))
    if all(unicodedata.category(one) in NO_WORD_CATEGORIES or one == REPLACEMENT_CHARACTER for one in characters):
        return "has no words once it is cleaned (punctuation is removed)"
    return None


def find_broken_character(text: str) -> str | None:
    """Explain why a text cannot be stored, as the end of a sentence; JSON and file names can hold such texts."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"has half of a character (an unpaired surrogate) at position {error.start}"
    return None


def clean_caption(text: str, max_words: int | None = None) -> str:
    """Clean a caption or a phrase as the published models saw it in training.

    Args:
        text (`str`): raw text.
        max_words (`int`, *optional*): number of words to keep, split at single spaces; all by default.

    Returns:
        `str`: lower-case text without punctuation; hyphens and slashes become spaces, runs of white space one space.

    Example:

    ```python
    >>> from albef_amc.text_processing_albef import clean_caption
    >>> clean_caption("A half-open door, (left).")
    'a half open door left'

    ```
    """
    return clean_with_offsets(text, max_words)[0]


def clean_question(text: str, max_words: int | None = None) -> str:
    """Clean a question: like a caption, but `<person>`, leading spaces and runs of white space stay.

    Args:
        text (`str`): raw question.
        max_words (`int`, *optional*): number of words to keep, empty words between two spaces included; all by
            default.
    """
    cleaned, _ = _substitute(text, (DELETIONS, BREAKS))
    return _keep_words(cleaned.rstrip(" "), max_words)


def clean_with_offsets(text: str, max_words: int | None = None) -> tuple[str, list[int]]:
    """Clean a caption and return the source position of each character.

    A phrase's span has offsets in the raw caption, its tokens have offsets in the cleaned one: this maps one to the
    other.

    Args:
        text (`str`): raw caption.
        max_words (`int`, *optional*): number of words to keep; all by default.

    Returns:
        `tuple[str, list[int]]`: the cleaned caption and, for each of its characters, its source index in `text`.

    Example:

    ```python
    >>> from albef_amc.text_processing_albef import clean_with_offsets
    >>> clean_with_offsets("A, b")
    ('a b', [0, 2, 3])

    ```
    """
    cleaned, sources = _substitute(text, (DELETIONS, BREAKS, PERSON_TAG, WHITE_SPACE_RUNS))
    cleaned = cleaned.rstrip("\n").rstrip(" ")
    start = len(cleaned) - len(cleaned.lstrip(" "))
    cleaned = _keep_words(cleaned[start:], max_words)
    return cleaned, sources[start : start + len(cleaned)]


def _keep_words(text: str, max_words: int | None) -> str:
    if max_words is not None and max_words < 1:
        raise ValueError(f"`max_words` must be at least 1, or None for no limit, got {max_words}.")
    return " ".join(text.split(" ")[:max_words])


def _substitute(text: str, rules: Sequence[tuple[str, str, int]]) -> tuple[str, list[int]]:
    """Lower-case `text` and apply the rules in order; also return the source index of every character."""
    if not isinstance(text, str):
        raise TypeError(f"a text to clean is expected, got {describe_type(text)}.")
    sources = [index for index, character in enumerate(text) for _ in character.lower()]
    text = text.lower()
    for pattern, replacement, skipped in rules:
        parts, kept, end = [], [], 0
        for match in re.finditer(pattern, text):
            first = match.start() + skipped
            parts += [text[end : match.start()], replacement]
            kept += sources[end : match.start()] + sources[first : first + len(replacement)]
            end = match.end()
        text, sources = "".join(parts) + text[end:], kept + sources[end:]
    return text, sources


def build_tokenizer(vocab: str | Path | Sequence[str], model_max_length: int = 512) -> PreTrainedTokenizerFast:
    """Build BERT's lower-casing WordPiece tokenizer that adds [CLS] before a text and NO [SEP] after it.

    It is a `PreTrainedTokenizerFast` because `BertTokenizer` rebuilds its template when it is loaded, which would
    restore [SEP].

    Args:
        vocab (`str`, `Path` or sequence of `str`): a `vocab.txt` with one token per line, or the tokens; a token's
            position is its id.
        model_max_length (`int`, defaults to 512): positions of the text encoder, [CLS] included.

    Returns:
        `PreTrainedTokenizerFast`: returns `input_ids` and `attention_mask`, pads on the right.

    Example:

    ```python
    >>> from albef_amc.text_processing_albef import build_tokenizer
    >>> build_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog", "##s"])("Dogs")["input_ids"]
    [2, 5, 6]

    ```
    """
    tokens = _read_vocabulary(vocab) if isinstance(vocab, str | Path) else list(vocab)
    missing = [token for token in SPECIAL_TOKENS.values() if token not in tokens]
    if missing:
        raise ValueError(
            f"the vocabulary lacks {', '.join(missing)}. Use BERT's `vocab.txt`, or add the special tokens "
            f"{', '.join(SPECIAL_TOKENS.values())}."
        )
    ids = {token: index for index, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        repeated = next(token for index, token in enumerate(tokens) if ids[token] != index)
        raise ValueError(
            f"the vocabulary lists {repeated!r} more than once: a token needs a single id. Remove one of them."
        )
    return _load_tokenizer(_describe_tokenizer(ids), SPECIAL_TOKENS, model_max_length)


def build_tokenizer_like(tokenizer: PreTrainedTokenizerBase, model_max_length: int = 512) -> PreTrainedTokenizerFast:
    """Build a tokenizer with the vocabulary and normalisation of another BERT's, with [CLS] before and NO [SEP] after.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): a WordPiece tokenizer of any language, with all special tokens.
        model_max_length (`int`, defaults to 512): positions of the text encoder, [CLS] included.
    """
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = description["model"]["type"]
    if kind != "WordPiece":
        raise ValueError(f"the tokenizer is of the type {kind}, but BERT's is WordPiece. Use one of a BERT.")
    template = _describe_template(tokenizer.cls_token, tokenizer.cls_token_id)
    description |= {"truncation": None, "padding": None, "post_processor": template}
    return _load_tokenizer(description, {name: getattr(tokenizer, name) for name in SPECIAL_TOKENS}, model_max_length)


def _load_tokenizer(
    description: dict, special_tokens: dict[str, str], model_max_length: int
) -> PreTrainedTokenizerFast:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        file.write_text(json.dumps(description), encoding="utf-8")
        return PreTrainedTokenizerFast(
            tokenizer_file=str(file),
            model_max_length=model_max_length,
            model_input_names=["input_ids", "attention_mask"],
            padding_side="right",
            truncation_side="right",
            **special_tokens,
        )


def _describe_template(cls_token: str, cls_id: int) -> dict:
    """Build the part of `tokenizer.json` that adds [CLS] before a text."""
    cls_part = {"SpecialToken": {"id": cls_token, "type_id": 0}}
    first_part, second_part = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [cls_part, first_part],
        "pair": [cls_part, first_part, second_part],
        "special_tokens": {cls_token: {"id": cls_token, "ids": [cls_id], "tokens": [cls_token]}},
    }


def _describe_tokenizer(ids: dict[str, int]) -> dict:
    """Build the content of `tokenizer.json`: BERT's normaliser and splitter, WordPiece, [CLS] first."""
    cls_token = SPECIAL_TOKENS["cls_token"]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": ids[token], "content": token, "special": True, "normalized": False}
            | {"single_word": False, "lstrip": False, "rstrip": False}
            for token in SPECIAL_TOKENS.values()
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _describe_template(cls_token, ids[cls_token]),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": SPECIAL_TOKENS["unk_token"],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": ids,
        },
    }


def _read_vocabulary(path: str | Path) -> list[str]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No vocabulary at {path}. Give the path of a `vocab.txt` with one token per line.")
    return read_text_file(path).rstrip("\n").split("\n")


__all__ = [
    "build_tokenizer",
    "build_tokenizer_like",
    "clean_caption",
    "clean_question",
    "clean_with_offsets",
    "find_broken_character",
    "find_text_problem",
]
