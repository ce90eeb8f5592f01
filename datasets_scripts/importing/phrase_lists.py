# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Phrases with boxes as a plain list: JSON Lines (`image`, `phrase`, `boxes`) and csv (one box per line)."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from albef_amc.datasets_scripts.importing.annotated_images import (
    SPLIT_WORDS,
    AnnotatedImage,
    AnnotatedObject,
    check_picture_name,
    find_image_folder,
    find_split,
    name_picture,
)
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.record_groups import RecordGroups, iterate_records
from albef_amc.text_files_albef import open_text_file

LINE_KEYS = ("image", "phrase", "boxes", "polygons", "masks", "split")
CORNERS = ("x_min", "y_min", "x_max", "y_max")
CSV_COLUMNS = ("image", "phrase", *CORNERS)
# Longer than a phrase with boxes and outlines.
MOST_LINE_CHARACTERS = 1 << 26


def read_phrase_lists(
    paths: list[Path], root: Path, image_root: Path | None, box_format: str, report: ReadingReport
) -> Iterator[AnnotatedImage]:
    """Read JSON Lines or csv.

    Args:
        paths (`list[Path]`): files ending in `.jsonl` or `.csv`.
        root (`Path`): folder that they lie in.
        image_root (`Path`, *optional*): folder of the pictures; by default that of the file, or `images` in it.
        box_format (`str`): one of `BOX_FORMATS`.
        report (`ReadingReport`): collects problems.

    Returns:
        iterator of `AnnotatedImage`: coordinates belong to the picture after EXIF rotation.

    Raises:
        ValueError: a line that cannot be read or lacks a field, or the path of a picture that leads out of its folder.
        FileNotFoundError: no picture is found.
    """
    for path in paths:
        groups = RecordGroups()
        for where, line in _iterate_csv(path) if path.suffix == ".csv" else _iterate_lines(path):
            for name in ("image", "phrase"):
                if not isinstance(line.get(name), str) or not line[name].strip():
                    raise ValueError(f"{where}: `{name}` must be a text with words, got {line.get(name)!r:.80}.")
            groups.add(line["image"], [where, line])
        places = (path.parent, path.parent / "images", root, root / "images")
        folder = find_image_folder(list(groups), [image_root] if image_root else places, path)
        for name, group in groups.items():
            check_picture_name(name, path.name)
            objects: list[AnnotatedObject] = []
            splits: dict[str, str] = {}
            for where, line in iterate_records(group):
                objects.append(_read_object(line, where))
                if line.get("split"):
                    splits[_read_split(line["split"], where)] = where
            if len(splits) > 1:
                report.add("image in several splits: the first is kept", f"{path.name}, {name}")
            split = next(iter(splits), None) or find_split(path, root)
            place = folder / name
            yield AnnotatedImage(name_picture(place, root, name), place, objects, split, box_format=box_format)


def _read_split(value: Any, where: str) -> str:
    if not isinstance(value, str) or value.strip().lower() not in SPLIT_WORDS:
        raise ValueError(f"{where}: `split` must be one of {', '.join(SPLIT_WORDS)}; got {value!r:.80}.")
    return SPLIT_WORDS[value.strip().lower()]


def _read_object(line: dict[str, Any], where: str) -> AnnotatedObject:
    """The phrase of a line with its boxes and outlines."""
    boxes, polygons, masks = (line.get(name) or [] for name in ("boxes", "polygons", "masks"))
    for name, value in (("boxes", boxes), ("polygons", polygons), ("masks", masks)):
        if not isinstance(value, list):
            raise ValueError(f"{where}: `{name}` must be a list, got {value!r:.80}.")
    if boxes and not isinstance(boxes[0], list):
        raise ValueError(f"{where}: `boxes` must be a list of lists of four numbers, got {boxes!r:.80}.")
    return AnnotatedObject(line["phrase"], where, boxes, [*polygons, *masks], is_phrase=True)


def _iterate_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and contents of every line of JSON that is not blank."""
    with open_text_file(path) as file:
        number = 0
        while text := file.readline(MOST_LINE_CHARACTERS):
            number += 1
            where = f"{path.name}, line {number}"
            if not text.strip():
                continue
            try:
                line = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where} is not valid JSON ({error}). One object per line is expected.") from error
            if not isinstance(line, dict):
                raise ValueError(f"{where}: an object in braces is expected, got {text!r:.80}.")
            if "phrases" in line:
                raise ValueError(
                    f"{where} has `phrases`: the builder `jsonl` reads this file as it is, and nothing has to be "
                    "imported."
                )
            unknown = sorted(set(line) - set(LINE_KEYS))
            if unknown:
                raise ValueError(f"{where} has an unknown field `{unknown[0]}`. Fields: {', '.join(LINE_KEYS)}.")
            yield where, line


def _iterate_csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and contents of every line after the header, in the form of [`_iterate_lines`]."""
    with open_text_file(path) as file:
        reader = csv.DictReader(file, strict=True)
        try:
            missing = [name for name in CSV_COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(
                    f"{path} has no column `{missing[0]}`. The first line must be {','.join(CSV_COLUMNS)}, also with "
                    "`split`, separated by commas."
                )
            for line in reader:
                where = f"{path.name}, line {reader.line_num}"
                corners = [line[name] for name in CORNERS]
                boxes = [_read_corners(corners, where)] if any(corner and corner.strip() for corner in corners) else []
                yield where, {**{name: line.get(name) for name in ("image", "phrase", "split")}, "boxes": boxes}
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num} is not csv ({error}).") from error


def _read_corners(corners: list[str | None], where: str) -> list[float]:
    try:
        return [float(corner or "") for corner in corners]
    except ValueError as error:
        raise ValueError(f"{where}: {', '.join(CORNERS)} must be four numbers or all empty, got {corners}.") from error
