# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""ALBEF's caption lists: images with captions and no boxes, for pre-training."""

from typing import Any

from albef_amc.datasets_scripts.features import build_phrase
from albef_amc.datasets_scripts.list_builder import AnnotationListConfig, Entry, ListBuilder, name_phrase
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.record_groups import iterate_records


class AlbefJson(ListBuilder):
    """Builder for ALBEF's caption lists: one row per image, one phrase per caption; the only split is "train".

    Example:

        builder = AlbefJson(cache_dir="cache", data_root="lists", annotation_files=["coco.json"], image_root="images")
        builder.download_and_prepare()
        rows = builder.as_dataset(split="train")
    """

    BUILDER_CONFIG_CLASS = AnnotationListConfig
    DESCRIPTION = "ALBEF's caption lists: images with captions, without boxes."

    def _read_entry(self, entry: Entry) -> tuple[str, Any] | None:
        image = entry.read_path(entry.read("image"), "image")
        captions = [caption for _, caption in entry.read_captions()]
        return (image, [entry.place, captions]) if image and captions else None

    def _read_row(self, image: str, source: Any, report: ReadingReport) -> dict[str, Any] | None:
        columns = self._read_image(image, report)
        if columns is None:
            return None
        return {**columns, "image_id": image, "proposals": None, "phrases": _read_phrases(source, report)}


def _read_phrases(group: bytearray, report: ReadingReport) -> list[dict[str, Any]]:
    """Distinct captions of an image, in the order of the lists."""
    phrases: dict[str, dict[str, Any]] = {}
    for place, captions in iterate_records(group):
        for number, caption in enumerate(captions):
            if caption in phrases:
                report.add("caption repeats one of the same image: caption skipped", place)
            else:
                phrases[caption] = build_phrase(name_phrase(place, number), caption)
    return list(phrases.values())
