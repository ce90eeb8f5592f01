# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What messages about values and names say."""

import re

import pytest

from albef_amc.messages_albef import list_first
from albef_amc.ranges_albef import check_choice, check_names


def test_first_entries_of_a_list():
    assert list_first([]) == ""
    assert list_first([1, 2, 3, 4]) == "1, 2, 3, 4"
    assert list_first([1, 2, 3, 4, 5, 6]) == "1, 2, 3, 4 and 2 more"
    assert list_first(["a", "b", "c"], limit=2, separator="; ") == "a; b and 1 more"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("saef", "row 3: `flip` must be one of None, 'safe', 'never', got 'saef'. Did you mean `safe`?"),
        (7, "row 3: `flip` must be one of None, 'safe', 'never', got 7."),
        (["safe"], "row 3: `flip` must be one of None, 'safe', 'never', got ['safe']."),
    ],
)
def test_a_value_that_is_not_among_the_choices(value, message):
    for allowed in (None, "safe", "never"):
        check_choice("flip", allowed, (None, "safe", "never"))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        check_choice("flip", value, (None, "safe", "never"), "row 3: ")


def test_names_that_are_not_valid():
    check_names([], ["seed"], "training")
    check_names(["seed", "max_steps"], ["max_steps", "seed"], "training")
    with pytest.raises(ValueError, match=r"^training: unknown key `sed`\. Did you mean `seed`\?$"):
        check_names(["max_steps", "sed"], ["max_steps", "seed"], "training")
    with pytest.raises(ValueError, match=r"^x: unknown option `7`\. Valid: .*name 11 and 8 more\.$"):
        check_names([7], [f"name {number}" for number in range(20)], "x", "option")
