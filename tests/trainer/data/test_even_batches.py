"""The end of an epoch on several processes."""

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from albef_amc.trainer.data.even_batches import EvenBatches, divide_evenly


@pytest.mark.parametrize("batch_size", [2, 3, 4])
@pytest.mark.parametrize("num_processes", [1, 2, 3, 8])
def test_every_row_comes_once_and_every_process_has_as_many_batches(batch_size, num_processes):
    for num_rows in range(num_processes, 70):
        batches = list(EvenBatches(range(num_rows), batch_size, num_processes))
        assert [row for batch in batches for row in batch] == list(range(num_rows))
        assert len(batches) == len(EvenBatches(range(num_rows), batch_size, num_processes))
        assert len(batches) == -(-num_rows // (batch_size * num_processes)) * num_processes
        assert all(1 <= len(batch) <= batch_size for batch in batches)
        assert all(len(batch) == batch_size for batch in batches[: -2 * num_processes])


def test_rows_are_repeated_only_where_a_process_would_have_none():
    assert list(EvenBatches(range(3), 1, 2)) == [[0], [1], [2], [0]]
    assert list(EvenBatches(range(1), 4, 3)) == [[0], [0], [0]]
    assert list(EvenBatches(range(0), 4, 3)) == []


def test_the_loaders_of_processes_share_the_rows():
    def build(rank: int, drop_last: bool = False) -> DataLoader:
        sampler = RandomSampler(range(11), generator=torch.Generator().manual_seed(3))
        shard = BatchSamplerShard(BatchSampler(sampler, 2, drop_last), 2, rank)
        return divide_evenly(DataLoader(range(11), batch_sampler=shard))

    loaders = [build(rank) for rank in range(2)]
    assert [len(loader) for loader in loaders] == [3, 3]
    rows = [row for loader in loaders for batch in loader for row in batch.tolist()]
    assert sorted(rows) == list(range(11))
    assert [len(build(rank, drop_last=True)) for rank in range(2)] == [2, 2]


def test_other_loaders_are_unchanged():
    loader = DataLoader(range(5), batch_size=2)
    assert divide_evenly(loader) is loader
    assert isinstance(loader.batch_sampler.sampler, SequentialSampler)
