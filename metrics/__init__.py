# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Metrics as folders that `evaluate` loads and the Hub serves as Spaces; here is where they lie."""

from pathlib import Path


def get_metric_folder(name: str) -> Path:
    """Folder of a metric, as `evaluate.load` takes it.

    Args:
        name (`str`): name of the metric, for example `"pointing_game"`.

    Returns:
        `Path` of the folder with the module of that name.

    Raises:
        ValueError: there is no such metric; the message lists all.

    Example:

    ```python
    >>> from albef_amc.metrics import get_metric_folder
    >>> get_metric_folder("pointing_game").name
    'pointing_game'

    ```
    """
    root = Path(__file__).parent
    names = sorted(module.parent.name for module in root.glob("*/*.py") if module.stem == module.parent.name)
    if name not in names:
        raise ValueError(f"There is no metric {name!r}. Metrics: {', '.join(names)}.")
    return root / name


__all__ = ["get_metric_folder"]
