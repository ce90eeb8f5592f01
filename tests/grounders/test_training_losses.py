"""Losses that grounders are trained with: against those of the classes, by hand, and by finite differences."""

import pytest
import torch
from grounder_cases import NAMES, build_tiny_grounder
from testing_utils import build_photo, build_rows
from torch.nn.functional import cross_entropy

from albef_amc.datasets_scripts.true_phrases import hash_text
from albef_amc.trainer import AttentionMaskConsistencyLoss
from albef_amc.trainer.data.grounder_collator import DataCollatorForGrounder
from albef_amc.trainer.grounder_training import compare_cells
from albef_amc.trainer.objectives.weighted_objectives import HeatmapObjectives

PHOTOS = [build_photo(48, 32, seed=1), build_photo(34, 40, seed=2)]
STEP = 1e-7  # of the finite difference
AMC = HeatmapObjectives([(1.0, AttentionMaskConsistencyLoss())])


def build_uneven_rows() -> list[dict]:
    """Rows of photographs of two shapes, which ViLT and SigLIP 2 see as grids of two sizes."""
    sized = [{"image": photo, "width": photo.width, "height": photo.height} for photo in PHOTOS]
    return [{**row, **part} for row, part in zip(build_rows(2), sized, strict=True)]


def choose_sampling(grounder) -> str:
    return "hard" if grounder.family.contrast is not None else "uniform"


def collate(grounder, rows: list[dict]) -> dict:
    batch = DataCollatorForGrounder(grounder.inputs, use_text_ids=True)([{**row, "draw": 0} for row in rows])
    return {name: value.double() if name == "region_mask" else value for name, value in batch.items()}


def compute_step_loss(grounder, batch: dict) -> torch.Tensor:
    """AMC and every loss that the model has."""
    outputs = grounder(batch, losses=grounder.family.losses, negative_sampling=choose_sampling(grounder))
    denominators = batch["has_region"].sum()[None]
    loss, _ = compare_cells(AMC, outputs.normalized_heatmap, batch, denominators)
    return loss + sum(outputs[f"{name}_loss"] for name in grounder.family.losses)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_a_step_equals_a_finite_difference(name):
    grounder = build_tiny_grounder(name)
    batch = collate(grounder, build_uneven_rows())
    assert batch["has_region"].all() and len(batch["input_ids"]) == 4
    parameters = [parameter for parameter in grounder.parameters() if parameter.requires_grad]
    generator = torch.Generator().manual_seed(1)
    gradients = torch.autograd.grad(compute_step_loss(grounder, batch), parameters, allow_unused=True)
    directions = [torch.randn(one.shape, generator=generator, dtype=torch.float64) for one in parameters]
    if name.startswith("siglip2"):  # which resizes its positions in float32, too coarse for this step
        positions = grounder.model.vision_model.embeddings.position_embedding.weight
        directions = [step * (one is not positions) for one, step in zip(parameters, directions, strict=True)]
    pairs = zip(gradients, directions, strict=True)
    expected = sum((gradient * direction).sum() for gradient, direction in pairs if gradient is not None)
    losses = []
    with torch.no_grad():
        for sign in (1, -2):
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += sign * STEP * direction
            losses.append(compute_step_loss(grounder, batch))
    difference = (losses[0] - losses[1]) / (2 * STEP)
    assert abs(difference) > 1e-3
    torch.testing.assert_close(expected, difference, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["clip-itc", "siglip-itc"])
def test_the_contrastive_loss_is_that_of_the_class(name):
    grounder = build_tiny_grounder(name)
    batch = grounder.prepare(PHOTOS, [["a red dog"], ["the big cup"]])
    texts = {"input_ids": batch["input_ids"]}
    if name == "clip-itc":
        texts["attention_mask"] = batch["attention_mask"]
    expected = grounder.model(pixel_values=batch["pixel_values"].double(), **texts, return_loss=True).loss
    outputs = grounder(batch, output_heatmap=False, losses=["itc"])
    torch.testing.assert_close(outputs.itc_loss, expected, rtol=1e-12, atol=0)


