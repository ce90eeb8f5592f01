# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Every family in every mode that PyTorch has: the same heatmaps, and no side effects."""

import contextlib
import copy
import pickle

import pytest
import torch
from grounder_cases import NAMES, build_tiny_grounder, describe_state
from testing_utils import build_photo

from albef_amc.grounders import Grounder
from albef_amc.grounders.attention_tap import AttentionTap

PHOTOS = [build_photo(48, 32, seed=1), build_photo(34, 40, seed=2)]
PHRASES = [["a red dog", "the big blue circle on the left"], ["cup"]]
LAYER = "vision_model.encoder.layers.1.self_attn"


@pytest.fixture(params=NAMES, scope="module")
def grounder(request):
    return build_tiny_grounder(request.param)


def build_again(grounder: Grounder) -> Grounder:
    return build_tiny_grounder(f"{grounder.family.model_type}-{grounder.family.score_name}")


def check_forward(changed: Grounder, grounder: Grounder) -> None:
    """The same heatmaps and gradients of weights, and `changed` is as it was."""
    batch = grounder.prepare(PHOTOS, PHRASES)
    before = describe_state(changed)
    outputs, expected = changed(batch), grounder(batch)
    assert describe_state(changed) == before
    largest = expected.heatmap.max()
    torch.testing.assert_close(outputs.heatmap / largest, expected.heatmap / largest, rtol=0, atol=1e-9)
    gradients, others = (
        torch.autograd.grad(one_output.normalized_heatmap.square().sum(), list(one.parameters()), allow_unused=True)
        for one_output, one in ((outputs, changed), (expected, grounder))
    )
    for gradient, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(gradient, other, rtol=0, atol=1e-7)


def test_forward_gives_the_same_in_inference_mode_and_takes_batches_made_there(grounder):
    batch = grounder.prepare(PHOTOS, PHRASES)
    expected = grounder(batch).heatmap
    with torch.inference_mode():
        before = describe_state(grounder)
        made_here = grounder.prepare(PHOTOS, PHRASES)
        copied = {name: value.clone() if torch.is_tensor(value) else value for name, value in made_here.items()}
        heatmap = grounder(batch).heatmap
        assert describe_state(grounder) == before
    assert copied["pixel_values"].is_inference() and not heatmap.requires_grad
    torch.testing.assert_close(heatmap, expected.detach(), rtol=0, atol=1e-9)
    again = grounder(copied).heatmap
    torch.testing.assert_close(again, expected, rtol=0, atol=1e-9)
    parameters = [parameter for parameter in grounder.parameters() if parameter.requires_grad]
    assert any(one is not None for one in torch.autograd.grad(again.sum(), parameters, allow_unused=True))


def test_a_copy_and_a_pickled_grounder_are_the_same(grounder):
    check_forward(copy.deepcopy(grounder), grounder)
    check_forward(pickle.loads(pickle.dumps(grounder)), grounder)


@pytest.mark.parametrize("name", [pytest.param("blip-itm", marks=pytest.mark.exhaustive), "clip-itc"])
def test_compiled_layers_and_models(name):
    """Compiled modules would neither show their attention nor have second derivatives."""
    grounder, compiled = build_tiny_grounder(name), build_tiny_grounder(name)
    for module in compiled.model.modules():
        if type(module).__name__.endswith("Layer"):
            module.compile(backend="aot_eager")
    try:
        check_forward(compiled, grounder)
        whole = torch.compile(build_tiny_grounder(name), backend="aot_eager")
        batch = grounder.prepare(PHOTOS, PHRASES)
        torch.testing.assert_close(whole(batch).heatmap, grounder(batch).heatmap)
    finally:
        torch.compiler.reset()


def test_gradient_checkpointing(grounder):
    changed = build_again(grounder)
    if not changed.model.supports_gradient_checkpointing:
        pytest.skip(f"{grounder.family.class_name} has no gradient checkpointing")
    changed.model.activation_checkpointing_enable()
    for module in changed.modules():
        module.training = hasattr(module, "gradient_checkpointing")  # what is in it stays without dropout
    check_forward(changed, grounder)


def test_frozen_weights(grounder):
    frozen = build_again(grounder).requires_grad_(False)
    before = describe_state(frozen)
    results = frozen(images=PHOTOS, phrases=PHRASES)
    assert describe_state(frozen) == before
    for ours, theirs in zip(results, grounder(images=PHOTOS, phrases=PHRASES), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one["heatmap"], other["heatmap"], rtol=0, atol=1e-9)


def test_a_training_model_is_grounded_without_dropout_and_trains_on(grounder):
    training = build_again(grounder)
    for module in training.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    training.train()
    training.model.get_submodule(grounder.module_names[0]).eval()  # a user froze a part
    before = describe_state(training)
    (result, _), _ = training(images=PHOTOS, phrases=PHRASES)
    assert describe_state(training) == before
    (expected, _), _ = grounder(images=PHOTOS, phrases=PHRASES)
    torch.testing.assert_close(result["heatmap"], expected["heatmap"], rtol=0, atol=1e-9)


def test_an_exception_in_any_module_leaves_nothing_behind(grounder):
    batch = grounder.prepare(PHOTOS, PHRASES)
    before, ran = describe_state(grounder), []
    watches = [
        module.register_forward_pre_hook(lambda module, inputs: ran.append(module))
        for module in grounder.model.modules()
    ]
    grounder(batch)
    for watch in watches:
        watch.remove()

    def fail(module, inputs):
        raise RuntimeError("interrupted")

    last_of_each_class = {type(module): module for module in ran}.values()
    tapped = grounder.model.get_submodule(grounder.module_names[0])
    for module in {*last_of_each_class, *(one for one in tapped.modules() if one in ran)}:
        interrupted = module.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="interrupted"):
            grounder(batch)
        interrupted.remove()
        assert describe_state(grounder) == before


@pytest.mark.parametrize("context", [contextlib.nullcontext, torch.no_grad, torch.inference_mode])
def test_a_tap_alone_works_in_every_mode(context):
    model = build_tiny_grounder("clip-itc").model
    pixels = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    with context():
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        with AttentionTap(model, [LAYER], keep_graph=False) as tap:
            score = model.get_image_features(pixels).pooler_output.sum()
            (gradient,) = torch.autograd.grad(score, tap.read_single_maps())
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == modes
    assert gradient.abs().max() > 0
