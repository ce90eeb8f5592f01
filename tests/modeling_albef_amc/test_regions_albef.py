# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Region masks, run-length coding, points and boxes of heatmaps."""

import json
import logging
import time
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from testing_utils import GOLDEN_FOLDER

from albef_amc.regions_albef import (
    boxes_from_heatmap,
    build_region_mask,
    clamp_boxes,
    decode_rle,
    encode_rle,
    find_point,
    resize_heatmap,
)

GOLDEN = GOLDEN_FOLDER / "metrics"


@pytest.fixture
def warnings_logged(caplog):
    logging.Logger.warning_once.cache_clear()
    caplog.set_level(logging.WARNING)
    return caplog


def build_disk(height=20, width=30):
    rows, columns = np.mgrid[:height, :width]
    return (rows - 9.5) ** 2 + (columns - 14.5) ** 2 < 49


# Run-length coding; the strings were written by pycocotools.


def build_corners():
    mask = np.zeros((300, 4), dtype=bool)
    mask[0, 0] = mask[250:, 1] = mask[:7, 3] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "counts"),
    [
        (build_disk(), "W56=2N2N2N2O0000000001N2N2N2Nj4"),
        (build_corners(), "01Ua0a1WHeNI"),
        (np.zeros((3, 2), dtype=bool), "6"),
        (np.ones((3, 2), dtype=bool), "06"),
    ],
)
def test_run_length_strings_equal_those_of_coco(mask, counts):
    assert encode_rle(mask) == {"size": list(mask.shape), "counts": counts}
    for form in (counts, counts.encode()):
        assert np.array_equal(decode_rle({"size": mask.shape, "counts": form}), mask)


def test_run_length_round_trip():
    generator = np.random.default_rng(0)
    for _ in range(50):
        height, width = generator.integers(1, 70, 2)
        mask = generator.random((height, width)) < generator.random()
        assert np.array_equal(decode_rle(encode_rle(mask)), mask)


def test_uncompressed_runs():
    assert decode_rle({"size": [2, 2], "counts": [1, 3]}).tolist() == [[False, True], [True, True]]


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [20, 31], "counts": "W56=2N2N2N2O0000000001N2N2N2Nj4"}, r"cover 600 pixels .* \[20, 31\] has 620"),
        ({"size": [20, 30], "counts": "W56=2N2N2N2O0000000001N2N2N2Nj"}, "ends inside a number"),
        ({"size": [2, 2], "counts": "1 3"}, "holds ' '"),
        ({"size": [2, 2], "counts": [4, -1]}, "run 1 of a mask is -1"),
        ({"counts": "13"}, "dict with `size`"),
        ("13", "dict with `size`"),
    ],
)
def test_damaged_run_lengths(rle, message):
    with pytest.raises(ValueError, match=message):
        decode_rle(rle)


HUGE = 10**400
WRAPS_TO_SIX = [1 << 62] * 4 + [6]  # the sum of 64-bit integers is 6


def write_number(number):
    """A number in the alphabet of compressed run lengths, however large it is."""
    text = []
    while number > 15:
        text.append(chr(48 + (number & 0x1F | 0x20)))
        number >>= 5
    return "".join([*text, chr(48 + number)])


