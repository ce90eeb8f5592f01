# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Training rows that are read in order (streamed): divided among processes and workers, found again on a resume."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import groupby, islice
from typing import Any, TypeVar

import datasets
import fsspec
import numpy as np
from torch.utils.data import IterableDataset, get_worker_info
from transformers.utils import logging

from albef_amc.datasets_scripts.randomness import example_generator
from albef_amc.datasets_scripts.row_images import locate_image
from albef_amc.trainer.data.group_by_image import merge_rows

logger = logging.get_logger(__name__)

Value = TypeVar("Value")

STATE_KEY = "stream_state"  # of a row and of a batch: position of its reader after it
ROWS_READ_AT_ONCE = 16


@dataclass(frozen=True)
class Place:
    """Position of a reader in a stream.

    Args:
        passes (`int`): passes over the stream that it has finished.
        parts (`int`): parts of the pass that it has finished.
        images (`int`): images of the part that it has read or skipped, those of other readers included.
    """

    passes: int = 0
    parts: int = 0
    images: int = 0


class StreamSource:
    """One streamed data set, divided among several readers.

    The shards (files) of a pass are put in an order drawn from (`seed`, pass). Every reader gets the same number of
    them; the images of those left over are divided one by one. So every image of a pass comes to one reader, once,
    and the readers' shares are of the same size if the shards are.

    A buffer mixes the images of one shard, never those of several: a resumed run fills it again by reading the shard
    from its start, and loses nothing.

    Args:
        stream (`datasets.IterableDataset`): rows of the schema; images may be undecoded.
        seed (`int`): seed of the run.
        shuffle_shards (`bool`): draw the order of shards; else they come in their own order in every pass.
        shuffle_buffer (`int`, defaults to 0): images that the buffer holds.
        group_by_image (`bool`, defaults to `False`): merge rows of the same image that follow each other in a shard.

    Raises:
        ValueError: a stream without features, or one that is split by process already.
    """

    def __init__(
        self,
        stream: datasets.IterableDataset,
        seed: int,
        shuffle_shards: bool,
        shuffle_buffer: int = 0,
        group_by_image: bool = False,
    ):
        if stream.features is None:
            raise ValueError("a stream needs `features`: give them to the `map` that made it.")
        if stream._distributed is not None:
            raise ValueError(
                "the stream is split by process already (`split_dataset_by_node`), and would be once more: give the "
                "whole one."
            )
        self.stream = stream
        self.seed = seed
        self.shuffle_shards = shuffle_shards
        self.shuffle_buffer = shuffle_buffer
        self.group_by_image = group_by_image

    @property
    def num_rows(self) -> int | None:
        """Rows of a pass, where the data set knows them."""
        splits = self.stream.info.splits or {}
        name = next(iter(splits)) if self.stream.split is None and len(splits) == 1 else str(self.stream.split)
        return splits[name].num_examples if name in splits else None

    def read(self, reader: int, num_readers: int, place: Place) -> Iterator[tuple[dict, Place]]:
        """Rows of one reader from a place on, pass after pass, with the place after each.

        Raises:
            ValueError: a pass in which there is no image for this reader.
        """
        while True:
            has_images = place != Place(place.passes)
            for number, (shard, is_shared) in enumerate(self._list_parts(reader, num_readers, place.passes)):
                if number < place.parts:
                    continue
                start = place if number == place.parts else Place(place.passes, number)
                for row, after in self._read_images(shard, start):
                    if is_shared and (after.images + number) % num_readers != reader:
                        continue
                    has_images = True
                    yield {**row, "draw": after.passes}, after
            if not has_images:
                raise ValueError(
                    f"the streamed data set has no image for reader {reader + 1} of {num_readers} (processes times "
                    "workers): it is too small. Load it without streaming, or lower `dataloader_num_workers`."
                )
            place = Place(place.passes + 1)

    def _list_parts(self, reader: int, num_readers: int, num_pass: int) -> list[tuple[int, bool]]:
        """Shards that a reader reads in a pass, and whether it shares their images with the other readers."""
        order = np.arange(self.stream.num_shards)
        if self.shuffle_shards:
            order = example_generator(self.seed, num_pass, "shards").permutation(order)
        num_whole = len(order) // num_readers * num_readers
        whole = [(int(shard), False) for shard in order[reader:num_whole:num_readers]]
        return whole + [(int(shard), True) for shard in order[num_whole:]]

    def _read_images(self, shard: int, start: Place) -> Iterator[tuple[dict, Place]]:
        """Images of a shard from a place on, with the place after each."""
        if self.group_by_image or self.shuffle_buffer:
            images: Iterator[dict] = self._read_rows(shard, 0)
            if self.group_by_image:
                images = (merge_rows(rows) for _, rows in groupby(images, key=lambda row: row["image_id"]))
            generator = example_generator(self.seed, start.passes, f"shard {shard}")
            images = islice(shuffle_rows(images, self.shuffle_buffer, generator), start.images, None)
        else:
            images = self._read_rows(shard, start.images)
        for number, row in enumerate(images, start.images + 1):
            yield row, replace(start, images=number)

    def _read_rows(self, shard: int, num_skipped: int) -> Iterator[dict]:
        """Rows of a shard after the first `num_skipped`; an image is bytes or the path of a file."""
        folders = getattr(self.stream.features.get("image"), "folders", None)
        part = self.stream.shard(self.stream.num_shards, shard).with_format("arrow")
        for table in part.iter(ROWS_READ_AT_ONCE):
            for row in table.slice(min(num_skipped, len(table))).to_pylist():
                yield {**row, "image": locate_image(row["image"], folders)}
            num_skipped -= min(num_skipped, len(table))


