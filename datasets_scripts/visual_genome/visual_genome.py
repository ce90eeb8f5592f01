# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Visual Genome: region descriptions, objects, attributes, attributes with a place, and relationships."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from albef_amc.datasets_scripts.features import build_phrase, build_row
from albef_amc.datasets_scripts.reading.coco_records import ReadingReport, clean_box
from albef_amc.datasets_scripts.reading.image_files import StoredImage, choose_frame, read_image_file
from albef_amc.datasets_scripts.source_builder import ImageRootConfig, SourceBuilder
from albef_amc.datasets_scripts.visual_genome.files import (
    IMAGE_DATA_FILE,
    ListedImage,
    group_phrases,
    iterate_records,
    load_image_data,
)
from albef_amc.datasets_scripts.visual_genome.phrases import ANNOTATION_KINDS, SPATIAL, describe_place
from albef_amc.ranges_albef import check_choice


@dataclass
class VisualGenomeConfig(ImageRootConfig):
    """Where the files are, and which of the annotations become phrases.

    Args:
        data_root (`str`): folder of `image_data.json` and the file of the annotations.
        annotations (`str`, defaults to "regions"): "regions" (region descriptions), "objects" (names), "attributes"
            ("{attribute} {name}"), "attributes_spatial" (the same with a place in the image) or "relationships"
            ("{subject} {predicate} {object}", the box is the subject's).
        image_root (`str`, *optional*): folder that holds `VG_100K` and `VG_100K_2`; `data_root` by default.
        embed_images (`bool`, defaults to `True`): whether the rows hold the images' bytes; else they hold their paths
            on this machine, and the files must stay where they are.
    """

    annotations: str = "regions"

    def __post_init__(self):
        check_choice("annotations", self.annotations, ANNOTATION_KINDS)
        super().__post_init__()
        for path in self.list_annotation_paths():
            if not path.is_file():
                raise FileNotFoundError(
                    f"No `{path.name}` in {path.parent}. Visual Genome is downloaded and unpacked by hand: see "
                    "docs/datasets.md#visual-genome. Put the file there, or check `data_root` and `annotations`."
                )

    def list_splits(self) -> list[str]:
        """The only split."""
        return ["train"]

    def list_annotation_paths(self) -> list[Path]:
        """The list of images and the annotations."""
        return [
            Path(self.data_root) / name for name in (IMAGE_DATA_FILE, ANNOTATION_KINDS[self.annotations].file_name)
        ]


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
    # Images of release 1.2 and later; those without a usable phrase of the chosen annotations are no rows.
    PUBLISHED_COUNTS = {"train": {"rows": 108_077}}

    def _read_splits(self) -> dict[str, dict[Any, Any]]:
        image_data_path, path = self.config.list_annotation_paths()
        images = load_image_data(image_data_path, self.report)
        groups = group_phrases(path, ANNOTATION_KINDS[self.config.annotations], images, self.report)
        for image_id, group in groups.items():
            if not group:
                self.report.add("image without a phrase: image skipped", f"image {image_id}")
        return {"train": {image_id: (images[image_id], group) for image_id, group in groups.items() if group}}

    def _read_row(self, image: Any, source: Any, report: ReadingReport) -> dict[str, Any] | None:
        listed, group = source
        file_name, stored = self._read_image(image, listed, report)
        if stored is None:
            return None
        phrases = self._read_phrases(group, stored, report)
        if not phrases:
            report.add("image without a phrase: image skipped", f"image {image}")
            return None
        return build_row(self.config.build_image(file_name, stored), image, *stored.upright_size, phrases)

    def _read_image(self, image_id: int, listed: ListedImage, report: ReadingReport) -> tuple[str, StoredImage | None]:
        """Path and file of an image; in both folders, the one that its address names."""
        folder = self.config.get_image_folder()
        names = listed.list_paths(image_id)
        file_name = next((name for name in names if (folder / name).is_file()), names[0])
        stored = read_image_file(folder / file_name, report)
        if stored is not None:
            stored = choose_frame(stored, (listed.width, listed.height), folder / file_name, report)
        return file_name, stored

    def _read_phrases(self, group: bytearray, stored: StoredImage, report: ReadingReport) -> list[dict[str, Any]]:
        phrases = []
        for phrase_id, record in iterate_records(group):
            box = clean_box(record.box, stored.width, stored.height, f"phrase {phrase_id}", report, is_xywh=True)
            words, boxes = record.phrase, None if box is None else [stored.turn_box(box)]
            if self.config.annotations == SPATIAL:
                if not boxes:
                    report.add("phrase without a usable box has no position: phrase skipped", f"phrase {phrase_id}")
                    continue
                words = f"{words} {describe_place(boxes[0], *stored.upright_size)}"
            elif not boxes:
                report.add("phrase without a usable box: phrase kept without a region", f"phrase {phrase_id}")
            fields = {"boxes": boxes, "types": record.types, "paraphrases": record.paraphrases}
            phrases.append(build_phrase(phrase_id, words, **fields))
        return phrases
