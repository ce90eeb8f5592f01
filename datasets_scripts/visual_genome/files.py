# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Visual Genome's files, read entry by entry: the list of images, and the phrases of each image."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from albef_amc.datasets_scripts.reading.coco_records import ReadingReport, is_id_number
from albef_amc.datasets_scripts.reading.json_lists import iterate_json_list
from albef_amc.datasets_scripts.visual_genome.phrases import AnnotationKind, PhraseRecord

IMAGE_DATA_FILE = "image_data.json"
IMAGE_FOLDERS = ("VG_100K", "VG_100K_2")
# Numbers that share a page of `IdSet`.
PAGE_LENGTH = 1024


class ListedImage(NamedTuple):
    """An image of `image_data.json`.

    Args:
        width, height (`int`): pixels that the boxes belong to.
        folder (`str`): the one of `IMAGE_FOLDERS` that its address names; the first if it names none.
    """

    width: int
    height: int
    folder: str

    def list_paths(self, image_id: int) -> list[str]:
        """Where the file may be, below the image folder; the likely place first."""
        folders = sorted(IMAGE_FOLDERS, key=lambda name: name != self.folder)
        return [f"{folder}/{image_id}.jpg" for folder in folders]


def load_image_data(path: Path, report: ReadingReport) -> dict[int, ListedImage]:
    """The list of images by id.

    Args:
        path (`Path`): `image_data.json`, with `image_id` or, as in release 1.0, `id`.
        report (`ReadingReport`): receives what was left out.

    Raises:
        ValueError: the file is damaged, an entry has no id or size, or two with one id differ.
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
    """Whole numbers that were seen; millions of them that lie close together take little memory.

    Example:
        >>> ids = IdSet()
        >>> ids.add(5_408_689)
        >>> 5_408_689 in ids, 5 in ids
        (True, False)
    """

    def __init__(self) -> None:
        self.pages: dict[int, int] = {}

    def add(self, number: int) -> None:
        """Remembers a number: a bit of its page."""
        page, bit = divmod(number, PAGE_LENGTH)
        self.pages[page] = self.pages.get(page, 0) | 1 << bit

    def __contains__(self, number: int) -> bool:
        page, bit = divmod(number, PAGE_LENGTH)
        return bool(self.pages.get(page, 0) >> bit & 1)


def read_id(record: dict[str, Any], names: tuple[str, ...], where: str) -> int:
    """The id of a record under the first of its names that is there."""
    value = next((record[name] for name in names if record.get(name) is not None), None)
    if not is_id_number(value):
        raise ValueError(f"{where} has no whole number `{names[0]}` that an id can be, got {value!r:.80}.")
    return value


def group_phrases(
    path: Path, kind: AnnotationKind, images: dict[int, ListedImage], report: ReadingReport
) -> dict[int, bytearray]:
    """Phrases of all images of a file, one line of JSON each: little more than the text of the file is in memory.

    Args:
        path (`Path`): the file.
        kind (`AnnotationKind`): what it holds.
        images (`dict`): the images that are known.
        report (`ReadingReport`): receives what was left out.

    Returns:
        `dict`: by image id; see [`iterate_records`].

    Raises:
        ValueError: the file is damaged or a record of another form; the message names file and entry.
    """
    groups: dict[int, bytearray] = {}
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
                line = json.dumps([phrase_id + phrase.suffix, *phrase[1:]], separators=(",", ":"))
                groups[image_id] += line.encode() + b"\n"
    return groups


def iterate_records(group: bytearray) -> Iterator[tuple[str, PhraseRecord]]:
    """Phrases of an image with their `phrase_id`."""
    for line in group.splitlines():
        phrase_id, *values = json.loads(line)
        yield phrase_id, PhraseRecord("", *values)


def _read_records(
    records: list[dict], kind: AnnotationKind, image_id: int, where: str, seen: IdSet, report: ReadingReport
) -> Iterator[tuple[str, PhraseRecord]]:
    """Phrases of an entry with the id of their record; a repeated record is left out, a repeated id numbered."""
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
