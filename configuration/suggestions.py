# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What a message says about a name that nobody knows: the nearest one that is valid, or all of them."""

import difflib
from collections.abc import Iterable
from typing import Any

LEAST_LIKENESS = 0.5


def suggest_nearest(name: Any, valid: Iterable[str], otherwise: str, least_likeness: float = LEAST_LIKENESS) -> str:
    """The end of an error message about an unknown name.

    Args:
        name: what was given.
        valid (iterable of `str`): what could have been meant.
        otherwise (`str`): said where nothing valid is like it.
        least_likeness (`float`, defaults to 0.5): how like it a valid name must be, in [0, 1].

    Example:

    ```python
    >>> from albef_amc.configuration.suggestions import suggest_nearest
    >>> suggest_nearest("sed", ["seed", "max_steps"], otherwise="Valid: seed, max_steps.")
    'Did you mean `seed`?'

    ```
    """
    nearest = difflib.get_close_matches(str(name), list(valid), n=1, cutoff=least_likeness)
    return f"Did you mean `{nearest[0]}`?" if nearest else otherwise
