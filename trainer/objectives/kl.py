# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Divergence of a heatmap from its region, both read as distributions over pixels."""

from dataclasses import dataclass

import torch

from albef_amc.ranges_albef import POSITIVE, check_number
from albef_amc.trainer.objectives.heatmap_objective import RegionObjective, register_objective


@register_objective("kl")
@dataclass(frozen=True)
class RegionDivergenceLoss(RegionObjective):
    r"""Kullback-Leibler divergence KL(region || heatmap): the heatmap's mass should cover the region, all of it.

    Formula, for a heatmap A in [0, 1] and a region mask M over the same pixels x:

        p(x) = M(x) / sum(M)
        q(x) = (A(x) + epsilon) / sum(A + epsilon)
        kl_loss = sum over x of p(x) * (log p(x) - log q(x)), with 0 log 0 = 0

    The region comes first: a pixel of the region without heat costs much, heat outside costs only the mass that it
    takes away from inside. `epsilon` keeps the logarithm finite where the heatmap is 0, which a normalised heatmap is
    somewhere.

    Inputs:

    | tensor               | shape           | range  |
    | -------------------- | --------------- | ------ |
    | `normalized_heatmap` | (P, G_h, G_w)   | [0, 1] |
    | `region_mask`        | (P, M_h, M_w)   | [0, 1] |
    | `has_region`         | (P,)            | bool   |

    Reduction: sum over the pixels of each phrase, then mean over phrases with a region; 0 if there are none. A mask
    without area does not count as a region.

    Source: the definition of the divergence; neither AMC nor ALBEF uses it, so `epsilon` is our choice. Because of
    `epsilon` the least value is a little above 0 unless the mask is full.

    Args:
        epsilon (`float`, defaults to 0.01): heat that every pixel has at least, before normalisation.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc.trainer.objectives.kl import RegionDivergenceLoss
    >>> flat, left_half = torch.ones(1, 1, 2), torch.tensor([[[1.0, 0.0]]])
    >>> round(RegionDivergenceLoss()(flat, left_half, torch.tensor([True]))["kl_loss"].item(), 4)  # log 2
    0.6931

    ```
    """

    epsilon: float = 0.01

    def __post_init__(self):
        check_number("epsilon", self.epsilon, POSITIVE)

    def compare(
        self, heatmap: torch.Tensor, mask: torch.Tensor, denominator: float | torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """`kl_loss`."""
        region = mask / mask.sum(-1, keepdim=True)
        heat = heatmap + self.epsilon
        log_heat = heat.log() - heat.sum(-1, keepdim=True).log()
        return {"kl_loss": (torch.xlogy(region, region) - region * log_heat).sum() / denominator}
