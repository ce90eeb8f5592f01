# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""A matching score that is a probability: scale and bias of the logits, and how far the result can be trusted.

Source: Platt, "Probabilistic outputs for support vector machines", 1999; equal-mass calibration error: Nguyen and
O'Connor, EMNLP 2015 (arXiv 1508.05154).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from albef_amc import AlbefForImageTextMatching
from albef_amc.datasets_scripts.randomness import example_generator
from albef_amc.evaluation.match_pairs import (
    MatchPair,
    compute_matching_auc,
    hash_pairs,
    list_match_pairs,
    score_pairs,
    select_columns,
)
from albef_amc.evaluation.weight_hash import hash_weights
from albef_amc.ranges_albef import Range, check_number

LEAST_PAIRS = 100
NUM_BINS = 15
NUM_ITERATIONS = 200


@dataclass(frozen=True)
class MatchCalibration:
    """Probability of a match as `sigmoid(scale * margin + bias)`, of the margin between the two matching logits.

    Args:
        scale (`float`): above 0.
        bias (`float`): training shows one match to two pairs that do not match, so that a scale alone cannot be right.
    """

    scale: float = 1.0
    bias: float = 0.0

    def compute_probabilities(self, margins: np.ndarray) -> np.ndarray:
        """Probabilities of margins, `(K,)` float64 in [0, 1]."""
        return torch.from_numpy(self.scale * margins + self.bias).sigmoid().numpy()


def fit_calibration(margins: np.ndarray, is_match: np.ndarray) -> MatchCalibration:
    """Scale and bias with the smallest log loss for Platt's targets `(K+ + 1) / (K+ + 2)` and `1 / (K- + 2)`; so they
    are finite where the margin divides all pairs.

    Args:
        margins (`numpy.ndarray` of shape `(K,)`): match logit minus no-match logit.
        is_match (`numpy.ndarray` of shape `(K,)`, bool): which pairs match.

    Raises:
        ValueError: fewer than 100 pairs, pairs of one kind, or a margin that is not larger for matches.

    Example:

    ```python
    >>> import numpy as np
    >>> from albef_amc.evaluation.match_calibration import fit_calibration
    >>> margins, is_match = np.tile([-1.0, 0.0, 1.0, 2.0], 50), np.tile([False, False, True, True], 50)
    >>> bool(fit_calibration(margins, is_match).compute_probabilities(np.array([0.5]))[0].round(2) == 0.5)
    True

    ```
    """
    check_enough_pairs(is_match)
    auc = compute_matching_auc(margins, is_match)
    if auc <= 0.5 or margins[is_match].mean() <= margins[~is_match].mean():
        raise ValueError(
            f"the matching score is not larger for pairs that match (area under the ROC curve {auc:.3f}, mean margins "
            f"{margins[is_match].mean():.3f} and {margins[~is_match].mean():.3f}): there is nothing to calibrate. "
            "Train the model to match first."
        )
    values, matches = torch.from_numpy(margins).double(), torch.from_numpy(is_match)
    num_matches, num_others = int(matches.sum()), int((~matches).sum())
    targets = torch.where(matches, (num_matches + 1) / (num_matches + 2), 1 / (num_others + 2)).double()
    spread = values.std()
    weights = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=NUM_ITERATIONS, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def compute_loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = weights[0] * (values - values.mean()) / spread + weights[1]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
        loss.backward()
        return loss

    optimizer.step(compute_loss)  # type: ignore[arg-type]
    scale = weights[0].item() / spread.item()
    return MatchCalibration(scale, weights[1].item() - scale * values.mean().item())


def check_enough_pairs(is_match: np.ndarray) -> None:
    """Raises ValueError for fewer than 100 pairs, or pairs of one kind."""
    if len(is_match) < LEAST_PAIRS:
        raise ValueError(
            f"{len(is_match)} pairs of image and phrase are too few to fit or to measure a probability: at least "
            f"{LEAST_PAIRS} are needed for either. Give more data."
        )
    if is_match.all() or not is_match.any():
        kind = "match" if is_match.all() else "do not match"
        raise ValueError(f"all {len(is_match)} pairs {kind}: a probability needs pairs of both kinds.")


@dataclass(frozen=True)
class ReliabilityBin:
    """Pairs of neighbouring probabilities.

    Args:
        probability (`float`): mean of their probabilities.
        share (`float`): share of them that match.
        num_pairs (`int`): their number.
    """

    probability: float
    share: float
    num_pairs: int


def bin_probabilities(
    probabilities: np.ndarray, is_match: np.ndarray, num_bins: int = NUM_BINS
) -> list[ReliabilityBin]:
    """Pairs in bins of equal numbers, from the smallest probability to the largest.

    Args:
        probabilities (`numpy.ndarray` of shape `(K,)`): in [0, 1].
        is_match (`numpy.ndarray` of shape `(K,)`, bool): which pairs match.
        num_bins (`int`, defaults to 15): bins at most.
    """
    check_number("num_bins", num_bins, Range(1, is_whole=True))
    order = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(order, num_bins) if len(part)]
    return [ReliabilityBin(float(probabilities[p].mean()), float(is_match[p].mean()), len(p)) for p in parts]


