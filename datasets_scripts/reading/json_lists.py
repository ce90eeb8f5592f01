# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""JSON lists and objects of gigabytes, read entry by entry: no more than an entry and a chunk of text is in memory."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from albef_amc.text_files_albef import TextEncodingError, open_text_file

CHUNK_LENGTH = 1 << 20
# An entry is an image with captions and boxes. Text that is longer and still no entry is damaged.
MAX_ENTRY_LENGTH = 1 << 26
DECODER = json.JSONDecoder()
WHITESPACE = re.compile(r"[ \t\n\r]*")
NO_END = re.compile(r"[^,}\]]*")  # what a number or a word outside of lists may hold, and more


def iterate_json_list(path: Path, chunk_length: int = CHUNK_LENGTH) -> Iterator[dict[str, Any]]:
    """Entries of a file that holds one list of objects.

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
    """Keys and values of a file that holds one object whose values are lists or objects.

    Args:
        path (`Path`): the file, UTF-8.
        chunk_length (`int`, defaults to 2 ** 20): characters read at a time.

    Returns:
        iterator of `tuple`: key and value in their order; a repeated key comes again.

    Raises:
        ValueError: not such an object, or cut off; the message names file and entry.
    """
    yield from _iterate(path, chunk_length, "{}", "an object with keys", _ChunkReader.decode_member)


def iterate_json_lists(path: Path, chunk_length: int = CHUNK_LENGTH) -> Iterator[tuple[str, dict[str, Any]]]:
    """Entries of all lists of objects in a file that holds one object, as COCO's files do.

    Args:
        path (`Path`): the file, UTF-8.
        chunk_length (`int`, defaults to 2 ** 20): characters read at a time.

    Returns:
        iterator of `tuple`: key of the list and entry, in their order. Other values are passed over.

    Raises:
        ValueError: not such an object, or cut off; the message names file and the number of whole entries before.
    """
    number = 0
    try:
        with open_text_file(path) as file:
            reader = _ChunkReader(file, chunk_length)
            for _ in reader.iterate_items("{", "}"):
                key = reader.decode_key()
                if reader.peek() != "[":
                    reader.pass_value()
                    continue
                for _ in reader.iterate_items("[", "]"):
                    yield key, reader.decode_object()
                    number += 1
            if reader.peek():
                raise ValueError(f"`{reader.peek()}` after the end of the object")
    except TextEncodingError:
        raise
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be read after {number} entries ({error}). It may be cut off or of another format: fetch "
            "it again."
        ) from error


def _iterate(
    path: Path, chunk_length: int, ends: str, kind: str, decode: Callable[["_ChunkReader"], Any]
) -> Iterator[Any]:
    """What `decode` takes between the first and the last character of a file, separated by commas."""
    first, last = ends[0], ends[1]
    number = 0
    try:
        with open_text_file(path) as file:
            reader = _ChunkReader(file, chunk_length)
            if reader.peek() not in (first, ""):
                raise ValueError(f"{kind} is expected at the top level")
            reader.skip(first)
            while reader.peek() != last or number:
                yield decode(reader)
                number += 1
                if reader.peek() == last:
                    break
                reader.skip(",")
            reader.skip(last)
            if reader.peek():
                raise ValueError(f"`{reader.peek()}` after the end of {kind}")
    except TextEncodingError:
        raise
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be read at entry {number} ({error}). It may be cut off or of another format: fetch it "
            "again."
        ) from error


class _ChunkReader:
    """Decodes values from the front of a text that grows by chunks."""

    def __init__(self, file: TextIO, chunk_length: int):
        self.file = file
        self.chunk_length = chunk_length
        self.text = ""
        self.position = 0

    def peek(self) -> str:
        """The next character that is no space, without taking it; empty at the end of the file."""
        while True:
            found = WHITESPACE.match(self.text, self.position)
            self.position = found.end() if found else self.position
            if self.position < len(self.text):
                return self.text[self.position]
            if not self._extend():
                return ""

    def skip(self, character: str) -> None:
        """Takes the next character, which must be this one."""
        if self.peek() != character:
            raise ValueError(f"`{character}` is expected here, found {self.peek() or 'the end of the file'}")
        self.position += 1

    def decode(self) -> Any:
        """Takes the next value; what is cut off by the chunk is tried again with more text."""
        while True:
            try:
                value, self.position = DECODER.raw_decode(self.text, self.position)
                return value
            except ValueError as error:
                is_whole = not isinstance(error, json.JSONDecodeError)  # a number with too many digits, for example
                if is_whole or len(self.text) - self.position > MAX_ENTRY_LENGTH or not self._extend():
                    raise

    def decode_object(self) -> dict[str, Any]:
        """Takes the next value, which must be an object."""
        if self.peek() not in ("{", ""):
            raise ValueError(f"`{self.peek()}` where an object in braces is expected")
        return self.decode()

    def decode_member(self) -> tuple[str, Any]:
        """Takes a key and its value, which must be a list or an object: a number could be cut by the chunk."""
        key = self.decode_key()
        if self.peek() not in ("[", "{", ""):
            raise ValueError(f"`{self.peek()}` where a list or an object is expected")
        return key, self.decode()

    def decode_key(self) -> str:
        """Takes a key and the colon behind it."""
        if self.peek() not in ('"', ""):
            raise ValueError(f"`{self.peek()}` where a key in quotes is expected")
        key = self.decode()
        self.skip(":")
        return key

    def pass_value(self) -> None:
        """Passes over the next value; of a number or a word every character that is there."""
        if self.peek() in ('"', "{", ""):
            self.decode()
            return
        while self.peek() not in (",", "}", "]", ""):
            self.position = NO_END.match(self.text, self.position).end()

    def iterate_items(self, first: str, last: str) -> Iterator[None]:
        """Stops before each item of a list or an object and takes what stands between the items."""
        self.skip(first)
        if self.peek() == last:
            self.position += 1
            return
        while True:
            yield
            if self.peek() == last:
                self.position += 1
                return
            self.skip(",")

    def _extend(self) -> bool:
        """Reads at least as much again as is left over, so that a long entry is not tried too often."""
        rest = self.text[self.position :]
        chunk = self.file.read(max(self.chunk_length, len(rest)))
        self.text, self.position = rest + chunk, 0
        return bool(chunk)
