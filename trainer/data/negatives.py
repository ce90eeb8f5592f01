# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Whether training data has a negative pair: an image and a phrase that is not known to be true of it."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import datasets

from albef_amc.datasets_scripts.features import OPTIONAL_COLUMNS, read_row
from albef_amc.datasets_scripts.true_phrases import list_true_phrases
from albef_amc.text_processing_albef import clean_caption, find_text_problem
from albef_amc.trainer.data.mixtures import list_parts

MOST_ROWS = 1_000  # of every data set that are looked at
NEEDED = ("image_id", "phrases")


def find_missing_negatives(rows: Any, uses_false_phrases: bool = False) -> str | None:
    """Describe why the first rows of training data have no pair that does not match; None where they have one.

    Rows of the same `image_id` are one image. Images are not read, and a stream is not advanced.

    Args:
        rows: data set of `datasets`, list of `dict`, or [`~trainer.data.mixtures.Mixture`]; others are not looked at,
            since they may read images.
        uses_false_phrases (`bool`, defaults to `False`): whether the run draws from the `false_phrases` of rows.

    Returns:
        `str`: the problem and what to do, or `None`.
    """
    phrases: set[str] = set()
    true_of: dict[str, set[str]] = {}
    for row in _iterate_rows(rows):
        if uses_false_phrases and row.get("false_phrases"):
            return None
        texts = [phrase.get("phrase") for phrase in row["phrases"]]
        phrases.update(clean_caption(text) for text in texts if find_text_problem(text) is None)
        true_of.setdefault(row["image_id"], set()).update(list_true_phrases(row))
    if not phrases or not phrases <= set.intersection(*true_of.values()):
        return None
    found = (
        f"all phrases are the same, {next(iter(phrases))!r:.80}"
        if len(phrases) == 1
        else (f"each of the {len(phrases)} phrases is true of every image")
    )
    return (
        f"{found} (images looked at: {len(true_of)}). So no image is a negative of a phrase, and the matching loss "
        "learns nothing. Add images of which the phrases are not true, or `false_phrases` with "
        "`false_phrases_per_image`, or set `itm_weight=0`."
    )


def _iterate_rows(rows: Any) -> Iterator[Mapping[str, Any]]:
    for part in list_parts(rows):
        if isinstance(part, datasets.Dataset | datasets.IterableDataset):
            columns = part.column_names or ()
            if not set(NEEDED) <= set(columns):
                continue  # refused where the rows are used
            part = part.with_format(None)
            part = part.select_columns([name for name in (*NEEDED, *OPTIONAL_COLUMNS) if name in columns])
        elif not isinstance(part, list | tuple):
            continue
        for row in islice(part, MOST_ROWS):
            yield read_row(row, NEEDED)
