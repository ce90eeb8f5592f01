# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Error messages: the first entries of a list, the valid name nearest to an unknown one, an error's own words."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

ENTRIES_SHOWN = 4
LEAST_LIKENESS = 0.5


def list_first(entries: Sequence[Any], limit: int = ENTRIES_SHOWN, separator: str = ", ") -> str:
    """List the first entries and the number of further ones.

    Args:
        entries (sequence): the entries to list.
        limit (`int`, defaults to 4): maximum number of entries to list.
        separator (`str`, defaults to a comma): separator of entries.

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
    """Suggest the nearest valid name, as the end of an error message about an unknown one.

    Args:
        name: the unknown name.
        valid (iterable of `str`): valid names.
        otherwise (`str`): returned if no valid name is similar.
        least_likeness (`float`, defaults to 0.5): minimum similarity, in [0, 1].

    Example:

    ```python
    >>> from albef_amc.messages_albef import suggest_nearest
    >>> suggest_nearest("sed", ["seed", "max_steps"], otherwise="Valid: seed, max_steps.")
    'Did you mean `seed`?'

    ```
    """
    nearest = difflib.get_close_matches(str(name), list(valid), n=1, cutoff=least_likeness)
    return f"Did you mean `{nearest[0]}`?" if nearest else otherwise


def find_message(error: Exception) -> str:
    r"""The message of an error; of one from a worker of a data loader without the worker's traceback.

    Args:
        error (`Exception`): the error.

    Example:

    ```python
    >>> from albef_amc.messages_albef import find_message
    >>> find_message(ValueError("Caught ValueError in DataLoader worker process 0.\n...\nValueError: no row"))
    'no row'

    ```
    """
    text, kind = str(error), type(error).__name__
    if text.startswith(f"Caught {kind} in DataLoader worker process"):
        return text.rpartition(f"\n{kind}: ")[2]
    return text


__all__ = ["find_message", "list_first", "suggest_nearest"]
