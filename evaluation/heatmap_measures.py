# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""From heatmaps to the small numbers that the metrics take: sums over boxes and regions, IoUs per threshold."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

PEAK_SHARE = 0.95
MASK_THRESHOLDS = tuple(percent / 100 for percent in range(100))
MIN_IOU = 0.5
HALF_COVERED = 0.5


def sum_heat_in_boxes(heatmap: torch.Tensor, boxes: Sequence[Sequence[float]]) -> list[float]:
    r"""Sum of a heatmap over each box, the `heat_sums` of the metric `box_accuracy`.

    Pixel rows int(y_min) to int(y_max) - 1 and columns int(x_min) to int(x_max) - 1 count, cut off at the border, as
    in the published ranking of detections. Values below zero (overshoot of the bicubic resize) are part of the sum.

    Args:
        heatmap (`torch.Tensor` of shape `(height, width)`): resized to the stored image ([`resize_heatmap`]).
        boxes (sequence of four `float`): x_min, y_min, x_max, y_max in pixels of the stored image.

    Returns:
        `list[float]`: one sum per box.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc.evaluation.heatmap_measures import sum_heat_in_boxes
    >>> sum_heat_in_boxes(torch.ones(4, 6), [[0, 0, 2, 2], [4.9, 1.2, 9.0, 3.9]])
    [4.0, 4.0]

    ```
    """
    _check_map(heatmap, "heatmap")
    values = heatmap.detach().cpu().double()
    sums = []
    for x_min, y_min, x_max, y_max in boxes:
        left, top, right, bottom = (max(int(value), 0) for value in (x_min, y_min, x_max, y_max))
        sums.append(values[top:bottom, left:right].sum())
    return torch.stack(sums).tolist() if sums else []


def measure_heatmap(heatmap: torch.Tensor, region_mask: torch.Tensor) -> tuple[dict[str, float], dict[str, float]]:
    r"""One phrase for the metric `heatmap_quality`: its entry of `predictions` and its entry of `references`.

    The map is clipped at zero and divided by its maximum. For distances, a pixel belongs to the region if the
    region touches it; a peak (a pixel that reaches `PEAK_SHARE` of the maximum) is inside the region if at least half
    of it is covered.

    Args:
        heatmap (`torch.Tensor` of shape `(height, width)`): resized to the size of `region_mask`
            ([`resize_heatmap`]). With the size of the stored image, distances are those in the image.
        region_mask (`torch.Tensor` of shape `(height, width)`, in [0, 1]): covered share of each pixel
            ([`build_region_mask`]).

    Returns:
        `tuple[dict, dict]`: `heat_inside`, `heat_total`, `heat_distance`, `num_peaks_inside`, `num_peaks`; and
        `region_area`, `image_area`. Without heat the first five are 0.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc.evaluation.heatmap_measures import measure_heatmap
    >>> heatmap = torch.tensor([[2.0, 0.0, 0.0, 1.0]])
    >>> prediction, reference = measure_heatmap(heatmap, torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
    >>> prediction["heat_inside"], prediction["heat_total"], reference["region_area"]
    (1.0, 1.5, 2.0)

    ```
    """
    _check_map(heatmap, "heatmap")
    _check_region(region_mask, heatmap.shape)
    region = region_mask.detach().cpu().double().numpy()
    reference = {"region_area": float(region.sum()), "image_area": float(region.size)}
    heat = heatmap.detach().cpu().double().clamp(min=0).numpy()
    if not heat.max() > 0:
        names = ("heat_inside", "heat_total", "heat_distance", "num_peaks_inside", "num_peaks")
        return dict.fromkeys(names, 0.0), reference
    heat = heat / heat.max()
    peaks = heat >= PEAK_SHARE
    prediction = {
        "heat_inside": float((heat * region).sum()),
        "heat_total": float(heat.sum()),
        "heat_distance": float((heat * measure_distances(region > 0)).sum() / np.hypot(*region.shape)),
        "num_peaks_inside": float((peaks & (region >= HALF_COVERED)).sum()),
        "num_peaks": float(peaks.sum()),
    }
    return prediction, reference


