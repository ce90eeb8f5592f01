# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Synthetic scenes: phrases mean exactly their boxes, words are needed, compositions are held out, bytes repeat."""

import hashlib
import random
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from albef_amc.datasets_scripts import (
    GROUNDING_FEATURES,
    HELD_OUT_COMPOSITIONS,
    SyntheticGrounding,
    SyntheticGroundingConfig,
    build_scene,
    find_referents,
    generate_scenes,
    load_grounding_dataset,
    vocabulary,
)
from albef_amc.datasets_scripts.synthetic_grounding.phrases import PHRASE_TYPES
from albef_amc.evaluation.grounding_evaluation import shuffle_phrases
from albef_amc.regions_albef import decode_rle

NUM_SCENES = 300
SPLITS = ("train", "validation", "test")
DEFAULT_TYPES = SyntheticGroundingConfig().phrase_types


@pytest.fixture(scope="module")
def scenes() -> dict[str, list[dict]]:
    config = SyntheticGroundingConfig(phrase_types=PHRASE_TYPES)
    return {split: generate_scenes(split, NUM_SCENES, config) for split in SPLITS}


@pytest.fixture(scope="module")
def short_scenes() -> dict[str, list[dict]]:
    """Scenes whose phrases say no more than they must."""
    config = SyntheticGroundingConfig(full_description_share=0.0, phrase_types=PHRASE_TYPES)
    return {split: generate_scenes(split, NUM_SCENES, config) for split in SPLITS}


def _pairs(scenes, splits=SPLITS):
    return [(row, phrase) for split in splits for row in scenes[split] for phrase in row["phrases"]]


def _hits(phrase, x, y) -> bool:
    return any(x_min < x < x_max and y_min < y < y_max for x_min, y_min, x_max, y_max in phrase["boxes"])


def _fingerprint(rows) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row["image"].tobytes())
        digest.update(repr([value for name, value in row.items() if name != "image"]).encode())
    return digest.hexdigest()


@pytest.mark.slow
def test_every_phrase_means_exactly_its_boxes(scenes):
    for row, phrase in _pairs(scenes):
        found = find_referents(phrase["phrase"], row["proposals"])
        assert [row["proposals"][index]["box"] for index in found] == phrase["boxes"], (row["image_id"], phrase)


def test_number_agrees_with_boxes(scenes):
    for _, phrase in _pairs(scenes):
        assert (len(phrase["boxes"]) > 1) == (phrase["types"][0] == "plural")


def test_reader_on_a_scene_worked_out_by_hand():
    labels = ["small red circle", "small red circle", "big red circle", "big blue square", "small green cross"]
    centers = [(10, 30), (50, 30), (30, 55), (30, 30), (30, 8)]
    objects = [
        {"label": label, "box": [x - 3, y - 3, x + 3, y + 3]} for label, (x, y) in zip(labels, centers, strict=True)
    ]
    answers = {
        "the small red circle left of the blue square": [0],
        "the small red circle right of the blue square": [1],
        "the red circle below the blue square": [2],
        "the cross above the blue square": [4],
        "the red circles": [0, 1, 2],
        "the small shapes": [0, 1, 4],
        "the circle at the bottom": [2],
        "the shape at the top": [4],
        "the red circle on the right": [1],
        "the big red circle": [2],
        "the crosses": [4],
    }
    assert {phrase: find_referents(phrase, objects) for phrase in answers} == answers


@pytest.mark.slow
def test_full_descriptions_name_size_colour_and_shape_of_the_same_object(short_scenes):
    full_scenes = {
        split: generate_scenes(
            split, NUM_SCENES, SyntheticGroundingConfig(full_description_share=1.0, phrase_types=PHRASE_TYPES)
        )
        for split in SPLITS
    }
    num_full = 0
    for (row, full), (_, short) in zip(_pairs(full_scenes), _pairs(short_scenes), strict=True):
        assert (full["boxes"], full["types"]) == (short["boxes"], short["types"])
        label = next(item["label"] for item in row["proposals"] if item["box"] == full["boxes"][0])
        if short["types"][0] == "plural":
            assert full["phrase"] == short["phrase"]
        elif full["phrase"] != short["phrase"]:
            assert full["phrase"].startswith(f"the {label}")
            assert find_referents(full["phrase"], row["proposals"]) == find_referents(
                short["phrase"], row["proposals"]
            )
            num_full += 1
    assert num_full > NUM_SCENES


