# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Retrieval: losses of several texts per image, checkpoints of other classes, and two stages against every pair."""

import copy
import inspect
import json

import numpy as np
import pytest
import torch
from testing_utils import build_batch, build_tiny_config, run_without_package
from torch import nn

from albef_amc import (
    AlbefForImageTextMatching,
    AlbefForImageTextRetrieval,
    AlbefForPreTraining,
    AlbefModel,
    compute_retrieval_recall,
    galleries_albef,
)
from albef_amc.galleries_albef import NOT_LISTED

TEXTS_PER_IMAGE = (2, 1, 3, 1)
TOLERANCE = dict(atol=1e-10, rtol=1e-8)


def build_model(model_class: type = AlbefForImageTextRetrieval, **changes) -> nn.Module:
    torch.manual_seed(0)
    return model_class(build_tiny_config(**changes)).eval()


@pytest.fixture
def model() -> AlbefForImageTextRetrieval:
    """Float64, with momentum weights that differ from the online ones, and queues that hold known images."""
    model = build_model().double()
    with torch.no_grad():
        for momentum_parameter, _ in model.iterate_momentum_pairs():
            momentum_parameter.add_(0.05 * torch.randn_like(momentum_parameter))
        model.image_queue_ids[:5] = torch.tensor([7, 9, 5, 7, -1])
        model.text_queue_ids[3:6] = torch.tensor([9, 7, 7])
    return model


def build_inputs(model: nn.Module, **changes) -> dict[str, torch.Tensor]:
    """Four images, of which 0 and 3 are the same, with seven texts."""
    dtype = model.albef.temperature.dtype
    batch = build_batch(model.config, TEXTS_PER_IMAGE, dtype=dtype)
    return {**batch, "image_ids": torch.tensor([7, 9, 5, 7]), **changes}


def list_tensors(outputs) -> dict[str, torch.Tensor]:
    return {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}


# Losses


def test_forward_signature_is_that_of_pretraining_without_masked_words():
    names, of_pretraining = (
        list(inspect.signature(model_class.forward).parameters)
        for model_class in (AlbefForImageTextRetrieval, AlbefForPreTraining)
    )
    alone = {"mlm_input_ids", "mlm_labels", "distillation_axis", "objectives"}
    assert names == [name for name in of_pretraining if name not in alone]


@pytest.mark.parametrize("alpha", [None, 0.0, 0.4])
def test_losses_are_those_of_pretraining(model, alpha):
    """Whose contrastive targets and negatives are checked against the definition, entry by entry."""
    pretraining = build_model(AlbefForPreTraining).double()
    pretraining.load_state_dict(model.state_dict(), strict=False)
    options = {"distillation_alpha": alpha, "negative_uniforms": torch.rand(7, 2), "output_token_heatmap": True}
    inputs = build_inputs(model)
    outputs, expected = model(**inputs, **options), pretraining(**inputs, **options, objectives=("itc", "itm"))
    found = list_tensors(outputs)
    assert found.keys() == list_tensors(expected).keys() and "mlm_loss" not in outputs
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name
    assert len(outputs.itm_pair_logits) == 21


def test_targets_are_shares_of_all_entries_of_the_same_image(model):
    inputs = build_inputs(model)
    outputs = model(**inputs, distillation_alpha=0.0)
    text_ids = inputs["image_ids"][inputs["image_index"]]
    losses = []
    for logits, row_ids, column_ids in (
        (outputs.logits_per_image, inputs["image_ids"], torch.cat([text_ids, model.text_queue_ids])),
        (outputs.logits_per_text, text_ids, torch.cat([inputs["image_ids"], model.image_queue_ids])),
    ):
        logs = logits.detach().log_softmax(dim=1).numpy()
        own = [np.flatnonzero(column_ids == identity) for identity in row_ids]
        losses.append(np.mean([-row[positives].mean() for row, positives in zip(logs, own, strict=True)]))
    assert outputs.itc_loss.item() == pytest.approx(sum(losses) / 2, rel=1e-10)


def test_negatives_are_never_of_the_same_image(model):
    inputs = build_inputs(model, image_ids=torch.tensor([7, 7, 7, 7]))
    outputs = model(**inputs)
    assert len(outputs.itm_pair_logits) == 7  # the given pairs alone
    assert outputs.loss.isfinite()


