# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Batches over several processes: gather rows from all processes, and fetch rows from the process that has them.

The joint batch is the concatenation of the processes' batches in the order of ranks. Without a process group, or in a
group of one, it is the batch itself and nothing is sent.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import distributed

CandidateScope = Literal["joint", "local"]


def count_processes() -> int:
    """Count the processes of the default group; 1 without a group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def gather_numbers(numbers: list[int], device: torch.device) -> list[list[int]]:
    """Gather integers of every process, in the order of ranks."""
    if count_processes() == 1:
        return [numbers]
    own = torch.tensor(numbers, device=device)
    gathered = [torch.empty_like(own) for _ in range(count_processes())]
    distributed.all_gather(gathered, own)
    return torch.stack(gathered).tolist()


def gather_rows(rows: torch.Tensor, counts: list[int] | None = None) -> torch.Tensor:
    """Concatenate the rows of every process, without gradient; the number of rows may differ between processes.

    Args:
        rows (`torch.Tensor` of shape `(R, ...)`): rows of this process; all but the first dimension are the same
            in every process.
        counts (`list` of `int`, *optional*): R of every process; gathered by default.
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
    """Sum a tensor over all processes, without gradient."""
    total = value.detach().clone()
    if count_processes() > 1:
        distributed.all_reduce(total)
    return total


@dataclass(frozen=True)
class JointRows:
    """Position of this process' rows in the joint batch.

    Args:
        counts (`list` of `int`): number of rows of every process.
        rank (`int`): rank of this process.
    """

    counts: list[int]
    rank: int

    @classmethod
    def of(cls, count: int, device: torch.device, scope: CandidateScope) -> "JointRows":
        """Build the joint batch to which this process adds `count` rows; in the scope `"local"` it has only these."""
        if scope == "local" or count_processes() == 1:
            return cls([count], 0)
        return cls([number for (number,) in gather_numbers([count], device)], distributed.get_rank())

    @property
    def offset(self) -> int:
        """Index of this process' first row in the joint batch."""
        return sum(self.counts[: self.rank])

    @property
    def count(self) -> int:
        """Number of rows of this process."""
        return self.counts[self.rank]

    @property
    def is_joint(self) -> bool:
        """Whether there are other processes."""
        return len(self.counts) > 1

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the joint batch of `rows`, without gradient."""
        return gather_rows(rows, self.counts) if self.is_joint else rows.detach()

    def share(self, count: torch.Tensor) -> torch.Tensor:
        """Average `count` over the processes: local sums divided by it average to the joint mean."""
        return sum_over_processes(count) / len(self.counts) if self.is_joint else count

    def collect(self, rows: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Collect rows of the joint batch by index, with gradient to the process that has them.

        Every process of the group must call it, even for no rows, and its result must be part of the loss of every
        process (see [`attach`]): the backward pass sends gradients back.

        Args:
            rows (`torch.Tensor` of shape `(R, ...)`): rows of this process.
            wanted (`torch.Tensor` of shape `(K,)`, int64): indices in the joint batch, on the CPU.

        Returns:
            `tuple`: the rows of this process followed by those from other processes, without duplicates; and the
            position of every wanted row there, `(K,)`, on the CPU.
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
        """Fetch rows of other processes by ascending index in the joint batch, on the CPU."""
        owners = torch.bucketize(remote, torch.tensor(self.counts).cumsum(0), right=True)
        received = torch.bincount(owners, minlength=len(self.counts)).tolist()
        requests = gather_numbers(received, rows.device)
        requested = gather_rows(remote.to(rows.device), [sum(request) for request in requests]).cpu()
        own = requested[(requested >= self.offset) & (requested < self.offset + self.count)] - self.offset
        sent = [request[self.rank] for request in requests]
        return _ExchangeRows.apply(rows.index_select(0, own.to(rows.device)), sent, received)


class _ExchangeRows(torch.autograd.Function):
    """Exchange of requested rows between processes; the backward pass sends their gradients back."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, sent: list[int], received: list[int]) -> torch.Tensor:
        ctx.sent, ctx.received = sent, received
        return _exchange(rows, sent, received)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _exchange(gradients[0], ctx.received, ctx.sent), None, None


def _exchange(rows: torch.Tensor, sent: list[int], received: list[int]) -> torch.Tensor:
    """Exchange rows as bytes, because every back-end can send these, whatever the precision of the rows."""
    width = math.prod(rows.shape[1:])
    data = rows.reshape(len(rows), width).contiguous().view(torch.uint8)
    target = torch.empty(sum(received), width * rows.element_size(), dtype=torch.uint8, device=rows.device)
    distributed.all_to_all_single(target, data, received, sent)
    return target.view(rows.dtype).view(sum(received), *rows.shape[1:])


def largest_over_processes(value: int, device: torch.device, rows: JointRows) -> int:
    """Compute the largest `value` over the processes of a joint batch."""
    return max(number for (number,) in gather_numbers([value], device)) if rows.is_joint else value


def attach(loss: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Attach `rows` to the graph of a loss: the value does not change, but their backward pass runs everywhere."""
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
