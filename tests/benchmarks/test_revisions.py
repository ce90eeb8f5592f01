"""The comparison of two checkouts: both run, in turns, and count the same operations where they are the same."""

import argparse

import pytest
from revisions import Revision, measure
from testing_utils import PROJECT_FOLDER


@pytest.mark.exhaustive
def test_a_checkout_against_itself():
    if not (PROJECT_FOLDER / ".venv" / "bin" / "python").is_file():
        pytest.skip("this checkout has no environment in .venv")
    arguments = argparse.Namespace(quick=True, threads=1, rounds=2)
    measured = measure(("grounding", 1, 2, 64), PROJECT_FOLDER, arguments)
    assert measured["gflop"]["this"] == measured["gflop"]["other"] > 0
    assert [len(seconds) for seconds in measured["seconds"].values()] == [2, 2]
    low, high = measured["confidence_interval"]
    assert 0 < low <= measured["median_ratio"] <= high


def test_a_checkout_without_an_environment_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `make install`"):
        Revision(tmp_path, ("grounding", 1, 2, 64), True, 1)
