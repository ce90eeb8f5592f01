"""The small pre-training model against the published code: features, maps, losses, gradients, one whole step."""

import pytest
import torch
from testing_utils import Golden

from albef_amc.conversion.original_checkpoints import rename_original_key
from albef_amc.layout_albef import build_layout
from albef_amc.pretraining_losses_albef import compute_negative_probabilities
from albef_amc.trainer import AttentionMaskConsistencyLoss

GOLDEN = Golden("tiny_pretrain")
STEP = Golden("tiny_pretrain_step")


def pick(inputs: dict, *names: str) -> dict:
    return {name: inputs[name] for name in names}


def check_gradients(golden: Golden, prefix: str, model: torch.nn.Module) -> None:
    parameters = dict(model.named_parameters())
    names = [name for name in golden.outputs if name.startswith(prefix)]
    assert names
    for name in names:
        golden.check(name, parameters[rename_original_key(name.removeprefix(prefix))].grad)


def test_encoders_and_contrastive_similarity(model):
    inputs = pick(GOLDEN.inputs, "pixel_values", "input_ids", "attention_mask")
    with torch.no_grad():
        outputs = model.albef(**inputs)
        momentum_image_embeds = model.momentum_vision_model(inputs["pixel_values"])
        momentum_text_embeds = model.momentum_text_model(inputs["input_ids"], inputs["attention_mask"])
        fused = model.albef.text_model(inputs["input_ids"], inputs["attention_mask"], outputs.image_embeds)
    GOLDEN.check("image_embeds", outputs.image_embeds)
    GOLDEN.check("text_embeds", outputs.text_embeds)
    GOLDEN.check("image_embeds_momentum", momentum_image_embeds)
    GOLDEN.check("text_embeds_momentum", momentum_text_embeds)
    GOLDEN.check("fusion_last_hidden_state", outputs.last_hidden_state)
    GOLDEN.check("multimodal_last_hidden_state", fused)
    GOLDEN.check("image_feat", outputs.image_features)
    GOLDEN.check("text_feat", outputs.text_features)
    GOLDEN.check("itc_similarity", outputs.logits_per_image)
    GOLDEN.check("mlm_logits", model.mlm_head(outputs.last_hidden_state))


def test_heatmaps_of_both_kinds(model):
    inputs = pick(GOLDEN.inputs, "pixel_values", "input_ids", "attention_mask")
    matching = model.export_matching_model()
    outputs = matching(**inputs, output_heatmap=True, output_token_heatmap=True, heatmap_denominator="padded")
    GOLDEN.check("itm_logits", outputs.itm_logits)
    GOLDEN.check("gradcam_itm", outputs.heatmap)
    GOLDEN.check("gradcam_itm_per_token", outputs.token_heatmap)
    outputs = matching(**inputs, output_heatmap=True, explanation_kind="itc")
    GOLDEN.check("gradcam_itc", outputs.heatmap)
    grounded = matching.ground(**inputs, explanation_kind="itc", phrases_per_chunk=2)
    GOLDEN.check("gradcam_itc", grounded.heatmap)
    grounded = matching.ground(**inputs, output_token_heatmap=True, phrases_per_chunk=2)
    GOLDEN.check("gradcam_itm_per_token", grounded.token_heatmap)


def test_attention_map_and_its_gradient(model):
    inputs = pick(GOLDEN.inputs, "pixel_values", "input_ids", "attention_mask")
    text_model, mask = model.albef.text_model, inputs["attention_mask"]
    keys_values = text_model.project_image(model.albef.vision_model(inputs["pixel_values"]))
    explained = model.config.explanation_layer
    layout, first = build_layout(mask, None, len(mask), keep_padding=True), model.config.text_config.fusion_layer
    states = text_model.encode(inputs["input_ids"], layout)
    states = text_model.run_layers(states, layout, keys_values, first=first, last=explained)
    states, attention = text_model.run_explained_layer(explained, states, layout, keys_values)
    fused = text_model.run_layers(states, layout, keys_values, first=explained + 1)
    (gradient,) = torch.autograd.grad(model.itm_head(fused[:, 0])[:, 1].sum(), attention)
    GOLDEN.check("cross_attention_map", attention)
    GOLDEN.check("cross_attention_grad", gradient)


