# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""COCO as published: objects of `instances_*.json` and captions of `captions_*.json`."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from albef_amc.datasets_scripts.features import build_phrase, build_row
from albef_amc.datasets_scripts.reading.image_files import StoredImage, find_path_problem, read_annotated_image
from albef_amc.datasets_scripts.reading.json_lists import iterate_json_lists
from albef_amc.datasets_scripts.reading.reading_report import EMPTY_FILE, ReadingReport
from albef_amc.datasets_scripts.reading.record_groups import RecordGroups, iterate_records
from albef_amc.datasets_scripts.reading.regions import mark_incomplete, read_object_region
from albef_amc.datasets_scripts.reading.texts import has_words
from albef_amc.datasets_scripts.source_builder import SourceBuilder, SplitsConfig

ANNOTATIONS_FOLDER = "annotations"
KINDS = ("instances", "captions")
CAPTION_TYPE = "caption"
CROWD_TYPE = "crowd"


@dataclass
class CocoConfig(SplitsConfig):
    """Folders, and the annotations to read.

    Args:
        data_root (`str`): folder that holds `annotations`.
        splits (`list[str]` or `str`, *optional*): such as "val2017"; all that have a file in `annotations` by default.
        kinds (`list[str]` or `str`, defaults to instances and captions): annotations that become phrases: "instances"
            (names of categories, with box and outline) and "captions" (sentences, without a region).
        keep_crowds (`bool`, defaults to `False`): whether regions of a crowd (`iscrowd`) become phrases of the type
            "crowd"; they are not a single object that a phrase could mean.
        image_root (`str`, *optional*): folder of the image folders (`train2017`, ...); `data_root` by default.
        embed_images (`bool`, defaults to `True`): whether rows hold the bytes of the images; otherwise they hold paths
            on this machine, and the files must not be moved.
    """

    kinds: list[str] | tuple[str, ...] | str = KINDS
    keep_crowds: bool = False

    def _check_options(self) -> None:
        self.kinds = self._choose_several("kinds", KINDS)
        folder = Path(self.data_root) / ANNOTATIONS_FOLDER
        names = {path.stem.partition("_")[2] for kind in self.kinds for path in folder.glob(f"{kind}_*.json")}
        found = sorted(name for name in names if re.fullmatch(r"\w+", name))
        if not found:
            raise FileNotFoundError(f"No `{self.kinds[0]}_*.json` in {folder}. Put it there or check `data_root`.")
        self.splits = self._choose_several("splits", found) if self.splits else found

    def get_path(self, kind: str, split: str) -> Path:
        """Annotation file of one kind and split."""
        return Path(self.data_root) / ANNOTATIONS_FOLDER / f"{kind}_{split}.json"

    def list_annotation_paths(self) -> list[Path]:
        """Existing JSON files of the kinds and splits to read."""
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
    PUBLISHED_COUNTS: ClassVar[dict[str, dict[str, int]]] = {"train2014": {"rows": 82783}, "val2014": {"rows": 40504}}

    def _read_split(self, split: str) -> dict[str, Any]:
        """Image id -> file name, size, records of its annotations, and categories."""
        contents = CocoContents(self.report)
        for kind in self.config.kinds:
            path = self.config.get_path(kind, split)
            if path.is_file():
                contents.read_file(path, kind)
            else:
                self.report.add("annotation file missing: phrases skipped", f"{kind} of {split}")
        for image_id, group in contents.groups.items():
            if image_id not in contents.images:
                for _ in iterate_records(group):
                    self.report.add("annotation of an unknown image: annotation skipped", f"{split}, image {image_id}")
        sources = {}
        for image_id, (file_name, *size) in contents.images.items():
            problem = find_path_problem(file_name)
            if problem:
                raise ValueError(
                    f"`file_name` {file_name!r} of image {image_id} of {split}: {problem}. Write it relative to the "
                    "folder of the split's images."
                )
            group = contents.groups.get(image_id, bytearray())
            sources[image_id] = (f"{split}/{file_name}", size, group, contents.categories)
        return sources

    def _read_row(self, image: str, source: Any, report: ReadingReport) -> dict[str, Any] | None:
        file_name, size, group, categories = source
        stored = read_annotated_image(self.config.get_image_folder() / file_name, size, report)
        if stored is None:
            return None
        phrases = []
        for kind, annotation in iterate_records(group):
            if kind == "captions":
                phrase = _read_caption(annotation, report)
            else:
                phrase = self._read_object(annotation, categories, stored, report)
            phrases += [] if phrase is None else [phrase]
        return build_row(self.config.build_image(file_name, stored), image, *stored.upright_size, phrases)

    def _read_object(
        self, annotation: dict[str, Any], categories: dict[str, list[Any]], stored: StoredImage, report: ReadingReport
    ) -> dict[str, Any] | None:
        """Phrase of an annotated object; without a region where its box cannot be used."""
        where, category = f"annotation {annotation['id']}", str(annotation.get("category_id"))
        if category not in categories:
            report.add("annotation of an undeclared category: annotation skipped", where)
            return None
        if annotation.get("iscrowd") and not self.config.keep_crowds:
            report.add("crowd region: region skipped", where)
            return None
        name, supercategory = categories[category]
        types = [*([supercategory] if supercategory else []), *([CROWD_TYPE] if annotation.get("iscrowd") else [])]
        region, is_incomplete = read_object_region(annotation, stored, where, report)
        if not region:
            report.add("object without a usable box: object kept without a region", where)
        return build_phrase(
            annotation["id"], name, types=mark_incomplete(types, False, is_incomplete) or None, **region
        )


