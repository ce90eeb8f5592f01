# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""AMC's training lists: Visual Genome as entries of an image, its captions and their boxes."""

from dataclasses import dataclass
from typing import Any

from albef_amc.datasets_scripts.features import build_phrase, build_row
from albef_amc.datasets_scripts.list_builder import AnnotationListConfig, Entry, ListBuilder, name_phrase
from albef_amc.datasets_scripts.reading.image_files import StoredImage, read_annotated_image
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.record_groups import iterate_records
from albef_amc.datasets_scripts.reading.regions import mark_incomplete, read_boxes

# The lists that AMC publishes for Visual Genome.
PUBLISHED_FILES = ("vg_descriptions.json", "vg_attributes.json", "vg_attributes_spatial.json")


@dataclass
class AmcJsonConfig(AnnotationListConfig):
    """Folders and lists.

    Args:
        data_root (`str`): folder of the lists.
        annotation_files (`list[str]` or `str`): the lists, below `data_root` or with their full path; by default the
            three that AMC publishes for Visual Genome.
        image_root (`str`, *optional*): folder that image paths are relative to (it holds `VG_100K` and `VG_100K_2`);
            `data_root` by default.
        embed_images (`bool`, defaults to `True`): whether rows hold the bytes of the images; otherwise they hold paths
            on this machine, and the files must not be moved.
        path_prefixes (`dict[str, str]` or `str`, *optional*): prefix of the paths in the lists -> its replacement,
            relative to `image_root` ("" for that folder itself); a text is a prefix to remove.
    """

    annotation_files: list[str] | tuple[str, ...] | str = PUBLISHED_FILES


class AmcJson(ListBuilder):
    """Builder for AMC's training lists: one row per image, one phrase per caption; the only split is "train".

    Example:

        builder = AmcJson(cache_dir="cache", data_root="amc", image_root="visual_genome")
        builder.download_and_prepare()
        rows = builder.as_dataset(split="train")
    """

    BUILDER_CONFIG_CLASS = AmcJsonConfig
    DESCRIPTION = "AMC's training lists: captions of image regions with their boxes."

    def _read_entry(self, entry: Entry) -> tuple[str, Any] | None:
        boxes = entry.fields.get("bbox")
        if not isinstance(boxes, list):
            raise ValueError(f"{entry.where} has no list `bbox`. Captions without boxes are read by `albef_json`.")
        image = entry.read_path(entry.read("image"), "image")
        captions = [caption for _, caption in entry.read_captions()]
        return (image, [entry.place, captions, boxes]) if image and captions else None

    def _read_row(self, image: str, source: Any, report: ReadingReport) -> dict[str, Any] | None:
        stored = read_annotated_image(self.config.get_image_folder() / image, (None, None), report)
        if stored is None:
            return None
        phrases = _read_phrases(source, stored, report)
        return build_row(self.config.build_image(image, stored), image, *stored.upright_size, phrases)


def _read_phrases(group: bytearray, stored: StoredImage, report: ReadingReport) -> list[dict[str, Any]]:
    phrases = []
    seen = set()
    for place, captions, bbox in iterate_records(group):
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
