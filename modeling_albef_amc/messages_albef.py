# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Parts of error messages: the first entries of a list, and the valid name that is nearest to a wrong one."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

ENTRIES_SHOWN = 4
LEAST_LIKENESS = 0.5


def list_first(entries: Sequence[Any], limit: int = ENTRIES_SHOWN, separator: str = ", ") -> str:
    """The first entries of a list, and how many more there are.

    Args:
        entries (sequence): what to list.
        limit (`int`, defaults to 4): how many are named.
        separator (`str`, defaults to a comma): between two entries.

    Example:

    ```python
    >>> from albef_amc.messages_albef import list_first
    >>> list_first(["a", "b", "c"], limit=2)
    'a, b and 1 more'

    ```
    """
    more = len(entries) - limit
    return separator.join(map(str, entries[:limit])) + (f" and {more} more" if more > 0 else "")


def suggest_nearest(name: Any, valid: Iterable[str], otherwise: str, least_likeness: float = LEAST_LIKENESS) -> str:
    """The end of an error message about an unknown name.

    Args:
        name: what was given.
        valid (iterable of `str`): what could have been meant.
        otherwise (`str`): returned where no valid name is like it.
        least_likeness (`float`, defaults to 0.5): how like it a valid name must be, in [0, 1].

    Example:

    ```python
    >>> from albef_amc.messages_albef import suggest_nearest
    >>> suggest_nearest("sed", ["seed", "max_steps"], otherwise="Valid: seed, max_steps.")
    'Did you mean `seed`?'

    ```
    """
    nearest = difflib.get_close_matches(str(name), list(valid), n=1, cutoff=least_likeness)
    return f"Did you mean `{nearest[0]}`?" if nearest else otherwise


__all__ = ["list_first", "suggest_nearest"]
