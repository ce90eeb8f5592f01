# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Pre-training with several phrases per image: candidates, targets, negatives, queues, momentum, masked words."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from testing_utils import build_batch, build_tiny_config
from torch import nn

from albef_amc import AlbefForPreTraining
from albef_amc.pretraining_albef import PRETRAINING_OBJECTIVES
from albef_amc.pretraining_losses_albef import JointBatch

TOLERANCE = dict(atol=1e-10, rtol=1e-8)


@pytest.fixture
def model(tiny_pretraining_model) -> AlbefForPreTraining:
    """Float64, with momentum weights and queues that differ from the online weights and from their beginning."""
    model = tiny_pretraining_model.double()
    torch.manual_seed(1)
    with torch.no_grad():
        for momentum_parameter, _ in model.iterate_momentum_pairs():
            momentum_parameter.add_(0.05 * torch.randn_like(momentum_parameter))
    return model


def build_inputs(model: nn.Module, phrases_per_image: tuple[int, ...] = (2, 1, 3), **changes) -> dict:
    return {**build_batch(model.config, phrases_per_image, dtype=torch.float64), **changes}


def mask_second_tokens(model: nn.Module, inputs: dict) -> dict:
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, 1] = inputs["input_ids"][:, 1]
    masked = inputs["input_ids"].clone()
    masked[:, 1] = model.config.text_config.mask_token_id
    return dict(mlm_input_ids=masked, mlm_labels=labels)


