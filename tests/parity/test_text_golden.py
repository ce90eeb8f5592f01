# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Caption cleaning and WordPiece tokens against the reference outputs of the published code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from albef_amc.text_processing_albef import build_tokenizer, clean_caption, clean_question, clean_with_offsets

GOLDEN = Path(__file__).parent / "golden"
CLEANING = json.loads((GOLDEN / "metrics" / "captions.json").read_text(encoding="utf-8"))
TOKENIZER = json.loads((GOLDEN / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))

RELOAD = """
import json, sys
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
captions, answers = json.load(sys.stdin)
print(json.dumps({
    "rows": [tokenizer(caption)["input_ids"] for caption in captions],
    "answers": tokenizer(answers)["input_ids"],
    "padded": dict(tokenizer(captions, padding="longest", truncation=True, max_length=25)),
    "limit": tokenizer.model_max_length,
}))
"""


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(TOKENIZER["vocab"])


@pytest.mark.parametrize("entry", CLEANING, ids=range(len(CLEANING)))
def test_cleaning_equals_the_published_one(entry):
    limits = [int(key.rsplit("_", 1)[1]) for key in entry if key.startswith("pre_caption_")]
    assert limits
    for limit in limits:
        assert clean_caption(entry["text"], limit) == entry[f"pre_caption_{limit}"]
        assert clean_question(entry["text"], limit) == entry[f"pre_question_{limit}"]
        assert clean_with_offsets(entry["text"], limit)[0] == entry[f"pre_caption_{limit}"]


def test_captions_of_the_tokenizer_golden_are_cleaned_alike():
    assert [clean_caption(text, 50) for text in TOKENIZER["captions_raw"]] == TOKENIZER["captions"]


def test_padded_and_truncated_ids(tokenizer):
    batch = tokenizer(TOKENIZER["captions"], padding="longest", truncation=True, max_length=TOKENIZER["max_length"])
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["input_ids"] == TOKENIZER["input_ids"]
    assert batch["attention_mask"] == TOKENIZER["attention_mask"]


def test_rows_on_their_own(tokenizer):
    rows = [tokenizer(caption)["input_ids"] for caption in TOKENIZER["captions"]]
    assert rows == TOKENIZER["input_ids_unpadded_untruncated"]


def test_answers_end_with_the_separator_that_their_text_names(tokenizer):
    assert tokenizer(TOKENIZER["answers_with_eos_text"])["input_ids"] == TOKENIZER["answers_with_eos_input_ids"]


@pytest.mark.slow
def test_ids_after_a_reload_in_a_fresh_process(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    answer = subprocess.run(
        [sys.executable, "-c", RELOAD, str(tmp_path)],
        input=json.dumps([TOKENIZER["captions"], TOKENIZER["answers_with_eos_text"]]),
        capture_output=True,
        text=True,
        check=True,
    )
    reloaded = json.loads(answer.stdout)
    assert reloaded["rows"] == TOKENIZER["input_ids_unpadded_untruncated"]
    assert reloaded["answers"] == TOKENIZER["answers_with_eos_input_ids"]
    assert reloaded["padded"] == {key: TOKENIZER[key] for key in ("input_ids", "attention_mask")}
    assert reloaded["limit"] == 512
