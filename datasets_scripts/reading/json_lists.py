# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""JSON lists and objects of gigabytes, read entry by entry: memory holds one entry and one chunk of text."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from albef_amc.text_files_albef import TextEncodingError, open_text_file

CHUNK_LENGTH = 1 << 20
# Longer than any image with captions and boxes: a longer entry is damaged.
MAX_ENTRY_LENGTH = 1 << 26
DECODER = json.JSONDecoder()
WHITESPACE = re.compile(r"[ \t\n\r]*")
NO_END = re.compile(r"[^,}\]]*")  # covers a number or a literal outside of lists


def iterate_json_list(path: Path, chunk_length: int = CHUNK_LENGTH) -> Iterator[dict[str, Any]]:
    """Iterate over the entries of a file that holds one list of objects.

    Args:
        path (`Path`): the file, UTF-8.
        chunk_length (`int`, defaults to 2 ** 20): characters read at a time.

    Returns:
        iterator of `dict`: the entries in their order.

    Raises:
        ValueError: not a list of objects, or cut off; the message names file and entry.
    """
    yield from _iterate(path, chunk_length, "[]", "a list of entries", _ChunkReader.decode_object)


def iterate_json_object(path: Path, chunk_length: int = CHUNK_LENGTH) -> Iterator[tuple[str, Any]]:
    """Iterate over keys and values of a file that holds one object whose values are lists or objects.

    Args:
        path (`Path`): the file, UTF-8.
        chunk_length (`int`, defaults to 2 ** 20): characters read at a time.

    Returns:
        iterator of `tuple`: key and value in their order; a repeated key is repeated.

    Raises:
        ValueError: another form, or cut off; the message names file and entry.
    """
    yield from _iterate(path, chunk_length, "{}", "an object with keys", _ChunkReader.decode_member)


def iterate_json_lists(path: Path, chunk_length: int = CHUNK_LENGTH) -> Iterator[tuple[str, dict[str, Any]]]:
    """Iterate over the entries of all lists in a file that holds one object, as in COCO's files.

    Args:
        path (`Path`): the file, UTF-8.
        chunk_length (`int`, defaults to 2 ** 20): characters read at a time.

    Returns:
        iterator of `tuple`: key of the list and entry, in their order. Other values are skipped.

    Raises:
        ValueError: another form, or cut off; the message names file and number of complete entries.
    """
    number = 0
    with _naming_damage(path, lambda: f"after {number} entries"), open_text_file(path) as file:
        reader = _ChunkReader(file, chunk_length)
        for _ in reader.iterate_items("{", "}"):
            key = reader.decode_key()
            if reader.peek() != "[":
                reader.skip_value()
                continue
            for _ in reader.iterate_items("[", "]"):
                yield key, reader.decode_object()
                number += 1
        reader.check_end("the object")


def _iterate(
    path: Path, chunk_length: int, ends: str, kind: str, decode: Callable[["_ChunkReader"], Any]
) -> Iterator[Any]:
    """Values that `decode` takes between the first and the last character of a file, separated by commas."""
    number = 0
    with _naming_damage(path, lambda: f"at entry {number}"), open_text_file(path) as file:
        reader = _ChunkReader(file, chunk_length)
        if reader.peek() not in (ends[0], ""):
            raise ValueError(f"{kind} is expected at the top level")
        for _ in reader.iterate_items(*ends):
            yield decode(reader)
            number += 1
        reader.check_end(kind)


@contextmanager
def _naming_damage(path: Path, describe_place: Callable[[], str]) -> Iterator[None]:
    """Add file and place to an error of the decoder."""
    try:
        yield
    except TextEncodingError:
        raise
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be read {describe_place()} ({error}). It may be cut off or of another format: fetch it "
            "again."
        ) from error


class _ChunkReader:
    """Decoder of values at the start of a text that grows by chunks."""

    def __init__(self, file: TextIO, chunk_length: int):
        self.file = file
        self.chunk_length = chunk_length
        self.text = ""
        self.position = 0

    def peek(self) -> str:
        """Next character that is not white space, without taking it; empty at the end of the file."""
        while True:
            found = WHITESPACE.match(self.text, self.position)
            self.position = found.end() if found else self.position
            if self.position < len(self.text):
                return self.text[self.position]
            if not self._extend():
                return ""

    def skip(self, character: str) -> None:
        """Take the next character, which must be this one."""
        if self.peek() != character:
            raise ValueError(f"`{character}` is expected here, found {self.peek() or 'the end of the file'}")
        self.position += 1

    def decode(self) -> Any:
        """Take the next value; one that is cut by the chunk is decoded again with more text."""
        while True:
            try:
                value, self.position = DECODER.raw_decode(self.text, self.position)
                return value
            except ValueError as error:
                is_complete = not isinstance(error, json.JSONDecodeError)  # such as a number with too many digits
                if is_complete or len(self.text) - self.position > MAX_ENTRY_LENGTH or not self._extend():
                    raise

    def decode_object(self) -> dict[str, Any]:
        """Take the next value, which must be an object."""
        if self.peek() not in ("{", ""):
            raise ValueError(f"`{self.peek()}` where an object in braces is expected")
        return self.decode()

    def decode_member(self) -> tuple[str, Any]:
        """Take a key and its value, which must be a list or an object: a number could be cut by the chunk."""
        key = self.decode_key()
        if self.peek() not in ("[", "{", ""):
            raise ValueError(f"`{self.peek()}` where a list or an object is expected")
        return key, self.decode()

    def decode_key(self) -> str:
        """Take a key and the colon after it."""
        if self.peek() not in ('"', ""):
            raise ValueError(f"`{self.peek()}` where a key in quotes is expected")
        key = self.decode()
        self.skip(":")
        return key

    def skip_value(self) -> None:
        """Skip the next value."""
        if self.peek() in ('"', "{", ""):
            self.decode()
            return
        while self.peek() not in (",", "}", "]", ""):
            self.position = NO_END.match(self.text, self.position).end()

    def iterate_items(self, first: str, last: str) -> Iterator[None]:
        """Yield before each item of a list or an object, and take the commas between them."""
        self.skip(first)
        if self.peek() != last:
            yield
            while self.peek() != last:
                self.skip(",")
                yield
        self.skip(last)

    def check_end(self, kind: str) -> None:
        """Refuse text after the last value."""
        if self.peek():
            raise ValueError(f"`{self.peek()}` after the end of {kind}")

    def _extend(self) -> bool:
        """Read at least as much text as remains, so that a long entry is not decoded too often."""
        rest = self.text[self.position :]
        chunk = self.file.read(max(self.chunk_length, len(rest)))
        self.text, self.position = rest + chunk, 0
        return bool(chunk)
