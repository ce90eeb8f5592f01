# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Confidence intervals of accuracies. The unit is the image, because phrases of an image are not independent."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from albef_amc.ranges_albef import COUNT, Range, check_number

CONFIDENCE = 0.95
CONFIDENCES = Range(0, 1, is_above=True, is_below=True)
NUM_RESAMPLES = 1000
# Percentiles of a bootstrap over fewer images are too narrow.
LEAST_IMAGES = 30
BISECTIONS = 60
FRACTION_TERMS = 1000
SMALLEST = 1e-300


@dataclass(frozen=True)
class Interval:
    """A confidence interval, and how it was computed.

    Args:
        low, high (`float`): ends, in [0, 1]; of a difference in [-1, 1].
        kind (`str`): `"bootstrap"` or `"paired bootstrap"` over images, or `"exact binomial"`.
        num_images (`int`): images that it was computed from.
    """

    low: float
    high: float
    kind: str
    num_images: int

    def describe(self) -> str:
        """Kind and number of images in words, as they stand beside the ends wherever these are printed."""
        return f"{self.kind} over {self.num_images} images"


@dataclass
class AccuracyIntervals:
    """Intervals of an accuracy.

    Args:
        overall ([`Interval`], *optional*): over all phrases; `None` where there is one image only.
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
    """Intervals of an accuracy, over all phrases and per type.

    With 30 images or more, percentiles of a bootstrap: each draw takes as many images as there are,
    with replacement and with all their phrases; its accuracy is hits over phrases. A type is scored on the same draws;
    a draw without the type is ignored.

    With fewer images, or where every draw gives the same accuracy (no miss, no hit), the interval is the exact
    binomial one (Clopper and Pearson) of as many trials as there are images: phrases of an image count as one trial,
    which is exact if they are all hits or all misses, and too wide otherwise. One image alone has no interval.

    Args:
        hits (sequence of `bool`): one per phrase.
        image_ids (sequence of `str`): the image of each phrase.
        phrase_types (sequence of sequences of `str`, *optional*): the types of each phrase.
        num_resamples (`int`, defaults to 1000): draws.
        seed (`int`, defaults to 0): seed of the draws.
        confidence (`float`, defaults to 0.95): share of the draws inside the interval.

    Raises:
        TypeError, ValueError: no phrase, sequences of different lengths, or a number outside its range.

    Example:

    ```python
    >>> from albef_amc.evaluation.intervals import bootstrap_accuracy
    >>> interval = bootstrap_accuracy([True, True], ["photo 1", "photo 2"]).overall
    >>> round(interval.low, 3), interval.high, interval.describe()
    (0.158, 1.0, 'exact binomial over 2 images')

    ```
    """
    types = [()] * len(hits) if phrase_types is None else phrase_types
    if not len(hits) == len(image_ids) == len(types) or not len(hits):
        raise ValueError(
            f"there are {len(hits)} `hits`, {len(image_ids)} `image_ids` and {len(types)} `phrase_types`: one of "
            "each per phrase is needed, and one phrase at least."
        )
    check_number("num_resamples", num_resamples, COUNT)
    check_number("confidence", confidence, CONFIDENCES)
    names = sorted({name for entry in types for name in entry})
    hit_counts, phrase_counts = _count_by_image(hits, image_ids, types, names)
    accuracies = np.full((num_resamples, 1 + len(names)), np.nan)
    for accuracy, weights in zip(accuracies, _draw_images(len(hit_counts), num_resamples, seed), strict=True):
        drawn = weights @ phrase_counts
        np.divide(weights @ hit_counts, drawn, out=accuracy, where=drawn > 0)
    observed = hit_counts.sum(axis=0) / phrase_counts.sum(axis=0)
    images_by_column = (phrase_counts > 0).sum(axis=0).tolist()
    intervals = [
        _choose_interval(column, accuracy, images, confidence)
        for column, accuracy, images in zip(accuracies.T, observed.tolist(), images_by_column, strict=True)
    ]
    return AccuracyIntervals(intervals[0], dict(zip(names, intervals[1:], strict=True)))


def bootstrap_gain(
    hits: Sequence[bool],
    compared_hits: Sequence[bool],
    image_ids: Sequence[str],
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Paired interval of the difference of two accuracies on the same phrases, the first minus the second.

    Percentiles of the bootstrap over images of [`bootstrap_accuracy`], with the same draws; both accuracies of a
    draw come from the same images, so that scenes that are easy or hard for both do not widen the interval.

    Args:
        hits, compared_hits (sequence of `bool`): one each per phrase, in the same order.
        image_ids (sequence of `str`): the image of each phrase.
        num_resamples, seed, confidence: as for [`bootstrap_accuracy`].

    Returns:
        [`Interval`], or `None` for fewer than 30 images.

    Raises:
        TypeError, ValueError: no phrase, sequences of different lengths, or a number outside its range.

    Example:

    ```python
    >>> from albef_amc.evaluation.intervals import bootstrap_gain
    >>> images = [str(number) for number in range(40)]
    >>> interval = bootstrap_gain([True] * 40, [True, False] * 20, images)
    >>> 0 < interval.low < 0.5 < interval.high < 1
    True

    ```
    """
    if not len(hits) == len(compared_hits) == len(image_ids) or not len(hits):
        raise ValueError(
            f"there are {len(hits)} `hits`, {len(compared_hits)} `compared_hits` and {len(image_ids)} `image_ids`: "
            "one of each per phrase is needed, and one phrase at least."
        )
    check_number("num_resamples", num_resamples, COUNT)
    check_number("confidence", confidence, CONFIDENCES)
    own, phrase_counts = _count_by_image(hits, image_ids, [()] * len(hits), ())
    compared, _ = _count_by_image(compared_hits, image_ids, [()] * len(hits), ())
    num_images = len(own)
    if num_images < LEAST_IMAGES:
        return None
    gains = [
        float((weights @ (own - compared) / (weights @ phrase_counts))[0])
        for weights in _draw_images(num_images, num_resamples, seed)
    ]
    low, high = np.quantile(gains, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return Interval(low, high, "paired bootstrap", num_images)


def _draw_images(num_images: int, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """For each draw with replacement how often it holds each image, `(num_images,)`."""
    generator = np.random.default_rng(seed)
    for _ in range(num_resamples):
        yield np.bincount(generator.integers(num_images, size=num_images), minlength=num_images)


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


def _choose_interval(drawn: np.ndarray, accuracy: float, num_images: int, confidence: float) -> Interval | None:
    """The bootstrap's percentiles where there are images enough and the draws differ, else the exact interval."""
    if num_images == 1:
        return None
    drawn = drawn[~np.isnan(drawn)]
    if num_images >= LEAST_IMAGES and len(drawn):
        low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
        if low < high:
            return Interval(low, high, "bootstrap", num_images)
    low, high = compute_binomial_interval(accuracy * num_images, num_images, confidence)
    return Interval(low, high, "exact binomial", num_images)


def compute_binomial_interval(num_hits: float, num_trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    r"""The exact interval of a share (Clopper and Pearson 1934): quantiles of beta distributions.

    Args:
        num_hits (`float`): hits, between 0 and `num_trials`; any number where a trial is an image of several phrases.
        num_trials (`int`): trials, at least 1.
        confidence (`float`, defaults to 0.95): the interval holds the true share at least that often.

    Returns:
        `tuple` of lower and upper end, in [0, 1].

    Raises:
        TypeError, ValueError: a number outside its range.

    Example:

    ```python
    >>> from albef_amc.evaluation.intervals import compute_binomial_interval
    >>> [round(end, 4) for end in compute_binomial_interval(5, 10)]
    [0.1871, 0.8129]

    ```
    """
    check_number("num_trials", num_trials, COUNT)
    check_number("num_hits", num_hits, Range(0, num_trials))
    check_number("confidence", confidence, CONFIDENCES)
    misses, tail = num_trials - num_hits, (1 - confidence) / 2
    low = 0.0 if num_hits <= 0 else _find_beta_quantile(tail, num_hits, misses + 1)
    high = 1.0 if misses <= 0 else _find_beta_quantile(1 - tail, num_hits + 1, misses)
    return low, high


def _find_beta_quantile(share: float, a: float, b: float) -> float:
    """Where the beta distribution's cumulative probability reaches `share`, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if _cumulate_beta(middle, a, b) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _cumulate_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b) for 0 < x < 1, by its continued fraction."""
    if x > (a + 1) / (a + b + 2):
        return 1 - _cumulate_beta(1 - x, b, a)  # there the fraction converges quickly
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(logarithm) / a / _evaluate_fraction(x, a, b)


def _evaluate_fraction(x: float, a: float, b: float) -> float:
    """1 + d_1 x / (1 + d_2 x / (1 + ...)), term by term from the front (the method of Lentz)."""
    value, numerator, denominator = 1.0, 1.0, 0.0
    for term in range(1, FRACTION_TERMS):
        half = term // 2
        if term % 2:
            coefficient = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            coefficient = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        denominator = 1 / _keep_from_zero(1 + coefficient * denominator)
        numerator = _keep_from_zero(1 + coefficient / numerator)
        value *= numerator * denominator
        if abs(numerator * denominator - 1) < np.finfo(float).eps:
            break
    return value


def _keep_from_zero(value: float) -> float:
    return value if abs(value) > SMALLEST else SMALLEST


__all__ = [
    "CONFIDENCE",
    "NUM_RESAMPLES",
    "AccuracyIntervals",
    "Interval",
    "bootstrap_accuracy",
    "bootstrap_gain",
    "compute_binomial_interval",
]