def test_equal_texts_are_positives():
    grounder = build_tiny_grounder("clip-itc")
    batch = grounder.prepare(PHOTOS, [["a red dog"], ["a red dog"]])
    logits = grounder.model(
        pixel_values=batch["pixel_values"].double(),
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
    )
    half = torch.full((2, 2), 0.5, dtype=torch.float64)
    expected = (cross_entropy(logits.logits_per_image, half) + cross_entropy(logits.logits_per_text, half)) / 2
    batch["text_ids"] = torch.tensor([hash_text("a red dog")] * 2)
    found = grounder(batch, output_heatmap=False, losses=["itc"]).itc_loss
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["blip-itm", "vilt-itm", "bridgetower-itm"])
@pytest.mark.parametrize("has_false_phrase", [False, True])
def test_the_matching_loss_is_that_of_pairs_by_hand(name, has_false_phrase):
    """Of two images with one phrase per image, the pairs that do not match are the exchanged ones, twice."""
    grounder = build_tiny_grounder(name)
    phrases, false_phrase = ["a red dog", "the big cup"], "the small green car on the left"
    batch = grounder.prepare(PHOTOS, [[phrases[0]], [phrases[1]]])
    pairs = [(0, phrases[0], 1), (1, phrases[1], 1), (1, phrases[0], 0), (0, phrases[1], 0)] * 2
    pairs = [*pairs[:2], *pairs[2:4], *pairs[6:]]
    if has_false_phrase:
        texts = grounder.inputs.prepare_phrases([false_phrase])
        batch |= {f"false_{key}": texts[key] for key in ("input_ids", "attention_mask")}
        batch["false_image_index"] = torch.tensor([1])
        pairs.append((1, false_phrase, 0))
    logits = []
    for image, phrase, _ in pairs:
        alone = grounder(grounder.prepare([PHOTOS[image]], [[phrase]]), output_heatmap=False).logits
        logits.append(alone if alone.shape[1] == 2 else torch.cat([torch.zeros_like(alone), alone], dim=1))
    expected = cross_entropy(torch.cat(logits), torch.tensor([label for *_, label in pairs]))
    outputs = grounder(batch, losses=["itm"], negative_sampling="uniform")
    torch.testing.assert_close(outputs.itm_loss, expected, rtol=1e-9, atol=0)
    assert outputs.itm_pair_logits.shape == (len(pairs), 2) and outputs.excluded_negatives == 0


@pytest.mark.parametrize("sampling", ["hard", "uniform"])
def test_an_image_of_which_a_phrase_is_true_is_no_negative(sampling):
    grounder = build_tiny_grounder("blip-itm")
    batch = grounder.prepare(PHOTOS, [["a red dog"], ["the big cup"]])
    batch["text_ids"] = torch.tensor([1, 2])
    batch |= {"description_ids": torch.tensor([1]), "description_index": torch.tensor([1])}  # the dog is in both
    outputs = grounder(batch, output_heatmap=False, losses=["itm"], negative_sampling=sampling)
    assert len(outputs.itm_pair_logits) == 2 + 1 + 1  # the cup is not in the first image
    assert outputs.excluded_negatives == 0.5


def test_losses_that_a_model_does_not_have_are_refused():
    with pytest.raises(
        ValueError, match="`CLIPModel` with the score 'itc' has no loss 'itm'. Losses that it has: 'itc'"
    ):
        build_tiny_grounder("clip-itc").check_losses(["itm"], "hard")
    with pytest.raises(ValueError, match='has no projections.*negative_sampling="uniform"'):
        build_tiny_grounder("vilt-itm").check_losses(["itm"], "hard")


@pytest.mark.parametrize("name", ["blip-itm", "vilt-itm", "siglip2-itc"])
def test_a_phrase_has_the_same_terms_alone_and_in_a_batch(name):
    grounder = build_tiny_grounder(name)
    rows = build_uneven_rows()
    count = torch.tensor([4.0])
    objectives = HeatmapObjectives([(1.0, AttentionMaskConsistencyLoss(max_margin=1.5))])

    def compare(some: list[dict]) -> tuple[torch.Tensor, dict]:
        batch = collate(grounder, some)
        outputs = grounder(batch)
        loss, _ = compare_cells(objectives, outputs.normalized_heatmap, batch, count)
        return loss, batch

    together, batch = compare(rows)
    alone = [compare([row]) for row in rows]
    torch.testing.assert_close(together, alone[0][0] + alone[1][0], rtol=1e-9, atol=0)
    for name in ("text_ids", "negative_uniforms", "has_region"):
        torch.testing.assert_close(batch[name], torch.cat([one[1][name] for one in alone]), rtol=0, atol=0)
