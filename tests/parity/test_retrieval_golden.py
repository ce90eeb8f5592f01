# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The small retrieval model against the published code: losses, negatives, gradients, state after a step, ranking."""

import re

import evaluate
import pytest
import torch
from testing_utils import UNSTATED_TOLERANCE, Golden

from albef_amc import AlbefForImageTextMatching, AlbefForImageTextRetrieval, compute_retrieval_recall
from albef_amc.conversion.original_checkpoints import infer_config, rename_original_key
from albef_amc.galleries_albef import NOT_LISTED
from albef_amc.metrics import get_metric_folder
from albef_amc.pretraining_losses_albef import UNKNOWN_ID, compute_negative_probabilities

GOLDEN = Golden("tiny_retrieval")
EMPTY = -100  # `idx_queue` of a column without an image
NAMES = ("pixel_values", "input_ids", "attention_mask")
RECALLS = [f"{found}_recall_at_{rank}" for found in ("text", "image") for rank in (1, 5, 10)]


def rename(name: str) -> str | None:
    """Our name of an entry; the text encoder of a fine-tuned model has no masked-word head and one prefix less."""
    return rename_original_key(re.sub(r"^(text_encoder(?:_m)?)\.", r"\1.bert.", name))


@pytest.fixture
def model() -> AlbefForImageTextRetrieval:
    original = torch.load(GOLDEN.folder / "checkpoint.pth", weights_only=True)["model"]
    of_pretraining = {
        re.sub(r"^(text_encoder(?:_m)?)\.", r"\1.bert.", name): value for name, value in original.items()
    }
    heads = {"vision_config.num_attention_heads": 4, "text_config.num_attention_heads": 4}
    config, _ = infer_config(of_pretraining, {**heads, "explanation_layer": 2, "explanation_block": 1})
    assert config.momentum == GOLDEN.config["momentum"]
    model = AlbefForImageTextRetrieval(config).eval()
    state = {rename(name): value for name, value in original.items() if rename(name)}
    state["albef.temperature"] = original["temp"].reshape(1)
    ids = original["idx_queue"].flatten()
    state["image_queue_ids"] = state["text_queue_ids"] = ids.masked_fill(ids == EMPTY, UNKNOWN_ID)
    state["text_queue_pointer"] = state["image_queue_pointer"]
    model.load_state_dict(state)
    return model


def run_step(model: AlbefForImageTextRetrieval, alpha: float):
    model.clamp_temperature()
    model.update_momentum()
    return model(
        **{name: GOLDEN.inputs[name] for name in NAMES},
        image_ids=GOLDEN.inputs["idx"],
        negative_image_index=GOLDEN.inputs["negative_image_for_text"],
        negative_text_index=GOLDEN.inputs["negative_text_for_image"],
        distillation_alpha=alpha,
    )


def test_losses_without_distillation(model):
    outputs = run_step(model, alpha=0.0)
    GOLDEN.check("loss_ita_no_distill", outputs.itc_loss)
    GOLDEN.check("loss_itm", outputs.itm_loss)


def test_one_training_step(model):
    outputs = run_step(model, GOLDEN.config["alpha"])
    GOLDEN.check("loss_ita_distill", outputs.itc_loss)
    GOLDEN.check("loss_itm", outputs.itm_loss)
    torch.testing.assert_close(outputs.loss, outputs.itc_loss + outputs.itm_loss)
    outputs.loss.backward()
    parameters = dict(model.named_parameters())
    gradients = [name for name in GOLDEN.outputs if name.startswith("grad/")]
    assert gradients
    for name in gradients:
        GOLDEN.check(name, parameters[rename(name.removeprefix("grad/"))].grad)

    ids = GOLDEN.inputs["idx"]
    model.enqueue(outputs.momentum_image_features, outputs.momentum_text_features, ids)
    state = model.state_dict()
    for name in ("image_queue", "text_queue", "text_proj_m.weight"):
        GOLDEN.check(f"after/{name}", state[rename(name)])
    expected = GOLDEN.outputs["after/idx_queue"].flatten()
    for modality in ("image", "text"):
        found = state[f"{modality}_queue_ids"]
        assert torch.equal(found.masked_fill(found == UNKNOWN_ID, EMPTY), expected)
        GOLDEN.check("after/queue_ptr", state[f"{modality}_queue_pointer"])


def test_negative_probabilities(model):
    outputs = run_step(model, GOLDEN.config["alpha"])
    ids = GOLDEN.inputs["idx"]
    published = GOLDEN.outputs["negative_weights"]  # not normalised: drawing from them does it
    for rows, logits in zip(published.chunk(2), (outputs.logits_per_text, outputs.logits_per_image), strict=True):
        ours = compute_negative_probabilities(logits[:, : len(ids)], ids[:, None] == ids) * rows.sum(
            dim=1, keepdim=True
        )
        assert (ours - rows).abs().max() <= GOLDEN.tolerance("negative_weights")


def order(scores: torch.Tensor) -> list[list[int]]:
    """Every candidate of each query, best first."""
    return scores.argsort(dim=1, descending=True, stable=True).tolist()


@pytest.mark.parametrize("model_class", [AlbefForImageTextRetrieval, AlbefForImageTextMatching])
def test_scores_and_recalls_of_two_stages(model, model_class, tmp_path):
    if model_class is AlbefForImageTextMatching:  # the same weights without momentum copies
        model.save_pretrained(tmp_path / "checkpoint")
        model = model_class.from_pretrained(tmp_path / "checkpoint")
    images = model.encode_images({"pixel_values": GOLDEN.inputs["eval_pixel_values"]})
    texts = model.encode_texts({name: GOLDEN.inputs[f"eval_{name}"] for name in ("input_ids", "attention_mask")})
    scores = model.retrieve(images, texts, k=GOLDEN.config["k_test"])
    for found, name in ((scores.scores_per_image, "score_i2t"), (scores.scores_per_text, "score_t2i")):
        expected = GOLDEN.outputs[name]
        is_listed = expected != NOT_LISTED
        assert torch.equal(found != NOT_LISTED, is_listed), name
        tolerance = UNSTATED_TOLERANCE * expected[is_listed].abs().max()
        assert (found - expected)[is_listed].abs().max() <= tolerance, name

    image_index = torch.tensor(GOLDEN.config["eval_text_to_image"])
    recall = compute_retrieval_recall(scores.scores_per_image, scores.scores_per_text, image_index)
    expected = GOLDEN.outputs["recalls_txt_r1_r5_r10_img_r1_r5_r10"].tolist()
    assert [recall[name] for name in RECALLS] == pytest.approx(expected, rel=1e-12)
    stored = (GOLDEN.outputs["score_i2t"], GOLDEN.outputs["score_t2i"])
    released = compute_retrieval_recall(*stored, image_index, tie_order="released")
    assert [released[name] for name in RECALLS] == pytest.approx(expected, rel=1e-12)
    metric = evaluate.load(str(get_metric_folder("retrieval_recall")), cache_dir=str(tmp_path))
    right = [(image_index == image).nonzero().flatten().tolist() for image in range(len(images))]
    metric.add_batch(predictions=order(scores.scores_per_image), references=right, direction="image_to_text")
    own_images = image_index[:, None].tolist()
    result = metric.compute(
        predictions=order(scores.scores_per_text), references=own_images, direction="text_to_image"
    )
    assert [result[name] for name in RECALLS] == pytest.approx(expected, rel=1e-12)
