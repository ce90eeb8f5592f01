# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""JSON files in COCO's format, read at once: images, annotations and categories by id; ambiguous ones are refused."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from albef_amc.datasets_scripts.reading.image_files import find_path_problem
from albef_amc.text_files_albef import load_json


def index_by_id(entries: list[dict[str, Any]], kind: str, path: Path) -> dict[str, dict[str, Any]]:
    """Index entries by their id, as text.

    Args:
        entries (`list[dict]`): as found in the file.
        kind (`str`): noun for an entry, in messages.
        path (`Path`): the file, in messages.

    Raises:
        ValueError: an id is missing or occurs twice.
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
    """Load a file with COCO's `images`, `annotations` and `categories`.

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
        file_name = image.get("file_name")
        if not isinstance(file_name, str) or not file_name:
            raise ValueError(f"{path}: an image has no `file_name` (got {file_name!r}).")
        problem = find_path_problem(file_name)
        if problem:
            raise ValueError(
                f"{path}: `file_name` {file_name!r}: {problem}. Write it relative to the folder of the images."
            )
    annotations: dict[str, dict] = defaultdict(dict)
    for annotation_id, annotation in index_by_id(contents["annotations"], "annotation", path).items():
        annotations[str(annotation.get("image_id"))][annotation_id] = annotation
    categories = index_by_id(contents["categories"], "category", path)
    return images, annotations, {key: category.get("name") for key, category in categories.items()}