@pytest.mark.parametrize(
    "counts",
    [
        WRAPS_TO_SIX,
        tuple(WRAPS_TO_SIX),
        np.array(WRAPS_TO_SIX),
        "".join(map(write_number, WRAPS_TO_SIX)),
        "".join(map(write_number, WRAPS_TO_SIX)).encode(),
        [-(1 << 63), 1 << 62, 1 << 62, 6],
        [7, -1],
        [HUGE],
        [6, HUGE],
        [1.5, 4.5],
        [float("nan"), 6],
        [float("inf")],
        [True, 5],
        np.array([True] * 6),
        ["6"],
        [None],
        [[6]],
        [6, 0, "0"],
        {"6": 6},
        6,
        6.0,
        None,
        write_number(7),
        "0" * 9 + write_number(6) + "P" * 100_000,
        "P" * 100_000 + "0",
        "o" * 7 + "0",
        "é",
        "6\ud800",
        [],
        "",
    ],
    ids=lambda counts: str(type(counts).__name__),
)
def test_runs_that_do_not_fit_the_mask_are_refused_before_they_are_used(counts):
    for size in (None, (2, 3)):
        with pytest.raises(ValueError, match=r"(mask|`counts`)") as caught:
            decode_rle({"size": [2, 3], "counts": counts}, size)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "size",
    [[1_000_000, 1_000_000], [HUGE, 1], [1, HUGE], [-2, -3], [0, 6], [2.5, 2.4], [float("inf"), 1], [float("nan"), 6]]
    + [[True, 6], ["2", "3"], [6], [1, 2, 3], 6, None, "23", {"2": 3}, [1 << 32, 1 << 32], [10**5000, 1]],
    ids=lambda size: str(type(size).__name__),
)
@pytest.mark.parametrize("counts", [[6], [10**12], write_number(10**12), "6"])
def test_sizes_that_no_image_has_are_refused_before_memory_is_taken(size, counts):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="a mask"):
            decode_rle({"size": size, "counts": counts})
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_image_bounds_its_masks():
    mask = encode_rle(build_disk())
    assert decode_rle(mask, (20, 30)).sum() == build_disk().sum()
    for size in ((30, 20), (600, 1), (20, 31)):
        with pytest.raises(ValueError, match=r"a mask has size \[20, 30\] but its image is"):
            decode_rle(mask, size)
    with pytest.raises(ValueError, match="its image is"):
        decode_rle({"size": [1_000_000, 1_000_000], "counts": [10**12]}, (20, 30))


@pytest.mark.parametrize("counts", [[0] * 10_000_001, "0" * 10_000_001], ids=["list", "text"])
def test_a_mask_of_endless_empty_runs_is_refused(counts):
    with pytest.raises(ValueError, match="has 10000001 entries, more than 10000000"):
        decode_rle({"size": [2, 3], "counts": counts})


@pytest.mark.parametrize("convert", [list, tuple, np.array, torch.tensor, lambda runs: [float(run) for run in runs]])
def test_runs_may_come_in_any_container(convert):
    mask = decode_rle({"size": convert([2, 3]), "counts": convert([1, 2, 0, 3])})
    assert mask.tolist() == [[False, True, True], [True, True, True]]


def test_long_strings_of_wide_runs_are_decoded():
    """Runs of every number of characters, differences of both signs."""
    runs = [0, 1, 40, 2_000, 90_000, 3_000_000, 31, 5, 600_000, 17, 0, 2, 32, 1_024]
    mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs)[None]
    again = decode_rle(encode_rle(mask))
    assert np.array_equal(again, mask)
    generator = np.random.default_rng(1)
    noise = generator.random((400, 300)) < 0.5
    assert np.array_equal(decode_rle(encode_rle(noise)), noise)


# Region masks.


def test_box_on_mask_pixels_is_exact():
    expected = torch.zeros(4, 8)
    expected[1:3, 2:6] = 1
    assert torch.equal(build_region_mask(40, 80, (4, 8), boxes=[[20, 10, 60, 30]]), expected)


def test_box_covers_shares_of_mask_pixels():
    region = build_region_mask(4, 4, (2, 2), boxes=[[1, 1, 3, 2]])
    assert torch.equal(region, torch.tensor([[0.25, 0.25], [0.0, 0.0]]))


def test_box_area_is_kept():
    region = build_region_mask(333, 517, (24, 16), boxes=[[13.3, 27.9, 411.2, 222.2]])
    assert region.mean().item() == pytest.approx((411.2 - 13.3) * (222.2 - 27.9) / (333 * 517), rel=1e-6)


def test_boxes_are_united_by_the_maximum():
    region = build_region_mask(2, 2, (1, 1), boxes=[[0, 0, 1, 2], [0, 0, 2, 1]])
    assert region.item() == 0.5


