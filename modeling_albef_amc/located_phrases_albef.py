# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""A model's answer phrase by phrase: matching probability, and heatmap at the size of the stored image."""

from collections.abc import Iterator, Sequence

import torch
from transformers.utils import ModelOutput

from .configuration_albef import ITM_MATCH_INDEX
from .ranges_albef import Range
from .regions_albef import resize_heatmap

BOX_THRESHOLD = 0.5  # share of a map's maximum that the pixels of a box reach
BOX_THRESHOLDS = Range(0, 1, is_above=True)


def read_sizes(
    outputs: ModelOutput, sizes: torch.Tensor | Sequence[tuple[int, int]] | None, name: str
) -> list[tuple[int, int]]:
    """Height and width of every image: those given as the argument `name`, or those of `outputs`."""
    sizes = getattr(outputs, "original_sizes", None) if sizes is None else sizes
    if sizes is None:
        raise ValueError(f"`outputs` has no `original_sizes`: give (height, width) per image as `{name}`.")
    return [(int(height), int(width)) for height, width in sizes]


def iterate_located_phrases(
    outputs: ModelOutput, sizes: list[tuple[int, int]]
) -> Iterator[tuple[int, float, torch.Tensor]]:
    """Per phrase its image, its matching probability, and its heatmap `(height, width)`, one map in memory at a time.

    Raises:
        ValueError: `outputs` has no heatmaps, one that is not finite, or an image that `sizes` does not know.
    """
    if getattr(outputs, "heatmap", None) is None:
        raise ValueError(
            "`outputs` has no `heatmap`. Use `model.ground()`, or call the model with `output_heatmap=True`."
        )
    heatmaps = outputs.heatmap.detach().cpu()
    scores = outputs.itm_logits.detach().float().softmax(dim=-1)[:, ITM_MATCH_INDEX].tolist()
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


__all__ = ["BOX_THRESHOLD", "BOX_THRESHOLDS", "iterate_located_phrases", "read_sizes"]
