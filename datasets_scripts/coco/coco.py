# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""COCO as its authors ship it: objects of `instances_*.json` and captions of `captions_*.json`."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from albef_amc.datasets_scripts.features import build_phrase, build_row
from albef_amc.datasets_scripts.reading.annotation_lists import EMPTY_FILE, is_encodable
from albef_amc.datasets_scripts.reading.coco_records import ReadingReport, clean_box, mark_incomplete, read_region
from albef_amc.datasets_scripts.reading.image_files import (
    StoredImage,
    choose_frame,
    find_path_problem,
    read_image_file,
)
from albef_amc.datasets_scripts.reading.json_lists import iterate_json_lists
from albef_amc.datasets_scripts.source_builder import ImageRootConfig, SourceBuilder

ANNOTATIONS_FOLDER = "annotations"
KINDS = ("instances", "captions")
CAPTION_TYPE = "caption"
CROWD_TYPE = "crowd"


@dataclass
class CocoConfig(ImageRootConfig):
    """Where the files are, and what is read of them.

    Args:
        data_root (`str`): folder that holds `annotations`.
        splits (`list[str]` or `str`, *optional*): such as "val2017"; all that have a file in `annotations` by default.
        kinds (`list[str]` or `str`, defaults to instances and captions): what becomes phrases: "instances" (names of
            categories, with box and outline) and "captions" (sentences, without a region).
        keep_crowds (`bool`, defaults to `False`): whether regions that hold a crowd (`iscrowd`) become phrases too, of
            the type "crowd"; they are no single object that a phrase could mean.
        image_root (`str`, *optional*): folder of the images' folders (`train2017`, ...); `data_root` by default.
        embed_images (`bool`, defaults to `True`): whether the rows hold the images' bytes; else they hold their paths
            on this machine, and the files must stay where they are.
    """

    splits: list[str] | tuple[str, ...] | str = ()
    kinds: list[str] | tuple[str, ...] | str = KINDS
    keep_crowds: bool = False

    def __post_init__(self):
        super().__post_init__()
        self.kinds = [self.kinds] if isinstance(self.kinds, str) else list(self.kinds)
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise ValueError(f"`kinds` must name one or both of {', '.join(KINDS)}; got {self.kinds!r}.")
        folder = Path(self.data_root) / ANNOTATIONS_FOLDER
        names = {path.stem.partition("_")[2] for kind in self.kinds for path in folder.glob(f"{kind}_*.json")}
        found = sorted(name for name in names if re.fullmatch(r"\w+", name))
        self.splits = [self.splits] if isinstance(self.splits, str) else list(self.splits) or found
        for split in self.splits:
            if split not in found:
                raise ValueError(f"`splits` names {split!r}, which has no file in {folder}; there are {found}.")
        if not self.splits:
            raise FileNotFoundError(f"No `{self.kinds[0]}_*.json` in {folder}. Put it there or check `data_root`.")

    def get_path(self, kind: str, split: str) -> Path:
        """File of the annotations of one kind of a split."""
        return Path(self.data_root) / ANNOTATIONS_FOLDER / f"{kind}_{split}.json"

    def list_splits(self) -> list[str]:
        """The splits that are read."""
        return list(self.splits)

    def list_annotation_paths(self) -> list[Path]:
        """The JSON files that are there, of the kinds and splits asked for."""
        paths = (self.get_path(kind, split) for split in self.splits for kind in self.kinds)
        return [path for path in paths if path.is_file()]


