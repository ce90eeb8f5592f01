# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Heatmaps of BLIP and CLIP against LAVIS, Transformer-MM-Explainability and pytorch-grad-cam."""

import pytest
import torch
from testing_utils import Golden
from transformers import BlipForImageTextRetrieval, CLIPModel

from albef_amc.grounders.attention_tap import AttentionTap
from albef_amc.grounders.families import BLIP_ITC, BLIP_ITM, CLIP
from albef_amc.grounders.grounder import compute_cell_heatmap, normalize_cells
from albef_amc.trainer import AttentionMaskConsistencyLoss

BLIP_GOLDEN, CLIP_GOLDEN = Golden("blip_gradcam"), Golden("clip_gradcam")
# Of other methods than Grad-CAM of an image's attention.
NOT_COMPARED = {
    "text_relevance_last": "map over words",
    "text_relevance_all": "map over words",
    "activation_gradcam": "gradient at activations, not at attention",
    "activation_gradcam_scaled": "gradient at activations, not at attention",
}


@pytest.fixture
def blip() -> BlipForImageTextRetrieval:
    return BlipForImageTextRetrieval.from_pretrained(BLIP_GOLDEN.folder / "model").eval()


def explain_blip(model: BlipForImageTextRetrieval, keep_graph: bool):
    """Scores, map and gradient of the matching pairs."""
    inputs = BLIP_GOLDEN.inputs
    texts = {"input_ids": inputs["itm_input_ids"], "attention_mask": inputs["attention_mask"]}
    with torch.set_grad_enabled(keep_graph):
        states = BLIP_ITM.score.share_images(model, {"pixel_values": inputs["pixel_values"]})
    image_index = torch.arange(len(inputs["pixel_values"]))
    name = BLIP_ITM.module_name.format(layer=BLIP_GOLDEN.config["block_num"])
    return states, BLIP_ITM.score.explain(model, name, states, image_index, texts, keep_graph)


def test_every_output_of_blip_is_compared(blip):
    compared = set()

    def check(name: str, value: torch.Tensor) -> None:
        BLIP_GOLDEN.check(name, value)
        compared.add(name)

    inputs, size = BLIP_GOLDEN.inputs, BLIP_GOLDEN.config["grid_size"]
    attention_mask = inputs["attention_mask"]
    states, explained = explain_blip(blip, keep_graph=True)
    check("image_embeds", states["states"])
    check("itm_logits", explained.logits)
    check("cross_attention_map", explained.attention_map)
    check("cross_attention_grad", explained.gradient)
    cells = torch.ones(len(attention_mask), size * size, dtype=torch.bool)
    parts = (explained.attention_map[..., 1:], explained.gradient[..., 1:])
    tokens = torch.stack(
        [
            compute_cell_heatmap(*parts, torch.eye(attention_mask.shape[1])[[token] * len(cells)], cells)
            for token in range(attention_mask.shape[1])
        ],
        dim=1,
    )
    tokens = tokens * attention_mask[..., None]
    inner = attention_mask.clone()  # without the first and the last token, as LAVIS averages
    inner[:, 0] = 0
    inner[torch.arange(len(inner)), attention_mask.sum(dim=1) - 1] = 0
    average = compute_cell_heatmap(*parts, inner, cells)
    check("gradcam_first_token", tokens[:, 0])
    check("gradcam_per_token", tokens)
    check("gradcam_average", average)
    check("gradcam_published", torch.cat([tokens[:, :1], average[:, None], tokens[:, 1:]], dim=1))
    heatmap = normalize_cells(average, cells).unflatten(1, (size, size))
    resized = torch.nn.functional.interpolate(
        heatmap[:, None], size=inputs["region_mask"].shape[-2:], mode="bilinear", align_corners=False
    )[:, 0]
    check("amc_heatmap", resized)
    loss = AttentionMaskConsistencyLoss(mean_reduction="batch")
    terms = loss(heatmap, inputs["region_mask"], torch.ones(len(heatmap), dtype=torch.bool))
    check("amc_loss_mean_term", terms["amc_mean_loss"])
    check("amc_loss_max_term", terms["amc_max_loss"])
    check("amc_loss", terms["amc_loss"])
    terms["amc_loss"].backward()
    parameters = dict(blip.named_parameters())
    for name in (name for name in BLIP_GOLDEN.outputs if name.startswith("grad_amc/")):
        check(name, parameters[name.removeprefix("grad_amc/")].grad)
    with torch.no_grad():
        images = BLIP_ITC.score.encode_images(blip, {"pixel_values": inputs["pixel_values"]})
        texts = BLIP_ITC.score.encode_texts(blip, inputs["input_ids"], attention_mask)
    check("itc_similarity", images @ texts.T)
    assert compared == set(BLIP_GOLDEN.outputs)


