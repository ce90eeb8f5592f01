# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Batches of streamed rows, which a resumed run continues with the very next rows of every worker's stream."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset
from transformers import TrainingArguments
from transformers.trainer_utils import has_length
from transformers.utils import logging

from albef_amc.saving_albef import write_json
from albef_amc.trainer.data.streaming import STATE_KEY, StreamedRows
from albef_amc.trainer.reliability.stop_signals import begin_worker

logger = logging.get_logger(__name__)


class StreamBatches(IterableDataset):
    """Batches of streamed rows on this process, an epoch of them at a time: each starts where the one before ended.

    A resumed epoch starts with empty batches in place of those that were trained on: the Trainer, which counts from
    the start of the epoch, skips them. A checkpoint holds `stream-RANK.json` for every process: the row of each
    worker's stream that was trained on last, whatever was prefetched.

    Args:
        rows ([`StreamedRows`]): endless rows.
        collator (callable): makes a batch of rows.
        args (`TrainingArguments`): the run's settings.
    """

    def __init__(self, rows: StreamedRows, collator: Callable[[list[dict]], dict], args: TrainingArguments):
        if not has_length(rows) and args.process_index == 0:
            logger.warning(
                "How many images the streamed data has is not known: the whole run counts as one epoch, also for "
                "`distillation_ramp_epochs` and the learning rate."
            )
        rows.resume({}, 0)
        self.rows = rows
        self._file_name = f"stream-{args.process_index}.json"
        self._positions: dict[int, dict[str, Any]] = {}  # by worker
        self._next_worker = 0
        self._num_skipped = 0
        self._batches: Iterator[dict] | None = None
        self._batch_size = args.per_device_train_batch_size
        self._loader = DataLoader(
            rows,
            batch_size=self._batch_size,
            collate_fn=StreamCollator(collator),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            generator=torch.Generator().manual_seed(args.seed),
            worker_init_fn=begin_worker,
        )

    def __len__(self) -> int:
        return -(-len(self.rows) // (self._batch_size * self.rows.world_size))

    def __iter__(self) -> Iterator[dict]:
        num_skipped, self._num_skipped = self._num_skipped, 0
        yield from ({} for _ in range(num_skipped))
        if self._batches is None:
            self._batches = iter(self._loader)
        for _ in self._list_numbers(num_skipped):
            yield next(self._batches)

    def _list_numbers(self, start: int) -> Iterable[int]:
        return range(start, len(self)) if has_length(self.rows) else count(start)

    def keep_position(self, state: dict[str, Any]) -> None:
        """Keeps the `stream_state` of a batch that was trained on."""
        self._positions[state["worker"]] = state
        self._next_worker = (state["worker"] + 1) % max(1, self._loader.num_workers)

    def save(self, checkpoint: Path) -> None:
        """Writes the positions of this process' workers into a checkpoint."""
        content = {
            "circumstances": self._describe_readers(),
            "next_worker": self._next_worker,
            "workers": {str(worker): state for worker, state in sorted(self._positions.items())},
        }
        write_json(checkpoint / self._file_name, content)

    def resume(self, checkpoint: Path, num_skipped: int) -> None:
        """Continues after the batches of an earlier run.

        Args:
            checkpoint (`Path`): checkpoint of that run.
            num_skipped (`int`): batches of the epoch that were trained on.

        Raises:
            FileNotFoundError: its run did not stream, or had fewer processes.
            ValueError: its stream was divided among other readers.
        """
        path = checkpoint / self._file_name
        if not path.is_file():
            raise FileNotFoundError(
                f"No {path.name} in {checkpoint}: its run did not stream, had fewer processes, or saved its model "
                "only. Resume with the settings of that run."
            )
        content = json.loads(path.read_bytes())
        _check_readers(checkpoint, content["circumstances"], self._describe_readers())
        self._positions = {int(worker): state for worker, state in content["workers"].items()}
        self._next_worker = content["next_worker"]
        self.rows.resume(self._positions.copy(), self._next_worker)
        self._num_skipped, self._batches = num_skipped, None

    def _describe_readers(self) -> dict[str, Any]:
        return {
            "processes": self.rows.world_size,
            "dataloader_num_workers": self._loader.num_workers,
            "shards": [source.stream.num_shards for source in self.rows.sources],
        }


class StreamCollator:
    """Adds to a batch the position of the stream after its last row.

    Args:
        collator (callable): makes a batch of rows.
    """

    def __init__(self, collator: Callable[[list[dict]], dict]):
        self.collator = collator

    def __call__(self, rows: list[dict]) -> dict[str, Any]:
        return {**self.collator(rows), STATE_KEY: rows[-1][STATE_KEY]}


def _check_readers(checkpoint: Path, stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses to resume a stream that was divided among other processes, workers or shards."""
    different = [
        f"{name} {stored.get(name)} (not {value})" for name, value in now.items() if stored.get(name) != value
    ]
    if different:
        raise ValueError(
            f"{checkpoint}: the rows of a stream are divided among processes and workers, and which of them are left "
            f"is known for the same ones only. Resume with {', '.join(different)}."
        )