class Coco(SourceBuilder):
    """Builder for COCO: one row per image, one phrase per annotated object and per caption; splits as in the names.

    Example:

        builder = Coco(cache_dir="cache", data_root="coco", splits=["val2017"])
        builder.download_and_prepare()
        rows = builder.as_dataset(split="val2017")
    """

    BUILDER_CONFIG_CLASS = CocoConfig
    CONFIGURATIONS: ClassVar[dict[str, dict[str, Any]]] = {kind: {"kinds": [kind]} for kind in KINDS}
    DESCRIPTION = "Photographs of COCO with the names of their objects, boxes, outlines and captions."
    PUBLISHED_COUNTS: ClassVar[dict[str, dict[str, int]]] = {
        "train2014": {"rows": 82783},
        "val2014": {"rows": 40504},
    }

    def _read_splits(self) -> dict[str, dict[str, Any]]:
        return {split: self._read_split(split) for split in self.config.splits}

    def _read_split(self, split: str) -> dict[str, Any]:
        """File name, size and annotations of every image of a split."""
        images: dict[str, tuple] = {}
        groups: dict[str, bytearray] = {}
        categories: dict[str, list[Any]] = {}
        for kind in self.config.kinds:
            path = self.config.get_path(kind, split)
            if path.is_file():
                _read_file(path, kind, images, groups, categories, self.report)
            else:
                self.report.add("annotation file missing: phrases skipped", f"{kind} of {split}")
        for image_id, group in groups.items():
            if image_id not in images:
                for _ in group.splitlines():
                    self.report.add("annotation of an unknown image: annotation skipped", f"{split}, image {image_id}")
        sources = {}
        for image_id, (file_name, *size) in images.items():
            problem = find_path_problem(file_name)
            if problem:
                raise ValueError(
                    f"`file_name` {file_name!r} of image {image_id} of {split}: {problem}. Write it relative to the "
                    "folder of the split's images."
                )
            sources[image_id] = (f"{split}/{file_name}", size, groups.get(image_id, b""), categories)
        return sources

    def _read_row(self, image: str, source: Any, report: ReadingReport) -> dict[str, Any] | None:
        file_name, (width, height), group, categories = source
        path = self.config.get_image_folder() / file_name
        stored = read_image_file(path, report)
        if stored is not None:
            stored = choose_frame(stored, (width, height), path, report)
        if stored is None:
            return None
        phrases = []
        for kind, annotation in _iterate_group(group):
            read = _read_caption if kind == "captions" else self._read_object
            phrase = read(annotation, categories, stored, report)
            if phrase is not None:
                phrases.append(phrase)
        if not phrases:
            report.add("image without a phrase: image skipped", str(path))
            return None
        return build_row(self.config.build_image(file_name, stored), image, *stored.upright_size, phrases)

    def _read_object(
        self, annotation: dict[str, Any], categories: dict[str, list[Any]], stored: StoredImage, report: ReadingReport
    ) -> dict[str, Any] | None:
        """Phrase of an annotated object; without boxes where its box cannot be used."""
        where = f"annotation {annotation['id']}"
        if str(annotation.get("category_id")) not in categories:
            report.add("annotation of an undeclared category: annotation skipped", where)
            return None
        if annotation.get("iscrowd") and not self.config.keep_crowds:
            report.add("crowd region: region skipped", where)
            return None
        name, supercategory = categories[str(annotation["category_id"])]
        types = [supercategory] if supercategory else []
        if annotation.get("iscrowd"):
            types.append(CROWD_TYPE)
        region: dict[str, Any] = {}
        box = clean_box(annotation.get("bbox"), stored.width, stored.height, where, report, is_xywh=True)
        if box is None:
            report.add("object without a usable box: object kept without a region", where)
        else:
            key = str(annotation["id"])
            polygons, masks, is_incomplete = read_region(
                [key], {key: annotation}, stored.width, stored.height, where, report
            )
            region["boxes"] = [stored.turn_box(box)]
            region["polygons"] = polygons and [stored.turn_polygon(polygon) for polygon in polygons]
            region["masks"] = masks and [stored.turn_mask(mask) for mask in masks]
            types = mark_incomplete(types, False, is_incomplete) or []
        return build_phrase(annotation["id"], name, types=types or None, **region)


def _read_caption(
    annotation: dict[str, Any], categories: dict[str, list[Any]], stored: StoredImage, report: ReadingReport
) -> dict[str, Any] | None:
    """Phrase of a caption, white space around it removed."""
    caption = annotation.get("caption")
    if not isinstance(caption, str) or not caption.strip() or not is_encodable(caption):
        report.add("caption without words or with broken characters: caption skipped", f"caption {annotation['id']}")
        return None
    return build_phrase(f"caption-{annotation['id']}", caption.strip(), types=[CAPTION_TYPE])


def _read_file(
    path: Path,
    kind: str,
    images: dict[str, tuple],
    groups: dict[str, bytearray],
    categories: dict[str, list[Any]],
    report: ReadingReport,
) -> None:
    """Adds the images, annotations (a line of JSON each, by image) and categories of a file."""
    seen: set[str] = set()
    for key, entry in iterate_json_lists(path):
        if key not in ("images", "annotations", "categories"):
            continue
        number = entry.get("id")
        if number is None:
            raise ValueError(f"{path}: an entry of `{key}` has no `id`: {json.dumps(entry):.80}")
        if key == "images":
            _add_image(images, entry, path)
        elif key == "categories":
            categories[str(number)] = [_check_name(entry, path), entry.get("supercategory")]
        elif str(number) in seen:
            report.add("annotation id occurs twice: the first is kept", f"{path.name}, annotation {number}")
        else:
            seen.add(str(number))
            line = json.dumps([kind, entry], separators=(",", ":"))
            groups.setdefault(str(entry.get("image_id")), bytearray()).extend(line.encode() + b"\n")
    if not seen:
        report.add(EMPTY_FILE, str(path))
    if not images:
        raise ValueError(f"{path} has no list `images`. COCO's format is expected.")


def _add_image(images: dict[str, tuple], entry: dict[str, Any], path: Path) -> None:
    """Notes file name and size; the files of both kinds list the same images."""
    if not isinstance(entry.get("file_name"), str) or not entry["file_name"]:
        raise ValueError(f"{path}: image {entry['id']} has no `file_name` (got {entry.get('file_name')!r}).")
    image = (entry["file_name"], entry.get("width"), entry.get("height"))
    if images.setdefault(str(entry["id"]), image) != image:
        raise ValueError(f"{path}: image id {entry['id']} stands for two different images. Make the ids unique.")


def _check_name(entry: dict[str, Any], path: Path) -> str:
    name = entry.get("name")
    if not isinstance(name, str) or not re.search(r"\w", name):
        raise ValueError(f"{path}: category {entry['id']} has no `name` (got {name!r}).")
    return name


def _iterate_group(group: bytes | bytearray) -> Iterator[tuple[str, dict[str, Any]]]:
    """Annotations of an image with their kind."""
    for line in group.splitlines():
        yield tuple(json.loads(line))
