# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Geometry of image processors: where each cell comes from, and masks, maps and points between pixels and cells."""

import re

import numpy as np
import pytest
import torch
import transformers
from PIL import ExifTags, Image
from testing_utils import PROJECT_FOLDER, build_tiny_config
from transformers import (
    BlipConfig,
    BridgeTowerConfig,
    CLIPConfig,
    Idefics3Config,
    InternVLConfig,
    LlavaConfig,
    Qwen2VLConfig,
    Siglip2Config,
    SiglipConfig,
    SmolVLMConfig,
    ViltConfig,
)
from transformers.image_processing_backends import PilBackend

from albef_amc import AlbefConfig, AlbefImageProcessor
from albef_amc.grounders import image_layout
from albef_amc.grounders.image_layout import ImageLayout, View, read_layout
from albef_amc.image_processing_albef import load_image
from albef_amc.regions_albef import build_region_mask, resize_heatmap

PATCH = 8
# Pixels of the stored image between the centre of a cell and the mean of its colours: colours of a resized picture are
# rounded, and in the outermost pixels the filter of the resize bends a ramp (three times the tolerance).
COLOUR_TOLERANCE = 0.5
# Pixels between a measured box and the computed one.
MEASURED_TOLERANCE = 1.0
PHOTOGRAPHS = {"square": (160, 160), "landscape": (161, 243), "wide": (40, 255), "tall": (255, 44)}  # height, width
VISION = {"patch_size": PATCH}
RAW = {"do_normalize": False, "do_rescale": False}


def make_processor(name: str, **settings):
    """An image processor of transformers with the back-end that needs only Pillow, whose outputs are colours."""
    return getattr(transformers, f"{name}ImageProcessorPil")(**RAW, **settings)


def build_cases() -> dict[str, tuple]:
    """Image processor and configuration of each family, at small sizes."""
    blip, clip = BlipConfig(vision_config=VISION), CLIPConfig(vision_config=VISION)
    llava, crop = LlavaConfig(vision_config={"model_type": "clip_vision_model", **VISION}), {"height": 64, "width": 64}
    albef = AlbefConfig(vision_config={"image_size": 64, **VISION})
    bridgetower = {"size": {"shortest_edge": 64}, "crop_size": {"shortest_edge": 64}, "size_divisor": 16}
    tiles, tiled = {"size": {"height": 64, "width": 64}, "max_patches": 6}, InternVLConfig(vision_config=VISION)
    qwen = {"patch_size": PATCH, "merge_size": 2, "size": {"shortest_edge": 1024, "longest_edge": 16384}}
    idefics = {"size": {"longest_edge": 150}, "max_image_size": {"longest_edge": 64}}
    return {
        "albef": (AlbefImageProcessor(size=64, **RAW), albef),
        "blip": (make_processor("Blip", size=crop), blip),
        "clip": (make_processor("CLIP", size={"shortest_edge": 64}, crop_size=crop), clip),
        "clip, odd crop": (
            make_processor("CLIP", size={"shortest_edge": 72}, crop_size={"height": 61, "width": 75}),
            clip,
        ),
        "siglip": (make_processor("Siglip", size=crop), SiglipConfig(vision_config=VISION)),
        "siglip2": (
            make_processor("Siglip2", patch_size=PATCH, max_num_patches=64),
            Siglip2Config(vision_config=VISION),
        ),
        "vilt": (make_processor("Vilt", size={"shortest_edge": 64}, size_divisor=16), ViltConfig(patch_size=PATCH)),
        "bridgetower": (make_processor("BridgeTower", **bridgetower), BridgeTowerConfig(vision_config=VISION)),
        "llava": (make_processor("Llava", size={"shortest_edge": 64}, crop_size=crop), llava),
        "llava, padded": (
            make_processor("Llava", size={"shortest_edge": 128}, crop_size={"height": 128, "width": 128}, do_pad=True),
            llava,
        ),
        "qwen": (make_processor("Qwen2VL", **qwen), Qwen2VLConfig(vision_config={**VISION, "spatial_merge_size": 2})),
        "internvl": (make_processor("GotOcr2", **tiles), tiled),
        "internvl, tiles": (make_processor("GotOcr2", crop_to_patches=True, **tiles), tiled),
        "idefics3": (make_processor("Idefics3", **idefics), Idefics3Config(vision_config=VISION, scale_factor=2)),
        "smolvlm": (make_processor("SmolVLM", **idefics), SmolVLMConfig(vision_config=VISION, scale_factor=2)),
        "smolvlm, whole": (
            make_processor("SmolVLM", do_image_splitting=False, **idefics),
            SmolVLMConfig(vision_config=VISION, scale_factor=2),
        ),
    }


