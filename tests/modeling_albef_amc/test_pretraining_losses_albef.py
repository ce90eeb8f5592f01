# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Contrastive targets, hard negatives, masking and distillation on numbers that one can work out on paper."""

import math

import numpy as np
import pytest
import torch
from pretend_device import PretendDevice

from albef_amc.pretraining_losses_albef import (
    IGNORED_LABEL,
    JointBatch,
    KnownPairs,
    QueueIds,
    compute_contrastive_targets,
    compute_distillation_loss,
    compute_masked_word_loss,
    compute_negative_probabilities,
    draw_negatives,
    find_true_pairs,
    mask_tokens,
    pair_descriptions,
    resolve_ids,
    soft_cross_entropy,
)

CPU = torch.device("cpu")


# Identities


def test_given_identities_are_kept():
    assert resolve_ids("image_ids", torch.tensor([7, 0, 7]), 3, CPU).tolist() == [7, 0, 7]


@pytest.mark.parametrize("image_ids", [None, torch.tensor([-1, -1, -1])])
def test_without_identity_every_image_is_its_own_and_none_of_the_queue(image_ids):
    ids = resolve_ids("image_ids", image_ids, 3, CPU).tolist()
    assert len(set(ids)) == 3 and max(ids) < -1


def test_known_and_unknown_identities_together():
    ids = resolve_ids("image_ids", torch.tensor([-1, 4, -1, 4]), 4, CPU).tolist()
    assert ids[1] == ids[3] == 4 and ids[0] != ids[2] and max(ids[0], ids[2]) < -1


def test_identities_of_another_number_of_images():
    with pytest.raises(ValueError, match=r"`image_ids` must have shape \(3,\), one identity each, got \(2,\)"):
        resolve_ids("image_ids", torch.tensor([1, 2]), 3, CPU)


# Targets


def test_positives_share_equally_over_batch_and_queue():
    is_positive = torch.tensor([5, 6, -2])[:, None] == torch.tensor([5, 6, -2, 5, -1, 5])
    targets = compute_contrastive_targets(is_positive, torch.zeros(3, 6), alpha=0.0)
    third = 1 / 3
    expected = [[third, 0, 0, third, 0, third], [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]
    torch.testing.assert_close(targets, torch.tensor(expected))


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_momentum_model_is_mixed_in(alpha):
    logits = torch.tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0]])
    ids = torch.tensor([1, 2])
    expected = alpha * torch.tensor([[0.25, 0.75], [0.8, 0.2]]) + (1 - alpha) * torch.eye(2)
    targets = compute_contrastive_targets(ids[:, None] == ids, logits, alpha)
    torch.testing.assert_close(targets, expected)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(2))


def test_soft_cross_entropy():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    targets = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    expected = (0.5 * math.log(4) + 0.5 * math.log(4 / 3) + math.log(2)) / 2
    assert soft_cross_entropy(logits, targets).item() == pytest.approx(expected)
    hard = soft_cross_entropy(logits, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert hard.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, torch.tensor([1, 0])).item())


# What is true of what


def find_true_pairs_one_by_one(row_ids, candidate_ids, known_row_ids, known_candidate_ids):
    """The definition."""
    known = set(zip(known_row_ids.tolist(), known_candidate_ids.tolist(), strict=True))
    return [
        [row != -1 and candidate != -1 and (row, candidate) in known for candidate in candidate_ids.tolist()]
        for row in row_ids.tolist()
    ]


@pytest.mark.parametrize("seed", range(5))
def test_true_pairs_are_those_that_are_known(seed):
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(-3, 6, (count,), generator=generator) for count in (7, 9, 20, 20)]
    found = find_true_pairs(*ids)
    assert found.tolist() == find_true_pairs_one_by_one(*ids) and found.any() and not found.all()


def test_true_pairs_where_all_or_nothing_is_known():
    ids = torch.tensor([3, 3])
    assert find_true_pairs(ids, ids, ids, ids).all()
    assert not find_true_pairs(ids, ids, ids[:0], ids[:0]).any()
    assert find_true_pairs(ids[:0], ids, ids, ids).shape == (0, 2)


def build_joint_batch(text_ids=None, descriptions=None) -> JointBatch:
    """Images 5, 6 and 7 with two, one and one phrases."""
    image_ids, image_index = torch.tensor([5, 6, 7]), torch.tensor([0, 0, 1, 2])
    return JointBatch.gather(image_ids, 3, image_index, "local", text_ids, descriptions)


