# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Texts with two images: which layer reads which image, shared projections, and text assignment."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from testing_utils import build_batch, build_tiny_config

from albef_amc import AlbefForTextAssignment, AlbefForVisualEntailment, AlbefForVisualReasoning
from albef_amc.layout_albef import build_layout
from albef_amc.reasoning_albef import draw_two, pair_images

TOLERANCE = dict(atol=1e-12, rtol=1e-9)
PAIRS = torch.tensor([[0, 1], [2, 0], [1, 2]])


def build_model(model_class: type, dtype: torch.dtype = torch.float64):
    torch.manual_seed(0)
    return model_class(build_tiny_config(images_per_text=2)).eval().to(dtype)


@pytest.fixture
def model() -> AlbefForVisualReasoning:
    return build_model(AlbefForVisualReasoning)


@pytest.fixture
def batch(model) -> dict:
    return build_batch(model.config, phrases_per_image=(1, 1, 1), dtype=torch.float64) | {"image_index": PAIRS}


# Images of a text


@torch.no_grad()
def test_layers_read_the_images_in_turn(model, batch):
    text_model, mask = model.albef.text_model, batch["attention_mask"]
    image_embeds = model.albef.vision_model(batch["pixel_values"])
    keys_values = text_model.project_image(image_embeds)
    assert len(keys_values) == 4 and keys_values[0] is keys_values[1] and keys_values[2] is keys_values[3]
    for number, layer in enumerate(text_model.layers[2:]):
        for given, own in zip(keys_values[number], layer.cross_attention.project_image(image_embeds), strict=True):
            assert torch.equal(given, own)
    layouts = [build_layout(mask, images, len(image_embeds)) for images in PAIRS.unbind(dim=1)]
    states = text_model.encode(batch["input_ids"], layouts[0])
    for layer, column in ((2, 0), (3, 1), (4, 0), (5, 1)):
        states = text_model.run_layers(states, layouts[column], keys_values, first=layer, last=layer + 1)
    expected = model.classifier(states[:, 0])
    torch.testing.assert_close(model(**batch).logits, expected, **TOLERANCE)
    swapped = model(**dict(batch, image_index=PAIRS.flip(1))).logits
    assert (swapped - expected).abs().amax(dim=1).min() > 1e-3


@torch.no_grad()
def test_first_images_then_second_images_without_an_index(model, batch):
    pixels = batch["pixel_values"]
    inputs = dict(batch, image_index=None, pixel_values=torch.cat([pixels[PAIRS[:, 0]], pixels[PAIRS[:, 1]]]))
    outputs = model(**inputs)
    assert outputs.image_index.tolist() == [[0, 3], [1, 4], [2, 5]]
    torch.testing.assert_close(outputs.logits, model(**batch).logits, **TOLERANCE)


@torch.no_grad()
def test_many_texts_of_a_pair_are_read_together(model):
    """The same pair for all, and pairs whose images have unequal numbers of texts."""
    batch = build_batch(model.config, phrases_per_image=(5, 3), dtype=torch.float64)
    for pairs in ([[0, 1]] * 8, [[0, 1], [0, 1], [0, 0], [1, 0], [0, 1], [0, 1], [0, 1], [1, 1]]):
        batch["image_index"] = torch.tensor(pairs)
        logits = model(**batch).logits
        for row in range(8):
            one = {name: batch[name][row][None] for name in ("input_ids", "attention_mask", "image_index")}
            torch.testing.assert_close(model(batch["pixel_values"], **one).logits[0], logits[row], **TOLERANCE)


