# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What every model of the package must do: the same battery for every class."""

import copy
import inspect
import json

import pytest
import torch
from model_cases import (
    MODELS,
    add_task_inputs,
    assert_same_outputs,
    build_config,
    build_model,
    list_heatmap_options,
    list_tensors,
    run,
    take_phrase,
)
from safetensors.torch import load_file
from testing_utils import build_batch, build_tiny_config, list_backward_names
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForVisualQuestionAnswering,
    AutoModelForZeroShotObjectDetection,
)

from albef_amc import (
    AlbefConfig,
    AlbefForImageTextMatching,
    AlbefForImageTextRetrieval,
    AlbefForPreTraining,
    AlbefForQuestionAnswering,
    AlbefForVisualReasoning,
    AlbefModel,
)
from albef_amc.encoders_albef import AlbefTextLayer, AlbefVisionLayer
from albef_amc.pretrained_albef import resize_position_embeddings
from albef_amc.trainer import AttentionMaskConsistencyLoss

AUTO_CLASSES = {
    AlbefModel: AutoModel,
    AlbefForImageTextMatching: AutoModelForZeroShotObjectDetection,
    AlbefForPreTraining: AutoModelForPreTraining,
    AlbefForQuestionAnswering: AutoModelForVisualQuestionAnswering,
}
all_models = pytest.mark.parametrize("model_class", MODELS)
GRIDS = {"square": (32, 8), "wide image": ((32, 48), 8), "wide image, tall patches": ((32, 48), (16, 8))}


def build_config_without_dropout() -> AlbefConfig:
    config = build_tiny_config()
    config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = 0.0
    return config


def assert_same_weights(model: nn.Module, expected: nn.Module) -> None:
    weights, expected = model.state_dict(), expected.state_dict()
    for name, value in weights.items():
        assert torch.equal(value, expected[name]), name


# 1 forward signature


@all_models
def test_forward_signature(model_class):
    names = list(inspect.signature(model_class.forward).parameters)
    assert names[1:5] == ["pixel_values", "input_ids", "attention_mask", "image_index"]
    assert "kwargs" not in names  # further entries of a batch are dropped on purpose, not by accident


# 2 output shapes


@pytest.mark.parametrize(("image_size", "patch_size"), GRIDS.values(), ids=GRIDS.keys())
def test_output_shapes(image_size, patch_size):
    config = build_tiny_config()
    for name, value in (("image_size", image_size), ("patch_size", patch_size)):
        setattr(config.vision_config, name, value)
    config = AlbefConfig(**config.to_dict())
    grid = config.vision_config.grid_size
    batch = build_batch(config, phrases_per_image=(2, 3))
    num_patches, hidden = grid[0] * grid[1], config.text_config.hidden_size
    expected = {
        "last_hidden_state": (5, 6, hidden),
        "image_embeds": (2, 1 + num_patches, config.vision_config.hidden_size),
        "text_embeds": (5, 6, hidden),
        "image_features": (2, config.projection_dim),
        "text_features": (5, config.projection_dim),
        "logits_per_image": (2, 5),
        "logits_per_text": (5, 2),
    }
    outputs = AlbefModel(config)(**batch)
    assert {name: tuple(value.shape) for name, value in outputs.items()} == expected

    maps = {"heatmap": (5, *grid), "normalized_heatmap": (5, *grid), "token_heatmap": (5, 6, *grid)}
    matching = AlbefForImageTextMatching(config)
    sizes, labels = torch.tensor([[10, 20], [30, 40]]), torch.ones(5, dtype=torch.int64)
    outputs = matching(**batch, output_token_heatmap=True, original_sizes=sizes, itm_labels=labels)
    expected = {"itm_logits": (5, 2), **maps, "image_index": (5,), "original_sizes": (2, 2)}
    expected |= {"loss": (), "match_probability": (5,)}
    assert {name: tuple(value.shape) for name, value in outputs.items()} == expected
    assert list(outputs)[-1] == "match_probability"  # users of tuples take the others by number
    grounded = matching.ground(**batch, output_token_heatmap=True, original_sizes=sizes)
    assert list(grounded)[-1] == "match_probability" and list(grounded) == [
        name for name in expected if name != "loss"
    ]
    assert matching(**batch, output_heatmap=True, explanation_kind="itc").heatmap.shape == (5, *grid)

    pretraining = AlbefForPreTraining(config)
    outputs = run(pretraining, batch, output_token_heatmap=True)
    losses = dict.fromkeys(("loss", "itc_loss", "itm_loss", "mlm_loss"), ())
    features = {
        f"{name}_features": (5 if "text" in name else 2, config.projection_dim)
        for name in ("image", "text", "momentum_image", "momentum_text")
    }
    expected = {
        **losses,
        **maps,
        **features,
        "itm_logits": (5, 2),
        "itm_pair_logits": (15, 2),
        "mlm_logits": (5, config.text_config.vocab_size),
        "logits_per_image": (2, 5 + config.queue_size),
        "logits_per_text": (5, 2 + config.queue_size),
        "image_index": (5,),
    }
    assert {name: tuple(value.shape) for name, value in outputs.items()} == expected
    whole = run(pretraining, batch, distillation_axis="sequence").mlm_logits
    assert whole.shape == (5, 6, config.text_config.vocab_size)


