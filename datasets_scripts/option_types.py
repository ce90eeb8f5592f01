# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Types of a builder's options: a value of another type is refused before anything is read."""

import dataclasses
import typing
from typing import Any

import datasets

from albef_amc.configuration.setting_types import check_type


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


def check_options(config: datasets.BuilderConfig) -> None:
    """Refuses options of a configuration that are of another type than it declares.

    Raises:
        TypeError: a value of another type.
    """
    for name, hint in list_option_types(type(config)).items():
        check_type(name, getattr(config, name), hint)


__all__ = ["check_options", "list_option_types"]