def test_heatmaps_are_of_their_images(model, batch):
    """A map is zero where its image cannot matter, and follows its image when the images are swapped in place."""
    heatmap = model(**batch, output_heatmap=True, explained_class=0).heatmap
    order = torch.tensor([2, 0, 1])
    inputs = dict(batch, pixel_values=batch["pixel_values"][order], image_index=order.argsort()[PAIRS])
    renumbered = model(**inputs, output_heatmap=True, explained_class=0).heatmap
    torch.testing.assert_close(renumbered, heatmap, **TOLERANCE)
    assert not torch.allclose(heatmap[:, 0], heatmap[:, 1])
    with torch.no_grad():
        model.albef.text_model.layers[3].cross_attention.out_proj.weight.zero_()
    heatmap = model(**batch, output_heatmap=True, explained_class=0).heatmap
    assert heatmap[:, 0].amax() > 0 and not heatmap[:, 1].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_index": None}, r"has 3 images for 3 texts, but each text is read with 2. Pass 6 rows, the first"),
        ({"image_index": torch.arange(3)}, r"`image_index` must have shape \(3, 2\), .* got \(3,\)"),
        ({"image_index": PAIRS + 1}, "`image_index` must hold image rows between 0 and 2, got"),
        ({"image_index": PAIRS - 1}, "`image_index` must hold image rows between 0 and 2, got"),
    ],
)
def test_images_that_are_missing(model, batch, changes, message):
    with pytest.raises(ValueError, match=message):
        model(**dict(batch, **changes))


# Shared projections


def list_shared(model) -> list[tuple[str, str]]:
    prefixes = ["albef.text_model"] + ["momentum_text_model"] * hasattr(model, "momentum_text_model")
    return [
        (f"{prefix}.layers.{first + 1}.cross_attention.{name}", f"{prefix}.layers.{first}.cross_attention.{name}")
        for prefix in prefixes
        for first in (2, 4)
        for name in ("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias")
    ]


def assert_shared(model) -> None:
    for name, source in list_shared(model):
        assert model.get_parameter(name) is model.get_parameter(source), name
    apart = [model.get_parameter(f"albef.text_model.layers.{layer}.cross_attention.k_proj.weight") for layer in (2, 4)]
    assert apart[0] is not apart[1]


@pytest.mark.parametrize("model_class", [AlbefForVisualReasoning, AlbefForTextAssignment])
def test_layers_of_a_group_share_their_projections(model_class, tmp_path):
    model = build_model(model_class, torch.float32)
    assert_shared(model)
    assert model.all_tied_weights_keys == dict(list_shared(model))
    assert_shared(copy.deepcopy(model))
    both_names = model.state_dict()
    assert all(name in both_names and source in both_names for name, source in list_shared(model))
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert set(both_names) - set(stored) == {name for name, _ in list_shared(model)}
    for change in ({}, {"dtype": torch.bfloat16}):
        loaded = model_class.from_pretrained(tmp_path, **change)
        assert_shared(loaded)
        value = loaded.get_parameter(list_shared(model)[0][0])
        torch.testing.assert_close(value.float(), both_names[list_shared(model)[0][0]], atol=2e-3, rtol=1e-2)


def test_checkpoint_with_both_names_loads(tmp_path):
    model = build_model(AlbefForVisualReasoning, torch.float32)
    model.save_pretrained(tmp_path)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = AlbefForVisualReasoning.from_pretrained(tmp_path)
    assert_shared(loaded)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in state.items())


def test_shared_weights_are_trained_and_followed_once(model, batch):
    names = [source for _, source in list_shared(model)[:8]]
    shared = [model.get_parameter(name) for name in names]
    trained = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert all(trained.count(id(parameter)) == 1 for parameter in shared)
    loss = model(**batch, labels=torch.tensor([0, 1, 1])).loss
    gradients = dict(zip(names, torch.autograd.grad(loss, shared), strict=True))
    for name in (names[0], names[-2]):
        parameter, gradient = model.get_parameter(name), gradients[name]
        place = int(gradient.abs().argmax())
        sides = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.view(-1)[place] += step
                sides.append(model(**batch, labels=torch.tensor([0, 1, 1])).loss.item())
                parameter.view(-1)[place] -= step
        numeric = (sides[0] - sides[1]) / 2e-6
        assert numeric == pytest.approx(gradient.view(-1)[place].item(), rel=1e-6)
    with torch.no_grad():
        shared[0].add_(1.0)
    before = {name: model.get_parameter(name.replace("albef.", "momentum_")).clone() for name in names}
    model.update_momentum()
    momentum = model.config.momentum
    for name, parameter in zip(names, shared, strict=True):
        expected = momentum * before[name] + (1 - momentum) * parameter
        torch.testing.assert_close(model.get_parameter(name.replace("albef.", "momentum_")), expected, **TOLERANCE)