def test_share_of_full_descriptions(scenes):
    kinds = ("category", "size", "relation")
    full = [
        any(phrase["phrase"].startswith(f"the {item['label']}") for item in row["proposals"])
        for row, phrase in _pairs(scenes)
        if phrase["types"][0] in kinds
    ]
    assert 0.7 < np.mean(full) < 0.9


def test_distractors_share_words_with_the_object(short_scenes):
    """Most phrases about one object have a word that other objects of the scene share, so that it does not decide."""
    shared = []
    for row, phrase in _pairs(short_scenes):
        if phrase["types"][0] in ("category", "size"):
            words = set(phrase["phrase"].split()[1:]) - {"shape"}
            others = [item["label"].split() for item in row["proposals"] if item["box"] != phrase["boxes"][0]]
            shared.append(any(words & set(label) for label in others))
    assert np.mean(shared) > 0.6


def test_places_and_relations_choose_among_objects_of_one_description(short_scenes):
    markers = (" on the ", " at the ", " left of ", " right of ", " above ", " below ")
    for row, phrase in _pairs(short_scenes):
        if phrase["types"][0] not in ("spatial", "relation"):
            continue
        description = phrase["phrase"]
        for marker in markers:
            description = description.partition(marker)[0]
        assert len(find_referents(description, row["proposals"])) > 1
        if phrase["types"][0] == "spatial":
            place = phrase["phrase"].removeprefix(description)
            found = find_referents("the shape" + place, row["proposals"])
            assert [row["proposals"][index]["box"] for index in found] != phrase["boxes"]


def test_some_relations_need_their_anchor(scenes):
    """Phrases that differ only in their anchor, with other answers in the same scene, or a farther false candidate."""
    places = {"left": "on the left", "right": "on the right", "above": "at the top", "below": "at the bottom"}
    decided_by_anchor = num_relations = 0
    for row, phrase in _pairs(scenes):
        words = phrase["phrase"].split()
        relation = next((word for word in words if word in places), None)
        if phrase["types"][0] != "relation":
            continue
        shortcut = " ".join([*words[: words.index(relation)], places[relation]])
        found = [row["proposals"][index]["box"] for index in find_referents(shortcut, row["proposals"])]
        decided_by_anchor += found != phrase["boxes"]
        num_relations += 1
    assert num_relations > 300 and decided_by_anchor > 0.04 * num_relations


def test_types_are_mixed(scenes):
    for rows, types in ((scenes["train"], PHRASE_TYPES), (generate_scenes("train", NUM_SCENES), DEFAULT_TYPES)):
        counts = Counter(phrase["types"][0] for row in rows for phrase in row["phrases"])
        assert set(counts) == set(types)
        assert all(0.1 < count / sum(counts.values()) < 0.4 for count in counts.values()), counts


def test_unknown_type_is_refused():
    with pytest.raises(ValueError, match="`phrase_types` may hold category, size"):
        SyntheticGroundingConfig(phrase_types=("colour",))


def test_exchanged_phrases_mean_other_objects():
    """A model that finds every phrase rarely hits when the phrases of a scene are exchanged: words are needed."""
    hits = []
    for row in generate_scenes("test", NUM_SCENES):
        for phrase, other in zip(row["phrases"], shuffle_phrases(row)["phrases"], strict=True):
            found = find_referents(other["phrase"], row["proposals"])
            hits.append(row["proposals"][found[0]]["box"] in phrase["boxes"])
    assert np.mean(hits) < 0.25


