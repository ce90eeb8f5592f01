# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Labels of YOLO: a text file per picture, classes in `data.yaml`, `classes.txt` or `obj.names`."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from albef_amc.configuration.yaml_files import read_yaml
from albef_amc.datasets_scripts.importing.annotated_images import (
    SPLIT_WORDS,
    AnnotatedImage,
    AnnotatedObject,
    check_picture_name,
)
from albef_amc.datasets_scripts.jsonl.line_checks import NORMALIZED
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.regions import MIN_POLYGON_LENGTH, is_number
from albef_amc.text_files_albef import read_text_file

CLASS_LISTS = ("classes.txt", "obj.names")
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"}
# No picture has labels of this size.
MOST_LABEL_BYTES = 1 << 24


def find_description(root: Path) -> Path | None:
    """Find the file that names the classes: YAML with `names`, otherwise a list."""
    for path in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]):
        contents = read_yaml(path)
        if isinstance(contents, dict) and "names" in contents:
            return path
    return next((root / name for name in CLASS_LISTS if (root / name).is_file()), None)


def read_yolo(description: Path, image_root: Path | None, report: ReadingReport) -> Iterator[AnnotatedImage]:
    """Read pictures with their labels.

    Args:
        description (`Path`): file that names the classes; pictures and labels are looked for beside it.
        image_root (`Path`, *optional*): folder of the pictures, if not those that the description names.
        report (`ReadingReport`): collects problems.

    Returns:
        iterator of `AnnotatedImage`: fractions of the sides of the picture after EXIF rotation, which is what
        Ultralytics' code trains on.

    Raises:
        ValueError: no classes, key points, or a path that leads out of the folder.
        FileNotFoundError: a folder that the description names does not exist.
    """
    root = description.parent
    contents = read_yaml(description) if description.suffix in (".yaml", ".yml") else {}
    names = _read_names(contents, description)
    if contents.get("kpt_shape"):
        raise ValueError(f"{description} has `kpt_shape`: labels with key points are not read. Export boxes.")
    folders = _list_folders(contents, description, image_root)
    pictures: dict[Path, str | None] = {}  # split by file
    for folder, split in folders.items():
        for picture in _list_pictures(folder):
            pictures.setdefault(picture, split)
    shared: dict[Path, int] = {}
    for picture in pictures:
        label_path = _find_labels(picture, image_root or root, root)
        if label_path:
            shared[label_path] = shared.get(label_path, 0) + 1
    for picture, split in pictures.items():
        name = str(picture.relative_to(image_root or root).as_posix())
        check_picture_name(name, str(description))
        label_path = _find_labels(picture, image_root or root, root)
        if label_path and shared[label_path] > 1:
            report.add("pictures that differ only in their ending share a label file: pictures skipped", name)
            continue
        objects = _read_labels(label_path, names, report) if label_path else []
        yield AnnotatedImage(name, picture, objects, split, box_format=NORMALIZED)


def _read_names(contents: Any, description: Path) -> dict[int, str]:
    """Names of classes by number."""
    names = contents.get("names") if contents else read_text_file(description).splitlines()
    if isinstance(names, list):
        names = {number: name for number, name in enumerate(names) if contents or name.strip()}
    if not isinstance(names, dict) or not names or not all(type(number) is int for number in names):
        raise ValueError(f"{description}: `names` must be a list of classes, or a mapping from their numbers.")
    return {number: str(name).strip() for number, name in names.items()}


def _list_folders(contents: dict[str, Any], description: Path, image_root: Path | None) -> dict[Path, str | None]:
    """Folders of pictures with their splits: those that the description names, otherwise all."""
    if image_root is not None:
        return {image_root: None}
    named = {key: contents[key] for key in contents if key in SPLIT_WORDS and contents[key]}
    folders: dict[Path, str | None] = {}
    values = [(key, item) for key, value in named.items() for item in (value if isinstance(value, list) else [value])]
    for key, value in values:
        # Roboflow writes ../train/images for a folder beside the description, and Ultralytics reads it so.
        inside = re.sub(r"^(\.\.?/)+", "", str(value))
        check_picture_name(inside, str(description))
        folder = description.parent / PurePosixPath(inside)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"No folder {folder}, which {description} names ({value}). Put it there, or pass the folder of the "
                "pictures (`--images`); a list of files is not read."
            )
        folders.setdefault(folder, SPLIT_WORDS[key])
    return folders or {description.parent: None}


def _list_pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)


def _find_labels(picture: Path, image_root: Path, root: Path) -> Path | None:
    """Label file of a picture: below `labels` where the picture is below `images`, or beside the picture."""
    inside = picture.relative_to(image_root).with_suffix(".txt")
    last = max((place for place, part in enumerate(inside.parts) if part == "images"), default=None)
    candidates = [image_root / inside, root / "labels" / inside, image_root.parent / "labels" / inside]
    if last is not None:
        candidates.insert(0, image_root.joinpath(*inside.parts[:last], "labels", *inside.parts[last + 1 :]))
    return next((path for path in candidates if path.is_file()), None)


def _read_labels(path: Path, names: dict[int, str], report: ReadingReport) -> list[AnnotatedObject]:
    """Objects of a label file."""
    if path.stat().st_size > MOST_LABEL_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, more than labels can have. Is it another file?")
    objects = []
    for number, line in enumerate(read_text_file(path).splitlines(), start=1):
        if line.strip():
            item = _read_label(line.split(), names, f"{path.name}, line {number}", report)
            objects += [] if item is None else [item]
    return objects


def _read_label(words: list[str], names: dict[int, str], where: str, report: ReadingReport) -> AnnotatedObject | None:
    """Object of a line; `None` (reported) where its class is unknown."""
    try:
        number, *values = (float(word) for word in words)
    except ValueError:
        report.add("line is not of numbers: line skipped", where)
        return None
    if number not in names:
        report.add("class unknown: object skipped", where)
        return None
    label = names[int(number)]
    if not all(map(is_number, values)):
        report.add("label with a number that is not finite: object lost", where)
    elif len(values) == 4:
        x, y, width, height = values
        box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        return AnnotatedObject(label, where, [box])
    elif len(values) >= MIN_POLYGON_LENGTH and len(values) % 2 == 0:
        return AnnotatedObject(label, where, outlines=[values])
    else:
        report.add("label is neither a box (4 numbers) nor a polygon: object lost", where)
    return AnnotatedObject(label, where, is_lost=True)
