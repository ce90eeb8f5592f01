# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""PhraseCut: phrases about Visual Genome images, with a box and polygons for every object that a phrase names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageDraw

from albef_amc.datasets_scripts.features import build_phrase, build_row
from albef_amc.datasets_scripts.phrasecut.subsets import list_subsets
from albef_amc.datasets_scripts.reading.image_files import StoredImage, read_annotated_image
from albef_amc.datasets_scripts.reading.json_lists import iterate_json_list
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.record_groups import RecordGroups, iterate_records
from albef_amc.datasets_scripts.reading.regions import (
    MIN_POLYGON_LENGTH,
    clean_box,
    has_too_many_outlines,
    is_id_number,
    is_number,
    keep_usable,
    mark_incomplete,
)
from albef_amc.datasets_scripts.source_builder import SourceBuilder, SplitsConfig
from albef_amc.regions_albef import MAX_COORDINATE, MAX_POLYGON_CORNERS, encode_rle
from albef_amc.text_files_albef import load_json

SPLITS = ("train", "val", "miniv", "test")
# README and code of the data set disagree about the name.
IMAGE_FILES = ("image_data_split.json", "image_data_split3000.json")
COUNTS_FILE = "name_att_rel_count.json"
IMAGES_FOLDER = "images"
MIN_DRAWN_POINTS = 2


@dataclass
class PhraseCutConfig(SplitsConfig):
    """Folders, and the splits to read.

    Args:
        data_root (`str`): folder `VGPhraseCut_v0`, which holds `refer_*.json`.
        splits (`list[str]` or `str`, *optional*): "train", "val", "miniv", "test"; those that exist by default.
        image_root (`str`, *optional*): folder of the images; `images` below `data_root` by default.
        embed_images (`bool`, defaults to `True`): whether rows hold the bytes of the images; otherwise they hold paths
            on this machine, and the files must not be moved.
    """

    def _check_options(self) -> None:
        found = [split for split in SPLITS if self.get_path(split).is_file()]
        self.splits = self._choose_several("splits", SPLITS) if self.splits else found or list(SPLITS[:1])

    @property
    def image_path(self) -> Path:
        """Sizes and splits of the images."""
        paths = [Path(self.data_root) / name for name in IMAGE_FILES]
        return next((path for path in paths if path.is_file()), paths[0])

    @property
    def counts_path(self) -> Path:
        """Counts of categories and attributes."""
        return Path(self.data_root) / COUNTS_FILE

    def get_path(self, split: str) -> Path:
        """Tasks of a split."""
        return Path(self.data_root) / f"refer_{split}.json"

    def list_annotation_paths(self) -> list[Path]:
        """Tasks, images and counts."""
        return [*map(self.get_path, self.splits), self.image_path, self.counts_path]

    def get_image_folder(self) -> Path:
        """`image_root`, or `images` below `data_root`."""
        return Path(self.image_root or Path(self.data_root) / IMAGES_FOLDER)


class PhraseCut(SourceBuilder):
    """Builder for PhraseCut: one row per image, one phrase per task, one box and mask per object that it names.

    The corners of the authors' polygons are pixels that belong to the region: `masks` equal what their reader draws,
    to the pixel. Types are the authors' subsets, see [`subsets.list_subsets`].

    Example:

        builder = PhraseCut(cache_dir="cache", data_root="VGPhraseCut_v0", splits=["test"])
        builder.download_and_prepare()
        rows = builder.as_dataset(split="test")
    """

    BUILDER_CONFIG_CLASS = PhraseCutConfig
    DESCRIPTION = "Visual Genome images with phrases, the boxes and the outlines of the objects meant."
    PUBLISHED_COUNTS: ClassVar[dict[str, dict[str, int]]] = {
        "train": {"rows": 71746, "phrases": 310816},
        "val": {"rows": 2971, "phrases": 20316},
        "miniv": {"rows": 100, "phrases": 821},
        "test": {"rows": 2545, "phrases": 14354},
    }

    def _read_splits(self) -> dict[str, dict[str, Any]]:
        images = _read_images(self.config.image_path)
        ranks = _read_ranks(self.config.counts_path)
        splits: dict[str, dict[str, Any]] = {}
        seen: set[str] = set()
        for split in self.config.splits:
            groups = RecordGroups()
            for number, task in enumerate(iterate_json_list(self.config.get_path(split))):
                task_id, image_id = task.get("task_id"), str(task.get("image_id"))
                if not isinstance(task_id, str) or not task_id or not isinstance(task.get("phrase"), str):
                    raise ValueError(
                        f"{self.config.get_path(split)}: task number {number} has no `task_id` or no `phrase`. "
                        "PhraseCut's refer_*.json are expected."
                    )
                if task_id in seen:
                    self.report.add("task id occurs twice: the first is kept", f"task {task_id}")
                elif image_id not in images:
                    self.report.add("image not in image_data_split.json: task skipped", f"task {task_id}")
                elif images[image_id][0] != split:
                    self.report.add("image belongs to another split: task skipped", f"task {task_id}")
                else:
                    groups.add(image_id, task)
                seen.add(task_id)
            splits[split] = {key: (images[key], group, ranks) for key, group in groups.items()}
        return splits

    def _read_row(self, image: str, source: Any, report: ReadingReport) -> dict[str, Any] | None:
        (_, width, height, is_in_coco), group, ranks = source
        file_name = f"{image}.jpg"
        stored = read_annotated_image(self.config.get_image_folder() / file_name, (width, height), report)
        if stored is None:
            return None
        phrases = [_read_phrase(task, stored, ranks, is_in_coco, report) for task in iterate_records(group)]
        return build_row(self.config.build_image(file_name, stored), image, *stored.upright_size, phrases)


