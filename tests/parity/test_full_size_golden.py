# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The full-size model at 256 and 384 pixels against the published code; one model, filled by the golden's rule."""

import gzip
import json
import zlib

import numpy as np
import pytest
import torch
from testing_utils import GOLDEN_FOLDER, Golden
from torch import nn
from transformers.initialization import no_init_weights

from albef_amc import AlbefConfig, AlbefForPreTraining
from albef_amc.conversion.original_checkpoints import rename_original_key
from albef_amc.layout_albef import build_layout
from albef_amc.trainer import AttentionMaskConsistencyLoss
from albef_amc.trainer.objectives.heatmap_objective import resize_to_mask

pytestmark = pytest.mark.slow

GOLDEN = Golden("full_size_slices")
CONFIG = GOLDEN.config
# Spacing of the stored slices: every 37th image token, the first 16 channels (8 of the position embeddings).
TOKEN_STEP, NUM_CHANNELS, NUM_POSITION_CHANNELS = 37, 16, 8


def draw_values(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    seed = zlib.crc32((CONFIG["name_salt"] + name).encode())
    generator = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(np.asarray(generator.standard_normal(tuple(shape), dtype=np.float32)))


def read_original_parameter_names() -> list[str]:
    models = json.loads(gzip.decompress((GOLDEN_FOLDER / "official_checkpoint_keys.json.gz").read_bytes()))
    return list(models["amc_pretrain_256"]["keys"])


def fill(model: AlbefForPreTraining) -> None:
    """Fills every weight by the rule; momentum weights share the memory of the online ones, whose copies they are."""
    parameters = dict(model.named_parameters())
    layer_norms = {name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    filled = set()
    for original in read_original_parameter_names():
        name = rename_original_key(original)
        if name not in parameters or name.startswith("momentum_") or name in filled:
            continue
        values = CONFIG["scale"] * draw_values(original, parameters[name].shape)
        owner, _, leaf = name.rpartition(".")
        if owner in layer_norms and leaf == "weight":
            values += 1
        parameters[name].data = torch.tensor([CONFIG["temp"]]) if original == "temp" else values
        filled.add(name)
    for momentum_parameter, parameter in model.iterate_momentum_pairs():
        momentum_parameter.data = parameter.data
    unfilled = {name for name in parameters if not name.startswith("momentum_")} - filled
    assert not unfilled
    for modality in ("image", "text"):
        queue = draw_values(f"{modality}_queue", getattr(model, f"{modality}_queue").shape)
        getattr(model, f"{modality}_queue").copy_(nn.functional.normalize(queue, dim=0))
        getattr(model, f"{modality}_queue_ids").fill_(-1)


@pytest.fixture(scope="module")
def model() -> AlbefForPreTraining:
    """At 256 pixels; `outputs` resizes it, so that only one full-size model is ever in memory."""
    config = AlbefConfig(
        queue_size=CONFIG["queue_size"],
        momentum=CONFIG["momentum"],
        explanation_layer=CONFIG["gradcam_text_layer"],
        explanation_block=CONFIG["gradcam_vision_block_itc"],
    )
    with no_init_weights():
        model = AlbefForPreTraining(config).eval()
    model.tie_weights()
    fill(model)
    return model


def build_inputs(image_size: int) -> dict[str, torch.Tensor]:
    pixels = CONFIG[f"pixel_values_{image_size}"]
    return dict(
        pixel_values=draw_values(pixels["name"], pixels["shape"]),
        input_ids=torch.tensor(CONFIG["input_ids"]),
        attention_mask=torch.tensor(CONFIG["attention_mask"]),
    )


def build_region_masks() -> torch.Tensor:
    size = CONFIG["mask_size"]
    masks = torch.zeros(len(CONFIG["region_boxes_xyxy_256"]), size, size)
    for mask, (x_min, y_min, x_max, y_max) in zip(masks, CONFIG["region_boxes_xyxy_256"], strict=True):
        mask[y_min:y_max, x_min:x_max] = 1
    return masks


@torch.no_grad()
def compute_cross_attention(model: AlbefForPreTraining, outputs, attention_mask: torch.Tensor) -> torch.Tensor:
    text_model, explained = model.albef.text_model, model.config.explanation_layer
    layout = build_layout(attention_mask, None, len(attention_mask), keep_padding=True)
    keys_values = text_model.project_image(outputs.image_embeds)
    first = model.config.text_config.fusion_layer
    states = text_model.run_layers(outputs.text_embeds, layout, keys_values, first=first, last=explained)
    return text_model.run_explained_layer(explained, states, layout, keys_values)[1]


def compute_evaluation(model: AlbefForPreTraining, image_size: int) -> dict[str, torch.Tensor]:
    """Features, scores, states and maps of both kinds."""
    inputs = build_inputs(image_size)
    with torch.no_grad():
        outputs = model.albef(**inputs)
    attention = compute_cross_attention(model, outputs, inputs["attention_mask"])
    grounded = model.ground(**inputs, output_token_heatmap=True)
    padded = grounded.token_heatmap.mean(dim=1)  # the padded length is the published denominator
    return {
        "image_feat": outputs.image_features,
        "text_feat": outputs.text_features,
        "itc_similarity": outputs.logits_per_image,
        "image_embeds_slice": outputs.image_embeds[:, ::TOKEN_STEP, :NUM_CHANNELS],
        "text_embeds_slice": outputs.text_embeds[..., :NUM_CHANNELS],
        "fusion_slice": outputs.last_hidden_state[..., :NUM_CHANNELS],
        "cross_attention_map_head_mean": attention.mean(dim=1),
        "itm_logits": grounded.itm_logits,
        "gradcam_itm": padded,
        "gradcam_itm_per_token": grounded.token_heatmap,
        "gradcam_itc": model.ground(**inputs, explanation_kind="itc").heatmap,
    }


@torch.no_grad()
def compute_pretraining_losses(model: AlbefForPreTraining) -> dict[str, torch.Tensor]:
    inputs = dict(
        build_inputs(256),
        mlm_input_ids=torch.tensor(CONFIG["mlm_input_ids"]),
        mlm_labels=torch.tensor(CONFIG["mlm_labels"]),
        negative_image_index=torch.tensor(CONFIG["negative_image_for_text"]),
        negative_text_index=torch.tensor(CONFIG["negative_text_for_image"]),
        distillation_alpha=CONFIG["alpha"],
    )
    outputs = model(**inputs, distillation_axis="sequence")
    return {
        "loss_ita": outputs.itc_loss,
        "loss_itm": outputs.itm_loss,
        "itm_logits_all": outputs.itm_pair_logits,
        "loss_mlm": outputs.mlm_loss,
        "loss_mlm_vocab_axis": model(**inputs, objectives=("mlm",)).mlm_loss,
    }


def compute_amc(model: AlbefForPreTraining) -> dict[str, torch.Tensor]:
    """Heatmaps in the graph, losses of AMC, and their second-order gradients."""
    outputs = model(**build_inputs(256), objectives=("itc",), output_heatmap=True, heatmap_denominator="padded")
    masks, has_region = build_region_masks(), torch.tensor(CONFIG["gt_mask_indicator"]).bool()
    terms = AttentionMaskConsistencyLoss(mean_reduction="batch")(outputs.normalized_heatmap, masks, has_region)
    prefix = "r256/grad_amc/"
    names = [name.removeprefix(prefix) for name in GOLDEN.outputs if name.startswith(prefix)]
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(terms["amc_loss"], [parameters[rename_original_key(name)] for name in names])
    return {
        "train_heatmap": outputs.normalized_heatmap,
        "train_heatmap_256": resize_to_mask(outputs.normalized_heatmap, *masks.shape[1:]),
        "loss_amc_mean": terms["amc_mean_loss"],
        "loss_amc_max": terms["amc_max_loss"],
        **{f"grad_amc/{name}": gradient for name, gradient in zip(names, gradients, strict=True)},
    }


@pytest.fixture(scope="module")
def outputs(model) -> dict[str, torch.Tensor]:
    """Everything that the golden may hold, of the model at 256 and then at 384 pixels."""
    found = {**compute_evaluation(model, 256), **compute_pretraining_losses(model), **compute_amc(model)}
    named = {f"r256/{name}": value for name, value in found.items()}
    model.resize_image(384)
    assert model.config.vision_config.grid_size == (24, 24)
    found = compute_evaluation(model, 384)
    found["pos_embed_slice"] = model.albef.vision_model.position_embeddings[..., :NUM_POSITION_CHANNELS]
    return named | {f"r384/{name}": value for name, value in found.items()}


@pytest.mark.parametrize("name", GOLDEN.outputs)
def test_every_stored_output_is_that_of_the_published_code(name, outputs):
    GOLDEN.check(name, outputs[name])


def test_every_computed_output_is_stored(outputs):
    assert outputs.keys() == GOLDEN.outputs.keys()
    assert sum("/grad_amc/" in name for name in GOLDEN.outputs) == 7
