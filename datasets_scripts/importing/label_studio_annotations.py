# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Label Studio's export "JSON": rectangles (also rotated) and polygons, named by labels or by texts of the regions."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from albef_amc.datasets_scripts.importing.annotated_images import (
    AnnotatedImage,
    AnnotatedObject,
    check_picture_name,
    name_picture,
)
from albef_amc.datasets_scripts.reading.json_lists import iterate_json_list
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.regions import is_number

# Where the server of Label Studio has pictures that were uploaded, and those of a local folder.
UPLOADED, LOCAL = "/data/upload/", "/data/local-files/"
# Eight digits that Label Studio puts before the name of an upload.
UPLOAD_PREFIX = r"^[0-9a-f]{8}-"
RECTANGLES, POLYGONS = ("rectanglelabels", "rectangle"), ("polygonlabels", "polygon")
OTHER_SHAPES = ("brushlabels", "brush", "ellipselabels", "ellipse", "keypointlabels", "keypoint")
LABEL_KEYS = ("rectanglelabels", "polygonlabels", "brushlabels", "ellipselabels", "keypointlabels", "labels")
PER_CENT = 100


def read_label_studio(
    paths: list[Path], root: Path, image_root: Path | None, report: ReadingReport
) -> Iterator[AnnotatedImage]:
    """Read exports of Label Studio.

    Args:
        paths (`list[Path]`): the files.
        root (`Path`): folder that they lie in.
        image_root (`Path`, *optional*): folder of the pictures; `root` by default. The pictures are found by their
            names, also in its folder `images`, and also without the prefix that Label Studio gives to an upload.
        report (`ReadingReport`): collects problems.

    Returns:
        iterator of `AnnotatedImage`: coordinates belong to the picture after EXIF rotation, as a browser shows it.

    Raises:
        ValueError: another export, a damaged file, or the path of a picture that leads out of its folder.
    """
    folder = image_root or root
    for path in paths:
        for number, task in enumerate(iterate_json_list(path)):
            where = f"{path.name}, task {task.get('id', number)}"
            data = task.get("data")
            if not isinstance(data, dict):
                raise ValueError(f"{where} has no `data`. Export as JSON, not as JSON-MIN.")
            picture = _find_picture(data, folder, where, report)
            if picture is not None:
                results = _choose_results(task, where, report)
                objects, size = _read_results(results, where, report)
                name = name_picture(picture, folder, picture.name)
                yield AnnotatedImage(name, picture, objects, stated_size=size)


def _find_picture(data: dict[str, Any], folder: Path, where: str, report: ReadingReport) -> Path | None:
    """File of a task's picture; `None` (reported) where the task has none, or holds it inside the export."""
    texts = {key: value for key, value in data.items() if isinstance(value, str) and value.strip()}
    value = texts.get("image") or next((text for key, text in texts.items() if key.startswith(("im", "pic"))), None)
    if value is None or value.startswith("data:"):
        report.add("task without the path of a picture: task skipped", where)
        return None
    address = urlsplit(value)
    if value.startswith(LOCAL):
        file_name = parse_qs(address.query).get("d", [""])[0]
    elif address.scheme or value.startswith(UPLOADED):
        file_name = unquote(address.path).rpartition("/")[2]
    else:
        file_name = value
    check_picture_name(file_name, where)
    parts = Path(file_name).parts
    names = [Path(*parts[start:]) for start in range(len(parts))]
    names.append(Path(re.sub(UPLOAD_PREFIX, "", parts[-1])))
    candidates = [place / name for name in names for place in (folder, folder / "images")]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _choose_results(task: dict[str, Any], where: str, report: ReadingReport) -> list[dict[str, Any]]:
    """Results of the first annotation of a task that was not cancelled."""
    annotations = task.get("annotations")
    kept = [
        entry["result"]
        for entry in (annotations if isinstance(annotations, list) else ())
        if isinstance(entry, dict) and not entry.get("was_cancelled") and isinstance(entry.get("result"), list)
    ]
    if len(kept) > 1:
        report.add("picture with several annotations: the first is kept", where)
    return [result for result in kept[0] if isinstance(result, dict)] if kept else []


