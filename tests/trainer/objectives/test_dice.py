"""Soft Dice worked out on paper and against an oracle."""

import numpy as np
import pytest
import torch

from albef_amc.trainer.objectives.dice import SoftDiceLoss

TRUE = torch.tensor([True])


def oracle(heatmap, mask):
    """From the formula, phrase by phrase, in float64."""
    heatmap, mask = np.asarray(heatmap, np.float64), np.asarray(mask, np.float64)
    return np.mean([1 - 2 * (a * m).sum() / ((a**2).sum() + (m**2).sum()) for a, m in zip(heatmap, mask, strict=True)])


def test_worked_out_by_hand():
    heatmap = torch.tensor([[[0.5, 1.0], [0.0, 0.0]]])
    mask = torch.tensor([[[1.0, 0.0], [0.0, 0.5]]])
    loss = SoftDiceLoss()(heatmap, mask, TRUE)["dice_loss"]
    # shared 0.5; squares 0.25 + 1 and 1 + 0.25
    assert loss.item() == pytest.approx(1 - 2 * 0.5 / 2.5, abs=1e-6)


def test_zero_only_for_the_region_itself_also_where_it_is_soft():
    soft = torch.tensor([[[0.25, 1.0], [0.0, 0.5]]])
    assert SoftDiceLoss()(soft, soft, TRUE)["dice_loss"].item() == pytest.approx(0, abs=1e-6)
    assert SoftDiceLoss()(torch.ones(1, 2, 2), soft, TRUE)["dice_loss"] > 0.1


def test_one_without_overlap_and_for_a_heatmap_of_zeros():
    left, right = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    assert SoftDiceLoss()(left, right, TRUE)["dice_loss"].item() == 1
    heatmap = torch.zeros(1, 1, 2, requires_grad=True)
    loss = SoftDiceLoss()(heatmap, right, TRUE)["dice_loss"]
    loss.backward()
    assert loss.item() == 1 and heatmap.grad.tolist() == [[[0.0, -2.0]]]


def test_matches_oracle():
    generator = torch.Generator().manual_seed(0)
    heatmap, mask = torch.rand(4, 5, 5, generator=generator), torch.rand(4, 5, 5, generator=generator)
    loss = SoftDiceLoss()(heatmap, mask, torch.ones(4, dtype=torch.bool))["dice_loss"]
    assert loss.item() == pytest.approx(oracle(heatmap, mask), rel=1e-5)
