# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Cleaning of captions, its offsets, and the WordPiece tokenizer."""

import os
from pathlib import Path

import pytest

from albef_amc.text_processing_albef import build_tokenizer, clean_caption, clean_question, clean_with_offsets

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog", "##s", "left"]
BERT_VOCABULARY = Path(os.environ.get("ALBEF_AMC_DATA", "../shared/data")) / "bert_vocab" / "vocab.txt"


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("A half-open door, (left).", "a half open door left"),
        ("<person>'s  bike", "persons bike"),
        ("<per.son>", "person"),
        ("?!", ""),
        ("a\n\n", "a"),
        ("\n", ""),
    ],
)
def test_clean_caption(raw, cleaned):
    assert clean_caption(raw) == cleaned


def test_max_words_keeps_the_first_words():
    assert clean_caption("one two, three", 2) == "one two"
    assert clean_question(" one two", 2) == " one"


@pytest.mark.parametrize("clean", [clean_caption, clean_question])
def test_max_words_must_be_positive(clean):
    with pytest.raises(ValueError, match="`max_words` must be at least 1"):
        clean("a dog", 0)


@pytest.mark.parametrize(
    "raw",
    [
        "A, b",
        "  lead - trail  ",
        "<PERSON> on a <person>",
        "İstanbul / STRASSE",
        "ΟΔΟΣ.",
        "a\n\n b\n",
        "?!",
        "",
        "x--y",
    ],
)
@pytest.mark.parametrize("limit", [None, 1, 3])
def test_offsets_point_at_the_source_of_every_character(raw, limit):
    cleaned, sources = clean_with_offsets(raw, limit)
    assert cleaned == clean_caption(raw, limit)
    assert len(sources) == len(cleaned)
    assert sources == sorted(sources)
    for character, source in zip(cleaned, sources, strict=True):
        if character == " ":
            assert raw[source].isspace() or raw[source] in "-/"
        else:
            assert character in raw[source].lower() or character.upper() == raw[source]


def test_offsets_of_a_span():
    raw = "Well -- the (RED) dog!"
    cleaned, sources = clean_with_offsets(raw)
    start, end = raw.index("RED"), raw.index("RED") + 3
    assert "".join(c for c, s in zip(cleaned, sources, strict=True) if start <= s < end) == "red"


def test_class_token_before_and_no_separator_after():
    batch = build_tokenizer(TOKENS)(["a red dogs", "left"], padding=True)
    assert batch == {"input_ids": [[2, 5, 6, 7, 8], [2, 9, 0, 0, 0]], "attention_mask": [[1] * 5, [1, 1, 0, 0, 0]]}


def test_special_tokens_and_limit():
    tokenizer = build_tokenizer(TOKENS, model_max_length=7)
    assert tokenizer.model_max_length == 7
    ids = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id]
    assert [*ids, tokenizer.mask_token_id] == [0, 1, 2, 3, 4]
    assert tokenizer.decode([2, 5, 7, 8], skip_special_tokens=True) == "a dogs"


def test_vocabulary_file_equals_list(tmp_path):
    for ending in ("\n", "\r\n"):
        file = tmp_path / "vocab.txt"
        file.write_bytes((ending.join(TOKENS) + ending).encode())
        assert build_tokenizer(file).get_vocab() == build_tokenizer(str(file)).get_vocab()
        assert build_tokenizer(file).get_vocab() == {token: index for index, token in enumerate(TOKENS)}


def test_missing_special_tokens_are_named():
    with pytest.raises(ValueError, match=r"lacks \[CLS\], \[MASK\]"):
        build_tokenizer(["[PAD]", "[UNK]", "[SEP]", "dog"])


def test_repeated_token_is_named():
    with pytest.raises(ValueError, match="'dog' more than once"):
        build_tokenizer([*TOKENS, "dog"])


def test_missing_vocabulary_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No vocabulary at .*vocab\.txt"):
        build_tokenizer(tmp_path / "vocab.txt")


@pytest.mark.data
@pytest.mark.skipif(not BERT_VOCABULARY.is_file(), reason="no bert_vocab/vocab.txt: set ALBEF_AMC_DATA")
def test_vocabulary_of_bert():
    tokenizer = build_tokenizer(BERT_VOCABULARY)
    assert len(tokenizer) == 30522
    assert tokenizer(clean_caption("A dog, standing."))["input_ids"] == [101, 1037, 3899, 3061]
    assert [tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id] == [0, 101, 102]
