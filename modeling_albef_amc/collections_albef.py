# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Collections as people hold them: lists, arrays of objects, columns of data sets and of tables, generators."""

import os
from collections.abc import Iterator, Mapping, Set
from typing import Any

from PIL import Image

NO_COLLECTIONS = (str, bytes, bytearray, os.PathLike, Mapping, Set, Image.Image)
KEYS_SHOWN = 20
OBJECT_KINDS = "OUT"  # kinds of NumPy arrays that hold objects and text, not pixels


def is_collection(value: Any) -> bool:
    """Whether `value` holds several pictures or phrases in their order.

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
    """The items of a collection in order, one after the other: a column of a data set decodes one picture at a time.

    Args:
        values: what [`is_collection`] accepts. What has no iterator, such as `KeyDataset`, is read by index.
    """
    if hasattr(values, "__iter__"):
        yield from values
    else:
        for index in range(len(values)):
            yield values[index]


def without_format(rows: Any) -> Any:
    """A data set of `datasets` whose rows come as they are stored; anything else as it is.

    In a format such as "torch" or "numpy" a picture is an array that has lost its mode: ink of CMYK looks like
    transparency, places in a palette like gray. A transform that the user set is kept.
    """
    if not hasattr(rows, "with_format") or (getattr(rows, "format", None) or {}).get("type") == "custom":
        return rows
    return rows.with_format(None)


def describe_type(value: Any) -> str:
    """The type of a value in words, with the keys of a mapping."""
    kind = f"a {type(value).__module__.partition('.')[0]} {type(value).__name__}".replace("a builtins ", "a ")
    if not isinstance(value, Mapping) or len(value) > KEYS_SHOWN:
        return kind
    return f"{kind} with the keys {', '.join(map(repr, value))}"


__all__ = ["describe_type", "is_collection", "iterate", "without_format"]
