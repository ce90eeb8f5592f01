# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Statements about synthetic scenes: the true ones refer, the false ones do not, by the parser of phrases."""

from collections import Counter
from random import Random

import pytest

from albef_amc.datasets_scripts.synthetic_grounding.phrase_reader import find_referents
from albef_amc.datasets_scripts.synthetic_grounding.phrases import PHRASE_TYPES
from albef_amc.datasets_scripts.synthetic_grounding.scenes import HELD_OUT_COMPOSITIONS, SceneObject
from albef_amc.datasets_scripts.synthetic_grounding.statements import (
    EXCHANGE_KINDS,
    list_exchanges,
    list_true_statements,
    names_any,
)
from albef_amc.datasets_scripts.synthetic_grounding.synthetic_grounding import (
    SyntheticGroundingConfig,
    generate_scenes,
)
from albef_amc.datasets_scripts.true_phrases import list_true_phrases, list_true_texts

NUM_SCENES = 300


@pytest.fixture(scope="module")
def rows():
    config = SyntheticGroundingConfig(phrase_types=PHRASE_TYPES, full_description_share=0.5)
    return generate_scenes("test", NUM_SCENES, config)


def test_true_statements_refer_and_hold_the_phrases(rows):
    for row in rows:
        phrases, statements = {phrase["phrase"] for phrase in row["phrases"]}, row["true_phrases"]
        assert statements == sorted(set(statements)) and phrases <= set(statements)
        assert [text for text in statements if not find_referents(text, row["proposals"])] == []


def test_every_exchange_is_false_and_one_word_or_order_away(rows):
    found = Counter()
    for row in rows:
        assert row["false_phrases"] == sorted(set(row["false_phrases"])) and row["false_phrases"]
        assert [text for text in row["false_phrases"] if find_referents(text, row["proposals"])] == []
        assert not {*row["false_phrases"]} & list_true_phrases(row)
        for phrase in row["phrases"]:
            exchanges = list_exchanges(phrase["phrase"], row["proposals"], Random(0))
            found.update(list(exchanges))
            for kind, text in exchanges.items():
                old, new = phrase["phrase"].split(), text.split()
                changed = (
                    [pair for pair in zip(old, new, strict=True) if pair[0] != pair[1]] if kind != "nouns" else []
                )
                assert not find_referents(text, row["proposals"]) and old != new
                assert len(changed) == (kind != "nouns") or kind == "side"
                assert kind != "nouns" or sorted(old) == sorted(new)
    assert set(found) == {*EXCHANGE_KINDS} and min(found.values()) >= NUM_SCENES // 10, found


def test_what_the_parser_finds_true_is_listed(rows):
    """Statements of one scene are listed for another exactly where the parser finds them true of it; it takes a plural
    for one object as well."""
    texts = {text for row in rows[:30] for text in row["true_phrases"]}
    for row in rows[30:60]:
        true = {text for text in texts if find_referents(text, row["proposals"])}
        listed = texts & set(row["true_phrases"])
        assert listed <= true
        for text in true - listed:
            assert text.endswith("s") and not text.endswith("cross")
            assert len(find_referents(text, row["proposals"])) == 1


def test_a_side_of_what_is_not_there_is_false():
    objects = [{"label": "big red cross", "box": [0, 0, 9, 9]}]
    assert find_referents("the blue circle on the left", objects) == []
    assert find_referents("the blue circle left of the red cross", objects) == []
    assert find_referents("the red cross left of the blue circle", objects) == []


def test_types_that_a_data_set_lacks_are_not_stated():
    objects = [SceneObject("big", "red", "circle", place, place, 20) for place in (0, 30)]
    assert "the red circles" not in list_true_statements(objects, ("category",))
    assert not any(word in text for text in list_true_statements(objects, ("category",)) for word in ("left", "above"))
    assert "the red circle on the left" in list_true_statements(objects)
    assert "the red circles" in list_true_statements(objects)


def test_true_texts_are_listed_once_as_written():
    phrases = [{"phrase": "A dog!", "paraphrases": ["puppy", "A dog!"]}, {"phrase": None}]
    row = {"phrases": phrases, "true_phrases": ["the door", "puppy", "..."]}
    assert list_true_texts(row) == ["the door", "puppy", "...", "A dog!"]
    assert list_true_phrases(row) == {"the door", "puppy", "a dog"}
    assert list_true_phrases({"phrases": None}) == set()


def test_false_phrases_of_training_scenes_name_no_composition_that_never_occurs(rows):
    """Otherwise a model learns that a text about a red triangle is false, without looking."""
    trained = [text for row in generate_scenes("train", NUM_SCENES) for text in row["false_phrases"]]
    assert len(trained) > NUM_SCENES and not any(names_any(text, HELD_OUT_COMPOSITIONS) for text in trained)
    assert any(names_any(text, HELD_OUT_COMPOSITIONS) for row in rows for text in row["false_phrases"])
    assert names_any("the red triangles", {("red", "triangle")})
    assert not names_any("the red shape left of the triangle", {("red", "triangle")})