@all_models
def test_tuple_on_request(model_class):
    model = build_model(model_class)
    batch = build_batch(model.config)
    outputs, values = run(model, batch), run(model, batch, return_dict=False)
    assert isinstance(values, tuple)
    assert torch.equal(values[0], outputs[0])


# 3 batch equals singles

OF_PIECES = {"last_hidden_state", "text_embeds", "question_states"}
OF_PHRASES = OF_PIECES | {"text_features", "itm_logits", "logits", "assignment_logits"}


@all_models
@torch.no_grad()
def test_batch_equals_singles(model_class):
    model = build_model(model_class).double()
    batch = build_batch(model.config, phrases_per_image=(2, 3), dtype=torch.float64)
    options = {"objectives": ("itc",)} if model_class is AlbefForPreTraining else {}
    inputs = add_task_inputs(model, batch)
    together = model(**inputs, **options)
    names = OF_PHRASES & set(list_tensors(together))
    assert names
    for phrase in range(len(batch["input_ids"])):
        alone = model(**take_phrase(model, inputs, phrase), **options)
        length = int(batch["attention_mask"][phrase].sum())
        for name in names:
            value = getattr(together, name)[phrase]
            value = value[:length] if name in OF_PIECES else value
            torch.testing.assert_close(getattr(alone, name)[0], value, atol=1e-12, rtol=1e-10)


@all_models
@torch.no_grad()
def test_padding_changes_nothing(model_class):
    model = build_model(model_class).double()
    batch = build_batch(model.config, dtype=torch.float64)
    padded = dict(batch)
    for name, filling in (("input_ids", 7), ("attention_mask", 0)):  # what stands in the padding does not matter
        padded[name] = nn.functional.pad(batch[name], (0, 5), value=filling)
    options = {"objectives": ("itc",)} if model_class is AlbefForPreTraining else {}
    if not options:
        inputs = add_task_inputs(model, batch)
        padded, batch = {**inputs, **padded, "image_index": inputs["image_index"]}, inputs
    short, long = model(**batch, **options), model(**padded, **options)
    names = {"logits_per_text", "loss", *OF_PHRASES} - OF_PIECES
    for name in names & set(list_tensors(short)):
        torch.testing.assert_close(getattr(long, name), getattr(short, name), atol=1e-12, rtol=1e-10)


@all_models
@torch.no_grad()
def test_images_are_encoded_once(model_class):
    model = build_model(model_class)
    calls = []
    encoder = (model if model_class is AlbefModel else model.albef).vision_model
    handle = encoder.patch_embedding.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    keys = (model if model_class is AlbefModel else model.albef).text_model.layers[2].cross_attention.k_proj
    other = keys.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    run(model, build_batch(model.config, phrases_per_image=(4, 3)))
    handle.remove()
    other.remove()
    assert calls == [2, 2]


# 4 save and load


@pytest.mark.slow
@all_models
@torch.no_grad()
def test_save_and_load(model_class, tmp_path, loading_warnings):
    model = build_model(model_class)
    if model_class in (AlbefForPreTraining, AlbefForImageTextRetrieval):
        model.update_momentum()
        model.enqueue(torch.rand(2, 16), torch.rand(3, 16), torch.tensor([4, 7]), torch.tensor([0, 0, 1]))
    model.save_pretrained(tmp_path)
    loaded = model_class.from_pretrained(tmp_path)
    assert_same_weights(loaded, model)
    assert not loaded.training
    batch = build_batch(model.config)
    assert_same_outputs(run(loaded, batch), run(model, batch))
    if model_class in AUTO_CLASSES:
        assert type(AUTO_CLASSES[model_class].from_pretrained(tmp_path)) is model_class
    assert loading_warnings() == []


