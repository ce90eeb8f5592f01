# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""One row per image of data sets that have one row per phrase, so that an image is encoded once for its phrases."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch.utils.data import Dataset, IterableDataset

from albef_amc.datasets_scripts.features import OPTIONAL_COLUMNS

IMAGE_COLUMN = "image"


def group_rows_by_image(rows: Any) -> Any:
    """Merges the rows of an image into one row, which is put together when it is read.

    Images are in the order of their first rows, phrases, `true_phrases` and `false_phrases` in the order of the rows;
    image, size and proposals are the first row's. Nothing but `image_id` is read beforehand.

    Args:
        rows (`datasets.Dataset` or sequence of `dict`): data set rows (`datasets_scripts/features.py`).

    Returns:
        [`GroupedRows`], or `rows` itself where no image has several.

    Raises:
        TypeError: a data set that is read in order only (streaming).

    Example:

    ```python
    >>> from albef_amc.trainer.data.group_by_image import group_rows_by_image
    >>> words = {"dog": "photo_1", "cup": "photo_2", "cat": "photo_1"}
    >>> rows = [{"image_id": photo, "phrases": [{"phrase": word}]} for word, photo in words.items()]
    >>> grouped = group_rows_by_image(rows)
    >>> len(grouped), [entry["phrase"] for entry in grouped[0]["phrases"]]
    (2, ['dog', 'cat'])

    ```
    """
    if isinstance(rows, IterableDataset) or not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__"):
        raise TypeError(
            f"rows can be grouped by image only where each can be read by its number, got {type(rows).__name__}. Load "
            "the data set without streaming, or set `group_by_image=False`."
        )
    indices: dict[str, list[int]] = {}
    for index, image_id in enumerate(_read_image_ids(rows)):
        indices.setdefault(image_id, []).append(index)
    return rows if len(indices) == len(rows) else GroupedRows(rows, list(indices.values()))


def _read_image_ids(rows: Any) -> Sequence[str]:
    if hasattr(rows, "select_columns"):
        return rows.select_columns(["image_id"])["image_id"]
    return [rows[index]["image_id"] for index in range(len(rows))]


class GroupedRows(Dataset):
    """Rows of a map-style data set, merged.

    Args:
        rows: what [`group_rows_by_image`] takes.
        groups (list of lists of `int`): numbers of the rows that become one row each.
    """

    def __init__(self, rows: Any, groups: list[list[int]]):
        self.rows = rows
        self.groups = groups
        is_table = hasattr(rows, "remove_columns") and IMAGE_COLUMN in rows.column_names
        self._rows_without_images = rows.remove_columns(IMAGE_COLUMN) if is_table else rows

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> dict:
        first, *others = self.groups[index]
        return merge_rows([self.rows[first], *(self._rows_without_images[other] for other in others)])


def merge_rows(rows: Iterable[dict]) -> dict:
    """One row of the rows of an image: all their phrases, those that are known to be true or false of it, and
    everything else as in the first.

    Args:
        rows (iterable of `dict`): at least one row; those after the first may lack `image`.

    Raises:
        ValueError: rows that state different sizes of the image.
    """
    parts = list(rows)
    merged = parts[0]
    for part in parts:
        size, other_size = ((row.get("width"), row.get("height")) for row in (merged, part))
        if size != other_size:
            raise ValueError(
                f"rows of image {merged['image_id']!r} state different sizes, {size} and {other_size}: their "
                "regions do not fit together. Give different images different `image_id`s."
            )
    texts = {
        name: list(dict.fromkeys(text for part in parts for text in part.get(name) or ())) or None
        for name in OPTIONAL_COLUMNS
        if any(name in part for part in parts)
    }
    return {**merged, **texts, "phrases": [phrase for part in parts for phrase in part["phrases"] or ()]}
