# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Classification of texts with one image (entailment) and with two (reasoning): what holds for both classes."""

import copy
import json

import numpy as np
import pytest
import torch
from testing_utils import build_batch, build_tiny_config, run_without_package
from torch import nn

from albef_amc import AlbefConfig, AlbefForPreTraining, AlbefForVisualEntailment, AlbefForVisualReasoning
from albef_amc.layout_albef import build_layout

CLASSES = {AlbefForVisualEntailment: 1, AlbefForVisualReasoning: 2}
both = pytest.mark.parametrize("model_class", CLASSES)
TOLERANCE = dict(atol=1e-12, rtol=1e-9)
NUM_LABELS = 3
LABELS = torch.tensor([2, 0, 1])
PAIRS = torch.tensor([[0, 1], [2, 0], [2, 2]])


def build_config(model_class: type, **changes) -> AlbefConfig:
    return build_tiny_config(**dict({"images_per_text": CLASSES[model_class], "num_labels": NUM_LABELS}, **changes))


def build_model(model_class: type, dtype: torch.dtype = torch.float64, **changes) -> nn.Module:
    """Evaluation mode, with momentum weights that differ from the online ones."""
    torch.manual_seed(0)
    model = model_class(build_config(model_class, **changes)).eval().to(dtype)
    with torch.no_grad():
        for momentum_parameter, _ in model.iterate_momentum_pairs():
            momentum_parameter.add_(0.05 * torch.randn_like(momentum_parameter))
    return model


def build_texts(model: nn.Module) -> dict:
    """Three texts; on two of three images, or each on a pair of them, one of them twice the same."""
    batch = build_batch(model.config, phrases_per_image=(2, 0, 1), dtype=model.dtype)
    if isinstance(model, AlbefForVisualReasoning):
        batch["image_index"] = PAIRS
    return batch


def copy_images(batch: dict) -> dict:
    """The same texts, each with images of its own: the first of every text, then the second."""
    index = batch["image_index"]
    rows = index if index.ndim == 1 else index.T.flatten()
    return {
        "pixel_values": batch["pixel_values"][rows],
        **{name: batch[name] for name in ("input_ids", "attention_mask")},
    }


def take_text(batch: dict, row: int) -> dict:
    """One text alone, without padding."""
    length = int(batch["attention_mask"][row].sum())
    names = ("input_ids", "attention_mask")
    return {"pixel_values": batch["pixel_values"], "image_index": batch["image_index"][row][None]} | {
        name: batch[name][row][None, :length] for name in names
    }


def compute_penalty(model: nn.Module, batch: dict, **options) -> torch.Tensor:
    """Of a heatmap like AMC's terms: what lies outside the left half, and how large it is."""
    heatmap = model(**batch, output_heatmap=True, explained_class=1, **options).normalized_heatmap
    return heatmap[..., 2:].mean() - heatmap[..., :2].mean() + heatmap.square().mean()