@torch.no_grad()
def test_batch_equals_singles_and_padding_changes_nothing(model):
    inputs = build_inputs(model)
    together = model(**inputs, negative_uniforms=torch.rand(7, 2))
    for text, image in enumerate(inputs["image_index"]):
        length = int(inputs["attention_mask"][text].sum())
        alone = model(inputs["pixel_values"][image][None], inputs["input_ids"][text][None, :length])
        for name in ("text_features", "itm_logits"):
            torch.testing.assert_close(alone[name][0], together[name][text], **TOLERANCE)
    padded = dict(inputs)
    for name, filling in (("input_ids", 7), ("attention_mask", 0)):
        padded[name] = nn.functional.pad(inputs[name], (0, 5), value=filling)
    uniforms = torch.rand(7, 2)
    short, long = (model(**given, negative_uniforms=uniforms) for given in (inputs, padded))
    for name in ("loss", "itc_loss", "itm_loss", "logits_per_text"):
        torch.testing.assert_close(long[name], short[name], **TOLERANCE)


def test_heatmaps_are_those_of_the_matching_class(model, tmp_path):
    model.save_pretrained(tmp_path)
    matching = AlbefForImageTextMatching.from_pretrained(tmp_path, dtype=torch.float64)
    inputs = build_inputs(model)
    expected = matching.ground(**inputs, output_token_heatmap=True)
    wanted = torch.tensor([True, False, True, False, False, False, True])
    outputs = model(**inputs, output_token_heatmap=True, explained_phrases=wanted)
    for name in ("heatmap", "normalized_heatmap", "token_heatmap"):
        torch.testing.assert_close(outputs[name][wanted], expected[name][wanted], **TOLERANCE)
    assert not outputs.heatmap[~wanted].any()
    torch.testing.assert_close(outputs.itm_logits, expected.itm_logits, **TOLERANCE)
    (gradient,) = torch.autograd.grad(outputs.heatmap.square().sum(), model.albef.vision_model.cls_token)
    assert gradient.abs().max() > 0
    torch.testing.assert_close(model.ground(**inputs).heatmap, expected.heatmap, **TOLERANCE)
    padded = model(**inputs, output_heatmap=True, heatmap_denominator="padded")
    assert not torch.equal(padded.heatmap, expected.heatmap)


def train(model: nn.Module, inputs: dict) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**inputs, negative_uniforms=torch.full((7, 2), 0.3)).loss
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in model.named_parameters()}


def test_gradients_reach_every_trainable_parameter_with_and_without_checkpointing(model):
    model.config.text_config.attention_probs_dropout_prob = 0.0
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.train()
    inputs = build_inputs(model)
    loss, gradients = train(model, inputs)
    for name, gradient in gradients.items():
        if name.startswith("momentum_"):
            assert gradient is None, name
        else:
            assert gradient.isfinite().all() and gradient.abs().max() > 0, name
    gradients = {name: gradient.clone() for name, gradient in gradients.items() if gradient is not None}
    calls = []
    model.albef.text_model.layers[3].fc1.register_forward_hook(lambda *_: calls.append(1))
    model.activation_checkpointing_enable()
    checkpointed_loss, checkpointed = train(model, inputs)
    assert len(calls) == 2  # the layer ran again in the backward pass
    assert checkpointed_loss == pytest.approx(loss, rel=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-12, rtol=1e-8)


