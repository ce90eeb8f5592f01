# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""A heatmap depends on its image and its phrase alone: not on the batch, its order, its padding, or chunks."""

import pytest
import torch
from grounder_cases import NAMES, build_tiny_grounder
from PIL import ExifTags, Image
from testing_utils import build_photo
from torch.nn.functional import pad

from albef_amc.grounders import Grounder

PHOTOS = [build_photo(48, 32, seed=1), build_photo(34, 40, seed=2), build_photo(64, 36, seed=4)]
PHRASES = [["a red dog", "the big blue circle on the left"], ["cup", "cup"], ["a", "small green square above it"]]
TEXTS = ("input_ids", "attention_mask", "token_mask")


@pytest.fixture(params=NAMES, scope="module")
def grounder(request):
    return build_tiny_grounder(request.param)


@torch.no_grad()
def explain(grounder: Grounder, batch: dict) -> torch.Tensor:
    """Score, heatmap and normalised heatmap of every phrase in one row, the maps as shares of their maximum."""
    outputs = grounder(batch)
    heatmap = outputs.heatmap / outputs.heatmap.amax(dim=1, keepdim=True).clamp(min=1e-12)
    return torch.cat([outputs.score[:, None], heatmap, outputs.normalized_heatmap], dim=1)


def test_the_order_of_images_and_of_phrases_changes_nothing(grounder):
    batch = grounder.prepare(PHOTOS, PHRASES)
    expected = explain(grounder, batch)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    mixed = batch | {name: batch[name][order] for name in (*TEXTS, "image_index")}
    torch.testing.assert_close(explain(grounder, mixed), expected[order], rtol=0, atol=1e-9)
    images = [2, 0, 1]
    turned = grounder.prepare([PHOTOS[image] for image in images], [PHRASES[image] for image in images])
    rows = torch.tensor([4, 5, 0, 1, 2, 3])
    torch.testing.assert_close(explain(grounder, turned), expected[rows], rtol=0, atol=1e-9)
    torch.testing.assert_close(expected[2], expected[3], rtol=0, atol=1e-9)  # the same phrase twice


def test_padding_changes_nothing(grounder):
    batch = grounder.prepare(PHOTOS, PHRASES)
    expected = explain(grounder, batch)
    longer = dict(batch)
    if grounder.family.padding is True:  # SigLIP reads the padding of text, of which there is always the same
        longer |= {name: pad(batch[name], (0, 3)) for name in TEXTS}
    if "pixel_mask" in batch:
        longer |= {name: pad(batch[name], (0, 16, 0, 8)) for name in ("pixel_values", "pixel_mask")}
    if "pixel_attention_mask" in batch:
        longer["pixel_values"] = pad(batch["pixel_values"], (0, 0, 0, 5))
        longer["pixel_attention_mask"] = pad(batch["pixel_attention_mask"], (0, 5))
    torch.testing.assert_close(explain(grounder, longer), expected, rtol=0, atol=1e-9)


def test_chunks_change_nothing(grounder):
    expected = grounder(images=PHOTOS, phrases=PHRASES)
    for size in (1, 3):
        results = grounder(images=PHOTOS, phrases=PHRASES, phrases_per_chunk=size)
        for ours, theirs in zip(results, expected, strict=True):
            for one, other in zip(ours, theirs, strict=True):
                torch.testing.assert_close(one["heatmap"], other["heatmap"], rtol=0, atol=1e-6)
                assert one["score"] == pytest.approx(other["score"], abs=1e-9)


def test_a_rotated_file_is_explained_as_the_upright_image(grounder, tmp_path):
    photo = build_photo(48, 32, seed=1)
    expected = grounder(images=[photo], phrases=[["a red dog"]])[0][0]
    stored = {
        3: photo.transpose(Image.Transpose.ROTATE_180),
        6: photo.transpose(Image.Transpose.ROTATE_90),
        7: photo.transpose(Image.Transpose.TRANSVERSE),
    }
    for orientation, picture in stored.items():
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        picture.save(tmp_path / "photograph.png", exif=exif)
        result = grounder(images=[tmp_path / "photograph.png"], phrases=[["a red dog"]])[0][0]
        assert result["heatmap"].equal(expected["heatmap"]) and result["score"] == expected["score"]
