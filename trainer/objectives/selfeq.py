# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Self-consistency equivalence (SelfEQ): a phrase and its paraphrase should light up the same place."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from albef_amc.explanation_albef import at_least_float32
from albef_amc.ranges_albef import Range, check_number
from albef_amc.trainer.objectives.heatmap_objective import HeatmapObjective, check_entries, register_objective

SUM_OF_TWO_HEATMAPS = Range(0, 2, is_above=True)


@register_objective("selfeq")
@dataclass(frozen=True)
class SelfConsistencyLoss(HeatmapObjective):
    r"""Self-consistency of explanations (SelfEQ): needs paraphrases, and no annotated region.

    Formula, for the heatmap G of a phrase and G' of its paraphrase, both in [0, 1] over the same patches:

        R = [G + G' >= threshold], without gradient
        similarity  = SmoothL1(G', G)
        consistency = std(G' R) + std(G R) + max(0, threshold / 2 - sum(G' R) / sum(R))
                                           + max(0, threshold / 2 - sum(G R) / sum(R))
        selfeq_loss = similarity + consistency_weight * consistency

    Inputs:

    | tensor               | shape           | range                                                        |
    | -------------------- | --------------- | ------------------------------------------------------------ |
    | `normalized_heatmap` | (P, G_h, G_w)   | [0, 1]                                                       |
    | `paraphrase_index`   | (P,) int64      | row of the phrase's paraphrase in this batch, -1 for none    |

    Reduction: smooth L1 (threshold 1 between its branches) is the mean over patches; then mean over pairs of a phrase
    and its paraphrase; 0 if there are none.

    Source: He et al., "Improved Visual Grounding through Self-Consistent Explanations", CVPR 2024, equations only.
    Its reading here: std is the population deviation of the product over all patches of the map, those outside R
    counting as 0. Departure: with an empty R there is no mean and the consistency of the pair is 0; where the
    deviation is 0 its gradient is taken as 0.

    Args:
        threshold (`float`, defaults to 0.8): k, the sum of both heatmaps from which a patch belongs to R.
        consistency_weight (`float`, defaults to 0.5): weight of the consistency.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc.trainer.objectives.selfeq import SelfConsistencyLoss
    >>> heatmap = torch.tensor([[[1.0, 0.0]], [[0.5, 0.0]]])  # a phrase, then its paraphrase
    >>> losses = SelfConsistencyLoss()(heatmap, torch.tensor([1, -1]))
    >>> losses["selfeq_similarity_loss"].item()  # 0.5 * 0.5 ** 2, and 0, over two patches
    0.0625

    ```
    """

    inputs: ClassVar[tuple[str, ...]] = ("paraphrase_index",)

    threshold: float = 0.8
    consistency_weight: float = 0.5

    def __post_init__(self):
        self.check_not_negative("consistency_weight")
        check_number("threshold", self.threshold, SUM_OF_TWO_HEATMAPS)

    def count(self, paraphrase_index: torch.Tensor) -> torch.Tensor:
        """Pairs of a phrase and its paraphrase."""
        return (paraphrase_index >= 0).sum()

    def find_phrases(self, paraphrase_index: torch.Tensor) -> torch.Tensor:
        """Phrases that have a paraphrase or are one, `(P,)` bool."""
        has_paraphrase, num_phrases = paraphrase_index >= 0, len(paraphrase_index)
        rows = torch.where(has_paraphrase, paraphrase_index, num_phrases)
        is_paraphrase = has_paraphrase.new_zeros(num_phrases + 1).index_fill(0, rows, True)[:-1]
        return has_paraphrase | is_paraphrase

    def __call__(
        self,
        normalized_heatmap: torch.Tensor,
        paraphrase_index: torch.Tensor,
        num_regions: float | torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Compute the loss of P phrases, paraphrases among them.

        Args:
            normalized_heatmap (`torch.Tensor` of shape `(P, G_h, G_w)`):
                Explanations in [0, 1], attached to the graph when training.
            paraphrase_index (`torch.Tensor` of shape `(P,)`, int64): row of the phrase's paraphrase, -1 for none.
            num_regions (`float` or scalar `torch.Tensor`, *optional*):
                Replaces the local number of pairs as the denominator, for losses that are normalised by a count over
                several processes or micro-batches.

        Returns:
            `dict` of scalars, float32 (float64 for float64 heatmaps): `selfeq_loss`, `selfeq_similarity_loss`,
            `selfeq_consistency_loss` (attached to the graph also when they are 0), and `num_pairs`, the local number
            of pairs.
        """
        _check_shapes(normalized_heatmap, paraphrase_index)
        with torch.autocast(device_type=normalized_heatmap.device.type, enabled=False):
            heatmap = at_least_float32(normalized_heatmap).flatten(1)
            has_paraphrase = paraphrase_index >= 0
            rows = has_paraphrase.nonzero().flatten()
            original = heatmap.index_select(0, rows)  # (num_pairs, G_h * G_w)
            paraphrase = heatmap.index_select(0, paraphrase_index[rows])
            count = has_paraphrase.sum().to(heatmap.dtype)
            denominator = count.clamp(min=1) if num_regions is None else num_regions
            similarity = F.smooth_l1_loss(paraphrase, original, reduction="none").mean(-1).sum() / denominator
            shared = (original + paraphrase >= self.threshold).detach().to(heatmap.dtype)
            consistency = self._consistency(original, shared) + self._consistency(paraphrase, shared)
            consistency = consistency.sum() / denominator
            return {
                "selfeq_loss": similarity + self.consistency_weight * consistency,
                "selfeq_similarity_loss": similarity,
                "selfeq_consistency_loss": consistency,
                "num_pairs": count,
            }

    def _consistency(self, heatmap: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
        """Deviation and missing height of one side of the pairs, `(num_pairs,)`."""
        area = shared.sum(-1)
        product = heatmap * shared
        variance = (product - product.mean(-1, keepdim=True)).square().mean(-1)
        deviation = torch.where(variance > 0, variance, 1).sqrt() * (variance > 0)
        mean = product.sum(-1) / area.clamp(min=1)
        return deviation + F.relu(self.threshold / 2 - mean) * (area > 0)


def _check_shapes(normalized_heatmap: torch.Tensor, paraphrase_index: torch.Tensor) -> None:
    if normalized_heatmap.ndim != 3:
        raise ValueError(
            "`normalized_heatmap` must have three dimensions (phrases, height, width), got shape "
            f"{tuple(normalized_heatmap.shape)}."
        )
    check_entries("paraphrase_index", paraphrase_index, torch.int64, len(normalized_heatmap))
