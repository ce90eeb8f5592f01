# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""ALBEF's lists for SNLI-VE: images of Flickr30k and hypotheses about them."""

from typing import Any

from albef_amc.datasets_scripts.list_builder import Entry, ListBuilder
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.record_groups import iterate_records
from albef_amc.datasets_scripts.task_features import ENTAILED_FEATURES, HYPOTHESIS_FEATURES
from albef_amc.ranges_albef import check_choice

LABELS = tuple(HYPOTHESIS_FEATURES["label"].names)
# The lists name images without their suffix.
IMAGE_SUFFIX = ".jpg"


class AlbefSnliVe(ListBuilder):
    """Builder for ALBEF's SNLI-VE lists: one row per image with its hypotheses.

    Example:

        builder = AlbefSnliVe(
            cache_dir="cache", data_root="data", image_root="flickr30k/flickr30k-images",
            train_files="ve_train.json", val_files="ve_dev.json", test_files="ve_test.json",
        )
        builder.download_and_prepare()
        rows = builder.as_dataset(split="test")
    """

    DESCRIPTION = "ALBEF's lists for SNLI-VE: one row per image with its hypotheses."
    FEATURES = ENTAILED_FEATURES

    def _read_entry(self, entry: Entry) -> tuple[str, Any] | None:
        image = entry.read_path(entry.read("image"), "image")
        label = entry.read("label")
        check_choice("label", label, LABELS, f"{entry.where}: ")
        hypothesis = entry.read_text("sentence")
        if image is None or hypothesis is None:
            return None
        return image, [entry.place, hypothesis, LABELS.index(label)]

    def _read_row(self, image: str, source: Any, report: ReadingReport) -> dict[str, Any] | None:
        columns = self._read_image(image + IMAGE_SUFFIX, report)
        hypotheses = [dict(zip(HYPOTHESIS_FEATURES, record, strict=True)) for record in iterate_records(source)]
        return columns and {**columns, "image_id": image, "hypotheses": hypotheses}
