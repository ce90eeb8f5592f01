# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""ALBEF's lists for image-text retrieval: images with all their captions."""

from typing import Any

from albef_amc.datasets_scripts.reading.annotation_lists import name_phrase
from albef_amc.datasets_scripts.reading.coco_records import ReadingReport
from albef_amc.datasets_scripts.reading.task_lists import Entry, TaskListBuilder, iterate_lines
from albef_amc.datasets_scripts.task_features import CAPTIONED_FEATURES


class AlbefRetrieval(TaskListBuilder):
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

    def _read_split(self, split: str) -> dict[str, Any]:
        # Image by path to its id, and back.
        self._ids: dict[str, str] = {}
        self._paths: dict[str, str] = {}
        return super()._read_split(split)

    def _read_entry(self, entry: Entry) -> tuple[str, Any] | None:
        path = entry.read_path(entry.read("image"), "image", self.report)
        captions = entry.read("caption")
        captions = [captions] if isinstance(captions, str) else captions
        if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
            raise ValueError(f"{entry.where}: `caption` must be a text or a list of texts, got {captions!r:.80}.")
        kept = [
            [name_phrase(entry.place, number), caption]
            for number, caption in enumerate(captions)
            if entry.keep_text(caption, "caption", self.report)
        ]
        if path is None or not kept:
            return None
        return path, [self._read_image_id(entry, path), kept]

    def _read_image_id(self, entry: Entry, path: str) -> str:
        """The id that the list gives, or else the path.

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
        found = self._read_image(image, report)
        if found is None:
            return None
        entries = list(iterate_lines(source))
        captions = [
            {"caption_id": caption_id, "caption": caption} for _, kept in entries for caption_id, caption in kept
        ]
        return {**found, "image_id": entries[0][0], "captions": captions}
