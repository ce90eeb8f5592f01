# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""ALBEF's caption lists: images with captions and no boxes, for pre-training."""

from typing import Any

from albef_amc.datasets_scripts.features import build_phrase, build_row
from albef_amc.datasets_scripts.reading.annotation_lists import (
    AnnotationListConfig,
    group_by_image,
    iterate_group,
    name_phrase,
)
from albef_amc.datasets_scripts.reading.coco_records import ReadingReport
from albef_amc.datasets_scripts.reading.image_files import read_image_file
from albef_amc.datasets_scripts.source_builder import SourceBuilder


class AlbefJson(SourceBuilder):
    """Builder for ALBEF's caption lists: one row per image, one phrase per caption; the only split is "train".

    Example:

        builder = AlbefJson(cache_dir="cache", data_root="lists", annotation_files=["coco.json"], image_root="images")
        builder.download_and_prepare()
        rows = builder.as_dataset(split="train")
    """

    BUILDER_CONFIG_CLASS = AnnotationListConfig
    DESCRIPTION = "ALBEF's caption lists: images with captions, without boxes."

    def _read_splits(self) -> dict[str, dict[str, Any]]:
        return {"train": group_by_image(self.config, lambda entry, where: None, self.report)}

    def _read_row(self, image: str, source: Any, report: ReadingReport) -> dict[str, Any] | None:
        stored = read_image_file(self.config.get_image_folder() / image, report)
        if stored is None:
            return None
        width, height = stored.upright_size
        phrases = _read_phrases(source, report)
        return build_row(self.config.build_image(image, stored), image, width, height, phrases)


def _read_phrases(group: bytearray, report: ReadingReport) -> list[dict[str, Any]]:
    """Captions of an image in the order of the lists, each wording once."""
    phrases: dict[str, dict[str, Any]] = {}
    for place, captions, _ in iterate_group(group):
        for number, caption in enumerate(captions):
            if caption in phrases:
                report.add("caption repeats one of the same image: caption skipped", place)
            else:
                phrases[caption] = build_phrase(name_phrase(place, number), caption)
    return list(phrases.values())
