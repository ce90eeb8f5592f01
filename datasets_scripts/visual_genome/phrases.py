# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Phrases of Visual Genome's records: regions, objects, attributes, relationships, and the wording of positions."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.texts import has_words
from albef_amc.text_processing_albef import find_text_problem

FIRST_THIRD = 1 / 3
LAST_THIRD = 2 / 3
# Keys of an object's names: current release, relationships, attributes of release 1.0.
NAME_KEYS = ("names", "name", "object_names")
# Part of speech and number of the sense: ".n.01".
SYNSET_ENDING = re.compile(r"\.[a-z]\.\d+$")


class PhraseRecord(NamedTuple):
    """A phrase before its image is read.

    Args:
        suffix (`str`): suffix of `phrase_id` after the id of the record.
        phrase (`str`): its text.
        box: x, y, width, height as found in the file.
        types (`list[str]`, *optional*): categories of the phrase.
        paraphrases (`list[str]`, *optional*): other wordings.
        true_phrases (`list[str]`, *optional*): names and synset names of the objects that the record is about.
    """

    suffix: str
    phrase: str
    box: Any
    types: list[str] | None = None
    paraphrases: list[str] | None = None
    true_phrases: list[str] | None = None


# Maps a record, its place in messages and a report to the phrases of the record.
PhraseReader = Callable[[dict[str, Any], str, ReadingReport], Iterator[PhraseRecord]]


@dataclass(frozen=True)
class AnnotationKind:
    """A kind of annotation and its file.

    Args:
        file_name (`str`): name of the file.
        list_name (`str`): key of the records in an entry.
        id_names (`tuple[str, ...]`): keys of a record's id, that of release 1.0 last.
        read_phrases (callable): maps a record to its phrases.
    """

    file_name: str
    list_name: str
    id_names: tuple[str, ...]
    read_phrases: PhraseReader


def _read_region(record: dict[str, Any], where: str, report: ReadingReport) -> Iterator[PhraseRecord]:
    phrase = _read_field(record, "phrase", where, report)
    if phrase:
        yield PhraseRecord("", phrase, [record.get(name) for name in ("x", "y", "width", "height")])


def _read_object(record: dict[str, Any], where: str, report: ReadingReport) -> Iterator[PhraseRecord]:
    names = _read_names(record, where, report)
    if names:
        synsets = _read_texts(record.get("synsets"), "synsets", where, report)
        known = _name_synsets(synsets) or None
        yield PhraseRecord("", names[0], _read_box(record), synsets or None, names[1:] or None, known)


def _read_attributes(record: dict[str, Any], where: str, report: ReadingReport) -> Iterator[PhraseRecord]:
    """One phrase per attribute, "{attribute} {name}"; attributes that differ in case only count once."""
    names = _read_names(record, where, report)
    if record.get("attributes") is None:
        report.add("object without attributes: no phrase", where)
    known: list[str] | None = [*names, *_name_synsets(record.get("synsets"))]
    seen = set()
    for number, attribute in enumerate(_read_texts(record.get("attributes"), "attributes", where, report)):
        words = _read_words(attribute, f"{where} attribute {number}", report)
        if words and words.lower() in seen:
            report.add("attribute repeats one of its object: attribute skipped", f"{where} attribute {number}")
        elif words and names:
            yield PhraseRecord(f"#{number}", f"{words} {names[0]}", _read_box(record), true_phrases=known)
            known = None  # once per object
        seen.add(words and words.lower())


def _read_relationship(record: dict[str, Any], where: str, report: ReadingReport) -> Iterator[PhraseRecord]:
    """ "{subject} {predicate} {object}" with the box of the subject."""
    ends = [record.get("subject"), record.get("object")]
    if not {"subject", "object"} <= record.keys() or not all(end is None or isinstance(end, dict) for end in ends):
        raise ValueError(f"{where} has no `subject` and `object` in braces.")
    if None in ends:
        report.add("relationship without subject or object: relationship skipped", where)
        return
    predicate = _read_field(record, "predicate", where, report)
    subject, other = (_read_names(end, where, report) for end in ends)
    if predicate and subject and other:
        known = [*subject, *other, *(name for end in ends for name in _name_synsets(end.get("synsets")))]
        words = f"{subject[0]} {predicate.lower()} {other[0]}"
        yield PhraseRecord("", words, _read_box(ends[0]), true_phrases=known)