def test_without_identities_of_texts_a_phrase_is_true_of_its_image_alone():
    batch = build_joint_batch()
    expected = batch.own_phrase_ids[:, None] == batch.image_ids
    assert torch.equal(batch.find_images(), expected)
    assert torch.equal(batch.find_texts(), expected.T)


def test_an_image_with_the_same_text_is_true_of_it():
    batch = build_joint_batch(torch.tensor([1, 2, 1, -1]))  # images 5 and 6 share text 1
    found = batch.find_images()
    assert found.tolist() == [[True, True, False], [True, False, False], [True, True, False], [False, False, True]]
    assert torch.equal(batch.find_texts(), found.T)


@pytest.mark.parametrize("text_ids", [None, torch.tensor([-1, -1, -1, -1])])
def test_without_identities_of_texts_nothing_is_looked_up_and_the_result_is_the_same(text_ids):
    """Texts of unknown identity are looked up, and are true of the same images."""
    batch = build_joint_batch(text_ids)
    queues = QueueIds(torch.tensor([6, -1, 5]), KnownPairs(torch.tensor([-1, 7, 5]), torch.tensor([-6, -7, -8])))
    assert batch.has_text_ids == (text_ids is not None)
    assert torch.equal(
        batch.find_images(queues), torch.tensor([5, 5, 6, 7])[:, None] == torch.tensor([5, 6, 7, 6, -1, 5])
    )
    expected = torch.tensor([5, 6, 7])[:, None] == torch.tensor([5, 5, 6, 7, -1, 7, 5])
    assert torch.equal(batch.find_texts(queues), expected)


def test_a_description_is_true_of_its_image():
    descriptions = pair_descriptions(torch.tensor([2, 9]), torch.tensor([2, 0]))  # text 2 is true of image 7
    batch = build_joint_batch(torch.tensor([1, 2, 3, 4]), descriptions)
    found = batch.find_images()
    assert found.tolist() == [[True, False, False], [True, False, True], [False, True, False], [False, False, True]]
    assert torch.equal(batch.find_texts(), found.T)


@pytest.mark.parametrize(("ids", "index"), [([1], None), (None, [0]), ([1, 2], [0])])
def test_descriptions_without_their_images_are_refused(ids, index):
    given = [None if values is None else torch.tensor(values) for values in (ids, index)]
    with pytest.raises(ValueError, match="`description_ids` and `description_index` belong together"):
        pair_descriptions(*given)


def test_uniform_negatives_ignore_the_similarities():
    logits = torch.tensor([[9.0, 0.0, -9.0, 3.0]])
    probabilities = compute_negative_probabilities(logits, torch.tensor([[True, False, False, False]]), "uniform")
    torch.testing.assert_close(probabilities, torch.tensor([[0.0, 1 / 3, 1 / 3, 1 / 3]]))


# Negatives


def test_image_without_a_phrase_takes_no_part():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    rows, candidates = torch.tensor([5, 6, 7]), torch.tensor([5, 7, 7, -1])
    targets = compute_contrastive_targets(rows[:, None] == candidates, logits, alpha=0.4)
    torch.testing.assert_close(targets.sum(dim=1), torch.tensor([1.0, 0.0, 1.0]))
    others = torch.tensor([0, 2])
    torch.testing.assert_close(
        soft_cross_entropy(logits, targets), soft_cross_entropy(logits[others], targets[others])
    )
    assert soft_cross_entropy(logits[1:2], targets[1:2]) == 0


def test_no_negative_of_the_same_image():
    logits = torch.log(torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0]]))
    probabilities = compute_negative_probabilities(logits, torch.tensor([3, 9])[:, None] == torch.tensor([3, 8, 3, 7]))
    torch.testing.assert_close(probabilities, torch.tensor([[0, 2 / 6, 0, 4 / 6], [0.25, 0.25, 0.25, 0.25]]))


def test_row_without_a_candidate_is_zero():
    probabilities = compute_negative_probabilities(torch.zeros(2, 2), torch.tensor([[True, True], [False, False]]))
    assert probabilities.tolist() == [[0.0, 0.0], [0.5, 0.5]]
    assert draw_negatives(probabilities, torch.tensor([0.7, 0.7])).tolist() == [-1, 1]


