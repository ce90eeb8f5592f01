# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What every objective on heatmaps shares: its name, its interface, and the choice of annotated phrases."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from torch.nn import functional as F

from albef_amc.explanation_albef import at_least_float32
from albef_amc.ranges_albef import NOT_NEGATIVE, check_ranges

Objective = TypeVar("Objective", bound="type[HeatmapObjective]")
OBJECTIVES: dict[str, "type[HeatmapObjective]"] = {}


def register_objective(name: str) -> Callable[[Objective], Objective]:
    """Class decorator: registers an objective under `name`, for recipes, logs and the names of its terms.

    Raises:
        ValueError: another class has the name.
    """

    def register(objective: Objective) -> Objective:
        if name in OBJECTIVES:
            raise ValueError(f"two objectives are called {name!r}: choose another name for {objective.__name__}.")
        objective.name = name
        OBJECTIVES[name] = objective
        return objective

    return register


class HeatmapObjective(ABC):
    """A loss on heatmaps: a frozen dataclass of margins and weights that is called with named tensors.

    It knows nothing of the model. `inputs` names the tensors of the batch that it reads besides `normalized_heatmap`;
    [`count`], [`find_phrases`] and the call take them under these names. The call also takes those of
    `optional_inputs` that the batch has.
    """

    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]
    optional_inputs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def count(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """How many phrases (or pairs of phrases) of a batch take part: a scalar of type int64."""

    def find_phrases(self, *args: Any, **kwargs: Any) -> torch.Tensor | None:
        """Phrases whose heatmap the objective reads, `(P,)` bool: no other is computed. None stands for all."""
        return None

    @abstractmethod
    def __call__(self, normalized_heatmap: torch.Tensor, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Scalars by name: `<name>_loss` and its parts, whose names end in `_loss` too.

        The keyword `num_regions` replaces the local [`count`] as the denominator, for losses that are normalised by a
        count over several processes or micro-batches.
        """

    def check_not_negative(self, *names: str) -> None:
        """Raises ValueError where one of the fields is negative or not finite, TypeError where one is not a number."""
        check_ranges(self, dict.fromkeys(names, NOT_NEGATIVE))


class RegionObjective(HeatmapObjective):
    """An objective that compares the heatmap of a phrase with its annotated region."""

    inputs: ClassVar[tuple[str, ...]] = ("region_mask", "has_region")
    optional_inputs: ClassVar[tuple[str, ...]] = ("region_rows",)

    def count(self, region_mask: torch.Tensor, has_region: torch.Tensor) -> torch.Tensor:
        """Phrases with a region."""
        return self.find_phrases(region_mask, has_region).sum()

    def find_phrases(self, region_mask: torch.Tensor, has_region: torch.Tensor) -> torch.Tensor:
        """Phrases with a region, `(P,)` bool: a mask without area does not count."""
        return has_region & (region_mask.sum((1, 2)) > 0)

    def __call__(
        self,
        normalized_heatmap: torch.Tensor,
        region_mask: torch.Tensor,
        has_region: torch.Tensor,
        num_regions: float | torch.Tensor | None = None,
        region_rows: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Compute the loss of P phrases.

        Args:
            normalized_heatmap (`torch.Tensor` of shape `(P, G_h, G_w)`):
                Explanations in [0, 1], attached to the graph when training. Resized bilinearly
                (`align_corners=False`) to the mask.
            region_mask (`torch.Tensor` of shape `(P, M_h, M_w)`): annotated regions in [0, 1].
            has_region (`torch.Tensor` of shape `(P,)`, bool): False where a phrase does not take part.
            num_regions (`float` or scalar `torch.Tensor`, *optional*):
                Replaces the local number of phrases with a region as the denominator, for losses that are normalised
                by a count over several processes or micro-batches.
            region_rows (`torch.Tensor` of shape `(num_regions,)`, int64, *optional*): numbers of the phrases that take
                part, where they are known on the CPU: nothing then waits for the device to find them.

        Returns:
            `dict` of scalars, float32 (float64 for float64 heatmaps): the losses (attached to the graph also when
            they are 0), and `num_regions`, the local number of phrases that took part.
        """
        check_region_shapes(normalized_heatmap, region_mask, has_region)
        with torch.autocast(device_type=normalized_heatmap.device.type, enabled=False):
            heatmap = at_least_float32(normalized_heatmap)
            rows = region_rows
            if rows is None:
                rows = self.find_phrases(region_mask, has_region).nonzero().flatten()
            mask = region_mask.index_select(0, rows).to(heatmap.dtype).flatten(1)  # (num_regions, M_h * M_w)
            heatmap = resize_to_mask(heatmap, *region_mask.shape[1:]).index_select(0, rows).flatten(1)
            count = torch.full((), len(rows), dtype=heatmap.dtype, device=heatmap.device)
            denominator = count.clamp(min=1) if num_regions is None else num_regions
            return {**self.compare(heatmap, mask, denominator), "num_regions": count}

    @abstractmethod
    def compare(
        self, heatmap: torch.Tensor, mask: torch.Tensor, denominator: float | torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The losses of annotated phrases: sums over phrases, divided by `denominator`.

        Args:
            heatmap (`torch.Tensor` of shape `(num_regions, num_pixels)`): values in [0, 1], float32 or float64.
            mask (`torch.Tensor` of the same shape): regions in [0, 1], none of them without area.
            denominator (`float` or scalar `torch.Tensor`): count that the sums are divided by.
        """


def resize_to_mask(heatmap: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize heatmaps `(P, G_h, G_w)` bilinearly (`align_corners=False`) to `(P, height, width)`."""
    return F.interpolate(heatmap[:, None], size=(height, width), mode="bilinear", align_corners=False)[:, 0]


def check_region_shapes(normalized_heatmap: torch.Tensor, region_mask: torch.Tensor, has_region: torch.Tensor) -> None:
    """Raises ValueError unless there is one mask and one bool per heatmap."""
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
    check_entries("has_region", has_region, torch.bool, num_phrases)


def check_entries(name: str, values: torch.Tensor, dtype: torch.dtype, num_phrases: int) -> None:
    """Raises ValueError unless there is one entry per phrase, of a type."""
    if values.dtype != dtype or tuple(values.shape) != (num_phrases,):
        raise ValueError(
            f"`{name}` must be a {dtype} tensor of shape ({num_phrases},), one entry per phrase, got {values.dtype} "
            f"of shape {tuple(values.shape)}."
        )
