# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Training rows that know in which epoch they are read, so that random choices differ between epochs alone."""

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset


class EpochDataset(Dataset):
    """Wraps a map-style data set; every row gets `draw`, the epoch, which seeds the collator's random choices.

    [`~trainer.reliability.reliable_trainer.ReliableTrainer`] calls `set_epoch` at the start of an epoch, also after
    a resume: a row's augmentation, masks and negatives depend on (seed, epoch, row) and on nothing that ran
    before. The epoch lies in shared memory, where worker processes that live longer than an epoch see it change.

    Args:
        rows (sequence of `dict`): data set rows.
    """

    def __init__(self, rows: Sequence[dict]):
        self.rows = rows
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """Epoch that rows are read in, counted from 0."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch that rows are read in, counted from 0."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return self.read(index, self.epoch)

    def read(self, index: int, epoch: int) -> dict:
        """A row, as it comes in an epoch."""
        return {**self.rows[index], "draw": epoch}