def softmax(values: np.ndarray) -> np.ndarray:
    exponentials = np.exp(values - values.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


# Scores and loss


@both
def test_shapes(model_class):
    model = build_model(model_class)
    sizes = torch.tensor([[10, 20], [30, 40], [50, 60]])
    outputs = model(**build_texts(model), labels=LABELS, output_token_heatmap=True, original_sizes=sizes)
    images = () if model_class is AlbefForVisualEntailment else (2,)
    maps = {"heatmap": (3, *images, 4, 4), "normalized_heatmap": (3, *images, 4, 4)}
    expected = {"loss": (), "logits": (3, NUM_LABELS), **maps, "token_heatmap": (3, *images, 6, 4, 4)}
    expected |= {"image_index": (3, *images), "original_sizes": (3, 2)}
    assert {name: tuple(value.shape) for name, value in outputs.items()} == expected
    assert set(model(**build_texts(model))) == {"logits", "image_index"}


@both
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@torch.no_grad()
def test_loss_by_its_formula(model_class, alpha):
    model = build_model(model_class)
    batch = build_texts(model)
    outputs = model(**batch, labels=LABELS, distillation_alpha=alpha)
    follower = copy.deepcopy(model)
    for momentum_parameter, parameter in follower.iterate_momentum_pairs():
        parameter.copy_(momentum_parameter)
    logits, momentum_logits = outputs.logits.numpy(), follower(**batch).logits.numpy()
    log_probabilities = np.log(softmax(logits))
    hard = -log_probabilities[np.arange(3), LABELS.numpy()].mean()
    soft = -(softmax(momentum_logits) * log_probabilities).sum(axis=1).mean()
    assert outputs.loss.item() == pytest.approx((1 - alpha) * hard + alpha * soft, rel=1e-10)
    if alpha == model.config.distillation_alpha:
        assert torch.equal(model(**batch, labels=LABELS).loss, outputs.loss)


@both
@torch.no_grad()
def test_batch_equals_singles_and_padding_changes_nothing(model_class):
    model = build_model(model_class)
    batch = build_texts(model)
    classes = torch.tensor([1, 2, 0])
    together = model(**batch, output_heatmap=True, explained_class=classes, labels=LABELS)
    for row in range(3):
        alone = model(**take_text(batch, row), output_heatmap=True, explained_class=int(classes[row]))
        for name in ("logits", "heatmap", "normalized_heatmap"):
            torch.testing.assert_close(alone[name][0], together[name][row], **TOLERANCE)
    padded = dict(batch, output_heatmap=True, explained_class=classes, labels=LABELS)
    for name, filling in (("input_ids", 7), ("attention_mask", 0)):  # what stands in the padding does not matter
        padded[name] = nn.functional.pad(batch[name], (0, 5), value=filling)
    outputs = model(**padded)
    for name in ("logits", "heatmap", "loss"):
        torch.testing.assert_close(outputs[name], together[name], **TOLERANCE)


@both
@torch.no_grad()
def test_shared_images_are_encoded_once_and_count_as_copies(model_class):
    model = build_model(model_class)
    batch = build_texts(model)
    calls = []
    keys = model.albef.text_model.layers[2].cross_attention.k_proj
    for module in (model.albef.vision_model.patch_embedding, keys):
        module.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    shared = model(**batch, output_heatmap=True)
    assert calls == [3, 3]
    copied = model(**copy_images(batch), output_heatmap=True)
    assert calls == [3, 3, 3 * CLASSES[model_class], 3 * CLASSES[model_class]]
    for name in ("logits", "heatmap"):
        torch.testing.assert_close(copied[name], shared[name], **TOLERANCE)


# Heatmaps


@both
def test_which_class_is_explained(model_class):
    model = build_model(model_class)
    batch = build_texts(model)
    outputs = model(**batch, output_heatmap=True)
    predicted = outputs.logits.argmax(dim=1)
    for options in ({"explained_class": predicted}, {"labels": (predicted + 1) % NUM_LABELS}):
        assert torch.equal(model(**batch, output_heatmap=True, **options).heatmap, outputs.heatmap)
    of_classes = [model(**batch, output_heatmap=True, explained_class=number).heatmap for number in range(NUM_LABELS)]
    chosen = torch.tensor([2, 0, 1])
    mixed = model(**batch, output_heatmap=True, explained_class=chosen).heatmap
    for row, number in enumerate(chosen):
        torch.testing.assert_close(mixed[row], of_classes[number][row], **TOLERANCE)
        assert not torch.allclose(mixed[row], of_classes[number - 1][row])
    assert torch.equal(outputs.logits, model(**batch, output_heatmap=True, explained_class=0).logits)
    torch.testing.assert_close(outputs.logits, model(**batch).logits, **TOLERANCE)


@both
def test_heatmap_is_attention_times_positive_gradient(model_class):
    """The definition, layer by layer: the layers of the explained group, and the gradient of one class."""
    model = build_model(model_class, num_labels=2)
    batch, text_model = build_texts(model), model.albef.text_model
    index = batch["image_index"] if batch["image_index"].ndim == 2 else batch["image_index"][:, None]
    mask = batch["attention_mask"]
    keys_values = text_model.project_image(model.albef.vision_model(batch["pixel_values"]))
    num_images, attentions = len(batch["pixel_values"]), []
    states = text_model.encode(batch["input_ids"], build_layout(mask, index, num_images))
    for layer in range(2, len(text_model.layers)):
        layout = build_layout(mask, index[:, (layer - 2) % index.shape[1]], num_images)
        states, attention = text_model.run_explained_layer(layer, states, layout, keys_values, use_eager=True)
        attentions.append(attention)
    logits = model.classifier(states[:, 0])
    explained = attentions[: index.shape[1]]  # `explanation_layer` of the small configuration is the first one
    gradients = torch.autograd.grad(logits[:, 1].sum(), explained)
    kept = mask[:, :, None]
    expected = [
        ((attention * gradient.clamp(min=0)).mean(dim=1)[..., 1:] * kept).sum(dim=1) / kept.sum(dim=1)
        for attention, gradient in zip(explained, gradients, strict=True)
    ]
    outputs = model(**batch, output_heatmap=True, explained_class=1)
    heatmaps = outputs.heatmap.view(3, index.shape[1], 16)
    torch.testing.assert_close(heatmaps, torch.stack(expected, dim=1), **TOLERANCE)
    torch.testing.assert_close(outputs.logits, logits, **TOLERANCE)
    assert (heatmaps.amax(dim=-1) > 0).all()


@both
def test_gradient_of_the_heatmap_against_finite_differences(model_class):
    model = build_model(model_class)
    batch = build_texts(model)
    names = [
        "classifier.dense.weight",
        "albef.text_model.layers.2.cross_attention.k_proj.weight",
        "albef.text_model.layers.3.attention.q_proj.weight",
        "albef.vision_model.cls_token",
    ]
    parameters = [model.get_parameter(name) for name in names]
    gradients = torch.autograd.grad(compute_penalty(model, batch), parameters)
    for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
        values, places = gradient.abs().flatten().topk(2)
        assert values[0] > 0, name
        for place in places:
            sides = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    parameter.view(-1)[place] += step
                    sides.append(compute_penalty(model, batch).item())
                    parameter.view(-1)[place] -= step
            numeric = (sides[0] - sides[1]) / 2e-6
            assert abs(numeric - gradient.view(-1)[place].item()) <= 1e-5 * values[0].item() + 1e-9, name


@both
@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_explain_has_no_side_effects(model_class, context):
    model = build_model(model_class).train()
    batch = build_texts(model)
    before = copy.deepcopy(model.state_dict())
    with context():
        outputs = model.explain(**batch, explained_class=1, has_region=None)
    assert model.training and model.classifier.training
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert all(parameter.grad is None and not parameter.is_inference() for parameter in model.parameters())
    assert not outputs.heatmap.requires_grad and not outputs.logits.requires_grad
    expected = model.eval()(**batch, output_heatmap=True, explained_class=1)
    assert expected.heatmap.requires_grad
    torch.testing.assert_close(outputs.heatmap, expected.heatmap.detach(), **TOLERANCE)
    torch.testing.assert_close(outputs.logits, expected.logits.detach(), **TOLERANCE)


# Training


def compute_training_loss(model: nn.Module, batch: dict) -> torch.Tensor:
    outputs = model(**batch, labels=LABELS, output_heatmap=True, explained_class=1)
    return outputs.loss + outputs.normalized_heatmap[..., :2].square().mean()


@both
def test_gradient_reaches_every_trainable_parameter(model_class):
    model = build_model(model_class)
    compute_training_loss(model, build_texts(model)).backward()
    for name, parameter in model.named_parameters():
        if name.startswith("momentum_"):
            assert parameter.grad is None and not parameter.requires_grad, name
        else:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name


@both
def test_gradient_checkpointing_changes_neither_loss_nor_gradients(model_class):
    config = build_config(model_class)
    config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = 0.0
    torch.manual_seed(0)
    model = model_class(config).double().train()
    batch, calls = build_texts(model), []
    model.albef.text_model.layers[-1].fc1.register_forward_hook(lambda *_: calls.append(1))

    def train() -> tuple[torch.Tensor, dict, int]:
        model.zero_grad()
        calls.clear()
        loss = compute_training_loss(model, batch)
        loss.backward()
        return loss, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, len(calls)

    loss, gradients, num_calls = train()
    model.activation_checkpointing_enable()
    checkpointed_loss, checkpointed_gradients, num_checkpointed_calls = train()
    assert num_checkpointed_calls > num_calls
    torch.testing.assert_close(checkpointed_loss, loss, **TOLERANCE)
    assert checkpointed_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(checkpointed_gradients[name], gradient, atol=1e-12, rtol=1e-8)


@both
def test_a_training_step_changes_what_it_should(model_class):
    model = build_model(model_class).train()
    online = {name: value.clone() for name, value in model.state_dict().items()}
    model.update_momentum()
    for name, value in model.state_dict().items():
        expected = online[name]
        if name.startswith("momentum_"):
            followed = name.removeprefix("momentum_")
            followed = followed if followed in online else f"albef.{followed}"
            expected = model.config.momentum * expected + (1 - model.config.momentum) * online[followed]
        torch.testing.assert_close(value, expected, **TOLERANCE, msg=name)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    model(**build_texts(model), labels=LABELS).loss.backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if not name.startswith("momentum_")}


