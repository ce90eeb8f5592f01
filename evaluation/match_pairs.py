# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Pairs of image and phrase that match and pairs that do not: their scores, and how well the scores separate them."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Dataset

from albef_amc import ITM_MATCH_INDEX, AlbefForImageTextMatching, AlbefForPreTraining
from albef_amc.collections_albef import without_format
from albef_amc.datasets_scripts.features import read_row
from albef_amc.datasets_scripts.randomness import example_generator
from albef_amc.datasets_scripts.true_phrases import list_true_phrases
from albef_amc.image_processing_albef import load_image
from albef_amc.ranges_albef import COUNT, check_number
from albef_amc.text_processing_albef import clean_caption, find_text_problem


@dataclass(frozen=True)
class MatchPair:
    """A phrase and the image that it is compared with.

    Args:
        row (`int`): number of the image's row in the data set.
        image_id (`str`): the image.
        phrase (`str`): the words.
        is_match (`bool`): whether they are a phrase of the image.
    """

    row: int
    image_id: str
    phrase: str
    is_match: bool


def list_match_pairs(rows: Any, seed: int = 0, part: Sequence[int] | None = None) -> list[MatchPair]:
    """Every phrase with its own image, and once with another image of which it is not known to be true.

    The other image is drawn per phrase from `seed`; a phrase that is true of every image has no second pair. So there
    is about one pair that does not match for each that does.

    Args:
        rows: data set rows (`datasets_scripts/features.py`), with a length and read by index; pictures are not read.
        seed (`int`, defaults to 0): of the draws.
        part (sequence of `int`, *optional*): numbers of the rows to pair with each other; all of them by default.

    Raises:
        ValueError: no phrase with words, or no pair that does not match.
    """
    rows = without_format(rows)
    if hasattr(rows, "select_columns"):
        rows = rows.select_columns(["image_id", "phrases"])
    numbers = range(len(rows)) if part is None else part
    read = {number: read_row(rows[number], ("image_id", "phrases")) for number in numbers}
    true_phrases = {number: list_true_phrases(row) for number, row in read.items()}
    pairs = []
    for index, row in read.items():
        for number, phrase in enumerate(row["phrases"] or ()):
            if find_text_problem(phrase["phrase"]) is not None:
                continue
            pairs.append(MatchPair(index, row["image_id"], phrase["phrase"], True))
            words = clean_caption(phrase["phrase"])
            generator = example_generator(seed, 0, f"{row['image_id']}/{number}", "other image")
            for other in generator.permutation(numbers).tolist():
                if read[other]["image_id"] != row["image_id"] and words not in true_phrases[other]:
                    pairs.append(MatchPair(other, read[other]["image_id"], phrase["phrase"], False))
                    break
    check_kinds(pairs)
    return pairs


def check_kinds(pairs: Sequence[MatchPair]) -> None:
    """Raises ValueError unless some pairs match and some do not."""
    num_matches = sum(pair.is_match for pair in pairs)
    if num_matches == 0:
        raise ValueError("no row has a phrase with words: there is no pair of image and phrase to score.")
    if num_matches == len(pairs):
        raise ValueError(
            "every phrase of the data is true of every image: there is no pair that does not match. Give data with "
            "several images that hold different things."
        )


def hash_pairs(pairs: Sequence[MatchPair]) -> str:
    """SHA-256 of images, phrases and kinds of pairs, in hexadecimal digits."""
    lines = [json.dumps([pair.image_id, pair.phrase, pair.is_match]) for pair in pairs]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@torch.no_grad()
