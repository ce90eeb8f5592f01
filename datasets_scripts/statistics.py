# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Statistics of a data set from the columns of its rows; images are not decoded."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from albef_amc.datasets_scripts.features import GROUNDING_FEATURES, OPTIONAL_COLUMNS
from albef_amc.datasets_scripts.task_features import TextSchema, find_task_schema

GROUNDING_SCHEMA = TextSchema(GROUNDING_FEATURES, "phrases", "phrase", (), "One row per image, its phrases inside")
REGION_FIELDS = ("boxes", "points", "masks", "polygons")
QUANTILES = {"min": 0.0, "median": 0.5, "p95": 0.95, "max": 1.0}
ROWS_AT_ONCE = 1000


class TextStatistics:
    """Statistics of the rows of a task; tables are added one by one.

    Args:
        schema ([`TextSchema`]): schema of the rows.

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

    # What the texts of a row are counted per, in the name of the statistic.
    unit = "row"

    def __init__(self, schema: TextSchema) -> None:
        self.schema = schema
        self.columns = tuple(name for name in schema.features if name not in ("image", "images"))
        self.totals: Counter[str] = Counter()
        self.kinds: dict[str, Counter[Any]] = {kind: Counter() for kind in schema.kinds}
        self.words: set[str] = set()
        samples = [f"{schema.texts}_per_{self.unit}", f"words_per_{schema.text}"]
        samples += ["long_side"] if "width" in schema.features else []
        self.samples: dict[str, list[np.ndarray]] = {name: [] for name in samples}  # one array per table
        self.image_ids: list[np.ndarray] = []
        self.text_ids: list[np.ndarray] = []

    def add(self, table: pa.Table) -> None:
        """Count the rows of a table that has `columns`."""
        self._add_texts({name: table[name].combine_chunks() for name in self.columns})

    def _add_texts(self, columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
        """Count rows, images and texts; returns the fields of the texts."""
        name, text = self.schema.texts, self.schema.text
        texts = columns[name].flatten()
        fields = dict(zip((field.name for field in texts.type), texts.flatten(), strict=True))
        self.totals["num_rows"] += len(columns[name])
        self.totals["num_texts"] += len(texts)
        self.samples[f"{name}_per_{self.unit}"].append(_lengths(columns[name]))
        words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.utf8_lower(fields[text])))
        self.samples[f"words_per_{text}"].append(_lengths(words))
        self.words.update(pc.unique(words.flatten()).to_pylist())
        if "width" in columns:
            sides = (columns[side].to_numpy(zero_copy_only=False) for side in ("width", "height"))
            self.samples["long_side"].append(np.maximum(*sides))
        self.image_ids.append(_hash(columns["image_id"] if "image_id" in columns else columns["image_ids"].flatten()))
        self.text_ids.append(_hash(fields[f"{text}_id"]))
        for kind, counts in self.kinds.items():
            counts.update(_count(fields[kind].drop_null()))
        return fields

    def summarize(self) -> dict[str, Any]:
        """Statistics of all tables; TEXTS is "captions", "questions", "sentences" or "hypotheses", TEXT one of them.

        Returns:
            `dict`: `num_rows`, `num_images` (distinct ids), `num_TEXTS`, `num_words` (distinct, lower case),
            `num_repeated_TEXT_ids`, `num_TEXTS_by_KIND` for each kind of the schema, and mean and quantiles of
            `TEXTS_per_row`, `words_per_TEXT` and, with one image per row, `long_side` (pixels).
        """
        texts, text = self.schema.texts, self.schema.text
        by_kind = {
            f"num_{texts}_by_{kind}": {self._name(kind, value): counts[value] for value in sorted(counts)}
            for kind, counts in self.kinds.items()
        }
        return {
            "num_rows": self.totals["num_rows"],
            "num_images": len(np.unique(_join(self.image_ids))),
            f"num_{texts}": self.totals["num_texts"],
            "num_words": len(self.words),
            f"num_repeated_{text}_ids": _count_repeated(self.text_ids),
            **by_kind,
            **{name: _describe(values) for name, values in self.samples.items()},
        }

    def _name(self, kind: str, value: Any) -> str:
        """Value of a field, a label by its name."""
        feature = self.schema.features[self.schema.texts].feature[kind]
        return feature.int2str(value) if isinstance(feature, datasets.ClassLabel) else value


class GroundingStatistics(TextStatistics):
    """Statistics of the rows of a grounding data set.

    Example:
        >>> import pyarrow as pa
        >>> from albef_amc.datasets_scripts import GROUNDING_FEATURES, build_phrase, build_row
        >>> row = build_row(None, 1, 40, 20, [build_phrase(0, "a red dog", boxes=[[0, 0, 20, 20]])])
        >>> statistics = GroundingStatistics()
        >>> statistics.add(pa.Table.from_pylist([row], schema=GROUNDING_FEATURES.arrow_schema))
        >>> statistics.summarize()["box_area_share"]["median"]
        0.5
    """

    unit = "image"

    def __init__(self) -> None:
        super().__init__(GROUNDING_SCHEMA)
        self.types: Counter[str] = Counter()
        self.samples["box_area_share"] = []

    def add(self, table: pa.Table) -> None:
        """Count the rows of a table that has `columns`, and their regions."""
        table = _fill_columns(table)
        columns = {name: table[name].combine_chunks() for name in self.columns}
        fields = self._add_texts(columns)
        self.types.update(_count(fields["types"].flatten()))
        for name in ("proposals", *OPTIONAL_COLUMNS):
            self.totals[f"num_{name}"] += len(columns[name].flatten())
        has = {name: _lengths(fields[name]) > 0 for name in REGION_FIELDS}
        for name, values in has.items():
            self.totals[f"num_phrases_with_{name}"] += int(values.sum())
        self.totals["num_annotated_phrases"] += int(np.logical_or.reduce(list(has.values())).sum())
        corners = fields["boxes"].flatten().flatten().to_numpy(zero_copy_only=False).reshape(-1, 4).astype(np.float64)
        self.totals["num_boxes"] += len(corners)
        width, height = (columns[side].to_numpy(zero_copy_only=False) for side in ("width", "height"))
        rows = pc.list_parent_indices(columns["phrases"]).to_numpy()
        images = rows[pc.list_parent_indices(fields["boxes"]).to_numpy()]
        box_areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
        self.samples["box_area_share"].append(box_areas / (width * height)[images])

    def summarize(self) -> dict[str, Any]:
        """Statistics of all tables.

        Returns:
            `dict`: `num_images`, `num_phrases`, `num_annotated_phrases` (with boxes, points, masks or polygons),
            `num_phrases_without_region`, `num_phrases_with_boxes` and so on, `num_boxes`, `num_proposals`,
            `num_true_phrases`, `num_false_phrases`, `num_words` (distinct, lower case, of phrases),
            `num_repeated_image_ids`, `num_repeated_phrase_ids`, `num_phrases_by_type`, and mean and quantiles of
            `long_side` (pixels), `phrases_per_image`, `words_per_phrase` and `box_area_share` (fraction of the image).
        """
        names = [*(f"num_phrases_with_{name}" for name in REGION_FIELDS), "num_boxes", "num_proposals"]
        names += [f"num_{name}" for name in OPTIONAL_COLUMNS]
        samples = ("long_side", "phrases_per_image", "words_per_phrase", "box_area_share")
        return {
            "num_images": self.totals["num_rows"],
            "num_phrases": self.totals["num_texts"],
            "num_annotated_phrases": self.totals["num_annotated_phrases"],
            "num_phrases_without_region": self.totals["num_texts"] - self.totals["num_annotated_phrases"],
            **{name: self.totals[name] for name in names},
            "num_words": len(self.words),
            "num_repeated_image_ids": _count_repeated(self.image_ids),
            "num_repeated_phrase_ids": _count_repeated(self.text_ids),
            "num_phrases_by_type": dict(sorted(self.types.items())),
            **{name: _describe(self.samples[name]) for name in samples},
        }


def build_statistics(columns: Iterable[str]) -> TextStatistics:
    """Empty statistics for rows with these columns: of a task, otherwise of grounding."""
    schema = find_task_schema(columns)
    return GroundingStatistics() if schema is None else TextStatistics(schema)


def iterate_tables(files: Iterable[Path], columns: Iterable[str]) -> Iterator[pa.Table]:
    """Columns of Parquet files, some rows at a time."""
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=list(columns)):
                yield pa.Table.from_batches([batch])


def describe_dataset(rows: datasets.Dataset) -> dict[str, Any]:
    """Statistics of a data set in memory or in the cache."""
    statistics = build_statistics(rows.column_names)
    present = [name for name in statistics.columns if name in rows.column_names or name not in OPTIONAL_COLUMNS]
    chosen = rows.select_columns(present).with_format("arrow")
    for table in chosen.iter(batch_size=ROWS_AT_ONCE):
        statistics.add(table)
    return statistics.summarize()


def compute_statistics(rows: Any) -> dict[str, Any]:
    """Count the phrases of a data set or of a list of rows; images of a `datasets.Dataset` are not decoded.

    Args:
        rows (`datasets.Dataset` or iterable of `dict`): rows of the schema, at least with `phrases`.

    Returns:
        `dict`: `num_images`, `num_phrases`, `num_annotated_phrases` (with boxes, points, masks or polygons),
        `num_boxes`, `num_words` (distinct, lower case), `num_phrases_by_type`.

    Example:
        >>> from albef_amc.datasets_scripts import build_phrase, compute_statistics
        >>> compute_statistics([{"phrases": [build_phrase(0, "a red dog", types=["category"])]}])["num_words"]
        3
    """
    statistics = GroundingStatistics()
    if hasattr(rows, "select_columns"):
        rows = rows.select_columns(["phrases"])
    phrases = ({"phrases": row["phrases"]} for row in rows)
    while part := list(islice(phrases, ROWS_AT_ONCE)):
        statistics.add(pa.Table.from_pylist(part, schema=GROUNDING_FEATURES.arrow_schema))
    names = ("num_images", "num_phrases", "num_annotated_phrases", "num_boxes", "num_words", "num_phrases_by_type")
    summary = statistics.summarize()
    return {name: summary[name] for name in names}


def _fill_columns(table: pa.Table) -> pa.Table:
    """A table with those of `OPTIONAL_COLUMNS` that it lacks, all null."""
    for name in OPTIONAL_COLUMNS:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), GROUNDING_FEATURES.arrow_schema.field(name).type))
    return table


def _lengths(lists: pa.Array) -> np.ndarray:
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)


def _hash(values: pa.Array) -> np.ndarray:
    """Eight bytes per text: millions of ids fit in memory."""
    return np.fromiter(map(hash, values.to_pylist()), dtype=np.int64, count=len(values))


def _count(values: pa.Array) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(values).to_pylist()}


def _join(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0)


def _count_repeated(parts: list[np.ndarray]) -> int:
    ids = _join(parts)
    return len(ids) - len(np.unique(ids))


def _describe(parts: list[np.ndarray]) -> dict[str, float | None]:
    """Mean and quantiles; None where there are no values."""
    values = _join(parts)
    if not len(values):
        return {name: None for name in ("mean", *QUANTILES)}
    quantiles = np.quantile(values, list(QUANTILES.values()))
    return {"mean": float(values.mean()), **dict(zip(QUANTILES, map(float, quantiles), strict=True))}
