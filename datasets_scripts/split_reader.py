# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Reading a split in parts: any range of its sources becomes rows without reading those before it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import datasets
import pyarrow as pa
from datasets.table import embed_table_storage

from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.source_builder import SourceBuilder


@dataclass
class SplitReader:
    """Reader of ranges of the sources (images, scenes) of a split.

    Args:
        builder (`datasets.GeneratorBasedBuilder`): a builder whose generator takes `sources`.
        name (`str`): the split.
        arguments (`dict`): arguments of the builder's generator; `sources` is a mapping or a sequence.
    """

    builder: datasets.GeneratorBasedBuilder
    name: str
    arguments: dict[str, Any]

    @cached_property
    def keys(self) -> list[Any]:
        """Keys of the sources, or the sources themselves where they are a sequence."""
        return list(self.arguments["sources"])

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def features(self) -> datasets.Features:
        """Columns of the rows."""
        return self.builder.info.features

    def read(self, start: int, stop: int) -> tuple[pa.Table, ReadingReport]:
        """Read the sources `start` to `stop - 1` as rows with image bytes, and report what was skipped."""
        sources, keys = self.arguments["sources"], self.keys[start:stop]
        part = {key: sources[key] for key in keys} if isinstance(sources, dict) else keys
        report = ReadingReport()
        if isinstance(self.builder, SourceBuilder):
            self.builder.report = report
        examples = self.builder._generate_examples(**{**self.arguments, "sources": part})
        rows = [self.features.encode_example(row) for _, row in examples]
        table = pa.Table.from_pylist(rows, schema=self.features.arrow_schema)
        return embed_table_storage(table), report


def list_split_readers(builder: datasets.GeneratorBasedBuilder) -> tuple[dict[str, SplitReader], ReadingReport]:
    """Read the annotations of a data set, without its images.

    Args:
        builder (`datasets.GeneratorBasedBuilder`): one of `BUILDERS`.

    Returns:
        `dict` of [`SplitReader`] by split, and the report so far.

    Raises:
        ValueError: annotations that cannot be used.
    """
    manager = datasets.DownloadManager(dataset_name=builder.name)
    generators = builder._split_generators(manager)
    readers = {str(split.name): SplitReader(builder, str(split.name), split.gen_kwargs) for split in generators}
    return readers, builder.report if isinstance(builder, SourceBuilder) else ReadingReport()