def test_several_phrases_with_different_answers(scenes):
    different = total = 0
    for split in SPLITS:
        for row in scenes[split]:
            assert 2 <= len(row["phrases"]) <= 4
            assert len({phrase["phrase"] for phrase in row["phrases"]}) == len(row["phrases"])
            for first, second in combinations(row["phrases"], 2):
                total += 1
                different += first["boxes"] != second["boxes"]
    assert different > 0.8 * total


def test_baselines_without_language_are_low(scenes):
    pairs, generator = _pairs(scenes), random.Random(0)
    assert sum(_hits(phrase, 32, 32) for _, phrase in pairs) < 0.13 * len(pairs)
    points = ((generator.uniform(0, 64), generator.uniform(0, 64)) for _ in pairs)
    assert sum(_hits(phrase, *point) for (_, phrase), point in zip(pairs, points, strict=True)) < 0.13 * len(pairs)
    exchanged = 0
    for row in (row for split in SPLITS for row in scenes[split]):
        for phrase, other in zip(row["phrases"], row["phrases"][1:] + row["phrases"][:1], strict=True):
            x_min, y_min, x_max, y_max = other["boxes"][0]
            exchanged += _hits(phrase, (x_min + x_max) / 2, (y_min + y_max) / 2)
    assert exchanged < 0.35 * len(pairs)


def test_held_out_compositions_occur_in_test_only(scenes):
    def compositions(row):
        return {tuple(proposal["label"].split()[1:]) for proposal in row["proposals"]}

    for split in ("train", "validation"):
        for row in scenes[split]:
            assert HELD_OUT_COMPOSITIONS.isdisjoint(compositions(row))
            for phrase in row["phrases"]:
                assert "unseen_composition" not in phrase["types"]
                for color, shape in HELD_OUT_COMPOSITIONS:
                    assert f"{color} {shape}" not in phrase["phrase"]
    shown = set.union(*(compositions(row) for row in scenes["test"]))
    assert shown >= HELD_OUT_COMPOSITIONS
    unseen = [phrase for _, phrase in _pairs(scenes, ("test",)) if "unseen_composition" in phrase["types"]]
    named = [p for p in unseen if any(f"{color} {shape}" in p["phrase"] for color, shape in HELD_OUT_COMPOSITIONS)]
    assert len(unseen) > 100 and len(named) > 20
    colors = {color for row in scenes["train"] for color, _ in compositions(row)}
    shapes = {shape for row in scenes["train"] for _, shape in compositions(row)}
    assert colors >= {color for color, _ in HELD_OUT_COMPOSITIONS}
    assert shapes >= {shape for _, shape in HELD_OUT_COMPOSITIONS}


def test_boxes_are_tight_to_masks_and_objects_are_apart(scenes):
    for row, phrase in _pairs(scenes, ("train",))[:400]:
        for box, code in zip(phrase["boxes"], phrase["masks"], strict=True):
            rows, columns = np.nonzero(decode_rle(code))
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert 0 <= box[0] and 0 <= box[1] and box[2] <= row["width"] and box[3] <= row["height"]
        for first, second in combinations([proposal["box"] for proposal in row["proposals"]], 2):
            assert max(first[0], second[0]) >= min(first[2], second[2]) or max(first[1], second[1]) >= min(
                first[3], second[3]
            )


def test_drawn_color_lies_under_the_mask(scenes):
    strongest = {"red": 0, "green": 1, "blue": 2}
    for row, phrase in _pairs(scenes, ("train",)):
        words = phrase["phrase"].split()
        if phrase["types"][0] != "category" or words[1] not in strongest:
            continue
        mean = np.asarray(row["image"])[decode_rle(phrase["masks"][0])].mean(axis=0)
        assert mean.argmax() == strongest[words[1]]


