# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Overlap of a heatmap with its region as one minus their Dice coefficient."""

from dataclasses import dataclass

import torch

from albef_amc.trainer.objectives.heatmap_objective import RegionObjective, register_objective


@register_objective("dice")
@dataclass(frozen=True)
class SoftDiceLoss(RegionObjective):
    r"""Dice coefficient for soft masks: the heatmap should be the region, value by value.

    Formula, for a heatmap A in [0, 1] and a region mask M in [0, 1] over the same pixels:

        dice_loss = 1 - 2 sum(A M) / (sum(A^2) + sum(M^2))

    With squares in the denominator it is 0 if and only if A = M, also where M is fractional at a border, and 1 where
    the two share no pixel. A region has area, so the denominator is never 0 and needs no smoothing term.

    Inputs:

    | tensor               | shape           | range  |
    | -------------------- | --------------- | ------ |
    | `normalized_heatmap` | (P, G_h, G_w)   | [0, 1] |
    | `region_mask`        | (P, M_h, M_w)   | [0, 1] |
    | `has_region`         | (P,)            | bool   |

    Reduction: sums over the pixels of each phrase, then mean over phrases with a region; 0 if there are none. A mask
    without area does not count as a region.

    Source: the Dice coefficient with squared denominator, as in V-Net (Milletari et al., 2016, unverified); neither
    AMC nor ALBEF uses it.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc.trainer.objectives.dice import SoftDiceLoss
    >>> heatmap, region = torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]])
    >>> round(SoftDiceLoss()(heatmap, region, torch.tensor([True]))["dice_loss"].item(), 4)  # 1 - 2 / (2 + 1)
    0.3333

    ```
    """

    def compare(
        self, heatmap: torch.Tensor, mask: torch.Tensor, denominator: float | torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """`dice_loss`."""
        overlap = 2 * (heatmap * mask).sum(-1) / (heatmap.square() + mask.square()).sum(-1)
        return {"dice_loss": (1 - overlap).sum() / denominator}
