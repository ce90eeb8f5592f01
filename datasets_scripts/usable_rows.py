# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Texts of a row that training and evaluation can use: what every builder keeps, decided by the processor's rule."""

from collections.abc import Callable
from typing import Any

from albef_amc.text_processing_albef import find_broken_character, find_text_problem

from .coco_records import ReadingReport
from .task_features import find_task_schema

BROKEN_FIELD = "field with broken characters: left out"


def keep_usable_texts(row: dict[str, Any], report: ReadingReport) -> dict[str, Any] | None:
    """The row without the texts that no run can use, or `None` (reported) where none is left.

    Args:
        row (`dict`): a row of one of the schemas.
        report (`ReadingReport`): receives what was left out.

    Example:
        >>> from albef_amc.datasets_scripts import ReadingReport, build_phrase, build_row
        >>> report = ReadingReport()
        >>> row = build_row(None, "photo_1", 64, 48, [build_phrase(0, "..."), build_phrase(1, "a dog")])
        >>> [entry["phrase"] for entry in keep_usable_texts(row, report)["phrases"]]
        ['a dog']
        >>> report.first_places
        {'phrase without words or with broken characters: left out': 'image photo_1, phrase 0'}
    """
    schema = find_task_schema(row)
    texts, text = ("phrases", "phrase") if schema is None else (schema.texts, schema.text)
    image_ids = row.get("image_ids") or [row.get("image_id")]
    place = f"image {', '.join(map(str, image_ids))}"
    if any(find_broken_character(str(image_id)) for image_id in image_ids):
        report.add("image id with broken characters: image left out", place)
        return None
    entries = []
    for entry in row[texts] or ():
        where = f"{place}, {text} {entry[f'{text}_id']}"
        if find_text_problem(entry[text]) or find_broken_character(str(entry[f"{text}_id"])):
            report.add(f"{text} without words or with broken characters: left out", where)
        else:
            entries.append(_keep_usable_fields(entry, where, report) if schema is None else entry)
    if not entries:
        report.add(f"image without a usable {text}: left out", place)
        return None
    if not row.get("proposals"):
        return {**row, texts: entries}
    return {**row, texts: entries, "proposals": [_keep_label(entry, place, report) for entry in row["proposals"]]}


def _keep_usable_fields(phrase: dict[str, Any], where: str, report: ReadingReport) -> dict[str, Any]:
    """A phrase without paraphrases that no run can use, and without fields that cannot be stored."""
    kept = dict(phrase)
    caption = phrase.get("caption")
    if caption is not None and find_broken_character(caption):
        report.add(BROKEN_FIELD, f"{where}, caption")
        kept |= {"caption": None, "spans": None}
    kept["types"] = _filter(phrase.get("types"), find_broken_character, BROKEN_FIELD, f"{where}, types", report)
    reason = "paraphrase without words or with broken characters: left out"
    kept["paraphrases"] = _filter(phrase.get("paraphrases"), find_text_problem, reason, where, report)
    return kept


def _filter(
    values: list[str] | None,
    find_problem: Callable[[str], str | None],
    reason: str,
    where: str,
    report: ReadingReport,
) -> list[str] | None:
    kept = [value for value in values or () if not find_problem(value)]
    if len(kept) == len(values or ()):
        return values
    report.add(reason, where)
    return kept or None


def _keep_label(proposal: dict[str, Any], where: str, report: ReadingReport) -> dict[str, Any]:
    if proposal.get("label") is None or not find_broken_character(proposal["label"]):
        return proposal
    report.add(BROKEN_FIELD, f"{where}, label of a proposal")
    return {**proposal, "label": None}
