# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Phrases against themselves with one exchange: false of the scene, one change away, and scored once each."""

import numpy as np
import pytest

from albef_amc.datasets_scripts.synthetic_grounding.phrase_reader import find_referents
from albef_amc.datasets_scripts.synthetic_grounding.statements import EXCHANGE_KINDS
from albef_amc.datasets_scripts.synthetic_grounding.synthetic_grounding import (
    SyntheticGroundingConfig,
    generate_scenes,
)
from albef_amc.evaluation import hard_exchanges
from albef_amc.evaluation.hard_exchanges import evaluate_exchanges, list_exchange_pairs

OPTIONS = SyntheticGroundingConfig(phrase_types=("category", "size", "relation", "plural", "spatial"))
DIFFERENT_WORDS = {"color": 1, "shape": 1, "size": 1}


@pytest.fixture(scope="module")
def rows():
    return generate_scenes("test", 40, OPTIONS)


def test_pairs_are_true_and_false_of_the_same_scene(rows):
    of_kind = list_exchange_pairs(rows)
    assert list(of_kind) == list(EXCHANGE_KINDS) and all(of_kind.values())
    for kind, pairs in of_kind.items():
        for match, other in pairs:
            assert (match.is_match, other.is_match) == (True, False)
            assert match.row == other.row and rows[match.row]["image_id"] == match.image_id == other.image_id
            objects = rows[match.row]["proposals"]
            assert find_referents(match.phrase, objects) and not find_referents(other.phrase, objects)
            before, after = match.phrase.split(), other.phrase.split()
            if kind in DIFFERENT_WORDS:
                assert sum(a != b for a, b in zip(before, after, strict=True)) == DIFFERENT_WORDS[kind]
            if kind == "nouns":
                assert sorted(before) == sorted(after) and before != after


def test_pairs_depend_on_scene_and_seed_alone(rows):
    assert list_exchange_pairs(rows) == list_exchange_pairs(rows)
    assert list_exchange_pairs(rows, seed=1) != list_exchange_pairs(rows)
    (alone,) = (list_exchange_pairs(rows[3:4])["color"] or [None])[:1]
    together = [both for both in list_exchange_pairs(rows)["color"] if both[0].row == 3][:1]
    assert [part.phrase for part in alone] == [part.phrase for both in together for part in both]


def test_each_kind_has_its_area(rows, monkeypatch):
    """A score that takes relations the wrong way round, and is right otherwise."""
    exchanged = {(other.row, other.phrase) for _, other in list_exchange_pairs(rows)["nouns"]}
    scored = []

    def score(model, processor, given, pairs, batch_size):
        scored.extend(pairs)
        texts = [(pair.row, pair.phrase) for pair in pairs]
        return np.array(
            [
                0.0 if pair.is_match else 1.0 if text in exchanged else -1.0
                for pair, text in zip(pairs, texts, strict=True)
            ]
        )

    monkeypatch.setattr(hard_exchanges, "score_pairs", score)
    areas = evaluate_exchanges(None, None, rows)
    assert (areas["color"], areas["shape"], areas["size"], areas["nouns"]) == (1.0, 1.0, 1.0, 0.0)
    assert len(scored) == len(set(scored))


def test_a_kind_without_a_pair_is_left_out(rows, tiny_model, tiny_processor):
    kept = [
        {**row, "phrases": [phrase for phrase in row["phrases"] if "category" in phrase["types"]]} for row in rows[:12]
    ]
    areas = evaluate_exchanges(tiny_model, tiny_processor, kept)
    assert {"color", "shape"} <= areas.keys() and not {"side", "nouns"} & areas.keys()
    assert all(0 <= area <= 1 for area in areas.values())
