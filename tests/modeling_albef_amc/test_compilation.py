"""Compiled encoders: the same heatmaps and gradients, few compilations, checkpoints as before."""

import copy
import os
import re
import shutil

import pytest
import torch
from testing_utils import build_batch, build_tiny_config
from torch._dynamo.utils import counters

from albef_amc import AlbefForImageTextMatching, AlbefForPreTraining

# Share of the maximum by which heatmaps and gradients may differ; inductor reorders the sums of a layer.
TOLERANCE, GRADIENT_TOLERANCE, INDUCTOR_TOLERANCE = 1e-6, 1e-5, 1e-5
MIXED = ((2, 1), (3, 0, 4, 1), (1,), (5,), (1, 1, 1), (2, 2), (1, 4, 2), (1, 0, 6))  # phrases per image of batches
MAX_GRAPHS = 8


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def assert_same_maps(outputs, expected, tolerance: float = TOLERANCE) -> None:
    slack = tolerance * expected.heatmap.amax(dim=(1, 2))[:, None, None]
    assert ((outputs.heatmap - expected.heatmap).abs() <= slack).all()
    torch.testing.assert_close(outputs.itm_logits, expected.itm_logits, atol=tolerance, rtol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["itm", "itc"])
def test_heatmaps_are_the_same_and_shapes_do_not_compile_again(tiny_model, kind):
    batches = [
        build_batch(tiny_model.config, images, length=5 + number, seed=number) for number, images in enumerate(MIXED)
    ]
    expected = [tiny_model.ground(**batch, explanation_kind=kind) for batch in batches]
    tiny_model.compile_encoders(backend="aot_eager")
    for batch, grounded in zip(batches, expected, strict=True):
        assert_same_maps(tiny_model.ground(**batch, explanation_kind=kind), grounded)
    assert 0 < counters["stats"]["unique_graphs"] <= MAX_GRAPHS
    assert not counters["graph_break"]


def test_checkpoints_and_copies_are_those_of_the_model(tiny_model, tmp_path):
    names, batch = list(tiny_model.state_dict()), build_batch(tiny_model.config)
    expected = tiny_model.ground(**batch)
    tiny_model.compile_encoders(backend="aot_eager")
    tiny_model.ground(**batch)
    assert list(tiny_model.state_dict()) == names
    assert_same_maps(copy.deepcopy(tiny_model).ground(**batch), expected)
    tiny_model.save_pretrained(tmp_path)
    loaded = AlbefForImageTextMatching.from_pretrained(tmp_path)
    assert_same_maps(loaded.ground(**batch), expected)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"mode": "reduce-overhead"}, "`mode='reduce-overhead'`"),
        ({"mode": "max-autotune"}, "`mode='max-autotune'`"),
        ({"options": {"triton.cudagraphs": True}}, "`options={'triton.cudagraphs': True}`"),
    ],
)
def test_cuda_graphs_are_refused_since_shapes_change(tiny_model, options, named):
    """Nothing is compiled by the call that is refused; the mode that the message names is taken."""
    with pytest.raises(ValueError, match=rf'^{re.escape(named)} records a CUDA graph.*"max-autotune-no-cudagraphs"'):
        tiny_model.compile_encoders(**options)
    layer = tiny_model.albef.vision_model.layers[0]
    assert layer._compiled_call_impl is None
    tiny_model.compile_encoders(mode="max-autotune-no-cudagraphs")
    assert layer._compiled_call_impl is not None


def compute_gradients(model: AlbefForPreTraining, batch: dict) -> dict[str, torch.Tensor]:
    """Gradients of all objectives and of a loss on heatmaps, which differentiates twice."""
    generator = torch.Generator().manual_seed(0)
    mlm_input_ids, mlm_labels = batch["input_ids"].clone(), torch.full_like(batch["input_ids"], -100)
    mlm_labels[:, 1], mlm_input_ids[:, 1] = mlm_input_ids[:, 1], model.config.text_config.mask_token_id
    given = {"mlm_input_ids": mlm_input_ids, "mlm_labels": mlm_labels}
    given["negative_uniforms"] = torch.rand(len(mlm_labels), 2, generator=generator)
    model.zero_grad()
    outputs = model(**batch, **given, output_heatmap=True)
    region = torch.rand(outputs.heatmap.shape, generator=generator)
    (outputs.loss + (outputs.normalized_heatmap * region).sum()).backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def build_model_without_dropout(**changes) -> AlbefForPreTraining:
    torch.manual_seed(0)
    config = build_tiny_config(**changes)
    for part in (config.vision_config, config.text_config):
        part.hidden_dropout_prob = part.attention_probs_dropout_prob = 0.0
    return AlbefForPreTraining(config).train()


def assert_same_gradients(gradients: dict, expected: dict) -> None:
    """Some gradients are 0 but for rounding: no slack is less than what 0.1 % of the largest gives."""
    assert gradients.keys() == expected.keys()
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        slack = GRADIENT_TOLERANCE * gradient.abs().max().clamp(min=1e-3 * largest)
        assert (gradients[name] - gradient).abs().max() <= slack, name


def test_a_training_step_with_amc_has_the_same_gradients():
    model = build_model_without_dropout()
    batch = build_batch(model.config, (2, 1, 3))
    expected = compute_gradients(model, batch)
    assert any("vision_model.layers.0" in name for name in expected)
    model.compile_encoders(backend="aot_eager")
    assert_same_gradients(compute_gradients(model, batch), expected)
    assert counters["stats"]["unique_graphs"] > 0 and not counters["graph_break"]


def test_a_differentiable_contrastive_map_with_compiled_encoders(tiny_model):
    """Blocks from `explanation_block` on are differentiated twice; compiled code cannot be."""
    batch = build_batch(tiny_model.config)
    weight = tiny_model.albef.vision_model.layers[0].fc1.weight

    def differentiate():
        heatmap = tiny_model(**batch, output_heatmap=True, explanation_kind="itc").normalized_heatmap
        return torch.autograd.grad((heatmap**2).sum(), weight)[0]

    expected = differentiate()
    tiny_model.compile_encoders(backend="aot_eager")
    assert_same_gradients({"fc1": differentiate()}, {"fc1": expected})


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="inductor needs a C++ compiler")
def test_the_default_backend_gives_the_same_heatmaps(tiny_model):
    batch = build_batch(tiny_model.config, (2, 1, 3))
    expected = tiny_model.ground(**batch)
    tiny_model.compile_encoders()
    assert_same_maps(tiny_model.ground(**batch), expected, INDUCTOR_TOLERANCE)
    assert counters["inductor"]
