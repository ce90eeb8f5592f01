"""Images that are reduced before they are augmented: the same geometry, nearly the same pixels."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from testing_utils import build_photo, build_rows, build_tiny_trainer

from albef_amc.image_processing_albef import UnusableImageError, load_image
from albef_amc.trainer import DataCollatorForGrounding, GroundingAugmentation
from albef_amc.trainer.data import reduced_images
from albef_amc.trainer.data.reduced_images import load_reduced_image

LIMIT = 1_000_000
ORIENTATION = 0x0112


def build_smooth(width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str, orientation: int = 1) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(buffer, kind, exif=exif)
    return buffer.getvalue()


def measure_difference(image: Image.Image, expected: Image.Image) -> np.ndarray:
    return np.abs(np.asarray(image).astype(int) - np.asarray(expected).astype(int))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("kind", ["png", "jpeg", "mpo"])
def test_pixels_differ_by_roundings_alone(kind, orientation):
    content = encode(build_smooth(90, 60), kind, orientation)
    upright = load_image(content)
    expected = upright.resize((40, 32), Image.Resampling.BICUBIC)
    for source in (content, {"bytes": content, "path": None}, upright):
        image, (height, width) = load_reduced_image(source, 32, 40, LIMIT, "photo")
        assert (width, height) == upright.size and image.size == (40, 32) and image.mode == "RGB"
        difference = measure_difference(image, expected)
        assert difference.max() <= 3 and difference.mean() < 0.3


@pytest.mark.parametrize(("side", "decoded"), [(200, 200), (256, 128), (600, 150), (2000, 250)])
def test_large_jpeg_files_are_decoded_at_reduced_size(side, decoded, monkeypatch):
    seen = []
    monkeypatch.setattr(
        reduced_images, "load_image", lambda image, *words: seen.append(image.size) or load_image(image)
    )
    content = encode(build_smooth(side, side + 40), "jpeg", orientation=6)
    image, (height, width) = load_reduced_image(content, 64, 48, 10 * LIMIT, "photo")
    assert seen[0][0] == decoded and (width, height) == (side + 40, side)
    expected = load_image(content).resize((48, 64), Image.Resampling.BICUBIC)
    assert measure_difference(image, expected).mean() < 0.6


def test_files_that_cannot_be_used_are_named():
    with pytest.raises(UnusableImageError, match="image 'x' has 300 x 200 pixels"):
        load_reduced_image(encode(build_smooth(300, 200), "jpeg"), 64, 64, 1000, "image 'x'")
    with pytest.raises(UnusableImageError, match="image 'x' cannot be decoded"):
        load_reduced_image(encode(build_smooth(300, 200), "jpeg")[:2000], 64, 64, LIMIT, "image 'x'")
    with pytest.raises(ValueError, match="without bytes"):
        load_reduced_image({"bytes": None, "path": "x.jpg"}, 64, 64, LIMIT, "image 'x'")


@pytest.mark.parametrize("flip_probability", [0.0, 1.0])
def test_a_batch_has_the_same_regions_and_sizes(tiny_processor, flip_probability):
    augmentation = GroundingAugmentation(flip_probability, gray_probability=0.0, jitter_probability=0.0)
    rows, batches = build_rows(), []
    for row in rows:
        row["image"] = encode(row["image"], "png")
    for use_reduced_images in (False, True):
        options = dict(max_length=None, augmentation=augmentation, use_reduced_images=use_reduced_images)
        batches.append(DataCollatorForGrounding(tiny_processor, **options)(rows))
    exact, reduced = batches
    for name in ("original_sizes", "region_mask", "has_region", "input_ids"):
        assert torch.equal(exact[name], reduced[name]), name
    differences = (exact["pixel_values"] - reduced["pixel_values"]).abs()
    step = 1 / 255 / min(tiny_processor.image_processor.image_std)
    assert 0 < differences.max() <= 2.01 * step


def test_colours_change_after_the_reduction_as_before(tiny_processor):
    photo = {"image": build_smooth(200, 160), "width": 200, "height": 160}
    rows = [{**build_rows(1)[0], **photo, "image_id": str(number)} for number in range(8)]
    options = dict(max_length=None, augmentation=GroundingAugmentation(jitter_probability=1.0))
    exact = DataCollatorForGrounding(tiny_processor, **options)(rows)["pixel_values"]
    reduced = DataCollatorForGrounding(tiny_processor, **options, use_reduced_images=True)(rows)["pixel_values"]
    plain = DataCollatorForGrounding(tiny_processor, max_length=None)(rows)["pixel_values"]
    assert (reduced - exact).abs().mean() < 0.05 * (plain - exact).abs().mean()


def test_a_run_asks_for_it(tiny_pretraining_model, tmp_path):
    assert not build_tiny_trainer(tiny_pretraining_model, tmp_path).data_collator.use_reduced_images
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path, use_reduced_images=True)
    assert trainer.data_collator.use_reduced_images


def test_the_processor_takes_sizes_of_stored_images(tiny_processor):
    inputs = tiny_processor([build_photo()], [["a dog"]], boxes=[[[[0, 0, 500, 400]]]], original_sizes=[(400, 1000)])
    assert inputs["original_sizes"].tolist() == [[400, 1000]]
    assert inputs["region_mask"].mean() == 0.5


@pytest.mark.parametrize("sizes", [[], [(4, 3), (4, 3)], [(4,)], [(4, 0)], [(4.5, 3)], [4], "43"])
def test_wrong_sizes_are_refused(tiny_processor, sizes):
    with pytest.raises(ValueError, match="`original_sizes` must have the height and width"):
        tiny_processor([build_photo()], [["a dog"]], original_sizes=sizes)
