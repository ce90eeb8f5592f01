# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The pointing game as an `evaluate` module: rules, phrase types, ways to add phrases, and what it refuses."""

import evaluate
import numpy as np
import pytest
import torch

from albef_amc.metrics import get_metric_folder

FOLDER = get_metric_folder("pointing_game")
BOX = [10, 20, 30, 40]


@pytest.fixture
def pointing_game(tmp_path):
    return evaluate.load(str(FOLDER), cache_dir=str(tmp_path))


def compute_accuracy(pointing_game, point, boxes) -> float:
    return pointing_game.compute(predictions=[point], references=[boxes])["pointing_game_accuracy"]


@pytest.mark.parametrize(
    ("point", "hit"),
    [
        ((20, 30), 1),
        ((11, 21), 1),
        ((29, 39), 1),
        ((10, 30), 0),
        ((30, 30), 0),
        ((20, 20), 0),
        ((20, 40), 0),
        ((10, 20), 0),
        ((10.001, 20.001), 1),
        ((5, 30), 0),
        ((20, 50), 0),
    ],
)
def test_a_hit_lies_strictly_inside(pointing_game, point, hit):
    assert compute_accuracy(pointing_game, point, [BOX]) == hit


def test_coordinates_keep_their_digits(pointing_game):
    assert compute_accuracy(pointing_game, (16777217, 5), [[16777216, 0, 16777218, 10]]) == 1


def test_any_box_counts(pointing_game):
    assert compute_accuracy(pointing_game, (55, 55), [BOX, [50, 50, 60, 60]]) == 1


def test_the_space_between_two_boxes_is_a_miss(pointing_game):
    assert compute_accuracy(pointing_game, (40, 30), [BOX, [50, 20, 60, 40]]) == 0


def test_a_box_without_area_is_never_hit(pointing_game):
    assert compute_accuracy(pointing_game, (10, 20), [[10, 20, 10, 20]]) == 0


def test_a_phrase_of_several_types_counts_in_each_and_once_overall(pointing_game):
    result = pointing_game.compute(
        predictions=[(20, 30), (0, 0), (20, 30), (0, 0)],
        references=[[BOX]] * 4,
        phrase_types=[["people", "other"], ["people", "people"], ["animals"], []],
        return_hits=True,
    )
    assert result == {
        "pointing_game_accuracy": 0.5,
        "num_phrases": 4,
        "pointing_game_accuracy_by_type": {"animals": 1.0, "other": 1.0, "people": 0.5},
        "num_phrases_by_type": {"animals": 1, "other": 1, "people": 2},
        "hits": [True, False, True, False],
    }
    assert list(result["num_phrases_by_type"]) == ["animals", "other", "people"]


def test_without_types_the_tables_are_empty_and_hits_are_skipped(pointing_game):
    result = pointing_game.compute(predictions=[(20, 30)], references=[[BOX]])
    assert result["pointing_game_accuracy_by_type"] == {}
    assert result["num_phrases_by_type"] == {}
    assert "hits" not in result


@pytest.mark.parametrize("make", [list, np.array, torch.tensor])
def test_lists_arrays_and_tensors_give_the_same(pointing_game, make):
    result = pointing_game.compute(predictions=make([[20, 30], [0, 0]]), references=make([[BOX], [BOX]]))
    assert result["pointing_game_accuracy"] == 0.5


@pytest.mark.parametrize("options", [{}, {"keep_in_memory": True}])
def test_batches_and_single_phrases_add_up(tmp_path, options):
    pointing_game = evaluate.load(str(FOLDER), cache_dir=str(tmp_path), **options)
    pointing_game.add_batch(
        predictions=[(20, 30), (0, 0)], references=[[BOX], [BOX, BOX]], phrase_types=[["people"], []]
    )
    pointing_game.add(prediction=(20, 30), reference=[BOX], phrase_types=["people"])
    pointing_game.add(prediction=(1, 1), reference=[BOX])
    result = pointing_game.compute(predictions=[(2, 2)], references=[[BOX]], return_hits=True)
    assert result["hits"] == [True, False, True, False, False]
    assert result["num_phrases_by_type"] == {"people": 2}


def test_a_second_computation_starts_afresh(pointing_game):
    assert compute_accuracy(pointing_game, (20, 30), [BOX]) == 1
    assert compute_accuracy(pointing_game, (0, 0), [BOX]) == 0


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"predictions": [], "references": []}, "no phrase was added"),
        ({}, "no phrase was added"),
        ({"predictions": [(1, 1)]}, "`predictions` and `references` go together"),
        ({"phrase_types": [["people"]]}, "`phrase_types` were given without `predictions`"),
        ({"predictions": [(1, 1)], "references": []}, "1 `predictions` but 0 `references`"),
        (
            {"predictions": [(1, 1)], "references": [[BOX]], "phrase_types": [[], []]},
            "1 `predictions` but 2 `phrase_types`",
        ),
        ({"predictions": [(1, 1), (1, np.nan)], "references": [[BOX]] * 2}, r"`predictions\[1\]` is .* not a point"),
        ({"predictions": [(1, 1, 1)], "references": [[BOX]]}, r"`predictions\[0\]` must be a point x, y"),
        ({"predictions": [("a", "b")], "references": [[BOX]]}, r"`predictions\[0\]` must hold numbers"),
        ({"predictions": [(1, 1), (1, 1)], "references": [[BOX], []]}, r"`references\[1\]` has no box"),
        ({"predictions": [(1, 1)], "references": [None]}, r"`references\[0\]` has no box"),
        ({"predictions": [(1, 1)], "references": [BOX]}, r"`references\[0\]` must be a list of boxes"),
        ({"predictions": [(1, 1)], "references": [[BOX, [1, 2]]]}, r"`references\[0\]` must hold numbers"),
        ({"predictions": [(1, 1)], "references": [[[0, 0, np.inf, 9]]]}, r"`references\[0\]` holds a box that is not"),
        ({"predictions": [(1, 1)], "references": [[[30, 40, 10, 20]]]}, r"`references\[0\]` holds a reversed box"),
        (
            {"predictions": [(1, 1)], "references": [[BOX]], "phrase_types": ["people"]},
            r"`phrase_types\[0\]` must be a list of strings",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(pointing_game, inputs, words):
    with pytest.raises(ValueError, match=words):
        pointing_game.compute(**inputs)


def test_a_refused_batch_leaves_nothing_behind(pointing_game):
    with pytest.raises(ValueError, match="has no box"):
        pointing_game.add_batch(predictions=[(20, 30), (1, 1)], references=[[BOX], []])
    assert pointing_game.compute(predictions=[(20, 30)], references=[[BOX]])["num_phrases"] == 1


def test_an_unknown_metric_names_those_there_are():
    with pytest.raises(ValueError, match="Metrics: .*pointing_game"):
        get_metric_folder("no_such_metric")
