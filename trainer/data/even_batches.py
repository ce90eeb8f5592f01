# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The end of an epoch on several processes: every row once, and the same number of batches for each process."""

from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any

from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import DataLoader, Sampler


class EvenBatches(Sampler[list[int]]):
    """Batches of an epoch in the order of processes: full ones, and at the end smaller ones of about equal size.

    Accelerate fills the last batches with rows from the start, which are then seen twice. Here that happens only
    where a process would have no row at all.

    Args:
        sampler (`Sampler`): order of the rows.
        batch_size (`int`): rows of a batch at most.
        num_processes (`int`): processes, each of which takes one batch in turn.

    Example:

    ```python
    >>> from albef_amc.trainer.data.even_batches import EvenBatches
    >>> list(EvenBatches(range(10), batch_size=4, num_processes=2))
    [[0, 1, 2, 3], [4, 5, 6, 7], [8], [9]]
    >>> list(EvenBatches(range(9), batch_size=4, num_processes=2))
    [[0, 1, 2], [3, 4], [5, 6], [7, 8]]

    ```
    """

    def __init__(self, sampler: Any, batch_size: int, num_processes: int):
        self.sampler = sampler
        self.batch_size = batch_size
        self.num_processes = num_processes

    def __len__(self) -> int:
        return -(-len(self.sampler) // (self.batch_size * self.num_processes)) * self.num_processes

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.sampler)
        sizes = self._list_sizes(len(order))
        rows = islice(cycle(order), sum(sizes))
        for size in sizes:
            yield list(islice(rows, size))

    def _list_sizes(self, num_rows: int) -> list[int]:
        """Rows of each batch; the last step, or where it has too few rows the last two, is divided evenly."""
        row_of_batches = self.num_processes * self.batch_size
        num_steps = len(self) // self.num_processes
        last = num_rows - (num_steps - 1) * row_of_batches
        num_divided = min(num_steps, 1 if last >= self.num_processes else 2)
        num_full = (num_steps - num_divided) * self.num_processes
        size, rest = divmod(num_rows - num_full * self.batch_size, num_divided * self.num_processes or 1)
        divided = [size + (number < rest) for number in range(num_divided * self.num_processes)]
        return [self.batch_size] * num_full + [max(1, size) for size in divided]


def divide_evenly(loader: DataLoader) -> DataLoader:
    """Gives the loader of one process among several [`EvenBatches`]; any other loader is returned as it is.

    Args:
        loader (`DataLoader`): what Accelerate made.
    """
    shard = loader.batch_sampler
    if isinstance(shard, BatchSamplerShard) and not shard.drop_last and not shard.split_batches:
        inner: Any = shard.batch_sampler
        shard.batch_sampler = EvenBatches(inner.sampler, inner.batch_size, shard.num_processes)
        shard.batch_size, shard.even_batches = None, False  # sizes differ, and no batch is missing
    return loader
