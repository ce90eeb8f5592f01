# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Checks of settings: numbers in a range, or one of several values."""

import math
import numbers
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .messages_albef import list_first, suggest_nearest

MAX_IMAGE_PIXELS = 100_000_000  # limit for pictures and masks: larger ones are refused before they are decoded

LARGE = 2**31 - 1  # a limit far above usual values: messages put it last


@dataclass(frozen=True)
class Range:
    """Finite numbers between two ends.

    Args:
        least, most (`float`, default to no end): the ends, included in the range.
        is_above, is_below (`bool`, default to `False`): exclude `least`, or `most`.
        is_whole (`bool`, defaults to `False`): whole numbers only.

    Example:

    ```python
    >>> from albef_amc.ranges_albef import Range
    >>> str(Range(0, 1)), str(Range(0, is_above=True)), str(Range(1, is_whole=True))
    ('a number in [0, 1]', 'a finite number above 0', 'a whole number of at least 1')

    ```
    """

    least: float = -math.inf
    most: float = math.inf
    is_above: bool = False
    is_below: bool = False
    is_whole: bool = False

    def __contains__(self, value: Any) -> bool:
        try:
            if not math.isfinite(value):
                return False
        except OverflowError:  # an integer that is too large for a float
            return False
        return (self.least < value if self.is_above else self.least <= value) and (
            value < self.most if self.is_below else value <= self.most
        )

    def __str__(self) -> str:
        kind = "a whole number" if self.is_whole else "a number"
        if LARGE <= self.most < math.inf:
            return f"{kind} {'above' if self.is_above else 'of at least'} {self.least} and at most {self.most}"
        if self.most < math.inf:
            return f"{kind} in {'(' if self.is_above else '['}{self.least}, {self.most}{')' if self.is_below else ']'}"
        kind = kind if self.is_whole else "a finite number"
        if self.least == -math.inf:
            return kind
        return f"{kind} {'above' if self.is_above else 'of at least'} {self.least}"


# Values in messages are shortened to their first parts.
LONGEST_SHOWN = 80
NAMES_SHOWN = 12  # valid names in the message about an unknown one
SHOWN = reprlib.Repr()
SHOWN.maxstring = SHOWN.maxother = SHOWN.maxlong = LONGEST_SHOWN
SHOWN.maxlist = SHOWN.maxtuple = SHOWN.maxdict = SHOWN.maxset = LONGEST_SHOWN // 3

NOT_NEGATIVE = Range(0)
POSITIVE = Range(0, is_above=True)
SHARE = Range(0, 1)
BELOW_ONE = Range(0, 1, is_below=True)
COUNT = Range(1, is_whole=True)
WHOLE = Range(0, is_whole=True)
TEXT_LENGTH = Range(2, LARGE, is_whole=True)  # tokens: [CLS] and another


def check_number(name: str, value: Any, allowed: Range) -> None:
    """Refuse a value that is not a number in a range. NaN, infinity and booleans are always refused.

    Args:
        name (`str`): name of the setting, for the message.
        value: the given value.
        allowed ([`Range`]): the allowed numbers.

    Raises:
        TypeError: the value is not a number, or not an integer where a whole number is needed.
        ValueError: the number is outside the range.

    Example:

    ```python
    >>> from albef_amc.ranges_albef import SHARE, check_number
    >>> check_number("alpha", 0.4, SHARE)

    ```
    """
    kind = numbers.Integral if allowed.is_whole else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"`{name}` must be {allowed}, got {shorten_value(value)} of type {type(value).__name__}.")
    if value not in allowed:
        raise ValueError(f"`{name}` must be {allowed}, got {shorten_value(value)}.")


def check_ranges(settings: Any, ranges: Mapping[str, Range], prefix: str = "") -> None:
    """Apply [`check_number`] to attributes of an object; attributes that are None are skipped.

    Args:
        settings: the object.
        ranges (mapping): name of an attribute -> allowed numbers.
        prefix (`str`, *optional*): prefix of the names in messages.
    """
    for name, allowed in ranges.items():
        value = getattr(settings, name)
        if value is not None:
            check_number(f"{prefix}{name}", value, allowed)


def check_choice(name: str, value: Any, choices: Iterable[Any], prefix: str = "") -> None:
    """Refuse a value that is not one of several choices.

    Args:
        name (`str`): name of the setting, for the message.
        value: the given value.
        choices (iterable): the allowed values.
        prefix (`str`, *optional*): prefix of the message.

    Raises:
        ValueError: the value is not a choice; the nearest one is suggested.

    Example:

    ```python
    >>> from albef_amc.ranges_albef import check_choice
    >>> check_choice("flip", "never", ["safe", "never"])

    ```
    """
    known = list(choices)
    if value not in known:
        listed = ", ".join(map(repr, known))
        hint = suggest_nearest(value, [choice for choice in known if isinstance(choice, str)], "")
        message = f"{prefix}`{name}` must be one of {listed}, got {shorten_value(value)}. {hint}"
        raise ValueError(message.rstrip())


def check_names(given: Iterable[Any], valid: Sequence[str], where: str, kind: str = "key") -> None:
    """Refuse names that are not among the valid ones.

    Args:
        given (iterable): names of keys, options, ...
        valid (sequence of `str`): valid names.
        where (`str`): source of the names, for the message.
        kind (`str`, defaults to `"key"`): kind of name, for the message.

    Raises:
        ValueError: a name is unknown; the nearest valid one is suggested.
    """
    for name in given:
        if name not in valid:
            hint = suggest_nearest(name, valid, f"Valid: {list_first(valid, NAMES_SHOWN)}.")
            raise ValueError(f"{where}: unknown {kind} `{name}`. {hint}")


def shorten_value(value: Any) -> str:
    """Format a value for a message; very large integers and long texts are shortened.

    Example:

    ```python
    >>> from albef_amc.ranges_albef import shorten_value
    >>> shorten_value(10**400), shorten_value("yes")
    ('a number of 1329 bits', "'yes'")

    ```
    """
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a number of {value.bit_length()} bits"
    try:
        text = SHOWN.repr(value)
    except ValueError:  # Python does not convert integers of thousands of digits to text
        return f"a {type(value).__name__} with a number of thousands of digits"
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


__all__ = [
    "BELOW_ONE",
    "COUNT",
    "MAX_IMAGE_PIXELS",
    "NOT_NEGATIVE",
    "POSITIVE",
    "SHARE",
    "TEXT_LENGTH",
    "WHOLE",
    "Range",
    "check_choice",
    "check_names",
    "check_number",
    "check_ranges",
    "shorten_value",
]