def softmax(values: np.ndarray) -> np.ndarray:
    exponentials = np.exp(values - values.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> float:
    return float(-(np.log(softmax(logits)) * targets).sum(axis=1).mean())


# Contrastive loss


def compute_expected_itc_loss(model, outputs, row_ids: list[int], phrase_ids: list[int], alpha: float) -> float:
    """The definition, entry by entry: equal shares over all entries of the same image, mixed with the momentum's."""
    temperature = model.albef.temperature.item()
    queues = {
        "image": (model.image_queue.numpy().T, model.image_queue_ids.tolist()),
        "text": (model.text_queue.numpy().T, model.text_queue_ids.tolist()),
    }
    features = {
        name: getattr(outputs, f"{name}_features").detach().numpy()
        for name in ("image", "text", "momentum_image", "momentum_text")
    }
    losses = []
    for rows, ids, candidates, candidate_ids in (
        ("image", row_ids, "text", phrase_ids),
        ("text", phrase_ids, "image", row_ids),
    ):
        queue, queue_ids = queues[candidates]
        columns = np.concatenate([features[f"momentum_{candidates}"], queue])
        hard = np.zeros((len(ids), len(columns)))
        for row, identity in enumerate(ids):
            positives = [column for column, other in enumerate([*candidate_ids, *queue_ids]) if other == identity]
            hard[row, positives] = 1 / len(positives)
        soft = softmax(features[f"momentum_{rows}"] @ columns.T / temperature)
        losses.append(cross_entropy(features[rows] @ columns.T / temperature, alpha * soft + (1 - alpha) * hard))
    return sum(losses) / 2


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_contrastive_loss_of_several_phrases_per_image(model, alpha):
    """Images 0 and 2 are the same one; both queues hold entries of it, and entries of unknown images."""
    model.image_queue_ids[:] = torch.tensor([-1] * 10 + [7, 9, 5, 7, -1, 11])
    model.text_queue_ids[:] = torch.tensor([7, 5] + [-1] * 14)
    inputs = build_inputs(model, image_ids=torch.tensor([7, 9, 7]))
    outputs = model(**inputs, objectives=("itc",), distillation_alpha=alpha)
    phrase_ids = [7, 7, 9, 7, 7, 7]
    expected = compute_expected_itc_loss(model, outputs, [7, 9, 7], phrase_ids, alpha)
    assert outputs.itc_loss.item() == pytest.approx(expected, rel=1e-10)
    assert outputs.logits_per_image.shape == (3, 6 + 16) and outputs.logits_per_text.shape == (6, 3 + 16)


@pytest.mark.parametrize("image_ids", [None, torch.tensor([-1, -1, -1])])
def test_images_without_identity_match_their_own_phrases_alone(model, image_ids):
    assert (model.image_queue_ids == -1).all()
    outputs = model(**build_inputs(model), image_ids=image_ids, objectives=("itc",), distillation_alpha=0.0)
    expected = compute_expected_itc_loss(model, outputs, [100, 101, 102], [100, 100, 101, 102, 102, 102], alpha=0.0)
    assert outputs.itc_loss.item() == pytest.approx(expected, rel=1e-10)


def test_alpha_defaults_to_the_configuration(model):
    inputs = build_inputs(model)
    default, given = (
        model(**inputs, objectives=("itc",), **options).itc_loss
        for options in ({}, {"distillation_alpha": model.config.distillation_alpha})
    )
    assert torch.equal(default, given)
    other = model(**inputs, objectives=("itc",), distillation_alpha=0.1).itc_loss
    assert not torch.equal(other, default)


def test_momentum_features_are_the_momentum_model_s_own(model):
    inputs = build_inputs(model)
    outputs = model(**inputs, objectives=("itc",))
    follower = copy.deepcopy(model)
    with torch.no_grad():
        for momentum_parameter, parameter in follower.iterate_momentum_pairs():
            parameter.copy_(momentum_parameter)
    expected = follower.albef(**inputs)
    torch.testing.assert_close(outputs.momentum_image_features, expected.image_features.detach(), **TOLERANCE)
    torch.testing.assert_close(outputs.momentum_text_features, expected.text_features.detach(), **TOLERANCE)
    assert not outputs.momentum_image_features.requires_grad and not outputs.momentum_text_features.requires_grad


# Matching loss


def check_pairs(model, inputs: dict, outputs, texts: list[int], images: list[int]) -> None:
    """Given pairs first, then the pairs of `texts` and `images`; each scored here on its own."""
    given = list(range(len(inputs["input_ids"])))
    texts, images = given + texts, inputs["image_index"].tolist() + images
    assert outputs.itm_pair_logits.shape == (len(texts), 2)
    matching = model.export_matching_model()
    expected = matching(
        inputs["pixel_values"],
        inputs["input_ids"][texts],
        inputs["attention_mask"][texts],
        image_index=torch.tensor(images),
    ).itm_logits
    torch.testing.assert_close(outputs.itm_pair_logits, expected, **TOLERANCE)
    labels = np.eye(2)[[1] * len(given) + [0] * (len(texts) - len(given))]
    assert outputs.itm_loss.item() == pytest.approx(cross_entropy(expected.detach().numpy(), labels), rel=1e-10)


def test_given_negatives_and_phrases_without_one(model):
    inputs = build_inputs(model)
    outputs = model(
        **inputs,
        objectives=("itm",),
        negative_image_index=torch.tensor([1, -1, 0, -1, 1, 0]),
        negative_text_index=torch.tensor([-1, 2, 4, 0, -1, -1]),
    )
    check_pairs(model, inputs, outputs, texts=[0, 2, 4, 5, 2, 4, 0], images=[1, 0, 1, 0, 0, 1, 2])


def test_no_negatives_at_all(model):
    inputs = build_inputs(model)
    none = torch.full((6,), -1)
    outputs = model(**inputs, objectives=("itm",), negative_image_index=none, negative_text_index=none)
    check_pairs(model, inputs, outputs, texts=[], images=[])


@pytest.mark.parametrize("given", ["negative_image_index", "negative_text_index"])
def test_only_the_negatives_that_are_absent_are_drawn(model, given):
    inputs = build_inputs(model)
    fixed = {"negative_image_index": [1, 1, 0, 0, 0, 0], "negative_text_index": [2, 2, 0, 0, 0, 0]}
    uniforms = torch.rand(6, 2)
    drawn = draw_negatives(model, inputs, model(**inputs, objectives=("itc",)), torch.tensor([0, 1, 2]), uniforms)
    index = {**dict(zip(fixed, (row.tolist() for row in drawn), strict=True)), given: fixed[given]}
    options = {given: torch.tensor(fixed[given]), "negative_uniforms": uniforms}
    outputs = model(**inputs, objectives=("itm",), **options)
    texts, images = [*range(6), *index["negative_text_index"]], [*index["negative_image_index"], 0, 0, 1, 2, 2, 2]
    check_pairs(model, inputs, outputs, texts, images)


def draw_negatives(model, inputs: dict, outputs, ids: torch.Tensor, uniforms: torch.Tensor) -> tuple:
    """Images and phrases `(P,)` that a step draws by the similarities in `outputs`, with these image identities."""
    pairs = SimpleNamespace(
        image_index=inputs["image_index"],
        batch=JointBatch.gather(ids, len(ids), inputs["image_index"], "local"),
        negative_image_index=None,
        negative_text_index=None,
        negative_uniforms=uniforms,
        negative_sampling="hard",
    )
    return model._choose_negatives(pairs, outputs)[:2]


def test_drawn_negatives_are_never_of_the_same_image(model):
    """Images 0 and 2 are the same one, so only image 1 and its phrase can be drawn for them, and the reverse."""
    inputs = build_inputs(model, image_ids=torch.tensor([4, 9, 4]))
    outputs = model(**inputs, objectives=("itc",))
    ids = inputs["image_ids"]
    seen = set()
    for uniforms in torch.rand(50, 6, 2):
        images, texts = draw_negatives(model, inputs, outputs, ids, uniforms)
        phrase_ids = ids[inputs["image_index"]]
        assert (ids[images] != phrase_ids).all() and (phrase_ids[texts] != phrase_ids).all()
        assert images[[0, 1, 3, 4, 5]].tolist() == [1] * 5 and texts[[0, 1, 3, 4, 5]].tolist() == [2] * 5
        seen.update([("image", int(images[2])), ("text", int(texts[2]))])
    assert len(seen) > 4  # for phrase 2, of two images and five phrases


@pytest.mark.slow
def test_drawn_negatives_follow_the_similarities(model):
    inputs = build_inputs(model)
    outputs = model(**inputs, objectives=("itc",))
    number = 4000
    generator = torch.Generator().manual_seed(0)
    draws = [
        torch.stack(draw_negatives(model, inputs, outputs, torch.arange(3), uniforms))
        for uniforms in torch.rand(number, 6, 2, generator=generator)
    ]
    images, texts = torch.stack(draws).unbind(dim=1)
    logits = outputs.logits_per_text[:, :3].detach().numpy().copy()
    logits[np.arange(6), inputs["image_index"]] = -np.inf
    frequencies = np.stack([np.bincount(images[:, phrase], minlength=3) for phrase in range(6)]) / number
    assert np.abs(frequencies - softmax(logits)).max() < 0.04
    logits = outputs.logits_per_image[inputs["image_index"], :6].detach().numpy().copy()
    logits[inputs["image_index"][:, None].numpy() == inputs["image_index"][None].numpy()] = -np.inf
    frequencies = np.stack([np.bincount(texts[:, phrase], minlength=6) for phrase in range(6)]) / number
    assert np.abs(frequencies - softmax(logits)).max() < 0.04


def test_draws_from_given_numbers_repeat(model):
    inputs = build_inputs(model)
    uniforms = torch.rand(6, 2)
    first, second = (model(**inputs, objectives=("itm",), negative_uniforms=uniforms) for _ in range(2))
    assert torch.equal(first.itm_pair_logits, second.itm_pair_logits) and len(first.itm_pair_logits) == 18


@pytest.mark.parametrize("phrases", [1, 3])
def test_one_image_has_no_negatives(model, phrases):
    inputs = build_inputs(model, (phrases,))
    outputs = model(**inputs, **mask_second_tokens(model, inputs))
    check_pairs(model, inputs, outputs, texts=[], images=[])
    assert all(outputs[name].isfinite() for name in ("loss", "itc_loss", "itm_loss", "mlm_loss"))
    outputs.loss.backward()


def test_the_same_image_throughout_has_no_negatives(model):
    inputs = build_inputs(model, image_ids=torch.tensor([3, 3, 3]))
    outputs = model(**inputs, objectives=("itm",))
    check_pairs(model, inputs, outputs, texts=[], images=[])


def test_image_without_phrases_is_a_candidate_too(model):
    inputs = build_inputs(model, (2, 0))
    outputs = model(**inputs, objectives=("itm",))
    assert len(outputs.itm_pair_logits) == 4  # two given, two with the other image, and no other phrase
    check_pairs(model, inputs, outputs, texts=[0, 1], images=[1, 1])


# One phrase an image and distinct images: the published computation


def test_one_phrase_an_image_equals_the_plain_computation(model):
    inputs = build_inputs(model, (1, 1, 1))
    masked = mask_second_tokens(model, inputs)
    negatives = {"negative_image_index": torch.tensor([2, 0, 1]), "negative_text_index": torch.tensor([1, 2, 0])}
    ids = torch.tensor([5, 3, 8])
    outputs = model(**inputs, **masked, **negatives, image_ids=ids, distillation_alpha=0.4)
    without_index = {name: value for name, value in inputs.items() if name != "image_index"}
    plain = model(**without_index, **masked, **negatives, distillation_alpha=0.4)
    for name, value in outputs.items():
        assert torch.equal(plain[name], value), name

    temperature = model.albef.temperature.item()
    losses = []
    for online, momentum, queue in (
        (outputs.image_features, (outputs.momentum_image_features, outputs.momentum_text_features), model.text_queue),
        (outputs.text_features, (outputs.momentum_text_features, outputs.momentum_image_features), model.image_queue),
    ):
        candidates = np.concatenate([momentum[1].numpy().T, queue.numpy()], axis=1)
        targets = 0.4 * softmax(momentum[0].numpy() @ candidates / temperature) + 0.6 * np.eye(3, 19)
        losses.append(cross_entropy(online.detach().numpy() @ candidates / temperature, targets))
    assert outputs.itc_loss.item() == pytest.approx(sum(losses) / 2, rel=1e-10)
    check_pairs(model, inputs, outputs, texts=[0, 1, 2, 1, 2, 0], images=[2, 0, 1, 0, 1, 2])
    assert outputs.loss.item() == pytest.approx(
        (outputs.itc_loss + outputs.itm_loss + outputs.mlm_loss).item(), rel=1e-12
    )


# Masked words


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("axis", ["vocabulary", "sequence"])
@torch.no_grad()
def test_masked_word_loss(model, alpha, axis):
    inputs = build_inputs(model)
    masked = mask_second_tokens(model, inputs)
    options = dict(objectives=("mlm",), distillation_alpha=alpha, distillation_axis=axis)
    outputs = model(**inputs, **masked, **options)
    ids, mask, index = masked["mlm_input_ids"], inputs["attention_mask"], inputs["image_index"]
    scores = []
    for vision_model, text_model, head in (
        (model.albef.vision_model, model.albef.text_model, model.mlm_head),
        (model.momentum_vision_model, model.momentum_text_model, model.momentum_mlm_head),
    ):
        scores.append(head(text_model(ids, mask, vision_model(inputs["pixel_values"]), index)).numpy())
    online, momentum = scores
    hard = cross_entropy(online[:, 1], np.eye(model.config.text_config.vocab_size)[masked["mlm_labels"][:, 1]])
    if axis == "vocabulary":
        soft = cross_entropy(online[:, 1], softmax(momentum[:, 1]))
        torch.testing.assert_close(outputs.mlm_logits, torch.from_numpy(online[:, 1]), **TOLERANCE)
    else:
        over_positions = np.log(softmax(online.transpose(0, 2, 1).reshape(-1, online.shape[1])))
        over_positions = over_positions.reshape(len(online), -1, online.shape[1])[..., 1]
        soft = -(softmax(momentum[:, 1]) * over_positions).sum(axis=1).mean()
        torch.testing.assert_close(outputs.mlm_logits, torch.from_numpy(online), **TOLERANCE)
    assert outputs.mlm_loss.item() == pytest.approx((1 - alpha) * hard + alpha * soft, rel=1e-9)


@pytest.mark.parametrize("axis", ["vocabulary", "sequence"])
def test_nothing_masked_gives_a_connected_zero(model, axis):
    inputs = build_inputs(model)
    labels = torch.full_like(inputs["input_ids"], -100)
    outputs = model(
        **inputs, mlm_input_ids=inputs["input_ids"], mlm_labels=labels, objectives=("mlm",), distillation_axis=axis
    )
    assert outputs.mlm_loss.item() == 0
    outputs.loss.backward()
    assert model.mlm_head.dense.weight.grad is not None and not model.mlm_head.dense.weight.grad.any()


def test_masks_are_drawn_when_absent(model):
    inputs = build_inputs(model, (20, 20))
    torch.manual_seed(0)
    first = model(**inputs, objectives=("mlm",))
    torch.manual_seed(0)
    second = model(**inputs, objectives=("mlm",))
    assert torch.equal(first.mlm_logits, second.mlm_logits) and torch.equal(first.mlm_loss, second.mlm_loss)
    third = model(**inputs, objectives=("mlm",))
    assert third.mlm_loss != first.mlm_loss
    maskable = int(inputs["attention_mask"][:, 1:].sum())
    assert 0 < len(first.mlm_logits) < 0.4 * maskable


def test_class_token_and_padding_are_never_masked(model):
    inputs = build_inputs(model, (30, 30))
    model.config.mlm_probability = 1.0
    masked, labels = model._mask_tokens(inputs["input_ids"], inputs["attention_mask"])
    kept = inputs["attention_mask"].bool()
    kept[:, 0] = False
    assert torch.equal(labels != -100, kept)
    assert torch.equal(masked[~kept], inputs["input_ids"][~kept])


# Objectives


@pytest.mark.parametrize(
    "objectives", [("itc",), ("itm",), ("mlm",), ("itm", "mlm"), ("itc", "mlm"), PRETRAINING_OBJECTIVES], ids="+".join
)
def test_subset_of_objectives(model, objectives):
    inputs = build_inputs(model)
    options = {**mask_second_tokens(model, inputs), "negative_uniforms": torch.rand(6, 2)}
    everything = model(**inputs, **options)
    some = model(**inputs, **options, objectives=objectives)
    expected = sum(everything[f"{name}_loss"] for name in objectives)
    torch.testing.assert_close(some.loss, expected, **TOLERANCE)
    assert ("itm_pair_logits" in some) == ("itm" in objectives)
    assert ("mlm_loss" in some) == ("mlm" in objectives)
    torch.testing.assert_close(some.itm_logits, everything.itm_logits, **TOLERANCE)


def test_heatmap_without_an_objective(model):
    outputs = model(**build_inputs(model), objectives=(), output_heatmap=True)
    assert outputs.loss is None and outputs.heatmap.requires_grad


@pytest.mark.parametrize("chosen", [[1, 4], [0, 1, 2, 3, 4, 5], []])
def test_only_chosen_phrases_are_explained(model, chosen):
    inputs, generator = build_inputs(model), torch.Generator().manual_seed(0)
    options = dict(**mask_second_tokens(model, inputs), negative_uniforms=torch.rand(6, 2, generator=generator))
    every = model(**inputs, **options, output_heatmap=True, output_token_heatmap=True)
    is_chosen = torch.zeros(6, dtype=torch.bool)
    is_chosen[chosen] = True
    some = model(**inputs, **options, output_heatmap=True, output_token_heatmap=True, explained_phrases=is_chosen)
    for name in ("itm_logits", "itm_pair_logits", "mlm_logits", "loss"):
        torch.testing.assert_close(getattr(some, name), getattr(every, name), **TOLERANCE)
    computed = chosen or [0]  # never none: every process takes part in every pass
    for name in ("heatmap", "normalized_heatmap", "token_heatmap"):
        maps = getattr(some, name)
        torch.testing.assert_close(maps[computed], getattr(every, name)[computed], **TOLERANCE)
        assert not maps[[row for row in range(6) if row not in computed]].any()
    gradients = [
        torch.autograd.grad(outputs.heatmap[computed].square().sum(), model.albef.text_model.word_embeddings.weight)
        for outputs in (every, some)
    ]
    torch.testing.assert_close(gradients[1], gradients[0], **TOLERANCE)


def test_phrases_do_not_depend_on_padding_nor_on_who_is_beside_them(model):
    """Padding is not computed at all; a phrase alone, unpadded, gives the same numbers."""
    inputs = build_inputs(model)
    assert (inputs["attention_mask"] == 0).any()
    together = model(**inputs, objectives=(), output_heatmap=True)
    for phrase, image in enumerate(inputs["image_index"]):
        length = int(inputs["attention_mask"][phrase].sum())
        alone = model(
            inputs["pixel_values"][image][None],
            inputs["input_ids"][phrase][None, :length],
            objectives=(),
            output_heatmap=True,
        )
        torch.testing.assert_close(alone.heatmap[0], together.heatmap[phrase], **TOLERANCE)
        torch.testing.assert_close(alone.itm_logits[0], together.itm_logits[phrase], **TOLERANCE)


def test_unknown_objective(model):
    with pytest.raises(ValueError, match=r"`objectives` may hold 'itc', 'itm', 'mlm', got \('itc', 'amc'\)"):
        model(**build_inputs(model), objectives=("itc", "amc"))


def test_unknown_axis(model):
    with pytest.raises(ValueError, match="`distillation_axis` must be one of 'vocabulary', 'sequence', got 'time'"):
        model(**build_inputs(model), distillation_axis="time")


# Queues


def unit_rows(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(count, 16, generator=generator, dtype=torch.float64), dim=1)


def test_enqueue_writes_images_and_phrases_apart(model):
    before = model.image_queue.clone()
    images, texts = unit_rows(3, 0), unit_rows(5, 1)
    model.enqueue(images, texts, torch.tensor([7, 8, 9]), torch.tensor([0, 0, 1, 2, 2]))
    assert torch.equal(model.image_queue[:, :3], images.T) and torch.equal(model.text_queue[:, :5], texts.T)
    assert torch.equal(model.image_queue[:, 3:], before[:, 3:])
    assert model.image_queue_ids[:4].tolist() == [7, 8, 9, -1]
    assert model.text_queue_ids[:6].tolist() == [7, 7, 8, 9, 9, -1]
    assert (model.image_queue_pointer.item(), model.text_queue_pointer.item()) == (3, 5)


def test_features_that_are_not_valid_are_not_enqueued(model):
    model.enqueue(unit_rows(2, 0), unit_rows(3, 1), torch.tensor([4, 5]), torch.tensor([0, 0, 1]))
    before = {name: value.clone() for name, value in model.named_buffers()}
    rows = (unit_rows(2, 2) * float("nan"), unit_rows(3, 3), torch.tensor([6, 7]), torch.tensor([0, 0, 1]))
    model.enqueue(*rows, is_valid=torch.tensor(False))
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    model.enqueue(*rows, is_valid=torch.tensor(True))
    assert model.image_queue_ids[:5].tolist() == [4, 5, 6, 7, -1] and model.text_queue_pointer.item() == 6


def test_enqueue_wraps_around(model):
    """Six times three images and five phrases into sixteen columns: the oldest are overwritten first."""
    written = {"image": [], "text": []}
    for step in range(6):
        images, texts = unit_rows(3, 10 + step), unit_rows(5, 20 + step)
        ids, index = torch.arange(3) + 10 * step, torch.tensor([0, 1, 1, 2, 2])
        model.enqueue(images, texts, ids, index)
        written["image"] += zip(images, ids.tolist(), strict=True)
        written["text"] += zip(texts, ids[index].tolist(), strict=True)
    for modality, entries in written.items():
        queue, ids = getattr(model, f"{modality}_queue"), getattr(model, f"{modality}_queue_ids")
        assert getattr(model, f"{modality}_queue_pointer").item() == len(entries) % 16
        for number, (feature, identity) in list(enumerate(entries))[-16:]:
            assert torch.equal(queue[:, number % 16], feature) and ids[number % 16] == identity


def test_batch_larger_than_the_queue_leaves_its_last_entries(model):
    model.enqueue(unit_rows(3, 0), unit_rows(3, 0))
    images = unit_rows(37, 1)
    model.enqueue(images, images, torch.arange(37))
    expected = {(3 + number) % 16: number for number in range(37 - 16, 37)}
    for modality in ("image", "text"):
        assert getattr(model, f"{modality}_queue_pointer").item() == (3 + 37) % 16
        for column, number in expected.items():
            assert torch.equal(getattr(model, f"{modality}_queue")[:, column], images[number])
            assert getattr(model, f"{modality}_queue_ids")[column] == number


def test_enqueued_features_have_unknown_ids_without_ids(model):
    model.enqueue(unit_rows(2, 0), unit_rows(3, 1), torch.tensor([4, 5]), torch.tensor([0, 0, 1]))
    model.enqueue(unit_rows(2, 0), unit_rows(3, 1), None, torch.tensor([0, 1, 1]))
    assert model.image_queue_ids[:4].tolist() == [4, 5, -1, -1]
    assert model.text_queue_ids[:6].tolist() == [4, 4, 5, -1, -1, -1]


def test_queues_are_written_with_arguments_by_position(model):
    ids, index, text_ids = torch.tensor([4, 5]), torch.tensor([0, 0, 1]), torch.tensor([7, 8, 9])
    model.enqueue(unit_rows(2, 0), unit_rows(3, 1), ids, index, False, None, text_ids)
    assert model.text_queue_ids[:3].tolist() == [4, 4, 5]
    assert model.text_queue_text_ids[:4].tolist() == [7, 8, 9, -1]


def test_phrases_without_index_need_one_image_each(model):
    with pytest.raises(ValueError, match="`image_index` is needed for 3 phrases on 2 images"):
        model.enqueue(unit_rows(2, 0), unit_rows(3, 1), torch.tensor([4, 5]))


def test_forward_sees_the_queue_as_it_was(model):
    inputs = build_inputs(model, image_ids=torch.tensor([4, 5, 6]))
    first = model(**inputs, objectives=("itc",))
    model.enqueue(first.momentum_image_features, first.momentum_text_features, inputs["image_ids"], first.image_index)
    second = model(**inputs, objectives=("itc",))
    repeated = (second.logits_per_text[:, :3], second.logits_per_text[:, 3:6])
    torch.testing.assert_close(*repeated, **TOLERANCE)  # the batch, and the same images in the queue
    expected = compute_expected_itc_loss(model, second, [4, 5, 6], [4, 4, 5, 6, 6, 6], 0.4)
    assert second.itc_loss.item() == pytest.approx(expected, rel=1e-10)
    assert second.itc_loss != first.itc_loss


# Momentum


def test_momentum_update_moves_every_weight_once(model):
    pairs = list(model.iterate_momentum_pairs())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    followers = [names[id(momentum_parameter)] for momentum_parameter, _ in pairs]
    assert len(followers) == len(set(followers))
    assert set(followers) == {name for name in names.values() if name.startswith("momentum_")}
    before = [(momentum_parameter.clone(), parameter.clone()) for momentum_parameter, parameter in pairs]
    with torch.no_grad():
        model.update_momentum()
    share = model.config.momentum
    for (momentum_parameter, parameter), (old, online) in zip(pairs, before, strict=True):
        torch.testing.assert_close(momentum_parameter, share * old + (1 - share) * online, **TOLERANCE)
        assert torch.equal(parameter, online)


def test_momentum_follows_the_online_weight_of_the_same_name(model):
    renamed = {"momentum_mlm_head": "mlm_head"}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for momentum_parameter, parameter in model.iterate_momentum_pairs():
        follower = names[id(momentum_parameter)]
        head = follower.split(".")[0]
        leader = renamed.get(head, "albef." + head.removeprefix("momentum_")) + follower.removeprefix(head)
        assert names[id(parameter)] == leader


def test_tied_decoder_is_updated_once_and_stays_tied(model):
    embeddings = model.momentum_text_model.word_embeddings.weight
    old, online = embeddings.clone(), model.albef.text_model.word_embeddings.weight.clone()
    model.config.momentum = 0.5
    model.update_momentum()
    torch.testing.assert_close(model.momentum_mlm_head.decoder.weight, (old + online) / 2, **TOLERANCE)
    assert model.momentum_mlm_head.decoder.weight is embeddings


@pytest.mark.parametrize(("share", "moves"), [(1.0, False), (0.0, True)])
def test_extremes_of_momentum(model, share, moves):
    model.config.momentum = share
    before = [momentum_parameter.clone() for momentum_parameter, _ in model.iterate_momentum_pairs()]
    model.update_momentum()
    for (momentum_parameter, parameter), old in zip(model.iterate_momentum_pairs(), before, strict=True):
        torch.testing.assert_close(momentum_parameter, parameter.detach() if moves else old, **TOLERANCE)


@pytest.mark.parametrize(("value", "expected"), [(5.0, 0.5), (1e-6, 0.001), (-1.0, 0.001), (0.2, 0.2)])
def test_temperature_is_clamped(model, value, expected):
    with torch.no_grad():
        model.albef.temperature.fill_(value)
    model.clamp_temperature()
    assert model.albef.temperature.item() == pytest.approx(expected)
    assert model.albef.temperature.requires_grad


# Training


@pytest.mark.slow
def test_a_few_steps_lower_the_loss():
    """The order of events of a step, with dropout and drawn negatives and masks."""
    torch.manual_seed(0)
    model = AlbefForPreTraining(build_tiny_config()).train()
    inputs = {**build_batch(model.config, (2, 1, 3)), "image_ids": torch.tensor([4, 5, 6])}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=3e-3)
    losses = []
    for _ in range(30):
        model.clamp_temperature()
        model.update_momentum()
        outputs = model(**inputs)
        outputs.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.enqueue(
            outputs.momentum_image_features, outputs.momentum_text_features, inputs["image_ids"], outputs.image_index
        )
        losses.append(outputs.loss.item())
    assert np.mean(losses[-5:]) < 0.92 * np.mean(losses[:5])
    assert (model.text_queue_ids >= 4).all()


def test_image_without_a_phrase_is_a_candidate_and_no_row(model):
    inputs = build_inputs(model, (2, 0, 3))
    outputs = model(**inputs, output_heatmap=True)
    assert outputs.logits_per_image.shape[0] == outputs.logits_per_text.shape[1] - model.config.queue_size == 3
    (outputs.loss + outputs.heatmap.sum()).backward()
    assert torch.isfinite(outputs.loss)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
