# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Phrases of synthetic scenes against the same phrases with one word exchanged: is the matching score that exact?"""

from random import Random
from typing import Any

import numpy as np

from albef_amc import AlbefForImageTextMatching, AlbefForPreTraining
from albef_amc.datasets_scripts.synthetic_grounding.statements import EXCHANGE_KINDS, list_exchanges
from albef_amc.evaluation.match_pairs import MatchPair, compute_matching_auc, score_pairs, select_columns


def list_exchange_pairs(rows: Any, seed: int = 0) -> dict[str, list[tuple[MatchPair, MatchPair]]]:
    """Pairs of image and phrase, each with the same image and the phrase after an exchange that makes it false.

    Args:
        rows: rows of synthetic scenes (`proposals` name all objects), with a length and read by index.
        seed (`int`, defaults to 0): chooses among several possible exchanges of a kind.

    Returns:
        `dict`: under each of `EXCHANGE_KINDS` (match, no match) for every phrase with such an exchange.
    """
    rows = select_columns(rows, ["image_id", "phrases", "proposals"])
    pairs: dict[str, list[tuple[MatchPair, MatchPair]]] = {kind: [] for kind in EXCHANGE_KINDS}
    for number in range(len(rows)):
        row = rows[number]
        for phrase in row["phrases"]:
            text, rng = phrase["phrase"], Random(f"{seed}/{row['image_id']}/{phrase['phrase_id']}")
            for kind, false_text in list_exchanges(text, row["proposals"], rng).items():
                match = MatchPair(number, row["image_id"], text, True)
                pairs[kind].append((match, MatchPair(number, row["image_id"], false_text, False)))
    return pairs


def evaluate_exchanges(
    model: AlbefForImageTextMatching | AlbefForPreTraining, processor: Any, rows: Any, batch_size: int = 16
) -> dict[str, float]:
    """Area under the ROC curve of the matching score for pairs of [`list_exchange_pairs`], per kind, in [0, 1].

    Every text is scored once with its image. A kind without a pair is left out.

    Args:
        model, processor, batch_size: as for [`~evaluation.match_pairs.score_pairs`].
        rows: as for [`list_exchange_pairs`].
    """
    of_kind = list_exchange_pairs(rows)
    distinct = list(dict.fromkeys(pair for pairs in of_kind.values() for both in pairs for pair in both))
    margins = dict(zip(distinct, score_pairs(model, processor, rows, distinct, batch_size).tolist(), strict=True))
    scores = {}
    for kind, pairs in of_kind.items():
        if pairs:
            chosen = list(dict.fromkeys(pair for both in pairs for pair in both))
            is_match = np.array([pair.is_match for pair in chosen])
            scores[kind] = compute_matching_auc(np.array([margins[pair] for pair in chosen]), is_match)
    return scores


__all__ = ["evaluate_exchanges", "list_exchange_pairs"]