def measure_distances(is_region: np.ndarray) -> np.ndarray:
    """Euclidean distance of every pixel's centre to that of the nearest pixel of a region, exactly.

    The squared distance in a column is a parabola over each row; the lower envelope of a row's parabolas gives the
    squared distance in the plane (Felzenszwalb and Huttenlocher, 2012), here for all rows at once.

    Args:
        is_region (`np.ndarray` of `bool` and shape `(height, width)`): at least one pixel is `True`.

    Returns:
        `np.ndarray` of shape `(height, width)`, float64; 0 in the region.
    """
    heights = _measure_column_distances(is_region) ** 2
    num_rows, num_columns = heights.shape
    rows = np.arange(num_rows)
    parabolas = np.zeros((num_rows, num_columns), dtype=np.int64)  # columns of the envelope's parabolas, in order
    starts = np.full((num_rows, num_columns), np.inf)  # where each becomes the lowest
    starts[:, 0] = -np.inf
    last = np.zeros(num_rows, dtype=np.int64)
    for column in range(1, num_columns):
        while True:
            below = parabolas[rows, last]
            crossings = (heights[:, column] + column**2 - heights[rows, below] - below**2) / (2 * (column - below))
            is_hidden = crossings <= starts[rows, last]
            if not is_hidden.any():
                break
            starts[rows[is_hidden], last[is_hidden]] = np.inf
            last -= is_hidden
        last += 1
        parabolas[rows, last], starts[rows, last] = column, crossings
    first_columns = np.ceil(starts.clip(0, num_columns)).astype(np.int64)
    changes = np.zeros((num_rows, num_columns + 1), dtype=np.int64)
    np.add.at(changes, (rows[:, None], first_columns), 1)
    lowest = np.take_along_axis(parabolas, np.cumsum(changes[:, :-1], axis=1) - 1, axis=1)
    return np.sqrt((np.arange(num_columns) - lowest) ** 2 + np.take_along_axis(heights, lowest, axis=1))


def measure_mask_ious(
    heatmap: torch.Tensor, boxes: Sequence[Sequence[float]], thresholds: Sequence[float] = MASK_THRESHOLDS
) -> dict[str, np.ndarray]:
    r"""IoU of a heatmap's mask with the boxes of a phrase, for every threshold and protocol (`phrase_recall`).

    The mask is what reaches a share of the map's maximum. `any` compares with the annotated box that fits best,
    `merged` with the smallest box around all, `all` with their union. Boxes are rounded to whole pixels. A map without
    heat has IoU 0.

    Args:
        heatmap (`torch.Tensor` of shape `(height, width)`): at the size of the stored image.
        boxes (sequence of four `float`): annotated boxes, x_min, y_min, x_max, y_max.
        thresholds (sequence of `float`, defaults to 0, 0.01, ..., 0.99): rising shares of the maximum.

    Returns:
        `dict[str, np.ndarray]`: protocol -> IoUs of shape `(num_thresholds,)`, float64.
    """
    _check_map(heatmap, "heatmap")
    heat = heatmap.detach().cpu().double().numpy()
    regions = _draw_protocols(round_boxes(boxes, *heat.shape), *heat.shape)
    num_reached = np.zeros(heat.shape, dtype=np.int64)  # how many of the thresholds a pixel reaches
    if heat.max() > 0:
        num_reached = np.searchsorted(np.asarray(thresholds), heat / heat.max(), side="right")
    num_thresholds = len(thresholds)
    areas = _count_reaching(num_reached, num_thresholds)
    ious = {}
    for protocol, masks in regions.items():
        best = np.zeros(num_thresholds)
        for mask in masks:
            overlaps = _count_reaching(num_reached[mask], num_thresholds)
            best = np.maximum(best, overlaps / np.maximum(areas + mask.sum() - overlaps, 1))
        ious[protocol] = best
    return ious