CASES = build_cases()
MERGED = ("internvl", "internvl, tiles", "idefics3", "smolvlm", "smolvlm, whole")  # four patches are an image token
FLATTENED = ("siglip2", "qwen")  # processors that cut the picture into patches themselves


def draw_coordinates(height: int, width: int) -> Image.Image:
    """A picture of at most 255 x 255 pixels whose red is the column and whose green is the row; its blue is 255."""
    colours = np.full((height, width, 3), 255, dtype=np.uint8)
    colours[..., 0] = np.arange(width)
    colours[..., 1] = np.arange(height)[:, None]
    return Image.fromarray(colours)


def read_cell_colours(processor, image: Image.Image, cell: int) -> torch.Tensor:
    """Colours of every cell's pixels, `(num_cells, pixels, 3)`, in the order of the model's image tokens."""
    outputs = processor(images=[image], return_tensors="pt")
    pixels = outputs["pixel_values"].double()
    if "spatial_shapes" in outputs:  # SigLIP 2: patches with channels last, padding after them
        return pixels[0, outputs["pixel_attention_mask"][0].bool()].unflatten(1, (-1, 3))
    if "image_grid_thw" in outputs:  # Qwen-VL: the four patches of a token are adjacent; two equal frames
        patches = pixels.unflatten(1, (3, 2, -1))[:, :, 0].transpose(1, 2)
        return patches.unflatten(0, (-1, 4)).flatten(1, 2)
    pictures = pixels.reshape(-1, *pixels.shape[-3:])
    rows, columns = pictures.shape[-2] // cell, pictures.shape[-1] // cell
    blocks = pictures[..., : rows * cell, : columns * cell].unflatten(-1, (columns, cell)).unflatten(-3, (rows, cell))
    return blocks.permute(0, 2, 4, 3, 5, 1).reshape(-1, cell * cell, 3)


def check_colours(layout: ImageLayout, colours: torch.Tensor, tolerance: float) -> None:
    """Compare cells that see only the image with the mean of their colours, and padding with its blue."""
    assert len(colours) == layout.num_cells
    blue = colours[..., 2].mean(dim=1)
    whole = torch.nonzero(blue > 250).flatten()
    found = colours[whole].mean(dim=1)[:, :2] + 0.5
    errors = (layout.cells_to_points(whole) - found).abs()
    sides = torch.tensor(layout.image_size[::-1])
    is_inner = (found > 0.1 * sides) & (found < 0.9 * sides)
    assert len(whole) >= 4 and is_inner.any()
    assert errors[is_inner].max() < tolerance and errors.max() < 3 * tolerance
    assert layout.visible_cells[blue > 128].all() and not layout.visible_cells[blue < 128 / PATCH].any()


def build_layout(family: str, shape: str = "landscape") -> ImageLayout:
    processor, config = CASES[family]
    return read_layout(processor, PHOTOGRAPHS[shape], config)


@pytest.mark.parametrize("shape", PHOTOGRAPHS)
@pytest.mark.parametrize("family", CASES)
def test_cells_lie_where_their_colours_come_from(family, shape):
    image = draw_coordinates(*PHOTOGRAPHS[shape])
    colours = read_cell_colours(CASES[family][0], image, 2 * PATCH if family in MERGED else PATCH)
    check_colours(build_layout(family, shape), colours, COLOUR_TOLERANCE)


@pytest.mark.parametrize("family", ["blip", "clip", "siglip2", "vilt", "bridgetower"])
def test_a_photograph_that_is_stored_rotated_is_laid_out_upright(family, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise by a quarter
    draw_coordinates(161, 243).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "photograph.png", exif=exif)
    image = load_image(tmp_path / "photograph.png")
    assert image.size == (243, 161)
    check_colours(build_layout(family), read_cell_colours(CASES[family][0], image, PATCH), COLOUR_TOLERANCE)


