# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Text files of users: UTF-8 with or without a byte-order mark; other encodings are refused with file and position."""

import codecs
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

ENCODING = "utf-8-sig"  # a byte-order mark at the start is skipped
CHUNK_BYTES = 1 << 20
# Bytes at the start of a file that are searched for signs of another encoding.
START_BYTES = 1 << 12
# Longer marks first: the mark of UTF-32 begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class TextEncodingError(ValueError):
    """A file is not UTF-8 text; the message names the file, the position and the remedy."""


def read_text_file(path: Path) -> str:
    """Read a text file, with line ends as `\\n` and without a byte-order mark.

    Args:
        path (`Path`): the file, UTF-8.

    Raises:
        TextEncodingError: another encoding, or bytes that are not text.
    """
    with open_text_file(path) as file:
        text = file.read()
    if "\0" in text:
        raise TextEncodingError(_describe_bad_byte(path))
    return text


def load_json(path: Path) -> Any:
    """Load a JSON file.

    Raises:
        ValueError: the file is not UTF-8 or not JSON; the message names it.
    """
    try:
        return json.loads(read_text_file(path))
    except TextEncodingError:
        raise
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}). It may be cut off: fetch it again.") from error


@contextmanager
def open_text_file(path: Path) -> Iterator[TextIO]:
    """Open a text file, with line ends as `\\n` and without a byte-order mark.

    Args:
        path (`Path`): the file, UTF-8.

    Raises:
        TextEncodingError: the file begins in another encoding, or a part that is read is not UTF-8.
    """
    with path.open("rb") as file:
        start = file.read(START_BYTES)
    for mark, encoding in MARKS:
        if start.startswith(mark):
            raise TextEncodingError(
                f"{path} is {encoding} text; UTF-8 is expected. Save it as UTF-8, for example with "
                f"`iconv -f {encoding} -t UTF-8`."
            )
    if b"\0" in start:
        raise TextEncodingError(_describe_bad_byte(path))
    try:
        with path.open(encoding=ENCODING) as file:
            yield file
    except UnicodeDecodeError as error:
        raise TextEncodingError(_describe_bad_byte(path)) from error


def _describe_bad_byte(path: Path) -> str:
    """Explain why and where a file is not UTF-8 text."""
    with path.open("rb") as file:
        line, offset, byte, is_cut_off = _find_bad_byte(file)
    position = f"{path}, line {line} (byte {offset})"
    if byte == 0:
        return (
            f"{position} is a NUL byte, which no text has: the file is UTF-16 without a byte-order mark, or damaged. "
            "Save it as UTF-8, or fetch it again."
        )
    if is_cut_off:
        return (
            f"{position}: the file ends within a character (byte 0x{byte:02x}). It is cut off or not UTF-8: fetch it "
            "again, or save it as UTF-8."
        )
    return (
        f"{position}: the byte 0x{byte:02x} is not UTF-8. Save the file as UTF-8; if it is Latin-1, with "
        "`iconv -f LATIN1 -t UTF-8`."
    )


def _find_bad_byte(file: BinaryIO) -> tuple[int, int, int, bool]:
    """Find line, offset and value of the first byte that is NUL or not UTF-8, and whether the file ends within it."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, offset, pending, chunk = 1, 0, b"", b"\n"
    while chunk:
        chunk = file.read(CHUNK_BYTES)
        data, end = pending + chunk, None
        try:
            decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            end = error.start
        bad = data.find(b"\0", 0, end)
        bad = end if bad < 0 and end is not None else bad
        if bad >= 0:
            return line + data.count(b"\n", 0, bad), offset + bad, data[bad], not chunk
        pending = decoder.getstate()[0]
        done = len(data) - len(pending)
        line, offset = line + data.count(b"\n", 0, done), offset + done
    raise ValueError("every byte belongs to UTF-8 text")  # the file was changed meanwhile


__all__ = ["TextEncodingError", "load_json", "open_text_file", "read_text_file"]
