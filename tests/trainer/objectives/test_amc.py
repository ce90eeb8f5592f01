# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The AMC objective on maps small enough to work out on paper, and against an oracle written from the formula."""

import numpy as np
import pytest
import torch

from albef_amc.trainer import AttentionMaskConsistencyLoss

LOSS_NAMES = ("amc_loss", "amc_mean_loss", "amc_max_loss")
TRUE = torch.tensor([True])


def make_batch(num_phrases: int = 5, grid: int = 4, mask_side: int = 8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    heatmap = torch.rand(num_phrases, grid, grid, generator=generator, dtype=dtype)
    mask = torch.zeros(num_phrases, mask_side, mask_side, dtype=dtype)
    for index in range(num_phrases):
        mask[index, index % 3 : index % 3 + 3, 1 : 3 + index] = 1.0
        mask[index, 6, 6] = 0.3
    return heatmap, mask, torch.ones(num_phrases, dtype=torch.bool)


def oracle(heatmap, mask, mean_margin=0.1, max_margin=0.5, mean_weight=0.2, max_weight=0.8, pooled=False):
    """Equation (1) of the paper over maps of the size of the mask, in float64, phrase by phrase."""
    heatmap, mask = np.asarray(heatmap, np.float64), np.asarray(mask, np.float64)
    mean_terms, max_terms = [], []
    for map_, region in zip(heatmap, mask, strict=True):
        outside = 1 - region
        mean_terms.append(
            max(0, (map_ * outside).sum() / outside.sum() - (map_ * region).sum() / region.sum() + mean_margin)
        )
        max_terms.append(max(0, (map_ * outside).max() - (map_ * region).max() + max_margin))
    mean_term = np.mean(mean_terms)
    if pooled:
        outside = 1 - mask
        mean_term = (heatmap * outside).sum() / outside.sum() - (heatmap * mask).sum() / mask.sum() + mean_margin
        mean_term = max(0, mean_term)
    max_term = np.mean(max_terms)
    return {
        "amc_loss": mean_weight * mean_term + max_weight * max_term,
        "amc_mean_loss": mean_term,
        "amc_max_loss": max_term,
    }


def test_worked_out_by_hand():
    heatmap = torch.tensor([[[0.2, 0.6], [1.0, 0.0]]])
    mask = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    losses = AttentionMaskConsistencyLoss()(heatmap, mask, TRUE)
    # outside mean 0.5, inside mean 0.4: 0.1 + 0.1; outside maximum 1.0, inside 0.6: 0.4 + 0.5
    assert losses["amc_mean_loss"].item() == pytest.approx(0.2, abs=1e-6)
    assert losses["amc_max_loss"].item() == pytest.approx(0.9, abs=1e-6)
    assert losses["amc_loss"].item() == pytest.approx(0.2 * 0.2 + 0.8 * 0.9, abs=1e-6)
    assert losses["num_regions"].item() == 1


def test_maxima_are_over_products_not_subsets():
    heatmap = torch.tensor([[[0.8, 0.5]]])
    mask = torch.tensor([[[0.5, 0.0]]])
    losses = AttentionMaskConsistencyLoss()(heatmap, mask, TRUE)
    # products outside 0.4 and 0.5, inside 0.4
    assert losses["amc_max_loss"].item() == pytest.approx(0.5 - 0.4 + 0.5, abs=1e-6)


def test_zero_when_the_margins_are_met():
    heatmap = torch.tensor([[[1.0, 0.9], [0.1, 0.0]]], requires_grad=True)
    mask = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    losses = AttentionMaskConsistencyLoss()(heatmap, mask, TRUE)
    assert all(losses[name].item() == 0 for name in LOSS_NAMES)
    losses["amc_loss"].backward()
    assert torch.equal(heatmap.grad, torch.zeros_like(heatmap))


@pytest.mark.parametrize("mean_reduction", ["sample", "batch"])
def test_matches_oracle(mean_reduction):
    heatmap, mask, has_region = make_batch(grid=8)
    expected = oracle(heatmap, mask, pooled=mean_reduction == "batch")
    losses = AttentionMaskConsistencyLoss(mean_reduction=mean_reduction)(heatmap, mask, has_region)
    for name in LOSS_NAMES:
        assert losses[name].dtype == torch.float32
        assert losses[name].item() == pytest.approx(expected[name], abs=1e-6)


def test_margins_and_weights_are_used():
    heatmap, mask, has_region = make_batch(grid=8)
    values = {"mean_margin": 0.3, "max_margin": 0.2, "mean_weight": 0.5, "max_weight": 2.0}
    losses = AttentionMaskConsistencyLoss(**values)(heatmap, mask, has_region)
    expected = oracle(heatmap, mask, **values)
    for name in LOSS_NAMES:
        assert losses[name].item() == pytest.approx(expected[name], abs=1e-6)


def test_resizes_bilinearly_without_aligned_corners():
    heatmap = torch.tensor([[[0.0, 1.0]]])
    mask = torch.tensor([[[0.0, 0.0, 0.0, 1.0]]])
    losses = AttentionMaskConsistencyLoss()(heatmap, mask, TRUE)
    # resized to 0, 0.25, 0.75, 1: outside mean 1/3 and maximum 0.75, inside 1
    assert losses["amc_max_loss"].item() == pytest.approx(0.25, abs=1e-6)
    assert losses["amc_mean_loss"].item() == 0


@pytest.mark.parametrize("mean_reduction", ["sample", "batch"])
def test_unchanged_by_permuting_phrases(mean_reduction):
    heatmap, mask, has_region = make_batch()
    has_region[2] = False
    order = torch.tensor([3, 1, 4, 0, 2])
    loss = AttentionMaskConsistencyLoss(mean_reduction=mean_reduction)
    before, after = loss(heatmap, mask, has_region), loss(heatmap[order], mask[order], has_region[order])
    for name in LOSS_NAMES:
        torch.testing.assert_close(before[name], after[name])


@pytest.mark.parametrize("mean_reduction", ["sample", "batch"])
def test_phrases_without_region_take_no_part(mean_reduction):
    heatmap, mask, has_region = make_batch()
    loss = AttentionMaskConsistencyLoss(mean_reduction=mean_reduction)
    expected = loss(heatmap[2:], mask[2:], has_region[2:])
    has_region[0] = False
    mask[1] = 0.0  # no area
    heatmap[0] = float("nan")
    heatmap.requires_grad_()
    losses = loss(heatmap, mask, has_region)
    assert losses["num_regions"].item() == 3
    for name in LOSS_NAMES:
        torch.testing.assert_close(losses[name].detach(), expected[name])
    losses["amc_loss"].backward()
    assert torch.equal(heatmap.grad[:2], torch.zeros_like(heatmap.grad[:2]))
    assert heatmap.grad[2:].abs().sum() > 0


@pytest.mark.parametrize("mean_reduction", ["sample", "batch"])
def test_batch_without_regions_is_zero_and_in_the_graph(mean_reduction):
    heatmap, mask, has_region = make_batch()
    heatmap.requires_grad_()
    losses = AttentionMaskConsistencyLoss(mean_reduction=mean_reduction)(heatmap, mask, ~has_region)
    assert losses["num_regions"].item() == 0
    for name in LOSS_NAMES:
        assert losses[name].item() == 0 and losses[name].requires_grad
    losses["amc_loss"].backward()
    assert torch.equal(heatmap.grad, torch.zeros_like(heatmap))


@pytest.mark.parametrize("mean_reduction", ["sample", "batch"])
def test_full_mask_has_no_mean_term_and_compares_with_zero(mean_reduction):
    heatmap = torch.tensor([[[0.2, 0.3], [0.1, 0.0]]], requires_grad=True)
    losses = AttentionMaskConsistencyLoss(mean_reduction=mean_reduction)(heatmap, torch.ones(1, 2, 2), TRUE)
    assert losses["amc_mean_loss"].item() == 0
    assert losses["amc_max_loss"].item() == pytest.approx(0.5 - 0.3, abs=1e-6)
    losses["amc_loss"].backward()
    assert torch.isfinite(heatmap.grad).all()
    assert heatmap.grad[0, 0, 1].item() == pytest.approx(-0.8, abs=1e-6)


@pytest.mark.parametrize("mean_reduction", ["sample", "batch"])
def test_gradcheck(mean_reduction):
    heatmap, mask, has_region = make_batch(num_phrases=3, grid=3, mask_side=7, dtype=torch.float64)
    has_region[1] = False
    loss = AttentionMaskConsistencyLoss(mean_reduction=mean_reduction)
    heatmap.requires_grad_()
    assert torch.autograd.gradcheck(lambda heatmap: loss(heatmap, mask, has_region)["amc_loss"], (heatmap,))


@pytest.mark.parametrize("parts", [(2, 3), (1, 4)])
def test_parts_normalised_by_the_global_count_add_up(parts):
    heatmap, mask, has_region = make_batch()
    has_region[3] = False
    loss = AttentionMaskConsistencyLoss()
    whole = loss(heatmap, mask, has_region)
    splits = zip(heatmap.split(parts), mask.split(parts), has_region.split(parts), strict=True)
    parts = [loss(*split, num_regions=whole["num_regions"]) for split in splits]
    for name in LOSS_NAMES:
        torch.testing.assert_close(sum(part[name] for part in parts), whole[name])


def test_float32_under_autocast_and_for_bfloat16():
    heatmap, mask, has_region = make_batch()
    loss = AttentionMaskConsistencyLoss()
    expected = loss(heatmap, mask, has_region)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(heatmap, mask, has_region)
    assert torch.equal(inside["amc_loss"], expected["amc_loss"])
    assert loss(heatmap.bfloat16(), mask.bfloat16(), has_region)["amc_loss"].dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda heatmap, mask, has: (heatmap, mask[:4], has), "one mask per phrase"),
        (lambda heatmap, mask, has: (heatmap[:, None], mask, has), "three dimensions"),
        (lambda heatmap, mask, has: (heatmap, mask, has[:, None]), "`has_region` must be a torch.bool tensor"),
        (lambda heatmap, mask, has: (heatmap, mask, has.long()), "`has_region` must be a torch.bool tensor"),
    ],
)
def test_wrong_shapes_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        AttentionMaskConsistencyLoss()(*change(*make_batch()))


@pytest.mark.parametrize(
    ("values", "words"), [({"mean_reduction": "pixel"}, "`mean_reduction`"), ({"max_margin": -0.1}, "`max_margin`")]
)
def test_wrong_options_are_named(values, words):
    with pytest.raises(ValueError, match=words):
        AttentionMaskConsistencyLoss(**values)
