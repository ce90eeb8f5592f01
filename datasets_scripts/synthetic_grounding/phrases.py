# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Phrases about a scene of shapes: all that refer to exactly one set of objects, and a choice of them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from random import Random
from typing import NamedTuple

from albef_amc.datasets_scripts.synthetic_grounding.scenes import COLORS, SHAPES, SIZES, SceneObject

# Type -> weight of its choice where a scene offers several; chosen for about equal frequencies.
TYPE_WEIGHTS = {"category": 0.8, "size": 1.2, "relation": 2.2, "plural": 1.2, "spatial": 0.8}
PHRASE_TYPES = tuple(TYPE_WEIGHTS)
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
POSITIONS = {"on the left": (-1, 0), "on the right": (1, 0), "at the top": (0, -1), "at the bottom": (0, 1)}
CAPTION_START = "a picture of "

# Minimum distance of centres, as a fraction of the image side, for a phrase with a position.
POSITION_MARGIN = 0.08
# Minimum ratio of the two axes for a phrase with a relation; the parser requires more than 1.
RELATION_CLARITY = 1.3


class Description(NamedTuple):
    """Words that describe an object; None for words that are not in the phrase."""

    size: str | None
    color: str | None
    shape: str | None

    def matches(self, item: SceneObject) -> bool:
        """Whether every word applies to the object."""
        return self.size in (None, item.size) and self.color in (None, item.color) and self.shape in (None, item.shape)

    def to_text(self, is_plural: bool = False) -> str:
        """Words in reading order; the noun for any shape is "shape"."""
        noun = self.shape or "shape"
        noun = make_plural(noun) if is_plural else noun
        return " ".join([word for word in (self.size, self.color) if word] + [noun])


class ScenePhrase(NamedTuple):
    """A phrase, its type, indices of the objects that it refers to and mentions, and words after its description."""

    text: str
    kind: str
    referents: tuple[int, ...]
    mentioned: tuple[int, ...]
    tail: str = ""


def make_plural(noun: str) -> str:
    """The plural of a shape's name, or of "shape"."""
    return noun + ("es" if noun.endswith("s") else "s")


def vocabulary() -> list[str]:
    """List every word of phrases and captions, sorted; enough to build a word-level tokenizer.

    Example:
        >>> {"small", "red", "circles", "left", "picture"} <= set(vocabulary())
        True
    """
    nouns = (*SHAPES, "shape")
    parts = [*nouns, *map(make_plural, nouns), *COLORS, *SIZES, *RELATIONS, *POSITIONS, CAPTION_START, "the and"]
    return sorted({word for part in parts for word in part.split()})


def list_phrases(
    objects: Sequence[SceneObject], image_side: int, kinds: Sequence[str] = PHRASE_TYPES
) -> list[ScenePhrase]:
    """List all phrases that refer to exactly their referents.

    Args:
        objects (`Sequence[SceneObject]`): the scene.
        image_side (`int`): pixels.
        kinds (sequence of `str`, *optional*): types wanted; all by default.

    Returns:
        `list[ScenePhrase]`: distinct texts, grouped by type.
    """
    described = group_by_description(objects)
    margin = POSITION_MARGIN * image_side
    phrases = [
        *_list_category_and_size(described),
        *_list_plural(described, len(objects)),
        *_list_spatial(described, objects, margin),
        *_keep_contrasts(list(_list_relation(described, objects, margin))),
    ]
    return [phrase for phrase in phrases if phrase.kind in kinds]


def group_by_description(objects: Sequence[SceneObject]) -> dict[Description, tuple[int, ...]]:
    """Every description of an object, with the indices of all objects that it matches."""
    groups: dict[Description, list[int]] = {}
    for index, item in enumerate(objects):
        for size in (None, item.size):
            for color in (None, item.color):
                for shape in (None, item.shape):
                    groups.setdefault(Description(size, color, shape), []).append(index)
    return {description: tuple(indices) for description, indices in groups.items()}


def _list_category_and_size(described: dict[Description, tuple[int, ...]]) -> Iterable[ScenePhrase]:
    for description, found in described.items():
        if len(found) != 1 or description.color is None and description.size is None:
            continue
        if description.size is None:
            yield ScenePhrase(f"the {description.to_text()}", "category", found, found)
        elif len(described[description._replace(size=None)]) > 1:
            yield ScenePhrase(f"the {description.to_text()}", "size", found, found)


def _list_plural(described: dict[Description, tuple[int, ...]], num_objects: int) -> Iterable[ScenePhrase]:
    for description, found in described.items():
        if 1 < len(found) < num_objects:
            yield ScenePhrase(f"the {description.to_text(is_plural=True)}", "plural", found, found)


def _list_spatial(
    described: dict[Description, tuple[int, ...]], objects: Sequence[SceneObject], margin: float
) -> Iterable[ScenePhrase]:
    centers = [item.center for item in objects]
    for place, (x_sign, y_sign) in POSITIONS.items():
        rank = [x_sign * x + y_sign * y for x, y in centers]
        for description, found in described.items():
            if not 1 < len(found) < len(objects):
                continue
            best, second = sorted(found, key=rank.__getitem__, reverse=True)[:2]
            # the position alone must not decide: another object lies farther in that direction
            if rank[best] >= rank[second] + margin and max(rank) > rank[best]:
                text, tail = f"the {description.to_text()}", f" {place}"
                yield ScenePhrase(text + tail, "spatial", (best,), (best,), tail)


