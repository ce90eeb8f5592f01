# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""JSON lists of gigabytes, read entry by entry: no more than an entry and a chunk of text is in memory."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

CHUNK_LENGTH = 1 << 20
# An entry is an image with captions and boxes. Text that is longer and still no entry is damaged.
MAX_ENTRY_LENGTH = 1 << 26
DECODER = json.JSONDecoder()
WHITESPACE = re.compile(r"[ \t\n\r]*")


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
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            reader = _ChunkReader(file, chunk_length)
            if reader.peek() not in ("[", ""):
                raise ValueError("a list of entries is expected at the top level")
            reader.skip("[")
            while reader.peek() != "]" or number:
                if reader.peek() not in ("{", ""):
                    raise ValueError(f"`{reader.peek()}` where an object in braces is expected")
                yield reader.decode()
                number += 1
                if reader.peek() == "]":
                    break
                reader.skip(",")
            reader.skip("]")
            if reader.peek():
                raise ValueError(f"`{reader.peek()}` behind the end of the list")
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

    def decode(self) -> dict[str, Any]:
        """Takes the next value; what is cut off by the chunk is tried again with more text."""
        while True:
            try:
                value, self.position = DECODER.raw_decode(self.text, self.position)
                return value
            except ValueError:
                if len(self.text) - self.position > MAX_ENTRY_LENGTH or not self._extend():
                    raise

    def _extend(self) -> bool:
        """Reads at least as much again as is left over, so that a long entry is not tried too often."""
        rest = self.text[self.position :]
        chunk = self.file.read(max(self.chunk_length, len(rest)))
        self.text, self.position = rest + chunk, 0
        return bool(chunk)
