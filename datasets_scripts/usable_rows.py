# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Usable texts of a row: every builder keeps those that the processor accepts, and reports the others."""

from collections.abc import Callable
from typing import Any

from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.task_features import find_task_schema
from albef_amc.text_processing_albef import find_broken_character, find_text_problem

BROKEN_FIELD = "field with broken characters: field dropped"
OTHER_FIELD = "field is not text: field dropped"
BROKEN_PARAPHRASE = "paraphrase without words or with broken characters: paraphrase dropped"


def keep_usable_texts(row: dict[str, Any], report: ReadingReport) -> dict[str, Any] | None:
    """Drop the texts that the processor refuses; `None` (reported) where none remains.

    Args:
        row (`dict`): a row of one of the schemas.
        report (`ReadingReport`): collects what is dropped.

    Example:
        >>> from albef_amc.datasets_scripts import ReadingReport, build_phrase, build_row
        >>> report = ReadingReport()
        >>> row = build_row(None, "photo_1", 64, 48, [build_phrase(0, "..."), build_phrase(1, "a dog")])
        >>> [entry["phrase"] for entry in keep_usable_texts(row, report)["phrases"]]
        ['a dog']
        >>> report.first_places
        {'phrase without words or with broken characters: phrase skipped': 'image photo_1, phrase 0'}
    """
    schema = find_task_schema(row)
    texts, text = ("phrases", "phrase") if schema is None else (schema.texts, schema.text)
    image_ids = row.get("image_ids") or [row.get("image_id")]
    place = f"image {', '.join(map(str, image_ids))}"
    if any(find_broken_character(str(image_id)) for image_id in image_ids):
        report.add("image id with broken characters: image skipped", place)
        return None
    entries = []
    for entry in row[texts] or ():
        where = f"{place}, {text} {entry[f'{text}_id']}"
        if find_text_problem(entry[text]) or find_broken_character(str(entry[f"{text}_id"])):
            report.add(f"{text} without words or with broken characters: {text} skipped", where)
        else:
            entries.append(_keep_usable_fields(entry, where, report) if schema is None else entry)
    if not entries:
        report.add(f"image without a usable {text}: image skipped", place)
        return None
    if not row.get("proposals"):
        return {**row, texts: entries}
    return {**row, texts: entries, "proposals": [_keep_label(entry, place, report) for entry in row["proposals"]]}


def _keep_usable_fields(phrase: dict[str, Any], where: str, report: ReadingReport) -> dict[str, Any]:
    """Drop paraphrases that the processor refuses, and fields that cannot be stored."""
    kept = dict(phrase)
    caption = phrase.get("caption")
    if caption is not None and (problem := _find_field_problem(caption)):
        report.add(problem, f"{where}, caption")
        kept |= {"caption": None, "spans": None}
    types = _filter(phrase.get("types"), _is_not_text, OTHER_FIELD, f"{where}, types", report)
    kept["types"] = _filter(types, find_broken_character, BROKEN_FIELD, f"{where}, types", report)
    kept["paraphrases"] = _filter(phrase.get("paraphrases"), find_text_problem, BROKEN_PARAPHRASE, where, report)
    return kept


def _filter(
    values: list[str] | None, find_problem: Callable[[Any], Any], reason: str, where: str, report: ReadingReport
) -> list[str] | None:
    kept = [value for value in values or () if not find_problem(value)]
    if len(kept) == len(values or ()):
        return values
    report.add(reason, where)
    return kept or None


def _keep_label(proposal: dict[str, Any], where: str, report: ReadingReport) -> dict[str, Any]:
    label = proposal.get("label")
    problem = None if label is None else _find_field_problem(label)
    if problem is None:
        return proposal
    report.add(problem, f"{where}, label of a proposal")
    return {**proposal, "label": None}


def _find_field_problem(value: Any) -> str | None:
    """Reason why a field cannot be stored as text; `None` where it can."""
    if _is_not_text(value):
        return OTHER_FIELD
    return BROKEN_FIELD if find_broken_character(value) else None


def _is_not_text(value: Any) -> bool:
    return not isinstance(value, str)