def _list_relation(
    described: dict[Description, tuple[int, ...]], objects: Sequence[SceneObject], margin: float
) -> Iterable[ScenePhrase]:
    anchors = [(d, found[0]) for d, found in described.items() if d.color and d.shape and len(found) == 1]
    anchors = [(d, anchor) for d, anchor in anchors if d.size is None or len(described[d._replace(size=None)]) > 1]
    targets = [(d, found) for d, found in described.items() if d.shape and len(found) > 1]
    for anchor_description, anchor in anchors:
        for relation, direction in RELATIONS.items():
            for description, found in targets:
                if anchor in found:
                    continue
                clear = [i for i in found if _is_clearly(objects[i], objects[anchor], direction, margin)]
                possible = [i for i in found if _is_possibly(objects[i], objects[anchor], direction)]
                if len(clear) == 1 and clear == possible:
                    text, tail = f"the {description.to_text()}", f" {relation} the {anchor_description.to_text()}"
                    yield ScenePhrase(text + tail, "relation", (clear[0],), (clear[0], anchor), tail)


def _keep_contrasts(phrases: list[ScenePhrase]) -> list[ScenePhrase]:
    """Keep the relations whose referents change with the anchor; all if there are none."""
    referents = defaultdict(set)
    for phrase in phrases:
        referents[phrase.text.rpartition(" the ")[0]].add(phrase.referents)
    contrasts = [phrase for phrase in phrases if len(referents[phrase.text.rpartition(" the ")[0]]) > 1]
    return contrasts or phrases


def _offsets(item: SceneObject, anchor: SceneObject, direction: tuple[int, int]) -> tuple[float, float]:
    """Distances of the object from the anchor along the direction, and across it."""
    (x, y), (anchor_x, anchor_y), (x_sign, y_sign) = item.center, anchor.center, direction
    x_offset, y_offset = x - anchor_x, y - anchor_y
    return x_sign * x_offset + y_sign * y_offset, abs(y_sign * x_offset) + abs(x_sign * y_offset)


def _is_clearly(item: SceneObject, anchor: SceneObject, direction: tuple[int, int], margin: float) -> bool:
    along, across = _offsets(item, anchor, direction)
    return along >= margin and along >= RELATION_CLARITY * across


def _is_possibly(item: SceneObject, anchor: SceneObject, direction: tuple[int, int]) -> bool:
    along, across = _offsets(item, anchor, direction)
    return along > 0 and RELATION_CLARITY * along > across


def choose_phrases(rng: Random, candidates: Sequence[ScenePhrase], count: int) -> list[ScenePhrase]:
    """Choose phrases that share as few objects as possible and, among those, have different types.

    Exchanging two phrases of a scene then changes the referents, as far as the scene allows.

    Args:
        rng (`random.Random`): source of every choice.
        candidates (`Sequence[ScenePhrase]`): from `list_phrases`.
        count (`int`): maximum number.

    Returns:
        `list[ScenePhrase]`: up to `count` of the candidates, in random order.
    """
    preference = {kind: rng.random() / weight for kind, weight in TYPE_WEIGHTS.items()}
    remaining = rng.sample(candidates, len(candidates))
    chosen: list[ScenePhrase] = []
    named: Counter[int] = Counter()
    types: Counter[str] = Counter()
    while remaining and len(chosen) < count:
        best = min(
            remaining,
            key=lambda phrase: (
                max(named[index] for index in phrase.referents),
                types[phrase.kind],
                preference[phrase.kind],
            ),
        )
        remaining.remove(best)
        chosen.append(best)
        named.update(best.referents)
        types[best.kind] += 1
    rng.shuffle(chosen)
    return chosen


def describe_fully(
    rng: Random, phrases: Sequence[ScenePhrase], objects: Sequence[SceneObject], share: float
) -> list[ScenePhrase]:
    """Extend a fraction of the phrases to size, colour and shape, as people often say more than necessary.

    The phrase still refers to the same object. Unchanged are plurals, a position ("on the right") that would no longer
    choose among several objects, and a phrase whose full form exists already.

    Args:
        rng (`random.Random`): source of every choice.
        phrases (`Sequence[ScenePhrase]`): from `choose_phrases`.
        objects (`Sequence[SceneObject]`): the scene.
        share (`float`): probability, in [0, 1], of the full form.

    Returns:
        `list[ScenePhrase]`: as many phrases, in the same order.
    """
    described = list(phrases)
    for index, phrase in enumerate(phrases):
        is_chosen = rng.random() < share
        if is_chosen and phrase.kind != "plural":
            item = objects[phrase.referents[0]]
            full = Description(item.size, item.color, item.shape)
            text = f"the {full.to_text()}{phrase.tail}"
            is_choice = phrase.kind != "spatial" or sum(full.matches(other) for other in objects) > 1
            if is_choice and all(text != other.text for other in described):
                described[index] = phrase._replace(text=text)
    return described


def build_caption(phrases: Sequence[ScenePhrase]) -> tuple[str, list[tuple[int, int]]]:
    """Join phrases to a caption of the scene, and return their spans.

    Args:
        phrases (`Sequence[ScenePhrase]`): at least one.

    Returns:
        `tuple[str, list[tuple[int, int]]]`: the caption and per phrase its `[start, end)` character offsets.
    """
    caption, spans = CAPTION_START, []
    for index, phrase in enumerate(phrases):
        if index:
            caption += " and " if index == len(phrases) - 1 else ", "
        spans.append((len(caption), len(caption) + len(phrase.text)))
        caption += phrase.text
    return caption, spans