class StreamedRows(IterableDataset):
    """Endless rows of one streamed data set, or of a mixture of several, for one process and its workers.

    Every row gets `draw`, the pass over its data set, which seeds the collator's random choices. A reader, one per
    process and worker, goes through its share of a data set again and again: no process waits for another, and all
    batches are full.

    Args:
        sources (list of [`StreamSource`]): the data sets.
        seed (`int`): seed of the run.
        shares (list of `float`, *optional*): of a mixture: share of the rows that each data set gives; sum 1.
        names (list of `str`, *optional*): of a mixture: what is put before the `image_id`s of each data set.
        rank, world_size (`int`, default to 0 and 1): this process, and the number of processes.
    """

    def __init__(
        self,
        sources: Sequence[StreamSource],
        seed: int,
        shares: Sequence[float] | None = None,
        names: Sequence[str] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.sources = list(sources)
        self.seed = seed
        self.shares = shares
        self.names = names
        self.rank = rank
        self.world_size = world_size
        self.first_worker = 0
        self.states: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        counts = [source.num_rows for source in self.sources]
        known = [count for count in counts if count is not None]
        if len(known) < len(counts) or any(source.group_by_image for source in self.sources):
            raise TypeError("the number of images of a streamed data set is not known")
        return sum(known)

    def resume(self, states: dict[int, dict[str, Any]], first_worker: int) -> None:
        """Continues after the batches of an earlier run.

        Args:
            states (`dict`): by number of the worker, the last `stream_state` that was trained on.
            first_worker (`int`): the worker whose batch comes next.
        """
        self.states, self.first_worker = states, first_worker

    def __iter__(self) -> Iterator[dict]:
        info = get_worker_info()
        num_workers, worker = (1, 0) if info is None else (info.num_workers, info.id)
        if info is not None:
            fsspec.asyn.reset_lock()  # a lock taken when the process was forked would never be given back
        worker = (worker + self.first_worker) % num_workers
        state = self.states.get(worker, {"count": 0, "places": [astuple(Place())] * len(self.sources)})
        count, places = state["count"], [Place(*place) for place in state["places"]]
        reader, num_readers = worker * self.world_size + self.rank, num_workers * self.world_size
        readers = [source.read(reader, num_readers, place) for source, place in zip(self.sources, places, strict=True)]
        while True:
            number = self._choose_source(reader, count)
            row, places[number] = next(readers[number])
            count += 1
            if self.names is not None:
                row["image_id"] = f"{self.names[number]}:{row['image_id']}"
            state = {"worker": worker, "count": count, "places": [astuple(place) for place in places]}
            yield {**row, STATE_KEY: state}

    def _choose_source(self, reader: int, count: int) -> int:
        if self.shares is None:
            return 0
        return int(
            example_generator(self.seed, count, f"reader {reader}", "mixture").choice(len(self.shares), p=self.shares)
        )


def shuffle_rows(rows: Iterable[Value], buffer_size: int, generator: np.random.Generator) -> Iterator[Value]:
    """Mixes rows with a buffer: each one that comes takes the place of one drawn from the buffer, which goes out.

    Args:
        rows (iterable): what is mixed.
        buffer_size (`int`): rows that wait; 0 leaves the order as it is.
        generator (`np.random.Generator`): source of all draws.

    Example:

    ```python
    >>> import numpy as np
    >>> from albef_amc.trainer.data.streaming import shuffle_rows
    >>> sorted(shuffle_rows(range(6), 3, np.random.default_rng(0)))
    [0, 1, 2, 3, 4, 5]
    >>> list(shuffle_rows(range(6), 0, np.random.default_rng(0)))
    [0, 1, 2, 3, 4, 5]

    ```
    """
    rows = iter(rows)
    buffer = list(islice(rows, buffer_size))
    if buffer:
        for row in rows:
            number = int(generator.integers(buffer_size))
            yield buffer[number]
            buffer[number] = row
        rows = (buffer[number] for number in generator.permutation(len(buffer)))
    yield from rows