@torch.no_grad()
def test_pretraining_checkpoint_loads_into_the_other_classes_in_silence(tmp_path, loading_warnings):
    pretraining = build_model(AlbefForPreTraining)
    pretraining.save_pretrained(tmp_path)
    matching, base = AlbefForImageTextMatching.from_pretrained(tmp_path), AlbefModel.from_pretrained(tmp_path)
    assert loading_warnings() == []
    assert_same_weights(matching, pretraining)
    assert_same_weights(base, pretraining.albef)
    assert not [name for name in matching.state_dict() if "momentum" in name or "queue" in name or "mlm" in name]
    batch = build_batch(pretraining.config)
    torch.testing.assert_close(matching(**batch).itm_logits, run(pretraining, batch).itm_logits)
    assert_same_weights(pretraining.export_matching_model(), matching)
    matching.save_pretrained(tmp_path / "matching")
    assert_same_weights(AlbefModel.from_pretrained(tmp_path / "matching"), base)
    assert loading_warnings() == []


def assert_fresh_pretraining_state(model: AlbefForPreTraining) -> None:
    pairs = list(model.iterate_momentum_pairs())
    assert pairs
    for momentum_parameter, parameter in pairs:
        assert torch.equal(momentum_parameter, parameter)
        assert not momentum_parameter.requires_grad and parameter.requires_grad
        assert momentum_parameter.data_ptr() != parameter.data_ptr()
    for modality in ("image", "text"):
        lengths = getattr(model, f"{modality}_queue").norm(dim=0)
        torch.testing.assert_close(lengths, torch.ones_like(lengths))
        assert (getattr(model, f"{modality}_queue_ids") == -1).all()
        assert (getattr(model, f"{modality}_queue_pointer") == 0).all()
    assert not torch.equal(model.image_queue, model.text_queue)


@pytest.mark.parametrize("model_class", [AlbefModel, AlbefForImageTextMatching])
def test_other_checkpoints_load_into_the_pretraining_class(model_class, tmp_path, loading_warnings):
    source = build_model(model_class)
    source.save_pretrained(tmp_path)
    model = AlbefForPreTraining.from_pretrained(tmp_path)
    assert_fresh_pretraining_state(model)
    assert_same_weights(source, model.albef if model_class is AlbefModel else model)
    (report,) = loading_warnings()
    assert "mlm_head.dense.weight" in report and "momentum" not in report and "queue" not in report


def test_fresh_pretraining_model_has_momentum_copies_and_empty_queues():
    assert_fresh_pretraining_state(build_model(AlbefForPreTraining))


def test_heads_are_tied_and_momentum_is_frozen_after_loading(tmp_path):
    build_model(AlbefForPreTraining).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    model = AlbefForPreTraining.from_pretrained(tmp_path)
    embeddings = model.albef.text_model.word_embeddings.weight
    momentum_embeddings = model.momentum_text_model.word_embeddings.weight
    assert model.mlm_head.decoder.weight is embeddings
    assert model.momentum_mlm_head.decoder.weight is momentum_embeddings
    assert momentum_embeddings is not embeddings
    assert not [name for name in stored if name.endswith("decoder.weight")]
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (not name.startswith("momentum_")), name
    parameters = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for pair in model.iterate_momentum_pairs() for parameter in pair} <= parameters


# 5 gradient reaches every parameter


