# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""A Trainer that trains on streamed rows, and whose checkpoints know where every worker's stream stands."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import has_length
from transformers.utils import logging

from albef_amc.saving_albef import write_json
from albef_amc.trainer.data.even_batches import divide_evenly
from albef_amc.trainer.data.streaming import STATE_KEY, StreamedRows
from albef_amc.trainer.reliability.stop_signals import begin_worker

logger = logging.get_logger(__name__)


class StreamBatches(IterableDataset):
    """Batches of streamed rows, an epoch of them at a time: each begins where the one before ended.

    A resumed epoch begins with empty batches in place of those that were trained on: the Trainer, which counts from
    the beginning of the epoch, skips them.

    Args:
        rows ([`StreamedRows`]): endless rows.
        collator (callable): makes a batch of rows.
        args (`TrainingArguments`): the run's settings.
    """

    def __init__(self, rows: StreamedRows, collator: Callable[[list[dict]], dict], args: TrainingArguments):
        self.rows = rows
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

    @property
    def num_workers(self) -> int:
        """Places where batches are made: the worker processes, or this process."""
        return max(1, self._loader.num_workers)

    def __len__(self) -> int:
        return -(-len(self.rows) // (self._batch_size * self.rows.world_size))

    def resume(self, states: dict[int, dict[str, Any]], first_worker: int, num_skipped: int) -> None:
        """Goes on behind the batches of an earlier run.

        Args:
            states, first_worker: see [`StreamedRows.resume`].
            num_skipped (`int`): batches of the epoch that were trained on.
        """
        self.rows.resume(states, first_worker)
        self._num_skipped, self._batches = num_skipped, None

    def __iter__(self) -> Iterator[dict]:
        num_skipped, self._num_skipped = self._num_skipped, 0
        yield from ({} for _ in range(num_skipped))
        if self._batches is None:
            self._batches = iter(self._loader)
        for _ in self._list_numbers(num_skipped):
            yield next(self._batches)

    def _list_numbers(self, begin: int) -> Iterable[int]:
        return range(begin, len(self)) if has_length(self.rows) else count(begin)


class StreamCollator:
    """Keeps, beside the batch, where the stream stands behind its last row.

    Args:
        collator (callable): makes a batch of rows.
    """

    def __init__(self, collator: Callable[[list[dict]], dict]):
        self.collator = collator

    def __call__(self, rows: list[dict]) -> dict[str, Any]:
        return {**self.collator(rows), STATE_KEY: rows[-1][STATE_KEY]}


class StreamingTrainer(Trainer):
    """Trainer that gives every row to one process once, and reads [`StreamedRows`] by itself.

    The end of an epoch of map-style data is divided by [`EvenBatches`].

    A checkpoint holds `stream-RANK.json` for every process: behind which row each worker's stream stood when the step
    was over, whatever was prefetched. A resumed run goes on with the very next rows.
    """

    _stream: StreamBatches | None = None

    def get_train_dataloader(self) -> DataLoader:
        """The Trainer's or, for streamed rows, one whose batches are those of this process."""
        if not isinstance(self.train_dataset, StreamedRows):
            self._stream = None
            return divide_evenly(super().get_train_dataloader())
        if not has_length(self.train_dataset) and self.is_world_process_zero():
            logger.warning(
                "How many images the streamed data has is not known: the whole run counts as one epoch, also for "
                "`distillation_ramp_epochs` and the learning rate."
            )
        self.train_dataset.resume({}, 0)
        self._stream = StreamBatches(self.train_dataset, self.data_collator, self.args)
        self._stream_states: dict[int, dict[str, Any]] = {}
        self._next_worker = 0
        generator = torch.Generator().manual_seed(self.args.seed)
        return DataLoader(self._stream, batch_size=None, collate_fn=_leave_alone, generator=generator)

    def num_examples(self, dataloader: DataLoader) -> int:
        """Images of an epoch."""
        return len(self._stream.rows) if self._stream is not None else super().num_examples(dataloader)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """As for `Trainer`; takes note of where the stream stands behind the batch."""
        loss = super().training_step(model, inputs, *args, **kwargs)
        if self._stream is not None:
            state = inputs[STATE_KEY]
            self._stream_states[state["worker"]] = state
            self._next_worker = (state["worker"] + 1) % self._stream.num_workers
        return loss

    def _run_epoch(self, *, epoch: int, train_dataloader: Any, **arguments: Any) -> None:
        checkpoint = arguments["resume_from_checkpoint"]
        is_resumed = checkpoint is not None and epoch == arguments["epochs_trained"]
        if self._stream is not None and is_resumed and not self.args.ignore_data_skip:
            self._resume_stream(self._stream, Path(checkpoint), arguments["steps_trained_in_current_epoch"])
        super()._run_epoch(epoch=epoch, train_dataloader=train_dataloader, **arguments)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self._stream is not None:
            content = {
                "circumstances": self._describe_readers(self._stream),
                "next_worker": self._next_worker,
                "workers": {str(worker): state for worker, state in sorted(self._stream_states.items())},
            }
            write_json(Path(output_dir) / name_state_file(self.args.process_index), content)

    def _resume_stream(self, stream: StreamBatches, checkpoint: Path, num_skipped: int) -> None:
        path = checkpoint / name_state_file(self.args.process_index)
        if not path.is_file():
            raise FileNotFoundError(
                f"No {path.name} in {checkpoint}: its run did not stream, had fewer processes, or saved its model "
                "only. Resume with the settings of that run."
            )
        content = json.loads(path.read_bytes())
        check_readers(checkpoint, content["circumstances"], self._describe_readers(stream))
        self._stream_states = {int(worker): state for worker, state in content["workers"].items()}
        self._next_worker = content["next_worker"]
        stream.resume(self._stream_states.copy(), self._next_worker, num_skipped)

    def _describe_readers(self, stream: StreamBatches) -> dict[str, Any]:
        return {
            "processes": self.args.world_size,
            "dataloader_num_workers": self.args.dataloader_num_workers,
            "shards": [source.stream.num_shards for source in stream.rows.sources],
        }


def check_readers(checkpoint: Path, stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses to resume a stream that was dealt out to other readers.

    Args:
        checkpoint (`Path`): what is resumed.
        stored, now (mappings): processes, workers and shards of the checkpoint's run and of this one.

    Raises:
        ValueError: they differ.
    """
    different = [
        f"{name} {stored.get(name)} (not {value})" for name, value in now.items() if stored.get(name) != value
    ]
    if different:
        raise ValueError(
            f"{checkpoint}: the rows of a stream are dealt out to processes and workers, and which of them are left "
            f"is known for the same ones only. Resume with {', '.join(different)}."
        )


def name_state_file(rank: int) -> str:
    """File of a checkpoint that says where the streams of a process stand."""
    return f"stream-{rank}.json"


def _leave_alone(batch: Any) -> Any:
    return batch


__all__ = ["StreamBatches", "StreamingTrainer", "check_readers", "name_state_file"]