@pytest.mark.parametrize("training", [False, True])
def test_forward_changes_no_state(training):
    model = build_model().train(training)
    before = copy.deepcopy(model.state_dict())
    model(**build_inputs(model), output_heatmap=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training == training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_bfloat16_keeps_losses_scores_and_queues_in_float32(tmp_path):
    model = build_model()
    model.save_pretrained(tmp_path)
    half = AlbefForImageTextRetrieval.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.itm_head.weight.dtype == torch.bfloat16 and half.image_queue.dtype == torch.float32
    inputs = build_inputs(model, negative_uniforms=torch.full((7, 2), 0.3))
    outputs, expected = half(**inputs, output_heatmap=True), model(**inputs, output_heatmap=True)
    for name in ("loss", "itc_loss", "itm_loss", "heatmap", "logits_per_image"):
        assert outputs[name].dtype == torch.float32, name
    assert (outputs.itc_loss - expected.itc_loss).abs() < 0.1 * expected.itc_loss
    scores, expected = (search(each, inputs, k=7) for each in (half, model))
    for name in ("similarities", "scores_per_image", "scores_per_text"):
        assert scores[name].dtype == torch.float32, name
        assert (scores[name] - expected[name]).abs().max() < 0.1 * expected[name].abs().max(), name


# Checkpoints


def test_save_and_load(model, tmp_path, loading_warnings):
    model = model.float()
    model.enqueue(torch.rand(2, 16), torch.rand(3, 16), torch.tensor([4, 7]), torch.tensor([0, 0, 1]))
    model.save_pretrained(tmp_path)
    loaded = AlbefForImageTextRetrieval.from_pretrained(tmp_path)
    assert loading_warnings() == []
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    assert all(p.requires_grad != name.startswith("momentum_") for name, p in loaded.named_parameters())


def test_pretraining_checkpoint_loads_in_silence(tmp_path, loading_warnings):
    pretraining = build_model(AlbefForPreTraining)
    pretraining.update_momentum()
    pretraining.enqueue(torch.rand(2, 16), torch.rand(2, 16), torch.tensor([4, 7]))
    pretraining.save_pretrained(tmp_path)
    model, report = AlbefForImageTextRetrieval.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and loading_warnings() == []
    source = pretraining.state_dict()
    state = model.state_dict()
    assert {name for name in source if name not in state} == {name for name in source if "mlm_head" in name}
    ids = {"image_queue_ids", "text_queue_ids"}  # of other data: forgotten
    assert all(torch.equal(state[name], source[name]) for name in state.keys() - ids)
    assert all((state[name] == -1).all() for name in ids)


def test_checkpoint_without_momentum_copies_is_complete(tmp_path, loading_warnings):
    matching = build_model(AlbefForImageTextMatching)
    matching.save_pretrained(tmp_path)
    model = AlbefForImageTextRetrieval.from_pretrained(tmp_path)
    assert loading_warnings() == []
    pairs = list(model.iterate_momentum_pairs())
    assert pairs
    for momentum_parameter, parameter in pairs:
        assert torch.equal(momentum_parameter, parameter) and momentum_parameter.data_ptr() != parameter.data_ptr()
    assert (model.image_queue_ids == -1).all() and (model.text_queue_pointer == 0).all()
    torch.testing.assert_close(model.text_queue.norm(dim=0), torch.ones(16))


def test_other_classes_read_a_retrieval_checkpoint(tmp_path, loading_warnings):
    model = build_model()
    model.save_pretrained(tmp_path)
    for model_class in (AlbefModel, AlbefForImageTextMatching):
        model_class.from_pretrained(tmp_path)
    assert loading_warnings() == []
    AlbefForPreTraining.from_pretrained(tmp_path)
    (report,) = set(loading_warnings())
    assert "mlm_head.dense.weight" in report and "queue" not in report


SEARCH = """
    import json, sys
    import torch
    from transformers import AutoConfig, AutoModelForZeroShotObjectDetection
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    config = AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
    retrieval = get_class_from_dynamic_module(config.auto_map["AlbefForImageTextRetrieval"], sys.argv[1])
    matching = AutoModelForZeroShotObjectDetection.from_pretrained(sys.argv[1], trust_remote_code=True)
    inputs = torch.load(sys.argv[2], weights_only=True)
    for model in (retrieval.from_pretrained(sys.argv[1]), matching):
        scores = model.retrieve(model.encode_images(inputs), model.encode_texts(inputs), k=2)
        print(json.dumps([type(model).__name__, scores.ranked_images.tolist()]))
"""


@pytest.mark.slow
def test_a_checkpoint_carries_its_code(tmp_path):
    model = build_model()
    inputs = build_inputs(model)
    model.save_pretrained(tmp_path / "checkpoint")
    torch.save(inputs, tmp_path / "inputs.pt")
    printed = run_without_package(SEARCH, str(tmp_path / "checkpoint"), str(tmp_path / "inputs.pt"), cwd=tmp_path)
    expected = search(model, inputs, k=2).ranked_images.tolist()
    assert [json.loads(line) for line in printed.splitlines()[-2:]] == [
        ["AlbefForImageTextRetrieval", expected],
        ["AlbefForImageTextMatching", expected],
    ]


# Two stages


def search(model: nn.Module, inputs: dict, k: int, **options):
    return model.retrieve(model.encode_images(inputs), model.encode_texts(inputs), k, **options)


@torch.no_grad()
def score_every_pair(model: nn.Module, inputs: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarities and matching scores `(N, P)`, each image and text with a forward of its own."""
    similarities, scores = torch.zeros(4, 7, dtype=torch.float64), torch.zeros(4, 7, dtype=torch.float64)
    for image, pixel_values in enumerate(inputs["pixel_values"]):
        for text, (ids, mask) in enumerate(zip(inputs["input_ids"], inputs["attention_mask"], strict=True)):
            outputs = model(pixel_values[None], ids[None, : int(mask.sum())])
            similarities[image, text] = outputs.image_features[0] @ outputs.text_features[0]
            scores[image, text] = outputs.itm_logits[0, 1]
    return similarities, scores


@pytest.mark.parametrize("k", [1, 2, 3, 7, 1000])
def test_shortlists_of_k_hold_the_scores_of_single_pairs(model, k):
    inputs = build_inputs(model)
    similarities, every = score_every_pair(model, inputs)
    scores = search(model, inputs, k)
    torch.testing.assert_close(scores.similarities, similarities, **TOLERANCE)
    for found, similar, expected, ranked in (
        (scores.scores_per_image, similarities.numpy(), every.numpy(), scores.ranked_texts),
        (scores.scores_per_text, similarities.numpy().T, every.numpy().T, scores.ranked_images),
    ):
        length = min(k, similar.shape[1])
        assert ranked.shape == (len(similar), length)
        for row, (own, best) in enumerate(zip(similar, ranked.tolist(), strict=True)):
            shortlist = np.argsort(-own, kind="stable")[:length]
            assert np.flatnonzero(found[row] != NOT_LISTED).tolist() == sorted(shortlist)
            torch.testing.assert_close(found[row, shortlist], torch.from_numpy(expected[row, shortlist]), **TOLERANCE)
            assert best == sorted(shortlist, key=lambda column, row=row: -expected[row, column])
    if k >= 7:
        torch.testing.assert_close(scores.scores_per_image, every, **TOLERANCE)
        assert torch.equal(scores.scores_per_text, scores.scores_per_image.T)


@torch.no_grad()
def test_of_equal_similarities_the_first_are_listed(model):
    model.albef.text_projection.weight.zero_()
    model.albef.text_projection.bias.copy_(torch.eye(16)[0])
    inputs = build_inputs(model)
    scores = search(model, inputs, k=3)  # every text is exactly the same to the first stage
    assert (scores.scores_per_image != NOT_LISTED).nonzero()[:, 1].view(4, 3).tolist() == [[0, 1, 2]] * 4
    two = galleries_albef.list_best(torch.tensor([[1.0, 3.0, 2.0, 2.0, 2.0, 0.0]]), k=3)
    assert two.tolist() == [[False, True, True, True, False, False]]


def test_equal_scores_rank_in_order_of_the_gallery():
    is_listed = torch.tensor([[True, True, False, True], [False, True, True, True]])
    scores = torch.tensor([[-200.0, 3.0, 9.0, 3.0], [4.0, 2.0, 5.0, 2.0]])
    assert galleries_albef.rank_listed(scores, is_listed).tolist() == [[1, 3, 0], [2, 1, 3]]


def test_every_pair_is_fused_once_and_every_image_projected_once(model):
    inputs = build_inputs(model)
    scores = search(model, inputs, k=2)
    union = (scores.scores_per_image != NOT_LISTED) | (scores.scores_per_text.T != NOT_LISTED)
    counted = {"pairs": 0, "images": 0, "encoded images": 0, "encoded texts": 0}

    def count(name: str, module: nn.Module) -> None:
        def add(module, given, output) -> None:
            counted[name] += len(given[0])

        module.register_forward_hook(add)

    albef = model.albef
    count("pairs", model.itm_head)
    count("images", albef.text_model.layers[3].cross_attention.k_proj)
    count("encoded images", albef.vision_model.patch_embedding)
    count("encoded texts", albef.text_model.word_embeddings)
    images, texts = model.encode_images(inputs), model.encode_texts(inputs)
    model.retrieve(images, texts, k=2, pairs_per_chunk=3)
    assert counted == {"pairs": int(union.sum()), "images": 4, "encoded images": 4, "encoded texts": 7}
    assert len(texts.tokens) == inputs["attention_mask"].sum()  # no padding is kept


@pytest.mark.parametrize("pairs_per_chunk", [1, 4, 256])
def test_batches_blocks_and_chunks_change_nothing(model, pairs_per_chunk, monkeypatch):
    inputs = build_inputs(model)
    expected = search(model, inputs, k=3)
    monkeypatch.setattr(galleries_albef, "IMAGES_PER_BLOCK", 2)
    images = model.encode_images({"pixel_values": part} for part in inputs["pixel_values"].split(3))
    lengths = inputs["attention_mask"].sum(dim=1)
    batches = [{"input_ids": inputs["input_ids"][:1, : lengths[0]]}]  # without padding, so without a mask
    batches += [
        {name: inputs[name][rows] for name in ("input_ids", "attention_mask")} for rows in ([1, 2, 3], [4, 5, 6])
    ]
    scores = model.retrieve(images, model.encode_texts(iter(batches)), 3, pairs_per_chunk)
    for name, value in list_tensors(scores).items():
        torch.testing.assert_close(value, expected[name], **TOLERANCE)


@pytest.mark.parametrize("context", [torch.enable_grad, torch.inference_mode])
def test_dropout_is_off_no_graph_is_kept_and_the_mode_comes_back(context):
    model = build_model()
    inputs = build_inputs(model)
    expected = search(model, inputs, k=3)
    model.train()
    model.albef.vision_model.eval()
    modes = [module.training for module in model.modules()]
    with context():
        images, texts = model.encode_images(inputs), model.encode_texts(inputs, storage_device="cpu")
        scores = model.retrieve(images, texts, k=3)
    assert [module.training for module in model.modules()] == modes
    for name, value in list_tensors(scores).items():
        assert torch.equal(value, expected[name]) and not value.requires_grad, name
    assert not images.features.requires_grad and not texts.tokens.requires_grad


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("exact_convolutions")
@pytest.mark.parametrize("storage_device", [None, "cpu"])
def test_cuda_equals_cpu(storage_device):
    model = build_model()
    inputs = build_inputs(model)
    expected = search(model, inputs, k=3)
    model.cuda()
    images, texts = (encode(inputs, storage_device) for encode in (model.encode_images, model.encode_texts))
    assert texts.tokens.device.type == images.embeds[0].device.type == (storage_device or "cuda")
    scores = model.retrieve(images, texts, k=3)
    for name, value in list_tensors(scores).items():
        torch.testing.assert_close(value.cpu(), expected[name], atol=1e-3, rtol=1e-3)


# Recall


def test_recall_of_images_with_any_number_of_texts():
    """Image 0 has texts 0 and 7, image 1 eight others, image 2 none."""
    image_index = torch.tensor([0, 1, 1, 1, 1, 1, 1, 0, 1, 1])
    of_images = torch.zeros(3, 10)
    of_images[0, [1, 2, 3, 4, 5, 7]] = torch.tensor([9.0, 8.0, 7.0, 6.0, 5.0, 4.0])  # its own is sixth
    of_images[1, 9] = 1.0
    of_texts = torch.zeros(10, 3)
    of_texts[:, 1] = 1.0
    of_texts[0, 0] = 2.0
    recall = compute_retrieval_recall(of_images, of_texts, image_index)
    assert [recall[f"text_recall_at_{rank}"] for rank in (1, 5, 10)] == [50, 50, 100]
    assert [recall[f"image_recall_at_{rank}"] for rank in (1, 5, 10)] == pytest.approx([90, 100, 100])


def test_of_equal_scores_the_first_is_found_first():
    scores = torch.full((2, 2), NOT_LISTED)
    recall = compute_retrieval_recall(scores, scores, torch.tensor([0, 1]))
    assert (recall["text_recall_at_1"], recall["image_recall_at_1"], recall["image_recall_at_5"]) == (50, 50, 100)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("tie_order", ["first", "released"])
def test_ranks_beyond_the_shortlist_follow_the_order_that_was_asked_for(k, tie_order):
    """The published code ranks with `numpy.argsort(scores)[::-1]`, which puts the last of equal scores first."""
    generator = torch.Generator().manual_seed(k)
    scores = torch.full((12, 14), NOT_LISTED)
    for row in scores:
        row[torch.randperm(14, generator=generator)[:k]] = torch.randint(3, (k,), generator=generator).float()
    image_index = torch.randint(12, (14,), generator=generator)
    recall = compute_retrieval_recall(scores, scores.T, image_index, tie_order)

    def find_ranks(rows: np.ndarray, right: list) -> np.ndarray:
        if tie_order == "released":
            orders = [np.argsort(row, kind="stable")[::-1] for row in rows]
        else:
            orders = [np.argsort(-row, kind="stable") for row in rows]
        return np.array([np.isin(order, own).argmax() for order, own in zip(orders, right, strict=True) if len(own)])

    of_images = find_ranks(scores.numpy(), [np.flatnonzero(image_index.numpy() == image) for image in range(12)])
    of_texts = find_ranks(scores.numpy().T, image_index[:, None].tolist())
    for rank in (1, 5, 10):
        assert recall[f"text_recall_at_{rank}"] == pytest.approx(100 * (of_images < rank).mean())
        assert recall[f"image_recall_at_{rank}"] == pytest.approx(100 * (of_texts < rank).mean())


# Bad input


def test_galleries_that_cannot_be_encoded(model):
    for batches in ([], iter(()), {"pixel_values": torch.zeros(0, 3, 32, 32)}):
        with pytest.raises(ValueError, match="the gallery has no image: give at least one batch"):
            model.encode_images(batches)
    with pytest.raises(ValueError, match="the gallery has no text: give at least one batch"):
        model.encode_texts([])
    with pytest.raises(ValueError, match=r"at least one phrase, got \(0, 6\)"):
        model.encode_texts({"input_ids": torch.zeros(0, 6, dtype=torch.int64)})
    with pytest.raises(ValueError, match=r"keeps no token of phrase\(s\) \[1\]"):
        model.encode_texts({"input_ids": torch.full((2, 2), 7), "attention_mask": torch.tensor([[1, 1], [0, 0]])})
    with pytest.raises(ValueError, match=r"must have shape \(N, 3, 32, 32\), got \(1, 3, 40, 40\)"):
        model.encode_images({"pixel_values": torch.zeros(1, 3, 40, 40)})
    with pytest.raises(
        ValueError, match="a batch must hold `input_ids` as the processor returns it, got pixel_values"
    ):
        model.encode_texts([{"pixel_values": torch.zeros(1, 3, 32, 32)}])
    with pytest.raises(ValueError, match="a batch must hold `pixel_values` .*, got a Tensor"):
        model.encode_images([torch.zeros(1, 3, 32, 32)])


def test_searches_that_cannot_be_made(model):
    inputs = build_inputs(model)
    images, texts = model.encode_images(inputs), model.encode_texts(inputs)
    for k in (0, -1, 2.5):
        with pytest.raises((TypeError, ValueError), match=f"`k` must be a whole number of at least 1, got {k}"):
            model.retrieve(images, texts, k=k)
    with pytest.raises(ValueError, match="`pairs_per_chunk` must be a whole number of at least 1, got 0"):
        model.retrieve(images, texts, k=1, pairs_per_chunk=0)
    other = build_model(projection_dim=8).double()
    with pytest.raises(ValueError, match="`images` has features of width 16, this model's are 8 wide"):
        other.retrieve(images, texts, k=1)
    with torch.no_grad():
        model.itm_head.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="the matching scores are not finite: the gallery or the model's weights"):
        model.retrieve(images, texts, k=1)
    images.features[2] = torch.nan
    with pytest.raises(ValueError, match="the similarities are not finite"):
        model.retrieve(images, texts, k=1)


def test_recall_of_what_does_not_fit():
    scores = torch.zeros(2, 3)
    for of_texts, index in ((scores, [0, 0, 1]), (scores.T, [0, 1]), (scores.T[:2], [0, 0, 1])):
        with pytest.raises(ValueError, match=r"`scores_per_image` has shape \(2, 3\): `scores_per_text` must be"):
            compute_retrieval_recall(scores, of_texts, torch.tensor(index))
    for index in ([0, 0, 2], [-1, 0, 1]):
        with pytest.raises(ValueError, match="image rows between 0 and 1, got"):
            compute_retrieval_recall(scores, scores.T, torch.tensor(index))
    with pytest.raises(ValueError, match="`tie_order` must be one of 'first', 'released', got 'published'"):
        compute_retrieval_recall(scores, scores.T, torch.tensor([0, 1, 1]), tie_order="published")