def compute_training_loss(model: AlbefForPreTraining, batch: dict) -> torch.Tensor:
    """All objectives and AMC, whose region is the left half of the grid."""
    outputs = run(model, batch, output_heatmap=True)
    region = torch.zeros_like(outputs.heatmap)
    region[..., : region.shape[-1] // 2] = 1
    has_region = torch.ones(len(region), dtype=torch.bool)
    amc_loss = AttentionMaskConsistencyLoss()(outputs.normalized_heatmap, region, has_region)["amc_loss"]
    assert amc_loss > 0
    return outputs.loss + amc_loss


def test_gradient_reaches_every_trainable_parameter():
    model = build_model(AlbefForPreTraining)
    compute_training_loss(model, build_batch(model.config)).backward()
    for name, parameter in model.named_parameters():
        if name.startswith("momentum_"):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name


def test_heatmap_alone_sends_gradients_to_all_that_it_reads():
    model = build_model(AlbefForImageTextMatching)
    outputs = model(**build_batch(model.config), output_heatmap=True)
    outputs.heatmap.square().sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    contrastive = {
        f"albef.{modality}_projection.{leaf}" for modality in ("vision", "text") for leaf in ("weight", "bias")
    }
    assert without - contrastive <= {
        "albef.temperature",
        "itm_head.bias",
        "albef.text_model.layers.3.output_layer_norm.bias",
    }
    assert model.albef.vision_model.cls_token.grad.abs().max() > 0
    assert model.albef.text_model.word_embeddings.weight.grad.abs().max() > 0


# 6 gradient checkpointing


def test_gradient_checkpointing_changes_neither_losses_nor_gradients():
    config = build_config_without_dropout()
    torch.manual_seed(0)
    model = AlbefForPreTraining(config).double().train()
    batch = build_batch(config, dtype=torch.float64)
    calls = []
    for layer in (model.albef.vision_model.layers[0], model.albef.text_model.layers[config.explanation_layer]):
        layer.fc1.register_forward_hook(lambda *_: calls.append(1))

    def train() -> tuple[float, dict[str, torch.Tensor], int]:
        model.zero_grad()
        calls.clear()
        loss = compute_training_loss(model, batch)
        loss.backward()
        return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, len(calls)

    loss, gradients, num_calls = train()
    model.activation_checkpointing_enable()
    checkpointed_loss, checkpointed_gradients, num_checkpointed_calls = train()
    assert num_checkpointed_calls > num_calls  # layers ran again in the backward pass
    assert checkpointed_loss == pytest.approx(loss, rel=1e-12)
    assert checkpointed_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(checkpointed_gradients[name], gradient, atol=1e-12, rtol=1e-8)


@all_models
def test_gradients_do_not_depend_on_the_order_of_threads(model_class):
    """The backward pass of indexing adds atomically on several CPU threads, that of `index_select` in order."""
    model = build_model(model_class).train()
    outputs = run(model, build_batch(model.config), **list_heatmap_options(model_class))
    tensors = [value for value in outputs.to_tuple() if isinstance(value, torch.Tensor) and value.requires_grad]
    names = list_backward_names(tensors)
    assert any("Addmm" in name for name in names)
    assert not [name for name in names if name.startswith(("IndexBackward", "IndexPut"))]


# 7 evaluation is pure


@all_models
@pytest.mark.parametrize("training", [False, True])
def test_forward_changes_no_state(model_class, training):
    model = build_model(model_class).train(training)
    before = copy.deepcopy(model.state_dict())
    modes = {name: module.training for name, module in model.named_modules()}
    needs_grad = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    random_state = torch.get_rng_state()
    options = list_heatmap_options(model_class)
    run(model, build_batch(model.config), **options)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == needs_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random_state) == (not training)  # dropout alone draws numbers


@all_models
def test_same_call_twice(model_class):
    model = build_model(model_class)
    batch = build_batch(model.config)
    assert_same_outputs(run(model, batch), run(model, batch))


# 8 data types


@all_models
@torch.no_grad()
def test_float64(model_class):
    model = build_model(model_class)
    batch = build_batch(model.config)
    single = run(model, batch)
    double = run(model.double(), {**batch, "pixel_values": batch["pixel_values"].double()})
    for name, value in list_tensors(double).items():
        if value.is_floating_point():
            assert value.dtype == torch.float64, name
            torch.testing.assert_close(value.float(), getattr(single, name), atol=1e-4, rtol=1e-4)


@all_models
def test_bfloat16(model_class, tmp_path):
    model = build_model(model_class)
    model.save_pretrained(tmp_path)
    half = model_class.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for name, parameter in half.named_parameters() if "momentum" not in name} == {
        torch.bfloat16
    }
    batch = build_batch(model.config)
    options = list_heatmap_options(model_class)
    expected, outputs = run(model, batch, **options), run(half, batch, **options)
    stay_float32 = {"loss", "itc_loss", "itm_loss", "mlm_loss", "heatmap", "normalized_heatmap"}
    for name, value in list_tensors(outputs).items():
        assert value.isfinite().all(), name
        if name in stay_float32:
            assert value.dtype == torch.float32, name
    for name in ("image_features", "itm_logits", "logits", "loss", "normalized_heatmap"):
        if name in list_tensors(outputs):
            difference = (getattr(outputs, name) - getattr(expected, name)).abs().max()
            assert difference < 0.1 * getattr(expected, name).abs().max(), name


