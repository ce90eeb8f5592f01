# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""AMC's training lists: Visual Genome as entries of an image, its captions and the boxes they stand for."""

from dataclasses import dataclass
from typing import Any

from albef_amc.datasets_scripts.features import build_phrase, build_row
from albef_amc.datasets_scripts.reading.annotation_lists import (
    AnnotationListConfig,
    group_by_image,
    iterate_group,
    name_phrase,
)
from albef_amc.datasets_scripts.reading.coco_records import ReadingReport, mark_incomplete, read_boxes
from albef_amc.datasets_scripts.reading.image_files import UPRIGHT, StoredImage, read_image_file
from albef_amc.datasets_scripts.source_builder import SourceBuilder

# The lists that AMC publishes for Visual Genome.
PUBLISHED_FILES = ("vg_descriptions.json", "vg_attributes.json", "vg_attributes_spatial.json")


@dataclass
class AmcJsonConfig(AnnotationListConfig):
    """Where the lists and the images are.

    Args:
        data_root (`str`): folder of the lists.
        annotation_files (`list[str]` or `str`): the lists, below `data_root` or with their full path; by default the
            three that AMC publishes for Visual Genome.
        image_root (`str`, *optional*): folder that the images' paths are relative to (the one that holds `VG_100K` and
            `VG_100K_2`); `data_root` by default.
        embed_images (`bool`, defaults to `True`): whether the rows hold the images' bytes; else they hold their paths
            on this machine, and the files must stay where they are.
        path_prefixes (`dict[str, str]` or `str`, *optional*): what paths of the lists begin with, to what stands
            there instead, relative to `image_root` ("" for that folder itself); a text is removed.
    """

    annotation_files: list[str] | tuple[str, ...] | str = PUBLISHED_FILES


class AmcJson(SourceBuilder):
    """Builder for AMC's training lists: one row per image, one phrase per caption; the only split is "train".

    Example:

        builder = AmcJson(cache_dir="cache", data_root="amc", image_root="visual_genome")
        builder.download_and_prepare()
        rows = builder.as_dataset(split="train")
    """

    BUILDER_CONFIG_CLASS = AmcJsonConfig
    DESCRIPTION = "AMC's training lists: captions of image regions with their boxes."

    def _read_splits(self) -> dict[str, dict[str, Any]]:
        return {"train": group_by_image(self.config, _read_bbox, self.report)}

    def _read_row(self, image: str, source: Any, report: ReadingReport) -> dict[str, Any] | None:
        path = self.config.get_image_folder() / image
        stored = read_image_file(path, report)
        if stored is None:
            return None
        if stored.orientation != UPRIGHT:
            report.add("image is rotated by its EXIF data: boxes rotated with it", str(path))
        width, height = stored.upright_size
        phrases = _read_phrases(source, stored, report)
        return build_row(self.config.build_image(image, stored), image, width, height, phrases)


def _read_bbox(entry: dict[str, Any], where: str) -> list[Any]:
    if not isinstance(entry.get("bbox"), list):
        raise ValueError(f"{where} has no list `bbox`. Captions without boxes are read by `albef_json`.")
    return entry["bbox"]


def _read_phrases(group: bytearray, stored: StoredImage, report: ReadingReport) -> list[dict[str, Any]]:
    phrases = []
    seen = set()
    for place, captions, bbox in iterate_group(group):
        boxes, is_incomplete = read_boxes(bbox, stored.width, stored.height, place, report)
        if not boxes:
            report.add("phrase without a usable box: phrase kept without a region", place)
        if (content := repr((captions, bbox))) in seen:
            report.add("entry repeats an earlier one: entry kept", place)
        seen.add(content)
        types = mark_incomplete(None, is_incomplete)
        for number, caption in enumerate(captions):
            others = captions[:number] + captions[number + 1 :]
            phrases.append(
                build_phrase(
                    name_phrase(place, number),
                    caption,
                    boxes=[stored.turn_box(box) for box in boxes] if boxes else None,
                    types=types,
                    paraphrases=others or None,
                )
            )
    return phrases
