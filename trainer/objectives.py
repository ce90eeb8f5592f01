# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Losses on heatmaps: functions of named tensors that return named scalars and know nothing of the model."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

MEAN_REDUCTIONS = ("sample", "batch")


@dataclass(frozen=True)
class AttentionMaskConsistencyLoss:
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
    without area is no region. With a full mask there is no outside: its mean term is 0 and its max term compares
    with 0; no 0/0 is formed, in the forward or in the backward pass.

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
    >>> from albef_amc.trainer.objectives import AttentionMaskConsistencyLoss
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
        if self.mean_reduction not in MEAN_REDUCTIONS:
            raise ValueError(f"`mean_reduction` must be one of {MEAN_REDUCTIONS}, got {self.mean_reduction!r}.")
        for name in ("mean_margin", "max_margin", "mean_weight", "max_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)!r}.")

    def __call__(
        self,
        normalized_heatmap: torch.Tensor,
        region_mask: torch.Tensor,
        has_region: torch.Tensor,
        num_regions: float | torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Compute the loss of P phrases.

        Args:
            normalized_heatmap (`torch.Tensor` of shape `(P, G_h, G_w)`):
                Explanations in [0, 1], attached to the graph when training. Resized bilinearly
                (`align_corners=False`) to the mask.
            region_mask (`torch.Tensor` of shape `(P, M_h, M_w)`): annotated regions in [0, 1].
            has_region (`torch.Tensor` of shape `(P,)`, bool): False where a phrase takes no part.
            num_regions (`float` or scalar `torch.Tensor`, *optional*):
                Replaces the local number of phrases with a region as the denominator, for losses that are normalised
                by a count over several processes or micro-batches. With `mean_reduction="batch"` the pooled mean
                term, a ratio of local sums, is weighted by local count / `num_regions`.

        Returns:
            `dict` of scalars, float32 (float64 for float64 heatmaps): `amc_loss`, `amc_mean_loss`, `amc_max_loss`
            (attached to the graph also when they are 0), and `num_regions`, the local number of phrases that took
            part.
        """
        _check_shapes(normalized_heatmap, region_mask, has_region)
        with torch.autocast(device_type=normalized_heatmap.device.type, enabled=False):
            heatmap = normalized_heatmap if normalized_heatmap.dtype == torch.float64 else normalized_heatmap.float()
            mask = region_mask.to(heatmap.dtype)
            takes_part = has_region & (mask.sum((1, 2)) > 0)
            mask = mask[takes_part].flatten(1)  # (num_regions, M_h * M_w)
            heatmap = resize_to_mask(heatmap, *region_mask.shape[1:])[takes_part].flatten(1)
            count = takes_part.sum().to(heatmap.dtype)
            denominator = count.clamp(min=1) if num_regions is None else num_regions
            if self.mean_reduction == "batch":
                mean_sum = self._mean_term(heatmap.flatten(), mask.flatten()) * count
            else:
                mean_sum = self._mean_term(heatmap, mask).sum()
            mean_loss = mean_sum / denominator
            max_loss = self._max_term(heatmap, mask).sum() / denominator
            return {
                "amc_loss": self.mean_weight * mean_loss + self.max_weight * max_loss,
                "amc_mean_loss": mean_loss,
                "amc_max_loss": max_loss,
                "num_regions": count,
            }

    def _mean_term(self, heatmap: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        inside_area, outside_area = mask.sum(-1), (1 - mask).sum(-1)
        inside = (heatmap * mask).sum(-1) / torch.where(inside_area > 0, inside_area, 1)
        outside = (heatmap * (1 - mask)).sum(-1) / torch.where(outside_area > 0, outside_area, 1)
        return F.relu(outside - inside + self.mean_margin) * ((inside_area > 0) & (outside_area > 0))

    def _max_term(self, heatmap: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return F.relu((heatmap * (1 - mask)).amax(-1) - (heatmap * mask).amax(-1) + self.max_margin)


def resize_to_mask(heatmap: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize heatmaps `(P, G_h, G_w)` bilinearly (`align_corners=False`) to `(P, height, width)`."""
    return F.interpolate(heatmap[:, None], size=(height, width), mode="bilinear", align_corners=False)[:, 0]


def _check_shapes(normalized_heatmap: torch.Tensor, region_mask: torch.Tensor, has_region: torch.Tensor) -> None:
    if normalized_heatmap.ndim != 3 or region_mask.ndim != 3:
        raise ValueError(
            "`normalized_heatmap` and `region_mask` must have three dimensions (phrases, height, width), got shapes "
            f"{tuple(normalized_heatmap.shape)} and {tuple(region_mask.shape)}."
        )
    num_phrases = normalized_heatmap.shape[0]
    if region_mask.shape[0] != num_phrases:
        raise ValueError(
            f"`region_mask` has {region_mask.shape[0]} rows but `normalized_heatmap` has {num_phrases}: one mask per "
            "phrase is needed. Pass `has_region=False` for phrases without an annotation."
        )
    if has_region.dtype != torch.bool or tuple(has_region.shape) != (num_phrases,):
        raise ValueError(
            f"`has_region` must be a bool tensor of shape ({num_phrases},), one entry per phrase, got "
            f"{has_region.dtype} of shape {tuple(has_region.shape)}."
        )


__all__ = ["AttentionMaskConsistencyLoss", "resize_to_mask"]
