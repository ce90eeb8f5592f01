# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Phrases of KiloGram: articles, and the caption that names the whole shape and its parts, with their spans."""

import re

PLURALS = frozenset("children dice feet fish geese mice men oxen people sheep teeth women".split())
# Uncountable nouns take no article.
UNCOUNTABLE = frozenset("debris equipment furniture graffiti luggage them".split())
SINGULAR_ENDINGS = ("ss", "us", "is", "'s")
# Plural words with a singular ending.
PLURALS_IN_IS = frozenset(["skis"])
SPOKEN_WITH_VOWEL = re.compile(r"hour|heir|honest|honor|[aefhilmnorsx](?![a-z])|[aeiou8]")
SPOKEN_WITH_CONSONANT = re.compile(r"uni([^nmd]|$)|eu|ew|one\b|once|us[aeiu]|ur[aeiou]|ut[aei]|ufo|uk|u\b")


def add_article(phrase: str) -> str:
    """Prefix a phrase with "a" or "an", unless its last word is plural.

    Args:
        phrase (`str`): text of an annotation; a wrong article is corrected.

    Returns:
        `str`: the noun phrase.

    Example:
        >>> [add_article(phrase) for phrase in ("head", "hour glass", "an house", "left legs", "unicorn")]
        ['a head', 'an hour glass', 'a house', 'left legs', 'a unicorn']
    """
    last = phrase.split(" ")[-1].lower()
    is_plural = last.endswith("s") and not last.endswith(SINGULAR_ENDINGS)
    if is_plural or last in PLURALS or last in UNCOUNTABLE or last in PLURALS_IN_IS:
        return phrase
    words = re.sub(r"^an?\s+", "", phrase)
    spoken = words.lower()
    is_vowel = SPOKEN_WITH_VOWEL.match(spoken) and not SPOKEN_WITH_CONSONANT.match(spoken)
    return f"{'an' if is_vowel else 'a'} {words}"


def build_caption(whole: str, parts: list[str]) -> tuple[str, list[tuple[str, list[int]]]]:
    """Build the caption of an annotation from its noun phrases.

    Args:
        whole (`str`): description of the whole shape.
        parts (`list[str]`): names of its parts.

    Returns:
        `tuple[str, list[tuple[str, list[int]]]]`: the caption; phrase and span of the whole shape, then of
        every part.

    Example:
        >>> caption, phrases = build_caption("bird", ["head", "wings"])
        >>> caption, phrases[2]
        ('This looks like a bird with a head, and wings.', ('wings', [40, 45]))
    """
    caption = "This looks like "
    phrases = []
    for number, words in enumerate([whole, *parts]):
        if number == 1:
            caption += " with "
        elif number > 1:
            caption += ", and " if number == len(parts) else ", "
        phrase = add_article(words)
        phrases.append((phrase, [len(caption), len(caption) + len(phrase)]))
        caption += phrase
    return caption + ".", phrases
