# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Types of a builder's options: a value of another type is refused before anything is read."""

import dataclasses
import os
import types
import typing
from typing import Any

WORDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", type(None): "null"}


def list_option_types(config_class: type) -> dict[str, Any]:
    """Options that a configuration class has, with their types.

    Args:
        config_class (`type`): a subclass of `datasets.BuilderConfig`.

    Returns:
        `dict`: types by name; what `datasets` gives every configuration is not among them.
    """
    base = next(kind for kind in config_class.__mro__ if kind.__name__ == "BuilderConfig")
    inherited = {item.name for item in dataclasses.fields(base)}
    hints = typing.get_type_hints(config_class)
    return {item.name: hints[item.name] for item in dataclasses.fields(config_class) if item.name not in inherited}


def check_option_type(name: str, value: Any, hint: Any) -> None:
    """Refuses a value of another type.

    Args:
        name (`str`): the option.
        value: what is given.
        hint: the type; a list is taken for a tuple, a whole number for a number, a `Path` for a text.

    Raises:
        TypeError: the value is of another type.

    Example:
        >>> check_option_type("embed_images", True, bool)
        >>> check_option_type("embed_images", "false", bool)
        Traceback (most recent call last):
        TypeError: `embed_images` must be true or false, got 'false' (str).
    """
    if not _is_of_type(value, hint):
        raise TypeError(f"`{name}` must be {_describe(hint)}, got {value!r:.80} ({type(value).__name__}).")


def _is_of_type(value: Any, hint: Any) -> bool:
    kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (types.UnionType, typing.Union):
        return any(_is_of_type(value, part) for part in arguments)
    if kind in (list, tuple):
        return isinstance(value, list | tuple) and all(_is_of_type(item, arguments[0]) for item in value)
    if kind is dict:
        return isinstance(value, dict) and all(
            _is_of_type(key, arguments[0]) and _is_of_type(item, arguments[1]) for key, item in value.items()
        )
    if kind is str:
        return isinstance(value, str | os.PathLike)
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return isinstance(value, kind)


def _describe(hint: Any) -> str:
    kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (types.UnionType, typing.Union):
        return " or ".join(dict.fromkeys(map(_describe, arguments)))
    if kind in (list, tuple):
        return f"a list of {_describe(arguments[0]).partition(' ')[2]}s"
    if kind is dict:
        return "a mapping of texts to texts"
    return WORDS[kind]
