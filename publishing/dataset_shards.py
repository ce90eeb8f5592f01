# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Shards of a data set: Parquet files that appear when complete, with checksums; raw files are read once.

Sources are read in parts of `SOURCES_PER_PART`, in this process or in several; the shards are the same, byte by byte,
however many processes read and however often a build was stopped and continued.
"""

import io
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets.config import DEFAULT_CDC_OPTIONS

from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.split_reader import SplitReader
from albef_amc.saving_albef import hash_file

DATA_FOLDER, UNFINISHED_SUFFIX = "data", ".unfinished"
SOURCES_PER_PART = 16
# A reader of the Hub fetches a row group at a time.
ROW_GROUP_BYTES = 16 << 20
# Parts that wait per process: what is read ahead stays small when writing is slower.
PARTS_AHEAD = 2
LOST_WORKER = (
    "a process that reads images ended before its time: it was killed, for example because memory ran out, or (where "
    "processes are not copies of this one, as on macOS and Windows) the program starts its work outside of "
    '`if __name__ == "__main__":`. Complete shards are kept: continue with `--resume`, perhaps with '
    "`--num-workers 1`."
)

_reader: SplitReader | None = None  # of a process that reads for another


@dataclass
class Shard:
    """A finished Parquet file.

    Args:
        name (`str`): path below the folder of the data set.
        size (`int`): bytes of the file.
        sha256 (`str`): of the file.
        num_rows (`int`): rows.
        num_bytes (`int`): bytes of the rows in memory.
        end (`int`): number of the first source of the split after it.
        report (`dict`): `counts` and `first_places` of what was skipped between it and the shard before.
    """

    name: str
    size: int
    sha256: str
    num_rows: int
    num_bytes: int
    end: int
    report: dict[str, dict[str, Any]]

    def is_intact(self, folder: Path) -> bool:
        """Whether the file is there with the bytes that were written."""
        path = folder / self.name
        return path.is_file() and path.stat().st_size == self.size and hash_file(path) == self.sha256


def name_shard(split: str, number: int) -> str:
    """Path of a shard below the folder of its data set.

    Example:
        >>> name_shard("testA", 3)
        'data/testA-00003.parquet'
    """
    return f"{DATA_FOLDER}/{split}-{number:05d}.parquet"


def pack_report(report: ReadingReport) -> dict[str, dict[str, Any]]:
    """A report as JSON knows it."""
    return {"counts": dict(report.counts), "first_places": dict(report.first_places)}


def unpack_report(packed: dict[str, dict[str, Any]]) -> ReadingReport:
    """The report that [`pack_report`] took."""
    report = ReadingReport()
    report.counts.update(packed["counts"])
    report.first_places.update(packed["first_places"])
    return report


def write_shards(
    folder: Path,
    reader: SplitReader,
    done: list[Shard],
    *,
    shard_bytes: int,
    num_workers: int,
    on_progress: Callable[[int], None],
    on_shard: Callable[[Shard], None],
) -> ReadingReport:
    """Writes the shards of a split that are missing.

    Args:
        folder (`Path`): of the data set.
        reader ([`~datasets_scripts.split_reader.SplitReader`]): the split.
        done (list of [`Shard`]): the first shards, kept from an earlier run.
        shard_bytes (`int`): bytes of rows after which a shard is closed.
        num_workers (`int`): processes that read; with 1, this one.
        on_progress (callable): gets the number of sources that were read since it was called before.
        on_shard (callable): gets each shard when it is complete.

    Returns:
        [`~datasets_scripts.ReadingReport`]: what was skipped after the last shard.
    """
    start = done[-1].end if done else 0
    on_progress(start)
    writer, report, number = None, ReadingReport(), len(done)
    try:
        for stop, table, part_report in _read_parts(reader, start, num_workers):
            report.update(part_report)
            if table.num_rows:
                writer = writer or _ShardWriter(folder, name_shard(reader.name, number), table.schema)
                writer.add(table)
            if writer and (writer.num_bytes >= shard_bytes or stop == len(reader)):
                on_shard(writer.close(stop, report))
                writer, report, number = None, ReadingReport(), number + 1
            on_progress(stop - start)
            start = stop
    finally:
        if writer:
            writer.discard()
    return report


class _ShardWriter:
    """A shard under a temporary name; it gets its own when it is complete.

    The Parquet writer fills a buffer in memory, and the buffer is written to the disk after every row group: a disk
    that is full while the writer itself writes would end the process.
    """

    def __init__(self, folder: Path, name: str, schema: pa.Schema):
        self.name, self.path = name, folder / name
        self.unfinished = self.path.with_name(f".{self.path.name}{UNFINISHED_SUFFIX}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.unfinished.open("wb")
        self.buffer = io.BytesIO()
        self.writer = pq.ParquetWriter(
            pa.PythonFile(self.buffer, mode="w"),
            schema,
            use_content_defined_chunking=DEFAULT_CDC_OPTIONS,
            write_page_index=True,
        )
        self.num_rows = self.num_bytes = self.waiting_bytes = 0
        self.waiting: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        self.waiting.append(table)
        self.waiting_bytes += table.nbytes
        self.num_rows += table.num_rows
        self.num_bytes += table.nbytes
        if self.waiting_bytes >= ROW_GROUP_BYTES:
            self._write_group()

    def close(self, end: int, report: ReadingReport) -> Shard:
        self._write_group()
        self.writer.close()
        self._empty_buffer()
        self.file.close()
        size, digest = self.unfinished.stat().st_size, hash_file(self.unfinished)
        self.unfinished.replace(self.path)
        return Shard(self.name, size, digest, self.num_rows, self.num_bytes, end, pack_report(report))

    def discard(self) -> None:
        try:
            self.writer.close()
            with suppress(OSError):  # of bytes that nobody needs
                self.file.close()
        finally:
            self.unfinished.unlink(missing_ok=True)

    def _write_group(self) -> None:
        if self.waiting:
            table = pa.concat_tables(self.waiting).combine_chunks()
            self.writer.write_table(table, row_group_size=table.num_rows)
            self._empty_buffer()
        self.waiting, self.waiting_bytes = [], 0

    def _empty_buffer(self) -> None:
        """Writes the buffer to the disk; the Parquet writer counts its bytes itself and continues in an empty one."""
        try:
            with self.buffer.getbuffer() as content:
                self.file.write(content)
            self.file.flush()
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}: {self.unfinished.parent} has no room for {self.name}. It is removed, and "
                "complete shards are kept: make room and continue with `--resume`.",
            ) from error
        self.buffer.seek(0)
        self.buffer.truncate()


# One part: number of the source after it, its rows, what was skipped.
Part = tuple[int, pa.Table, ReadingReport]


def _read_parts(reader: SplitReader, start: int, num_workers: int) -> Iterator[Part]:
    """Parts from `start` on, in order."""
    starts = range(start, len(reader), SOURCES_PER_PART)
    if num_workers == 1 or len(starts) < 2:
        for first in starts:
            stop = min(first + SOURCES_PER_PART, len(reader))
            yield stop, *reader.read(first, stop)
        return
    waiting: deque[Future[Part]] = deque()
    with ProcessPoolExecutor(
        min(num_workers, len(starts)),
        mp_context=multiprocessing.get_context(_choose_start_method()),
        initializer=_start_worker,
        initargs=(reader,),
    ) as pool:
        try:
            for first in starts:
                waiting.append(pool.submit(_read_part, first, min(first + SOURCES_PER_PART, len(reader))))
                if len(waiting) > PARTS_AHEAD * num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise ChildProcessError(LOST_WORKER) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _choose_start_method() -> str | None:
    """How processes start: as the program has set it, or else by `fork` where that is safe, on Linux.

    A forked process is a copy of this one and has the annotations already; others are sent them.
    """
    chosen = multiprocessing.get_start_method(allow_none=True)
    return "fork" if chosen is None and sys.platform == "linux" else chosen


def _start_worker(reader: SplitReader) -> None:
    global _reader
    _reader = reader
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that was asked to stop reports it, once
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """Ends this process when the one that it reads for is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _read_part(start: int, stop: int) -> Part:
    return stop, *_reader.read(start, stop)
