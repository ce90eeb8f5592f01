# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Objects of files in COCO's format, as CVAT, Roboflow, Label Studio and others export them; captions are ignored."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from albef_amc.datasets_scripts.coco.coco import CocoContents
from albef_amc.datasets_scripts.importing.annotated_images import (
    AnnotatedImage,
    AnnotatedObject,
    find_image_folder,
    find_split,
    name_picture,
)
from albef_amc.datasets_scripts.jsonl.line_checks import XYWH
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.record_groups import iterate_records


def read_coco(
    paths: list[Path], root: Path, image_root: Path | None, report: ReadingReport
) -> Iterator[AnnotatedImage]:
    """Read files in COCO's format.

    Args:
        paths (`list[Path]`): the files.
        root (`Path`): folder that they lie in.
        image_root (`Path`, *optional*): folder of the pictures; by default that of the file, or `images` or a folder
            named like the split beside it or in `root`.
        report (`ReadingReport`): collects problems.

    Returns:
        iterator of `AnnotatedImage`: coordinates belong to the stored pixels, unless the stated size is that of the
        picture after EXIF rotation.

    Raises:
        ValueError: another form, a damaged file, or the name of a picture that leads out of its folder.
        FileNotFoundError: no picture is found.
    """
    for path in paths:
        contents = CocoContents(report)
        contents.read_file(path, "objects")
        for image_id in contents.groups.keys() - contents.images.keys():
            for _ in iterate_records(contents.groups[image_id]):
                report.add("annotation of an unknown image: annotation skipped", f"{path.name}, image {image_id}")
        names = [name for name, *_ in contents.images.values()]
        folder = find_image_folder(names, [image_root] if image_root else _list_folders(path, root), path)
        split = find_split(path, root)
        for image_id, (name, *size) in contents.images.items():
            records = iterate_records(contents.groups.get(image_id, bytearray()))
            found = [_read_object(record, contents.categories, path.name, report) for _, record in records]
            objects = [item for item in found if item is not None]
            place = folder / name
            yield AnnotatedImage(
                name_picture(place, root, name), place, objects, split, (size[0], size[1]), XYWH, is_upright=False
            )


def _list_folders(path: Path, root: Path) -> list[Path]:
    """Folders in which exports have the pictures of a file."""
    split = path.stem.rpartition("_")[2]
    return [folder / name for folder in (path.parent, root) for name in (".", "images", split, f"images/{split}")]


def _read_object(
    annotation: dict[str, Any], categories: dict[str, list[Any]], file_name: str, report: ReadingReport
) -> AnnotatedObject | None:
    """Object of an annotation; `None` (reported) where it is none."""
    where, category = f"{file_name}, annotation {annotation['id']}", str(annotation.get("category_id"))
    if "caption" in annotation:
        report.add("caption: not imported", where)
        return None
    if category not in categories:
        report.add("annotation of an undeclared category: annotation skipped", where)
        return None
    label = categories[category][0]
    if annotation.get("iscrowd"):
        report.add("crowd region: not imported, its class has no complete region in this picture", where)
        return AnnotatedObject(label, where, is_lost=True)
    box, parts = annotation.get("bbox"), annotation.get("segmentation") or []
    boxes = [] if box is None or box == [] else [box]
    return AnnotatedObject(label, where, boxes, parts if isinstance(parts, list) else [parts])
