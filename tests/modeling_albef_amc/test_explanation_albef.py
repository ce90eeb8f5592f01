# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The parts of Grad-CAM on numbers that one can work out on paper."""

import pytest
import torch
from torch import nn

from albef_amc.explanation_albef import (
    at_least_float32,
    check_explanation,
    differentiate_score,
    evaluation_mode,
    explain_attention,
    resolve_token_mask,
)


def weigh(attention: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Maps `(P, T, S)` of attention `(P, num_heads, T, S)`; the column of the class token is added here."""
    attention, gradient = (nn.functional.pad(values, [1, 0]) for values in (attention, gradient))
    token_mask = torch.ones(attention.shape[0], attention.shape[2])
    return explain_attention(attention, gradient, token_mask, (1, attention.shape[-1] - 1)).token_heatmap[:, :, 0]


def explain(score: torch.Tensor, attention: torch.Tensor, keep_graph: bool = False) -> torch.Tensor:
    """Maps `(P, T, S)` of a score `(P,)`."""
    (gradient,) = differentiate_score(score, [attention], keep_graph)
    with torch.set_grad_enabled(keep_graph):
        return weigh(attention, gradient)


def average(maps: torch.Tensor, token_mask: torch.Tensor, denominator: str = "kept") -> torch.Tensor:
    """Mean of maps `(P, T, G_h, G_w)` over tokens, as of one head with a gradient of 1."""
    attention = nn.functional.pad(maps.flatten(2), [1, 0])[:, None]
    return explain_attention(attention, torch.ones_like(attention), token_mask, maps.shape[2:], denominator).heatmap


def normalize(heatmap: torch.Tensor) -> torch.Tensor:
    """Normalised heatmaps `(P, G_h, G_w)`, as of one head and token with a gradient of 1."""
    attention = nn.functional.pad(heatmap.flatten(1), [1, 0])[:, None, None]
    ones = torch.ones_like(attention)
    return explain_attention(attention, ones, ones[:, 0, :, 0], heatmap.shape[1:]).normalized_heatmap


def test_weighted_attention_by_hand():
    """Two heads, one token, two patches; score = a linear function, so its gradient is known."""
    attention = torch.tensor([[[[0.25, 0.75]], [[0.5, 0.5]]]], requires_grad=True)
    slopes = torch.tensor([[[[4.0, -1.0]], [[2.0, 6.0]]]])
    maps = explain((attention * slopes).sum()[None], attention)
    torch.testing.assert_close(maps, torch.tensor([[[(1 + 1) / 2, (0 + 3) / 2]]]))
    assert not maps.requires_grad


@pytest.mark.parametrize("keep_graph", [False, True])
def test_weighted_attention_of_two_layers(keep_graph):
    """The second layer's attention depends on the first's, whose gradient is therefore the whole one."""
    lower = torch.tensor([[[[0.25, 0.75]]]], requires_grad=True)
    upper = lower.flip(-1) * torch.tensor([3.0, 2.0])  # 2.25, 0.5
    score = (upper * torch.tensor([1.0, -4.0])).sum() + (lower * torch.tensor([10.0, 1.0])).sum()
    gradients = differentiate_score(score[None], [lower, upper], keep_graph)
    with torch.set_grad_enabled(keep_graph):
        of_lower, of_upper = map(weigh, [lower, upper], gradients)
    torch.testing.assert_close(of_lower, torch.tensor([[[0.25 * (10 - 8), 0.75 * (1 + 3)]]]))
    torch.testing.assert_close(of_upper, torch.tensor([[[2.25, 0.0]]]))
    assert of_lower.requires_grad == of_upper.requires_grad == keep_graph


def test_rows_do_not_mix():
    attention = torch.rand(3, 2, 4, 5, requires_grad=True)
    scores = attention.square().flatten(1).sum(dim=1)
    together = explain(scores, attention, keep_graph=True)
    for row in range(3):
        one = attention[row : row + 1].detach().requires_grad_(True)
        torch.testing.assert_close(together[row], explain(one.square().sum()[None], one)[0])


def test_the_class_token_is_dropped_and_the_first_rows_are_read():
    attention = torch.tensor([[[9.0, 1.0, 2.0, 3.0, 4.0], [9.0, 5.0, 6.0, 7.0, 8.0]]])[:, None]  # two tokens, 2 x 2
    both = explain_attention(attention, torch.ones_like(attention), torch.ones(1, 2), (2, 2))
    assert both.token_heatmap.tolist() == [[[[1, 2], [3, 4]], [[5, 6], [7, 8]]]]
    assert both.heatmap.tolist() == [[[3, 4], [5, 6]]]
    first = explain_attention(attention, torch.ones_like(attention), torch.ones(1, 1), (2, 2))
    assert first.token_heatmap.shape == (1, 1, 2, 2) and first.heatmap.tolist() == [[[1, 2], [3, 4]]]


def test_products_are_float32_under_autocast():
    maps, attention = torch.rand(3, 5, 4, 4), torch.rand(2, 2, 3, 4, requires_grad=True)
    mask = (torch.rand(3, 5) > 0.3).long().index_fill(1, torch.tensor(0), 1)
    expected = average(maps, mask)
    weighted = explain(attention.pow(3).flatten(1).sum(dim=1), attention, keep_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(average(maps, mask), expected)
        score = attention.pow(3).flatten(1).sum(dim=1)
        assert torch.equal(explain(score, attention, keep_graph=True), weighted)


def test_differentiable_twice():
    def compute(attention: torch.Tensor) -> torch.Tensor:
        return explain(attention.pow(3).flatten(1).sum(dim=1), attention, keep_graph=True)

    attention = torch.rand(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(compute, (attention,))
    torch.testing.assert_close(compute(attention), (3 * attention.pow(3)).mean(dim=1))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)],
)
def test_precision_of_maps(dtype, expected):
    attention = torch.rand(1, 2, 3, 4, dtype=dtype, requires_grad=True)
    maps = explain(attention.square().sum()[None], attention)
    assert maps.dtype == expected == at_least_float32(attention).dtype


def test_mean_over_the_tokens_that_count():
    maps = torch.tensor([[1.0, 2.0, 6.0, 100.0]]).view(1, 4, 1, 1).expand(1, 4, 2, 2)
    mask = torch.tensor([[1, 1, 1, 0]])
    assert (average(maps, mask) == 3).all()
    assert (average(maps, mask, "padded") == 9 / 4).all()
    assert (average(maps, torch.tensor([[0, 1, 0, 0]])) == 2).all()


def test_normalization_is_per_phrase_and_differentiable():
    heatmap = torch.rand(3, 2, 4, dtype=torch.float64) + 0.5
    normalized = normalize(heatmap)
    expected = torch.stack([(one - one.min()) / (one.max() - one.min()) for one in heatmap])
    torch.testing.assert_close(normalized, expected, atol=1e-6, rtol=0)
    assert torch.autograd.gradcheck(normalize, (heatmap.requires_grad_(True),))


def test_normalization_of_constant_maps():
    normalized = normalize(torch.full((2, 3, 3), 0.3, requires_grad=True))
    assert not normalized.any()
    normalized.sum().backward()


def test_tokens_to_average():
    attention_mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    assert torch.equal(resolve_token_mask(None, attention_mask), attention_mask)
    marked = resolve_token_mask(torch.tensor([[False, True, True], [False, True, True]]), attention_mask)
    assert marked.tolist() == [[0, 1, 1], [0, 1, 0]]
    with pytest.raises(ValueError, match=r"`token_mask` keeps no token of phrase\(s\) \[1\]"):
        resolve_token_mask(torch.tensor([[1, 0, 0], [0, 0, 1]]), attention_mask)
    with pytest.raises(ValueError, match=r"`token_mask` has shape \(2, 2\) but `input_ids` \(2, 3\)"):
        resolve_token_mask(torch.ones(2, 2), attention_mask)


def test_choices():
    with pytest.raises(ValueError, match="`explanation_kind` must be one of 'itm', 'itc', got 'x'"):
        check_explanation("x", False)
    check_explanation("itm", True)
    with pytest.raises(ValueError, match="an `itc` map has no tokens"):
        check_explanation("itc", True)


def test_evaluation_mode_restores_a_mixture_of_modes():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Linear(2, 2)), nn.Dropout())
    model[1].eval()
    modes = [module.training for module in model.modules()]
    assert True in modes and False in modes
    with pytest.raises(RuntimeError, match="inside"), evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        with evaluation_mode(model):
            assert not any(module.training for module in model.modules())
        raise RuntimeError("inside")
    assert [module.training for module in model.modules()] == modes
