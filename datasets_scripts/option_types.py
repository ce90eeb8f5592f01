# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Types of builder options, checked before anything is read."""

import dataclasses
import typing
from typing import Any

import datasets

from albef_amc.configuration.setting_types import check_type


def list_option_types(config_class: type) -> dict[str, Any]:
    """List the options of a configuration class with their types.

    Args:
        config_class (`type`): a subclass of `datasets.BuilderConfig`.

    Returns:
        `dict`: types by name, without the fields of `datasets.BuilderConfig`.
    """
    base = next(kind for kind in config_class.__mro__ if kind.__name__ == "BuilderConfig")
    inherited = {item.name for item in dataclasses.fields(base)}
    hints = typing.get_type_hints(config_class)
    return {item.name: hints[item.name] for item in dataclasses.fields(config_class) if item.name not in inherited}


def check_options(config: datasets.BuilderConfig) -> None:
    """Refuse options of another type than the configuration declares.

    Raises:
        TypeError: a value of another type.
    """
    for name, hint in list_option_types(type(config)).items():
        check_type(name, getattr(config, name), hint)


__all__ = ["check_options", "list_option_types"]
