# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What settings may be: numbers of a range, or one of several values."""

import math
import numbers
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .messages_albef import list_first, suggest_nearest

MAX_IMAGE_PIXELS = 100_000_000  # of a picture, and so of a mask: larger ones are refused before they are decoded

LARGE = 2**31 - 1  # an end that nobody comes near: messages put it last


@dataclass(frozen=True)
class Range:
    """Finite numbers between two ends.

    Args:
        least, most (`float`, default to no end): the ends, which belong to the range.
        is_above, is_below (`bool`, default to `False`): `least`, or `most`, does not belong to it.
        is_whole (`bool`, defaults to `False`): whole numbers alone.

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
        except OverflowError:  # a whole number beyond every float
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


# The text of a value in a message: the first parts of it alone, however large it is.
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
    """Refuses a value that is not a number of a range. NaN and infinity are in no range, and booleans no numbers.

    Args:
        name (`str`): of the setting, for the message.
        value: what was given.
        allowed ([`Range`]): the numbers that it may be.

    Raises:
        TypeError: no number, or none that is whole where a whole one is needed.
        ValueError: a number outside the range.

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
    """[`check_number`] for attributes of an object; one that is None stands for a default and is skipped.

    Args:
        settings: the object.
        ranges (mapping): name of an attribute -> what it may be.
        prefix (`str`, *optional*): put before the names in messages.
    """
    for name, allowed in ranges.items():
        value = getattr(settings, name)
        if value is not None:
            check_number(f"{prefix}{name}", value, allowed)


def check_choice(name: str, value: Any, choices: Iterable[Any], prefix: str = "") -> None:
    """Refuses a value that is not one of several.

    Args:
        name (`str`): of the setting, for the message.
        value: what was given.
        choices (iterable): what it may be.
        prefix (`str`, *optional*): put before the message.

    Raises:
        ValueError: another value; the nearest choice is suggested.

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
    """Refuses names that are not among the valid ones.

    Args:
        given (iterable): names of keys, options, ...
        valid (sequence of `str`): those that there are.
        where (`str`): what the names are in, for the message.
        kind (`str`, defaults to `"key"`): what a name stands for, for the message.

    Raises:
        ValueError: an unknown name; the nearest valid one is suggested.
    """
    for name in given:
        if name not in valid:
            hint = suggest_nearest(name, valid, f"Valid: {list_first(valid, NAMES_SHOWN)}.")
            raise ValueError(f"{where}: unknown {kind} `{name}`. {hint}")


def shorten_value(value: Any) -> str:
    """A value for a message: whole numbers of thousands of digits, and long texts, are cut.

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
    except ValueError:  # Python does not write numbers of thousands of digits
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
