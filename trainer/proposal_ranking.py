# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The published ranking of proposals: of the boxes of a detector, the one that the heatmap fills best."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from albef_amc.regions_albef import resize_heatmap

Box = Sequence[float]


@dataclass(frozen=True)
class ProposalRanking:
    """How proposals are ranked and scored.

    Args:
        area_power (`float`): a proposal's score is the sum of the heatmap inside over its area to this power.
        iou_threshold (`float`): the highest-scoring proposal is a hit at this IoU with a box of the phrase, or more.
    """

    area_power: float
    iou_threshold: float

    def __post_init__(self):
        for name in ("area_power", "iou_threshold"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise ValueError(f"`{name}` must lie in [0, 1], got {value!r}.")

    @property
    def measure(self) -> str:
        """Name of the accuracy, such as `box_accuracy_at_50`."""
        return f"box_accuracy_at_{round(100 * self.iou_threshold)}"


def choose_proposal(heatmap: torch.Tensor, size: Sequence[int], proposals: Sequence[Box], area_power: float) -> int:
    """Index of the proposal with the highest score, the first of equal ones; -1 where none scores above zero.

    The heatmap is resized bicubically to the image. The sum runs over whole pixels, rows int(y_min) to int(y_max) - 1
    and columns likewise; the area is that of the box as it is.

    Args:
        heatmap (`torch.Tensor` of shape `(grid_height, grid_width)`): raw or normalised.
        size (two `int`): height and width of the stored image.
        proposals (sequence of four `float` each): x_min, y_min, x_max, y_max in pixels of the stored image.
        area_power (`float`): see [`ProposalRanking`].

    Example:

    ```python
    >>> import torch
    >>> from albef_amc.trainer.proposal_ranking import choose_proposal
    >>> choose_proposal(torch.eye(4), (4, 4), [[0, 0, 4, 4], [0, 0, 1, 1], [3, 0, 4, 1]], area_power=0.5)
    1

    ```
    """
    if not len(proposals):
        return -1
    pixels = resize_heatmap(heatmap, *size).double()
    sums = [pixels[int(y_min) : int(y_max), int(x_min) : int(x_max)].sum() for x_min, y_min, x_max, y_max in proposals]
    areas = [max(x_max - x_min, 0) * max(y_max - y_min, 0) for x_min, y_min, x_max, y_max in proposals]
    scores = [
        total / area**area_power if area > 0 else 0.0
        for total, area in zip(torch.stack(sums).tolist(), areas, strict=True)
    ]
    best = max(range(len(scores)), key=scores.__getitem__)
    return best if scores[best] > 0 else -1


def compute_inclusive_iou(box: Box, other: Box) -> float:
    """IoU of two boxes x_min, y_min, x_max, y_max taken as pixel ranges whose last pixel belongs to the box.

    As published: an intersection that is one pixel wide or high, or less, counts as none, and identical boxes of one
    pixel have an IoU of 0.

    Example:

    ```python
    >>> from albef_amc.trainer.proposal_ranking import compute_inclusive_iou
    >>> compute_inclusive_iou([0, 0, 10, 10], [0, 0, 10, 10]), compute_inclusive_iou([0, 0, 10, 10], [9, 0, 19, 10])
    (1.0, 0.0)

    ```
    """
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    inside = width * height if width > 1 and height > 1 else 0.0
    union = sum((x_max - x_min) * (y_max - y_min) for x_min, y_min, x_max, y_max in (box, other)) - inside
    return inside / union if inside else 0.0


__all__ = ["ProposalRanking", "choose_proposal", "compute_inclusive_iou"]
