# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Which format annotations have, found from what the files hold."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from albef_amc.datasets_scripts.importing.phrase_lists import CSV_COLUMNS
from albef_amc.datasets_scripts.importing.yolo_annotations import CLASS_LISTS, find_description
from albef_amc.ranges_albef import check_choice
from albef_amc.text_files_albef import open_text_file

COCO, YOLO, LABEL_STUDIO, JSONL, CSV = "coco", "yolo", "label_studio", "jsonl", "csv"
FORMATS = (COCO, YOLO, LABEL_STUDIO, JSONL, CSV)
SUFFIXES = {COCO: ".json", LABEL_STUDIO: ".json", JSONL: ".jsonl", CSV: ".csv"}
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
# Characters at the start of a file from which its format is told.
START_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class AnnotationFiles:
    """Annotation files of one format.

    Args:
        annotation_format (`str`): one of `FORMATS`.
        root (`Path`): folder that they lie in.
        paths (`list[Path]`): the files; for YOLO the one that names the classes.
    """

    annotation_format: str
    root: Path
    paths: list[Path]


def find_annotations(source: Path, annotation_format: str | None = None) -> AnnotationFiles:
    """Find annotation files and their format.

    Args:
        source (`Path`): a file, or a folder that holds files of one format.
        annotation_format (`str`, *optional*): one of `FORMATS`; found from the contents by default.

    Raises:
        FileNotFoundError: no such file or folder, or no file of the format.
        ValueError: an archive, files of several formats, or an unknown format.
    """
    if annotation_format is not None:
        check_choice("format", annotation_format, FORMATS)
    if not source.exists():
        raise FileNotFoundError(f"No file or folder {source}. Give the export of an annotation tool.")
    if source.is_file() and source.suffix.lower() in ARCHIVES:
        raise ValueError(f"{source} is an archive. Unpack it, and give the folder.")
    root = source if source.is_dir() else source.parent
    files = _list_files(source)
    found: dict[str, list[Path]] = {}
    for path in files:
        name = tell_format(path)
        if name is not None:
            found.setdefault(name, []).append(path)
    description = find_description(root) if source.is_dir() else source if _describes_classes(source) else None
    if description is not None:
        found[YOLO] = [description]
    if annotation_format is not None:
        found = {annotation_format: found.get(annotation_format) or _guess_files(files, annotation_format)}
    if len(found) > 1:
        listed = ", ".join(f"{name} ({paths[0].name})" for name, paths in found.items())
        raise ValueError(f"{source} holds several formats: {listed}. Choose one with `--format`, or give its file.")
    for name, paths in found.items():
        if paths:
            return AnnotationFiles(name, root, paths)
    raise FileNotFoundError(
        f"No annotations of {annotation_format or 'a known format'} in {source}: COCO and Label Studio are `.json`, "
        f"YOLO has `data.yaml` or {' or '.join(CLASS_LISTS)} in the folder, lists are `.jsonl` with `image`, "
        f"`phrase`, `boxes` or `.csv` with {','.join(CSV_COLUMNS)}."
    )


def tell_format(path: Path) -> str | None:
    """Tell the format of a file from its start; `None` where it is not a file of annotations.

    Args:
        path (`Path`): a file ending in `.json`, `.jsonl` or `.csv`.

    Raises:
        ValueError: not UTF-8 text.
    """
    with open_text_file(path) as file:
        start = file.read(START_CHARACTERS).lstrip()
    if path.suffix == ".csv":
        return CSV if {"image", "phrase"} <= set(re.split(r"\W+", start.partition("\n")[0])) else None
    if path.suffix == ".jsonl":
        try:
            line = json.loads(start.partition("\n")[0])
        except (ValueError, RecursionError):
            return JSONL  # the reader names the line and what is wrong with it
        return JSONL if isinstance(line, dict) and "image" in line else None
    if start.startswith("{") and re.search(r'"(images|annotations)"\s*:\s*\[', start):
        return COCO
    return LABEL_STUDIO if start.startswith("[") and re.search(r'"(annotations|data|image)"\s*:', start) else None


def _list_files(source: Path) -> list[Path]:
    """Files that may hold annotations."""
    files: Iterable[Path] = source.rglob("*") if source.is_dir() else [source]
    return sorted(path for path in files if path.suffix in SUFFIXES.values() and path.is_file())


def _describes_classes(source: Path) -> bool:
    return source.suffix in (".yaml", ".yml") or source.name in CLASS_LISTS


def _guess_files(files: list[Path], annotation_format: str) -> list[Path]:
    """Files with the ending of a format: its reader says what is wrong with them."""
    return [path for path in files if path.suffix == SUFFIXES.get(annotation_format)]