def _read_caption(annotation: dict[str, Any], report: ReadingReport) -> dict[str, Any] | None:
    """Phrase of a caption, stripped of white space."""
    caption = annotation.get("caption")
    if not isinstance(caption, str) or not has_words(caption):
        report.add("caption without words or with broken characters: caption skipped", f"caption {annotation['id']}")
        return None
    return build_phrase(f"caption-{annotation['id']}", caption.strip(), types=[CAPTION_TYPE])


class CocoContents:
    """Contents of the annotation files of a split; files of both kinds list the same images.

    Args:
        report (`ReadingReport`): collects problems.
    """

    def __init__(self, report: ReadingReport):
        self.report = report
        # Id -> file name, width and height; name and supercategory; kind and annotation, by image id.
        self.images: dict[str, tuple] = {}
        self.categories: dict[str, list[Any]] = {}
        self.groups = RecordGroups()

    def read_file(self, path: Path, kind: str) -> None:
        """Read one file entry by entry.

        Raises:
            ValueError: an entry is ambiguous or lacks a required field, or there are no images.
        """
        seen: set[str] = set()
        for key, entry in iterate_json_lists(path):
            if key not in ("images", "annotations", "categories"):
                continue
            if entry.get("id") is None:
                raise ValueError(f"{path}: an entry of `{key}` has no `id`: {json.dumps(entry):.80}")
            number = str(entry["id"])
            if key == "images":
                self._add_image(number, entry, path)
            elif key == "categories":
                self._add_category(number, entry, path)
            elif number in seen:
                self.report.add("annotation id occurs twice: the first is kept", f"{path.name}, annotation {number}")
            else:
                seen.add(number)
                self.groups.add(str(entry.get("image_id")), [kind, entry])
        if not seen:
            self.report.add(EMPTY_FILE, str(path))
        if not self.images:
            raise ValueError(f"{path} has no list `images`. COCO's format is expected.")

    def _add_image(self, number: str, entry: dict[str, Any], path: Path) -> None:
        if not isinstance(entry.get("file_name"), str) or not entry["file_name"]:
            raise ValueError(f"{path}: image {number} has no `file_name` (got {entry.get('file_name')!r}).")
        image = (entry["file_name"], entry.get("width"), entry.get("height"))
        if self.images.setdefault(number, image) != image:
            raise ValueError(f"{path}: image id {number} stands for two different images. Make the ids unique.")

    def _add_category(self, number: str, entry: dict[str, Any], path: Path) -> None:
        name = entry.get("name")
        if not isinstance(name, str) or not re.search(r"\w", name):
            raise ValueError(f"{path}: category {number} has no `name` (got {name!r}).")
        self.categories[number] = [name, entry.get("supercategory")]
