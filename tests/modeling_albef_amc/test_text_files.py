# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Text files as editors of all systems write them: a byte-order mark is skipped, another encoding is refused."""

import json
from pathlib import Path

import pytest
from PIL import Image

from albef_amc.cli.main import main
from albef_amc.datasets_scripts import ReadingReport, load_grounding_dataset, read_answer_list
from albef_amc.datasets_scripts.flickr30k_entities.author_files import (
    load_image_ids,
    load_unrelated_captions,
    read_captions,
)
from albef_amc.datasets_scripts.reading.json_lists import iterate_json_list, iterate_json_lists, iterate_json_object
from albef_amc.datasets_scripts.reading.xml_files import read_xml
from albef_amc.evaluation.protocols import load_evaluation_recipe
from albef_amc.model_cards import read_metrics
from albef_amc.text_files_albef import CHUNK_BYTES, TextEncodingError, load_json, open_text_file, read_text_file
from albef_amc.text_processing_albef import build_tokenizer
from albef_amc.trainer.training_recipes import load_recipe


def read_rows(path: Path) -> list:
    Image.new("RGB", (8, 8)).save(path.parent / "a.png")
    rows = load_grounding_dataset("jsonl", path.stem, data_root=path.parent, cache_dir=str(path.parent / "cache"))
    return rows.remove_columns("image").to_list()


VOCABULARY = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncafé\n"
# Name of the file, what it holds, and its reader.
READERS = {
    "list": ("a.json", '[{"a": "café"}]', lambda path: list(iterate_json_list(path))),
    "object": ("a.json", '{"a": ["café"]}', lambda path: list(iterate_json_object(path))),
    "lists": ("a.json", '{"a": [{"b": "café"}]}', lambda path: list(iterate_json_lists(path))),
    "json": ("a.json", '{"a": "café"}', load_json),
    "answers": ("answer_list.json", '["café"]', read_answer_list),
    "jsonl": ("mine.jsonl", '{"image": "a.png", "phrases": [{"phrase": "café"}]}\n', read_rows),
    "captions": ("7.txt", "A [/EN#3/other café] .\n", lambda path: read_captions(path, ReadingReport())),
    "unrelated": ("UNRELATED_CAPTIONS", "123 4 # café\n", load_unrelated_captions),
    "recipe": ("mine.yaml", "base: demo\ncard: {description: café}\n", load_recipe),
    "evaluation": ("mine.yaml", "data: {name: café}\nsplits: {test: test}\n", load_evaluation_recipe),
    "vocabulary": ("vocab.txt", VOCABULARY, lambda path: build_tokenizer(path).get_vocab()),
}


def write(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir()
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("kind", READERS)
def test_a_byte_order_mark_is_skipped_by_every_reader(kind, tmp_path):
    name, text, read = READERS[kind]
    plain = read(write(tmp_path / "plain", name, text.encode()))
    assert read(write(tmp_path / "marked", name, b"\xef\xbb\xbf" + text.encode())) == plain
    assert read(write(tmp_path / "windows", name, b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())) == plain


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", r"is UTF-16 text; UTF-8 is expected. .*`iconv -f UTF-16 -t UTF-8`"),
        ("utf-16-le", r", line 1 \(byte 1\) is a NUL byte, which no text has: the file is UTF-16"),
        ("utf-16-be", r", line 1 \(byte 0\) is a NUL byte"),
        ("utf-32", "is UTF-32 text; UTF-8 is expected"),
        ("latin-1", r", line \d+ \(byte \d+\): the byte 0xe9 is not UTF-8. .*`iconv -f LATIN1 -t UTF-8`"),
    ],
)
def test_another_encoding_is_refused_by_every_reader_with_file_and_place(kind, encoding, message, tmp_path):
    name, text, read = READERS[kind]
    path = write(tmp_path / "other", name, text.encode(encoding))
    with pytest.raises(TextEncodingError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\n\xffc", r"line 3 \(byte 4\): the byte 0xff"),
        (b"\xef\xbb\xbfa\n\xe9", r"line 2 \(byte 5\): the file ends within a character .byte 0xe9.. It is cut off"),
        (b"a\n" * CHUNK_BYTES + b"\x80", rf"line {CHUNK_BYTES + 1} \(byte {2 * CHUNK_BYTES}\): the byte 0x80"),
        (b"a" * (CHUNK_BYTES - 1) + b"\xc3\xa9\n\xc3(", rf"line 2 \(byte {CHUNK_BYTES + 2}\): the byte 0xc3"),
        (b"a" * CHUNK_BYTES + b"\n\0", rf"line 2 \(byte {CHUNK_BYTES + 1}\) is a NUL byte"),
        (b"caf\xc3\xa9\n" + b"\0" * 3, r"line 2 \(byte 6\) is a NUL byte"),
        (b"a\0\xff", r"line 1 \(byte 1\) is a NUL byte"),
    ],
)
def test_the_first_bad_byte_is_counted_by_line_and_offset(content, message, tmp_path):
    path = write(tmp_path / "bad", "a.txt", content)
    with pytest.raises(TextEncodingError, match=message):
        read_text_file(path)


