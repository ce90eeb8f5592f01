# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Visual Genome's JSON files, read entry by entry: the list of images, and the phrases of each image."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from albef_amc.datasets_scripts.reading.json_lists import iterate_json_list
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.record_groups import RecordGroups
from albef_amc.datasets_scripts.reading.regions import is_id_number
from albef_amc.datasets_scripts.visual_genome.phrases import AnnotationKind, PhraseRecord

IMAGE_DATA_FILE = "image_data.json"
IMAGE_FOLDERS = ("VG_100K", "VG_100K_2")
# Numbers per page of `IdSet`.
PAGE_LENGTH = 1024


class ListedImage(NamedTuple):
    """An image of `image_data.json`.

    Args:
        width, height (`int`): pixels of the frame of the boxes.
        folder (`str`): the one of `IMAGE_FOLDERS` that its address names; the first if it names none.
    """

    width: int
    height: int
    folder: str


def load_image_data(path: Path) -> dict[int, ListedImage]:
    """Load the list of images, by id.

    Args:
        path (`Path`): `image_data.json`, with `image_id` or, as in release 1.0, `id`.

    Raises:
        ValueError: the file is damaged, an entry has no id or size, or two entries of one id differ.
    """
    images: dict[int, ListedImage] = {}
    for number, entry in enumerate(iterate_json_list(path)):
        where = f"{path}: entry {number}"
        image_id = read_id(entry, ("image_id", "id"), where)
        size = (entry.get("width"), entry.get("height"))
        if not all(type(value) is int and value > 0 for value in size):
            raise ValueError(f"{where} has no `width` and `height` in pixels, got {size}.")
        folder = PurePosixPath(str(entry.get("url"))).parent.name
        image = ListedImage(*size, folder if folder in IMAGE_FOLDERS else IMAGE_FOLDERS[0])
        if images.setdefault(image_id, image) != image:
            raise ValueError(f"{where}: image {image_id} occurs twice with different values. Make the ids unique.")
    return images


class IdSet:
    """Set of integers that takes little memory for millions of close ones.

    Example:
        >>> ids = IdSet()
        >>> ids.add(5_408_689)
        >>> 5_408_689 in ids, 5 in ids
        (True, False)
    """

    def __init__(self) -> None:
        self.pages: dict[int, int] = {}

    def add(self, number: int) -> None:
        """Add a number: a bit of its page."""
        page, bit = divmod(number, PAGE_LENGTH)
        self.pages[page] = self.pages.get(page, 0) | 1 << bit

    def __contains__(self, number: int) -> bool:
        page, bit = divmod(number, PAGE_LENGTH)
        return bool(self.pages.get(page, 0) >> bit & 1)


def read_id(record: dict[str, Any], names: tuple[str, ...], where: str) -> int:
    """Id of a record, under the first of several names that it has."""
    value = next((record[name] for name in names if record.get(name) is not None), None)
    if not is_id_number(value):
        raise ValueError(f"{where} has no whole number `{names[0]}` of 64 bits as id, got {value!r:.80}.")
    return value


def group_phrases(
    path: Path, kind: AnnotationKind, images: dict[int, ListedImage], report: ReadingReport
) -> RecordGroups:
    """Read the phrases of all images of a file.

    Args:
        path (`Path`): the file.
        kind (`AnnotationKind`): kind of its annotations.
        images (`dict`): known images.
        report (`ReadingReport`): collects problems.

    Returns:
        `RecordGroups`: by image id; a record holds `phrase_id` and the fields of `PhraseRecord` after `suffix`.

    Raises:
        ValueError: the file is damaged or a record has another form; the message names file and entry.
    """
    groups = RecordGroups()
    seen = IdSet()
    for number, entry in enumerate(iterate_json_list(path)):
        where = f"{path}: entry {number}"
        image_id = read_id(entry, ("image_id", "id"), where)
        records = entry.get(kind.list_name)
        records = [] if records is None else records
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise ValueError(f"{where}: `{kind.list_name}` must be a list of objects in braces.")
        if image_id not in images:
            report.add(f"image not in {IMAGE_DATA_FILE}: entry skipped", f"{where} (image {image_id})")
        elif image_id in groups:
            report.add("image listed twice: later entry skipped", f"{where} (image {image_id})")
        else:
            groups[image_id] = bytearray()
            for phrase_id, phrase in _read_records(records, kind, image_id, where, seen, report):
                groups.add(image_id, [phrase_id + phrase.suffix, *phrase[1:]])
    return groups


def _read_records(
    records: list[dict], kind: AnnotationKind, image_id: int, where: str, seen: IdSet, report: ReadingReport
) -> Iterator[tuple[str, PhraseRecord]]:
    """Phrases of an entry with the id of their record; a repeated record is skipped, a repeated id numbered."""
    in_entry: dict[int, list[dict]] = {}
    for record in records:
        record_id = read_id(record, kind.id_names, where)
        place = f"{where}, {kind.list_name} id {record_id}"
        owners = [record[key] for key in ("image_id", "image") if record.get(key) is not None]
        if owners and owners[0] != image_id:
            report.add("record of another image: record skipped", place)
            continue
        others = in_entry.setdefault(record_id, [])
        if record in others:
            report.add("id occurs twice with the same content: record skipped", place)
            continue
        name = str(record_id)
        if record_id in seen:
            name = f"{record_id}.{image_id}.{len(others)}"
            report.add("id occurs twice with different content: record numbered", place)
        others.append(record)
        seen.add(record_id)
        for phrase in kind.read_phrases(record, place, report):
            yield name, phrase
