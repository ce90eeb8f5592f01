# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Whole JSON files in COCO's form: images, annotations and categories by id, refused where they are ambiguous."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from albef_amc.datasets_scripts.reading.image_files import find_path_problem
from albef_amc.text_files_albef import load_json


def index_by_id(entries: list[dict[str, Any]], kind: str, path: Path) -> dict[str, dict[str, Any]]:
    """Entries by their id as text.

    Args:
        entries (`list[dict]`): as found in the file.
        kind (`str`): what an entry is, for messages.
        path (`Path`): file, for messages.

    Raises:
        ValueError: an id is missing or occurs twice: everything is keyed by it.
    """
    indexed: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or entry.get("id") is None:
            raise ValueError(f"{path}: {kind} number {number} has no `id`. Give each one its own.")
        if str(entry["id"]) in indexed:
            raise ValueError(f"{path}: {kind} id {entry['id']!r} occurs twice. Make the ids unique.")
        indexed[str(entry["id"])] = entry
    return indexed


def load_annotations(path: Path) -> tuple[dict[str, dict], dict[str, dict[str, dict]], dict[str, str | None]]:
    """A file of COCO's `images`, `annotations` and `categories`.

    Args:
        path (`Path`): the file.

    Returns:
        `tuple`: images by id, annotations by image id and then by id, category names by id; ids as text.

    Raises:
        ValueError: a list is missing, an id is missing or repeated, or a `file_name` leaves the image folder.
    """
    contents = load_json(path)
    for name in ("images", "annotations", "categories"):
        if not isinstance(contents, dict) or not isinstance(contents.get(name), list):
            raise ValueError(f"{path} has no list `{name}`. COCO's format is expected.")
    images = index_by_id(contents["images"], "image", path)
    for image in images.values():
        _check_file_name(image.get("file_name"), path)
    annotations: dict[str, dict] = defaultdict(dict)
    for annotation_id, annotation in index_by_id(contents["annotations"], "annotation", path).items():
        annotations[str(annotation.get("image_id"))][annotation_id] = annotation
    categories = index_by_id(contents["categories"], "category", path)
    return images, annotations, {key: category.get("name") for key, category in categories.items()}


def _check_file_name(file_name: Any, path: Path) -> None:
    if not isinstance(file_name, str) or not file_name:
        raise ValueError(f"{path}: an image has no `file_name` (got {file_name!r}).")
    problem = find_path_problem(file_name)
    if problem:
        raise ValueError(
            f"{path}: `file_name` {file_name!r}: {problem}. Write it relative to the folder of the images."
        )
