# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Pieces of COCO-style records, read with care: boxes, outlines, spans, and a report of what could not be used."""

import math
from collections import Counter
from logging import Logger
from typing import Any

from albef_amc.regions_albef import decode_rle, encode_rle

# Boxes may leave the image by this many pixels before it is reported: coordinates are rounded in the files.
BORDER_TOLERANCE = 0.05
# A polygon is three points or more, as a flat list.
MIN_POLYGON_LENGTH = 6


class ReadingReport:
    """What was repaired or left out, by reason: how often, and where first.

    Example:
        >>> report = ReadingReport()
        >>> report.add("empty box: left out", "record 3")
        >>> report.counts["empty box: left out"], report.first_places["empty box: left out"]
        (1, 'record 3')
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first_places: dict[str, str] = {}

    def add(self, reason: str, place: str) -> None:
        """Counts one occurrence."""
        self.counts[reason] += 1
        self.first_places.setdefault(reason, place)

    def update(self, other: "ReadingReport") -> None:
        """Adds the counts of another report."""
        self.counts.update(other.counts)
        self.first_places = {**other.first_places, **self.first_places}

    def log(self, logger: Logger, source: str) -> None:
        """One warning per reason."""
        for reason, count in sorted(self.counts.items()):
            logger.warning("%s: %d x %s (first: %s)", source, count, reason, self.first_places[reason])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def clean_box(
    box: Any, width: int, height: int, where: str, report: ReadingReport, is_xywh: bool = False
) -> list[float] | None:
    """A box as `x_min, y_min, x_max, y_max` inside the image, or None where it cannot be used.

    A box that reaches over the border is cut there and reported. A reversed or empty box, one outside the image and
    one that is not four finite numbers are left out and reported: none of them says where the object is.

    Args:
        box: as found in the file.
        width, height (`int`): pixels of the image.
        where (`str`): for the report.
        report (`ReadingReport`): receives what was done.
        is_xywh (`bool`, defaults to `False`): whether the file gives x, y, width, height.

    Returns:
        `list[float]` or `None`.

    Example:
        >>> clean_box([10, 10, 5, 50], 64, 48, "record 1", ReadingReport(), is_xywh=True)
        [10.0, 10.0, 15.0, 48.0]
    """
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(_is_number(value) for value in box):
        report.add("box is not four finite numbers: box left out", where)
        return None
    x_min, y_min, x_max, y_max = (float(value) for value in box)
    if is_xywh:
        x_max, y_max = x_min + x_max, y_min + y_max
    corners = (x_min, y_min, x_max, y_max)
    limits = (width, height, width, height)
    clamped = [min(max(value, 0.0), float(limit)) for value, limit in zip(corners, limits, strict=True)]
    problem = _find_box_problem(corners, clamped)
    if problem:
        report.add(problem, where)
        return None
    if max(abs(a - b) for a, b in zip(clamped, corners, strict=True)) > BORDER_TOLERANCE:
        report.add("box reaches over the border: cut there", where)
    return clamped


def _find_box_problem(corners: tuple[float, ...], clamped: list[float]) -> str | None:
    x_min, y_min, x_max, y_max = corners
    if x_max < x_min or y_max < y_min:
        return "reversed box: box left out"
    if x_max == x_min or y_max == y_min:
        return "empty box: box left out"
    if clamped[2] <= clamped[0] or clamped[3] <= clamped[1]:
        return "box outside the image: box left out"
    return None


def read_boxes(boxes: Any, width: int, height: int, where: str, report: ReadingReport) -> list[list[float]] | None:
    """Boxes of a phrase record (`bbox`, a list of x_min, y_min, x_max, y_max); None where it has none.

    A single box that is not wrapped in a list is taken as one box.
    """
    if not boxes:
        return None
    if not isinstance(boxes, list):
        boxes = [boxes]
    elif _is_number(boxes[0]):
        boxes = [boxes]
    return [box for box in (clean_box(box, width, height, where, report) for box in boxes) if box is not None]


def read_proposals(
    annotations: dict[str, dict[str, Any]], categories: dict[str, str], width: int, height: int, report: ReadingReport
) -> list[dict[str, Any]]:
    """Annotated boxes of an image as proposals with score 1 and the category as label."""
    proposals = []
    for annotation_id, annotation in annotations.items():
        box = clean_box(annotation.get("bbox"), width, height, f"annotation {annotation_id}", report, is_xywh=True)
        if box is not None:
            label = categories.get(str(annotation.get("category_id")))
            proposals.append({"box": box, "score": 1.0, "label": label})
    return proposals


def read_region(
    annotation_ids: Any,
    annotations: dict[str, dict[str, Any]],
    width: int,
    height: int,
    where: str,
    report: ReadingReport,
) -> tuple[list[list[float]] | None, list[dict[str, Any]] | None]:
    """Polygons and masks of the annotations a phrase names.

    They are all or nothing: where one annotation is unknown or has no usable outline both are None and the boxes are
    the region, since an outline of a part of the objects would say that the rest is wrong.

    Args:
        annotation_ids: `ann_ids` of the record.
        annotations (`dict`): annotations of the record's image by id.
        width, height (`int`): pixels of the image.
        where (`str`): for the report.
        report (`ReadingReport`): receives what was done.

    Returns:
        `tuple`: flat polygons or None, run-length coded masks or None.
    """
    polygons: list[list[float]] = []
    masks: list[dict[str, Any]] = []
    for annotation_id in annotation_ids if isinstance(annotation_ids, list) else []:
        annotation = annotations.get(str(annotation_id))
        if annotation is None:
            report.add("annotation not among those of the image: outlines left out", where)
            return None, None
        outline = annotation.get("segmentation")
        parts: Any = [outline] if isinstance(outline, dict) else outline
        codes = [_read_mask(part, width, height) for part in parts] if _is_list_of(parts, dict) else []
        if codes and all(codes):
            masks.extend(codes)
        elif _is_list_of(parts, list) and all(_is_polygon(polygon) for polygon in parts):
            polygons.extend(parts)
        else:
            report.add("annotation without a usable outline: outlines left out", where)
            return None, None
    return polygons or None, masks or None


def _is_list_of(parts: Any, kind: type) -> bool:
    return isinstance(parts, list) and bool(parts) and all(isinstance(part, kind) for part in parts)


def _is_polygon(polygon: Any) -> bool:
    return (
        isinstance(polygon, list)
        and len(polygon) >= MIN_POLYGON_LENGTH
        and len(polygon) % 2 == 0
        and all(_is_number(value) for value in polygon)
    )


def _read_mask(outline: dict[str, Any], width: int, height: int) -> dict[str, Any] | None:
    """Run lengths, compressed or not, as compressed ones; None where they are damaged or of another size."""
    try:
        mask = decode_rle(outline, (height, width))
    except ValueError:
        return None
    return encode_rle(mask) if mask.any() else None


def read_spans(record: dict[str, Any], where: str, report: ReadingReport) -> list[list[int]] | None:
    """Character offsets of the phrase in its caption; None where there are none or they do not spell the phrase."""
    span, caption = record.get("span"), record.get("caption")
    if span is None:
        return None
    is_pair = isinstance(span, list) and len(span) == 2 and all(type(value) is int for value in span)
    if not isinstance(caption, str) or not is_pair or not 0 <= span[0] < span[1] <= len(caption):
        report.add("span is not inside the caption: span left out", where)
        return None
    if caption[span[0] : span[1]].lower().split() != record["phrase"].lower().split():
        report.add("span does not spell the phrase: span left out", where)
        return None
    return [span]