def _read_images(path: Path) -> dict[str, tuple[str, Any, Any, bool]]:
    """Image id -> split, width, height and whether the image is in COCO."""
    images: dict[str, tuple[str, Any, Any, bool]] = {}
    for number, entry in enumerate(iterate_json_list(path)):
        image_id = entry.get("image_id")
        if not is_id_number(image_id) or not isinstance(entry.get("split"), str):
            raise ValueError(f"{path}: image number {number} has no `image_id` (a number) or no `split`.")
        if str(image_id) in images:
            raise ValueError(f"{path}: image id {image_id} occurs twice. Make the ids unique.")
        images[str(image_id)] = (entry["split"], entry.get("width"), entry.get("height"), bool(entry.get("coco_id")))
    return images


def _read_ranks(path: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Ranks of categories and of attributes, by word."""
    contents = load_json(path)
    try:
        categories, attributes = (
            {word: rank for rank, (word, _) in enumerate(contents[name])} for name in ("cat", "att")
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: lists `cat` and `att` of word and count are expected. Fetch it again.") from error
    return categories, attributes


def _read_phrase(
    task: dict[str, Any],
    stored: StoredImage,
    ranks: tuple[dict[str, int], dict[str, int]],
    is_in_coco: bool,
    report: ReadingReport,
) -> dict[str, Any]:
    """Phrase of a task, without a region where none of its boxes can be used."""
    where, size = f"task {task['task_id']}", (stored.width, stored.height)
    found = task.get("instance_boxes")
    candidates = found if isinstance(found, list) else []
    boxes, lost_boxes = keep_usable(candidates, lambda box: clean_box(box, *size, where, report, is_xywh=True))
    region: dict[str, Any] = {}
    lost_outlines, share = False, 0.0
    if not boxes:
        report.add("phrase without a usable box: phrase kept without a region", where)
    else:
        region["boxes"] = [stored.turn_box(box) for box in boxes]
        polygons, masks, share, lost_outlines = _read_outlines(task.get("Polygons"), stored, where, report)
        region["polygons"] = [stored.turn_polygon(polygon) for polygon in polygons] or None
        region["masks"] = masks or None
    structure, types = task.get("phrase_structure"), None
    if _is_structure(structure):
        types = list_subsets(structure, *ranks, len(candidates), share, is_in_coco)
    else:
        report.add("phrase without a usable structure: phrase kept without types", where)
    types = mark_incomplete(types, lost_boxes, lost_outlines)
    return build_phrase(task["task_id"], task["phrase"], types=types, **region)


def _is_structure(structure: Any) -> bool:
    return (
        isinstance(structure, dict)
        and isinstance(structure.get("name"), str)
        and isinstance(structure.get("type"), str | None)
        and all(isinstance(structure.get(name), list) for name in ("attributes", "relation_descriptions"))
        and all(isinstance(attribute, str) for attribute in structure["attributes"])
    )


def _read_outlines(
    instances: Any, stored: StoredImage, where: str, report: ReadingReport
) -> tuple[list[list[float]], list[dict[str, Any]], float, bool]:
    """Read the outlines of a task.

    Returns:
        `tuple`: flat polygons with an area, one mask of the upright image per object, the fraction of the image that
        the masks cover together, and whether only a part of the outlines was lost.
    """
    polygons: list[list[float]] = []
    masks: list[dict[str, Any]] = []
    covered = np.zeros((stored.height, stored.width), dtype=bool)
    is_lost = False
    instances = instances if isinstance(instances, list) and instances else [None]
    parts_of_all = [part for parts in instances if isinstance(parts, list) for part in parts]
    found = [*parts_of_all, *({} for _ in instances)]  # every object becomes a mask
    if has_too_many_outlines(found, stored.width, stored.height, where, report):
        return [], [], 0.0, False
    for instance in instances:
        parts = instance if isinstance(instance, list) and instance else [None]
        kept = [polygon for polygon in parts if _is_outline(polygon)]
        if len(kept) < len(parts):
            report.add("outline damaged: outline dropped", where)
        mask = np.zeros((stored.height, stored.width), dtype=bool)
        for polygon in kept:
            flat = [float(value) for point in polygon for value in point]
            if len(flat) >= MIN_POLYGON_LENGTH:
                polygons.append(flat)
            else:
                report.add("polygon of fewer than three points: no area of its own", where)
            if len(polygon) >= MIN_DRAWN_POINTS:
                mask |= _draw_polygon(polygon, stored.width, stored.height)
        if mask.any():
            covered |= mask
            masks.append(stored.turn_mask(encode_rle(mask)))
        elif kept:
            report.add("outline without a pixel in the image: outline dropped", where)
        is_lost |= len(kept) < len(parts) or not mask.any()
    return (polygons, masks, float(covered.mean()), is_lost) if masks else ([], [], 0.0, False)


def _is_outline(polygon: Any) -> bool:
    return (
        isinstance(polygon, list)
        and len(polygon) <= MAX_POLYGON_CORNERS
        and all(
            isinstance(point, list)
            and len(point) == 2
            and all(is_number(value) and abs(value) <= MAX_COORDINATE for value in point)
            for point in polygon
        )
    )


def _draw_polygon(polygon: list[list[float]], width: int, height: int) -> np.ndarray:
    """Draw a polygon as the authors do: corners truncated to integers, the outline included."""
    picture = Image.new("L", (width, height), 0)
    ImageDraw.Draw(picture).polygon([(int(x), int(y)) for x, y in polygon], outline=1, fill=1)
    return np.asarray(picture) > 0