def test_one_image_a_text_shares_nothing():
    model = AlbefForVisualEntailment(build_tiny_config())
    assert model.all_tied_weights_keys == {}
    first, second = (model.albef.text_model.layers[layer].cross_attention.k_proj.weight for layer in (2, 3))
    assert first is not second


# Text assignment


@pytest.fixture
def assigner() -> AlbefForTextAssignment:
    return build_model(AlbefForTextAssignment)


def build_texts(model, phrases_per_image: tuple[int, ...] = (2, 1, 1)) -> dict:
    return build_batch(model.config, phrases_per_image, dtype=torch.float64)


def test_pairs_by_hand():
    own, negatives = torch.tensor([0, 1, 2]), torch.tensor([[5, 6], [7, 8], [9, 3]])
    assert pair_images(own, torch.tensor([0, 1, 2]), negatives).tolist() == [[0, 5], [7, 1], [9, 3]]


def test_loss_of_given_assignments(assigner):
    """Loss and scores of the pairs, computed from the encoders by another route: one text after the other."""
    inputs = build_texts(assigner)
    assignments = torch.tensor([0, 1, 2, 2])
    negatives = torch.tensor([[1, -1], [2, -1], [0, 2], [0, 1]])
    outputs = assigner(**inputs, assignments=assignments, negative_image_index=negatives)
    pairs = [[0, 1], [2, 0], [0, 2], [0, 1]]
    assert outputs.image_index.tolist() == pairs and outputs.assignments.tolist() == assignments.tolist()
    text_model = assigner.albef.text_model
    losses = []
    for row, pair in enumerate(pairs):
        length = int(inputs["attention_mask"][row].sum())
        ids, mask = inputs["input_ids"][row][None, :length], torch.ones(1, length, dtype=torch.int64)
        keys_values = text_model.project_image(assigner.albef.vision_model(inputs["pixel_values"][pair]))
        states = text_model.encode(ids, build_layout(mask, torch.tensor([0]), 2))
        for layer in range(2, 6):
            layout = build_layout(mask, torch.tensor([layer % 2]), 2)
            states = text_model.run_layers(states, layout, keys_values, first=layer, last=layer + 1)
        logits = assigner.assignment_head(states[0, 0])
        torch.testing.assert_close(outputs.assignment_logits[row], logits, **TOLERANCE)
        values = logits.detach().numpy()
        losses.append(np.log(np.exp(values).sum()) - values[assignments[row]])
    assert outputs.loss.item() == pytest.approx(np.mean(losses), rel=1e-10)
    outputs.loss.backward()
    contrastive = ("albef.vision_projection", "albef.text_projection", "albef.temperature")
    for name, parameter in assigner.named_parameters():
        if name.startswith(contrastive):
            assert parameter.grad is None, name
        else:
            assert parameter.grad.abs().max() > 0, name


def test_texts_without_the_images_they_need_are_skipped(assigner):
    inputs = build_texts(assigner)
    assignments = torch.tensor([0, 2, 2, 1])
    negatives = torch.tensor([[-1, 1], [1, -1], [0, 2], [0, -1]])
    outputs = assigner(**inputs, assignments=assignments, negative_image_index=negatives)
    assert outputs.text_index.tolist() == [2, 3] and outputs.image_index.tolist() == [[0, 2], [0, 2]]
    kept = {name: inputs[name][2:] for name in ("input_ids", "attention_mask", "image_index")}
    expected = assigner(
        inputs["pixel_values"], **kept, assignments=assignments[2:], negative_image_index=negatives[2:]
    )
    torch.testing.assert_close(outputs.loss, expected.loss, **TOLERANCE)


@pytest.mark.parametrize("ids", [None, torch.tensor([4, 4])])
def test_no_text_with_another_image_gives_a_connected_zero(assigner, ids):
    inputs = build_texts(assigner, (3,) if ids is None else (2, 1))
    outputs = assigner(**inputs, image_ids=ids)
    assert outputs.loss.item() == 0 and outputs.assignment_logits.shape == (0, 3)
    outputs.loss.backward()