def test_a_batch_of_several_sizes_is_padded_on_the_right_and_below():
    processor, config = CASES["vilt"]
    images = [draw_coordinates(*PHOTOGRAPHS[shape]) for shape in ("landscape", "tall")]
    pixel_values = processor(images=images, return_tensors="pt")["pixel_values"]
    grid = (pixel_values.shape[-2] // PATCH, pixel_values.shape[-1] // PATCH)
    for image, shape, pixels in zip(images, ("landscape", "tall"), pixel_values.double(), strict=True):
        alone = build_layout("vilt", shape)
        assert read_cell_colours(processor, image, PATCH).shape[0] == alone.num_cells < grid[0] * grid[1]
        layout = alone.pad(grid)
        blocks = pixels.unflatten(-1, (grid[1], PATCH)).unflatten(-3, (grid[0], PATCH))
        check_colours(layout, blocks.permute(1, 3, 2, 4, 0).reshape(-1, PATCH**2, 3), COLOUR_TOLERANCE)
        assert layout.visible_cells.sum() == alone.num_cells
        maps, mask = torch.full((2, layout.num_cells), 1e6), torch.rand(1, 30, 40)
        maps[:, layout.visible_cells] = torch.rand(2, alone.num_cells)
        assert torch.equal(layout.to_image(maps), alone.to_image(maps[:, layout.visible_cells]))
        values, _ = layout.to_cells(mask)
        torch.testing.assert_close(values[:, layout.visible_cells], alone.to_cells(mask)[0])
        assert not values[:, ~layout.visible_cells].any()


@pytest.mark.parametrize("family", [name for name in CASES if name not in FLATTENED])
def test_measuring_a_processor_finds_the_computed_views(family, monkeypatch):
    computed = {shape: build_layout(family, shape) for shape in PHOTOGRAPHS}
    monkeypatch.setattr(image_layout, "GEOMETRIES", {})
    monkeypatch.setattr(image_layout, "_is_standard", lambda processor: False)
    for shape, layout in computed.items():
        measured = build_layout(family, shape)
        assert [view.grid for view in measured.views] == [view.grid for view in layout.views]
        boxes, expected = (torch.tensor([view.box for view in one.views]) for one in (measured, layout))
        assert (boxes - expected).abs().max() < MEASURED_TOLERANCE


class FlippingProcessor(PilBackend):
    """An unknown processor that does more than stretch, crop and pad."""

    do_resize, size, do_rescale, do_normalize = True, {"height": 64, "width": 64}, False, False
    resample = Image.Resampling.BICUBIC

    def _preprocess(self, images, **kwargs):
        return super()._preprocess([image[..., ::-1] for image in images], **kwargs)


def test_an_unknown_geometry_is_refused():
    with pytest.raises(ValueError, match="FlippingProcessor is not known and cannot be measured: it does more than"):
        read_layout(FlippingProcessor(), (40, 60), CASES["blip"][1])


def test_an_unknown_processor_that_returns_patches_is_refused(monkeypatch):
    monkeypatch.setattr(image_layout, "GEOMETRIES", {})
    with pytest.raises(ValueError, match="Siglip2ImageProcessorPil is not known and cannot be measured"):
        build_layout("siglip2")


def test_a_processor_that_holds_an_image_processor_is_read(tiny_processor):
    config = build_tiny_config()
    layout = read_layout(tiny_processor, (30, 50), config)
    assert layout == ImageLayout((30, 50), (View((0, 0, 50, 30), config.vision_config.grid_size),))


@pytest.mark.parametrize("family", ["vilt", "bridgetower"])
def test_an_image_too_narrow_for_the_model_is_refused(family):
    processor, config = CASES[family]
    with pytest.raises(ValueError, match=r"a picture of 96 x 0 pixels, .* The image is too narrow"):
        read_layout(processor, (10, 400), config)


def test_a_configuration_without_patches_is_refused():
    with pytest.raises(ValueError, match="`model_config` is a BertConfig without `patch_size`"):
        read_layout(CASES["blip"][0], (10, 10), transformers.BertConfig())


@pytest.mark.parametrize("family", CASES)
def test_constant_maps_and_masks_stay_constant_where_the_image_is_seen(family):
    layout = build_layout(family)
    images = layout.to_image(torch.full((2, layout.num_cells), 0.7, dtype=torch.float64))
    torch.testing.assert_close(images, (0.7 * layout.visible.double()).expand(2, -1, -1))
    values, is_visible = layout.to_cells(torch.ones(2, *layout.image_size, dtype=torch.bool))
    torch.testing.assert_close(values, layout.visible_cells.float().expand(2, -1))
    assert is_visible.all()


@pytest.mark.parametrize("family", ["clip", "bridgetower"])
def test_a_region_outside_the_crop_has_no_cells(family):
    layout = build_layout(family)
    left = layout.views[0].box[0]
    assert 10 < left < 60
    masks = torch.zeros(3, *layout.image_size, dtype=torch.bool)
    masks[0, :, : int(left)] = masks[1, :, : int(left) + 30] = True
    values, is_visible = layout.to_cells(masks)
    assert is_visible.tolist() == [False, True, False]
    assert not values[0].any() and values[1].max() > 0.999
    assert not layout.visible[:, : int(left)].any() and layout.visible[:, int(left) + 1].all()


@pytest.mark.parametrize("family", CASES)
def test_a_region_that_goes_to_cells_and_back_stays_where_it_is(family):
    layout = build_layout(family)
    masks = torch.zeros(1, *layout.image_size)
    masks[:, 40:120, 60:180] = 1
    back = layout.to_image(layout.to_cells(masks)[0])[0]
    y, x = torch.meshgrid(*(torch.arange(side) + 0.5 for side in layout.image_size), indexing="ij")
    center = torch.stack([(back * x).sum(), (back * y).sum()]) / back.sum()
    assert (center - torch.tensor([120.0, 80.0])).abs().max() < 4
    assert back[80, 120] > 0.8 and back[10, 120] < 0.2 and back[80, 235] < 0.2


def test_a_whole_image_is_resized_as_albef_does_it():
    maps = torch.rand(3, 12, generator=torch.Generator().manual_seed(0))
    whole = View((0, 0, 30, 20), (3, 4))
    expected = resize_heatmap(maps.unflatten(1, (3, 4)), 20, 30)
    assert torch.equal(ImageLayout((20, 30), (whole,)).to_image(maps), expected)
    twice = ImageLayout((20, 30), (whole, whole)).to_image(torch.cat([maps, maps], dim=1))
    torch.testing.assert_close(twice, expected)
    cropped = ImageLayout((20, 50), (View((10, 0, 40, 20), (3, 4)),)).to_image(maps)
    torch.testing.assert_close(cropped[:, :, 10:40], expected)
    assert not cropped[:, :, :10].any() and not cropped[:, :, 40:].any()


def test_overlapping_views_are_averaged_by_the_area_of_a_pixel_that_they_cover():
    layout = ImageLayout((1, 3), (View((0, 0, 1.5, 1), (1, 1)), View((1, 0, 2, 1), (1, 1))))
    images = layout.to_image(torch.tensor([[3.0, 9.0]]))
    torch.testing.assert_close(images, torch.tensor([[[3.0, (0.5 * 3 + 9) / 1.5, 0.0]]]))
    assert layout.visible.tolist() == [[True, True, False]]


def test_cells_hold_the_covered_share_of_their_part_of_the_image():
    layout = ImageLayout((4, 6), (View((-1, 0, 7, 4), (2, 4)),))
    boxes = [[0, 0, 3, 4], [2, 1, 5, 3]]
    masks = torch.stack([build_region_mask(4, 6, (4, 6), [box]) for box in boxes])
    values, _ = layout.to_cells(masks)
    expected = [[1, 1, 0, 0, 1, 1, 0, 0], [0, 0.25, 0.5, 0, 0, 0.25, 0.5, 0]]
    torch.testing.assert_close(values, torch.tensor(expected))
    finer = torch.stack([build_region_mask(4, 6, (12, 18), [box]) for box in boxes])
    torch.testing.assert_close(layout.to_cells(finer)[0], values)
    torch.testing.assert_close(layout.to_cells(masks.double())[0], values.double())


def test_masks_are_averaged_a_few_at_a_time(monkeypatch):
    layout, masks = build_layout("clip"), torch.rand(5, 161, 243)
    together = layout.to_cells(masks)
    monkeypatch.setattr(image_layout, "MAX_PIXELS_AT_ONCE", 2 * 161 * 243)
    for one, other in zip(together, layout.to_cells(masks), strict=True):
        torch.testing.assert_close(one, other)
    values, is_visible = layout.to_cells(masks[:0])
    assert values.shape == (0, layout.num_cells) and is_visible.shape == (0,)


@pytest.mark.parametrize("family", CASES)
def test_centres_of_cells_are_seen_by_their_cells(family):
    layout = build_layout(family)
    cells = torch.nonzero(layout.visible_cells).flatten()
    is_inside = layout.points_to_cells(layout.cells_to_points(cells))
    assert is_inside[torch.arange(len(cells)), cells].all()
    tiles = len(layout.views)
    assert (is_inside.sum(dim=1) == (1 if tiles == 1 else 2)).all()


def test_points_outside_the_visible_part_have_no_cell():
    layout = ImageLayout((4, 8), (View((2, 0, 6, 4), (2, 2)),))
    points = torch.tensor([[1.9, 1.0], [2.0, 0.0], [5.9, 3.9], [6.0, 1.0], [3.0, -1.0]])
    assert layout.points_to_cells(points).long().tolist() == [[0] * 4, [1, 0, 0, 0], [0, 0, 0, 1], [0] * 4, [0] * 4]
    padded = layout.pad((2, 5))
    assert padded.visible_cells.tolist() == 2 * [True, True, True, False, False]
    with pytest.raises(ValueError, match="`cells` has 3, which sees no part of the image"):
        padded.cells_to_points(torch.tensor([0, 3]))


@pytest.mark.parametrize("boxes", [[(0, 0, 5, 3)], [(1.5, -1, 4, 4)], [(0, 0, 2.5, 3), (2.5, 0, 5, 3), (0, 0, 5, 3)]])
def test_gradients_of_both_orders_reach_the_maps(boxes):
    layout = ImageLayout((3, 5), tuple(View(box, (1, 2)) for box in boxes))
    maps = torch.rand(1, layout.num_cells, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layout.to_image, maps)
    assert torch.autograd.gradgradcheck(lambda maps: layout.to_image(maps).square(), maps)


def test_maps_of_low_precision_are_resized_in_float32():
    layout = build_layout("clip")
    maps = torch.rand(2, layout.num_cells).bfloat16()
    assert torch.equal(layout.to_image(maps), layout.to_image(maps.float()))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: View((0, 0, 0, 4), (1, 1)), r"`box` is \(0, 0, 0, 4\)"),
        (lambda: View((0, 0, float("nan"), 4), (1, 1)), "`box` is .* finite"),
        (lambda: View((0, 0, 4, 4), (0, 1)), r"`grid` is \(0, 1\)"),
        (lambda: ImageLayout((4, 4), ()), "`views` is empty"),
        (lambda: ImageLayout((0, 4), (View((0, 0, 4, 4), (1, 1)),)), r"`image_size` is \(0, 4\)"),
        (lambda: ImageLayout((4, 4), (View((4, 0, 8, 4), (1, 1)),)), r"`views\[0\]` .* outside the image of 4 x 4"),
        (lambda: build_layout("clip").pad((2, 2)), r"`grid` is \(2, 2\), but the layout has the grids \[\(8, 8\)\]"),
        (lambda: build_layout("clip").to_image(torch.rand(2, 65)), r"`maps` has shape \(2, 65\), but .* has 64 cells"),
        (lambda: build_layout("clip").to_cells(torch.rand(9, 9)), r"`masks` has shape \(9, 9\)"),
        (lambda: build_layout("clip").to_cells(torch.full((1, 2, 2), 255.0)), "`masks` holds values from 255 to 255"),
        (lambda: build_layout("clip").to_cells(torch.full((1, 2, 2), float("nan"))), "`masks` holds values from nan"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_example_of_the_page_gives_what_it_says(capsys):
    blocks = re.findall(r"```python\n(.*?)```", (PROJECT_FOLDER / "docs" / "grounders.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "import read_layout" in block]
    names: dict = {}
    exec(block, names)
    (printed,) = re.findall(r"print\(.*\) *# (.*)", block)
    pattern = re.escape(printed).replace(r"\.\.\.", r"\d+")
    assert re.fullmatch(pattern, capsys.readouterr().out.strip())
    assert names["heatmaps"].shape == (3, 480, 640) and names["values"].shape == (3, 49)
    assert names["is_visible"].tolist() == [False, True, False]
