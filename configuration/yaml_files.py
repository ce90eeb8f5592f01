# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""YAML files of users, limited in size, depth and number of values; a repeated key is an error."""

from pathlib import Path
from typing import Any

import yaml

from albef_amc.text_files_albef import read_text_file

MOST_BYTES = 1 << 18  # the longest recipe that ships has 4 kB
MOST_LEVELS = 50
MOST_VALUES = 50_000  # every use of an anchor counts with all its values
MERGE_TAG = "tag:yaml.org,2002:merge"


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Args:
        path (`Path`): the file, UTF-8.

    Raises:
        ValueError: not YAML, not plain values, or more than a recipe can need; the message names the file.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"{path} has {size} bytes; a recipe has {MOST_BYTES} at most. Is it another file?")
    return parse_yaml(read_text_file(path), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """What YAML text holds: mappings, lists and plain values, none of which is shared between two places.

    Args:
        text (`str`): the text.
        where (`str`): file or option that it comes from, for messages.

    Raises:
        ValueError: not YAML, not plain values, or more than a recipe can need.

    Example:

    ```python
    >>> from albef_amc.configuration.yaml_files import parse_yaml
    >>> parse_yaml("{seed: 1, splits: [train, test]}", "--set")
    {'seed': 1, 'splits': ['train', 'test']}

    ```
    """
    try:
        _check_extent(text, where)
        return _unshare(yaml.load(text, Loader=_UniqueKeyLoader))
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
    except (OverflowError, _ValueOfScalar) as error:
        raise ValueError(f"{where} is not YAML: {error}") from error


class _ValueOfScalar(ValueError):
    """A date, or a number, that Python cannot hold."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """Plain values alone; a key that is given twice is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE_TAG:
                continue
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key `{key.value}` is given twice", key.start_mark
                )
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise _ValueOfScalar(f"{error} (line {node.start_mark.line + 1})") from error


def _check_extent(text: str, where: str) -> None:
    """Refuses text that is nested deeper, or holds more values with its anchors written out, than a recipe can."""
    num_values = 0
    sizes: dict[str, int | None] = {}  # values of each anchor; None while it is open
    opened: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor, 0)
            if size is None:
                raise ValueError(f"{where}, line {line}: the anchor `{event.anchor}` holds itself.")
            num_values += size
        elif isinstance(event, yaml.ScalarEvent):
            num_values += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, num_values))
            num_values += 1
            if event.anchor is not None:
                sizes[event.anchor] = None
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, num_before = opened.pop()
            if anchor is not None:
                sizes[anchor] = num_values - num_before
        if len(opened) > MOST_LEVELS:
            raise ValueError(f"{where}, line {line}: more than {MOST_LEVELS} levels, which no recipe has.")
        if num_values > MOST_VALUES:
            raise ValueError(
                f"{where}, line {line}: more than {MOST_VALUES} values where its anchors are written out, which no "
                "recipe has."
            )


def _unshare(value: Any) -> Any:
    """The value without shared parts: what is changed in one place does not change in another."""
    if isinstance(value, dict):
        return {key: _unshare(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unshare(item) for item in value]
    return value