def test_momentum_and_queues_stay_float32_under_bfloat16(tmp_path):
    build_model(AlbefForPreTraining).save_pretrained(tmp_path)
    model = AlbefForPreTraining.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            stays = name.startswith("momentum_") or "queue" in name
            assert value.dtype == (torch.float32 if stays else torch.bfloat16), name
    parameter, follower = model.itm_head.weight, model.momentum_text_projection.weight
    with torch.no_grad():
        model.albef.text_projection.weight.fill_(0.51)
        follower.fill_(0.5)
    for _ in range(200):
        model.update_momentum()
    assert 0.505 < follower[0, 0].item() < 0.52  # bfloat16 would stay at 0.5
    assert parameter.dtype == torch.bfloat16


# 9 device


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("exact_convolutions")
@all_models
@torch.no_grad()
def test_cuda_equals_cpu(model_class):
    model = build_model(model_class)
    batch = build_batch(model.config)
    expected = run(model, batch)
    outputs = run(model.cuda(), {name: value.cuda() for name, value in batch.items()})
    for name, value in list_tensors(outputs).items():
        torch.testing.assert_close(value.cpu(), getattr(expected, name), atol=1e-3, rtol=1e-3)


# 10 configuration round trip


@pytest.mark.parametrize(("image_size", "patch_size"), GRIDS.values(), ids=GRIDS.keys())
def test_configuration_round_trip(image_size, patch_size, tmp_path):
    config = build_tiny_config(momentum=0.9, explanation_layer=3)
    config.vision_config.image_size, config.vision_config.patch_size = image_size, patch_size
    config.save_pretrained(tmp_path)
    loaded = AlbefConfig.from_pretrained(tmp_path)
    assert json.loads(loaded.to_json_string()) == json.loads(config.to_json_string())
    assert loaded.vision_config.grid_size == config.vision_config.grid_size
    assert (loaded.momentum, loaded.explanation_layer) == (0.9, 3)
    AlbefModel(loaded)


# Attention back-ends


@all_models
def test_attention_backends_agree(model_class):
    model = build_model(model_class).double()
    batch = build_batch(model.config, dtype=torch.float64)
    options = list_heatmap_options(model_class, "output_token_heatmap")
    assert model.config._attn_implementation == "sdpa"
    expected = run(model, batch, **options)
    model.set_attn_implementation("eager")
    outputs = run(model, batch, **options)
    assert_same_outputs(outputs, expected, atol=1e-10)


# Image size


@pytest.mark.slow
@all_models
def test_resized_at_load(model_class, tmp_path):
    model = build_model(model_class)
    model.save_pretrained(tmp_path)
    resized = model_class.from_pretrained(tmp_path, image_size=48)
    assert resized.config.vision_config.grid_size == (6, 6)
    wanted = build_config(model_class)
    wanted.vision_config.image_size = 48
    by_config = model_class.from_pretrained(tmp_path, config=wanted)
    assert_same_weights(by_config, resized)
    assert wanted.vision_config.image_size == 48
    assert by_config.config.vision_config.image_size == 48
    for name, value in model.state_dict().items():
        expected = value
        if name.endswith("vision_model.position_embeddings"):
            expected = resize_position_embeddings(value, (4, 4), (6, 6))
        assert torch.equal(resized.state_dict()[name], expected), name
    for name, parameter in resized.named_parameters():
        assert parameter.requires_grad == (not name.startswith("momentum_")), name
    run(resized, build_batch(resized.config))
    resized.save_pretrained(tmp_path / "resized")
    assert_same_weights(model_class.from_pretrained(tmp_path / "resized"), resized)


def test_resize_to_another_shape_and_to_the_same():
    model = build_model(AlbefModel)
    before = model.vision_model.position_embeddings.detach().clone()
    model.resize_image(32)
    torch.testing.assert_close(model.vision_model.position_embeddings.detach(), before, atol=1e-6, rtol=0)
    model.resize_image((16, 48))
    assert model.vision_model.position_embeddings.shape == (1, 1 + 2 * 6, 32)
    assert torch.equal(model.vision_model.position_embeddings[:, 0], before[:, 0])
    with pytest.raises(ValueError, match="not a positive multiple of the patch"):
        model.resize_image(33)


# Bad input


