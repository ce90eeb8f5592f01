# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""ALBEF's lists for image-text retrieval: images with all their captions."""

from typing import Any

from albef_amc.datasets_scripts.list_builder import Entry, ListBuilder, name_phrase
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.record_groups import RecordGroups, iterate_records
from albef_amc.datasets_scripts.task_features import CAPTION_FEATURES, CAPTIONED_FEATURES


class AlbefRetrieval(ListBuilder):
    """Builder for ALBEF's retrieval lists (COCO, Flickr30k): one row per image with its captions.

    Example:

        builder = AlbefRetrieval(
            cache_dir="cache", data_root="data", image_root="coco", train_files="coco_train.json",
            test_files="coco_test.json",
        )
        builder.download_and_prepare()
        rows = builder.as_dataset(split="test")
    """

    DESCRIPTION = "ALBEF's lists for image-text retrieval: one row per image with its captions."
    FEATURES = CAPTIONED_FEATURES

    def _read_split(self, split: str) -> RecordGroups:
        # Image path -> id, and id -> path.
        self._ids: dict[str, str] = {}
        self._paths: dict[str, str] = {}
        return super()._read_split(split)

    def _read_entry(self, entry: Entry) -> tuple[str, Any] | None:
        path = entry.read_path(entry.read("image"), "image")
        captions = [[name_phrase(entry.place, number), caption] for number, caption in entry.read_captions()]
        if path is None or not captions:
            return None
        return path, [self._read_image_id(entry, path), captions]

    def _read_image_id(self, entry: Entry, path: str) -> str:
        """Id in the list, otherwise the path.

        Raises:
            ValueError: an image with two ids, or an id of two images: it would be unclear which captions match.
        """
        given = entry.fields.get("image_id")
        if given is None:
            given = self._ids.get(path, path)
        if not isinstance(given, str | int) or isinstance(given, bool):
            raise ValueError(f"{entry.where}: `image_id` must be a text or a whole number, got {given!r:.80}.")
        image_id = str(given)
        if self._ids.setdefault(path, image_id) != image_id or self._paths.setdefault(image_id, path) != path:
            other = self._ids[path] if self._ids[path] != image_id else self._paths[image_id]
            raise ValueError(
                f"{entry.where}: image {path} with `image_id` {image_id!r} contradicts an earlier entry ({other}). "
                "Give each image one id of its own."
            )
        return image_id

    def _read_row(self, image: str, source: Any, report: ReadingReport) -> dict[str, Any] | None:
        columns = self._read_image(image, report)
        records = list(iterate_records(source))
        captions = [dict(zip(CAPTION_FEATURES, caption, strict=True)) for _, kept in records for caption in kept]
        return columns and {**columns, "image_id": records[0][0], "captions": captions}
