# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The reader of YAML recipes, whatever they describe, and of `key=value` settings."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from albef_amc.ranges_albef import check_names, shorten_value

from .shipped_files import resolve_shipped
from .yaml_files import parse_yaml, read_yaml

MOST_BASES = 8
SCIENTIFIC_NOTATION = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def read_recipe(path: Path, kind: str, check: Callable[[dict[str, Any], str], None]) -> dict[str, Any]:
    """Sections of a recipe on top of those of its `base`.

    A section replaces or extends that of the base key by key; one with a `name` of its own replaces it.

    Args:
        path (`Path`): the file.
        kind (`str`): folder of `configuration/` that holds the recipes that a `base` may name.
        check (callable): is called with the content of each file and its path, and raises where it is wrong.

    Raises:
        ValueError: no YAML, no mapping, a circle of bases, or what `check` raises.
        TypeError: a `base` that is not text.
        FileNotFoundError: no such base.
    """
    return _read_content(path, kind, check, ())


def _read_content(
    path: Path, kind: str, check: Callable[[dict[str, Any], str], None], readers: tuple[Path, ...]
) -> dict[str, Any]:
    """As [`read_recipe`]; `readers` are the files that led here."""
    if path.resolve() in readers:
        raise ValueError(f"{path}: its `base` leads back to itself.")
    if len(readers) > MOST_BASES:
        raise ValueError(f"{readers[0]}: more than {MOST_BASES} recipes follow from its `base`.")
    content = read_yaml(path)
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold keys with values, got {shorten_value(content)}.")
    base = content.pop("base", None)
    check(content, str(path))
    if base is None:
        return content
    if not isinstance(base, str):
        raise TypeError(f"{path}: `base` must be the name or the path of a recipe, got {shorten_value(base)}.")
    beside = path.parent / base
    base_path = beside if beside.is_file() else resolve_shipped(base, kind, ".yaml")
    merged = _read_content(base_path, kind, check, (*readers, path.resolve()))
    for name, value in content.items():
        extends = isinstance(value, dict) and isinstance(merged.get(name), dict) and "name" not in value
        merged[name] = {**merged[name], **value} if extends else value
    return merged


def build_section(kind: type, content: Any, where: str) -> Any:
    """A dataclass from the mapping of a recipe.

    Args:
        kind (`type`): the dataclass.
        content: the mapping.
        where (`str`): what it is, for messages.

    Raises:
        ValueError: no mapping, an unknown key (the nearest valid one is suggested), or a key that is missing.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"{where} must hold keys with values, got {shorten_value(content)}.")
    fields = [item for item in dataclasses.fields(kind) if item.init]
    check_names(content, [item.name for item in fields], where)
    unset = (dataclasses.MISSING, dataclasses.MISSING)
    required = [item.name for item in fields if (item.default, item.default_factory) == unset]
    missing = [f"`{name}`" for name in required if name not in content]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}.")
    return kind(**content)


def split_key_value(setting: str, option: str) -> tuple[str, str]:
    """Key and text of a `key=value` setting.

    Args:
        setting (`str`): the setting.
        option (`str`): option of the command that it was given to, for the message.

    Raises:
        ValueError: it has another form.
    """
    key, separator, text = setting.partition("=")
    if not separator or not key.strip():
        raise ValueError(f"`{option} {setting}` is not of the form key=value.")
    return key.strip(), text


def read_key_values(settings: Iterable[str], option: str) -> dict[str, Any]:
    """`key=value` settings as a dictionary, values read as YAML.

    Args:
        settings (iterable of `str`): the settings.
        option (`str`): option of the command that they were given to, for messages.

    Raises:
        ValueError: another form, or a key that is given twice.

    Example:

    ```python
    >>> from albef_amc.configuration.recipes import read_key_values
    >>> read_key_values(["split=test", "seed=3", "rate=1e-4"], "--data")
    {'split': 'test', 'seed': 3, 'rate': 0.0001}

    ```
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, text = split_key_value(setting, option)
        if key in values:
            raise ValueError(f"`{option} {key}=...` is given more than once: give it once.")
        values[key] = read_number(parse_yaml(text, f"`{option} {key}`"))
    return values


def read_number(value: Any) -> Any:
    """YAML reads 2e-5 as text; a recipe means the number."""
    return float(value) if isinstance(value, str) and SCIENTIFIC_NOTATION.fullmatch(value) else value
