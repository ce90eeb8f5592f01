# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Regions of an image: annotations to mask pixels, heatmaps to points and boxes, run-length coded masks.

Coordinates are continuous pixels of the stored image after EXIF rotation: pixel (column c, row r) is the square
[c, c + 1) x [r, r + 1), and a box x_min, y_min, x_max, y_max is [x_min, x_max) x [y_min, y_max).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional
from transformers.utils import logging

logger = logging.get_logger(__name__)

POLYGON_LINES_PER_PIXEL = 8


def build_region_mask(
    height: int,
    width: int,
    mask_size: tuple[int, int],
    boxes: Sequence[Sequence[float]] | None = None,
    polygons: Sequence[Sequence[float]] | None = None,
    masks: Sequence[dict] | None = None,
) -> torch.Tensor:
    """Draw an annotated region as the covered share of every mask pixel, under exactly the image's geometry.

    The image is resized without cropping, so x is scaled by mask width / image width and y by mask height / image
    height. Boxes are covered analytically, polygons (even-odd rule) exactly along x and on
    `POLYGON_LINES_PER_PIXEL` lines per mask pixel along y, run-length masks by area averaging. Several shapes are
    united by the maximum of their shares. What lies outside the image is cut off.

    Args:
        height, width (`int`): size of the stored image in pixels.
        mask_size (`tuple[int, int]`): mask height and width.
        boxes (sequence of four `float`, *optional*): x_min, y_min, x_max, y_max.
        polygons (sequence of flat x, y lists, *optional*): all polygons of the region.
        masks (sequence of `dict`, *optional*): COCO run-length masks of the image's size.

    Returns:
        `torch.Tensor` of shape `mask_size`, float32, in [0, 1]; all zero when the region has no area.

    Example:

    ```python
    >>> from albef_amc.regions_albef import build_region_mask
    >>> build_region_mask(4, 4, (2, 2), boxes=[[0, 0, 3, 2]])
    tensor([[1.0000, 0.5000],
            [0.0000, 0.0000]])

    ```
    """
    mask_height, mask_width = mask_size
    region = np.zeros((mask_height, mask_width))
    if boxes is not None and len(boxes):
        for x_min, y_min, x_max, y_max in clamp_boxes(boxes, height, width)[0].tolist():
            rows = _cover(y_min * mask_height / height, y_max * mask_height / height, mask_height)
            columns = _cover(x_min * mask_width / width, x_max * mask_width / width, mask_width)
            np.maximum(region, rows[:, None] * columns, out=region)
    for polygon in polygons or []:
        corners = _read_polygon(polygon) * [mask_width / width, mask_height / height]
        np.maximum(region, _cover_polygon(corners, mask_height, mask_width), out=region)
    for rle in masks or []:
        mask = decode_rle(rle)
        if mask.shape != (height, width):
            raise ValueError(
                f"a mask has size {list(mask.shape)} but its image is [{height}, {width}] (height, width, after EXIF "
                "rotation). Use the mask of this image."
            )
        np.maximum(region, _average_rows(_average_rows(mask, mask_height).T, mask_width).T, out=region)
    return torch.from_numpy(region.clip(0, 1)).float()


def clamp_boxes(boxes: Sequence[Sequence[float]], height: int, width: int) -> tuple[torch.Tensor, int]:
    """Cut boxes off at the image's border and drop those without area.

    Boxes that leave the image are cut (logged once); empty boxes and boxes outside the image are dropped and counted
    (logged once). A box that is not finite, or whose corners are in the wrong order, is an error: it says that the
    format is another one (x, y, width, height, perhaps).

    Args:
        boxes (sequence of four `float`): x_min, y_min, x_max, y_max in pixels.
        height, width (`int`): size of the stored image in pixels.

    Returns:
        `tuple[torch.Tensor, int]`: boxes of shape `(num_kept, 4)`, float32, and how many were dropped.
    """
    table = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) if len(boxes) else np.zeros((0, 4))
    for index, box in enumerate(table):
        if not np.isfinite(box).all():
            raise ValueError(f"box {index} is {box.tolist()}: its coordinates must be finite. Correct or remove it.")
        if box[2] < box[0] or box[3] < box[1]:
            raise ValueError(
                f"box {index} is {box.tolist()}: x_max, y_max must not lie before x_min, y_min. Boxes are "
                "[x_min, y_min, x_max, y_max] in pixels, not [x, y, width, height]."
            )
    clamped = table.clip(0, [width, height, width, height])
    if (clamped != table).any():
        logger.warning_once("Some boxes leave their image: they are cut off at its border.")
    clamped = clamped[(clamped[:, 2] > clamped[:, 0]) & (clamped[:, 3] > clamped[:, 1])]
    num_dropped = len(table) - len(clamped)
    if num_dropped:
        logger.warning_once("Some boxes have no area inside their image: they are dropped.")
    return torch.from_numpy(clamped).float(), num_dropped