def test_whole_texts_are_read(tmp_path):
    assert read_text_file(write(tmp_path / "empty", "a.txt", b"")) == ""
    assert read_text_file(write(tmp_path / "mark", "a.txt", b"\xef\xbb\xbf")) == ""
    assert read_text_file(write(tmp_path / "long", "a.txt", "né\r\n".encode() * CHUNK_BYTES)) == "né\n" * CHUNK_BYTES
    with open_text_file(write(tmp_path / "part", "a.txt", b"one\ntwo\n" + b"a" * CHUNK_BYTES + b"\xff")) as file:
        assert next(file) == "one\n"  # what is not read is not decoded


def test_ids_of_a_split_are_read_after_a_byte_order_mark(tmp_path):
    path = write(tmp_path / "ids", "train.txt", b"\xef\xbb\xbf12\r\n13\r\n")
    assert load_image_ids(path, ReadingReport()) == ["12", "13"]


def test_metrics_are_read_after_a_byte_order_mark(tmp_path):
    result = {"pointing_game_accuracy": 0.5, "num_phrases": 2}
    path = write(tmp_path / "metrics", "metrics.json", b"\xef\xbb\xbf" + json.dumps(result).encode())
    assert read_metrics(path) == {"all": result}


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [("", "utf-8-sig"), ("", "utf-16"), ('<?xml version="1.0" encoding="latin-1"?>', "latin-1")],
)
def test_xml_is_read_in_the_encoding_that_it_declares(declared, encoding, tmp_path):
    path = write(tmp_path / "xml", "a.xml", f"{declared}<a>café</a>".encode(encoding))
    assert read_xml(path).text == "café"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "<a>café</a>".encode("latin-1"),
            "not well-formed XML in .*UTF-8: .*line 1",
        ),
        ("<a>café</a>".encode("utf-32"), "not well-formed XML"),
        (b'<?xml version="1.0" encoding="klingon"?><a/>', "unknown encoding: klingon"),
        (b'<?xml version="1.0" encoding="utf-7"?><a/>', "multi-byte encodings are not supported"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><a>&a;</a>'.encode("utf-16"), "a document type `x` is declared"),
        (b"", "no element found"),
    ],
)
def test_xml_that_cannot_be_read_says_why(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_xml(write(tmp_path / "xml", "a.xml", content))


def test_the_command_line_says_it_in_one_line(tmp_path, capsys):
    path = write(tmp_path / "raw", "train.jsonl", '{"image": "a.png"}\n'.encode("utf-16"))
    assert main(["build-dataset", "jsonl", "--data", f"data_root={path.parent}", "-o", str(tmp_path / "built")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"albef-amc: error: {path} is UTF-16 text; UTF-8 is expected.")
