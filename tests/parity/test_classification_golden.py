# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Visual entailment and visual reasoning against the published code; names and shapes of the full-size models."""

import gzip
import json
import re

import pytest
import torch
from testing_utils import GOLDEN_FOLDER, Golden
from transformers.initialization import no_init_weights

from albef_amc import AlbefConfig, AlbefForTextAssignment, AlbefForVisualEntailment, AlbefForVisualReasoning
from albef_amc.conversion.original_checkpoints import rename_original_key

GOLDENS = {"tiny_ve": AlbefForVisualEntailment, "tiny_nlvr": AlbefForVisualReasoning}
# class, changes of the text configuration, image size, classes
FULL_SIZE = {
    "albef_ve_384": (AlbefForVisualEntailment, {}, 384, 3),
    "albef_nlvr_384": (AlbefForVisualReasoning, {"num_hidden_layers": 18, "images_per_text": 2}, 384, 2),
    "albef_pretrain_nlvr_256": (AlbefForTextAssignment, {"num_hidden_layers": 18, "images_per_text": 2}, 256, 2),
}


def rename(name: str) -> str | None:
    """Our name of an entry: fine-tuned text encoders lack the level `bert`, and heads have names of their own."""
    head = re.fullmatch(r"cls_head(_m)?\.([02])\.(\w+)", name)
    if head:
        return f"{'momentum_' if head[1] else ''}classifier.{ {'0': 'dense', '2': 'out_proj'}[head[2]] }.{head[3]}"
    if name.startswith("ta_head."):
        return name.replace("ta_head", "assignment_head")
    return rename_original_key(re.sub(r"^(text_encoder(?:_m)?)\.", r"\1.bert.", name))


def build_model(golden: Golden, model_class: type) -> torch.nn.Module:
    original = torch.load(golden.folder / "checkpoint.pth", weights_only=True)["model"]
    settings, text = golden.config, golden.config["text_config"]
    shared = ("hidden_size", "intermediate_size", "num_attention_heads", "fusion_layer", "vocab_size")
    is_pair = model_class is AlbefForVisualReasoning
    config = AlbefConfig(
        vision_config=dict(
            hidden_size=settings["vision_width"],
            intermediate_size=settings["vision_mlp_ratio"] * settings["vision_width"],
            num_hidden_layers=settings["vision_depth"],
            num_attention_heads=settings["vision_heads"],
            image_size=settings["image_res"],
            patch_size=settings["patch_size"],
        ),
        text_config=dict(
            {name: text[name] for name in shared},
            num_hidden_layers=settings["nlvr_num_hidden_layers"] if is_pair else text["num_hidden_layers"],
            max_position_embeddings=text["max_position_embeddings"],
            images_per_text=2 if is_pair else 1,
        ),
        explanation_layer=text["fusion_layer"],
        explanation_block=0,
        momentum=settings["momentum"],
        distillation_alpha=settings["alpha"],
        num_labels=len(original["cls_head.2.bias"]),
    )
    model = model_class(config).eval()
    renamed = {rename(name): value for name, value in original.items()}
    model.load_state_dict({name: value for name, value in renamed.items() if name})
    return model


@pytest.mark.parametrize("name", GOLDENS)
def test_scores_losses_gradients_and_momentum(name):
    golden = Golden(name)
    model = build_model(golden, GOLDENS[name])
    inputs = {key: golden.inputs[key] for key in ("pixel_values", "input_ids", "attention_mask")}
    with torch.no_grad():
        outputs = model(**inputs, labels=golden.inputs["targets"], distillation_alpha=0.0)
    golden.check("logits", outputs.logits)
    golden.check("loss_no_distill", outputs.loss)
    golden.check("logits", model.explain(**inputs).logits)

    model.update_momentum()
    loss = model(**inputs, labels=golden.inputs["targets"]).loss
    golden.check("loss_distill", loss)
    loss.backward()
    parameters, state = dict(model.named_parameters()), model.state_dict()
    checked = set()
    for entry in golden.outputs:
        kind, _, original = entry.partition("/")
        if original:
            value = parameters[rename(original)].grad if kind == "grad" else state[rename(original)]
            golden.check(entry, value)
            checked.add(kind)
    assert checked == {"grad", "after"}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_names_and_shapes_of_the_published_models(name):
    model_class, text, image_size, num_labels = FULL_SIZE[name]
    config = AlbefConfig(
        vision_config=dict(image_size=image_size), text_config=text, num_labels=num_labels, explanation_layer=8
    )
    with torch.device("meta"), no_init_weights():
        model = model_class(config)
    published = json.loads(gzip.decompress((GOLDEN_FOLDER / "official_checkpoint_keys.json.gz").read_bytes()))[name]
    expected = {rename(key): tuple(entry["shape"]) for key, entry in published["keys"].items() if rename(key)}
    if "albef.temperature" in expected:
        expected["albef.temperature"] = (1,)  # a scalar in the published model
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == expected
    shared = {rename(key): rename(source) for key, source in published["shares_storage_with"].items()}
    assert model.all_tied_weights_keys == shared
