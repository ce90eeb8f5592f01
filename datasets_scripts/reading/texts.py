# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Texts of annotation files: whether they have words, answers of annotators, and the list of candidate answers."""

from collections.abc import Sequence
from pathlib import Path

from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.text_files_albef import load_json
from albef_amc.text_processing_albef import find_broken_character


def has_words(text: str) -> bool:
    """Whether a text is not blank and can be stored."""
    return bool(text.strip()) and not find_broken_character(text)


def keep_answers(answers: Sequence[str], place: str, report: ReadingReport) -> list[str]:
    """Prepare the answers of a question's annotators for storage.

    Args:
        answers (sequence of `str`): one per annotator.
        place (`str`): place of the question, for the report.
        report (`ReadingReport`): collects problems.

    Returns:
        `list[str]`: one per annotator, those with broken characters empty; an empty list where none has words.
    """
    kept = ["" if find_broken_character(answer) else answer for answer in answers]
    usable = [has_words(answer) for answer in kept]
    if not any(usable):
        report.add("no answer with words: question skipped", place)
        return []
    if not all(usable):
        report.add("answer without words or with broken characters: not a training target", place)
    return kept


def read_answer_list(path: str | Path) -> list[str]:
    """Read the candidates among which answers are ranked, as in ALBEF's `answer_list.json`.

    Args:
        path (`str` or `Path`): JSON file with a list of texts.

    Returns:
        `list[str]`: the answers, as written and in their order.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a list of texts, or an answer that is empty or repeated.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No `{path.name}` in {path.parent}. It is part of ALBEF's download of lists.")
    answers = load_json(path)
    if not isinstance(answers, list) or not answers:
        raise ValueError(f"{path} must hold a list of answers, got {answers!r:.80}.")
    first: dict[str, int] = {}
    for number, answer in enumerate(answers):
        if not isinstance(answer, str) or not has_words(answer):
            raise ValueError(f"{path}: answer {number} must be a text with words, got {answer!r:.80}. Remove it.")
        if answer in first:
            raise ValueError(f"{path}: answer {number} repeats answer {first[answer]} ({answer!r:.80}). Remove it.")
        first[answer] = number
    return answers