def _read_results(
    results: list[dict[str, Any]], where: str, report: ReadingReport
) -> tuple[list[AnnotatedObject], tuple[Any, Any]]:
    """Objects of an annotation, and the size of its picture. Results with the same id are one region."""
    regions: dict[str, list[dict[str, Any]]] = {}
    for number, result in enumerate(results):
        regions.setdefault(str(result.get("id", f"#{number}")), []).append(result)
    objects: list[AnnotatedObject] = []
    size: tuple[Any, Any] = (None, None)
    for region_id, parts in regions.items():
        place = f"{where}, region {region_id}"
        shape = next((part for part in parts if part.get("type") in (*RECTANGLES, *POLYGONS, *OTHER_SHAPES)), None)
        if shape is None:
            report.add("result without a shape: result skipped", place)
            continue
        outline = _read_shape(shape, place, report)
        if outline is not None:
            size = (shape["original_width"], shape["original_height"])
        names, is_phrase = _read_names(parts)
        if not names:
            report.add("region without a label or a text: region skipped", place)
        is_rectangle = shape.get("type") in RECTANGLES and outline is not None and outline[1] == outline[3]
        for name in names:
            if outline is None:
                objects.append(AnnotatedObject(name, place, is_phrase=is_phrase, is_lost=True))
            elif is_rectangle:
                box = [*outline[:2], *outline[4:6]]
                objects.append(AnnotatedObject(name, place, [box], is_phrase=is_phrase))
            else:
                objects.append(AnnotatedObject(name, place, outlines=[outline], is_phrase=is_phrase))
    return objects, size


def _read_names(parts: list[dict[str, Any]]) -> tuple[list[str], bool]:
    """Texts of a region, otherwise its labels, and whether they are texts."""
    values = [part["value"] for part in parts if isinstance(part.get("value"), dict)]
    for keys, is_phrase in ((("text",), True), (LABEL_KEYS, False)):
        found = [value[key] for value in values for key in keys if key in value]
        names = [name for entry in found for name in (entry if isinstance(entry, list) else [entry])]
        names = [name for name in names if isinstance(name, str) and name.strip()]
        if names:
            return list(dict.fromkeys(names)), is_phrase
    return [], False


def _read_shape(shape: dict[str, Any], where: str, report: ReadingReport) -> list[float] | None:
    """Corners of a rectangle or polygon in pixels, a flat list; `None` (reported) where there are none."""
    if shape["type"] in OTHER_SHAPES:
        report.add("brush, ellipse or key point: object lost; draw rectangles or polygons", where)
        return None
    sides = (shape.get("original_width"), shape.get("original_height"))
    value = shape.get("value")
    if not isinstance(value, dict) or not all(type(side) is int and side > 0 for side in sides):
        report.add("region without `value`, `original_width` or `original_height`: object lost", where)
        return None
    if shape.get("image_rotation") or value.get("image_rotation"):
        report.add("region of a picture that was rotated in Label Studio: object lost", where)
        return None
    width, height = sides
    if shape["type"] in POLYGONS:
        points = value.get("points")
        is_right = isinstance(points, list) and all(isinstance(p, list) and len(p) == 2 for p in points)
        numbers = [number for point in points for number in point] if isinstance(points, list) and is_right else []
    else:
        numbers = [value.get(name) for name in ("x", "y", "width", "height")] + [value.get("rotation", 0)]
    if not numbers or not all(map(is_number, numbers)):
        report.add("region whose coordinates are not finite numbers: object lost", where)
        return None
    if shape["type"] in POLYGONS:
        scaled = zip(numbers, (width, height) * (len(numbers) // 2), strict=True)
        return [number * side / PER_CENT for number, side in scaled]
    x, y, box_width, box_height, rotation = numbers
    return _rotate_rectangle(
        x * width / PER_CENT,
        y * height / PER_CENT,
        box_width * width / PER_CENT,
        box_height * height / PER_CENT,
        math.radians(rotation),
    )


def _rotate_rectangle(x: float, y: float, width: float, height: float, angle: float) -> list[float]:
    """Corners of a rectangle that is rotated clockwise around its first corner, as Label Studio draws it."""
    cosine, sine = math.cos(angle), math.sin(angle)
    corners = ((0.0, 0.0), (width, 0.0), (width, height), (0.0, height))
    return [value for a, b in corners for value in (x + a * cosine - b * sine, y + a * sine + b * cosine)]
