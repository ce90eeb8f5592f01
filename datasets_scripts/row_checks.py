# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Checks that the regions of a row fit its image: the stated size, and boxes in pixels."""

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers.utils import logging

logger = logging.get_logger(__name__)

COLUMNS = ("width", "height", "phrases")
ROWS_AT_ONCE = 1000
# Boxes may leave the image by this many pixels before it is reported: coordinates are rounded in the files.
BORDER_TOLERANCE = 0.05
# Largest coordinate of boxes in thousandths of the image sides.
THOUSANDTHS = 1000


def is_stated_size(stated: tuple[Any, Any], size: tuple[int, int]) -> bool:
    """Whether a stated width and height, None where not stated, are those of an image.

    Example:
        >>> is_stated_size((640, None), (640, 480)), is_stated_size((480, 640), (640, 480))
        (True, False)
    """
    return all(value is None or value == found for value, found in zip(stated, size, strict=True))


def format_sizes(size: tuple[int, int], stated: tuple[Any, Any]) -> str:
    """Describe both sizes; long numbers of the stated one are cut.

    Example:
        >>> format_sizes((640, 480), (480, 640))
        '640 x 480, not 480 x 640'
    """
    return f"{size[0]} x {size[1]}, not {stated[0]!s:.20} x {stated[1]!s:.20}"


def check_picture_size(row: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Refuse a row that states another size than its image has; training, evaluation and drawing call it.

    Args:
        row (`dict`): data set row; `width` and `height` may be missing.
        size (`tuple[int, int]`): width and height of its upright image.

    Raises:
        ValueError: the sizes differ; the message names image and sizes.
    """
    stated = (row.get("width"), row.get("height"))
    if not is_stated_size(stated, size):
        width, height = (found if value is None else value for value, found in zip(stated, size, strict=True))
        raise ValueError(
            f"the row of image {row.get('image_id')!r} states {width!s:.20} x {height!s:.20} pixels but its image, "
            f"upright, has {size[0]} x {size[1]}: its regions would be misplaced. Correct `width`, `height` and the "
            "regions, or store the image that they belong to."
        )


class BoxCounts:
    """Counts of boxes that leave their image or cannot be in pixels; [`list_warnings`] describes them.

    Example:
        >>> counts = BoxCounts()
        >>> counts.add(np.array([[0.1, 0.2, 0.5, 0.6], [0, 0, 50, 20]]), np.array([40, 40]), np.array([30, 30]))
        >>> counts.num_beyond, counts.num_within_unit
        (1, 1)
    """

    def __init__(self) -> None:
        self.num_boxes = self.num_beyond = self.num_outside = self.num_within_unit = self.num_empty = 0
        self.largest = 0.0

    def add(self, boxes: np.ndarray, widths: np.ndarray, heights: np.ndarray) -> None:
        """Count boxes `(n, 4)`, x_min, y_min, x_max, y_max, of images with these widths and heights `(n,)`."""
        if not len(boxes):
            return
        x_min, y_min, x_max, y_max = boxes.T
        beyond = np.stack([-x_min, -y_min, x_max - widths, y_max - heights]).max(axis=0) > BORDER_TOLERANCE
        outside = (x_max <= 0) | (y_max <= 0) | (x_min >= widths) | (y_min >= heights)
        within_unit = ((boxes >= 0) & (boxes <= 1)).all(axis=1) & (np.maximum(widths, heights) > 1)
        self.num_boxes += len(boxes)
        self.num_beyond += int(beyond.sum())
        self.num_outside += int((beyond & outside).sum())
        self.num_within_unit += int(within_unit.sum())
        self.num_empty += int(((x_max <= x_min) | (y_max <= y_min)).sum())
        self.largest = max(self.largest, float(boxes.max()))

    def list_warnings(self) -> list[str]:
        """Problems of the boxes, each with its count; empty where there are none."""
        warnings = []
        if self.num_beyond:
            hint = ""
            if self.largest <= THOUSANDTHS:
                hint = f" No coordinate is above {THOUSANDTHS}: thousandths of width and height look like this."
            warnings.append(
                f"{self.num_beyond} of {self.num_boxes} boxes extend beyond their image, {self.num_outside} of them "
                "lie outside it. Boxes are x_min, y_min, x_max, y_max in pixels of the upright image, not x, y, "
                f"width, height.{hint}"
            )
        if self.num_within_unit:
            warnings.append(
                f"{self.num_within_unit} of {self.num_boxes} boxes lie within 0..1, less than a pixel: fractions "
                "of width and height look like this. Boxes are in pixels."
            )
        if self.num_empty:
            warnings.append(f"{self.num_empty} of {self.num_boxes} boxes have no area: no point lies inside them.")
        return warnings


def count_boxes(rows: Any) -> BoxCounts:
    """Count the boxes of a data set; its images are not decoded.

    Args:
        rows (`datasets.Dataset` or list of `dict`): rows of the schema. Anything else, such as a stream, is not
            counted: reading it would cost as much as training on it.
    """
    counts = BoxCounts()
    if isinstance(rows, datasets.Dataset) and set(COLUMNS) <= set(rows.column_names):
        for table in rows.select_columns(list(COLUMNS)).with_format("arrow").iter(ROWS_AT_ONCE):
            _add_table(counts, table)
    elif isinstance(rows, list | tuple):
        for row in rows:
            _add_row(counts, row)
    return counts


def warn_about_boxes(rows: Any, name: str) -> None:
    """Log what [`count_boxes`] finds, once per data set.

    Args:
        rows: as for [`count_boxes`].
        name (`str`): name of the data set in the warning.
    """
    for warning in count_boxes(rows).list_warnings():
        logger.warning_once(f"{name}: {warning}")


def _add_table(counts: BoxCounts, table: pa.Table) -> None:
    width, height, phrases = (table[name].combine_chunks() for name in COLUMNS)
    fields = {field.name: index for index, field in enumerate(phrases.type.value_type)}
    if "boxes" not in fields:
        return
    rows = pc.list_parent_indices(phrases).to_numpy()
    boxes = phrases.flatten().flatten()[fields["boxes"]]
    images = rows[pc.list_parent_indices(boxes).to_numpy()]
    corners = boxes.flatten().flatten().to_numpy(zero_copy_only=False).reshape(-1, 4).astype(np.float64)
    widths, heights = (side.to_numpy(zero_copy_only=False).astype(np.float64)[images] for side in (width, height))
    is_stated = np.isfinite(widths) & np.isfinite(heights)
    counts.add(corners[is_stated], widths[is_stated], heights[is_stated])


def _add_row(counts: BoxCounts, row: Mapping[str, Any]) -> None:
    """Count the boxes of a row that states its size; a row of another form is refused where it is used."""
    try:
        width, height = row.get("width"), row.get("height")
        boxes = [box for phrase in row.get("phrases") or () if phrase for box in (phrase.get("boxes") or ())]
        corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        widths, heights = (np.full(len(corners), side, dtype=np.float64) for side in (width, height))
    except (AttributeError, TypeError, ValueError, OverflowError):
        return
    if width is not None and height is not None:
        counts.add(corners, widths, heights)
