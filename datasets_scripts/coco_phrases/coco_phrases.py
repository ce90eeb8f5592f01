# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""COCO-style files with phrases: `annotations.json` in COCO's format, phrases with their boxes in `phrases.json`."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef_amc.datasets_scripts.features import build_phrase, build_row
from albef_amc.datasets_scripts.reading.coco_files import index_by_id, load_annotations
from albef_amc.datasets_scripts.reading.image_files import read_annotated_image
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.regions import (
    mark_incomplete,
    read_boxes,
    read_proposals,
    read_region,
    read_spans,
)
from albef_amc.datasets_scripts.source_builder import SourceBuilder, SourceConfig
from albef_amc.text_files_albef import load_json

# Upper bounds of an image's hash in per cent: 70 % train, 15 % validation, 15 % test.
SPLIT_BOUNDS = {"train": 70, "validation": 85, "test": 100}


@dataclass
class CocoPhrasesConfig(SourceConfig):
    """Folder and names of the files.

    Args:
        data_root (`str`): folder of the files below.
        annotations_file (`str`, defaults to "annotations.json"): COCO `images`, `annotations`, `categories`.
        phrases_file (`str`, defaults to "phrases.json"): list of phrase records.
        images_folder (`str`, defaults to "images"): folder that `file_name` is relative to.
    """

    annotations_file: str = "annotations.json"
    phrases_file: str = "phrases.json"
    images_folder: str = "images"

    def list_splits(self) -> list[str]:
        """Splits that images are assigned to."""
        return list(SPLIT_BOUNDS)

    def list_annotation_paths(self) -> list[Path]:
        """The two JSON files."""
        return [Path(self.data_root) / self.annotations_file, Path(self.data_root) / self.phrases_file]

    def get_image_folder(self) -> Path:
        """`images_folder` below `data_root`."""
        return Path(self.data_root) / self.images_folder


def choose_split(image_id: str | int) -> str:
    """Choose the split of an image by a hash of its id: the same in every version and order of the files.

    Example:
        >>> choose_split(790)
        'test'
    """
    percentage = int(hashlib.sha256(str(image_id).encode()).hexdigest(), 16) % 100
    return next(split for split, bound in SPLIT_BOUNDS.items() if percentage < bound)


class CocoPhrases(SourceBuilder):
    """Builder for COCO-style files with phrases: one row per image that has a phrase; "all" joins the three splits.

    Example:

        builder = CocoPhrases(cache_dir="cache", data_root="coco_cc_mini")
        builder.download_and_prepare()
        rows = builder.as_dataset(split="all")
    """

    BUILDER_CONFIG_CLASS = CocoPhrasesConfig
    DESCRIPTION = "Photographs with phrases, their boxes and, where the source has them, outlines."

    def _read_splits(self) -> dict[str, dict[str, Any]]:
        annotations_path, phrases_path = self.config.list_annotation_paths()
        images, annotations, categories = load_annotations(annotations_path)
        records = _load_records(phrases_path, images, self.report)
        splits: dict[str, dict[str, Any]] = {split: {} for split in SPLIT_BOUNDS}
        for image_id, image in images.items():
            if image_id in records:
                source = (image, records[image_id], annotations[image_id], categories)
                splits[choose_split(image_id)][image_id] = source
            else:
                self.report.add("image without a phrase: image skipped", f"image {image_id}")
        return {split: sources for split, sources in splits.items() if sources}

    def _read_row(self, image: str, source: Any, report: ReadingReport) -> dict[str, Any] | None:
        entry, records, annotations, categories = source
        path = self.config.get_image_folder() / entry["file_name"]
        size = (entry.get("width"), entry.get("height"))
        stored = read_annotated_image(path, size, report, is_upright=True)
        if stored is None:
            return None
        width, height = stored.upright_size
        phrases = [_read_phrase(record, annotations, width, height, report) for record in records]
        return build_row(
            image={"path": entry["file_name"], "bytes": stored.data},
            image_id=image,
            width=width,
            height=height,
            phrases=[phrase for phrase in phrases if phrase is not None],
            proposals=read_proposals(annotations, categories, width, height, report),
        )


def _load_records(path: Path, images: dict, report: ReadingReport) -> dict[str, list[dict[str, Any]]]:
    """Phrase records with words and a known image, by image id."""
    contents = load_json(path)
    if not isinstance(contents, list):
        raise ValueError(f"{path} holds a {type(contents).__name__}; a list of phrase records is expected.")
    records = defaultdict(list)
    for record_id, record in index_by_id(contents, "phrase record", path).items():
        if str(record.get("image_id")) not in images:
            report.add("phrase of an unknown image: phrase skipped", f"record {record_id}")
        elif not isinstance(record.get("phrase"), str) or not record["phrase"].strip():
            report.add("record without a phrase: record skipped", f"record {record_id}")
        else:
            records[str(record["image_id"])].append(record)
    return records


def _read_phrase(
    record: dict[str, Any], annotations: dict[str, dict], width: int, height: int, report: ReadingReport
) -> dict[str, Any] | None:
    """Entry of `phrases`, or `None` (reported) where none of the annotated boxes can be used."""
    where = f"record {record['id']}"
    boxes, lost_boxes = read_boxes(record.get("bbox"), width, height, where, report)
    if record.get("bbox") and not boxes:
        report.add("phrase without a usable box: phrase skipped", where)
        return None
    polygons, masks, lost_outlines = read_region(record.get("ann_ids"), annotations, width, height, where, report)
    types = [record["kind"]] if record.get("kind") else None
    return build_phrase(
        record["id"],
        record["phrase"],
        boxes=boxes or None,
        masks=masks,
        polygons=polygons,
        types=mark_incomplete(types, lost_boxes, lost_outlines),
        caption=record.get("caption"),
        spans=read_spans(record, where, report),
    )