def choose_thresholds(
    ious: Sequence[Mapping[str, np.ndarray]], thresholds: Sequence[float] = MASK_THRESHOLDS
) -> dict[str, float]:
    """The best threshold per protocol, on phrases of a split that is not the one to be reported.

    The best threshold has the highest recall (IoU >= 0.5); of equal ones the highest mean IoU, then the lowest.

    Args:
        ious (sequence of `dict`): what [`measure_mask_ious`] gave for each phrase, all with the same protocols.
        thresholds (sequence of `float`): those that it was given.

    Returns:
        `dict[str, float]`: protocol -> threshold, the `mask_thresholds` of
        [`~evaluation.grounding_evaluation.evaluate_grounding`].
    """
    if not ious:
        raise ValueError("`ious` is empty: thresholds are chosen on phrases. Pass those of the tuning split.")
    chosen = {}
    for protocol in ious[0]:
        table = np.stack([phrase[protocol] for phrase in ious])  # (num_phrases, num_thresholds)
        if table.shape[1] != len(thresholds):
            raise ValueError(f"`ious` has {table.shape[1]} thresholds but `thresholds` has {len(thresholds)}.")
        recalls, means = (table >= MIN_IOU).mean(axis=0), table.mean(axis=0)
        chosen[protocol] = thresholds[np.lexsort([np.arange(len(means)), -means, -recalls])[0]]
    return chosen


def round_boxes(boxes: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """Boxes at whole pixels inside the image, so that the IoU of boxes is that of their masks.

    Args:
        boxes (sequence of four `float`): x_min, y_min, x_max, y_max.
        height, width (`int`): size of the stored image in pixels.

    Returns:
        `np.ndarray` of shape `(num_boxes, 4)`, int64.
    """
    table = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return table.round().clip(0, [width, height, width, height]).astype(np.int64)


def _draw_protocols(boxes: np.ndarray, height: int, width: int) -> dict[str, list[np.ndarray]]:
    if not len(boxes):
        raise ValueError("`boxes` is empty: a phrase without an annotated region cannot be measured. Leave it out.")
    singles = [_draw_box(box, height, width) for box in boxes]
    merged = _draw_box(np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)]), height, width)
    return {"any": singles, "merged": [merged], "all": [np.any(singles, axis=0)]}


def _draw_box(box: np.ndarray, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def _count_reaching(num_reached: np.ndarray, num_thresholds: int) -> np.ndarray:
    """Pixels that reach each threshold, from how many of the rising thresholds each pixel reaches."""
    counts = np.bincount(num_reached.ravel(), minlength=num_thresholds + 1)
    return counts[::-1].cumsum()[::-1][1:]


def _measure_column_distances(is_region: np.ndarray) -> np.ndarray:
    """Distance to the nearest region pixel of the same column; more than any distance in the map where it has none."""
    num_rows, num_columns = is_region.shape
    rows = np.arange(num_rows)[:, None]
    far = num_rows + num_columns
    above = np.maximum.accumulate(np.where(is_region, rows, -far), axis=0)
    below = np.minimum.accumulate(np.where(is_region, rows, num_rows + far)[::-1], axis=0)[::-1]
    return np.minimum(rows - above, below - rows).astype(np.float64)


def _check_map(heatmap: torch.Tensor, name: str) -> None:
    if heatmap.ndim != 2:
        raise ValueError(f"`{name}` must have shape (height, width), one phrase, got {tuple(heatmap.shape)}.")
    if not torch.isfinite(heatmap).all():
        raise ValueError(f"`{name}` holds NaN or infinity. Check the checkpoint, or run in float32.")


def _check_region(region_mask: Any, shape: torch.Size) -> None:
    if region_mask.shape != shape:
        raise ValueError(
            f"`region_mask` has shape {tuple(region_mask.shape)} but `heatmap` has {tuple(shape)}: resize the heatmap "
            "with `resize_heatmap` to the size of the mask."
        )
    if not region_mask.any():
        raise ValueError("`region_mask` has no area: there is no region to compare with. Leave the phrase out.")


__all__ = [
    "MASK_THRESHOLDS",
    "choose_thresholds",
    "measure_distances",
    "measure_heatmap",
    "measure_mask_ious",
    "round_boxes",
    "sum_heat_in_boxes",
]
