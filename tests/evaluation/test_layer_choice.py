# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The layer that is explained is chosen on a development split."""

import pytest
from grounder_cases import build_tiny_grounder

from albef_amc.evaluation.layer_choice import (
    check_development_split,
    choose_layer,
    explain_layer,
    list_layers,
    list_test_splits,
)
from albef_amc.grounders import Grounder


def test_the_best_layer_and_of_equal_ones_the_lowest():
    assert choose_layer({0: 0.2, 1: 0.5, 2: 0.4}) == 1
    assert choose_layer({0: 0.2, 3: 0.5, 1: 0.5}) == 1


def test_splits_for_testing_are_known_by_their_names():
    names = ["train", "val", "validation[:10]", "latest", "test", "testA", "minitest", "Test[:5]"]
    assert list_test_splits(names) == ["test", "testA", "minitest", "Test[:5]"]


@pytest.mark.parametrize(("split", "parts"), [("testA", ["testA"]), ("mine", ["val", "test"]), ("all", ["testB"])])
def test_test_data_is_refused_unless_it_is_allowed(split, parts):
    with pytest.raises(ValueError, match="is a test split by its name.*`--choose-on-test`"):
        check_development_split(split, parts, is_test_allowed=False)
    assert check_development_split(split, parts, is_test_allowed=True)
    assert not check_development_split("val", ["val"], is_test_allowed=False)


def test_layers_of_a_grounder_and_of_albef(tiny_model):
    grounder = build_tiny_grounder("clip-itc")
    assert list(list_layers(grounder)) == [0, 1, 2]
    other = explain_layer(grounder, 0)
    assert (other.layer, grounder.layer, other.training) == (0, 2, False) and other.model is grounder.model
    assert list(list_layers(tiny_model)) == [2, 3]
    assert explain_layer(tiny_model, 3).config.explanation_layer == 3
    with pytest.raises(ValueError, match="`layer` is 1, but the layers with cross-attention"):
        explain_layer(tiny_model, 1)
    similarity = Grounder(grounder.model, grounder.processor, grounder.family, method="similarity")
    with pytest.raises(ValueError, match="the method similarity explains no layer"):
        list_layers(similarity)
