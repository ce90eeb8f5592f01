# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Regions of an image: masks of annotations, points and boxes of heatmaps, run-length coded masks.

Coordinates are continuous pixels of the stored image after EXIF rotation: pixel (column c, row r) is the square
[c, c + 1) x [r, r + 1), and a box x_min, y_min, x_max, y_max is [x_min, x_max) x [y_min, y_max).
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers.utils import ModelOutput, logging

from .explanation_albef import at_least_float32
from .ranges_albef import MAX_IMAGE_PIXELS, Range, shorten_value

logger = logging.get_logger(__name__)

BOX_THRESHOLD = 0.5  # minimum value of a box's pixels, as a share of the map's maximum
BOX_THRESHOLDS = Range(0, 1, is_above=True)
POLYGON_LINES_PER_PIXEL = 8
# Pixels; a larger coordinate is damaged data, and products with it would overflow.
MAX_COORDINATE = 1e6
# Outlines of objects have a few hundred corners; drawing time grows with their number.
MAX_POLYGON_CORNERS = 10_000
# Limit on the polygons, and on the masks, of one region; crowds have a few hundred.
MAX_REGION_OUTLINES = 2_000
# Limit on the total pixels of all masks of a region; each mask has the size of its image.
MAX_REGION_PIXELS = 2_000_000_000
# Limit on lines x edges in memory while a polygon is drawn.
MAX_CROSSINGS = 1 << 21
# Columns of a mask that are averaged at once, to save memory.
COLUMNS_AT_ONCE = 256
# Limit on runs of a mask and characters of its run-length string; noisy masks of ten million pixels have fewer.
MAX_RUNS = 10_000_000
# 35 bits, enough for a run of the largest image and for the difference of two runs.
MAX_RUN_CHARACTERS = 7


def build_region_mask(
    height: int,
    width: int,
    mask_size: tuple[int, int],
    boxes: Sequence[Sequence[float]] | None = None,
    polygons: Sequence[Sequence[float]] | None = None,
    masks: Sequence[dict] | None = None,
) -> torch.Tensor:
    """Draw an annotated region as the covered share of every mask pixel, with the same geometry as the image.

    The image is resized without cropping, so x is scaled by mask width / image width and y by mask height / image
    height. Boxes are covered analytically, polygons (even-odd rule) exactly along x and on
    `POLYGON_LINES_PER_PIXEL` lines per mask pixel along y, run-length masks by area averaging. Several shapes are
    joined by the maximum of their shares. Parts outside the image are cut off.

    Args:
        height, width (`int`): size of the stored image in pixels.
        mask_size (`tuple[int, int]`): mask height and width.
        boxes (sequence of four `float`, *optional*): x_min, y_min, x_max, y_max.
        polygons (sequence of flat x, y lists, *optional*): all polygons of the region.
        masks (sequence of `dict`, *optional*): COCO run-length masks of the image's size.

    Returns:
        `torch.Tensor` of shape `mask_size`, float32, in [0, 1]; all zero when the region has no area.

    Raises:
        ValueError: a box, polygon or mask is damaged, or a mask has another size than the image.

    Example:

    ```python
    >>> from albef_amc.regions_albef import build_region_mask
    >>> build_region_mask(4, 4, (2, 2), boxes=[[0, 0, 3, 2]])
    tensor([[1.0000, 0.5000],
            [0.0000, 0.0000]])

    ```
    """
    check_outline_counts(len(polygons or ()), len(masks or ()), height, width)
    mask_height, mask_width = mask_size
    region = np.zeros((mask_height, mask_width), dtype=np.float32)
    if boxes is not None and len(boxes):
        for x_min, y_min, x_max, y_max in clamp_boxes(boxes, height, width)[0].tolist():
            top, rows = _cover(y_min * mask_height / height, y_max * mask_height / height)
            left, columns = _cover(x_min * mask_width / width, x_max * mask_width / width)
            block = region[top : top + len(rows), left : left + len(columns)]
            np.maximum(block, rows[:, None] * columns, out=block, casting="same_kind")
    for polygon in polygons or []:
        corners = _read_polygon(polygon) * [mask_width / width, mask_height / height]
        np.maximum(region, _cover_polygon(corners, mask_height, mask_width), out=region, casting="same_kind")
    for rle in masks or []:
        mask = decode_rle(rle, (height, width))
        shares = _average_rows(_average_rows(mask, mask_height).T, mask_width).T
        np.maximum(region, shares, out=region, casting="same_kind")
    return torch.from_numpy(region.clip(0, 1, out=region))


