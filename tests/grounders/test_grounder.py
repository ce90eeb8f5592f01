# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What holds for every family: heatmaps against an independent computation, gradients, results, no side effects."""

import json

import pytest
import torch
import transformers
from grounder_cases import NAMES, POSITIONS, build_tiny_grounder, compute_heatmap_alone, describe_state
from testing_utils import build_photo

import albef_amc
from albef_amc.grounders import AutoGrounder, Grounder
from albef_amc.processing_albef import locate_phrase

PHOTOS = [build_photo(48, 32, seed=1), build_photo(34, 40, seed=2)]
PHRASES = [["a red dog", "the big blue circle on the left"], ["cup"]]
STEP = 2e-8  # of the finite difference


@pytest.fixture(params=NAMES, scope="module")
def grounder(request):
    return build_tiny_grounder(request.param)


def test_heatmaps_equal_those_of_each_phrase_alone(grounder):
    check_heatmaps_against_each_phrase_alone(grounder)


def check_heatmaps_against_each_phrase_alone(grounder: Grounder) -> None:
    with torch.no_grad():
        outputs = grounder(grounder.prepare(PHOTOS, PHRASES))
    pairs = [(photo, phrase) for photo, phrases in zip(PHOTOS, PHRASES, strict=True) for phrase in phrases]
    for index, (photo, phrase) in enumerate(pairs):
        score, expected = compute_heatmap_alone(grounder, photo, phrase)
        torch.testing.assert_close(outputs.logits[index, -1], score, rtol=0, atol=1e-9)
        assert expected.max() > 0
        heatmap = outputs.heatmap[index]
        torch.testing.assert_close(
            heatmap[: len(expected)] / expected.max(), expected / expected.max(), rtol=0, atol=1e-9
        )
        assert (heatmap[len(expected) :] == 0).all() and not outputs.cell_mask[index, len(expected) :].any()
        normalized = outputs.normalized_heatmap[index, : len(expected)]
        shifted = expected - expected.min()
        torch.testing.assert_close(normalized, shifted / (shifted.max() + 1e-7), rtol=0, atol=1e-6)


def test_the_gradient_of_a_loss_on_heatmaps_equals_a_finite_difference(grounder):
    check_gradient_against_a_finite_difference(grounder)


def check_gradient_against_a_finite_difference(grounder: Grounder) -> None:
    batch = grounder.prepare(PHOTOS, PHRASES)
    parameters = [parameter for parameter in grounder.parameters() if parameter.requires_grad]
    generator = torch.Generator().manual_seed(1)
    outputs = grounder(batch)
    weights = torch.rand(outputs.normalized_heatmap.shape, generator=generator, dtype=torch.float64)

    def compute_loss() -> torch.Tensor:
        return (grounder(batch).normalized_heatmap * weights).sum()

    gradients = torch.autograd.grad((outputs.normalized_heatmap * weights).sum(), parameters, allow_unused=True)
    directions = [torch.randn(one.shape, generator=generator, dtype=torch.float64) for one in parameters]
    if grounder.family.model_type == "siglip2":  # which resizes its positions in float32, too coarse for this step
        positions = grounder.model.vision_model.embeddings.position_embedding.weight
        directions = [step * (one is not positions) for one, step in zip(parameters, directions, strict=True)]
    expected = sum(
        (gradient * direction).sum()
        for gradient, direction in zip(gradients, directions, strict=True)
        if gradient is not None
    )
    losses = []
    for sign in (1, -2):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += sign * STEP * direction
            losses.append(compute_loss())
    with torch.no_grad():
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter += STEP * direction
    difference = (losses[0] - losses[1]) / (2 * STEP)
    assert abs(difference) > 1e-3
    torch.testing.assert_close(expected, difference, rtol=1e-5, atol=0)


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_results_are_the_same_in_every_mode_and_nothing_stays_behind(grounder, context):
    outputs = grounder(grounder.prepare(PHOTOS, PHRASES))
    with context():
        before = describe_state(grounder)
        results = grounder(images=PHOTOS, phrases=PHRASES, phrases_per_chunk=1)
        assert describe_state(grounder) == before
    assert [len(of_image) for of_image in results] == [2, 1]
    flat = [result for of_image in results for result in of_image]
    layouts = grounder.prepare(PHOTOS, PHRASES)["layouts"]
    for index, result in enumerate(flat):
        layout = layouts[0 if index < 2 else 1]
        heatmap = outputs.heatmap[index, : layout.num_cells].detach()
        expected = locate_phrase(layout.to_image(heatmap[None])[0], 0.5, return_heatmap=True)
        torch.testing.assert_close(result["heatmap"], expected["heatmap"], rtol=0, atol=1e-6)
        assert result["heatmap"].shape == layout.image_size
        assert result["point"].equal(expected["point"]) and result["boxes"].equal(expected["boxes"])
        assert result["score"] == pytest.approx(outputs.score[index].item(), abs=1e-9)
        assert (result["is_present"] is None) == (not grounder.family.is_probability)


