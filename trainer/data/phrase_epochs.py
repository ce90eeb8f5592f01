# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""An epoch over phrases: a row comes as often as its phrases need, as in the released data sets of single phrases."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from torch.utils.data import IterableDataset

from albef_amc.datasets_scripts.randomness import example_generator
from albef_amc.datasets_scripts.true_phrases import list_true_texts
from albef_amc.trainer.data.epoch_dataset import EpochDataset

EPOCH_UNITS = ("image", "phrase")
ROWS_READ_AT_ONCE = 1000


class PhraseEpochDataset(EpochDataset):
    """Rows of at most `phrases_per_row` phrases, so that an epoch sees every phrase once.

    Which phrases of an image share a row is redrawn in every epoch. An image's rows have different `draw`s: their
    augmentation and masks differ too. The others are among the `true_phrases` of the row.

    Args:
        rows (`datasets.Dataset` or sequence of `dict`): data set rows; their images are not read here.
        phrases_per_row (`int`): phrases of a row at most; the last row of an image may have fewer.
        seed (`int`, defaults to 0): seed of the run.

    Example:

    ```python
    >>> from albef_amc.trainer.data.phrase_epochs import PhraseEpochDataset
    >>> phrases = [{"phrase": word} for word in ("a dog", "a cat", "a cup")]
    >>> rows = PhraseEpochDataset([{"image_id": "7", "phrases": phrases}], phrases_per_row=2)
    >>> [len(rows[index]["phrases"]) for index in range(len(rows))]
    [2, 1]

    ```
    """

    def __init__(self, rows: Sequence[dict], phrases_per_row: int, seed: int = 0):
        super().__init__(rows)
        self.phrases_per_row = phrases_per_row
        self.seed = seed
        num_parts = -(-count_phrases(rows) // phrases_per_row)
        self._ends = np.cumsum(num_parts)
        self._most_parts = int(num_parts.max(initial=1))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, index: int, epoch: int) -> dict:
        """A row, as it comes in an epoch."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        place = int(np.searchsorted(self._ends, index, side="right"))
        part = index - (int(self._ends[place - 1]) if place else 0)
        row = super().read(place, epoch)
        order = example_generator(self.seed, row["draw"], row["image_id"], "parts").permutation(len(row["phrases"]))
        chosen = sorted(order[part * self.phrases_per_row : (part + 1) * self.phrases_per_row])
        phrases = [row["phrases"][number] for number in chosen]
        draw = row["draw"] * self._most_parts + part
        return {**row, "phrases": phrases, "true_phrases": list_true_texts(row), "draw": draw}


def build_epoch_dataset(rows: Any, args: Any) -> EpochDataset | IterableDataset:
    """Rows as the run's settings want an epoch to see them.

    Args:
        rows (`datasets.Dataset`, sequence of `dict` or iterable data set): data set rows; iterable ones come back as
            they are.
        args ([`AmcConfig`]): the run's settings; read are `epoch_unit`, `phrases_per_image` and `seed`.

    Raises:
        ValueError: `epoch_unit="phrase"` with an iterable data set.
    """
    if isinstance(rows, (EpochDataset, IterableDataset)):
        if args.epoch_unit == "phrase" and isinstance(rows, IterableDataset):
            raise ValueError("`epoch_unit='phrase'` needs rows that can be counted, got an iterable data set.")
        return rows
    if args.epoch_unit == "image" or args.phrases_per_image is None:
        return EpochDataset(rows)
    return PhraseEpochDataset(rows, args.phrases_per_image, args.seed)


def count_phrases(rows: Any) -> np.ndarray:
    """Number of phrases of each row; of a `datasets.Dataset` only the lengths are read.

    Args:
        rows (`datasets.Dataset` or sequence of `dict`): rows of the schema.
    """
    if not hasattr(rows, "with_format"):
        return np.array([len(row["phrases"] or ()) for row in rows], dtype=np.int64)
    lengths = [phrases.value_lengths().fill_null(0).to_numpy() for phrases in iterate_phrase_lists(rows)]
    return np.concatenate([np.empty(0, dtype=np.int64), *lengths]).astype(np.int64)


def iterate_phrase_lists(rows: Any) -> Iterator[pa.ListArray]:
    """The phrases of each row, as Arrow lists of some rows at a time; nothing else is read.

    Args:
        rows (data set of `datasets`): rows of the schema.
    """
    for table in rows.select_columns(["phrases"]).with_format("arrow").iter(ROWS_READ_AT_ONCE):
        yield table["phrases"].combine_chunks()