@all_models
def test_wrong_image_size_is_named(model_class):
    model = build_model(model_class)
    inputs = add_task_inputs(model, build_batch(model.config))
    for pixel_values in (torch.zeros(2, 3, 40, 40), torch.zeros(2, 1, 32, 32), torch.zeros(3, 32, 32)):
        with pytest.raises(
            ValueError, match=r"`pixel_values` must have shape \(N, 3, 32, 32\), got .*image_size="
        ) as error:
            model(**{**inputs, "pixel_values": pixel_values, "image_index": torch.zeros_like(inputs["image_index"])})
        assert str(tuple(pixel_values.shape)) in str(error.value)


BAD_PHRASES = {
    r"`input_ids` has 25 tokens per phrase but the position table ends at 24": dict(
        input_ids=torch.full((3, 25), 7), attention_mask=None
    ),
    r"at least one phrase, got \(0, 6\)": dict(input_ids=torch.zeros(0, 6, dtype=torch.int64), attention_mask=None),
    r"at least one phrase, got \(3, 0\)": dict(input_ids=torch.zeros(3, 0, dtype=torch.int64), attention_mask=None),
    r"`attention_mask` has shape \(3, 5\) but `input_ids` \(3, 6\)": dict(attention_mask=torch.ones(3, 5)),
    r"`attention_mask` keeps no token of phrase\(s\) \[1\]": dict(
        attention_mask=torch.tensor([[1] * 6, [0] * 6, [1] * 6])
    ),
    r"`image_index` is needed for 3 phrases on 2 images": dict(image_index=None),
    r"`image_index` must hold 3 image rows between 0 and 1, got \[0, 1, 2\]": dict(
        image_index=torch.tensor([0, 1, 2])
    ),
    r"`image_index` must hold 3 image rows between 0 and 1, got \[0, -1, 0\]": dict(
        image_index=torch.tensor([0, -1, 0])
    ),
    r"`image_index` must hold 3 image rows between 0 and 1, got \[0, 1\]": dict(image_index=torch.tensor([0, 1])),
}


@pytest.mark.slow
@pytest.mark.parametrize("model_class", [one for one in MODELS if one is not AlbefForVisualReasoning])
@pytest.mark.parametrize("message", BAD_PHRASES)
def test_phrases_that_do_not_fit(model_class, message):
    model = build_model(model_class)
    with pytest.raises(ValueError, match=message):
        model(**{**build_batch(model.config), **BAD_PHRASES[message]})


def test_unknown_choices():
    model = build_model(AlbefForImageTextMatching)
    batch = build_batch(model.config)
    with pytest.raises(ValueError, match="`explanation_kind` must be one of 'itm', 'itc', got 'gradcam'"):
        model(**batch, explanation_kind="gradcam")
    with pytest.raises(ValueError, match="`heatmap_denominator` must be one of 'kept', 'padded', got 'all'"):
        model(**batch, heatmap_denominator="all")
    with pytest.raises(ValueError, match='`output_token_heatmap` needs `explanation_kind="itm"`'):
        model(**batch, output_token_heatmap=True, explanation_kind="itc")


# What transformers asks of a model


@all_models
def test_embeddings_are_found(model_class):
    model = build_model(model_class)
    text_model = (model if model_class is AlbefModel else model.albef).text_model
    assert model.get_input_embeddings() is text_model.word_embeddings
    model.set_input_embeddings(nn.Embedding(30, 32))
    assert text_model.word_embeddings.num_embeddings == 30


def test_layers_are_never_split_over_devices():
    assert set(AlbefModel._no_split_modules) == {AlbefVisionLayer.__name__, AlbefTextLayer.__name__}


@torch.no_grad()
def test_features_alone_equal_those_of_the_forward():
    model = build_model(AlbefModel)
    batch = build_batch(model.config)
    outputs = model(**batch)
    text_features = model.get_text_features(batch["input_ids"], batch["attention_mask"])
    torch.testing.assert_close(model.get_image_features(batch["pixel_values"]), outputs.image_features)
    torch.testing.assert_close(text_features, outputs.text_features)
    lengths = outputs.image_features.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_matching_loss():
    model = build_model(AlbefForImageTextMatching)
    batch = build_batch(model.config)
    labels = torch.tensor([1, 0, 1])
    outputs = model(**batch, itm_labels=labels)
    expected = -outputs.itm_logits.log_softmax(dim=1)[torch.arange(3), labels].mean()
    torch.testing.assert_close(outputs.loss, expected)
