# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Parser of synthetic phrases: finds the objects of a row that a phrase refers to.

It is independent of the generator: its only inputs are the words of a phrase and the labelled boxes of a row.
"""

from collections.abc import Sequence
from typing import Any

AXES = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1), "top": (1, -1), "bottom": (1, 1)}
FUNCTION_WORDS = {"the", "of", "on", "at"}
ANY_SHAPE = "shape"


def find_referents(phrase: str, objects: Sequence[dict[str, Any]]) -> list[int]:
    """Find the objects that satisfy a phrase.

    An object is left of another if its centre is farther to the left than it is above or below (likewise for the other
    three relations); it is "on the left" if no other object of the same description is farther left.

    Args:
        phrase (`str`): such as "the small red circle left of the blue square".
        objects (`Sequence[dict]`): `proposals` of a row: `label` with the words of the object, `box` in pixels.

    Returns:
        `list[int]`: indices into `objects`, ascending.

    Example:
        >>> objects = [{"label": "big red cross", "box": [x, 0, x + 9, 9]} for x in (0, 20)]
        >>> find_referents("the red crosses", objects), find_referents("the red cross on the left", objects)
        ([0, 1], [0])
    """
    words = phrase.lower().split()
    place = next((index for index, word in enumerate(words) if word in AXES), None)
    if place is None:
        return _find_described(words, objects)
    axis, sign = AXES[words[place]]
    found = _find_described(words[:place], objects)
    if place < len(words) - 1:
        anchors = _find_described(words[place + 1 :], objects)
        centers = [_center(item) for item in objects]
        return [
            index for index in found if any(lies(centers[index], centers[other], words[place]) for other in anchors)
        ]
    furthest = max((sign * _center(objects[index])[axis] for index in found), default=None)
    return [index for index in found if sign * _center(objects[index])[axis] == furthest]


def _find_described(words: Sequence[str], objects: Sequence[dict[str, Any]]) -> list[int]:
    wanted = {_make_singular(word) for word in words} - FUNCTION_WORDS - {ANY_SHAPE}
    return [index for index, item in enumerate(objects) if wanted <= set(item["label"].split())]


def _make_singular(word: str) -> str:
    if word.endswith("sses"):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _center(item: dict[str, Any]) -> tuple[float, float]:
    x_min, y_min, x_max, y_max = item["box"]
    return (x_min + x_max) / 2, (y_min + y_max) / 2


def lies(center: tuple[float, float], anchor: tuple[float, float], side: str) -> bool:
    """Whether a centre `x, y` is on a side of another (a key of `AXES`): farther in that direction than across."""
    axis, sign = AXES[side]
    offsets = [a - b for a, b in zip(center, anchor, strict=True)]
    return sign * offsets[axis] > abs(offsets[1 - axis])
