# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Insertion, deletion and randomised weights, worked out by hand and on small models."""

import copy

import numpy as np
import pytest
import torch
from grounder_cases import build_tiny_grounder
from PIL import Image
from testing_utils import build_rows

from albef_amc.evaluation.faithfulness import (
    FaithfulnessMeasure,
    FaithfulnessSettings,
    compute_auc,
    compute_rank_correlation,
    compute_ssim,
    draw_random_map,
    fill_with_mean,
    randomize_weights,
    replace_in_order,
)
from albef_amc.evaluation.grounding_evaluation import evaluate_grounding


def paint(values) -> Image.Image:
    return Image.fromarray(np.repeat(np.asarray(values, dtype=np.uint8)[..., None], 3, axis=2))


def test_pixels_are_replaced_in_the_order_of_the_map():
    image, other = paint([[10, 20], [30, 40]]), paint([[1, 2], [3, 4]])
    steps = replace_in_order(image, other, torch.tensor([[0.1, 0.9], [0.5, 0.5]]), num_steps=4)
    found = [np.asarray(step)[..., 0].ravel().tolist() for step in steps]
    assert found == [[10, 20, 30, 40], [10, 2, 30, 40], [10, 2, 3, 40], [10, 2, 3, 4], [1, 2, 3, 4]]
    halves = replace_in_order(image, other, torch.tensor([[0.1, 0.9], [0.5, 0.5]]), num_steps=2)
    assert [np.asarray(step)[..., 0].ravel().tolist() for step in halves] == [found[0], found[2], found[4]]
    assert np.asarray(fill_with_mean(image)).ravel().tolist() == [25] * 12


def test_area_under_the_score():
    assert compute_auc([0.0, 1.0]) == 0.5
    assert compute_auc([1.0, 1.0, 0.0, 0.0]) == pytest.approx(0.5)
    assert compute_auc([0.4, 0.4, 0.4]) == pytest.approx(0.4)


def test_rank_correlation_by_hand():
    one = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert compute_rank_correlation(one, one**3) == pytest.approx(1)
    assert compute_rank_correlation(one, -one) == pytest.approx(-1)
    assert compute_rank_correlation(one, torch.ones(2, 2)) == 0
    # Ranks 1, 2, 3, 4 and 1.5, 1.5, 3, 4: 4.5 over the root of 5 times 4.5.
    tied = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    assert compute_rank_correlation(one, tied) == pytest.approx(4.5 / (5 * 4.5) ** 0.5)


def test_structural_similarity_by_hand():
    one = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert compute_ssim(one, 3 * one + 2) == pytest.approx(1)
    # One window: means 1/2, variances 1/4, covariance -1/4.
    assert compute_ssim(one, 1 - one) == pytest.approx((-0.5 + 0.0009) / (0.5 + 0.0009))


def test_a_random_map_is_smooth_and_depends_on_its_generator():
    maps = [draw_random_map(40, 60, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert maps[0].shape == (40, 60) and torch.equal(maps[0], maps[1]) and not torch.equal(maps[0], maps[2])
    assert maps[0].diff(dim=1).abs().max() < 0.6


def test_randomised_weights_have_the_same_values_in_another_order():
    grounder = build_tiny_grounder("clip-itc")
    before = copy.deepcopy(grounder.model.state_dict())
    randomized = randomize_weights(grounder, seed=0)
    for (name, old), new in zip(grounder.model.named_parameters(), randomized.model.parameters(), strict=True):
        assert torch.equal(old, before[name])
        assert torch.equal(old.flatten().sort().values, new.flatten().sort().values)
        assert old.ndim < 2 or not torch.equal(old, new)


def test_a_map_of_what_the_score_reads_is_faithful():
    """A score that is the brightness of the left half: its map beats the random one, and the reverse does not."""
    grounder = build_tiny_grounder("clip-itc")

    class Bright(torch.nn.Module):
        def forward(self, batch, output_heatmap=True):
            return type("Output", (), {"score": batch["left"]})

        def prepare(self, images, phrases):
            return {"left": torch.tensor([np.asarray(image)[:, :8].mean() / 255 for image in images])}

    image = Image.new("RGB", (16, 16))
    image.paste((255, 255, 255), (0, 0, 8, 16))
    measure = FaithfulnessMeasure(grounder, ("insertion", "deletion"), FaithfulnessSettings(num_steps=4))
    measure.grounder = Bright()
    left = torch.zeros(16, 16)
    left[:, :8] = 1
    found, reverse = measure.measure(image, "a dog", left), measure.measure(image, "a dog", 1 - left)
    mean = 128 / 255
    # Deletion: 1 falls to the mean over the first two of four steps, and stays there.
    halfway = (1 + mean) / 2
    assert found["deletion_auc"] == pytest.approx(compute_auc([1, halfway, mean, mean, mean]))
    assert reverse["deletion_auc"] == pytest.approx(compute_auc([1, 1, 1, halfway, mean]))
    assert found["deletion_auc"] < found["deletion_auc_random"] < reverse["deletion_auc"]
    assert found["insertion_auc"] > found["insertion_auc_random"] > reverse["insertion_auc"]


@pytest.mark.parametrize("name", ["albef-itm", "clip-itc"])
def test_an_evaluation_has_the_means_of_its_phrases(name, tiny_model, tiny_processor):
    rows, metrics = build_rows(1), ("pointing_game", "insertion", "deletion", "weight_randomization")
    grounder = build_tiny_grounder(name)
    model, processor = (grounder, grounder.processor) if name == "clip-itc" else (tiny_model, tiny_processor)
    settings = FaithfulnessSettings(num_steps=3)
    evaluation = evaluate_grounding(model, processor, rows, metrics=metrics, faithfulness=settings)
    first, second = (result.faithfulness for result in evaluation.results)
    names = ("insertion_auc", "deletion_auc", "rank_correlation_randomized", "ssim_randomized", "ssim_random")
    for measure in (*names, "insertion_auc_random", "deletion_auc_random", "rank_correlation_random"):
        assert evaluation.metrics[measure] == pytest.approx((first[measure] + second[measure]) / 2)
    assert evaluation.metrics["rank_correlation_randomized"] < 0.99
    assert "pointing_game_accuracy" in evaluation.metrics
    alone = evaluate_grounding(model, processor, rows)
    assert [one.point for one in evaluation.results] == [one.point for one in alone.results]
    assert evaluation.to_rows()[0]["faithfulness"] == first and "faithfulness" not in alone.to_rows()[0]


def test_settings_are_checked():
    with pytest.raises(ValueError, match="`num_steps`"):
        FaithfulnessSettings(num_steps=0)