def test_draws_follow_the_chances_of_two_draws_without_replacement():
    torch.manual_seed(0)
    chances = torch.tensor([0.5, 0.0, 0.3, 0.2])
    drawn = draw_two(chances.expand(20000, 4))
    frequencies = torch.zeros(4, 4).index_put_(tuple(drawn.T), torch.tensor(1 / 20000), accumulate=True)
    expected = chances[:, None] * chances[None, :] / (1 - chances[:, None])
    expected.fill_diagonal_(0)
    assert (frequencies - expected).abs().max() < 0.015
    assert draw_two(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])).tolist() == [[1, -1], [-1, -1]]
    assert draw_two(torch.zeros(1, 1)).tolist() == [[-1, -1]]


@torch.no_grad()
def test_images_that_resemble_are_drawn_more_often(assigner):
    """Image 1 is nearly image 0 and image 2 is not; image 3 is image 0 once more and never drawn for its text."""
    inputs = build_texts(assigner, (1, 0, 0, 0))
    pixels = inputs["pixel_values"]
    pixels[1], pixels[3] = pixels[0] + 0.01 * pixels[1], pixels[0]
    repeated = {name: inputs[name].expand(400, *inputs[name].shape[1:]) for name in ("input_ids", "attention_mask")}
    ids, index = torch.tensor([5, 6, 7, 5]), torch.zeros(400, dtype=torch.int64)
    torch.manual_seed(0)
    outputs = assigner(pixels, **repeated, image_index=index, image_ids=ids, assignments=index)
    drawn = outputs.image_index[:, 1]
    features = assigner.albef.get_image_features(pixels)
    chances = (features[0] @ features[1:3].T / assigner.config.temperature_init).softmax(dim=0)
    assert set(drawn.tolist()) <= {1, 2} and chances[0] > chances[1]
    assert (drawn == 1).double().mean().item() == pytest.approx(chances[0].item(), abs=0.07)


def test_what_is_absent_is_drawn(assigner):
    inputs = build_texts(assigner, (20, 20, 20))
    torch.manual_seed(0)
    first = assigner(**inputs)
    torch.manual_seed(0)
    assert torch.equal(assigner(**inputs).loss, first.loss)
    assert assigner(**inputs).loss != first.loss
    assert first.assignments.unique().tolist() == [0, 1, 2] and len(first.text_index) == 60
    own = inputs["image_index"]
    for row, (assignment, pair) in enumerate(zip(first.assignments, first.image_index, strict=True)):
        places = (pair == own[row]).nonzero().flatten().tolist()
        assert places == ([] if assignment == 2 else [int(assignment)])


def test_bad_assignments(assigner):
    inputs = build_texts(assigner)
    with pytest.raises(ValueError, match=r"`assignments` must hold 4 classes between 0 and 2, got \[0, 1, 2, 3\]"):
        assigner(**inputs, assignments=torch.arange(4))
    with pytest.raises(ValueError, match=r"`negative_image_index` must have shape \(4, 2\) and hold image rows"):
        assigner(**inputs, negative_image_index=torch.full((4, 2), 3))
    with pytest.raises(ValueError, match="AlbefForTextAssignment reads a text with 2 images"):
        AlbefForTextAssignment(build_tiny_config())


@torch.no_grad()
def test_reasoning_starts_from_text_assignment(tmp_path):
    source = build_model(AlbefForTextAssignment, torch.float32)
    source.save_pretrained(tmp_path)
    model = AlbefForVisualReasoning.from_pretrained(tmp_path)
    assert_shared(model)
    weights = model.state_dict()
    taken = {name: value for name, value in source.state_dict().items() if name in weights}
    assert len(taken) == len(source.state_dict()) - 7  # the head, the projections and the temperature
    assert all(torch.equal(weights[name], value) for name, value in taken.items())
    assert all(torch.equal(*pair) for pair in model.iterate_momentum_pairs())