@pytest.mark.parametrize(("reduction", "prefix"), [("batch", "grad_amc/"), ("sample", "grad_amc_per_sample_mean/")])
def test_amc_losses_and_second_order_gradients(model, reduction, prefix):
    inputs = pick(GOLDEN.inputs, "pixel_values", "input_ids", "attention_mask")
    outputs = model(**inputs, objectives=("itc",), output_heatmap=True, heatmap_denominator="padded")
    has_region = GOLDEN.inputs["gt_mask_indicator"][:, 0].bool()
    GOLDEN.check("train_gradcam_selected", outputs.heatmap[has_region])
    GOLDEN.check("train_heatmap_grid_selected", outputs.normalized_heatmap[has_region])
    terms = AttentionMaskConsistencyLoss(mean_reduction=reduction)(
        outputs.normalized_heatmap, GOLDEN.inputs["region_mask"], has_region
    )
    GOLDEN.check("loss_max_term", terms["amc_max_loss"])
    mean_term = "loss_mean_term" if reduction == "batch" else "loss_mean_term_paper_eq1_per_sample"
    GOLDEN.check(mean_term, terms["amc_mean_loss"])
    terms["amc_loss"].backward()
    check_gradients(GOLDEN, prefix, model)


@pytest.mark.parametrize(("axis", "suffix"), [("sequence", ""), ("vocabulary", "_vocab_axis")])
def test_one_training_step(model, axis, suffix):
    inputs = STEP.inputs
    model.clamp_temperature()
    model.update_momentum()
    outputs = model(
        **pick(inputs, "pixel_values", "input_ids", "attention_mask", "mlm_input_ids", "mlm_labels"),
        negative_image_index=inputs["negative_image_for_text"],
        negative_text_index=inputs["negative_text_for_image"],
        distillation_alpha=STEP.config["alpha"],
        distillation_axis=axis,
        output_heatmap=True,
        heatmap_denominator="padded",
    )
    terms = AttentionMaskConsistencyLoss(mean_reduction="batch")(
        outputs.normalized_heatmap, inputs["region_mask"], inputs["gt_mask_indicator"][:, 0].bool()
    )
    total = outputs.loss + terms["amc_loss"]
    expected = {
        f"loss_mlm{suffix}": outputs.mlm_loss,
        "loss_ita": outputs.itc_loss,
        "loss_itm": outputs.itm_loss,
        "loss_amc_mean": terms["amc_mean_loss"],
        "loss_amc_max": terms["amc_max_loss"],
        f"loss_total{suffix}": total,
        "sim_i2t": outputs.logits_per_image,
        "sim_t2i": outputs.logits_per_text,
        "image_feat": outputs.image_features,
        "text_feat": outputs.text_features,
        "image_feat_m": outputs.momentum_image_features,
        "text_feat_m": outputs.momentum_text_features,
        "itm_logits_all": outputs.itm_pair_logits,
    }
    for name, value in expected.items():
        STEP.check(name, value)
    without_amc = STEP.outputs[f"without_amc/loss_total{suffix}"]
    assert abs(outputs.loss.item() - without_amc.item()) <= STEP.tolerance(f"loss_total{suffix}")
    total.backward()
    check_gradients(STEP, f"grad_total{suffix}/", model)

    model.enqueue(outputs.momentum_image_features, outputs.momentum_text_features)
    state = model.state_dict()
    for name in STEP.outputs:
        if name.startswith("after/"):
            STEP.check(name, state[rename_original_key(name.removeprefix("after/"))])


def test_masked_word_scores_and_negative_probabilities(model):
    inputs = STEP.inputs
    model.update_momentum()
    outputs = model(
        **pick(inputs, "pixel_values", "input_ids", "attention_mask", "mlm_input_ids", "mlm_labels"),
        distillation_axis="sequence",
    )
    STEP.check("mlm_logits", outputs.mlm_logits)
    ids = -2 - torch.arange(len(inputs["input_ids"]))
    for logits, name in ((outputs.logits_per_image, "weights_i2t"), (outputs.logits_per_text, "weights_t2i")):
        published = STEP.outputs[name]  # diagonal zeroed after the softmax; drawing from it renormalises the rows
        ours = compute_negative_probabilities(logits[:, : len(ids)], ids[:, None] == ids)
        scale = published.sum(dim=1, keepdim=True)
        assert (ours * scale - published).abs().max() <= STEP.tolerance(name)
