# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""2,000 bad, odd and harmless inputs end as their mutations said before they ran, and every repair is on the page."""

import re
import time
import warnings

import datasets
import fuzz
import fuzz_frame
import numpy as np
import pytest
import torch
from fuzz_frame import UNAFFECTED, Category, Expectation, refused, repaired
from fuzz_repairs import build_tables, list_builder_messages, list_row_messages, read_page_tables

NUM_INPUTS, SEED = 2000, 0


@pytest.fixture(autouse=True)
def quietly():
    """No progress bars."""
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.mark.slow
def test_two_thousand_inputs_end_as_their_mutations_said():
    result = fuzz.run_fuzz(NUM_INPUTS, SEED)
    rows = {row["category"]: row for row in result.list_rows()}
    assert rows["all"]["inputs"] == result.num_inputs == NUM_INPUTS
    assert set(rows) == {category.name for category, _ in fuzz.PARTS} | {"all"}
    assert not result.failures, "\n".join(result.failures)
    for category, _ in fuzz.PARTS:
        assert rows[category.name]["inputs"] >= len(category.mutations), "some mutation was not tried"
        assert rows[category.name]["clear error"] and rows[category.name]["unaffected"]


@pytest.mark.parametrize("category", [category for category, _ in fuzz.PARTS], ids=lambda category: category.name)
def test_mutations_draw_the_same_of_the_same_seed_and_differ_from_each_other(category):
    drawn = [
        [(case.mutation, case.expected, clean) for case, clean in fuzz_frame.iterate_cases(category, 60, seed)]
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2] or len(category.mutations) == len({name for name, *_ in drawn[0]})
    first = category.read(category.build(0))
    assert not fuzz_frame.find_difference(category.read(category.build(0)), first)


def classify(read, expected: Expectation, value: object = 1) -> tuple[str, str]:
    category = Category("numbers", lambda number: 0, read)
    seen = fuzz_frame.observe(category, fuzz_frame.Case("numbers", "none", value, expected), [1.0, {"a": 2}])
    return seen.outcome, seen.detail


def fail(error: Exception):
    raise error


def say(message: str):
    warnings.warn(message, stacklevel=2)


@pytest.mark.parametrize(
    ("read", "expected", "outcome"),
    [
        (lambda value: [1.0, {"a": 2}], UNAFFECTED, "unaffected"),
        (lambda value: [1.1, {"a": 2}], UNAFFECTED, "silent"),
        (lambda value: [1.0, {"a": 2, "b": 3}], UNAFFECTED, "silent"),
        (lambda value: [1.0], UNAFFECTED, "silent"),
        (lambda value: [float("nan"), {"a": 2}], UNAFFECTED, "silent"),
        (lambda value: [1.0, {"a": 2}], refused("no number"), "silent"),
        (lambda value: fail(ValueError("`value` is no number")), refused("no number"), "clear error"),
        (lambda value: fail(ValueError("`value` is no number")), refused("no text"), "silent"),
        (lambda value: fail(ValueError("`value` is no number")), UNAFFECTED, "silent"),
        (lambda value: fail(ValueError("`value` is no number")), repaired("transparency"), "silent"),
        (lambda value: fail(ValueError("x" * 10_000)), refused("x"), "traceback"),
        (lambda value: fail(KeyError("value")), refused("value"), "traceback"),
        (lambda value: fail(IndexError()), UNAFFECTED, "traceback"),
        (lambda value: fail(RecursionError()), refused(""), "traceback"),
        (lambda value: b"\xff".decode(), refused(""), "traceback"),
        (lambda value: say(fuzz_frame.REPAIRS["transparency"]), repaired("transparency"), "named repair"),
        (lambda value: say("something else"), repaired("transparency"), "silent"),
        (lambda value: [1.0, {"a": 2}], repaired("transparency"), "silent"),
    ],
)
def test_every_outcome_is_told_apart(read, expected, outcome):
    assert classify(read, expected)[0] == outcome


@pytest.mark.parametrize("limit", ["TIME_LIMIT", "WAITING_LIMIT"])
def test_what_takes_too_long_is_stopped(monkeypatch, limit):
    """Work ends by the limit of work, waiting by the limit of waiting: the other one is too far away."""

    def read(value: object) -> None:
        while True:
            if limit == "WAITING_LIMIT":
                time.sleep(1)

    for name in ("TIME_LIMIT", "WAITING_LIMIT"):
        monkeypatch.setattr(fuzz_frame, name, 0.05 if name == limit else 1e6)
    assert classify(read, UNAFFECTED)[0] == "hang"


@pytest.mark.parametrize(
    ("found", "clean", "place"),
    [
        (torch.zeros(2), torch.zeros(3), "output differs"),
        ({"a": [torch.ones(2)]}, {"a": [torch.zeros(2)]}, "output.a[0] differs"),
        ({"a": None}, {"a": torch.zeros(2)}, "output.a differs"),
        ({"a": [1, "x"]}, {"a": [1, "y"]}, "output.a[1] is 'x', not 'y'"),
        ((1.0, 2.5), (1.0, 2.0), "output[1] is 2.5, not 2.0"),
        ([np.float64(1)], [1.0], ""),
        (torch.tensor([0.0, torch.nan]), torch.tensor([1e-6, torch.nan]), ""),
    ],
)
def test_a_difference_is_named_by_its_place(found, clean, place):
    assert fuzz_frame.find_difference(found, clean) == place


def test_two_mutations_of_one_name_are_refused():
    category = Category("numbers", int, int)
    category.mutation(test_two_mutations_of_one_name_are_refused)
    with pytest.raises(ValueError, match="two mutations"):
        category.mutation(test_two_mutations_of_one_name_are_refused)


@pytest.mark.slow
def test_the_page_lists_every_message_of_the_source():
    assert read_page_tables() == build_tables(), "run `python benchmarks/fuzz_repairs.py`"


def test_every_repair_of_the_inputs_is_a_message_of_the_source():
    messages = [*list_row_messages(), *list_builder_messages()]
    patterns = [re.escape(message).replace(re.escape("..."), ".*") for message in messages]
    for name, words in fuzz_frame.REPAIRS.items():
        is_there = any(words in message for message in messages)
        assert is_there or any(re.fullmatch(pattern, words) for pattern in patterns), name