def _read_box(record: dict[str, Any]) -> list[Any]:
    return [record.get(name) for name in ("x", "y", "w", "h")]


def _read_names(record: dict[str, Any], where: str, report: ReadingReport) -> list[str]:
    """Usable names of an object: a list `names` (`object_names` in attributes of release 1.0), or a text `name`."""
    names = next((record[key] for key in NAME_KEYS if record.get(key) is not None), None)
    names = _read_texts([names] if isinstance(names, str) else names, "names", where, report)
    usable = [name.strip() for name in names if has_words(name)]
    if not usable:
        report.add("object without a name: object skipped", where)
    return usable


def _name_synsets(synsets: Any) -> list[str]:
    """Words of those synsets of WordNet that are texts: "street light" of "street_light.n.01"."""
    texts = [synset for synset in synsets if isinstance(synset, str)] if isinstance(synsets, list) else []
    words = [SYNSET_ENDING.sub("", text).replace("_", " ").strip() for text in texts]
    return [text for text in words if find_text_problem(text) is None]


def _read_texts(value: Any, name: str, where: str, report: ReadingReport) -> list[str]:
    """A list of texts; null or a missing list becomes an empty one, null among the texts is dropped."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(text is None or isinstance(text, str) for text in value):
        raise ValueError(f"{where}: `{name}` must be a list of texts, got {value!r:.80}.")
    if None in value:
        report.add("null in a list of texts: null dropped", where)
    return [text for text in value if text is not None]


def _read_field(record: dict[str, Any], name: str, where: str, report: ReadingReport) -> str | None:
    """Words of a field that every record of its kind has, possibly null."""
    if name not in record:
        raise ValueError(f"{where}: a text is expected for `{name}`, which is missing.")
    return _read_words(record[name], where, report)


def _read_words(text: Any, where: str, report: ReadingReport) -> str | None:
    text = "" if text is None else text
    if not isinstance(text, str):
        raise ValueError(f"{where}: a text is expected for the words, got {text!r:.80}.")
    if not has_words(text):
        report.add("phrase without words or with broken characters: phrase skipped", where)
        return None
    return text.strip()


def describe_position(box: list[float], width: int, height: int) -> str:
    """Describe the position of a box's centre, by thirds of the image.

    Args:
        box (`list[float]`): x_min, y_min, x_max, y_max.
        width, height (`int`): size of the upright image, in the same unit.

    Returns:
        `str`: "on the left", "on the right", "at the top", "at the bottom", "at the top left", ..., "in the middle".

    Example:
        >>> describe_position([0, 40, 20, 60], 100, 100), describe_position([80, 80, 99, 99], 100, 100)
        ('on the left', 'at the bottom right')
    """
    across, down = (box[0] + box[2]) / 2 / width, (box[1] + box[3]) / 2 / height
    side = "left" if across < FIRST_THIRD else "right" if across > LAST_THIRD else ""
    level = "top" if down < FIRST_THIRD else "bottom" if down > LAST_THIRD else ""
    if level:
        return f"at the {level} {side}".rstrip()
    return f"on the {side}" if side else "in the middle"


SPATIAL = "attributes_spatial"
ANNOTATION_KINDS = {
    "regions": AnnotationKind("region_descriptions.json", "regions", ("region_id", "id"), _read_region),
    "objects": AnnotationKind("objects.json", "objects", ("object_id", "id"), _read_object),
    "attributes": AnnotationKind("attributes.json", "attributes", ("object_id", "id"), _read_attributes),
    SPATIAL: AnnotationKind("attributes.json", "attributes", ("object_id", "id"), _read_attributes),
    "relationships": AnnotationKind(
        "relationships.json", "relationships", ("relationship_id", "id"), _read_relationship
    ),
}
