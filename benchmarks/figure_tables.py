# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Tables of stored figures, as pages show them: numbers by dotted key, in the format that ties them to their file."""

from collections.abc import Iterable, Sequence
from typing import Any


def read_figure(figures: dict[str, Any], key: str) -> float | None:
    """The number under a dotted key; `None` where there is none."""
    value: Any = figures
    for part in key.split("."):
        value = value.get(part)
        if value is None:
            return None
    return value


def show_figure(value: float, form: str) -> str:
    """A number in a format of `tests/page_numbers.py`, with a space before the percent sign."""
    return f"{value:{form}}".replace("%", " %")


def render_table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table whose first column is text and whose others are numbers.

    Args:
        heading (sequence of `str`): of each column.
        rows (iterable of sequences of `str`): cells, as many as there are columns.
    """
    rule = "| --- |" + " ---: |" * (len(heading) - 1)
    first, *others = (f"| {' | '.join(cells)} |" for cells in (heading, *rows))
    return [first, rule, *others]
