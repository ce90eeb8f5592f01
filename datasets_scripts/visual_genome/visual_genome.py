# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Visual Genome: region descriptions, objects, attributes, attributes with a position, and relationships."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from albef_amc.datasets_scripts.features import build_phrase, build_row
from albef_amc.datasets_scripts.reading.image_files import StoredImage, read_annotated_image
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.record_groups import iterate_records
from albef_amc.datasets_scripts.reading.regions import clean_box
from albef_amc.datasets_scripts.source_builder import ImageRootConfig, SourceBuilder
from albef_amc.datasets_scripts.true_phrases import list_true_texts
from albef_amc.datasets_scripts.visual_genome.annotation_files import (
    IMAGE_DATA_FILE,
    IMAGE_FOLDERS,
    group_phrases,
    load_image_data,
)
from albef_amc.datasets_scripts.visual_genome.phrases import ANNOTATION_KINDS, SPATIAL, PhraseRecord, describe_position
from albef_amc.ranges_albef import check_choice


@dataclass
class VisualGenomeConfig(ImageRootConfig):
    """Folders, and the annotations that become phrases.

    Args:
        data_root (`str`): folder of `image_data.json` and the annotation file.
        annotations (`str`, defaults to "regions"): "regions" (region descriptions), "objects" (names), "attributes"
            ("{attribute} {name}"), "attributes_spatial" (the same with a position in the image) or "relationships"
            ("{subject} {predicate} {object}", with the box of the subject).
        image_root (`str`, *optional*): folder that holds `VG_100K` and `VG_100K_2`; `data_root` by default.
        embed_images (`bool`, defaults to `True`): whether rows hold the bytes of the images; otherwise they hold paths
            on this machine, and the files must not be moved.
    """

    annotations: str = "regions"

    def _check_options(self) -> None:
        check_choice("annotations", self.annotations, ANNOTATION_KINDS)

    def list_splits(self) -> list[str]:
        """The only split."""
        return ["train"]

    def list_annotation_paths(self) -> list[Path]:
        """List of images, and annotations."""
        names = (IMAGE_DATA_FILE, ANNOTATION_KINDS[self.annotations].file_name)
        return [Path(self.data_root) / name for name in names]


class VisualGenome(SourceBuilder):
    """Builder for Visual Genome: one row per image; there is no official split, the only one is "train".

    Example:

        builder = VisualGenome(cache_dir="cache", data_root="visual_genome", annotations="attributes")
        builder.download_and_prepare()
        rows = builder.as_dataset(split="train")
    """

    BUILDER_CONFIG_CLASS = VisualGenomeConfig
    CONFIGURATIONS: ClassVar[dict[str, dict[str, Any]]] = {kind: {"annotations": kind} for kind in ANNOTATION_KINDS}
    DESCRIPTION = "Photographs with regions and the phrases that describe them."
    # Images of release 1.2 and later; those without a usable phrase of the chosen annotations have no row.
    PUBLISHED_COUNTS = {"train": {"rows": 108_077}}

    def _read_split(self, split: str) -> dict[int, Any]:
        image_data_path, path = self.config.list_annotation_paths()
        images = load_image_data(image_data_path)
        groups = group_phrases(path, ANNOTATION_KINDS[self.config.annotations], images, self.report)
        for image_id, group in groups.items():
            if not group:
                self.report.add("image without a phrase: image skipped", f"image {image_id}")
        return {image_id: (images[image_id], group) for image_id, group in groups.items() if group}

    def _read_row(self, image: Any, source: Any, report: ReadingReport) -> dict[str, Any] | None:
        (width, height, likely_folder), group = source
        root = self.config.get_image_folder()
        folders = sorted(IMAGE_FOLDERS, key=lambda name: name != likely_folder)
        names = [f"{folder}/{image}.jpg" for folder in folders]
        file_name = next((name for name in names if (root / name).is_file()), names[0])
        stored = read_annotated_image(root / file_name, (width, height), report)
        if stored is None:
            return None
        records = [(phrase_id, PhraseRecord("", *values)) for phrase_id, *values in iterate_records(group)]
        phrases = self._read_phrases(records, stored, report)
        image_bytes, size = self.config.build_image(file_name, stored), stored.upright_size
        return build_row(image_bytes, image, *size, phrases, true_phrases=_list_other_words(records, phrases))

    def _read_phrases(
        self, records: list[tuple[str, PhraseRecord]], stored: StoredImage, report: ReadingReport
    ) -> list[dict[str, Any]]:
        phrases = []
        for phrase_id, record in records:
            place = f"phrase {phrase_id}"
            box = clean_box(record.box, stored.width, stored.height, place, report, is_xywh=True)
            words, boxes = record.phrase, None if box is None else [stored.turn_box(box)]
            if self.config.annotations == SPATIAL:
                if not boxes:
                    report.add("phrase without a usable box has no position: phrase skipped", place)
                    continue
                words = f"{words} {describe_position(boxes[0], *stored.upright_size)}"
            elif not boxes:
                report.add("phrase without a usable box: phrase kept without a region", place)
            fields = {"boxes": boxes, "types": record.types, "paraphrases": record.paraphrases}
            phrases.append(build_phrase(phrase_id, words, **fields))
        return phrases


def _list_other_words(records: list[tuple[str, PhraseRecord]], phrases: list[dict[str, Any]]) -> list[str] | None:
    """What the records say of an image that is not among its phrases: names of objects, words without a position."""
    texts = {text for _, record in records for text in (record.phrase, *(record.true_phrases or ()))}
    return sorted(texts.difference(list_true_texts({"phrases": phrases}))) or None
