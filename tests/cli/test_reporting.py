# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What commands print: results as JSON and as text, progress, output of one process only."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from albef_amc.cli.reporting import print_result, report, to_plain, track


def test_results_are_plain_json_whatever_they_hold(capsys):
    result = {"accuracy": np.float32(0.5), "point": np.array([3, 4]), "loss": math.nan, "path": Path("a") / "b"}
    print_result(result, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"accuracy": 0.5, "point": [3, 4], "loss": None, "path": "a/b"}


def test_results_as_text_join_nested_names(capsys):
    print_result({"test": {"accuracy": 0.75, "types": []}, "runs": [{"seed": 1}]})
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["test.accuracy", "0.75"],
        ["test.types", "-"],
        ["runs.0.seed", "1"],
    ]


def test_a_result_without_a_json_form_is_refused():
    with pytest.raises(TypeError, match="JSON has no form"):
        to_plain({"model": object()})


def test_only_the_main_process_speaks(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    print_result({"accuracy": 1.0})
    report("epoch 1")
    assert list(track(range(3), "scoring")) == [0, 1, 2]
    streams = capsys.readouterr()
    assert (streams.out, streams.err) == ("", "")


def test_progress_is_drawn_on_stderr(capsys):
    assert list(track(range(3), "scoring")) == [0, 1, 2]
    streams = capsys.readouterr()
    assert streams.out == ""
    assert "scoring" in streams.err