def check_outline_counts(num_polygons: int, num_masks: int, height: int, width: int) -> None:
    """Refuse a region with so many outlines that drawing it would take minutes.

    Args:
        num_polygons, num_masks (`int`): outlines of the region.
        height, width (`int`): size of the stored image in pixels.

    Raises:
        ValueError: more than `MAX_REGION_OUTLINES` of a kind, or masks of more than `MAX_REGION_PIXELS` together.
    """
    allowed = min(MAX_REGION_OUTLINES, MAX_REGION_PIXELS // max(1, height * width))
    for name, count, limit in (("polygons", num_polygons, MAX_REGION_OUTLINES), ("masks", num_masks, allowed)):
        if count > limit:
            raise ValueError(
                f"a region has {count} {name}, more than {limit} (in an image of {width} x {height} pixels). Unite "
                "them in one mask."
            )


def clamp_boxes(boxes: Sequence[Sequence[float]], height: int, width: int) -> tuple[torch.Tensor, int]:
    """Clip boxes at the image's border and drop those without area.

    Boxes that leave the image are cut (logged once); empty boxes and boxes outside the image are dropped and counted
    (logged once). A box that is not finite, or whose corners are in the wrong order, is an error: it suggests
    another format (such as x, y, width, height).

    Args:
        boxes (sequence of four `float`): x_min, y_min, x_max, y_max in pixels.
        height, width (`int`): size of the stored image in pixels.

    Returns:
        `tuple[torch.Tensor, int]`: boxes of shape `(num_kept, 4)`, float32, and how many were dropped.
    """
    table = check_boxes(boxes)
    clamped = table.clip(0, [width, height, width, height])
    if (clamped != table).any():
        logger.warning_once("Some boxes leave their image: they are cut off at its border.")
    if ((table >= 0) & (table <= 1)).all(axis=1).any() and max(height, width) > 1:
        logger.warning_once("Some boxes lie within 0..1, less than a pixel. Boxes are in pixels, not in shares.")
    clamped = clamped[(clamped[:, 2] > clamped[:, 0]) & (clamped[:, 3] > clamped[:, 1])]
    num_dropped = len(table) - len(clamped)
    if num_dropped:
        logger.warning_once("Some boxes have no area inside their image: they are dropped.")
    return torch.from_numpy(clamped).float(), num_dropped


def check_boxes(boxes: Sequence[Sequence[float]]) -> np.ndarray:
    """Check boxes and return them as an array of shape `(num_boxes, 4)`, float64.

    Args:
        boxes (sequence of four `float`): x_min, y_min, x_max, y_max in pixels, also outside the image.

    Raises:
        ValueError: a box is not four finite numbers, or its corners are in the wrong order; the message names the box.
    """
    if not hasattr(boxes, "__len__"):
        raise ValueError(
            f"boxes are {shorten_value(boxes)}, where a list of [x_min, y_min, x_max, y_max] is expected."
        )
    table = np.zeros((len(boxes), 4))
    for index, box in enumerate(boxes):
        numbers = _read_numbers(box)
        if numbers is None or numbers.shape != (4,):
            raise ValueError(
                f"box {index} is {shorten_value(box)}: its coordinates must be finite, four numbers x_min, y_min, "
                "x_max, y_max. Correct or remove it."
            )
        table[index] = numbers
    for index, corners in enumerate(table):
        if corners[2] < corners[0] or corners[3] < corners[1]:
            raise ValueError(
                f"box {index} is {corners.tolist()}: x_max, y_max must not lie before x_min, y_min. Boxes are "
                "[x_min, y_min, x_max, y_max] in pixels, not [x, y, width, height]."
            )
    return table


def _cover(start: float, end: float) -> tuple[int, np.ndarray]:
    """Find the unit cells that the interval [start, end) touches: the first, and the covered share of each."""
    first = math.floor(start)
    edges = np.arange(first, math.ceil(end))
    return first, (np.minimum(end, edges + 1) - np.maximum(start, edges)).clip(0, 1)


def _read_numbers(values: Any) -> np.ndarray | None:
    """Convert a list, tuple, array or tensor of finite numbers to float64 `(n,)`; anything else gives None."""
    values = values.tolist() if hasattr(values, "tolist") else values
    values = (
        [value.item() if hasattr(value, "item") else value for value in values]
        if isinstance(values, list | tuple)
        else [None]
    )
    largest = float(np.finfo(np.float64).max)  # Python compares integers of any size with a float exactly
    if not all(type(value) in (int, float) and abs(value) <= largest for value in values):
        return None
    return np.array(values, dtype=np.float64)


def _is_listed(values: Any) -> bool:
    return isinstance(values, list | tuple)


def _read_polygon(polygon: Sequence[float]) -> np.ndarray:
    corners = _read_numbers(polygon)
    if corners is None or corners.size % 2 or (np.abs(corners) > MAX_COORDINATE).any():
        raise ValueError(
            f"a polygon must be a flat list of finite numbers x1, y1, x2, y2, ... in pixels, got "
            f"{shorten_value(polygon)}. Polygons of one region form a list of such lists."
        )
    if corners.size > 2 * MAX_POLYGON_CORNERS:
        raise ValueError(
            f"a polygon has {corners.size // 2} corners, more than {MAX_POLYGON_CORNERS}. Simplify it, or give the "
            "region as a mask."
        )
    return corners.reshape(-1, 2)


def _cover_polygon(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    """Compute the share of each mask pixel that a polygon in mask coordinates covers, by the even-odd rule."""
    region = np.zeros((height, width))
    if len(corners) < 3:
        return region
    rows_at_once = max(1, MAX_CROSSINGS // (POLYGON_LINES_PER_PIXEL * max(len(corners), width)))
    for top in range(0, height, rows_at_once):
        rows = min(rows_at_once, height - top)
        lines = top + (np.arange(rows * POLYGON_LINES_PER_PIXEL) + 0.5) / POLYGON_LINES_PER_PIXEL
        region[top : top + rows] = _cover_lines(corners, lines, width).reshape(rows, -1, width).mean(axis=1)
    return region


def _cover_lines(corners: np.ndarray, lines: np.ndarray, width: int) -> np.ndarray:
    """Compute the covered share of each pixel of horizontal lines, `(num_lines, width)`."""
    (x_from, y_from), (x_to, y_to) = corners.T, np.roll(corners, -1, axis=0).T
    crosses = (y_from <= lines[:, None]) != (y_to <= lines[:, None])  # (num_lines, num_edges)
    slopes = (x_to - x_from) / np.where(y_to == y_from, 1, y_to - y_from)
    crossings = np.where(crosses, x_from + (lines[:, None] - y_from) * slopes, np.inf)
    crossings = np.sort(crossings, axis=1)[:, : crosses.sum(axis=1).max()]  # enter, leave, enter, leave, ...
    crossings = crossings.clip(0, width)
    # A crossing that leaves the polygon adds the coverage of all pixels before it; one that enters subtracts it.
    signs = np.broadcast_to(np.where(np.arange(crossings.shape[1]) % 2, 1.0, -1.0), crossings.shape)
    pixels = crossings.astype(np.int64)
    positions = (np.arange(len(lines))[:, None] * (width + 1) + pixels).ravel()
    shape = (len(lines), width + 1)
    parts = np.bincount(positions, ((crossings - pixels) * signs).ravel(), minlength=np.prod(shape)).reshape(shape)
    steps = np.bincount(positions, signs.ravel(), minlength=np.prod(shape)).reshape(shape)
    return parts[:, :-1] + steps[:, :0:-1].cumsum(axis=1)[:, ::-1]


def _average_rows(values: np.ndarray, cells: int) -> np.ndarray:
    """Average areas along the first axis: `(rows, columns)` to `(cells, columns)`, exact for fractional borders."""
    rows, columns = values.shape
    edges = np.arange(cells + 1) * rows / cells
    first_rows = np.minimum(edges.astype(np.int64), rows - 1)
    averages = np.empty((cells, columns))
    for first in range(0, columns, COLUMNS_AT_ONCE):
        block = values[:, first : first + COLUMNS_AT_ONCE]
        sums = np.zeros((rows + 1, block.shape[1]), order="F")
        np.cumsum(block, axis=0, out=sums[1:])
        parts = np.diff(sums[first_rows] + (edges - first_rows)[:, None] * block[first_rows], axis=0)
        averages[:, first : first + COLUMNS_AT_ONCE] = parts * cells / rows
    return averages


def resize_heatmap(heatmap: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize heatmaps to the stored image: bicubic, `align_corners=False`, no anti-aliasing, as published.

    Args:
        heatmap (`torch.Tensor` of shape `(..., grid_height, grid_width)`): raw or normalised.

    Returns:
        `torch.Tensor` of shape `(..., height, width)`; it may overshoot the range of the input on both sides.
    """
    rows = at_least_float32(heatmap).reshape(-1, 1, *heatmap.shape[-2:])
    resized = functional.interpolate(rows, size=(height, width), mode="bicubic", align_corners=False)
    return resized.reshape(*heatmap.shape[:-2], height, width)


def find_point(heatmap: torch.Tensor) -> torch.Tensor:
    """Find the first maximum in row-major order.

    Args:
        heatmap (`torch.Tensor` of shape `(..., height, width)`).

    Returns:
        `torch.Tensor` of shape `(..., 2)`, int64: x, y in pixels of the map.
    """
    index = heatmap.flatten(-2).argmax(dim=-1)
    return torch.stack([index % heatmap.shape[-1], index // heatmap.shape[-1]], dim=-1)


def boxes_from_heatmap(heatmap: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the tightest boxes around the connected parts of a heatmap above a share of its maximum.

    Pixels that touch at a side or a corner are connected (8-connectivity). The score of a box is the maximum inside
    its part as a share of the map's maximum. Boxes are sorted by descending score, after the box of the map's point
    (first maximum, [`find_point`]).

    Args:
        heatmap (`torch.Tensor` of shape `(height, width)`): boxes are in its pixels.
        threshold (`float`): minimum value of a pixel, as a share in (0, 1] of the maximum.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: boxes of shape `(num_boxes, 4)` and scores of shape `(num_boxes,)`,
        float32. Empty when the map has no positive value.
    """
    pixels = heatmap.detach().cpu().numpy()
    peak = pixels.max()
    if peak <= 0:
        return torch.zeros(0, 4), torch.zeros(0)
    stride = pixels.shape[1] + 2  # two spare columns keep runs of neighbouring rows apart
    kept = np.zeros((pixels.shape[0], stride), dtype=bool)
    kept[:, 1:-1] = pixels >= threshold * peak
    borders = np.flatnonzero(kept.ravel()[1:] != kept.ravel()[:-1]) + 1
    starts, ends = borders[::2], borders[1::2]
    parts, part_of_run = np.unique(_join_runs(starts, ends, stride), return_inverse=True)
    rows = starts // stride
    values = pixels[kept[:, 1:-1]]
    peaks = np.maximum.reduceat(values, np.concatenate([[0], np.cumsum(ends - starts)[:-1]]))
    boxes = np.empty((len(parts), 4))
    boxes[:, :2], boxes[:, 2:] = np.inf, -np.inf
    np.minimum.at(boxes[:, 0], part_of_run, starts - rows * stride - 1)
    np.minimum.at(boxes[:, 1], part_of_run, rows)
    np.maximum.at(boxes[:, 2], part_of_run, ends - rows * stride - 1)
    np.maximum.at(boxes[:, 3], part_of_run, rows + 1)
    scores = np.zeros(len(parts))
    np.maximum.at(scores, part_of_run, peaks / peak)
    x, y = find_point(heatmap).tolist()
    point_part = part_of_run[np.searchsorted(starts, y * stride + x + 1, side="right") - 1]
    order = np.lexsort([-scores, np.arange(len(parts)) != point_part])
    return torch.from_numpy(boxes[order]).float(), torch.from_numpy(scores[order]).float()


def _join_runs(starts: np.ndarray, ends: np.ndarray, stride: int) -> np.ndarray:
    """Label runs of pixels (flat positions, row length `stride`) so that touching runs of adjacent rows share one."""
    first = np.searchsorted(ends + stride, starts - 1, side="right")  # runs of the row above that reach this one
    last = np.searchsorted(starts + stride, ends + 1, side="left")
    counts = np.maximum(last - first, 0)
    below = np.repeat(np.arange(len(starts)), counts)
    above = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    labels = np.arange(len(starts))
    while (labels[below] != labels[above]).any():
        lowest = np.minimum(labels[below], labels[above])
        np.minimum.at(labels, labels[below], lowest)
        np.minimum.at(labels, labels[above], lowest)
        while (labels[labels] != labels).any():
            labels = labels[labels]
    return labels


def read_sizes(
    outputs: ModelOutput, sizes: torch.Tensor | Sequence[tuple[int, int]] | None, name: str
) -> list[tuple[int, int]]:
    """Return the height and width of every image: `sizes`, the argument called `name`, or the sizes in `outputs`."""
    sizes = getattr(outputs, "original_sizes", None) if sizes is None else sizes
    if sizes is None:
        raise ValueError(f"`outputs` has no `original_sizes`: give (height, width) per image as `{name}`.")
    return [(int(height), int(width)) for height, width in sizes]


def iterate_located_phrases(
    outputs: ModelOutput, sizes: list[tuple[int, int]]
) -> Iterator[tuple[int, float, torch.Tensor]]:
    """Yield the image, matching probability and heatmap `(height, width)` of each phrase, one map in memory at a time.

    Raises:
        ValueError: `outputs` has no heatmaps or probabilities, a heatmap is not finite, or `sizes` lacks an image.
    """
    for name in ("heatmap", "match_probability"):
        if getattr(outputs, name, None) is None:
            raise ValueError(
                f"`outputs` has no `{name}`. Use `model.ground()`, or call an `AlbefForImageTextMatching` with "
                "`output_heatmap=True`."
            )
    heatmaps = outputs.heatmap.detach().cpu()
    scores = outputs.match_probability.tolist()
    image_index = getattr(outputs, "image_index", None)
    image_index = range(len(heatmaps)) if image_index is None else image_index.tolist()
    if max(image_index, default=-1) >= len(sizes):
        raise ValueError(f"`image_index` names image {max(image_index)} but there are {len(sizes)} sizes.")
    for index, (heatmap, score, image) in enumerate(zip(heatmaps, scores, image_index, strict=True)):
        if not torch.isfinite(heatmap).all():
            raise ValueError(
                f"the heatmap of phrase {index} is not finite. The weights or the pixels hold NaN or infinity: "
                "check the checkpoint, or run in float32."
            )
        yield image, score, resize_heatmap(heatmap, *sizes[image])


def encode_rle(mask: np.ndarray) -> dict:
    """Encode a binary mask as COCO's compressed run-length string.

    Runs follow the columns and begin with a run of zeros (possibly empty). From the fourth on, they are stored as the
    difference to the run two positions earlier.

    Args:
        mask (`np.ndarray` of shape `(height, width)`): non-zero inside the region.

    Returns:
        `dict`: `size` as `[height, width]` and `counts` as ASCII `str`.

    Example:

    ```python
    >>> import numpy as np
    >>> from albef_amc.regions_albef import encode_rle
    >>> encode_rle(np.array([[0, 1], [1, 1]]))
    {'size': [2, 2], 'counts': '13'}

    ```
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"`mask` must have shape (height, width), got {mask.shape}.")
    pixels = mask.ravel(order="F") != 0
    borders = np.flatnonzero(np.diff(pixels)) + 1
    edges = np.concatenate([[0], borders, [pixels.size]])
    runs = np.diff(edges).tolist()
    if pixels.size and pixels[0]:
        runs.insert(0, 0)
    text = "".join(_encode_number(run - runs[index - 2] if index > 2 else run) for index, run in enumerate(runs))
    return {"size": list(mask.shape), "counts": text}


def decode_rle(rle: dict, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode COCO run-length coding, compressed (`str` or `bytes`) or not (list of run lengths).

    The mask is allocated only after every run and their sum are known to fit it, and its size fits the image.

    Args:
        rle (`dict`): `size` as `[height, width]` and `counts`.
        size (`tuple[int, int]`, *optional*): height and width of the image that the mask belongs to. Without it a mask
            may have as many pixels as the largest image that is read (100,000,000).

    Returns:
        `np.ndarray` of `bool` and shape `(height, width)`.

    Raises:
        ValueError: sizes or runs are not whole numbers, do not fit each other or the image, or the string is damaged.

    Example:

    ```python
    >>> from albef_amc.regions_albef import decode_rle
    >>> decode_rle({"size": [2, 2], "counts": "13"}).tolist()
    [[False, True], [True, True]]

    ```
    """
    height, width = _read_mask_size(rle, size)
    num_pixels = height * width
    counts = rle["counts"]
    runs = _decode_counts(counts) if isinstance(counts, str | bytes) else _read_runs(counts, num_pixels)
    for index in np.flatnonzero((runs < 0) | (runs > num_pixels))[:1]:
        raise ValueError(
            f"run {index} of a mask is {runs[index]}; from 0 to {num_pixels}, the pixels of its `size` "
            f"[{height}, {width}], is possible. The mask is damaged or belongs to another image."
        )
    if runs.sum() != num_pixels:
        raise ValueError(
            f"the runs of a mask cover {int(runs.sum())} pixels but its `size` [{height}, {width}] has "
            f"{num_pixels}. The run-length string is damaged or belongs to another image."
        )
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape((height, width), order="F")


def _read_mask_size(rle: dict, size: tuple[int, int] | None) -> tuple[int, int]:
    """Read the height and width of a mask and check them against its image."""
    stated = rle.get("size") if isinstance(rle, dict) and "counts" in rle else None
    stated = stated.tolist() if hasattr(stated, "tolist") else stated
    if not _is_listed(stated) or len(stated) != 2 or not all(_is_whole(value) and value > 0 for value in stated):
        raise ValueError(
            f"a mask must be a dict with `size` [height, width], whole numbers of pixels, and `counts`, got "
            f"{shorten_value(rle)}."
        )
    height, width = stated
    if size is not None and (height, width) != tuple(size):
        raise ValueError(
            f"a mask has size {shorten_value(list(stated))} but its image is [{size[0]}, {size[1]}] (height, width, "
            "after EXIF rotation). Use the mask of this image."
        )
    if size is None and height * width > MAX_IMAGE_PIXELS:
        raise ValueError(
            f"a mask has size {shorten_value(list(stated))}, more than {MAX_IMAGE_PIXELS} pixels, the most of an "
            "image."
        )
    return int(height), int(width)


def _is_whole(value: Any) -> bool:
    """Whether a value is a whole number: an `int`, or a `float` without a fraction, but not a `bool`."""
    return type(value) is int or (type(value) is float and value.is_integer())


def _read_runs(counts: Any, num_pixels: int) -> np.ndarray:
    """Read run lengths from a list, tuple, array or tensor."""
    counts = counts.tolist() if hasattr(counts, "tolist") else counts
    if not _is_listed(counts):
        raise ValueError(f"`counts` of a mask must be a text or a list of run lengths, got {shorten_value(counts)}.")
    _check_number_of_runs(len(counts))
    for index, run in enumerate(counts):
        if not _is_whole(run) or not 0 <= run <= num_pixels:
            raise ValueError(
                f"run {index} of a mask is {shorten_value(run)}; a whole number from 0 to {num_pixels}, the pixels of "
                "its `size`, is expected. The mask is damaged or belongs to another image."
            )
    return np.array(counts, dtype=np.int64)


def _check_number_of_runs(count: int) -> None:
    if count > MAX_RUNS:
        raise ValueError(f"`counts` of a mask has {count} entries, more than {MAX_RUNS}. The mask is damaged.")


def _encode_number(number: int) -> str:
    """Encode five bits per character, lowest first; bit 6 means that more follow, bit 5 of the last is the sign."""
    text = []
    while True:
        group = number & 0x1F
        number >>= 5
        is_last = number == (-1 if group & 0x10 else 0)
        text.append(chr(48 + (group if is_last else group | 0x20)))
        if is_last:
            return "".join(text)


def _decode_counts(counts: str | bytes) -> np.ndarray:
    """Decode the run lengths of a compressed string; they have any sign and up to 35 bits, and are not checked yet."""
    _check_number_of_runs(len(counts))
    text = counts if isinstance(counts, bytes) else counts.encode("utf-8", errors="surrogatepass")
    groups = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    for index in np.flatnonzero((groups < 0) | (groups > 63))[:1]:  # all characters before it have one byte
        found = counts[index : index + 1]
        raise ValueError(f"the run-length string of a mask holds {found!r}, which COCO's coding never writes.")
    lasts = np.flatnonzero(groups & 0x20 == 0)
    if len(groups) and (not len(lasts) or lasts[-1] != len(groups) - 1):
        raise ValueError("the run-length string of a mask ends inside a number: it was cut off.")
    lengths = np.diff(lasts, prepend=-1)
    if (lengths > MAX_RUN_CHARACTERS).any():
        raise ValueError(
            f"the run-length string of a mask holds a number of {lengths.max()} characters, more than "
            f"{MAX_RUN_CHARACTERS}: it is damaged."
        )
    starts = lasts - lengths + 1
    positions = np.arange(len(groups)) - np.repeat(starts, lengths)  # of a character within its number
    runs = np.add.reduceat((groups & 0x1F) << (5 * positions), starts) if len(starts) else np.zeros(0, dtype=np.int64)
    runs -= np.where(groups[lasts] & 0x10, 1, 0) << (5 * lengths)
    for first in (1, 2):  # from the fourth on, a number is the difference to the run two positions earlier
        runs[first::2] = np.cumsum(runs[first::2])
    return runs


__all__ = [
    "BOX_THRESHOLD",
    "BOX_THRESHOLDS",
    "boxes_from_heatmap",
    "build_region_mask",
    "check_boxes",
    "check_outline_counts",
    "clamp_boxes",
    "decode_rle",
    "encode_rle",
    "find_point",
    "iterate_located_phrases",
    "read_sizes",
    "resize_heatmap",
]
