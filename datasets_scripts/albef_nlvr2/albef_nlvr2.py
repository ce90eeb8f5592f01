# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""ALBEF's lists for NLVR2: pairs of images and sentences that are true or false of them."""

import json
from typing import Any

from albef_amc.datasets_scripts.list_builder import Entry, ListBuilder
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.record_groups import iterate_records
from albef_amc.datasets_scripts.task_features import PAIRED_FEATURES, SENTENCE_FEATURES

NUM_IMAGES = 2
# Labels as the lists write them, and as JSON booleans.
LABELS = {"False": 0, "True": 1, False: 0, True: 1}


class AlbefNlvr2(ListBuilder):
    """Builder for ALBEF's NLVR2 lists: one row per pair of images with the sentences about it.

    Example:

        builder = AlbefNlvr2(
            cache_dir="cache", data_root="data", image_root="nlvr2", train_files="nlvr_train.json",
            val_files="nlvr_dev.json", test_files="nlvr_test.json",
        )
        builder.download_and_prepare()
        rows = builder.as_dataset(split="val")
    """

    DESCRIPTION = "ALBEF's lists for NLVR2: one row per pair of images with the sentences about it."
    FEATURES = PAIRED_FEATURES

    def _read_entry(self, entry: Entry) -> tuple[str, Any] | None:
        images = entry.read("images")
        if not isinstance(images, list) or len(images) != NUM_IMAGES:
            found = f"{len(images)} of them" if isinstance(images, list) else repr(images)[:80]
            raise ValueError(f"{entry.where}: `images` must be a list of two paths (left, right), got {found}.")
        paths = [entry.read_path(image, "images") for image in images]
        label = entry.read("label")
        if not isinstance(label, str | bool) or label not in LABELS:
            raise ValueError(f'{entry.where}: `label` must be "True" or "False", got {label!r:.80}.')
        sentence = entry.read_text("sentence")
        if sentence is None or None in paths:
            return None
        return json.dumps(paths), [entry.place, sentence, LABELS[label]]

    def _read_row(self, image: str, source: Any, report: ReadingReport) -> dict[str, Any] | None:
        names = json.loads(image)
        found = [self._read_image(name, report) for name in names]
        images = [columns["image"] for columns in found if columns is not None]
        if len(images) < NUM_IMAGES:
            report.add("pair without both images: pair skipped", " ".join(names))
            return None
        sentences = [dict(zip(SENTENCE_FEATURES, record, strict=True)) for record in iterate_records(source)]
        return {"images": images, "image_ids": names, "sentences": sentences}
