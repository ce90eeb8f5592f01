# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Collections of users: lists, arrays of objects, columns of data sets and of tables, generators."""

import os
from collections.abc import Iterator, Mapping, Set
from typing import Any

from PIL import Image

NO_COLLECTIONS = (str, bytes, bytearray, os.PathLike, Mapping, Set, Image.Image)
KEYS_SHOWN = 20
OBJECT_KINDS = "OUT"  # kinds of NumPy arrays with objects or text instead of pixels


def is_collection(value: Any) -> bool:
    """Whether `value` is an ordered collection of pictures or phrases.

    An array of numbers is one picture. A table (its columns differ) and a set (it has no order) are refused.

    Example:

    ```python
    >>> from albef_amc.collections_albef import is_collection
    >>> is_collection(["a dog"]), is_collection("a dog"), is_collection({"bytes": b"", "path": None})
    (True, False, False)

    ```
    """
    if isinstance(value, NO_COLLECTIONS):
        return False
    if hasattr(value, "ndim"):
        return value.ndim == 1 and getattr(value.dtype, "kind", "") in OBJECT_KINDS
    return hasattr(value, "__iter__") or hasattr(value, "__getitem__")


def iterate(values: Any) -> Iterator[Any]:
    """Yield the items of a collection in order; a column of a data set decodes one picture at a time.

    Args:
        values: a collection (see [`is_collection`]). One without an iterator, such as `KeyDataset`, is read by index.
    """
    if hasattr(values, "__iter__"):
        yield from values
    else:
        for index in range(len(values)):
            yield values[index]


def without_format(rows: Any) -> Any:
    """Remove the format of a data set of `datasets`; return anything else unchanged.

    In a format such as "torch" or "numpy" a picture is an array without its mode: CMYK ink looks like transparency,
    palette indices look like gray. A transform of the user is kept.
    """
    if not hasattr(rows, "with_format") or (getattr(rows, "format", None) or {}).get("type") == "custom":
        return rows
    return rows.with_format(None)


def describe_type(value: Any) -> str:
    """Describe the type of a value in words, with the keys of a mapping."""
    kind = f"a {type(value).__module__.partition('.')[0]} {type(value).__name__}".replace("a builtins ", "a ")
    if not isinstance(value, Mapping) or len(value) > KEYS_SHOWN:
        return kind
    return f"{kind} with the keys {', '.join(map(repr, value))}"


__all__ = ["describe_type", "is_collection", "iterate", "without_format"]
