# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Pairs of image and phrase that match and pairs that do not: their scores, and how well the scores separate them."""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import gather_object
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from albef_amc import ITM_MATCH_INDEX, AlbefForImageTextMatching, AlbefForPreTraining
from albef_amc.collections_albef import without_format
from albef_amc.datasets_scripts.features import read_row
from albef_amc.datasets_scripts.randomness import example_generator
from albef_amc.datasets_scripts.row_images import guard_images
from albef_amc.datasets_scripts.true_phrases import list_true_phrases
from albef_amc.evaluation.grounding_evaluation import choose_rows, load_row_image
from albef_amc.explanation_albef import evaluation_mode
from albef_amc.grounders import Grounder
from albef_amc.image_processing_albef import MAX_IMAGE_PIXELS, UnusableImageError
from albef_amc.ranges_albef import COUNT, check_number
from albef_amc.text_processing_albef import clean_caption, find_text_problem

QUICK_DRAWS = 8


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


class ImageTexts(NamedTuple):
    """Texts of an image.

    Args:
        image_id (`str`): the image.
        phrases (list): the words of its phrases, as they are stored.
        true_phrases (set of `str`): cleaned words that are known to be true of it.
    """

    image_id: str
    phrases: list[Any]
    true_phrases: set[str]


def list_match_pairs(rows: Any, seed: int = 0, part: Sequence[int] | None = None) -> list[MatchPair]:
    """Every phrase with its own image, and once with another image of which it is not known to be true.

    The other image is drawn per phrase from `seed`; a phrase that is true of every image has no second pair. So there
    is about one pair that does not match for each that does.

    Args:
        rows: data set rows (`datasets_scripts/features.py`), with a length and read by index; pictures are not read,
            except by a transform of the user.
        seed (`int`, defaults to 0): of the draws.
        part (sequence of `int`, *optional*): numbers of the rows to pair with each other; all of them by default.

    Raises:
        ValueError: no phrase with words, or no pair that does not match.
    """
    pairs = pair_phrases(rows, seed, part)
    check_kinds(pairs)
    return pairs


def pair_phrases(rows: Any, seed: int = 0, part: Sequence[int] | None = None) -> list[MatchPair]:
    """The pairs of [`list_match_pairs`], of whatever kinds there are."""
    rows = select_columns(rows, ["image_id", "phrases"], optional=["true_phrases"])
    texts = {number: _read_texts(rows[number]) for number in (range(len(rows)) if part is None else part)}
    numbers, pairs = list(texts), []
    for index, own in texts.items():
        for position, phrase in enumerate(own.phrases):
            if find_text_problem(phrase) is not None:
                continue
            pairs.append(MatchPair(index, own.image_id, phrase, True))
            generator = example_generator(seed, 0, f"{own.image_id}/{position}", "other image")
            other = _draw_other_image(texts, numbers, own.image_id, clean_caption(phrase), generator)
            if other is not None:
                pairs.append(MatchPair(other, texts[other].image_id, phrase, False))
    return pairs


def select_columns(rows: Any, names: Sequence[str], optional: Sequence[str] = ()) -> Any:
    """Rows with some of their columns (`optional` ones where they exist), so that no picture is decoded; with all of
    them where a transform of the user, which may read any column, makes the rows."""
    rows = without_format(rows)
    is_transformed = (getattr(rows, "format", None) or {}).get("type") == "custom"
    if is_transformed or not hasattr(rows, "select_columns"):
        return rows
    return rows.select_columns([*names, *(name for name in optional if name in rows.column_names)])


def _read_texts(row: Any) -> ImageTexts:
    row = read_row(row, ("image_id", "phrases"))
    return ImageTexts(row["image_id"], [phrase.get("phrase") for phrase in row["phrases"]], list_true_phrases(row))