def test_sizes_are_apart(scenes):
    config = SyntheticGroundingConfig()
    for row in scenes["train"]:
        for proposal in row["proposals"]:
            x_min, y_min, x_max, y_max = proposal["box"]
            side = max(x_max - x_min, y_max - y_min)
            assert side <= config.sides[proposal["label"].split()[0]][1]
            assert side >= config.sides[proposal["label"].split()[0]][0] - 1


def test_spans_spell_their_phrase(scenes):
    for _, phrase in _pairs(scenes):
        ((start, end),) = phrase["spans"]
        assert phrase["caption"][start:end] == phrase["phrase"]


def test_vocabulary_covers_every_word(scenes):
    words = set(vocabulary())
    for _, phrase in _pairs(scenes):
        assert set(phrase["phrase"].split()) <= words
        assert set(phrase["caption"].replace(",", "").split()) <= words
    assert vocabulary() == sorted(words) and len(words) < 60


def test_same_bytes_in_any_order():
    forward = generate_scenes("train", 20)
    backward = [build_scene("train", index, SyntheticGroundingConfig()) for index in reversed(range(20))]
    assert _fingerprint(forward) == _fingerprint(backward[::-1]) == _fingerprint(generate_scenes("train", 20))
    assert _fingerprint(forward[15:]) == _fingerprint(generate_scenes("train", 5, start=15))


def test_splits_and_seeds_differ(scenes):
    pictures = [row["image"].tobytes() for split in SPLITS for row in scenes[split]]
    pictures += [row["image"].tobytes() for row in generate_scenes("train", 50, SyntheticGroundingConfig(seed=1))]
    assert len(set(pictures)) == len(pictures)
    ids = [phrase["phrase_id"] for _, phrase in _pairs(scenes)]
    assert len(set(ids)) == len(ids)


def test_builder_writes_the_rows_of_generate_scenes(tmp_path):
    sizes = {"num_train_scenes": 12, "num_validation_scenes": 3, "num_test_scenes": 5, "seed": 4}
    stored = load_grounding_dataset("synthetic", "train", cache_dir=str(tmp_path), **sizes)
    assert stored.features == GROUNDING_FEATURES and len(stored) == 12
    rows = generate_scenes("train", 12, SyntheticGroundingConfig(seed=4))
    assert _fingerprint(stored) == _fingerprint(rows)
    assert len(load_grounding_dataset("synthetic", "all", cache_dir=str(tmp_path), **sizes)) == 20


def test_builder_configurations_do_not_share_a_cache(tmp_path):
    builders = [SyntheticGrounding(cache_dir=str(tmp_path), seed=seed) for seed in (0, 1)]
    assert builders[0].cache_dir != builders[1].cache_dir


def test_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`split` must be one of 'train', 'validation', 'test'"):
        generate_scenes("dev", 1)
    sizes = {"num_train_scenes": 1, "num_validation_scenes": 1, "num_test_scenes": 1}
    with pytest.raises(ValueError, match="no split 'dev'"):
        load_grounding_dataset("synthetic", "dev", cache_dir=str(tmp_path), **sizes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_objects": 2}, "3 or more"),
        ({"min_objects": 5, "max_objects": 4}, "in order"),
        ({"small_max_side": 18}, "small and big apart"),
        ({"big_max_side": 40}, "do not fit"),
        ({"image_side": 32}, "Raise `image_side`"),
        ({"phrases_per_scene": 0}, "`phrases_per_scene` must be 1 or more"),
    ],
)
def test_impossible_configuration_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SyntheticGroundingConfig(**arguments)


def test_larger_scenes_with_more_objects():
    config = SyntheticGroundingConfig(image_side=96, min_objects=5, max_objects=6, phrases_per_scene=6)
    for row in generate_scenes("test", 30, config):
        assert 5 <= len(row["proposals"]) <= 6 and row["image"].size == (96, 96)
        for phrase in row["phrases"]:
            found = find_referents(phrase["phrase"], row["proposals"])
            assert [row["proposals"][index]["box"] for index in found] == phrase["boxes"]
