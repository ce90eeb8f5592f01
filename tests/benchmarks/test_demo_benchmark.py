"""The demo's benchmark: means over seeds, gains of every seed, and pages whose figures are tied to its result."""

import copy

import demo as demo_benchmark
import demo_pages
import page_numbers
import pytest
from page_numbers import find_loose_numbers
from testing_utils import PROJECT_FOLDER

from albef_amc.cli.demo import MODELS


def build_seed(accuracy: float) -> dict:
    """What the demo measured with one seed."""
    measured = {
        "pointing_game_accuracy": accuracy,
        "pointing_game_accuracy_by_type": {"category": accuracy + 0.1, "unseen_composition": accuracy - 0.1},
        "shuffled_phrases_accuracy": 0.25,
        **{f"recall_at_1_{protocol}": accuracy / 2 for protocol in ("any", "merged", "all")},
        "matching_auc": 0.9875,
        "exchange_auc": {"color": 0.9125},
        "weights_sha256": "0" * 64,
    }
    models = {name: copy.deepcopy(measured) for name in MODELS}
    for name in ("without_amc", "with_amc"):
        models[name]["training_seconds"] = 100.0
    return {
        **models,
        "baselines": {"center_point": 0.0625, "largest_object": 0.365},
        "gain": 0.2,
        "gain_over_largest_object": 0.4,
        "matching_auc_change": {"from_base": 0.01, "from_without_amc": -0.002},
        "confidence_interval": {"gain": [0.18, 0.22], "gain_over_largest_object": [0.37, 0.43]},
    }


@pytest.fixture
def results():
    seeds = [build_seed(accuracy) for accuracy in (0.6, 0.7, 0.8)]
    return {"mean": demo_benchmark.average(seeds), "seeds": seeds}


def test_means_are_those_of_the_seeds(results):
    mean = results["mean"]
    assert mean["with_amc"]["pointing_game_accuracy"] == pytest.approx(0.7)
    assert mean["base"]["pointing_game_accuracy_by_type"]["category"] == pytest.approx(0.8)
    assert mean["with_amc"]["training_seconds"] == 100 and "training_seconds" not in mean["base"]
    assert mean["baselines"]["largest_object"] == pytest.approx(0.365)
    assert mean["matching_auc_change"]["from_without_amc"] == pytest.approx(-0.002)


@pytest.mark.parametrize("key", ["gain", "gain_over_largest_object"])
def test_one_interval_that_holds_zero_counts(results, key):
    assert demo_benchmark.are_gains_above_zero(results["seeds"])
    results["seeds"][1]["confidence_interval"][key] = [-0.01, 0.05]
    assert not demo_benchmark.are_gains_above_zero(results["seeds"])


def test_written_pages_have_tied_figures_and_no_others_change(results, monkeypatch, tmp_path):
    read = page_numbers.load_file
    monkeypatch.setattr(page_numbers, "load_file", lambda name: results if name.endswith("/demo.json") else read(name))
    results["seeds"][0]["seconds"] = 300.0
    for name in ("README", "PAGE"):
        page = getattr(demo_pages, name)
        (tmp_path / page.name).write_text(page.read_text("utf-8"), encoding="utf-8")
        monkeypatch.setattr(demo_pages, name, tmp_path / page.name)
    demo_pages.write_pages(results)
    readme, page = ((tmp_path / name).read_text("utf-8") for name in ("README.md", "evaluation.md"))
    assert find_loose_numbers(page) == [] and find_loose_numbers(readme) == []
    assert (
        "| pointing game on held-out scenes, mean of three seeds | 70.0 % | 70.0 % without AMC, 70.0 % base |"
        in readme
    )
    assert "| ROC AUC of the score, color exchanged | 0.912 | 0.912 | 0.912 |" in page
    assert "AMC gains 20.0 points over the same steps without it: 18.0 to 22.0, 18.0 to 22.0, 18.0 to 22.0." in page
    assert len(readme.splitlines()) < 190
    written = readme, page
    demo_pages.write_pages(results)  # a second time changes nothing
    assert written == tuple((tmp_path / name).read_text("utf-8") for name in ("README.md", "evaluation.md"))
    left = [line for line in (PROJECT_FOLDER / "README.md").read_text("utf-8").splitlines() if line not in readme]
    assert all("three seeds" in line or "the same" in line or line.startswith("[mean.") for line in left)
