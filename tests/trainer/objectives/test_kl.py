"""KL(region || heatmap) worked out on paper, against an oracle, and its guards."""

import math

import numpy as np
import pytest
import torch

from albef_amc.trainer.objectives.kl import RegionDivergenceLoss

TRUE = torch.tensor([True])


def oracle(heatmap, mask, epsilon):
    """From the formula, phrase by phrase, in float64; pixels without region add nothing."""
    values = []
    for map_, region in zip(np.asarray(heatmap, np.float64), np.asarray(mask, np.float64), strict=True):
        p, q = region / region.sum(), (map_ + epsilon) / (map_ + epsilon).sum()
        inside = p > 0
        values.append((p[inside] * (np.log(p[inside]) - np.log(q[inside]))).sum())
    return np.mean(values)


def test_worked_out_by_hand():
    heatmap = torch.tensor([[[0.5, 0.0], [0.25, 0.25]]])
    mask = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    loss = RegionDivergenceLoss(epsilon=1e-9)(heatmap, mask, TRUE)["kl_loss"]
    # p = 1/2, 1/2 in the left column; q = 1/2, 1/4 there
    assert loss.item() == pytest.approx(0.5 * math.log(0.5 / 0.5) + 0.5 * math.log(0.5 / 0.25), abs=1e-6)


def test_the_region_comes_first():
    """Half the region without heat costs more than as much heat outside."""
    mask = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    half = RegionDivergenceLoss()(torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]), mask, TRUE)["kl_loss"]
    outside = RegionDivergenceLoss()(torch.tensor([[[1.0, 1.0, 1.0, 0.0]]]), mask, TRUE)["kl_loss"]
    assert half > 3 * outside > 0


def test_zero_for_a_flat_heatmap_and_a_full_mask():
    loss = RegionDivergenceLoss()(torch.full((1, 3, 3), 0.7), torch.ones(1, 3, 3), TRUE)["kl_loss"]
    assert loss.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("epsilon", [0.01, 0.2])
def test_matches_oracle(epsilon):
    generator = torch.Generator().manual_seed(0)
    heatmap = torch.rand(4, 5, 5, generator=generator)
    mask = (torch.rand(4, 5, 5, generator=generator) > 0.6) * torch.rand(4, 5, 5, generator=generator)
    loss = RegionDivergenceLoss(epsilon)(heatmap, mask, torch.ones(4, dtype=torch.bool))["kl_loss"]
    assert loss.item() == pytest.approx(oracle(heatmap, mask, epsilon), rel=1e-5)


def test_a_heatmap_of_zeros_is_finite_and_learns():
    heatmap = torch.zeros(1, 2, 2, requires_grad=True)
    loss = RegionDivergenceLoss()(heatmap, torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]), TRUE)["kl_loss"]
    assert loss.item() == pytest.approx(math.log(4), abs=1e-6)
    loss.backward()
    assert heatmap.grad[0, 0, 0] < 0 < heatmap.grad[0, 1, 1] < math.inf


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="`epsilon` must be a finite number above 0"):
        RegionDivergenceLoss(epsilon=0.0)
