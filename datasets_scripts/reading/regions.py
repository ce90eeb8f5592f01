# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Regions of annotation files: boxes, polygons, masks and spans, checked one by one; problems go to the report."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from albef_amc.datasets_scripts.features import INCOMPLETE_BOXES, INCOMPLETE_OUTLINES
from albef_amc.datasets_scripts.reading.image_files import StoredImage
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.row_checks import BORDER_TOLERANCE
from albef_amc.regions_albef import MAX_COORDINATE, MAX_POLYGON_CORNERS, check_outline_counts, decode_rle, encode_rle

# Three points, as a flat list.
MIN_POLYGON_LENGTH = 6
FLOAT32_MAX = float(np.finfo(np.float32).max)
MAX_ID = 2**63 - 1


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that float32, the type of the rows, can hold.

    Example:
        >>> is_number(3), is_number(10**400), is_number(float("nan")), is_number(True), is_number("3")
        (True, False, False, False, False)
    """
    # Python compares integers of any length with a float exactly; NaN is not below anything.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= FLOAT32_MAX


def is_id_number(value: Any) -> bool:
    """Whether a value is a 64-bit integer, as ids of published data sets are.

    Example:
        >>> is_id_number(7), is_id_number(10**400), is_id_number(7.0), is_id_number(True)
        (True, False, False, False)
    """
    return type(value) is int and abs(value) <= MAX_ID


def clean_box(
    box: Any, width: int, height: int, where: str, report: ReadingReport, is_xywh: bool = False
) -> list[float] | None:
    """Return a box as `x_min, y_min, x_max, y_max` inside the image, or `None` where it cannot be used.

    A box that extends beyond the image is clipped and reported. One within 0..1, as fractions of width and height are,
    is kept and reported: boxes are in pixels. A reversed or empty box, one outside the image and one that is not four
    finite numbers are dropped and reported: none of them states where the object is.

    Args:
        box: as found in the file.
        width, height (`int`): pixels of the image.
        where (`str`): place, for the report.
        report (`ReadingReport`): collects problems.
        is_xywh (`bool`, defaults to `False`): whether the file gives x, y, width, height.

    Example:
        >>> clean_box([10, 10, 5, 50], 64, 48, "record 1", ReadingReport(), is_xywh=True)
        [10.0, 10.0, 15.0, 48.0]
    """
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(is_number(value) for value in box):
        report.add("box is not four finite numbers: box dropped", where)
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
    if all(0 <= value <= 1 for value in box) and max(width, height) > 1:
        report.add("box within 0..1, less than a pixel, perhaps fractions of the sides: box kept as pixels", where)
    if max(abs(a - b) for a, b in zip(clamped, corners, strict=True)) > BORDER_TOLERANCE:
        report.add("box extends beyond the image: box clipped", where)
    return clamped


def _find_box_problem(corners: tuple[float, ...], clamped: list[float]) -> str | None:
    x_min, y_min, x_max, y_max = corners
    if x_max < x_min or y_max < y_min:
        return "reversed box: box dropped"
    if x_max == x_min or y_max == y_min:
        return "empty box: box dropped"
    if clamped[2] <= clamped[0] or clamped[3] <= clamped[1]:
        return "box outside the image: box dropped"
    return None


def keep_usable(parts: Iterable[Any], read: Callable[[Any], Any]) -> tuple[list[Any], bool]:
    """Keep the usable parts of a region, and return whether only some of them were lost.

    One rule for boxes, outlines and masks: damaged parts are dropped one by one, the others stay, and a phrase that
    lost a part is marked ([`mark_incomplete`]).

    Args:
        parts (iterable): as found in the file.
        read (callable): from a part to its usable form; `None` where it cannot be used.

    Returns:
        `tuple[list, bool]`: usable parts in their order, and whether the region is incomplete.

    Example:
        >>> keep_usable([4, -1], lambda part: part if part > 0 else None)
        ([4], True)
    """
    found = [read(part) for part in parts]
    kept = [part for part in found if part is not None]
    return kept, 0 < len(kept) < len(found)


def has_too_many_outlines(outlines: Iterable[Any], width: int, height: int, where: str, report: ReadingReport) -> bool:
    """Whether a phrase has more polygons or masks (mappings) than a region may have (reported)."""
    kinds = Counter(isinstance(outline, dict) for outline in outlines)
    try:
        check_outline_counts(kinds[False], kinds[True], height, width)
    except ValueError as error:
        report.add("more outlines than a phrase may have: outlines dropped", f"{where} ({error})")
        return True
    return False


def mark_incomplete(types: list[str] | None, boxes: bool, outlines: bool = False) -> list[str] | None:
    """Add to the types of a phrase a mark for each kind of region that lost a part.

    Args:
        types (`list[str]`, *optional*): types of the phrase.
        boxes (`bool`): whether its boxes are incomplete.
        outlines (`bool`, defaults to `False`): whether its polygons and masks, together, are incomplete.

    Returns:
        `list[str]` or `None`: the types, then `INCOMPLETE_BOXES` and `INCOMPLETE_OUTLINES` where they apply.

    Example:
        >>> mark_incomplete(["category"], boxes=True)
        ['category', 'incomplete_boxes']
    """
    marks = [*([INCOMPLETE_BOXES] if boxes else []), *([INCOMPLETE_OUTLINES] if outlines else [])]
    return [*(types or ()), *marks] if marks else types


def read_boxes(
    boxes: Any, width: int, height: int, where: str, report: ReadingReport
) -> tuple[list[list[float]] | None, bool]:
    """Read the boxes of a phrase record (`bbox`, a list of x_min, y_min, x_max, y_max).

    Returns:
        `tuple`: boxes, or None where the record has none, and whether they are incomplete. A single box that is not
        wrapped in a list counts as one box.
    """
    if boxes is None or boxes == []:
        return None, False
    if not isinstance(boxes, list) or is_number(boxes[0]):
        boxes = [boxes]
    return keep_usable(boxes, lambda box: clean_box(box, width, height, where, report))


def read_proposals(
    annotations: dict[str, dict[str, Any]], categories: dict[str, str], width: int, height: int, report: ReadingReport
) -> list[dict[str, Any]]:
    """Read the annotated boxes of an image as proposals with score 1 and the category as label."""
    proposals = []
    for annotation_id, annotation in annotations.items():
        box = clean_box(annotation.get("bbox"), width, height, f"annotation {annotation_id}", report, is_xywh=True)
        if box is not None:
            label = read_category(annotation, categories, f"annotation {annotation_id}", report)
            proposals.append({"box": box, "score": 1.0, "label": label})
    return proposals


def read_category(
    annotation: dict[str, Any], categories: dict[str, Any], where: str, report: ReadingReport
) -> str | None:
    """Name of the category of an annotation; `None` (reported) where it has none."""
    name = categories.get(str(annotation.get("category_id")))
    if isinstance(name, str) and name:
        return name
    report.add("category unknown or without a name: category dropped", where)
    return None


def read_region(
    annotation_ids: Any,
    annotations: dict[str, dict[str, Any]],
    width: int,
    height: int,
    where: str,
    report: ReadingReport,
) -> tuple[list[list[float]] | None, list[dict[str, Any]] | None, bool]:
    """Read the polygons and masks of the annotations that a phrase names.

    Args:
        annotation_ids: `ann_ids` of the record.
        annotations (`dict`): annotations of the record's image by id.
        width, height (`int`): pixels of the image.
        where (`str`): place, for the report.
        report (`ReadingReport`): collects problems.

    Returns:
        `tuple`: flat polygons or None, run-length coded masks or None, and whether they are incomplete: an annotation
        is unknown or has no usable outline, or one of its outlines is damaged, while others are usable.
    """
    groups: list[list[Any]] = []
    outlines: list[Any] = []
    is_lost = False
    for annotation_id in annotation_ids if isinstance(annotation_ids, list) else []:
        annotation = annotations.get(str(annotation_id))
        if annotation is None:
            report.add("annotation not among those of the image: outlines dropped", where)
            is_lost = True
            continue
        parts = annotation.get("segmentation")
        groups.append(parts if isinstance(parts, list) else [parts])
    if has_too_many_outlines((part for parts in groups for part in parts), width, height, where, report):
        return None, None, False
    for parts in groups:
        kept, is_incomplete = keep_usable(parts, lambda part: _read_outline(part, width, height))
        outlines += kept
        if not kept:
            report.add("annotation without a usable outline: outlines dropped", where)
        elif is_incomplete:
            report.add("annotation with a damaged outline among good ones: outline dropped", where)
        is_lost |= is_incomplete or not kept
    polygons = [outline for outline in outlines if isinstance(outline, list)]
    masks = [outline for outline in outlines if isinstance(outline, dict)]
    return polygons or None, masks or None, bool(outlines) and is_lost


def read_object_region(
    annotation: dict[str, Any], stored: StoredImage, where: str, report: ReadingReport
) -> tuple[dict[str, Any], bool]:
    """Read box (`bbox`) and outlines (`segmentation`) of one annotated object in COCO's format.

    Returns:
        `tuple`: fields `boxes`, `polygons` and `masks` of a phrase in the upright image, empty where the box cannot be
        used, and whether the outlines are incomplete.
    """
    box = clean_box(annotation.get("bbox"), stored.width, stored.height, where, report, is_xywh=True)
    if box is None:
        return {}, False
    polygons, masks, is_incomplete = read_region([0], {"0": annotation}, stored.width, stored.height, where, report)
    region = {
        "boxes": [stored.turn_box(box)],
        "polygons": polygons and [stored.turn_polygon(polygon) for polygon in polygons],
        "masks": masks and [stored.turn_mask(mask) for mask in masks],
    }
    return region, is_incomplete


def _read_outline(outline: Any, width: int, height: int) -> list[float] | dict[str, Any] | None:
    """A flat polygon, or a mask as compressed run lengths; `None` where it is damaged or outside the image."""
    if isinstance(outline, dict):
        return _read_mask(outline, width, height)
    return outline if is_polygon(outline) and reaches_image(outline, width, height) else None


def reaches_image(polygon: list[float], width: int, height: int) -> bool:
    """Whether the bounding box of a polygon overlaps the image.

    Example:
        >>> reaches_image([-5, 0, 5, 0, 5, 9], 64, 48), reaches_image([70, 0, 90, 0, 90, 9], 64, 48)
        (True, False)
    """
    x, y = polygon[::2], polygon[1::2]
    return min(x) < width and max(x) > 0 and min(y) < height and max(y) > 0


def is_polygon(polygon: Any) -> bool:
    """Whether a value is a flat list x, y, x, y, ... of three points or more that a row can hold."""
    return (
        isinstance(polygon, list)
        and MIN_POLYGON_LENGTH <= len(polygon) <= 2 * MAX_POLYGON_CORNERS
        and len(polygon) % 2 == 0
        and all(is_number(value) and abs(value) <= MAX_COORDINATE for value in polygon)
    )


def _read_mask(outline: dict[str, Any], width: int, height: int) -> dict[str, Any] | None:
    """Run lengths, compressed or not, in compressed form; `None` where they are damaged or of another size."""
    try:
        mask = decode_rle(outline, (height, width))
    except ValueError:
        return None
    return encode_rle(mask) if mask.any() else None


def read_spans(record: dict[str, Any], where: str, report: ReadingReport) -> list[list[int]] | None:
    """Character offsets of the phrase in its caption; `None` where there are none or they do not spell the phrase."""
    span, caption = record.get("span"), record.get("caption")
    if span is None:
        return None
    is_pair = isinstance(span, list) and len(span) == 2 and all(type(value) is int for value in span)
    if not isinstance(caption, str) or not is_pair or not 0 <= span[0] < span[1] <= len(caption):
        report.add("span is not inside the caption: span dropped", where)
        return None
    if caption[span[0] : span[1]].lower().split() != record["phrase"].lower().split():
        report.add("span does not spell the phrase: span dropped", where)
        return None
    return [span]
