# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Statements about a scene of shapes: all that are true of it, and false ones that differ from a phrase by a word."""

from collections.abc import Iterator, Sequence, Set
from itertools import pairwise
from random import Random
from typing import Any

from albef_amc.datasets_scripts.synthetic_grounding.phrase_reader import find_referents, lies
from albef_amc.datasets_scripts.synthetic_grounding.phrases import (
    PHRASE_TYPES,
    POSITIONS,
    RELATIONS,
    Description,
    group_by_description,
    make_plural,
)
from albef_amc.datasets_scripts.synthetic_grounding.scenes import COLORS, SHAPES, SIZES, SceneObject

EXCHANGE_KINDS = ("color", "shape", "size", "side", "nouns")
OPPOSITES = {"left": "right", "right": "left", "above": "below", "below": "above", "top": "bottom", "bottom": "top"}


def list_true_statements(objects: Sequence[SceneObject], kinds: Sequence[str] = PHRASE_TYPES) -> list[str]:
    """List what can be said of a scene in the words of its phrases, whether or not it refers to one set of objects.

    A phrase is true of a scene if it refers to an object (`find_referents`): "the red circle" of a scene with two red
    circles as well.

    Args:
        objects (`Sequence[SceneObject]`): the scene.
        kinds (sequence of `str`, *optional*): types of phrases; all by default.

    Returns:
        `list[str]`: distinct texts, sorted.
    """
    described = {words: found for words, found in group_by_description(objects).items() if any(words)}
    texts = {f"the {words.to_text()}" for words in described}
    if "plural" in kinds:
        texts |= {f"the {words.to_text(is_plural=True)}" for words, found in described.items() if len(found) > 1}
    if "spatial" in kinds:
        texts |= {f"the {words.to_text()} {place}" for words in described for place in POSITIONS}
    if "relation" in kinds:
        texts |= set(_list_relations(objects, described))
    return sorted(texts)


def _list_relations(objects: Sequence[SceneObject], described: dict[Description, tuple[int, ...]]) -> Iterator[str]:
    centers = [item.center for item in objects]
    targets = [(words, found) for words, found in described.items() if words.shape]
    anchors = [(words, found) for words, found in targets if words.color]
    pairs = {
        relation: {
            (index, anchor)
            for index in range(len(objects))
            for anchor in range(len(objects))
            if lies(centers[index], centers[anchor], relation.split()[0])
        }
        for relation in RELATIONS
    }
    for relation, holding in pairs.items():
        for words, found in targets:
            for anchor_words, anchors_found in anchors:
                if any((index, anchor) in holding for index in found for anchor in anchors_found):
                    yield f"the {words.to_text()} {relation} the {anchor_words.to_text()}"


def list_exchanges(
    phrase: str,
    objects: Sequence[dict[str, Any]],
    rng: Random,
    avoided: Set[tuple[str, str]] = frozenset(),
) -> dict[str, str]:
    """Change a phrase by one exchange of every kind so that it is false of a scene.

    Args:
        phrase (`str`): such as "the small red circle left of the blue square".
        objects (`Sequence[dict]`): `proposals` of the row, as `find_referents` takes them.
        rng (`random.Random`): chooses among several possible exchanges of a kind.
        avoided (set of (`str`, `str`), *optional*): colours and shapes that no exchange may put together. Those that
            are held out of the training scenes: a text about them would be false of every scene, and recognised
            without looking.

    Returns:
        `dict[str, str]`: a false text under each of the kinds "color", "shape", "size" (another word in place of one),
            "side" (the opposite side) and "nouns" (the two descriptions of a relation exchanged) that is possible.

    Example:
        >>> objects = [{"label": "big red cross", "box": [0, 0, 9, 9]}]
        >>> list_exchanges("the big cross", objects, Random(0))["size"]
        'the small cross'
    """
    candidates = {
        "color": _exchange_words(phrase, [(color,) for color in COLORS]),
        "shape": _exchange_words(phrase, [(shape, make_plural(shape)) for shape in SHAPES]),
        "size": _exchange_words(phrase, [(size,) for size in SIZES]),
        "side": [" ".join(OPPOSITES.get(word, word) for word in phrase.split())],
        "nouns": [_exchange_nouns(phrase)],
    }
    exchanges = {}
    for kind, texts in candidates.items():
        false = [text for text in texts if not find_referents(text, objects) and not names_any(text, avoided)]
        if false:
            exchanges[kind] = rng.choice(false)
    return exchanges


def names_any(text: str, compositions: Set[tuple[str, str]]) -> bool:
    """Whether a text names an object of one of some colours with shapes, in the singular or the plural."""
    neighbors = set(pairwise(text.split()))
    return any((color, form) in neighbors for color, shape in compositions for form in (shape, make_plural(shape)))


def _exchange_words(phrase: str, forms: Sequence[tuple[str, ...]]) -> list[str]:
    """The phrase with one word in place of another of its kind; `forms` are the forms of each word."""
    words, texts = phrase.split(), []
    for place, word in enumerate(words):
        for own in forms:
            if word in own:
                others = (other[own.index(word)] for other in forms if other != own)
                texts += [" ".join([*words[:place], other, *words[place + 1 :]]) for other in others]
    return texts


def _exchange_nouns(phrase: str) -> str:
    """The phrase with the two descriptions of its relation exchanged; the phrase itself without a relation."""
    for relation in RELATIONS:
        target, found, anchor = phrase.partition(f" {relation} ")
        if found:
            return f"{anchor} {relation} {target}"
    return phrase
