"""Retrieval benchmark: sides that must agree do, recall is counted right, and the command writes what it measured."""

import json
import subprocess
import sys

import pytest
import retrieval
import torch
from testing_utils import PATIENCE, PROJECT_FOLDER


@pytest.fixture(scope="module")
def gallery():
    """Model and inputs of a quick run."""
    with torch.no_grad():
        return retrieval.build_model(retrieval.SIZES["quick"]), retrieval.Inputs.build(retrieval.SIZES["quick"])


@pytest.mark.slow
@torch.no_grad()
def test_a_shortlist_of_all_is_every_pair(gallery):
    model, inputs = gallery
    num_captions = len(inputs.input_ids)
    every_pair = retrieval.score_every_pair(model, inputs, k=1)
    for score in (retrieval.score_released_way, retrieval.score_in_two_stages):
        for listed, every in zip(score(model, inputs, k=num_captions), every_pair, strict=True):
            torch.testing.assert_close(listed, every, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_shortlists_hold_the_k_most_similar_of_each_query(gallery):
    model, inputs = gallery
    similarities = retrieval.encode_gallery(model, inputs, keep_padding=True).similarities
    both = retrieval.score_in_two_stages(model, inputs, k=3)
    for scores, similar in zip(both, (similarities, similarities.T), strict=True):
        is_listed = scores != retrieval.NOT_LISTED
        assert is_listed.sum(dim=1).tolist() == [3] * len(scores)
        worst_listed = similar.masked_fill(~is_listed, torch.inf).amin(dim=1)
        assert (similar.masked_fill(is_listed, -torch.inf).amax(dim=1) <= worst_listed).all()


def test_recall_of_two_images_on_paper():
    of_images = torch.zeros(2, 10)
    of_images[0, [0, 7]] = torch.tensor([2.0, 1.0])  # its own caption is best
    of_images[1, :5] = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])  # five of the other image are better
    of_captions = torch.tensor([[1.0, 0.0]] * 6 + [[0.0, 1.0]] * 4)  # caption 5 prefers the wrong image
    recall = retrieval.compute_recall((of_images, of_captions))
    assert [recall[f"image_to_text_recall_at_{rank}"] for rank in (1, 5, 10)] == [50, 50, 100]
    assert [recall[f"text_to_image_recall_at_{rank}"] for rank in (1, 5, 10)] == pytest.approx([90, 100, 100])


def test_sides_that_differ_end_the_benchmark():
    scores = torch.linspace(-1, 1, 50).view(5, 10)
    same = {side: (scores, scores.T) for side in retrieval.SIDES}
    assert retrieval.compare_scores(same)["largest_relative_score_difference"] == 0
    with pytest.raises(SystemExit, match="released and two_stage differ: scores by 1.0e-02"):
        retrieval.compare_scores({**same, "two_stage": (scores + 0.01, scores.T)})


@pytest.mark.exhaustive
def test_a_quick_run_writes_figures_and_pictures(tmp_path):
    output = tmp_path / "retrieval.json"
    words = ["--quick", "--repetitions", "1", "--threads", "1", "--output", str(output)]
    subprocess.run(
        [sys.executable, str(PROJECT_FOLDER / "benchmarks" / "retrieval.py"), *words], check=True, timeout=PATIENCE
    )
    result = json.loads(output.read_text())
    assert result["pairs_fused"]["every_pair"] == 500 > result["pairs_fused"]["released"] == 4 * 60
    assert result["pairs_fused"]["two_stage"] < 4 * 60  # pairs of both shortlists once
    assert set(result["against_k"]) == {"4", "8"} and set(result["against_captions"]) == {"25", "50"}
    gflop = [result[side]["gflop"] for side in ("two_stage", "released", "every_pair")]
    assert gflop == sorted(gflop)
    assert all(result[side]["peak_memory_gb"] > 0 < result[side]["share_of_matrix_rate"] for side in retrieval.SIDES)
    pictures = ["retrieval.json", "retrieval_against_captions.png", "retrieval_against_k.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == pictures
