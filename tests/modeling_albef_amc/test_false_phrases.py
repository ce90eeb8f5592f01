# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Phrases that are false of their images: further pairs of the matching loss that do not match."""

import pytest
import torch
from testing_utils import build_batch, build_tiny_config
from torch import nn

from albef_amc import AlbefForImageTextMatching, AlbefForImageTextRetrieval, AlbefForPreTraining
from albef_amc.layout_albef import build_layout

TOLERANCE = dict(atol=1e-10, rtol=1e-8)
FALSE_INDEX = [0, 2, 2, 1]
# One negative image for the first phrase and one negative phrase for the image of the last.
NEGATIVES = {
    "negative_image_index": torch.tensor([1, -1, -1, -1, -1, -1]),
    "negative_text_index": torch.tensor([-1, -1, -1, -1, -1, 0]),
}


@pytest.fixture(params=[AlbefForPreTraining, AlbefForImageTextRetrieval])
def model(request) -> nn.Module:
    torch.manual_seed(0)
    return request.param(build_tiny_config()).double().eval()


def build_inputs(model: nn.Module, **changes) -> dict:
    """Three images with six phrases of up to 6 tokens; only the pre-training model is told what to compute."""
    objectives = {"objectives": ("itc", "itm")} if isinstance(model, AlbefForPreTraining) else {}
    return {**build_batch(model.config, (2, 1, 3), dtype=torch.float64), **NEGATIVES, **objectives, **changes}


def build_false(model: nn.Module, length: int = 6, index: list[int] = FALSE_INDEX) -> dict:
    """False phrases of the images `index`, of up to `length` tokens."""
    texts = build_batch(model.config, (1,) * len(index), length=length, seed=7)
    return {
        "false_input_ids": texts["input_ids"],
        "false_attention_mask": texts["attention_mask"],
        "false_image_index": torch.tensor(index),
    }


@pytest.mark.parametrize("length", [4, 6, 9])
@pytest.mark.parametrize("alpha", [0.0, 0.4])
@pytest.mark.parametrize("has_layout", [False, True])
def test_false_pairs_have_the_logits_of_the_matching_model(model, length, alpha, has_layout):
    """Whether they are shorter or longer than the given phrases; the loss is the mean over all pairs."""
    inputs, false = build_inputs(model), build_false(model, length)
    if has_layout:
        index = false["false_image_index"]
        false["false_layout"] = build_layout(false["false_attention_mask"], index, len(inputs["pixel_values"]))
    outputs = model(**inputs, **false, distillation_alpha=alpha)
    matching, pixels = AlbefForImageTextMatching(model.config).double().eval(), inputs["pixel_values"]
    matching.load_state_dict(model.state_dict(), strict=False)
    given = matching(
        pixels,
        inputs["input_ids"][[*range(6), 0, 0]],
        inputs["attention_mask"][[*range(6), 0, 0]],
        image_index=torch.tensor([0, 0, 1, 2, 2, 2, 1, 2]),
    ).itm_logits
    of_false = matching(
        pixels, false["false_input_ids"], false["false_attention_mask"], image_index=torch.tensor(FALSE_INDEX)
    ).itm_logits
    torch.testing.assert_close(outputs.itm_pair_logits, torch.cat([given, of_false]), **TOLERANCE)
    labels = torch.tensor([1] * 6 + [0] * 6)
    expected = nn.functional.cross_entropy(torch.cat([given, of_false]), labels)
    torch.testing.assert_close(outputs.itm_loss, expected, **TOLERANCE)
    torch.testing.assert_close(outputs.itm_logits, given[:6], **TOLERANCE)


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_the_contrastive_part_is_that_without_them(model, alpha):
    inputs = build_inputs(model)
    plain = model(**inputs, distillation_alpha=alpha)
    outputs = model(**inputs, **build_false(model, 9), distillation_alpha=alpha)
    for name in ("itc_loss", "logits_per_image", "momentum_text_features"):
        torch.testing.assert_close(outputs[name], plain[name], **TOLERANCE)
    assert outputs.itm_loss != plain.itm_loss


def test_heatmaps_are_those_without_them(model):
    inputs = build_inputs(model, output_token_heatmap=True)
    plain, outputs = model(**inputs), model(**inputs, **build_false(model, 9))
    for name in ("heatmap", "normalized_heatmap", "token_heatmap"):
        torch.testing.assert_close(outputs[name], plain[name], **TOLERANCE)


@pytest.mark.parametrize("axis", ["vocabulary", "sequence"])
def test_masked_words_are_predicted_as_without_them(axis):
    torch.manual_seed(0)
    model = AlbefForPreTraining(build_tiny_config()).double().eval()
    inputs = build_inputs(model, objectives=("itc", "itm", "mlm"), distillation_axis=axis)
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, 1] = inputs["input_ids"][:, 1]
    inputs |= {"mlm_input_ids": inputs["input_ids"], "mlm_labels": labels}
    plain, outputs = model(**inputs), model(**inputs, **build_false(model, 9))
    torch.testing.assert_close(outputs.mlm_loss, plain.mlm_loss, **TOLERANCE)


def test_gradients_reach_the_text_encoder_from_false_phrases_alone(model):
    """Words that only false phrases have get a gradient."""
    inputs = build_inputs(model)
    inputs["input_ids"] = inputs["input_ids"].clamp(max=5)
    false = build_false(model)
    own = false["false_input_ids"][false["false_input_ids"] > 5].unique()
    assert len(own) > 0
    model(**inputs, **false, distillation_alpha=0.4).itm_loss.backward()
    gradient = model.albef.text_model.get_input_embeddings().weight.grad
    assert (gradient[own].abs().amax(dim=1) > 0).all()
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name.startswith("momentum_"))


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_without_a_false_phrase_nothing_changes(model, alpha):
    inputs = build_inputs(model)
    none = {name: value[:0] for name, value in build_false(model).items()}
    plain, outputs = (model(**inputs, **more, distillation_alpha=alpha) for more in ({}, none))
    for name in ("loss", "itm_pair_logits", "itm_loss", "itc_loss"):
        assert torch.equal(outputs[name], plain[name]), name


def test_what_does_not_fit_is_refused(model):
    inputs, false = build_inputs(model), build_false(model)
    with pytest.raises(ValueError, match="false phrases: .*image_index"):
        model(**inputs, **{**false, "false_image_index": torch.tensor([0, 3, 1, 1])})
    layout = build_layout(false["false_attention_mask"][:2], torch.tensor([0, 1]), 3)
    with pytest.raises(ValueError, match="false phrases: .*layout"):
        model(**inputs, **false, false_layout=layout)
