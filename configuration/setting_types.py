# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Types of settings: what a dataclass declares, and what a value must be to fit it."""

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
    str: (str, "text"),
    list: ((list, tuple), "a list"),
    dict: (Mapping, "keys with values"),
}


def check_types(settings: Any, texts: Iterable[str] = (), prefix: str = "") -> None:
    """Compares the fields of a dataclass with what it declares.

    Args:
        settings: an instance of a dataclass. Fields that are declared as something else than text, numbers, switches,
            lists and mappings are not looked at.
        texts (iterable of `str`): fields whose declared `str` is checked too, where it stands beside nothing but None.
        prefix (`str`, *optional*): put before the names in messages.

    Raises:
        TypeError: a value of another type.
    """
    texts = set(texts)
    for name, kinds in list_simple_fields(type(settings)).items():
        value = getattr(settings, name)
        if (value is None and type(None) in kinds) or (str in kinds and name not in texts):
            continue
        if isinstance(value, os.PathLike) and str in kinds:  # the Trainer takes it as text
            continue
        wanted = [KINDS[kind] for kind in kinds if kind is not type(None)]
        is_switch = isinstance(value, bool)
        if any(isinstance(value, kind) and is_switch == (kind is bool) for kind, _ in wanted):
            continue
        words = " or ".join([word for _, word in wanted] + ["null"] * (type(None) in kinds))
        hint = ""
        if isinstance(value, str) and str not in kinds:
            hint = f" Write [{shorten_value(value)[1:-1]}]." if list in kinds else " Write it without quotes."
        given = f"{shorten_value(value)} of type {type(value).__name__}"
        raise TypeError(f"`{prefix}{name}` must be {words}, got {given}.{hint}")


def list_simple_fields(kind: type) -> dict[str, tuple[Any, ...]]:
    """Fields of a dataclass that hold text, numbers, switches, lists, mappings or None: which of these each may be."""
    hints = typing.get_type_hints(kind)
    simple = {}
    for item in dataclasses.fields(kind):
        hint = hints[item.name]
        is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        kinds = typing.get_args(hint) if is_union else (hint,)
        kinds = tuple(typing.get_origin(one) or one for one in kinds)
        if all(one in KINDS or one is type(None) for one in kinds):
            simple[item.name] = kinds
    return simple


__all__ = ["KINDS", "check_types", "list_simple_fields"]