def test_heatmaps_of_blip_without_a_graph(blip):
    _, explained = explain_blip(blip, keep_graph=False)
    assert not explained.logits.requires_grad
    BLIP_GOLDEN.check("cross_attention_grad", explained.gradient)


def test_every_output_of_clip_is_compared():
    model = CLIPModel.from_pretrained(CLIP_GOLDEN.folder / "model").eval()
    input_ids, compared = CLIP_GOLDEN.inputs["input_ids"], set(NOT_COMPARED)

    def check(name: str, value: torch.Tensor) -> None:
        CLIP_GOLDEN.check(name, value)
        compared.add(name)

    images = {"pixel_values": CLIP_GOLDEN.inputs["pixel_values"]}
    texts = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    image_index = torch.zeros(len(input_ids), dtype=torch.int64)
    num_layers = model.config.vision_config.num_hidden_layers
    for layer in range(num_layers):
        name = CLIP.module_name.format(layer=layer)
        explained = CLIP.score.explain(model, name, images, image_index, texts, keep_graph=False)
        check("logits_per_image", explained.logits)
        reference = (CLIP_GOLDEN.outputs[f"vision_attention_{kind}/{layer}"] for kind in ("map", "grad"))
        rows = [values[:, :, :1] for values in reference]
        tolerance = [CLIP_GOLDEN.tolerance(f"vision_attention_{kind}/{layer}") for kind in ("map", "grad")]
        for value, expected, atol in zip((explained.attention_map, explained.gradient), rows, tolerance, strict=True):
            torch.testing.assert_close(value, expected, rtol=0, atol=atol)
        cells = torch.ones(len(input_ids), CLIP_GOLDEN.config["grid_size"] ** 2, dtype=torch.bool)
        parts = (explained.attention_map[..., 1:], explained.gradient[..., 1:])
        check(f"class_token_gradcam/{layer}", compute_cell_heatmap(*parts, torch.ones(len(cells), 1), cells))
    check("image_relevance_last", compute_cell_heatmap(*parts, torch.ones(len(cells), 1), cells))
    compared |= check_all_rows(model, images, texts, num_layers)
    assert compared == set(CLIP_GOLDEN.outputs)


def check_all_rows(model: CLIPModel, images: dict, texts: dict, num_layers: int) -> set[str]:
    """Compare whole maps and gradients of all layers of both encoders, tapped together, and the relevance of all."""
    num_texts, compared = len(texts["input_ids"]), set()
    encoders = {"vision": num_layers, "text": model.config.text_config.num_hidden_layers}
    names = {
        (kind, layer): f"{kind}_model.encoder.layers.{layer}.self_attn"
        for kind, count in encoders.items()
        for layer in range(count)
    }
    with AttentionTap(model, list(names.values()), keep_graph=True) as tap:
        image_features = CLIP.score.encode_images(
            model, {"pixel_values": images["pixel_values"].expand(num_texts, -1, -1, -1)}
        )
        text_features = CLIP.score.encode_texts(model, **texts)
        score = CLIP.score.compare(model, image_features, text_features).sum()
    relevance = torch.eye(find_map(tap, names["vision", 0]).shape[-1]).repeat(num_texts, 1, 1)
    for (kind, layer), name in names.items():
        attention_map = find_map(tap, name)
        (gradient,) = torch.autograd.grad(score, attention_map, retain_graph=True)
        for what, value in (("map", attention_map), ("grad", gradient)):
            CLIP_GOLDEN.check(f"{kind}_attention_{what}/{layer}", value)
            compared.add(f"{kind}_attention_{what}/{layer}")
        if kind == "vision":
            relevance = relevance + (attention_map * gradient).clamp(min=0).mean(dim=1) @ relevance
    CLIP_GOLDEN.check("image_relevance_all", relevance[:, 0, 1:])
    return compared | {"image_relevance_all"}


def find_map(tap: AttentionTap, name: str) -> torch.Tensor:
    (attention_map,) = tap.attention_maps[name]
    return attention_map


@pytest.mark.parametrize(("first_layer", "output"), [(-1, "image_relevance_last"), (0, "image_relevance_all")])
def test_relevancy_of_clip_equals_the_published_notebook(first_layer, output):
    model = CLIPModel.from_pretrained(CLIP_GOLDEN.folder / "model").eval()
    input_ids = CLIP_GOLDEN.inputs["input_ids"]
    texts = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    image_index = torch.zeros(len(input_ids), dtype=torch.int64)
    first_layer = first_layer % CLIP.relevancy.count_layers(model)
    names = CLIP.relevancy.list_modules(model, first_layer)
    images = {"pixel_values": CLIP_GOLDEN.inputs["pixel_values"]}
    arguments = (model, names, images, image_index, texts)
    _, relevance = CLIP.score.explain_modules(*arguments, keep_graph=False, read=CLIP.relevancy.read)
    CLIP_GOLDEN.check(output, relevance[:, 0, 1:])
