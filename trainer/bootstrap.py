# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Confidence intervals of accuracies by the bootstrap over images: phrases of an image are not independent."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

CONFIDENCE = 0.95
NUM_RESAMPLES = 1000

Interval = tuple[float, float]


@dataclass
class AccuracyIntervals:
    """Intervals of an accuracy.

    Args:
        overall (`tuple`, *optional*): lower and upper end over all phrases; `None` where there is one image only.
        by_type (`dict`): phrase type -> the same over its phrases.
    """

    overall: Interval | None
    by_type: dict[str, Interval | None] = field(default_factory=dict)


def bootstrap_accuracy(
    hits: Sequence[bool],
    image_ids: Sequence[str],
    phrase_types: Sequence[Sequence[str]] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> AccuracyIntervals:
    """Percentile intervals of an accuracy, over all phrases and per type.

    As many images as there are get drawn with replacement, each with all its phrases; the accuracy is hits over
    phrases of the drawn images. A type is scored on the same draws; one that a draw lacks is left out of that draw.

    Args:
        hits (sequence of `bool`): one per phrase.
        image_ids (sequence of `str`): the image of each phrase.
        phrase_types (sequence of sequences of `str`, *optional*): the types of each phrase.
        num_resamples (`int`, defaults to 1000): draws.
        seed (`int`, defaults to 0): seed of the draws.
        confidence (`float`, defaults to 0.95): share of the draws inside the interval.

    Raises:
        ValueError: no phrase, sequences of different lengths, or `num_resamples` below 1.

    Example:

    ```python
    >>> from albef_amc.trainer.bootstrap import bootstrap_accuracy
    >>> bootstrap_accuracy([True, True], ["photo 1", "photo 2"]).overall
    (1.0, 1.0)

    ```
    """
    types = [()] * len(hits) if phrase_types is None else phrase_types
    if not len(hits) == len(image_ids) == len(types) or not len(hits):
        raise ValueError(
            f"there are {len(hits)} `hits`, {len(image_ids)} `image_ids` and {len(types)} `phrase_types`: one of "
            "each per phrase is needed, and one phrase at least."
        )
    if num_resamples < 1:
        raise ValueError(f"`num_resamples` must be 1 or more, got {num_resamples}.")
    names = sorted({name for entry in types for name in entry})
    hit_counts, phrase_counts = _count_by_image(hits, image_ids, types, names)
    num_images = len(hit_counts)
    generator = np.random.default_rng(seed)
    accuracies = np.full((num_resamples, 1 + len(names)), np.nan)
    for accuracy in accuracies:
        weights = np.bincount(generator.integers(num_images, size=num_images), minlength=num_images)
        drawn = weights @ phrase_counts
        np.divide(weights @ hit_counts, drawn, out=accuracy, where=drawn > 0)
    images_by_column = (phrase_counts > 0).sum(axis=0)
    intervals = [
        _find_interval(column, confidence) if images > 1 else None
        for column, images in zip(accuracies.T, images_by_column, strict=True)
    ]
    return AccuracyIntervals(intervals[0], dict(zip(names, intervals[1:], strict=True)))


def _count_by_image(
    hits: Sequence[bool], image_ids: Sequence[str], types: Sequence[Sequence[str]], names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Hits and phrases, `(num_images, 1 + num_types)` each: all phrases first, then those of each type."""
    rows = {image_id: row for row, image_id in enumerate(dict.fromkeys(image_ids))}
    columns = {name: column for column, name in enumerate(names, start=1)}
    hit_counts, phrase_counts = (np.zeros((len(rows), 1 + len(names))) for _ in range(2))
    for hit, image_id, entry in zip(hits, image_ids, types, strict=True):
        cells = rows[image_id], [0, *(columns[name] for name in set(entry))]
        phrase_counts[cells] += 1
        hit_counts[cells] += bool(hit)
    return hit_counts, phrase_counts


def _find_interval(accuracies: np.ndarray, confidence: float) -> Interval | None:
    drawn = accuracies[~np.isnan(accuracies)]
    if not len(drawn):
        return None
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


__all__ = ["CONFIDENCE", "NUM_RESAMPLES", "AccuracyIntervals", "bootstrap_accuracy"]