@both
def test_four_samples_are_learnt(model_class):
    """Two texts on two images; or one text on two images in either order and twice the same."""
    config = build_config(model_class, num_labels=2)
    config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = 0.0
    torch.manual_seed(0)
    model = model_class(config).train()
    batch, labels = build_batch(config, phrases_per_image=(2, 2)), torch.tensor([0, 1, 1, 0])
    if model_class is AlbefForVisualReasoning:
        batch |= {name: batch[name][-1].expand(4, -1) for name in ("input_ids", "attention_mask")}
        batch["image_index"] = torch.tensor([[0, 1], [1, 0], [0, 0], [1, 1]])
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-3)
    for _ in range(25):
        model.update_momentum()
        loss = model(**batch, labels=labels, distillation_alpha=0.0).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.1
    assert torch.equal(model(**batch).logits.argmax(dim=1), labels)


# Precision and back-ends


@both
def test_bfloat16(model_class, tmp_path):
    model = build_model(model_class, torch.float32)
    model.save_pretrained(tmp_path)
    half = model_class.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for name, parameter in half.named_parameters():
        assert parameter.dtype == (torch.float32 if name.startswith("momentum_") else torch.bfloat16), name
    batch = build_texts(model)
    outputs, expected = (one(**batch, labels=LABELS, output_heatmap=True) for one in (half, model))
    assert outputs.logits.dtype == torch.bfloat16
    assert outputs.loss.dtype == outputs.heatmap.dtype == torch.float32
    torch.testing.assert_close(outputs.logits.float(), expected.logits, atol=0.15, rtol=0.1)
    torch.testing.assert_close(outputs.loss, expected.loss, atol=0.1, rtol=0.1)
    outputs.loss.backward()
    assert half.classifier.dense.weight.grad.isfinite().all()


