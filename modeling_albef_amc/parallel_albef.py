# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Batches over several processes: rows gathered from all of them, and rows fetched from the one that holds them.

The joint batch is the processes' batches one after the other, in the order of their ranks. Without a process group,
and in a group of one, it is the batch itself and nothing is sent.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import distributed

CandidateScope = Literal["joint", "local"]


def count_processes() -> int:
    """Processes of the default group; 1 without one."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def gather_numbers(numbers: list[int], device: torch.device) -> list[list[int]]:
    """Some whole numbers of every process, in the order of ranks."""
    if count_processes() == 1:
        return [numbers]
    own = torch.tensor(numbers, device=device)
    gathered = [torch.empty_like(own) for _ in range(count_processes())]
    distributed.all_gather(gathered, own)
    return torch.stack(gathered).tolist()


def gather_rows(rows: torch.Tensor, counts: list[int] | None = None) -> torch.Tensor:
    """Rows of every process, one after the other, without gradient; every process may hold another number of them.

    Args:
        rows (`torch.Tensor` of shape `(R, ...)`): rows of this process; all but the first dimension is the same
            everywhere.
        counts (`list` of `int`, *optional*): R of every process; gathered when absent.
    """
    if count_processes() == 1:
        return rows.detach()
    counts = [count for (count,) in gather_numbers([len(rows)], rows.device)] if counts is None else counts
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    gathered = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(gathered, padded)
    return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])


def sum_over_processes(value: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over all processes, without gradient."""
    total = value.detach().clone()
    if count_processes() > 1:
        distributed.all_reduce(total)
    return total


@dataclass(frozen=True)
class JointRows:
    """Where the rows of this process stand in the joint batch.

    Args:
        counts (`list` of `int`): rows of every process.
        rank (`int`): this process.
    """

    counts: list[int]
    rank: int

    @classmethod
    def of(cls, count: int, device: torch.device, scope: CandidateScope) -> "JointRows":
        """The joint batch to which this process adds `count` rows; with the scope `"local"` there is no other."""
        if scope == "local" or count_processes() == 1:
            return cls([count], 0)
        return cls([number for (number,) in gather_numbers([count], device)], distributed.get_rank())

    @property
    def offset(self) -> int:
        """Number, in the joint batch, of the first row of this process."""
        return sum(self.counts[: self.rank])

    @property
    def count(self) -> int:
        """Rows of this process."""
        return self.counts[self.rank]

    @property
    def is_joint(self) -> bool:
        """Whether there are other processes."""
        return len(self.counts) > 1

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """The joint batch of `rows`, without gradient."""
        return gather_rows(rows, self.counts) if self.is_joint else rows.detach()

    def share(self, count: torch.Tensor) -> torch.Tensor:
        """`count` summed over the processes, over their number: a local sum divided by it averages to the mean."""
        return sum_over_processes(count) / len(self.counts) if self.is_joint else count

    def collect(self, rows: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Rows of the joint batch by number, with gradient to the process that holds them.

        Every process of the group must call it, also with nothing wanted, and its result must take part in the loss
        of every process (see [`attach`]): the backward pass sends gradients back.

        Args:
            rows (`torch.Tensor` of shape `(R, ...)`): rows of this process.
            wanted (`torch.Tensor` of shape `(K,)`, int64): numbers in the joint batch.

        Returns:
            `tuple`: the rows of this process followed by those that other processes sent, each once; and for every
            wanted number its row there, `(K,)`.
        """
        local = wanted - self.offset
        if not self.is_joint:
            return rows, local
        is_local = (local >= 0) & (local < self.count)
        remote, position = wanted[~is_local].unique(return_inverse=True)
        index = local.clone()
        index[~is_local] = self.count + position
        return torch.cat([rows, self._fetch(rows, remote)]), index

    def _fetch(self, rows: torch.Tensor, remote: torch.Tensor) -> torch.Tensor:
        """Rows of other processes, by ascending number in the joint batch."""
        bounds = torch.tensor([0, *self.counts], device=remote.device).cumsum(0)
        owners = torch.bucketize(remote, bounds[1:], right=True)
        received = torch.bincount(owners, minlength=len(self.counts)).tolist()
        requests = gather_numbers(received, remote.device)
        everyones = gather_rows(remote, [sum(request) for request in requests])
        own = everyones[(everyones >= self.offset) & (everyones < self.offset + self.count)] - self.offset
        sent = [request[self.rank] for request in requests]
        return _ExchangeRows.apply(rows.index_select(0, own), sent, received)


class _ExchangeRows(torch.autograd.Function):
    """Sends rows to the processes that asked for them; the backward pass sends their gradients back."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, sent: list[int], received: list[int]) -> torch.Tensor:
        ctx.sent, ctx.received = sent, received
        return _exchange(rows, sent, received)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _exchange(gradients[0], ctx.received, ctx.sent), None, None


def _exchange(rows: torch.Tensor, sent: list[int], received: list[int]) -> torch.Tensor:
    """Rows as bytes, which every back-end can send, whatever their precision."""
    width = math.prod(rows.shape[1:])
    data = rows.reshape(len(rows), width).contiguous().view(torch.uint8)
    target = torch.empty(sum(received), width * rows.element_size(), dtype=torch.uint8, device=rows.device)
    distributed.all_to_all_single(target, data, received, sent)
    return target.view(rows.dtype).view(sum(received), *rows.shape[1:])


def largest_over_processes(value: int, device: torch.device, rows: JointRows) -> int:
    """The largest `value` of the processes of a joint batch; `value` itself where there is one process."""
    return max(number for (number,) in gather_numbers([value], device)) if rows.is_joint else value


def attach(loss: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The loss, with `rows` in its graph: they add nothing, but their backward pass runs on every process."""
    return loss + 0.0 * rows.sum()


__all__ = [
    "CandidateScope",
    "JointRows",
    "attach",
    "count_processes",
    "gather_rows",
    "largest_over_processes",
    "sum_over_processes",
]
