# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Types of settings: what a dataclass declares, and whether a value fits it."""

import dataclasses
import numbers
import os
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from albef_amc.ranges_albef import shorten_value

# Values that a declared type takes: declared type -> (what a value must be an instance of, words for it).
KINDS: dict[Any, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: ((str, os.PathLike), "text"),
    list: ((list, tuple), "a list"),
    tuple: ((list, tuple), "a list"),
    dict: (Mapping, "keys with values"),
    type(None): (type(None), "null"),
}
PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}


def check_types(settings: Any, texts: Iterable[str] = (), prefix: str = "") -> None:
    """Compares the fields of a dataclass with what it declares.

    Args:
        settings: an instance of a dataclass. Fields that are declared as something else than text, numbers, switches,
            lists and mappings are ignored, and so are the entries of lists and mappings.
        texts (iterable of `str`): fields whose declared `str` is checked too.
        prefix (`str`, *optional*): put before the names in messages.

    Raises:
        TypeError: a value of another type.
    """
    texts = set(texts)
    for name, kinds in list_simple_fields(type(settings)).items():
        if str not in kinds or name in texts:
            check_type(f"{prefix}{name}", getattr(settings, name), typing.Union[kinds])  # noqa: UP007 - a tuple


def check_type(name: str, value: Any, hint: Any) -> None:
    """Refuses a value of another type.

    Args:
        name (`str`): of the setting, for the message.
        value: what was given.
        hint: the declared type; a list stands for a tuple, a whole number for a number, a path for text.

    Raises:
        TypeError: the value is of another type.

    Example:

    ```python
    >>> from albef_amc.configuration.setting_types import check_type
    >>> check_type("embed_images", True, bool)
    >>> check_type("embed_images", "false", bool)
    Traceback (most recent call last):
    TypeError: `embed_images` must be true or false, got 'false' of type str. Write it without quotes.

    ```
    """
    if _is_of_type(value, hint):
        return
    kinds = [typing.get_origin(part) or part for part in _list_parts(hint)]
    words = " or ".join(dict.fromkeys(map(_describe, _list_parts(hint))))
    advice = ""
    if isinstance(value, str) and str not in kinds:
        advice = f" Write [{shorten_value(value)[1:-1]}]." if {list, tuple} & {*kinds} else " Write it without quotes."
    raise TypeError(f"`{name}` must be {words}, got {shorten_value(value)} of type {type(value).__name__}.{advice}")


def _list_parts(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the only one."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _is_of_type(value: Any, hint: Any) -> bool:
    for part in _list_parts(hint):
        kind, arguments = typing.get_origin(part) or part, typing.get_args(part)
        fits = isinstance(value, KINDS[kind][0]) and (kind is bool or not isinstance(value, bool))
        if fits and kind in (list, tuple) and arguments:
            fits = all(_is_of_type(item, arguments[0]) for item in value)
        if fits and kind is dict and arguments:
            fits = all(_is_of_type(key, arguments[0]) and _is_of_type(value[key], arguments[1]) for key in value)
        if fits:
            return True
    return False


def _describe(hint: Any) -> str:
    kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    words = KINDS[kind][1]
    return f"{words} of {PLURALS[arguments[0]]}" if kind in (list, tuple) and arguments else words


def list_simple_fields(kind: type) -> dict[str, tuple[Any, ...]]:
    """Fields of a dataclass that hold text, numbers, switches, lists, mappings or None: which of these each may be."""
    hints = typing.get_type_hints(kind)
    simple = {}
    for item in dataclasses.fields(kind):
        hint = hints[item.name]
        kinds = tuple(typing.get_origin(part) or part for part in _list_parts(hint))
        if all(kind in KINDS for kind in kinds):
            simple[item.name] = kinds
    return simple