@both
@torch.no_grad()
def test_sdpa_equals_eager(model_class):
    model = build_model(model_class)
    batch = build_texts(model)
    results = []
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        results.append(model(**batch, labels=LABELS, output_heatmap=True))
    for name in ("logits", "loss", "heatmap"):
        torch.testing.assert_close(results[1][name], results[0][name], **TOLERANCE)


# Checkpoints


@both
@torch.no_grad()
def test_save_and_load(model_class, tmp_path, loading_warnings):
    model = build_model(model_class, torch.float32)
    model.save_pretrained(tmp_path)
    loaded = model_class.from_pretrained(tmp_path)
    assert loading_warnings() == []
    assert loaded.config.num_labels == NUM_LABELS
    assert loaded.config.text_config.images_per_text == CLASSES[model_class]
    weights = loaded.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    batch = build_texts(model)
    assert torch.equal(loaded(**batch, labels=LABELS).loss, model(**batch, labels=LABELS).loss)


@both
@torch.no_grad()
def test_momentum_copies_are_made_where_a_checkpoint_has_none(model_class, tmp_path, loading_warnings):
    model = build_model(model_class, torch.float32)
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("momentum_")}
    model.save_pretrained(tmp_path, state_dict=state)
    loaded = model_class.from_pretrained(tmp_path)
    assert loading_warnings() == []
    pairs = list(loaded.iterate_momentum_pairs())
    assert pairs and all(torch.equal(*pair) and pair[0] is not pair[1] for pair in pairs)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in state.items())


