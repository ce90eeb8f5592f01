# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""A probability of a match: its fit, its measures, and data that cannot give one."""

import numpy as np
import pytest
import torch

from albef_amc import AlbefConfig
from albef_amc.datasets_scripts.true_phrases import list_true_phrases
from albef_amc.evaluation.match_calibration import (
    MatchCalibration,
    bin_probabilities,
    fit_calibration,
    list_calibration_pairs,
    measure_calibration,
)


def draw_margins(count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Margins whose true probability is sigmoid(1.5 * margin - 0.7)."""
    generator = np.random.default_rng(0)
    margins = generator.normal(0.5, 2.0, count)
    return margins, generator.random(count) < 1 / (1 + np.exp(-(1.5 * margins - 0.7)))


def test_the_fit_finds_the_scale_and_bias_that_made_the_data():
    calibration = fit_calibration(*draw_margins())
    assert calibration.scale == pytest.approx(1.5, abs=0.05)
    assert calibration.bias == pytest.approx(-0.7, abs=0.05)


def test_the_fit_has_the_least_loss():
    margins, is_match = draw_margins(400)
    fitted = fit_calibration(margins, is_match)
    targets = np.where(is_match, (is_match.sum() + 1) / (is_match.sum() + 2), 1 / ((~is_match).sum() + 2))

    def compute_loss(scale, bias):
        logits = scale * margins + bias
        return np.mean(np.logaddexp(0, logits) - targets * logits)

    least = compute_loss(fitted.scale, fitted.bias)
    for step in (-1e-3, 1e-3):
        assert compute_loss(fitted.scale + step, fitted.bias) > least
        assert compute_loss(fitted.scale, fitted.bias + step) > least


def test_pairs_that_the_margin_divides_give_finite_values():
    margins = np.concatenate([np.full(60, -3.0), np.full(60, 5.0)])
    calibration = fit_calibration(margins, margins > 0)
    low, high = calibration.compute_probabilities(np.array([-3.0, 5.0]))
    assert low == pytest.approx(1 / 62, abs=1e-4) and high == pytest.approx(61 / 62, abs=1e-4)  # Platt's targets


@pytest.mark.parametrize(
    ("margins", "is_match", "words"),
    [
        (np.arange(99.0), np.arange(99) > 50, "99 pairs of image and phrase are too few"),
        (np.arange(200.0), np.ones(200, bool), "all 200 pairs match"),
        (np.arange(200.0), np.zeros(200, bool), "all 200 pairs do not match"),
        (np.arange(200.0), np.arange(200) < 100, "is not larger for pairs that match"),
        (np.ones(200), np.arange(200) < 100, "is not larger for pairs that match"),
        # larger for most pairs that match, and much smaller for one of them: the best scale would be below 0
        (np.r_[-1e4, np.arange(199.0)], np.r_[True, np.arange(199) > 99], "is not larger for pairs that match"),
    ],
)
def test_pairs_that_cannot_be_fitted_are_refused(margins, is_match, words):
    with pytest.raises(ValueError, match=words):
        fit_calibration(margins, is_match)


def test_bins_hold_equal_numbers_in_order():
    probabilities, is_match = np.array([0.9, 0.1, 0.4, 0.2, 0.8]), np.array([True, False, True, False, False])
    first, second = bin_probabilities(probabilities, is_match, num_bins=2)
    assert (first.num_pairs, second.num_pairs) == (3, 2)
    assert (first.probability, first.share) == pytest.approx((0.7 / 3, 1 / 3))
    assert (second.probability, second.share) == pytest.approx((0.85, 0.5))
    assert len(bin_probabilities(probabilities, is_match)) == 5


def test_measures_by_hand():
    probabilities, is_match = np.array([0.2, 0.4, 0.6, 0.8]), np.array([False, True, False, True])
    measured = measure_calibration(probabilities, is_match, num_bins=2)
    assert measured["calibration_error"] == pytest.approx((abs(0.3 - 0.5) + abs(0.7 - 0.5)) / 2)
    assert measured["brier_score"] == pytest.approx((0.04 + 0.36 + 0.36 + 0.04) / 4)
    assert measured["log_loss"] == pytest.approx(-np.log([0.8, 0.4, 0.4, 0.8]).mean())


def test_calibrated_probabilities_of_the_model_are_those_of_the_fit(tiny_model):
    logits = torch.tensor([[0.5, 2.0], [1.0, -3.0]])
    assert torch.equal(tiny_model.compute_match_probability(logits), logits.softmax(dim=-1)[:, 1])
    tiny_model.config.match_scale, tiny_model.config.match_bias = 0.7, -0.4
    expected = MatchCalibration(0.7, -0.4).compute_probabilities(np.array([1.5, -4.0]))
    np.testing.assert_allclose(tiny_model.compute_match_probability(logits).numpy(), expected, rtol=1e-6)
    tiny_model.config.reset_calibration()
    assert torch.equal(tiny_model.compute_match_probability(logits), logits.softmax(dim=-1)[:, 1])


@pytest.mark.parametrize(("name", "value"), [("match_scale", 0.0), ("match_scale", -1.0), ("match_bias", np.nan)])
def test_a_configuration_with_a_wrong_calibration_is_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a"):
        AlbefConfig(**{name: value})


def test_the_two_halves_share_no_image():
    rows = [
        {"image_id": str(index), "phrases": [{"phrase": f"thing {index} {part}"} for part in "abc"]}
        for index in range(80)
    ]
    pairs = list_calibration_pairs(rows)
    assert not {pair.image_id for pair in pairs.fitted} & {pair.image_id for pair in pairs.measured}
    both = [*pairs.fitted, *pairs.measured]
    assert {pair.image_id for pair in both} == {row["image_id"] for row in rows}
    for pair in both:
        assert pair.is_match == (pair.phrase in list_true_phrases(rows[pair.row]))
    with pytest.raises(ValueError, match="too few"):
        list_calibration_pairs(rows[:20])