def test_scores_without_heatmaps(grounder):
    batch = grounder.prepare(PHOTOS, PHRASES)
    outputs = grounder(batch, output_heatmap=False)
    assert outputs.heatmap is None and outputs.logits.requires_grad
    torch.testing.assert_close(outputs.logits, grounder(batch).logits, rtol=0, atol=1e-9)


def test_what_is_saved_is_a_checkpoint_of_the_class_and_a_grounder(grounder, tmp_path):
    layers = range(grounder.num_layers)
    tapped = build_tiny_grounder(f"{grounder.family.model_type}-{grounder.family.score_name}", layer=layers[-1])
    tapped.save_pretrained(tmp_path)
    model_class = getattr(albef_amc, grounder.family.class_name, None) or getattr(
        transformers, grounder.family.class_name
    )
    alone, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and type(alone) is type(grounder.model)
    loaded = AutoGrounder.from_pretrained(tmp_path)
    assert (loaded.layer, loaded.family) == (layers[-1], grounder.family)
    assert json.loads((tmp_path / "grounder.json").read_text())["layer"] == layers[-1]
    batch, again = (one.prepare(PHOTOS[:1], ["cup"]) for one in (tapped, loaded))
    assert again["pixel_values"].equal(batch["pixel_values"]) and again["layouts"] == batch["layouts"]
    if grounder.family.model_type != "siglip2":  # whose tokenizer class replaces the pieces of the small one
        assert again["input_ids"].equal(batch["input_ids"]) and again["token_mask"].equal(batch["token_mask"])
    torch.testing.assert_close(loaded(batch).heatmap, tapped(batch).heatmap, rtol=0, atol=1e-12)


def test_bfloat16(grounder):
    half = build_tiny_grounder(f"{grounder.family.model_type}-{grounder.family.score_name}").bfloat16()
    outputs = half(half.prepare(PHOTOS, PHRASES))
    assert outputs.heatmap.dtype == torch.float32
    outputs.normalized_heatmap.sum().backward()
    gradients = [parameter.grad for parameter in half.parameters() if parameter.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)


def test_a_phrase_longer_than_the_model_takes(grounder):
    limit = 24 if grounder.family.model_type == "albef" else POSITIONS
    with pytest.raises(ValueError, match=rf"phrase 1 has \d+ tokens, but the model has {limit} text positions"):
        grounder.prepare(PHOTOS[:1], [["a cup", "dog " * 30]])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("vilt-itm", "bridgetower-itm")])
def test_an_image_is_encoded_once_for_all_its_phrases(name):
    grounder = build_tiny_grounder(name)
    seen = []
    encoder = grounder.model.albef.vision_model if name == "albef-itm" else grounder.model.vision_model
    encoder.register_forward_hook(lambda module, inputs, output: seen.append("image"))
    if name == "blip-itm":
        keys = grounder.model.text_encoder.encoder.layer[0].crossattention.self.key
        keys.register_forward_hook(lambda module, inputs, output: seen.append(f"keys of {len(output)}"))
    words = ["a", "the red", "dog", "cup on the left", "car"]
    grounder(images=PHOTOS[:1], phrases=[words], phrases_per_chunk=3)
    assert seen == ["image", *(["keys of 1"] * 2 if name == "blip-itm" else [])]


def test_albef_gives_what_its_own_ground_gives():
    grounder = build_tiny_grounder("albef-itm")
    inputs = grounder.processor(images=PHOTOS, text=PHRASES)
    outputs = grounder.model.ground(**inputs | {"pixel_values": inputs["pixel_values"].double()})
    ours = grounder(grounder.prepare(PHOTOS, PHRASES))
    torch.testing.assert_close(ours.heatmap, outputs.heatmap.flatten(1), rtol=0, atol=1e-9)
    torch.testing.assert_close(ours.score, outputs.match_probability, rtol=0, atol=1e-9)
    expected = grounder.processor.post_process_grounding(outputs)
    for of_image, results in zip(expected, grounder(images=PHOTOS, phrases=PHRASES), strict=True):
        for one, result in zip(of_image, results, strict=True):
            assert one.keys() == result.keys() and one["is_present"] == result["is_present"]
            assert one["point"].equal(result["point"]) and one["boxes"].equal(result["boxes"])
            torch.testing.assert_close(one["heatmap"], result["heatmap"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["albef-itm", "blip-itm"])
def test_layers_without_a_map_of_words_are_refused(name):
    with pytest.raises(ValueError, match="cross_attention|crossattention"):
        build_tiny_grounder(name, layer=0 if name == "albef-itm" else 3)