def test_similarities_far_apart_leave_no_row_empty():
    """The published order, zeroing the diagonal after the softmax, gives a row of zeros here."""
    logits = torch.tensor([[1000.0, 0.0, -1.0]])
    published = logits.softmax(dim=1)[:, 1:]
    assert published.sum() == 0
    probabilities = compute_negative_probabilities(logits, torch.tensor([[True, False, False]]))
    torch.testing.assert_close(probabilities[0, 1:], torch.tensor([0.0, -1.0]).softmax(dim=0))


def test_half_precision_similarities():
    logits = torch.tensor([[3.0, 1.0, 2.0]], dtype=torch.bfloat16, requires_grad=True)
    probabilities = compute_negative_probabilities(logits, torch.tensor([[True, False, False]]))
    assert probabilities.dtype == torch.float32 and not probabilities.requires_grad
    assert probabilities.sum().item() == pytest.approx(1)


def test_draw_inverts_the_cumulative_distribution():
    probabilities = torch.tensor([[0.25, 0.0, 0.5, 0.25]]).expand(6, -1)
    uniforms = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-24])
    assert draw_negatives(probabilities, uniforms).tolist() == [0, 0, 2, 2, 3, 3]


def test_draws_have_the_stated_frequencies():
    probabilities = torch.tensor([0.1, 0.0, 0.6, 0.3, 0.0])
    number = 10_000
    grid = draw_negatives(probabilities.expand(number, -1), (torch.arange(number) + 0.5) / number)
    counts = torch.bincount(grid, minlength=5)
    assert (counts / number - probabilities).abs().max() <= 1 / number
    generator = torch.Generator().manual_seed(0)
    random = draw_negatives(probabilities.expand(number, -1), torch.rand(number, generator=generator))
    frequencies = torch.bincount(random, minlength=5) / number
    assert (frequencies - probabilities).abs().max() < 4 * math.sqrt(0.25 / number)
    assert frequencies[1] == frequencies[4] == 0


@pytest.mark.parametrize("sharpness", [0.01, 1.0, 30.0])
def test_draws_are_those_of_a_float64_sum(sharpness):
    generator = torch.Generator().manual_seed(0)
    logits = sharpness * torch.randn(3000, 200, generator=generator)
    probabilities = logits.masked_fill(torch.rand(logits.shape, generator=generator) < 0.2, -torch.inf).softmax(dim=1)
    uniforms = torch.rand(3000, generator=generator)
    uniforms[:30] = torch.tensor([0.0, 0.5, 1 - 2**-24]).repeat(10)
    cumulative = np.cumsum(probabilities.double().numpy(), axis=1)
    thresholds = uniforms.double().numpy() * cumulative[:, -1]
    expected = [np.searchsorted(row, value, side="right") for row, value in zip(cumulative, thresholds, strict=True)]
    last = [row.nonzero()[-1].item() for row in probabilities]
    assert draw_negatives(probabilities, uniforms).tolist() == np.minimum(expected, last).tolist()


def test_a_device_that_cannot_repeat_float_sums_draws_the_same():
    probabilities, uniforms = torch.rand(50, 7).softmax(dim=1), torch.rand(50)
    expected = draw_negatives(probabilities, uniforms)
    with PretendDevice() as device:
        torch.use_deterministic_algorithms(True)
        try:
            drawn = draw_negatives(device.send(probabilities), device.send(uniforms))
        finally:
            torch.use_deterministic_algorithms(False)
        assert torch.equal(drawn.cpu(), expected)


@pytest.mark.parametrize("forbidden", [[0], [4], [0, 4], [1, 2, 3]])
def test_rounding_never_draws_a_forbidden_candidate(forbidden):
    torch.manual_seed(0)
    ids = torch.arange(5)
    ids[forbidden] = 9
    logits = 30 * torch.randn(2000, 5)
    probabilities = compute_negative_probabilities(logits, (ids == 9).expand(2000, -1))
    for uniforms in (torch.rand(2000), torch.zeros(2000), torch.full((2000,), 1 - 2**-24)):
        drawn = draw_negatives(probabilities, uniforms)
        assert drawn.min() >= 0
        assert not torch.isin(drawn, torch.tensor(forbidden)).any()


# Masked words


