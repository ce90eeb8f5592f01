# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Attention Mask Consistency (AMC)."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from albef_amc.ranges_albef import check_choice
from albef_amc.trainer.objectives.heatmap_objective import RegionObjective, register_objective

MEAN_REDUCTIONS = ("sample", "batch")


@register_objective("amc")
@dataclass(frozen=True)
class AttentionMaskConsistencyLoss(RegionObjective):
    r"""Attention Mask Consistency (AMC): a heatmap should be higher inside the annotated region than outside.

    Formula, for a heatmap A in [0, 1] and a region mask M, both over the same pixels:

        mean term = max(0, mean of A outside M - mean of A inside M + mean_margin)
        max term  = max(0, max of A (1 - M) - max of A M + max_margin)
        amc_loss  = mean_weight * mean term + max_weight * max term

    where "mean outside" is sum(A (1 - M)) / sum(1 - M) and "mean inside" is sum(A M) / sum(M), so that fractional
    border pixels count with their share, and both maxima run over products, not over subsets of pixels.

    Inputs:

    | tensor               | shape           | range  |
    | -------------------- | --------------- | ------ |
    | `normalized_heatmap` | (P, G_h, G_w)   | [0, 1] |
    | `region_mask`        | (P, M_h, M_w)   | [0, 1] |
    | `has_region`         | (P,)            | bool   |

    Reduction: over the pixels of each phrase, then mean over phrases with a region; 0 if there are none. A mask
    without area does not count as a region. With a full mask nothing is outside: its mean term is 0 and its max term
    compares with 0; no 0/0 is formed, in the forward or in the backward pass.

    Departures: `mean_reduction="sample"` is equation (1) of the paper. The released code pools the sums of the mean
    term over all pixels of all annotated phrases of the batch before it divides, which is `mean_reduction="batch"`;
    there it divides by zero when every mask is full, here the term is 0.

    Args:
        mean_margin (`float`, defaults to 0.1): margin of the mean term.
        max_margin (`float`, defaults to 0.5): margin of the max term.
        mean_weight (`float`, defaults to 0.2): weight of the mean term in `amc_loss`.
        max_weight (`float`, defaults to 0.8): weight of the max term in `amc_loss`.
        mean_reduction (`str`, defaults to `"sample"`): `"sample"` (paper) or `"batch"` (released code).

    Example:

    ```python
    >>> import torch
    >>> from albef_amc.trainer.objectives.amc import AttentionMaskConsistencyLoss
    >>> heatmap = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    >>> region = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    >>> AttentionMaskConsistencyLoss()(heatmap, region, torch.tensor([True]))["amc_loss"].item()
    0.0

    ```
    """

    mean_margin: float = 0.1
    max_margin: float = 0.5
    mean_weight: float = 0.2
    max_weight: float = 0.8
    mean_reduction: str = "sample"

    def __post_init__(self):
        check_choice("mean_reduction", self.mean_reduction, MEAN_REDUCTIONS)
        self.check_not_negative("mean_margin", "max_margin", "mean_weight", "max_weight")

    def compare(
        self, heatmap: torch.Tensor, mask: torch.Tensor, denominator: float | torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """`amc_loss`, `amc_mean_loss` and `amc_max_loss`.

        With `mean_reduction="batch"` the pooled mean term, a ratio of local sums, is weighted by local count /
        `denominator`.
        """
        is_pooled = self.mean_reduction == "batch"
        pixels, weights = (heatmap.flatten(), mask.flatten()) if is_pooled else (heatmap, mask)
        inside_area, outside_area = weights.sum(-1), (1 - weights).sum(-1)
        inside = (pixels * weights).sum(-1) / torch.where(inside_area > 0, inside_area, 1)
        outside = (pixels * (1 - weights)).sum(-1) / torch.where(outside_area > 0, outside_area, 1)
        mean_term = F.relu(outside - inside + self.mean_margin) * ((inside_area > 0) & (outside_area > 0))
        mean_loss = (mean_term * len(heatmap) if is_pooled else mean_term.sum()) / denominator
        max_term = F.relu((heatmap * (1 - mask)).amax(-1) - (heatmap * mask).amax(-1) + self.max_margin)
        max_loss = max_term.sum() / denominator
        return {
            "amc_loss": self.mean_weight * mean_loss + self.max_weight * max_loss,
            "amc_mean_loss": mean_loss,
            "amc_max_loss": max_loss,
        }
