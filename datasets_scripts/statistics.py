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

from albef_amc.datasets_scripts.task_features import TextSchema, find_task_schema

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

    columns = STATISTICS_COLUMNS

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
        words = _split_words(phrases)
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


class TextStatistics:
    """Counts rows of the tasks beside grounding as they come; [`summarize`] says what was seen.

    Args:
        schema ([`TextSchema`]): of the rows.

    Example:
        >>> import pyarrow as pa
        >>> from albef_amc.datasets_scripts.task_features import build_question, find_task_schema
        >>> schema = find_task_schema(["image", "image_id", "width", "height", "questions"])
        >>> questions = [build_question(1, "Is it red?", "vqa", ["yes"], answer_type="yes/no")]
        >>> row = {"image": None, "image_id": "1", "width": 40, "height": 20, "questions": questions}
        >>> statistics = TextStatistics(schema)
        >>> statistics.add(pa.Table.from_pylist([row], schema=schema.features.arrow_schema))
        >>> statistics.summarize()["num_questions_by_answer_type"]
        {'yes/no': 1}
    """

    def __init__(self, schema: TextSchema) -> None:
        self.schema = schema
        self.columns = tuple(name for name in schema.features if name not in ("image", "images"))
        self.num_rows = self.num_texts = 0
        self.kinds: dict[str, Counter[Any]] = {kind: Counter() for kind in schema.kinds}
        self.words: set[str] = set()
        self.samples: dict[str, list[np.ndarray]] = {
            f"{schema.texts}_per_row": [],
            f"words_per_{schema.text}": [],
            **({"long_side": []} if "width" in self.columns else {}),
        }
        self.image_ids: list[np.ndarray] = []
        self.text_ids: list[np.ndarray] = []

    def add(self, table: pa.Table) -> None:
        """Counts the rows of a table that has `columns`."""
        columns = {name: table[name].combine_chunks() for name in self.columns}
        texts = columns[self.schema.texts].flatten()
        fields = dict(zip((field.name for field in texts.type), texts.flatten(), strict=True))
        self.num_rows += len(table)
        self.num_texts += len(texts)
        self.samples[f"{self.schema.texts}_per_row"].append(_lengths(columns[self.schema.texts]))
        words = _split_words(fields[self.schema.text])
        self.samples[f"words_per_{self.schema.text}"].append(_lengths(words))
        self.words.update(pc.unique(words.flatten()).to_pylist())
        if "long_side" in self.samples:
            sides = (columns[name].to_numpy(zero_copy_only=False) for name in ("width", "height"))
            self.samples["long_side"].append(np.maximum(*sides))
        self.image_ids.append(_hash(columns["image_id"] if "image_id" in columns else columns["image_ids"].flatten()))
        self.text_ids.append(_hash(fields[f"{self.schema.text}_id"]))
        for kind, counts in self.kinds.items():
            counts.update(_count(fields[kind].drop_null()))

    def summarize(self) -> dict[str, Any]:
        """What was seen; TEXTS is "captions", "questions", "sentences" or "hypotheses", TEXT one of them.

        Returns:
            `dict`: `num_rows`, `num_images` (different ids), `num_TEXTS`, `num_words` (distinct, lower case),
            `num_repeated_TEXT_ids`, `num_TEXTS_by_KIND` for each kind of the schema, and mean and quantiles of
            `TEXTS_per_row`, `words_per_TEXT` and, with one image a row, `long_side` (pixels).
        """
        texts, text = self.schema.texts, self.schema.text
        image_ids = np.concatenate(self.image_ids) if self.image_ids else np.empty(0)
        by_kind = {
            f"num_{texts}_by_{kind}": {self._name(kind, value): counts[value] for value in sorted(counts)}
            for kind, counts in self.kinds.items()
        }
        return {
            "num_rows": self.num_rows,
            "num_images": len(np.unique(image_ids)),
            f"num_{texts}": self.num_texts,
            "num_words": len(self.words),
            f"num_repeated_{text}_ids": _count_repeated(self.text_ids),
            **by_kind,
            **{name: _describe(values) for name, values in self.samples.items()},
        }

    def _name(self, kind: str, value: Any) -> str:
        """The value of a field in words: a label by its name."""
        feature = self.schema.features[self.schema.texts].feature[kind]
        return feature.int2str(value) if isinstance(feature, datasets.ClassLabel) else value


def build_statistics(columns: Iterable[str]) -> DatasetStatistics | TextStatistics:
    """Statistics for rows with these columns: of a task, or else of grounding."""
    schema = find_task_schema(columns)
    return DatasetStatistics() if schema is None else TextStatistics(schema)


def iterate_tables(files: Iterable[Path], columns: Iterable[str] = STATISTICS_COLUMNS) -> Iterator[pa.Table]:
    """Columns of Parquet files, some rows at a time."""
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=list(columns)):
                yield pa.Table.from_batches([batch])


def describe_dataset(rows: datasets.Dataset) -> dict[str, Any]:
    """Statistics of a data set in memory or in the cache, with the counts of its schema."""
    statistics = build_statistics(rows.column_names)
    chosen = rows.select_columns(list(statistics.columns)).with_format("arrow")
    for table in chosen.iter(batch_size=ROWS_AT_ONCE):
        statistics.add(table)
    return statistics.summarize()


def _split_words(texts: pa.Array) -> pa.Array:
    return pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.utf8_lower(texts)))


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
