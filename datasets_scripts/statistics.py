# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Statistics of a data set from the columns of its rows, without decoding an image."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

STATISTICS_COLUMNS = ("image_id", "width", "height", "proposals", "phrases")
REGION_FIELDS = ("boxes", "points", "masks", "polygons")
QUANTILES = {"min": 0.0, "median": 0.5, "p95": 0.95, "max": 1.0}
ROWS_AT_ONCE = 1000


class DatasetStatistics:
    """Counts rows as they come; [`summarize`] says what was seen.

    Example:
        >>> import pyarrow as pa
        >>> from albef_amc.datasets_scripts import GROUNDING_FEATURES, build_phrase, build_row
        >>> row = build_row(None, 1, 40, 20, [build_phrase(0, "a red dog", boxes=[[0, 0, 20, 20]])])
        >>> statistics = DatasetStatistics()
        >>> statistics.add(pa.Table.from_pylist([row], schema=GROUNDING_FEATURES.arrow_schema))
        >>> statistics.summarize()["box_area_share"]["median"]
        0.5
    """

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self.types: Counter[str] = Counter()
        self.words: set[str] = set()
        # One array per table: pixels of the longer side, phrases per image, words per phrase, share of the image.
        self.samples: dict[str, list[np.ndarray]] = {
            name: [] for name in ("long_side", "phrases_per_image", "words_per_phrase", "box_area_share")
        }
        self.phrase_ids: list[np.ndarray] = []
        self.image_ids: list[np.ndarray] = []

    def add(self, table: pa.Table) -> None:
        """Counts the rows of a table that has `STATISTICS_COLUMNS`."""
        columns = {name: table[name].combine_chunks() for name in STATISTICS_COLUMNS}
        width, height = (columns[name].to_numpy(zero_copy_only=False) for name in ("width", "height"))
        phrases = columns["phrases"].flatten()
        rows = pc.list_parent_indices(columns["phrases"]).to_numpy()
        fields = dict(zip((field.name for field in phrases.type), phrases.flatten(), strict=True))
        self.totals["num_images"] += len(width)
        self.totals["num_phrases"] += len(phrases)
        self.totals["num_proposals"] += len(columns["proposals"].flatten())
        self.samples["long_side"].append(np.maximum(width, height))
        self.samples["phrases_per_image"].append(np.bincount(rows, minlength=len(width)))
        self.image_ids.append(_hash(columns["image_id"]))
        self.phrase_ids.append(_hash(fields["phrase_id"]))
        self._add_words(fields["phrase"])
        self._add_regions(fields, rows, width * height)
        self.types.update(_count(fields["types"].flatten()))

    def _add_words(self, phrases: pa.Array) -> None:
        words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.utf8_lower(phrases)))
        self.samples["words_per_phrase"].append(_lengths(words))
        self.words.update(pc.unique(words.flatten()).to_pylist())

    def _add_regions(self, fields: dict[str, pa.Array], rows: np.ndarray, areas: np.ndarray) -> None:
        """Boxes with the share of the image that they cover, and how many phrases have which kind of region."""
        has = {name: _lengths(fields[name]) > 0 for name in REGION_FIELDS}
        for name, values in has.items():
            self.totals[f"num_phrases_with_{name}"] += int(values.sum())
        self.totals["num_annotated_phrases"] += int(np.logical_or.reduce(list(has.values())).sum())
        boxes = fields["boxes"].flatten()
        corners = boxes.flatten().to_numpy(zero_copy_only=False).reshape(-1, 4).astype(np.float64)
        images = rows[pc.list_parent_indices(fields["boxes"]).to_numpy()]
        self.totals["num_boxes"] += len(corners)
        box_areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
        self.samples["box_area_share"].append(box_areas / areas[images])

    def summarize(self) -> dict[str, Any]:
        """What was seen.

        Returns:
            `dict`: `num_images`, `num_phrases`, `num_annotated_phrases` (with boxes, points, masks or polygons),
            `num_phrases_without_region`, `num_phrases_with_boxes` and so on, `num_boxes`, `num_proposals`, `num_words`
            (distinct, lower case), `num_repeated_image_ids`, `num_repeated_phrase_ids`, `num_phrases_by_type`, and
            mean and quantiles of `phrases_per_image`, `words_per_phrase`, `box_area_share` (share of the image) and
            `long_side` (pixels).
        """
        names = ("num_images", "num_phrases", "num_annotated_phrases")
        regions = (f"num_phrases_with_{name}" for name in REGION_FIELDS)
        return {
            **{name: self.totals[name] for name in names},
            "num_phrases_without_region": self.totals["num_phrases"] - self.totals["num_annotated_phrases"],
            **{name: self.totals[name] for name in (*regions, "num_boxes", "num_proposals")},
            "num_words": len(self.words),
            "num_repeated_image_ids": _count_repeated(self.image_ids),
            "num_repeated_phrase_ids": _count_repeated(self.phrase_ids),
            "num_phrases_by_type": dict(sorted(self.types.items())),
            **{name: _describe(values) for name, values in self.samples.items()},
        }


def iterate_tables(files: Iterable[Path], columns: Iterable[str] = STATISTICS_COLUMNS) -> Iterator[pa.Table]:
    """Columns of Parquet files, some rows at a time."""
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=list(columns)):
                yield pa.Table.from_batches([batch])


def describe_dataset(rows: datasets.Dataset) -> dict[str, Any]:
    """[`DatasetStatistics`] of a data set in memory or in the cache."""
    statistics = DatasetStatistics()
    chosen = rows.select_columns(list(STATISTICS_COLUMNS)).with_format("arrow")
    for table in chosen.iter(batch_size=ROWS_AT_ONCE):
        statistics.add(table)
    return statistics.summarize()


def _lengths(lists: pa.Array) -> np.ndarray:
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)


def _hash(values: pa.Array) -> np.ndarray:
    """Eight bytes for each text: millions of ids fit in memory."""
    return np.fromiter(map(hash, values.to_pylist()), dtype=np.int64, count=len(values))


def _count(values: pa.Array) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(values).to_pylist()}


def _count_repeated(parts: list[np.ndarray]) -> int:
    ids = np.concatenate(parts) if parts else np.empty(0)
    return len(ids) - len(np.unique(ids))


def _describe(parts: list[np.ndarray]) -> dict[str, float | None]:
    values = np.concatenate(parts) if parts else np.empty(0)
    if not len(values):
        return {name: None for name in ("mean", *QUANTILES)}
    quantiles = np.quantile(values, list(QUANTILES.values()))
    return {"mean": float(values.mean()), **dict(zip(QUANTILES, map(float, quantiles), strict=True))}
