"""AMC on small models of other families: a run in small, its comparison, and the page that shows the figures."""

import json
import subprocess
import sys
from dataclasses import asdict

import grounder_training
import grounder_training_pages
import page_numbers
import pytest
import torch
from page_numbers import find_loose_numbers
from small_grounders import place_positions
from testing_utils import PROJECT_FOLDER


def build_measured(accuracy: float, matching_auc: float = 0.9) -> dict:
    """What a run measured on 40 scenes with one phrase each."""
    num_hits = round(40 * accuracy)
    return {
        "pointing_game_accuracy": accuracy,
        "pointing_game_accuracy_by_type": {"size": accuracy - 0.1},
        "num_phrases": 40,
        "shuffled_phrases_accuracy": 0.25,
        "matching_auc": matching_auc,
        "weights_sha256": "0" * 64,
        "hits": [number < num_hits for number in range(40)],
        "image_ids": [str(number) for number in range(40)],
        "training_seconds": 100.0,
    }


@pytest.fixture
def runs():
    return {
        "with_amc": [build_measured(0.7), build_measured(0.8)],
        "without_amc": [build_measured(0.3), build_measured(0.4)],
    }


def test_a_gain_is_paired_over_scenes_per_seed(runs):
    compared = grounder_training.compare(build_measured(0.3), runs, [0, 1])
    assert compared["mean"]["gain"] == pytest.approx(0.4)
    assert compared["mean"]["with_amc"]["pointing_game_accuracy_by_type"]["size"] == pytest.approx(0.65)
    assert compared["gain_is_above_zero"] and compared["gain_counts"]
    low, high = compared["seeds"][0]["confidence_interval"]
    assert 0.2 < low < 0.4 < high < 0.6
    assert "hits" not in json.dumps(compared)


def test_a_gain_whose_interval_holds_zero_or_whose_matching_is_lost_is_marked(runs):
    runs["without_amc"][1] = build_measured(0.8, matching_auc=0.79)
    compared = grounder_training.compare(build_measured(0.3), runs, [0, 1])
    assert not compared["gain_is_above_zero"] and not compared["gain_counts"]


def test_the_page_has_tied_figures_and_nothing_else_changes(runs, monkeypatch, tmp_path):
    compared = grounder_training.compare(build_measured(0.3), runs, [0, 1])
    figures = {"budget": asdict(grounder_training.BUDGETS["blip"]), **compared}
    results = {"baselines": {"largest_object": 0.365}, "families": {"blip": figures, "clip": figures}}
    results["least_matching_auc"] = grounder_training.LEAST_MATCHING_AUC
    name, read = grounder_training_pages.RESULT_NAME, page_numbers.load_file
    monkeypatch.setattr(page_numbers, "load_file", lambda file: results if file == name else read(file))
    page = tmp_path / "grounders.md"
    page.write_text(grounder_training_pages.PAGE.read_text("utf-8"), encoding="utf-8")
    stored = page.read_text("utf-8").splitlines()
    monkeypatch.setattr(grounder_training_pages, "PAGE", page)
    grounder_training_pages.write_page(results)
    written = page.read_text("utf-8")
    assert find_loose_numbers(written) == []
    assert "| CLIP, pointing game, size | 20.0 % | 25.0 % | 65.0 % |" in written
    assert "BLIP: 40.0 points over the same steps without AMC" in written
    start, end = (stored.index(f"<!-- {mark}grounder training -->") for mark in ("", "end of "))
    lines = written.splitlines()
    assert lines[: start + 1] == stored[: start + 1] and lines[lines.index(stored[end]) :] == stored[end:]


def test_positions_tell_rows_and_columns_apart_and_leave_the_class_token():
    embeddings = torch.zeros(1 + 16, 8)
    place_positions(embeddings)
    assert not embeddings[0].any()
    distances = torch.cdist(embeddings[1:], embeddings[1:])
    assert distances.fill_diagonal_(1).min() > 0.1
    assert distances[0, 3] > 1 and distances[0, 12] > 1  # far apart in a row, and in a column


@pytest.mark.exhaustive
def test_a_quick_run_trains_both_arms_and_is_not_repeated(tmp_path):
    file, folder = tmp_path / "result.json", tmp_path / "runs"
    words = ["--quick", "--seeds", "0", "--processes", "1", "--families", "clip"]
    places = ["--folder", folder, "--output", file]
    command = [sys.executable, PROJECT_FOLDER / "benchmarks" / "grounder_training.py", *words, *places]
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    assert "of clip" not in done.stdout  # the second time every run is there
    result = json.loads(file.read_text())
    assert (
        result["command"] == "python benchmarks/grounder_training.py --quick --seeds 0 --processes 1 --families clip"
    )
    (seed,) = result["families"]["clip"]["seeds"]
    start, arms = result["families"]["clip"]["start"], [seed[name] for name in grounder_training.WEIGHTS]
    assert len({measured["weights_sha256"] for measured in (start, *arms)}) == 3
    assert seed["gain"] == arms[0]["pointing_game_accuracy"] - arms[1]["pointing_game_accuracy"]
    assert all(0 <= measured["matching_auc"] <= 1 for measured in arms)
