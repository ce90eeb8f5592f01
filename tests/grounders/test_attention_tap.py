# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Taps: formulas against torch's kernels, what stays fast, gradient checkpointing, exceptions, refusals."""

import pytest
import torch
from grounder_cases import build_tiny_grounder
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from albef_amc.grounders.attention_tap import AttentionTap, attend_by_formula

LAYER = "vision_model.encoder.layers.{}.self_attn"


@pytest.fixture
def model():
    return build_tiny_grounder("clip-itc").model


def encode(model, num_images: int = 2) -> torch.Tensor:
    pixels = torch.randn(num_images, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return model.get_image_features(pixels).pooler_output


def count_hooks(model: nn.Module) -> int:
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in model.modules())


@pytest.mark.parametrize("kind", ["none", "bool", "float", "causal", "groups"])
def test_the_formula_equals_fused_attention(kind):
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 5, 8, generator=generator, dtype=torch.float64)
    options = {
        "none": {"scale": 0.5},
        "bool": {"attn_mask": torch.rand(5, 5, generator=generator) < 0.8},
        "float": {"attn_mask": torch.randn(2, 1, 5, 5, generator=generator, dtype=torch.float64)},
        "causal": {"is_causal": True},
        "groups": {"enable_gqa": True},
    }[kind]
    if kind == "groups":
        key, value = key[:, :2], value[:, :2]
    expected = functional.scaled_dot_product_attention(query, key, value, **options)
    torch.testing.assert_close(attend_by_formula(query, key, value, **options), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_a_tapped_multihead_attention_returns_what_it_returned_before(mask):
    torch.manual_seed(0)
    module = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2, batch_first=True)}).double()
    query, key = torch.randn(3, 1, 8, dtype=torch.float64), torch.randn(3, 5, 8, dtype=torch.float64)
    forbidden = torch.arange(5)[None, None] > torch.tensor([3, 4, 2]).repeat_interleave(2)[:, None, None]
    masks = {None: None, "bool": forbidden, "float": torch.zeros(6, 1, 5, dtype=torch.float64)}
    masks["float"].masked_fill_(forbidden, -1e9)
    expected = module["attention"](query, key, key, attn_mask=masks[mask])
    with AttentionTap(module, ["attention"], keep_graph=True) as tap:
        context, _ = module["attention"](query, key, key, attn_mask=masks[mask])
    torch.testing.assert_close(context, expected[0], rtol=0, atol=1e-12)
    (attention_map,) = tap.attention_maps["attention"]
    torch.testing.assert_close(attention_map.mean(dim=1), expected[1], rtol=0, atol=1e-12)


class CountFusedAttention(TorchDispatchMode):
    """Count calls of the kernel that has no second derivative."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += "flash_attention" in str(function)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("keep_graph", "expected"), [(True, 1), (False, 2)])
def test_other_layers_keep_their_kernel(model, keep_graph, expected):
    """Of three layers the second is tapped; the third needs a second derivative where the graph is kept."""
    with CountFusedAttention() as counter:
        encode(model)
        assert counter.count == 3
        counter.count = 0
        with AttentionTap(model, [LAYER.format(1)], keep_graph) as tap:
            encode(model)
    assert counter.count == expected
    assert tap.attention_maps[LAYER.format(1)][0].is_leaf != keep_graph


@pytest.mark.parametrize("keep_graph", [True, False])
def test_nothing_stays_behind_after_an_exception(model, keep_graph):
    name, hooks = LAYER.format(1), count_hooks(model)

    def fail(module, inputs):
        raise RuntimeError("interrupted")

    inner = model.get_submodule(name + ".k_proj").register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="interrupted"), AttentionTap(model, [name], keep_graph):
        encode(model)
    inner.remove()
    assert count_hooks(model) == hooks and torch.is_grad_enabled()
    assert not torch._C._len_torch_function_stack()
    assert torch.backends.cuda.flash_sdp_enabled()


def test_gradient_checkpointing_is_off_from_the_tapped_layer_on_and_on_again_afterwards(model):
    name = LAYER.format(1)
    with AttentionTap(model, [name], keep_graph=True) as tap:
        score = encode(model).sum()
    (expected,) = torch.autograd.grad(score, tap.attention_maps[name], create_graph=True)
    model.activation_checkpointing_enable()
    before = [getattr(module, "gradient_checkpointing", None) for module in model.modules()]
    model.train()
    with AttentionTap(model, [name], keep_graph=True) as tap:
        score = encode(model).sum()
    assert [getattr(module, "gradient_checkpointing", None) for module in model.modules()] == before
    (gradient,) = torch.autograd.grad(score, tap.attention_maps[name], create_graph=True)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)
    gradient.square().sum().backward()
    assert model.vision_model.encoder.layers[0].self_attn.q_proj.weight.grad is not None


@pytest.mark.parametrize("back_end", ["flash_attention_2", "flex_attention"])
def test_a_back_end_without_probabilities_is_refused_by_name(model, back_end):
    model.vision_model.config._attn_implementation_internal = back_end
    with pytest.raises(ValueError, match=f'"{back_end}"` shows no attention probabilities'):
        AttentionTap(model, [LAYER.format(1)], keep_graph=False)


def test_modules_that_do_not_exist_or_show_no_attention(model):
    with pytest.raises(ValueError, match="CLIPModel has no module `vision_model.encoder.layers.9.self_attn`"):
        AttentionTap(model, [LAYER.format(9)], keep_graph=False)
    with (
        pytest.raises(ValueError, match="no attention was seen in `visual_projection`"),
        AttentionTap(model, ["visual_projection"], keep_graph=False),
    ):
        encode(model)