def _cover(start: float, end: float, cells: int) -> np.ndarray:
    """Share of each unit cell that the interval [start, end) covers."""
    edges = np.arange(cells)
    return (np.minimum(end, edges + 1) - np.maximum(start, edges)).clip(0, 1)


def _read_polygon(polygon: Sequence[float]) -> np.ndarray:
    corners = np.asarray(polygon, dtype=np.float64)
    if corners.ndim != 1 or corners.size % 2 or not np.isfinite(corners).all():
        raise ValueError(
            f"a polygon must be a flat list of finite numbers x1, y1, x2, y2, ..., got {str(polygon)[:80]}. "
            "Polygons of one region form a list of such lists."
        )
    return corners.reshape(-1, 2)


def _cover_polygon(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    """Covered share of each mask pixel by one polygon in mask coordinates, even-odd rule."""
    if len(corners) < 3:
        return np.zeros((height, width))
    lines = (np.arange(height * POLYGON_LINES_PER_PIXEL) + 0.5) / POLYGON_LINES_PER_PIXEL
    (x_from, y_from), (x_to, y_to) = corners.T, np.roll(corners, -1, axis=0).T
    crosses = (y_from <= lines[:, None]) != (y_to <= lines[:, None])  # (num_lines, num_edges)
    slopes = (x_to - x_from) / np.where(y_to == y_from, 1, y_to - y_from)
    crossings = np.where(crosses, x_from + (lines[:, None] - y_from) * slopes, np.inf)
    crossings = np.sort(crossings, axis=1)[:, : crosses.sum(axis=1).max()]  # enter, leave, enter, leave, ...
    shares = np.zeros((len(lines), width))
    for column in range(0, crossings.shape[1], 2):
        entered, left = crossings[:, column, None], crossings[:, column + 1, None]
        cells = np.arange(width)
        shares += (left - cells).clip(0, 1) - (entered - cells).clip(0, 1)
    return shares.reshape(height, POLYGON_LINES_PER_PIXEL, width).mean(axis=1)


def _average_rows(values: np.ndarray, cells: int) -> np.ndarray:
    """Area average along the first axis: `(rows, columns)` to `(cells, columns)`, exact for fractional borders."""
    rows = len(values)
    sums = np.zeros((rows + 1, values.shape[1]))
    np.cumsum(values, axis=0, out=sums[1:])
    edges = np.arange(cells + 1) * rows / cells
    whole = np.minimum(edges.astype(np.int64), rows - 1)
    return np.diff(sums[whole] + (edges - whole)[:, None] * values[whole], axis=0) * cells / rows


def resize_heatmap(heatmap: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize heatmaps to the stored image: bicubic, `align_corners=False`, no anti-aliasing, as published.

    Args:
        heatmap (`torch.Tensor` of shape `(..., grid_height, grid_width)`): raw or normalised.

    Returns:
        `torch.Tensor` of shape `(..., height, width)`; it may overshoot the range of the input on both sides.
    """
    if heatmap.dtype != torch.float64:
        heatmap = heatmap.float()
    rows = heatmap.reshape(-1, 1, *heatmap.shape[-2:])
    resized = functional.interpolate(rows, size=(height, width), mode="bicubic", align_corners=False)
    return resized.reshape(*heatmap.shape[:-2], height, width)


def find_point(heatmap: torch.Tensor) -> torch.Tensor:
    """First maximum in row-major order.

    Args:
        heatmap (`torch.Tensor` of shape `(..., height, width)`).

    Returns:
        `torch.Tensor` of shape `(..., 2)`, int64: x, y in pixels of the map.
    """
    index = heatmap.flatten(-2).argmax(dim=-1)
    return torch.stack([index % heatmap.shape[-1], index // heatmap.shape[-1]], dim=-1)


def boxes_from_heatmap(heatmap: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Tightest boxes around the connected parts of a heatmap that reach a share of its maximum.

    Pixels that touch at a side or a corner belong together (8-connectivity). The score of a box is the maximum inside
    its part as a share of the map's maximum. Boxes come by falling score, the one that holds the map's point (first
    maximum, [`find_point`]) first.

    Args:
        heatmap (`torch.Tensor` of shape `(height, width)`): at the size in whose pixels the boxes are wanted.
        threshold (`float`): share of the maximum in (0, 1] that a pixel must reach.

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


def encode_rle(mask: np.ndarray) -> dict:
    """Code a binary mask as COCO's compressed run-length string.

    Runs go down the columns, begin with a run of zeros (possibly empty) and, from the fourth on, are stored as the
    difference to the run two places earlier.

    Args:
        mask (`np.ndarray` of shape `(height, width)`): non-zero where the region is.

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
    text = []
    for index, run in enumerate(runs):
        text.append(_encode_number(run - runs[index - 2] if index > 2 else run))
    return {"size": [int(mask.shape[0]), int(mask.shape[1])], "counts": "".join(text)}


def decode_rle(rle: dict) -> np.ndarray:
    """Decode COCO run-length coding, compressed (`str` or `bytes`) or not (list of run lengths).

    Args:
        rle (`dict`): `size` as `[height, width]` and `counts`.

    Returns:
        `np.ndarray` of `bool` and shape `(height, width)`.

    Example:

    ```python
    >>> from albef_amc.regions_albef import decode_rle
    >>> decode_rle({"size": [2, 2], "counts": "13"}).tolist()
    [[False, True], [True, True]]

    ```
    """
    try:
        height, width = (int(value) for value in rle["size"])
        counts = rle["counts"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"a mask must be a dict with `size` [height, width] and `counts`, got {rle!r:.80}."
        ) from error
    runs = np.array(_decode_counts(counts) if isinstance(counts, str | bytes) else counts, dtype=np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(
            f"the runs of a mask cover {int(runs.sum())} pixels but its `size` [{height}, {width}] has "
            f"{height * width}. The run-length string is damaged or belongs to another image."
        )
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape((height, width), order="F")


def _encode_number(number: int) -> str:
    """Five bits a character, lowest first; bit 6 says that more follow, the last bit of the last one is the sign."""
    text = []
    while True:
        group = number & 0x1F
        number >>= 5
        is_last = number == (-1 if group & 0x10 else 0)
        text.append(chr(48 + (group if is_last else group | 0x20)))
        if is_last:
            return "".join(text)


def _decode_counts(counts: str | bytes) -> list[int]:
    codes = counts if isinstance(counts, bytes) else counts.encode("ascii", errors="replace")
    runs: list[int] = []
    number, shift = 0, 0
    for code in codes:
        group = code - 48
        if not 0 <= group < 64:
            raise ValueError(f"the run-length string of a mask holds {chr(code)!r}, which COCO's coding never writes.")
        number |= (group & 0x1F) << shift
        shift += 5
        if group & 0x20:
            continue
        if group & 0x10:
            number -= 1 << shift
        runs.append(number + runs[-2] if len(runs) > 2 else number)
        number, shift = 0, 0
    if shift:
        raise ValueError("the run-length string of a mask ends inside a number: it was cut off.")
    return runs


__all__ = [
    "boxes_from_heatmap",
    "build_region_mask",
    "clamp_boxes",
    "decode_rle",
    "encode_rle",
    "find_point",
    "resize_heatmap",
]
