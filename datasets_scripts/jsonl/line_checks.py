# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Checks of a line of JSON Lines before its image is opened; errors name file and line."""

from collections.abc import Callable, Iterable
from typing import Any

from albef_amc.datasets_scripts.features import (
    GROUNDING_FEATURES,
    OPTIONAL_COLUMNS,
    PHRASE_FEATURES,
    PROPOSAL_FEATURES,
)
from albef_amc.datasets_scripts.reading.regions import is_number, is_polygon
from albef_amc.datasets_scripts.reading.texts import has_words
from albef_amc.datasets_scripts.true_phrases import list_true_phrases, refuse_contradictions
from albef_amc.text_processing_albef import find_text_problem

XYXY, XYWH, NORMALIZED = "xyxy", "xywh", "normalized_xyxy"
BOX_FORMATS = (XYXY, XYWH, NORMALIZED)


def check_line(row: Any, box_format: str, where: str) -> None:
    """Refuse a line that is not a row.

    Args:
        row: JSON value of the line.
        box_format (`str`): one of `BOX_FORMATS`.
        where (`str`): file and line, for messages.

    Raises:
        ValueError: a field is missing, unknown or of another type, boxes are of another format than `box_format`, or
            a text is both true and false of the image.
    """
    _check_names(row, GROUNDING_FEATURES, ("image", "phrases"), where)
    _require(is_text(row["image"]), "image", "a path relative to the file", row["image"], where)
    for name in ("width", "height"):
        is_size = row.get(name) is None or (type(row[name]) is int and row[name] > 0)
        _require(is_size, name, "a whole number of pixels", row.get(name), where)
    _require(row.get("image_id") is None or is_id(row["image_id"]), "image_id", "a text", row.get("image_id"), where)
    _require(_is_list(row["phrases"], dict) and row["phrases"], "phrases", "a list of objects", row["phrases"], where)
    for name in OPTIONAL_COLUMNS:
        texts = row.get(name)
        is_right = texts is None or _are_all(texts, lambda text: find_text_problem(text) is None)
        _require(is_right, name, "a list of texts with words", texts, where)
    boxes = []
    for number, phrase in enumerate(row["phrases"]):
        boxes += _check_phrase(phrase, f"{where}, phrase {number}")
    proposals = row.get("proposals")
    _require(proposals is None or _is_list(proposals, dict), "proposals", "a list of objects", proposals, where)
    for proposal in proposals or []:
        _check_names(proposal, PROPOSAL_FEATURES, ("box",), f"{where}, proposals")
        _require(_is_numbers(proposal["box"], 4), "box", "four finite numbers", proposal["box"], where)
        score, label = proposal.get("score"), proposal.get("label")
        _require(score is None or _is_numbers([score]), "score", "a number", score, where)
        _require(label is None or is_text(label), "label", "a text", label, where)
        boxes.append(proposal["box"])
    _check_box_format(boxes, box_format, where)
    refuse_contradictions(row.get("false_phrases") or (), list_true_phrases(row), where)


def _check_phrase(phrase: dict[str, Any], where: str) -> list[list[float]]:
    """Refuse an invalid phrase; returns its boxes."""
    _check_names(phrase, PHRASE_FEATURES, ("phrase",), where)
    _require(is_text(phrase["phrase"]), "phrase", "a text with words", phrase["phrase"], where)
    kinds: dict[str, tuple[Callable[[Any], bool], str]] = {
        "phrase_id": (is_id, "a text"),
        "boxes": (lambda value: _are_all(value, lambda box: _is_numbers(box, 4)), "lists of four finite numbers"),
        "points": (lambda value: _are_all(value, lambda point: _is_numbers(point, 2)), "a list of pairs x, y"),
        "polygons": (_are_polygons, "flat lists x, y, x, y, ... in pixels, of three points or more"),
        "masks": (lambda value: _is_list(value, dict), "a list of COCO run lengths"),
        "types": (lambda value: _are_all(value, is_text), "a list of texts"),
        "paraphrases": (lambda value: _are_all(value, is_text), "a list of texts"),
        "caption": (is_text, "a text"),
        "spans": (lambda value: _are_spans(value, phrase.get("caption")), "pairs [start, end) inside `caption`"),
    }
    for name, (is_right, expected) in kinds.items():
        value = phrase.get(name)
        _require(value is None or is_right(value), name, expected, value, where)
    return phrase.get("boxes") or []


def _check_box_format(boxes: list[list[float]], box_format: str, where: str) -> None:
    """Refuse boxes that cannot have the stated format. Another format is never guessed."""
    for box in boxes:
        problem = None
        if box_format != XYWH and (box[2] < box[0] or box[3] < box[1]):
            problem = f"ends before it begins, so it is not `{box_format}`"
        elif box_format == NORMALIZED and not all(0 <= value <= 1 for value in box):
            problem = "is not within [0, 1]"
        elif box_format == XYWH and min(box[2:]) < 0:
            problem = "has a negative width or height"
        if problem:
            raise ValueError(f"{where}: box {box} {problem}. Correct it, or pass the right one of {BOX_FORMATS}.")
    values = [value for box in boxes for value in box]
    if boxes and box_format != NORMALIZED and all(0 <= value <= 1 for value in values):
        raise ValueError(
            f"{where}: all boxes lie within [0, 1], less than a pixel; `{box_format}` is in pixels. Pass "
            f"`box_format={NORMALIZED!r}` if they are fractions of width and height."
        )


def is_text(value: Any) -> bool:
    """Whether a value is a text with words that can be stored."""
    return isinstance(value, str) and has_words(value)


def is_id(value: Any) -> bool:
    """Whether a value can be an id: a text or a whole number."""
    return type(value) is int or is_text(value)


def _require(is_right: Any, name: str, expected: str, found: Any, where: str) -> None:
    if not is_right:
        raise ValueError(f"{where}: `{name}` must be {expected}, got {found!r:.80}.")


def _check_names(entry: Any, known: Iterable[str], needed: tuple[str, ...], where: str) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: an object in braces is expected, got {entry!r:.80}.")
    missing = [name for name in needed if entry.get(name) is None]
    if missing:
        raise ValueError(f"{where} has no `{missing[0]}`. An object with {', '.join(needed)} is expected.")
    unknown = sorted(set(entry) - set(known))
    if unknown:
        raise ValueError(f"{where} has an unknown field `{unknown[0]}`. Fields: {', '.join(known)}.")


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(entry, kind) for entry in value)


def _are_all(value: Any, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(is_right, value))


def _is_numbers(value: Any, count: int | None = None) -> bool:
    return isinstance(value, list) and len(value) == (count or len(value)) and all(map(is_number, value))


def _are_polygons(value: Any) -> bool:
    """Whether a region has a polygon; points and lines among the polygons are allowed, and dropped later."""
    if not _are_all(value, lambda polygon: is_polygon(polygon) or _is_numbers(polygon, 4) or _is_numbers(polygon, 2)):
        return False
    return not value or any(map(is_polygon, value))


def _are_spans(value: Any, caption: Any) -> bool:
    return isinstance(caption, str) and _are_all(
        value,
        lambda span: (
            _is_numbers(span, 2)
            and all(type(offset) is int for offset in span)
            and 0 <= span[0] < span[1] <= len(caption)
        ),
    )