def _draw_other_image(
    texts: Mapping[int, ImageTexts], numbers: Sequence[int], image_id: str, words: str, generator: np.random.Generator
) -> int | None:
    """Number of an image other than `image_id` of which the cleaned words are not known to be true, each with the same
    probability; None if there is none. All images are looked at only where a few draws find none."""

    def is_negative(number: int) -> bool:
        return texts[number].image_id != image_id and words not in texts[number].true_phrases

    for place in generator.integers(len(numbers), size=QUICK_DRAWS).tolist():
        if is_negative(numbers[place]):
            return numbers[place]
    negatives = [number for number in numbers if is_negative(number)]
    return negatives[int(generator.integers(len(negatives)))] if negatives else None


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
    model: AlbefForImageTextMatching | AlbefForPreTraining | Grounder,
    processor: Any,
    rows: Any,
    pairs: Sequence[MatchPair],
    batch_size: int = 16,
    num_workers: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
    skips_unusable: bool = False,
) -> np.ndarray:
    """Difference of the two matching logits, match minus no match, of each pair, `(len(pairs),)` float64.

    An image is encoded once for all phrases that are compared with it. Phrases with more tokens than ALBEF has text
    positions are truncated; a grounder refuses them.

    Args:
        model, processor: the checkpoint: ALBEF, or a [`~grounders.Grounder`] and its processor. Of one that has a
            similarity or a single logit, this is the score.
        rows: the data set of the pairs.
        pairs (sequence of [`MatchPair`]): what to score.
        batch_size (`int`, defaults to 16): images encoded together.
        num_workers (`int`, defaults to 0): processes that decode and resize images.
        progress (callable, *optional*): wraps the iteration over batches, to show progress.
        skips_unusable (`bool`, defaults to `False`): pairs of an image that cannot be used have NaN in place of a
            score; otherwise such an image is an error.

    Raises:
        ValueError: a score that is not finite, or an image that cannot be used.
        FileNotFoundError: no file of an image.
    """
    check_number("batch_size", batch_size, COUNT)
    of_row: dict[int, list[int]] = defaultdict(list)
    for number, pair in enumerate(pairs):
        of_row[pair.row].append(number)
    rows, limit = guard_images(without_format(rows), is_decoded=False), MAX_IMAGE_PIXELS
    if not isinstance(model, Grounder):
        limit = processor.image_processor.max_image_pixels
    chosen = _ImagesOfPairs(rows, list(of_row), limit, skips_unusable)
    loader: DataLoader[Any] = DataLoader(chosen, batch_size=batch_size, collate_fn=list, num_workers=num_workers)
    margins = np.full(len(pairs), np.nan)
    for batch in progress(loader):
        usable = {row: image for row, image in batch if image is not None}
        if not usable:
            continue
        numbers = [of_row[row] for row in usable]
        texts = [[pairs[number].phrase for number in of_image] for of_image in numbers]
        margin = _compute_margins(model, processor, list(usable.values()), texts).double().cpu().numpy()
        if not np.isfinite(margin).all():
            raise ValueError(
                "the matching scores are not finite: the pictures or the model's weights hold NaN or infinity."
            )
        margins[[number for of_image in numbers for number in of_image]] = margin
    return margins


def _compute_margins(
    model: AlbefForImageTextMatching | AlbefForPreTraining | Grounder,
    processor: Any,
    images: list,
    texts: list[list[str]],
) -> torch.Tensor:
    """Match minus no match of the phrases of each image, `(P,)`; the score itself where there is one logit."""
    if isinstance(model, Grounder):
        with evaluation_mode(model):
            logits = model(model.prepare(images, texts), output_heatmap=False).logits
    else:
        max_length = processor.tokenizer.model_max_length
        inputs = processor(images=images, text=texts, max_length=max_length, return_tensors="pt")
        logits = model.score_phrases(**inputs.to(model.device))
    if logits.shape[1] == 1:
        return logits[:, 0]
    return logits[:, ITM_MATCH_INDEX] - logits[:, 1 - ITM_MATCH_INDEX]


class _ImagesOfPairs(Dataset):
    """Numbers and pictures of some rows; None in place of a picture that cannot be used, where these are skipped."""

    def __init__(self, rows: Any, numbers: list[int], max_image_pixels: int, skips_unusable: bool):
        self.rows, self.numbers, self.max_image_pixels = rows, numbers, max_image_pixels
        self.skips_unusable = skips_unusable

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> tuple[int, Image.Image | None]:
        number = self.numbers[index]
        try:
            row = read_row(self.rows[number], ("image", "image_id"))
            return number, load_row_image(row, self.max_image_pixels)
        except (UnusableImageError, FileNotFoundError):
            if not self.skips_unusable:
                raise
            return number, None


def evaluate_matching(
    model: AlbefForImageTextMatching | AlbefForPreTraining | Grounder,
    processor: Any,
    rows: Any,
    rank: int = 0,
    world_size: int = 1,
    batch_size: int = 16,
    num_workers: int = 0,
) -> float | None:
    """Area under the ROC curve of the matching score on a data set, in [0, 1], for pairs of [`list_match_pairs`].

    Images that cannot be used are skipped, and phrases that a grounder cannot take. On several processes each scores
    the pairs of a block of the rows, and every process gets the result.

    Args:
        model, processor, rows, batch_size, num_workers: as for [`score_pairs`].
        rank, world_size (`int`, default to 0 and 1): this process among those that a launcher started.

    Returns:
        `float`, or `None` where the data has no pairs of both kinds that can be scored.
    """
    block = choose_rows(len(rows), rank, world_size)
    own = [pair for pair in pair_phrases(rows) if pair.row in block]
    if isinstance(model, Grounder):
        own = [pair for pair in own if model.inputs.find_problem(pair.phrase) is None]
    margins = score_pairs(model, processor, rows, own, batch_size, num_workers, skips_unusable=True).tolist()
    scored = [(margin, pair.is_match) for margin, pair in zip(margins, own, strict=True) if not math.isnan(margin)]
    if world_size > 1:
        scored = gather_object(scored)
    is_match = np.array([kind for _, kind in scored], dtype=bool)
    if is_match.all() or not is_match.any():
        return None
    return compute_matching_auc(np.array([margin for margin, _ in scored]), is_match)


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
    "ImageTexts",
    "MatchPair",
    "check_kinds",
    "compute_matching_auc",
    "evaluate_matching",
    "hash_pairs",
    "list_match_pairs",
    "pair_phrases",
    "score_pairs",
    "select_columns",
]