def test_masking_has_the_stated_shares():
    torch.manual_seed(0)
    shape, vocab_size, mask_id = (400, 100), 1000, 4
    input_ids = torch.full(shape, 7)
    maskable = torch.ones(shape, dtype=torch.bool)
    maskable[:, 0] = maskable[:, -10:] = False
    masked, labels = mask_tokens(input_ids, maskable, mask_id, vocab_size, probability=0.15)
    chosen = labels != IGNORED_LABEL
    assert not chosen[~maskable].any() and (masked[~chosen] == 7).all() and (labels[chosen] == 7).all()
    assert chosen[maskable].float().mean().item() == pytest.approx(0.15, abs=0.01)
    shares = [(masked[chosen] == value).float().mean().item() for value in (mask_id, 7)]
    assert shares == [pytest.approx(0.8, abs=0.02), pytest.approx(0.1, abs=0.02)]
    random = masked[chosen & (masked != mask_id) & (masked != 7)]
    assert random.min() < 20 and random.max() > 980  # from the full vocabulary, special tokens included


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_masking_nothing_and_everything(probability):
    input_ids = torch.randint(5, 20, (3, 6))
    masked, labels = mask_tokens(input_ids, torch.ones(3, 6), 4, 20, probability)
    if probability == 0:
        assert torch.equal(masked, input_ids) and (labels == IGNORED_LABEL).all()
    else:
        assert torch.equal(labels, input_ids)


def test_masking_depends_on_the_generator_alone():
    input_ids, maskable = torch.arange(5, 25).view(2, 10), torch.ones(2, 10)
    first, second = (mask_tokens(input_ids, maskable, 4, 30, 0.5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    row = mask_tokens(input_ids[0], maskable[0], 4, 30, 0.5, torch.Generator().manual_seed(3))
    assert row[0].shape == row[1].shape == (10,)


def test_masked_word_loss():
    logits = torch.tensor([[[0.0, 0.0], [0.0, math.log(3.0)]]])
    labels = torch.tensor([[IGNORED_LABEL, 1]])
    assert compute_masked_word_loss(logits, labels).item() == pytest.approx(math.log(4 / 3))
    both = compute_masked_word_loss(logits, torch.tensor([[0, 1]])).item()
    assert both == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)


def compute_distillation_by_loops(logits, momentum_logits, labels, axis) -> float:
    """The formula, position by position, in numpy."""
    total, count = 0.0, 0
    for phrase, row in enumerate(labels):
        for position, label in enumerate(row):
            if label == IGNORED_LABEL:
                continue
            target = np.exp(momentum_logits[phrase, position])
            target /= target.sum()
            if axis == "vocabulary":
                normalizer = np.log(np.exp(logits[phrase, position]).sum())
            else:
                normalizer = np.log(np.exp(logits[phrase]).sum(axis=0))
            total -= (target * (logits[phrase, position] - normalizer)).sum()
            count += 1
    return total / max(count, 1)


@pytest.mark.parametrize("axis", ["vocabulary", "sequence"])
def test_distillation_loss(axis):
    generator = torch.Generator().manual_seed(0)
    logits, momentum_logits = torch.randn(2, 3, 4, 7, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[IGNORED_LABEL, 2, 5, IGNORED_LABEL]] * 2 + [[IGNORED_LABEL] * 4])
    loss = compute_distillation_loss(logits, momentum_logits, labels, axis)
    expected = compute_distillation_by_loops(logits.numpy(), momentum_logits.numpy(), labels.numpy(), axis)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_distillation_of_selected_positions_equals_that_of_all():
    logits, momentum_logits = torch.randn(2, 3, 4, 7, dtype=torch.float64)
    labels = torch.tensor([[IGNORED_LABEL, 2, 5, IGNORED_LABEL]] * 3)
    chosen = labels != IGNORED_LABEL
    few = compute_distillation_loss(logits[chosen], momentum_logits[chosen], labels[chosen], "vocabulary")
    torch.testing.assert_close(few, compute_distillation_loss(logits, momentum_logits, labels, "vocabulary"))


@pytest.mark.parametrize("axis", ["vocabulary", "sequence"])
def test_nothing_masked_gives_a_connected_zero(axis):
    logits = torch.randn(2, 3, 5, requires_grad=True)
    labels = torch.full((2, 3), IGNORED_LABEL)
    loss = compute_masked_word_loss(logits, labels) + compute_distillation_loss(
        logits, torch.ones(2, 3, 5), labels, axis
    )
    assert loss.item() == 0
    loss.backward()
    assert not logits.grad.any()
    empty = torch.zeros(0, 5, requires_grad=True)
    compute_masked_word_loss(empty, torch.zeros(0, dtype=torch.int64)).backward()
