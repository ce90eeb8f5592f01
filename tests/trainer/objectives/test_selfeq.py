"""SelfEQ worked out on paper, against an oracle, and where R is empty."""

import numpy as np
import pytest
import torch

from albef_amc.trainer.objectives.selfeq import SelfConsistencyLoss

PAIR = torch.tensor([1, -1])


def oracle(heatmap, other, threshold=0.8, consistency_weight=0.5):
    """One pair from the equations in float64: total, similarity, consistency."""
    heatmap, other = np.asarray(heatmap, np.float64), np.asarray(other, np.float64)
    difference = np.abs(other - heatmap)
    similarity = np.where(difference < 1, 0.5 * difference**2, difference - 0.5).mean()
    shared = heatmap + other >= threshold
    consistency = 0.0
    if shared.any():
        for side in (heatmap, other):
            mean = (side * shared).sum() / shared.sum()
            consistency += (side * shared).std() + max(0, threshold / 2 - mean)
    return similarity + consistency_weight * consistency, similarity, consistency


def test_worked_out_by_hand():
    heatmap = torch.tensor([[[1.0, 0.0], [0.5, 0.0]], [[0.2, 0.1], [0.4, 0.0]]])
    losses = SelfConsistencyLoss()(heatmap, PAIR)
    # R is the left column: sums 1.2 and 0.9 against 0.1 and 0 on the right
    similarity = (0.5 * 0.8**2 + 0.5 * 0.1**2 + 0.5 * 0.1**2) / 4
    deviations = np.std([1.0, 0.0, 0.5, 0.0]) + np.std([0.2, 0.0, 0.4, 0.0])
    missing = max(0, 0.4 - 0.75) + (0.4 - 0.3)
    assert losses["selfeq_similarity_loss"].item() == pytest.approx(similarity, abs=1e-6)
    assert losses["selfeq_consistency_loss"].item() == pytest.approx(deviations + missing, abs=1e-6)
    assert losses["selfeq_loss"].item() == pytest.approx(similarity + 0.5 * (deviations + missing), abs=1e-6)
    assert losses["num_pairs"].item() == 1


def test_zero_where_both_light_up_everything():
    heatmap = torch.ones(2, 3, 3, requires_grad=True)
    losses = SelfConsistencyLoss()(heatmap, PAIR)
    assert losses["selfeq_loss"].item() == 0
    losses["selfeq_loss"].backward()
    assert torch.equal(heatmap.grad, torch.zeros_like(heatmap))


@pytest.mark.parametrize(("threshold", "consistency_weight"), [(0.8, 0.5), (1.2, 2.0)])
def test_matches_oracle(threshold, consistency_weight):
    heatmap = torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(0))
    losses = SelfConsistencyLoss(threshold, consistency_weight)(heatmap, torch.tensor([2, 4, -1, -1, -1]))
    pairs = [oracle(heatmap[a], heatmap[b], threshold, consistency_weight) for a, b in ((0, 2), (1, 4))]
    for name, value in zip(("", "_similarity", "_consistency"), np.mean(pairs, axis=0), strict=True):
        assert losses[f"selfeq{name}_loss"].item() == pytest.approx(value, rel=1e-5)


def test_an_empty_shared_region_does_not_change_the_similarity():
    heatmap = torch.tensor([[[0.3, 0.0]], [[0.1, 0.0]]], requires_grad=True)
    losses = SelfConsistencyLoss()(heatmap, PAIR)
    assert losses["selfeq_consistency_loss"].item() == 0
    assert losses["selfeq_loss"].item() == pytest.approx(0.5 * 0.2**2 / 2, abs=1e-7)
    losses["selfeq_loss"].backward()
    torch.testing.assert_close(heatmap.grad, torch.tensor([[[0.1, 0.0]], [[-0.1, 0.0]]]))


def test_both_sides_learn():
    heatmap = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    SelfConsistencyLoss()(heatmap, PAIR)["selfeq_loss"].backward()
    assert (heatmap.grad.abs().sum((1, 2)) > 0).all()


def test_wrong_options_and_shapes_are_named():
    with pytest.raises(ValueError, match=r"`threshold` must be a number in \(0, 2\]"):
        SelfConsistencyLoss(threshold=0.0)
    with pytest.raises(ValueError, match="`consistency_weight` must be a finite number of at least 0"):
        SelfConsistencyLoss(consistency_weight=-1.0)
    heatmap = torch.rand(2, 4, 4)
    with pytest.raises(ValueError, match="three dimensions"):
        SelfConsistencyLoss()(heatmap[None], PAIR)
    for index in (PAIR[:1], PAIR.float()):
        with pytest.raises(ValueError, match="`paraphrase_index` must be a torch.int64 tensor of shape"):
            SelfConsistencyLoss()(heatmap, index)
