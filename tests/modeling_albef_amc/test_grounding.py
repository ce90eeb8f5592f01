# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Heatmaps: the same for a phrase in any batch, no side effects on the model, differentiable in training."""

import copy

import pytest
import torch
from testing_utils import build_batch, build_photo, build_tiny_config
from torch import nn

from albef_amc import AlbefForImageTextMatching, AlbefForPreTraining
from albef_amc.explanation_albef import explain_attention
from albef_amc.layout_albef import build_layout, chunk_by_length

KINDS = ("itm", "itc")
both_kinds = pytest.mark.parametrize("kind", KINDS)
# Share of a map's maximum by which it may differ between batches.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}
MANY = (3, 0, 4, 1)  # phrases per image; one image has none


@pytest.fixture
def model(tiny_model):
    return tiny_model


@pytest.fixture
def batch(model):
    return build_batch(model.config, phrases_per_image=MANY, length=8)


def ground_alone(model: nn.Module, batch: dict, phrase: int, **options):
    """One phrase with its image and without padding."""
    length = int(batch["attention_mask"][phrase].sum())
    image = batch["pixel_values"][batch["image_index"][phrase]][None]
    return model.ground(image, batch["input_ids"][phrase][None, :length], **options)


def assert_same_map(heatmap: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Equal to `tolerance` of the maximum, and the same arg-max unless two pixels tie within that."""
    slack = tolerance * expected.max()
    assert expected.max() > 0
    assert (heatmap - expected).abs().max() <= slack
    if heatmap.argmax() != expected.argmax():
        assert expected.max() - expected.flatten()[heatmap.argmax()] <= 2 * slack


# Company


@pytest.mark.slow
@both_kinds
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("chunk", [1, 3, 32])
def test_phrase_alone_and_in_any_batch(model, batch, kind, dtype, chunk):
    model = model.to(dtype)
    batch["pixel_values"] = batch["pixel_values"].to(dtype)
    together = model.ground(**batch, explanation_kind=kind, phrases_per_chunk=chunk)
    assert together.heatmap.dtype == dtype
    for phrase in range(len(batch["input_ids"])):
        alone = ground_alone(model, batch, phrase, explanation_kind=kind)
        assert_same_map(together.heatmap[phrase], alone.heatmap[0], TOLERANCES[dtype])
        assert_same_map(together.normalized_heatmap[phrase], alone.normalized_heatmap[0], 10 * TOLERANCES[dtype])
        torch.testing.assert_close(together.itm_logits[phrase], alone.itm_logits[0], atol=1e-5, rtol=1e-5)


@both_kinds
def test_order_of_phrases_and_images_does_not_matter(model, batch, kind):
    expected = model.ground(**batch, explanation_kind=kind).heatmap
    phrases, images = torch.randperm(len(expected)), torch.randperm(len(MANY))
    position = images.argsort()  # where an image went
    shuffled = dict(
        pixel_values=batch["pixel_values"][images],
        input_ids=batch["input_ids"][phrases],
        attention_mask=batch["attention_mask"][phrases],
        image_index=position[batch["image_index"][phrases]],
    )
    heatmaps = model.ground(**shuffled, explanation_kind=kind).heatmap
    for row, phrase in enumerate(phrases):
        assert_same_map(heatmaps[row], expected[phrase], TOLERANCES[torch.float32])


@both_kinds
@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_chunks_of_similar_length_change_nothing(model, batch, kind, chunk):
    """Order, token heatmaps and their shape are those of one chunk; no chunk is longer than its longest phrase."""
    batch["attention_mask"] = (torch.arange(8) < torch.tensor([8, 2, 5, 3, 2, 7, 2, 4])[:, None]).long()
    options = {"explanation_kind": kind, "output_token_heatmap": kind == "itm"}
    options["token_mask"] = batch["attention_mask"] * (torch.arange(8) != 1)
    expected = model.ground(**batch, **options)
    seen = []
    hook = model.albef.text_model.word_embeddings.register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].shape)
    )
    outputs = model.ground(**batch, **options, phrases_per_chunk=chunk)
    hook.remove()
    lengths = [2, 2, 2, 3, 4, 5, 7, 8]
    chunks = [lengths[first : first + chunk] for first in range(0, 8, chunk)]
    assert seen == [(len(rows), rows[-1]) for rows in chunks]
    for heatmap, together in zip(outputs.heatmap, expected.heatmap, strict=True):
        assert_same_map(heatmap, together, TOLERANCES[torch.float32])
    torch.testing.assert_close(outputs.itm_logits, expected.itm_logits, atol=1e-5, rtol=1e-5)
    assert torch.equal(outputs.image_index, batch["image_index"])
    if kind == "itm":
        torch.testing.assert_close(outputs.token_heatmap, expected.token_heatmap, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize(
    ("lengths", "chunk", "expected"),
    [
        ([3, 1, 4, 1, 2], 2, [([1, 3], 1), ([4, 0], 3), ([2], 4)]),
        ([3, 1, 2], 3, [([0, 1, 2], 3)]),  # one chunk
        ([2, 2, 2], 2, [([0, 1], 2), ([2], 2)]),  # one length
    ],
)
def test_phrases_are_divided_by_length(lengths, chunk, expected):
    mask = (torch.arange(6) < torch.tensor(lengths)[:, None]).long()
    assert [(rows.tolist(), length) for rows, length in chunk_by_length(mask, chunk)] == expected
    gap = torch.tensor([[1, 0, 1, 0]])  # a token after a gap is kept
    assert chunk_by_length(gap, 1)[0][1] == 3


@both_kinds
@torch.no_grad()
def test_padding_does_not_matter(model, batch, kind):
    expected = model.ground(**batch, explanation_kind=kind, output_token_heatmap=kind == "itm")
    batch["input_ids"] = nn.functional.pad(batch["input_ids"], (0, 6), value=9)
    batch["attention_mask"] = nn.functional.pad(batch["attention_mask"], (0, 6))
    padded = model.ground(**batch, explanation_kind=kind, output_token_heatmap=kind == "itm")
    for heatmap, alone in zip(padded.heatmap, expected.heatmap, strict=True):
        assert_same_map(heatmap, alone, TOLERANCES[torch.float32])
    if kind == "itm":
        torch.testing.assert_close(padded.token_heatmap[:, :8], expected.token_heatmap, atol=1e-7, rtol=1e-4)
        assert not padded.token_heatmap[:, 8:].any()


@both_kinds
def test_forward_and_ground_give_the_same_map(model, batch, kind):
    grounded = model.ground(**batch, explanation_kind=kind)
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            outputs = model(**batch, output_heatmap=True, explanation_kind=kind)
        assert outputs.heatmap.requires_grad == enabled and not grounded.heatmap.requires_grad
        torch.testing.assert_close(outputs.heatmap.detach(), grounded.heatmap, atol=1e-7, rtol=1e-4)
        torch.testing.assert_close(outputs.itm_logits.detach(), grounded.itm_logits, atol=1e-6, rtol=1e-5)
    assert torch.equal(grounded.image_index, batch["image_index"])


def test_pretraining_model_grounds_like_the_matching_model_it_exports(tiny_pretraining_model):
    batch = build_batch(tiny_pretraining_model.config)
    expected = tiny_pretraining_model.export_matching_model().ground(**batch)
    outputs = tiny_pretraining_model.ground(**batch)
    assert torch.equal(outputs.heatmap, expected.heatmap)
    in_forward = tiny_pretraining_model(**batch, objectives=("itc",), output_heatmap=True)
    torch.testing.assert_close(in_forward.heatmap.detach(), expected.heatmap, atol=1e-7, rtol=1e-4)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, num_heads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of one row by its formula: context and probabilities `(1, num_heads, queries, keys)`."""
    query, key, value = (states.unflatten(2, (num_heads, -1)).transpose(1, 2) for states in (query, key, value))
    probabilities = torch.softmax(query @ key.transpose(2, 3) / query.shape[-1] ** 0.5, dim=-1)
    return (probabilities @ value).transpose(1, 2).flatten(2), probabilities


def read_image(vision_model: nn.Module, pixel_values: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """States of one image from the weights alone, and the attention probabilities of every block."""
    patches = vision_model.patch_embedding(pixel_values[None]).flatten(2).transpose(1, 2)
    states = torch.cat([vision_model.cls_token, patches], dim=1) + vision_model.position_embeddings
    maps = []
    for block in vision_model.layers:
        query, key, value = block.attention.qkv(block.layer_norm1(states)).chunk(3, dim=2)
        context, probabilities = attend(query, key, value, vision_model.config.num_attention_heads)
        states = states + block.attention.out_proj(context)
        states = states + block.fc2(nn.functional.gelu(block.fc1(block.layer_norm2(states))))
        maps.append(probabilities)
    return vision_model.layer_norm(states), maps


def read_phrase(
    text_model: nn.Module, input_ids: torch.Tensor, image_embeds: torch.Tensor, num_layers: int
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """States of one phrase without padding after the first layers, from the weights alone, and the cross-attention
    probabilities of each layer."""
    embeds = text_model.word_embeddings(input_ids) + text_model.position_embeddings.weight[: len(input_ids)]
    states = text_model.embedding_layer_norm(embeds + text_model.token_type_embeddings.weight[0])[None]
    maps, num_heads = [], text_model.config.num_attention_heads
    for layer in text_model.layers[:num_layers]:
        own, cross, probabilities = layer.attention, layer.cross_attention, None
        context, _ = attend(own.q_proj(states), own.k_proj(states), own.v_proj(states), num_heads)
        states = layer.attention_layer_norm(states + own.out_proj(context))
        if cross is not None:
            keys, values = cross.k_proj(image_embeds), cross.v_proj(image_embeds)
            context, probabilities = attend(cross.q_proj(states), keys, values, num_heads)
            states = layer.cross_attention_layer_norm(states + cross.out_proj(context))
        states = layer.output_layer_norm(states + layer.fc2(nn.functional.gelu(layer.fc1(states))))
        maps.append(probabilities)
    return states, maps


def explain(score: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """Grad-CAM of each query's row, `(queries, 4, 4)`: attention times its positive gradient, mean over heads."""
    (gradient,) = torch.autograd.grad(score, attention)
    return (attention * gradient.clamp(min=0)).mean(dim=1)[0, :, 1:].unflatten(1, (4, 4)).detach()


def test_a_map_explains_its_own_phrase(model):
    """The gradient of the phrase's score, written without the package's functions."""
    batch = build_batch(model.config)
    text_model, explained = model.albef.text_model, model.config.explanation_layer
    grounded = model.ground(**batch)
    for phrase, image in enumerate(batch["image_index"]):
        ids = batch["input_ids"][phrase, : int(batch["attention_mask"][phrase].sum())]
        image_embeds, _ = read_image(model.albef.vision_model, batch["pixel_values"][image])
        states, maps = read_phrase(text_model, ids, image_embeds, len(text_model.layers))
        score = model.itm_head(states[:, 0])[0, 1]
        expected = explain(score, maps[explained]).mean(dim=0)
        assert_same_map(grounded.heatmap[phrase], expected, TOLERANCES[torch.float32])
        torch.testing.assert_close(grounded.itm_logits[phrase, 1], score, atol=1e-5, rtol=1e-5)


def test_contrastive_map_explains_its_own_phrase(model):
    """The gradient of the phrase's similarity, written without the package's functions."""
    batch = build_batch(model.config)
    albef, text_config = model.albef, model.config.text_config
    grounded = model.ground(**batch, explanation_kind="itc")
    for phrase, image in enumerate(batch["image_index"]):
        ids = batch["input_ids"][phrase, : int(batch["attention_mask"][phrase].sum())]
        image_embeds, maps = read_image(albef.vision_model, batch["pixel_values"][image])
        text_embeds, _ = read_phrase(albef.text_model, ids, image_embeds, text_config.fusion_layer)
        image_feature = nn.functional.normalize(albef.vision_projection(image_embeds[0, 0]), dim=0)
        text_feature = nn.functional.normalize(albef.text_projection(text_embeds[0, 0]), dim=0)
        similarity = image_feature @ text_feature / albef.temperature
        expected = explain(similarity, maps[model.config.explanation_block])[0]  # the row of the class token
        assert_same_map(grounded.heatmap[phrase], expected, TOLERANCES[torch.float32])


# No waiting


@both_kinds
@pytest.mark.parametrize("chunk", [3, 32])
def test_nothing_waits_for_the_device(model, batch, kind, chunk):
    """Tensors on the device `meta` have no values: reading one is an error. Phrases are described on the CPU."""
    model = model.to("meta")
    batch["pixel_values"] = batch["pixel_values"].to("meta")
    options = {"output_token_heatmap": True, "token_mask": batch["attention_mask"]} if kind == "itm" else {}
    outputs = model.ground(**batch, **options, explanation_kind=kind, phrases_per_chunk=chunk, check_finite=False)
    assert outputs.heatmap.shape == (8, 4, 4) and outputs.heatmap.device.type == "meta"
    assert outputs.image_index.device.type == "meta"
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        outputs.check_finite()


# No trace


def read_state(model: nn.Module) -> dict:
    return {
        "weights": copy.deepcopy(model.state_dict()),
        "modes": {name: module.training for name, module in model.named_modules()},
        "requires_grad": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
    }


def assert_no_trace(model: nn.Module, before: dict) -> None:
    after = read_state(model)
    assert after["modes"] == before["modes"] and after["requires_grad"] == before["requires_grad"]
    assert all(torch.equal(after["weights"][name], value) for name, value in before["weights"].items())
    assert all(parameter.grad is None and not parameter.is_inference() for parameter in model.parameters())
    for module in model.modules():
        assert not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


@both_kinds
@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_ground_has_no_side_effects(model, batch, kind, context):
    expected = model.ground(**batch, explanation_kind=kind)
    model.albef.vision_model.train()  # a mixture of modes
    model.albef.text_model.layers[1].train()
    model.albef.vision_projection.requires_grad_(False)
    before = read_state(model)
    with context():
        outputs = model.ground(**batch, explanation_kind=kind)
    assert_no_trace(model, before)
    torch.testing.assert_close(outputs.heatmap, expected.heatmap, atol=1e-7, rtol=1e-4)
    assert not outputs.heatmap.requires_grad and not outputs.itm_logits.requires_grad
    assert not outputs.heatmap.is_inference()


@both_kinds
def test_inputs_made_in_inference_mode(model, batch, kind):
    expected = model.ground(**batch, explanation_kind=kind)
    with torch.inference_mode():
        inside = {name: value.clone() for name, value in batch.items()}
        assert inside["pixel_values"].is_inference()
        outputs = model.ground(**inside, explanation_kind=kind)
    assert torch.equal(outputs.heatmap, expected.heatmap)
    assert torch.equal(model.ground(**inside, explanation_kind=kind).heatmap, expected.heatmap)


@both_kinds
def test_forward_in_inference_mode(model, batch, kind):
    with torch.no_grad():
        expected = model(**batch, output_heatmap=True, explanation_kind=kind).heatmap
    with torch.inference_mode():
        outputs = model(**batch, output_heatmap=True, explanation_kind=kind)
    assert torch.equal(outputs.heatmap, expected) and not outputs.heatmap.requires_grad


def test_pretraining_forward_in_inference_mode(tiny_pretraining_model, batch):
    options = {"objectives": ("itc",), "output_heatmap": True}
    with torch.no_grad():
        expected = tiny_pretraining_model(**batch, **options)
    with torch.inference_mode():
        outputs = tiny_pretraining_model(**batch, **options)
    assert torch.equal(outputs.heatmap, expected.heatmap) and torch.equal(outputs.itc_loss, expected.itc_loss)


@pytest.mark.slow
@both_kinds
def test_model_loaded_in_inference_mode(model, batch, kind, tmp_path):
    expected = model.ground(**batch, explanation_kind=kind)
    model.save_pretrained(tmp_path)
    with torch.inference_mode():
        loaded = AlbefForImageTextMatching.from_pretrained(tmp_path)
        heatmap = loaded.ground(**batch, explanation_kind=kind).heatmap
    torch.testing.assert_close(heatmap, expected.heatmap, atol=1e-7, rtol=1e-4)


@both_kinds
def test_train_mode_grounds_without_dropout(model, batch, kind):
    assert model.config.text_config.hidden_dropout_prob > 0
    expected = model.ground(**batch, explanation_kind=kind)
    random_state = torch.get_rng_state()
    model.train()
    outputs = model.ground(**batch, explanation_kind=kind)
    assert torch.equal(outputs.heatmap, expected.heatmap) and torch.equal(outputs.itm_logits, expected.itm_logits)
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


@both_kinds
def test_modes_are_restored_after_an_error(model, batch, kind):
    model.train()
    with pytest.raises(ValueError, match="pixel_values"):
        model.ground(**{**batch, "pixel_values": torch.zeros(4, 3, 5, 5)}, explanation_kind=kind)
    assert all(module.training for module in model.modules())


@both_kinds
def test_frozen_model(model, batch, kind):
    expected = model.ground(**batch, explanation_kind=kind)
    model.requires_grad_(False)
    before = read_state(model)
    assert torch.equal(model.ground(**batch, explanation_kind=kind).heatmap, expected.heatmap)
    assert_no_trace(model, before)
    outputs = model(**batch, output_heatmap=True, explanation_kind=kind)
    torch.testing.assert_close(outputs.heatmap.detach(), expected.heatmap, atol=1e-7, rtol=1e-4)


@both_kinds
def test_ground_under_autocast(model, batch, kind):
    expected = model.ground(**batch, explanation_kind=kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model.ground(**batch, explanation_kind=kind)
    assert outputs.heatmap.dtype == torch.float32
    difference = (outputs.normalized_heatmap - expected.normalized_heatmap).abs().mean()
    assert difference < 0.05


def test_activation_checkpointing_does_not_disturb_grounding(model, batch):
    expected = model.ground(**batch)
    model.activation_checkpointing_enable()
    model.train()
    assert torch.equal(model.ground(**batch).heatmap, expected.heatmap)


def test_ground_stops_at_the_explanation_layer(model, batch):
    """Nothing below the explained attention belongs to the graph, whatever requires a gradient."""
    seen = []
    layers = model.albef.text_model.layers
    explained = model.config.explanation_layer
    handles = [
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output[0].requires_grad))
        for layer in (model.albef.vision_model.layers[-1], layers[0], layers[explained])
    ]
    model.ground(**batch)
    for handle in handles:
        handle.remove()
    assert seen == [False, False, True]


def test_other_outputs_of_the_processor_are_accepted(model, tiny_processor):
    inputs = tiny_processor(
        images=[build_photo(), build_photo(seed=1)],
        text=[["a red circle", "the dog"], ["a cup"]],
        boxes=[[[[1, 2, 20, 20]], None], [[[3, 3, 9, 9]]]],
    )
    assert {"region_mask", "has_region", "original_sizes"} <= set(inputs)
    outputs = model.ground(**inputs)
    assert torch.equal(outputs.original_sizes, inputs["original_sizes"])
    assert outputs.heatmap.shape == (3, 4, 4)


# Tokens


def test_token_mask_equals_the_mean_by_hand(model, batch):
    token_maps = model.ground(**batch, output_token_heatmap=True).token_heatmap
    token_mask = torch.zeros_like(batch["attention_mask"])
    token_mask[:, 0] = 1
    token_mask[-1, 2:5] = 1
    expected = torch.stack([token_maps[row][mask.bool()].mean(dim=0) for row, mask in enumerate(token_mask)])
    for mask in (token_mask, token_mask.bool()):
        grounded = model.ground(**batch, token_mask=mask)
        torch.testing.assert_close(grounded.heatmap, expected, atol=1e-8, rtol=1e-5)
        outputs = model(**batch, token_mask=mask, output_heatmap=True)
        torch.testing.assert_close(outputs.heatmap.detach(), expected, atol=1e-8, rtol=1e-5)


def test_marked_padding_does_not_count(model, batch):
    marked = torch.ones_like(batch["attention_mask"])
    assert (batch["attention_mask"] == 0).any()
    assert torch.equal(model.ground(**batch, token_mask=marked).heatmap, model.ground(**batch).heatmap)


def test_token_mask_that_keeps_nothing(model, batch):
    token_mask = batch["attention_mask"].clone()
    token_mask[2] = 0
    for call in (model.ground, lambda **inputs: model(**inputs, output_heatmap=True)):
        with pytest.raises(ValueError, match=r"`token_mask` keeps no token of phrase\(s\) \[2\]"):
            call(**batch, token_mask=token_mask)
        with pytest.raises(ValueError, match=r"`token_mask` has shape \(8, 3\) but `input_ids` \(8, 8\)"):
            call(**batch, token_mask=token_mask[:, :3])


def test_phrase_inside_its_caption(model, tiny_processor):
    caption = "the red circle left of the dog"
    inputs = tiny_processor(images=build_photo(), text=[[caption] * 2], spans=[[[[0, 14]], None]])
    assert inputs["token_mask"][0].sum() == 3
    inside, whole = model.ground(**inputs).heatmap
    token_maps = model.ground(**inputs, output_token_heatmap=True).token_heatmap[0]
    torch.testing.assert_close(inside, token_maps[1:4].mean(dim=0), atol=1e-8, rtol=1e-5)
    assert not torch.equal(inside, whole)


def test_token_maps_average_to_the_heatmap(model, batch):
    outputs = model(**batch, output_token_heatmap=True)
    kept = batch["attention_mask"].sum(dim=1)[:, None, None]
    torch.testing.assert_close(outputs.token_heatmap.sum(dim=1) / kept, outputs.heatmap)
    assert (outputs.token_heatmap >= 0).all()
    assert not outputs.token_heatmap[batch["attention_mask"] == 0].any()
    assert model(**batch, output_heatmap=True).token_heatmap is None
    assert model(**batch).heatmap is None


def test_padded_denominator_scales_with_the_batch(model, batch):
    kept = model(**batch, output_heatmap=True).heatmap
    padded = model(**batch, output_heatmap=True, heatmap_denominator="padded").heatmap
    shares = batch["attention_mask"].float().mean(dim=1)[:, None, None]
    torch.testing.assert_close(padded, kept * shares)


def normalize(heatmap: torch.Tensor) -> torch.Tensor:
    """As a head's map of one token."""
    attention_map = torch.nn.functional.pad(heatmap.flatten(1), [1, 0])[:, None, None]
    ones = torch.ones_like(attention_map)
    return explain_attention(attention_map, ones, ones[:, 0, :, 0], heatmap.shape[1:]).normalized_heatmap


def test_normalization():
    heatmap = torch.tensor([[[1.0, 3.0], [2.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    expected = torch.tensor([[[0.0, 1.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(normalize(heatmap), expected, atol=1e-6, rtol=0)
    random = normalize(torch.rand(5, 4, 4) * 1e-4)
    assert (random >= 0).all() and (random <= 1).all()


# Errors


@pytest.mark.parametrize(
    "name", ["albef.vision_model.layers.0.fc1.weight", "itm_head.bias", "albef.text_projection.bias"]
)
def test_nan_weights(model, batch, name):
    with torch.no_grad():
        model.get_parameter(name).view(-1)[0] = torch.nan
    kind = "itc" if "projection" in name else "itm"
    with pytest.raises(ValueError, match="matching scores or heatmaps are not finite.*NaN or infinity"):
        model.ground(**batch, explanation_kind=kind)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_pixels_that_are_not_finite(model, batch, value):
    batch["pixel_values"][0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="not finite: `pixel_values`"):
        model.ground(**batch)


def test_unknown_kind_and_bad_chunk(model, batch):
    with pytest.raises(ValueError, match="`explanation_kind` must be one of 'itm', 'itc', got 'cam'"):
        model.ground(**batch, explanation_kind="cam")
    with pytest.raises(ValueError, match="`phrases_per_chunk` must be a whole number of at least 1, got 0"):
        model.ground(**batch, phrases_per_chunk=0)
    with pytest.raises(ValueError, match='`output_token_heatmap` needs `explanation_kind="itm"`'):
        model.ground(**batch, explanation_kind="itc", output_token_heatmap=True)


# Differentiation


def compute_penalty(model: nn.Module, batch: dict, **options) -> torch.Tensor:
    """Like AMC's terms: what lies outside the left half, and the maximum inside it."""
    heatmap = model(**batch, output_heatmap=True, **options).normalized_heatmap
    return heatmap[..., 2:].mean() - heatmap[..., :2].mean() + heatmap.square().mean()


def differentiate(model: nn.Module, batch: dict, parameter: nn.Parameter, index: int, step: float, **options) -> float:
    values = []
    with torch.no_grad():
        entry = parameter.view(-1)
        original = entry[index].item()
        for offset in (step, -step):
            entry[index] = original + offset
            with torch.enable_grad():
                values.append(compute_penalty(model, batch, **options).item())
        entry[index] = original
    return (values[0] - values[1]) / (2 * step)


PARAMETERS = {
    "itm": (
        "albef.vision_model.patch_embedding.weight",
        "albef.vision_model.layers.1.attention.qkv.weight",
        "albef.text_model.word_embeddings.weight",
        "albef.text_model.layers.1.fc1.weight",
        "albef.text_model.layers.2.cross_attention.q_proj.weight",
        "albef.text_model.layers.2.cross_attention.v_proj.weight",
        "albef.text_model.layers.3.attention.k_proj.weight",
        "albef.text_model.layers.3.cross_attention.out_proj.weight",
        "itm_head.weight",
    ),
    "itc": (
        "albef.vision_model.patch_embedding.weight",
        "albef.vision_model.layers.1.attention.qkv.weight",
        "albef.vision_model.layers.1.fc2.weight",
        "albef.vision_projection.weight",
        "albef.text_projection.weight",
        "albef.text_model.layers.0.fc1.weight",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in PARAMETERS[kind]])
def test_second_order_gradient_against_finite_differences(model, kind, name):
    model = model.double()
    batch = build_batch(model.config, phrases_per_image=(2, 1), dtype=torch.float64)
    parameter = model.get_parameter(name)
    options = {"explanation_kind": kind}
    (gradient,) = torch.autograd.grad(compute_penalty(model, batch, **options), parameter)
    largest = gradient.abs().flatten().topk(3)
    assert largest.values[0] > 0
    for value, index in zip(largest.values, largest.indices, strict=True):
        numeric = differentiate(model, batch, parameter, int(index), 1e-6, **options)
        assert abs(numeric - gradient.view(-1)[index].item()) <= 1e-5 * value.item() + 1e-9


@both_kinds
@pytest.mark.parametrize("frozen", ["lower layers", "all but the matching head", "everything"])
def test_heatmap_is_in_the_graph_if_gradients_are_enabled(model, batch, kind, frozen):
    expected = model(**batch, output_heatmap=True, explanation_kind=kind).heatmap.detach()
    trainable = model.itm_head if kind == "itm" else model.albef.vision_projection
    model.requires_grad_(False)
    if frozen == "all but the matching head":
        trainable.requires_grad_(True)
    elif frozen == "lower layers":
        trainable.requires_grad_(True)
        model.albef.text_model.layers[3].requires_grad_(True)
        model.albef.vision_model.layers[1].requires_grad_(True)
    outputs = model(**batch, output_heatmap=True, explanation_kind=kind)
    torch.testing.assert_close(outputs.heatmap.detach(), expected, atol=1e-8, rtol=1e-4)
    assert outputs.heatmap.requires_grad
    if frozen != "everything":
        (gradient,) = torch.autograd.grad(outputs.heatmap.square().sum(), trainable.weight)
        assert gradient.abs().max() > 0


@both_kinds
def test_train_mode_heatmap_feels_dropout(model, batch, kind):
    if kind == "itc":
        model.albef.text_model.train()
    else:
        model.train()
    first, second = (model(**batch, output_heatmap=True, explanation_kind=kind).heatmap for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("training", [True, False])
def test_saved_map_is_the_one_before_dropout(training):
    """Probabilities sum to 1 in training too, when those that reach the values do not."""
    torch.manual_seed(0)
    model = AlbefForPreTraining(build_tiny_config()).train(training)
    text_model, config = model.albef.text_model, model.config
    batch = build_batch(config)
    keys_values = text_model.project_image(model.albef.vision_model(batch["pixel_values"]))
    layout = build_layout(batch["attention_mask"], batch["image_index"], len(batch["pixel_values"]))
    states = text_model.encode(batch["input_ids"], layout)
    attention = text_model.run_explained_layer(config.explanation_layer, states, layout, keys_values)[1]
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(attention.shape[:-1]))
