# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The part of a card that the Hub reads: what it must hold, and whether a text holds it."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.utils import HFValidationError, validate_repo_id

CHECKPOINT_SUFFIXES = (".bin", ".pt", ".pth", ".safetensors")
# Keys of a `model-index` that the Hub needs, and one more that keeps the splits of a data set apart.
REQUIRED_KEYS = {"task": ("type",), "dataset": ("name", "type", "split")}
REQUIRED_METRIC_KEYS = ("type", "name", "value")


def is_hub_name(name: str) -> bool:
    """Whether the Hub can link to the name; a file or words stay only in the text of the card."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists() and Path(name).suffix not in CHECKPOINT_SUFFIXES


def is_place(text: str) -> bool:
    """Whether a text is a local path, absolute or relative, and not a name of the Hub or words.

    A relative path of two parts looks like a name of the Hub: it is a path where something is found there.

    Example:

    ```python
    >>> from albef_amc.model_cards.front_matter import is_place
    >>> [is_place(text) for text in ("/data/vg", "runs/a/b", "../vg", "D:\\\\vg", "your-name/vg", "ALBEF or AMC")]
    [True, True, True, True, False, False]

    ```
    """
    if re.match(r"[/\\]|[A-Za-z]:[/\\]|~[^/\\]*([/\\]|$)|\.{1,2}([/\\]|$)", text):
        return True
    if not re.search(r"[/\\]", text):
        return False
    return os.path.exists(text) or not (" " in text or is_hub_name(text))


def is_inside(text: str, folder: str | None) -> bool:
    """Whether a text is the relative path of something in a folder: such a path is the same on every machine."""
    if not folder or os.path.isabs(text) or ".." in Path(text).parts:
        return False
    return os.path.exists(os.path.join(folder, text))


def shorten_place(text: str) -> str:
    """A text as a card shows it: of a local path only the last part."""
    parts = [part for part in re.split(r"[/\\]", text) if part]
    return parts[-1] if parts and is_place(text) else text


def check_front_matter(text: str) -> None:
    """Refuses a card whose front matter the Hub cannot read.

    Args:
        text (`str`): the complete card.

    Raises:
        ValueError: no front matter, invalid YAML, no licence, or a `model-index` with a part missing.
    """
    parts = text.split("---\n", 2)
    if parts[0] or len(parts) < 3:
        raise ValueError("the card has no front matter: it must start with YAML between two lines `---`.")
    try:
        data = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise ValueError(f"the front matter of the card is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict) or not isinstance(data.get("license"), str):
        raise ValueError("the front matter of the card names no `license`.")
    if "model-index" in data:
        _check_model_index(data["model-index"])


def _check_model_index(index: Any) -> None:
    for model in _entries(index, "model-index"):
        _need(model, ("name",), "model-index")
        for result in _entries(model.get("results"), "results"):
            for part, keys in REQUIRED_KEYS.items():
                _need(result.get(part), keys, part)
            for metric in _entries(result.get("metrics"), "metrics"):
                _need(metric, REQUIRED_METRIC_KEYS[:-1], "metrics")
                value = metric.get("value")
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                    raise ValueError(f"`model-index` of the card: `metrics.value` must be a number, got {value!r}.")


def _entries(value: Any, where: str) -> list[dict]:
    if not isinstance(value, list) or not value or not all(isinstance(entry, dict) for entry in value):
        raise ValueError(f"`model-index` of the card: `{where}` must be a list of mappings, got {value!r}.")
    return value


def _need(entry: Any, keys: Sequence[str], where: str) -> None:
    for key in keys:
        if not isinstance(entry, dict) or not isinstance(entry.get(key), str) or not entry[key]:
            raise ValueError(f"`model-index` of the card: `{where}.{key}` is missing or is not text.")


PLACE_ENDINGS = ("_root", "_dir")


def hide_folder(value: Any, name: str, data_root: str | None = None) -> Any:
    """An argument of a builder as a card shows it: a local path becomes the name of the argument in capitals.

    Args:
        value: the argument; in lists and mappings each entry is treated alike.
        name (`str`): its name. One that ends in `_root` or `_dir` is always a path.
        data_root (`str`, *optional*): folder of the data set; relative paths of files in it are part of it, and stay.
    """
    if isinstance(value, Mapping):
        return {hide_folder(key, name): hide_folder(item, name, data_root) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [hide_folder(item, name, data_root) for item in value]
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    if name.endswith(PLACE_ENDINGS):
        return name.upper()
    return name.upper() if is_place(text) and not is_inside(text, data_root) else value
