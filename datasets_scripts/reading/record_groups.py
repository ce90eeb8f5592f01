# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Records grouped by image, kept as lines of JSON: millions of records need little more memory than their text."""

import json
from collections.abc import Iterator
from typing import Any

ENCODER = json.JSONEncoder(separators=(",", ":"))


class RecordGroups(dict[Any, bytearray]):
    """Groups of records, in the order of their first record; a group holds one line of JSON per record.

    Example:
        >>> groups = RecordGroups()
        >>> groups.add("photo.jpg", ["a dog", [0, 0, 9, 9]])
        >>> list(iterate_records(groups["photo.jpg"]))
        [['a dog', [0, 0, 9, 9]]]
    """

    def add(self, key: Any, record: Any) -> None:
        """Append a record to the group of its key."""
        self.setdefault(key, bytearray()).extend(ENCODER.encode(record).encode() + b"\n")


def iterate_records(group: bytearray) -> Iterator[Any]:
    """Records of a group."""
    return map(json.loads, group.splitlines())