def score_pairs(
    model: AlbefForImageTextMatching | AlbefForPreTraining,
    processor: Any,
    rows: Any,
    pairs: Sequence[MatchPair],
    batch_size: int = 16,
    num_workers: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> np.ndarray:
    """Difference of the two matching logits, match minus no match, of each pair, `(len(pairs),)` float64.

    An image is encoded once for all phrases that are compared with it.

    Args:
        model, processor: the checkpoint.
        rows: the data set of the pairs.
        pairs (sequence of [`MatchPair`]): what to score.
        batch_size (`int`, defaults to 16): images encoded together.
        num_workers (`int`, defaults to 0): processes that decode and resize images.
        progress (callable, *optional*): wraps the iteration over batches, to show progress.

    Raises:
        ValueError: a score that is not finite.
    """
    check_number("batch_size", batch_size, COUNT)
    of_row: dict[int, list[int]] = defaultdict(list)
    for number, pair in enumerate(pairs):
        of_row[pair.row].append(number)
    chosen = _ImagesOfPairs(without_format(rows), list(of_row), processor.image_processor.max_image_pixels)
    loader: DataLoader[Any] = DataLoader(chosen, batch_size=batch_size, collate_fn=list, num_workers=num_workers)
    margins = np.empty(len(pairs))
    for batch in progress(loader):
        numbers = [of_row[row] for row, _ in batch]
        texts = [[pairs[number].phrase for number in of_image] for of_image in numbers]
        inputs = processor(images=[image for _, image in batch], text=texts, return_tensors="pt").to(model.device)
        logits = model.score_phrases(**inputs)
        margin = (logits[:, ITM_MATCH_INDEX] - logits[:, 1 - ITM_MATCH_INDEX]).double().cpu().numpy()
        margins[[number for of_image in numbers for number in of_image]] = margin
    if not np.isfinite(margins).all():
        raise ValueError(
            "the matching scores are not finite: the pictures or the model's weights hold NaN or infinity."
        )
    return margins


class _ImagesOfPairs(Dataset):
    """Numbers and pictures of some rows."""

    def __init__(self, rows: Any, numbers: list[int], max_image_pixels: int):
        self.rows, self.numbers, self.max_image_pixels = rows, numbers, max_image_pixels

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> tuple[int, Any]:
        row = read_row(self.rows[self.numbers[index]], ("image", "image_id"))
        return self.numbers[index], load_image(row["image"], self.max_image_pixels, f"image {row['image_id']!r}")


def evaluate_matching(
    model: AlbefForImageTextMatching | AlbefForPreTraining,
    processor: Any,
    rows: Any,
    rank: int = 0,
    world_size: int = 1,
    batch_size: int = 16,
    num_workers: int = 0,
) -> float | None:
    """Area under the ROC curve of the matching score on a data set, in [0, 1], for pairs of [`list_match_pairs`].

    On several processes each scores the pairs of a block of the rows, and every process gets the result.

    Args:
        model, processor, rows, batch_size, num_workers: as for [`score_pairs`].
        rank, world_size (`int`, default to 0 and 1): this process among those that a launcher started.

    Returns:
        `float`, or `None` where the data has no pairs of both kinds.
    """
    try:
        pairs = list_match_pairs(rows)
    except ValueError:
        return None
    block = range(len(rows) * rank // world_size, len(rows) * (rank + 1) // world_size)
    own = [pair for pair in pairs if pair.row in block]
    scored = list(zip(score_pairs(model, processor, rows, own, batch_size, num_workers), own, strict=True))
    if world_size > 1:
        scored = gather_object(scored)
    return compute_matching_auc(
        np.array([margin for margin, _ in scored]), np.array([pair.is_match for _, pair in scored])
    )


def compute_matching_auc(margins: np.ndarray, is_match: np.ndarray) -> float:
    """Area under the ROC curve: the share of (match, no match) for which the match has the larger score; ties count
    half.

    Args:
        margins (`numpy.ndarray` of shape `(K,)`): scores, larger for a match.
        is_match (`numpy.ndarray` of shape `(K,)`, bool): some True and some False.

    Example:

    ```python
    >>> import numpy as np
    >>> from albef_amc.evaluation.match_pairs import compute_matching_auc
    >>> compute_matching_auc(np.array([3.0, 1.0, 1.0, 0.0]), np.array([True, True, False, False]))
    0.875

    ```
    """
    matches, others = np.sort(margins[is_match]), margins[~is_match]
    above = len(matches) - np.searchsorted(matches, others, side="right")
    not_below = len(matches) - np.searchsorted(matches, others, side="left")
    return float((above + not_below).sum() / 2 / (len(matches) * len(others)))


__all__ = [
    "MatchPair",
    "check_kinds",
    "compute_matching_auc",
    "evaluate_matching",
    "hash_pairs",
    "list_match_pairs",
    "score_pairs",
]