@torch.no_grad()
def test_entailment_starts_from_pre_training(tmp_path):
    torch.manual_seed(0)
    source = AlbefForPreTraining(build_tiny_config())
    source.update_momentum()
    source.save_pretrained(tmp_path)
    model = AlbefForVisualEntailment.from_pretrained(tmp_path, num_labels=NUM_LABELS)
    assert model.classifier.out_proj.weight.shape[0] == NUM_LABELS
    weights, expected = model.state_dict(), source.state_dict()
    for name, value in weights.items():
        wanted = weights[name.removeprefix("momentum_")] if "classifier" in name else expected[name]
        assert torch.equal(value, wanted), name


LOAD_BY_NAME = """
    import json, sys, torch
    from safetensors.torch import load_file
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    checkpoint = sys.argv[1]
    name = json.load(open(checkpoint + "/config.json"))["architectures"][0]
    model_class = get_class_from_dynamic_module("modeling_albef." + name, checkpoint)
    outputs = model_class.from_pretrained(checkpoint).explain(**load_file(sys.argv[2]))
    print(json.dumps({"logits": outputs.logits.tolist(), "heatmap": outputs.heatmap.tolist(),
                      "module": model_class.__module__}))
"""


@pytest.mark.slow
@both
def test_remote_code(model_class, tmp_path):
    from safetensors.torch import save_file

    model = build_model(model_class, torch.float32)
    batch = {name: value.contiguous() for name, value in build_texts(model).items()}
    model.save_pretrained(tmp_path / "checkpoint")
    save_file(batch, tmp_path / "batch.safetensors")
    printed = run_without_package(
        LOAD_BY_NAME, str(tmp_path / "checkpoint"), str(tmp_path / "batch.safetensors"), cwd=tmp_path
    )
    found = json.loads(printed.splitlines()[-1])
    assert found["module"].startswith("transformers_modules.")
    expected = model.explain(**batch)
    for name in ("logits", "heatmap"):
        torch.testing.assert_close(torch.tensor(found[name]), expected[name], atol=1e-6, rtol=1e-5)


# Bad input


@both
def test_classes_that_do_not_exist(model_class):
    model = build_model(model_class)
    batch = build_texts(model)
    with pytest.raises(ValueError, match=r"`labels` must hold classes between 0 and 2 .*`config.num_labels` is 3"):
        model(**batch, labels=torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match=r"`labels` must have shape \(3,\), one class per text, got \(2,\)"):
        model(**batch, labels=LABELS[:2])
    with pytest.raises(ValueError, match=r"`explained_class` must hold classes between 0 and 2"):
        model(**batch, output_heatmap=True, explained_class=-1)
    with pytest.raises(ValueError, match="`heatmap_denominator` must be one of"):
        model(**batch, output_heatmap=True, heatmap_denominator="all")


def test_number_of_images_is_that_of_the_class():
    with pytest.raises(ValueError, match="`text_config.images_per_text` is 2, but entailment .*VisualReasoning"):
        AlbefForVisualEntailment(build_tiny_config(images_per_text=2))
    with pytest.raises(ValueError, match="AlbefForVisualReasoning reads a text with 2 images, but .* is 1. Set it"):
        AlbefForVisualReasoning(build_tiny_config())
    with pytest.raises(ValueError, match="`text_config.images_per_text` must be positive and divide .* got 3"):
        AlbefConfig(text_config={"num_hidden_layers": 10, "images_per_text": 3})