def test_boxes_are_drawn_to_the_last_bit():
    """Each box over the complete mask, in float64 and rounded once."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        (height, width), mask_size = generator.integers(1, 700, 2).tolist(), generator.integers(1, 300, 2).tolist()
        corners = np.sort(generator.uniform(-0.2, 1.2, (2, 2, 3)), axis=0) * [[[width], [height]]]
        boxes = corners.transpose(2, 0, 1).reshape(3, 4)
        expected = np.zeros(mask_size)
        for x_min, y_min, x_max, y_max in clamp_boxes(boxes, height, width)[0].tolist():
            shares = []
            for start, end, side, cells in ((y_min, y_max, height, mask_size[0]), (x_min, x_max, width, mask_size[1])):
                first = np.arange(cells)
                last = np.minimum(end * cells / side, first + 1)
                shares.append((last - np.maximum(start * cells / side, first)).clip(0, 1))
            expected = np.maximum(expected, np.outer(*shares))
        drawn = build_region_mask(height, width, mask_size, boxes=boxes)
        assert torch.equal(drawn, torch.from_numpy(expected).float())


def test_box_mask_equals_the_image_geometry():
    """A white box on black, resized like an image by averaging, is the region mask."""
    picture = np.zeros((60, 90), np.float32)
    picture[12:33, 17:71] = 1
    resized = np.asarray(Image.fromarray(picture).resize((9, 6), Image.Resampling.BOX))
    region = build_region_mask(60, 90, (6, 9), boxes=[[17, 12, 71, 33]])
    np.testing.assert_allclose(region, resized, atol=1e-6)


def test_polygon_of_a_box_equals_the_box():
    box, polygon = [8.0, 5.0, 52.0, 30.0], [8, 5, 52, 5, 52, 30, 8, 30]
    as_box = build_region_mask(40, 64, (40, 64), boxes=[box])
    assert torch.equal(build_region_mask(40, 64, (40, 64), polygons=[polygon]), as_box)
    clockwise = [8, 5, 8, 30, 52, 30, 52, 5]
    assert torch.equal(build_region_mask(40, 64, (40, 64), polygons=[clockwise]), as_box)


def test_polygon_area_and_place():
    triangle = [10.0, 10.0, 90.0, 20.0, 30.0, 70.0]
    region = build_region_mask(100, 100, (25, 25), polygons=[triangle])
    area = abs((90 - 10) * (70 - 10) - (30 - 10) * (20 - 10)) / 2
    assert region.mean().item() == pytest.approx(area / 100**2, rel=2e-3)
    picture = Image.new("L", (1600, 1600))
    ImageDraw.Draw(picture).polygon([value * 16 for value in triangle], fill=1)
    expected = np.asarray(picture, dtype=np.float64).reshape(25, 64, 25, 64).mean(axis=(1, 3))
    np.testing.assert_allclose(region, expected, atol=0.04)


def test_polygon_with_a_hole_by_the_even_odd_rule():
    ring = [0, 0, 4, 0, 4, 4, 0, 4, 0, 0, 1, 1, 3, 1, 3, 3, 1, 3, 1, 1]
    assert build_region_mask(4, 4, (4, 4), polygons=[ring]).sum() == 12


def test_polygons_outside_and_degenerate():
    assert build_region_mask(4, 4, (4, 4), polygons=[[-5, -5, 2, -5, 2, 9, -5, 9]]).sum() == 8
    assert build_region_mask(4, 4, (4, 4), polygons=[[9, 9, 12, 9, 12, 12], [1, 1, 2, 2], []]).sum() == 0


@pytest.mark.parametrize(
    "polygon",
    [[1, 2, 3], [[1, 2], [3, 4], [5, 6]], [1, 2, 3, float("nan"), 5, 6], [0, 0, HUGE, 0, 5, 5], [0, 0, 1e308, 0, 5, 5]]
    + [[0, 0, "9", 0, 5, 5], [0, 0, True, 0, 5, 5], [0, 0, None, 0, 5, 5], [0, 0, 10**5000, 0, 5, 5], 7, None],
    ids=lambda polygon: str(type(polygon).__name__),
)
def test_malformed_polygons(polygon):
    with pytest.raises(ValueError, match="a polygon must be a flat list of finite numbers"):
        build_region_mask(4, 4, (4, 4), polygons=[polygon])


def test_polygons_with_many_corners_take_bounded_memory_and_too_many_are_refused():
    angles = np.linspace(0, 2 * np.pi, 9_000, endpoint=False)
    circle = np.stack([50 + 40 * np.cos(angles), 50 + 40 * np.sin(angles)], axis=1).ravel()
    tracemalloc.start()
    try:
        region = build_region_mask(100, 100, (256, 256), polygons=[circle])
        assert tracemalloc.get_traced_memory()[1] < 150e6
    finally:
        tracemalloc.stop()
    assert region.mean().item() == pytest.approx(np.pi * 0.4**2, rel=1e-4)
    with pytest.raises(ValueError, match="a polygon has 10001 corners, more than 10000"):
        build_region_mask(100, 100, (8, 8), polygons=[[1.0, 2.0] * 10_001])


@pytest.mark.parametrize("mask_size", [(20, 30), (5, 6), (7, 11), (64, 50)])
def test_run_length_masks_are_area_averaged(mask_size):
    disk = build_disk()
    region = build_region_mask(20, 30, mask_size, masks=[encode_rle(disk)])
    fine = np.kron(disk, np.ones((mask_size[0], mask_size[1])))
    expected = fine.reshape(mask_size[0], 20, mask_size[1], 30).mean(axis=(1, 3))
    np.testing.assert_allclose(region, expected, atol=1e-6)


def test_mask_of_another_image_is_refused():
    with pytest.raises(ValueError, match=r"a mask has size \[20, 30\] but its image is \[30, 20\]"):
        build_region_mask(30, 20, (4, 4), masks=[encode_rle(build_disk())])


def test_shapes_of_all_kinds_are_united():
    mask = np.zeros((4, 4), dtype=bool)
    mask[3, 3] = True
    region = build_region_mask(
        4, 4, (4, 4), boxes=[[0, 0, 1, 1]], polygons=[[3, 0, 4, 0, 4, 1, 3, 1]], masks=[encode_rle(mask)]
    )
    assert region.nonzero().tolist() == [[0, 0], [0, 3], [3, 3]]
    assert region.dtype == torch.float32


def test_no_annotation_is_an_empty_region():
    assert build_region_mask(4, 4, (2, 2)).sum() == 0


def test_boxes_partly_outside_are_clamped_and_logged_once(warnings_logged):
    for _ in range(2):
        boxes, num_dropped = clamp_boxes([[-5, 2, 3, 99], [1, 1, 2, 2]], height=10, width=8)
        assert boxes.tolist() == [[0, 2, 3, 10], [1, 1, 2, 2]]
        assert num_dropped == 0
    assert [record.message for record in warnings_logged.records] == [
        "Some boxes leave their image: they are cut off at its border."
    ]


def test_boxes_without_area_are_dropped_counted_and_logged_once(warnings_logged):
    for _ in range(2):
        boxes, num_dropped = clamp_boxes([[1, 1, 1, 5], [20, 20, 30, 30], [0, 0, 2, 2]], height=10, width=8)
        assert boxes.tolist() == [[0, 0, 2, 2]]
        assert num_dropped == 2
    assert [record.message for record in warnings_logged.records].count(
        "Some boxes have no area inside their image: they are dropped."
    ) == 1


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([5, 0, 2, 3], "x_max, y_max must not lie before"),
        ([0, 5, 2, 3], r"not \[x, y, width, height\]"),
        ([0, 0, float("nan"), 3], "must be finite"),
        ([0, 0, float("inf"), 3], "must be finite"),
        ([0, 0, HUGE, 3], "must be finite"),
        ([0, 0, 10**5000, 3], "must be finite"),
        ([0, 0, "2", 3], "must be finite"),
        ([0, 0, None, 3], "must be finite"),
        ([0, 0, True, 3], "must be finite"),
        ([0, 0, [2], 3], "must be finite"),
        ([0, 0, 2], "four numbers"),
        ("0023", "four numbers"),
        (3, "four numbers"),
    ],
)
def test_reversed_and_not_finite_boxes(box, message):
    with pytest.raises(ValueError, match=f"box 1 is .*{message}"):
        clamp_boxes([[0, 0, 1, 1], box], height=10, width=8)


@pytest.mark.parametrize("convert", [np.array, torch.tensor, tuple, lambda boxes: [np.array(box) for box in boxes]])
def test_boxes_may_come_in_any_container(convert):
    expected = [[0.0, 1.0, 2.0, 3.0], [4.0, 4.0, 8.0, 9.0]]
    assert clamp_boxes(convert([[0, 1, 2, 3], [4, 4, 8, 9]]), height=10, width=8)[0].tolist() == expected
    assert clamp_boxes(convert([[0.0, 1.0, 2.0, 3.0]]), height=10, width=8)[0].tolist() == expected[:1]


# Heatmaps.


@pytest.mark.parametrize(("kind", "mode"), [("refcoco", "point_mode"), ("flickr", "flickr")])
def test_points_equal_the_reference_outputs(kind, mode):
    heatmaps = load_file(GOLDEN / "heatmaps.safetensors")[kind]
    items = json.loads((GOLDEN / "inputs.json").read_text())[kind]["items"]
    points = json.loads((GOLDEN / "outputs.json").read_text())[mode]["point_xy"]
    for heatmap, item, point in zip(heatmaps, items, points, strict=True):
        assert find_point(resize_heatmap(heatmap, item["height"], item["width"])).tolist() == point


def test_resize_is_bicubic_and_overshoots():
    heatmap = torch.zeros(2, 3, 4, 4)
    heatmap[..., 1, 2] = 1
    resized = resize_heatmap(heatmap, 30, 20)
    assert resized.shape == (2, 3, 30, 20)
    assert resized.min() < 0
    assert resize_heatmap(heatmap.bfloat16(), 30, 20).dtype == torch.float32
    assert resize_heatmap(heatmap.double(), 30, 20).dtype == torch.float64


def test_first_maximum_in_row_major_order():
    heatmap = torch.tensor([[0, 1, 5], [5, 5, 0]])
    assert find_point(heatmap).tolist() == [2, 0]
    assert find_point(torch.stack([heatmap, heatmap.flip(0)])).tolist() == [[2, 0], [0, 0]]
    assert find_point(torch.zeros(3, 3)).tolist() == [0, 0]


def test_boxes_are_tight_and_half_open():
    heatmap = torch.zeros(6, 8)
    heatmap[1:3, 2:5] = 0.6
    heatmap[4, 6] = 1.0
    heatmap[5, 0] = 0.4
    boxes, scores = boxes_from_heatmap(heatmap, 0.5)
    assert boxes.tolist() == [[6, 4, 7, 5], [2, 1, 5, 3]]
    assert scores.tolist() == pytest.approx([1.0, 0.6])


def test_corners_connect():
    boxes, _ = boxes_from_heatmap(torch.eye(4), 0.5)
    assert boxes.tolist() == [[0, 0, 4, 4]]
    boxes, _ = boxes_from_heatmap(torch.eye(4).flip(0), 0.5)
    assert boxes.tolist() == [[0, 0, 4, 4]]


def test_runs_at_the_borders_do_not_wrap_around():
    heatmap = torch.zeros(3, 4)
    heatmap[0, 3] = heatmap[1, 0] = 1
    boxes, _ = boxes_from_heatmap(heatmap, 0.5)
    assert boxes.tolist() == [[3, 0, 4, 1], [0, 1, 1, 2]]


def test_the_box_of_the_point_comes_first_among_equals():
    heatmap = torch.zeros(5, 9)
    heatmap[0, 0] = 0.9
    heatmap[1:4, 0] = 0.9
    heatmap[3, 0] = 1
    heatmap[2, 6] = 1
    boxes, scores = boxes_from_heatmap(heatmap, 0.5)
    assert boxes.tolist() == [[6, 2, 7, 3], [0, 0, 1, 4]]
    assert scores.tolist() == [1, 1]


def test_all_above_the_threshold_and_nothing_positive():
    assert boxes_from_heatmap(torch.ones(5, 7), 1.0)[0].tolist() == [[0, 0, 7, 5]]
    for heatmap in (torch.zeros(4, 4), -torch.ones(4, 4)):
        boxes, scores = boxes_from_heatmap(heatmap, 0.5)
        assert boxes.shape == (0, 4) and scores.shape == (0,)


def flood_fill(kept):
    """Bounding boxes of 8-connected parts, pixel by pixel."""
    seen, boxes = np.zeros_like(kept), set()
    for row, column in zip(*np.nonzero(kept), strict=True):
        if seen[row, column]:
            continue
        stack, part = [(row, column)], []
        seen[row, column] = True
        while stack:
            y, x = stack.pop()
            part.append((y, x))
            for v in range(max(y - 1, 0), min(y + 2, kept.shape[0])):
                for u in range(max(x - 1, 0), min(x + 2, kept.shape[1])):
                    if kept[v, u] and not seen[v, u]:
                        seen[v, u] = True
                        stack.append((v, u))
        ys, xs = zip(*part, strict=True)
        boxes.add((min(xs), min(ys), max(xs) + 1, max(ys) + 1))
    return boxes


@pytest.mark.parametrize("seed", range(30))
def test_parts_equal_a_flood_fill(seed):
    generator = np.random.default_rng(seed)
    height, width = generator.integers(1, 40, 2)
    heatmap = torch.from_numpy(generator.random((height, width)))
    boxes, _ = boxes_from_heatmap(heatmap, 0.2 + 0.75 * seed / 30)
    kept = (heatmap >= (0.2 + 0.75 * seed / 30) * heatmap.max()).numpy()
    assert {tuple(box) for box in boxes.int().tolist()} == flood_fill(kept)


def test_spiral_is_one_part():
    heatmap = torch.zeros(41, 41)
    row = column = 20
    step_row, step_column = 0, 1
    for length in range(2, 40, 2):
        for _ in range(2):
            for _ in range(length):
                if 0 <= row < 41 and 0 <= column < 41:
                    heatmap[row, column] = 1
                row, column = row + step_row, column + step_column
            step_row, step_column = step_column, -step_row
    assert len(boxes_from_heatmap(heatmap, 0.5)[0]) == len(flood_fill(heatmap.numpy() > 0))


def test_boxes_take_a_fraction_of_a_flood_fill_and_grow_no_faster_than_the_map():
    grid = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    small, large = resize_heatmap(grid, 240, 320), resize_heatmap(grid, 3000, 4000)
    assert len(boxes_from_heatmap(small, 0.5)[0]) > 1

    def measure(function, *arguments) -> float:
        """Processor seconds, the least of five."""
        spent = []
        for _ in range(5):
            began = time.process_time()
            function(*arguments)
            spent.append(time.process_time() - began)
        return min(spent)

    seconds = measure(boxes_from_heatmap, small, 0.5)
    assert seconds < measure(flood_fill, (small >= 0.5 * small.max()).numpy()) / 10
    assert measure(boxes_from_heatmap, large, 0.5) < seconds * large.numel() / small.numel()


@pytest.mark.parametrize(
    ("size", "region", "message"),
    [
        ((30, 40), {"polygons": [[1, 2, 9, 2, 9, 9]] * 2001}, "2001 polygons, more than 2000"),
        ((30, 40), {"masks": [{"size": [30, 40], "counts": [1200]}] * 2001}, "2001 masks, more than 2000"),
        ((10000, 10000), {"masks": [{"size": [10000, 10000], "counts": [10**8]}] * 21}, "21 masks, more than 20"),
    ],
)
def test_a_region_of_outlines_without_bound_is_refused_before_it_is_drawn(size, region, message):
    with pytest.raises(ValueError, match=message):
        build_region_mask(*size, (4, 4), **region)


def test_a_crowd_of_outlines_is_drawn():
    polygons = [[x, y, x + 9, y, x + 9, y + 9] for x in range(0, 400, 20) for y in range(0, 400, 20)]
    assert build_region_mask(400, 400, (8, 8), polygons=polygons).gt(0).any()