def measure_calibration(probabilities: np.ndarray, is_match: np.ndarray, num_bins: int = NUM_BINS) -> dict[str, Any]:
    """How far probabilities of a match can be trusted.

    Args:
        probabilities, is_match, num_bins: as for [`bin_probabilities`].

    Returns:
        `dict`: `calibration_error` (mean over equally filled bins of the distance between mean probability and share
        of matches, in [0, 1]), `brier_score` (mean squared distance, in [0, 1]) and `log_loss` (mean, in nats).
    """
    bins = bin_probabilities(probabilities, is_match, num_bins)
    error = sum(one.num_pairs * abs(one.probability - one.share) for one in bins) / len(is_match)
    of_truth = np.where(is_match, probabilities, 1 - probabilities)
    return {
        "calibration_error": float(error),
        "brier_score": float(np.mean((probabilities - is_match) ** 2)),
        "log_loss": float(-np.log(np.maximum(of_truth, np.finfo(np.float64).tiny)).mean()),
    }


@dataclass(frozen=True)
class CalibrationPairs:
    """Pairs of two halves of a data set, without an image in common.

    Args:
        fitted (list of [`MatchPair`]): pairs that scale and bias are fitted to.
        measured (list of [`MatchPair`]): pairs that the result is measured on.
    """

    fitted: list[MatchPair]
    measured: list[MatchPair]


def list_calibration_pairs(rows: Any, seed: int = 0) -> CalibrationPairs:
    """Pairs that match and pairs that do not, of two halves of the images.

    Args:
        rows: data set rows (`datasets_scripts/features.py`), with a length and read by index.
        seed (`int`, defaults to 0): decides to which half an image belongs, and which pairs do not match.

    Raises:
        ValueError: a half has fewer than 100 pairs, or pairs of one kind.
    """
    halves: tuple[list[int], list[int]] = ([], [])
    for index, row in enumerate(select_columns(rows, ["image_id"])):
        generator = example_generator(seed, 0, row["image_id"], "half")
        halves[generator.random() < 0.5].append(index)
    pairs = [list_match_pairs(rows, seed, half) for half in halves]
    for part in pairs:
        check_enough_pairs(np.array([pair.is_match for pair in part]))
    return CalibrationPairs(*pairs)


def describe_origin(
    model: AlbefForImageTextMatching, pairs: CalibrationPairs, dataset: str, split: str, data: Mapping[str, Any]
) -> dict[str, Any]:
    """What a calibration was fitted to, for `match_calibration` of the configuration.

    Args:
        model ([`AlbefForImageTextMatching`]): the calibrated model.
        pairs ([`CalibrationPairs`]): of the calibration.
        dataset, split (`str`): the data set that they are of.
        data (mapping): its further arguments.
    """
    return {
        "dataset": dataset,
        "split": split,
        **({"data": dict(data)} if data else {}),
        "pairs_sha256": hash_pairs(pairs.fitted),
        "num_pairs": len(pairs.fitted),
        "base_rate": sum(pair.is_match for pair in pairs.fitted) / len(pairs.fitted),
        "weights_sha256": hash_weights(model),
    }


@dataclass(frozen=True)
class CalibrationResult:
    """A calibration and what it changes, on images that it was not fitted to.

    Args:
        calibration ([`MatchCalibration`]): scale and bias.
        figures (`dict`): `matching_auc`, `num_pairs`, `base_rate` (share of pairs that match) and, in `before` and
            `after`, what [`measure_calibration`] returns.
        bins (`dict`): `"before"` and `"after"` -> list of [`ReliabilityBin`].
    """

    calibration: MatchCalibration
    figures: dict[str, Any]
    bins: dict[str, list[ReliabilityBin]]


def calibrate_model(
    model: AlbefForImageTextMatching,
    processor: Any,
    rows: Any,
    pairs: CalibrationPairs,
    batch_size: int = 16,
    progress: Callable[[Iterable], Iterable] = iter,
) -> CalibrationResult:
    """Fits scale and bias of the matching score to half of the images and measures both scores on the others.

    Args:
        model, processor, rows, batch_size, progress: as for [`~evaluation.match_pairs.score_pairs`].
        pairs ([`CalibrationPairs`]): of these rows.

    Raises:
        ValueError: as for [`fit_calibration`], or a score that is not finite.
    """
    margins, is_match = {}, {}
    for name, part in (("fitted", pairs.fitted), ("measured", pairs.measured)):
        margins[name] = score_pairs(model, processor, rows, part, batch_size, progress=progress)
        is_match[name] = np.array([pair.is_match for pair in part])
    calibration = fit_calibration(margins["fitted"], is_match["fitted"])
    truth, bins = is_match["measured"], {}
    figures: dict[str, Any] = {}
    for name, kind in (("before", MatchCalibration()), ("after", calibration)):
        probabilities = kind.compute_probabilities(margins["measured"])
        figures[name] = measure_calibration(probabilities, truth)
        bins[name] = bin_probabilities(probabilities, truth)
    figures |= {
        "matching_auc": compute_matching_auc(margins["measured"], truth),
        "num_pairs": len(truth),
        "base_rate": float(truth.mean()),
    }
    return CalibrationResult(calibration, figures, bins)


__all__ = [
    "CalibrationPairs",
    "CalibrationResult",
    "MatchCalibration",
    "ReliabilityBin",
    "bin_probabilities",
    "calibrate_model",
    "check_enough_pairs",
    "describe_origin",
    "fit_calibration",
    "list_calibration_pairs",
    "measure_calibration",
]
