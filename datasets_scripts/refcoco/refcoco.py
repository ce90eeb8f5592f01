# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The RefCOCO family: RefCOCO, RefCOCO+, RefCOCOg and RefCLEF in the format of `lichengunc/refer`."""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from albef_amc.datasets_scripts.features import build_phrase, build_row
from albef_amc.datasets_scripts.reading.coco_files import load_annotations
from albef_amc.datasets_scripts.reading.image_files import StoredImage, read_annotated_image
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.regions import is_id_number, mark_incomplete, read_category, read_object_region
from albef_amc.datasets_scripts.refcoco.detections import build_proposals, load_detections
from albef_amc.datasets_scripts.refcoco.restricted_pickle import load_plain_pickle
from albef_amc.datasets_scripts.source_builder import ImageRootConfig, SourceBuilder
from albef_amc.ranges_albef import check_choice

# Data set -> authors of its splits; the first is the default.
SPLITTERS = {
    "refcoco": ("unc", "google"),
    "refcoco+": ("unc",),
    "refcocog": ("umd", "google"),
    "refclef": ("unc", "berkeley"),
}
# Counts of the authors (output of pyReferDemo.ipynb) and of the catalogue of TensorFlow Datasets (`ref_coco`).
PUBLISHED_SIZES = {
    ("refcoco", "unc"): {
        "refs": {"all": 50000, "train": 42404, "val": 3811, "testA": 1975, "testB": 1810},
        "images": {"all": 19994, "train": 16994, "val": 1500, "testA": 750, "testB": 750},
        "phrases": {"all": 142210},
    },
    ("refcoco", "google"): {
        "refs": {"train": 40000, "val": 5000, "test": 5000},
        "images": {"train": 19213, "val": 4559, "test": 4527},
    },
    ("refcoco+", "unc"): {
        "refs": {"train": 42278, "val": 3805, "testA": 1975, "testB": 1798},
        "images": {"train": 16992, "val": 1500, "testA": 750, "testB": 750},
    },
    ("refcocog", "google"): {"refs": {"train": 44822, "val": 5000}, "images": {"train": 24698, "val": 4650}},
    ("refcocog", "umd"): {
        "refs": {"train": 42226, "val": 2573, "test": 5023},
        "images": {"train": 21899, "val": 1300, "test": 2600},
    },
}
COCO_FOLDER = "images/mscoco/images/train2014"
CLEF_FOLDER = "images/saiapr_tc-12"
REF_FIELDS = {"ref_id": int, "ann_id": int, "image_id": int, "split": str, "sentences": list}


@dataclass
class RefCocoConfig(ImageRootConfig):
    """Folders, and the data set to read.

    Args:
        data_root (`str`): folder that holds `refcoco`, `refcoco+`, ... and, without `image_root`,
            `images/mscoco/images/train2014` or `images/saiapr_tc-12`.
        dataset (`str`, defaults to "refcoco"): "refcoco", "refcoco+", "refcocog" or "refclef".
        split_by (`str`, *optional*): author of the splits: "unc" or "google" (RefCOCO), "unc" (RefCOCO+), "umd" or
            "google" (RefCOCOg), "unc" or "berkeley" (RefCLEF); the first by default.
        detections_file (`str`, *optional*): detected boxes for `proposals`, below `data_root` or with its full path.
        image_root (`str`, *optional*): folder of the images.
        embed_images (`bool`, defaults to `True`): whether rows hold the bytes of the images; otherwise they hold paths
            on this machine, and the files must not be moved.
    """

    dataset: str = "refcoco"
    split_by: str | None = None
    detections_file: str | None = None

    def _check_options(self) -> None:
        check_choice("dataset", self.dataset, SPLITTERS)
        self.split_by = self.split_by or SPLITTERS[self.dataset][0]
        check_choice("split_by", self.split_by, SPLITTERS[self.dataset], f"{self.dataset}: ")

    def list_annotation_paths(self) -> list[Path]:
        """Images with annotations, referring expressions with their splits, and detections if given."""
        root = Path(self.data_root)
        paths = [root / self.dataset / "instances.json", root / self.dataset / f"refs({self.split_by}).p"]
        return [*paths, *([root / self.detections_file] if self.detections_file else [])]

    def get_image_folder(self) -> Path:
        """`image_root`, or the folder in which `refer` expects the images."""
        folder = CLEF_FOLDER if self.dataset == "refclef" else COCO_FOLDER
        return Path(self.image_root or Path(self.data_root) / folder)


class RefCoco(SourceBuilder):
    """Builder for the RefCOCO family: one row per image and split, one phrase per sentence.

    Example:

        builder = RefCoco(cache_dir="cache", data_root="refer", dataset="refcoco+")
        builder.download_and_prepare()
        rows = builder.as_dataset(split="testA")
    """

    BUILDER_CONFIG_CLASS = RefCocoConfig
    CONFIGURATIONS: ClassVar[dict[str, dict[str, Any]]] = {
        f"{dataset}_{split_by}": {"dataset": dataset, "split_by": split_by}
        for dataset, splitters in SPLITTERS.items()
        for split_by in splitters
    }
    DESCRIPTION = "Photographs with referring expressions, the box and the outline of the object meant."

    def get_published_counts(self) -> dict[str, dict[str, int]]:
        """Refs and images of each split, as published."""
        sizes = PUBLISHED_SIZES.get((self.config.dataset, self.config.split_by), {})
        counts: dict[str, dict[str, int]] = defaultdict(dict)
        for what, by_split in sizes.items():
            for split, number in by_split.items():
                counts[split][what] = number
        return dict(counts)

    def _read_splits(self) -> dict[str, dict[str, Any]]:
        instances_path, refs_path, *detection_paths = self.config.list_annotation_paths()
        images, annotations, categories = load_annotations(instances_path)
        refs = _load_refs(refs_path, images, annotations, self.report)
        detections = load_detections(detection_paths[0]) if detection_paths else None
        splits: dict[str, dict[str, Any]] = defaultdict(dict)
        for (split, image_id), group in refs.items():
            splits[split][image_id] = (images[image_id], group, annotations[image_id], categories, detections)
        for image_id in images:
            names = [split for split, sources in splits.items() if image_id in sources]
            if len(names) > 1:
                self.report.add(
                    "image in several splits: image kept in each", f"image {image_id} in {', '.join(names)}"
                )
        return dict(splits)

    def _read_row(self, image: str, source: Any, report: ReadingReport) -> dict[str, Any] | None:
        entry, refs, annotations, categories, detections = source
        path = self.config.get_image_folder() / entry["file_name"]
        stored = read_annotated_image(path, (entry.get("width"), entry.get("height")), report)
        if stored is None:
            return None
        return build_row(
            self.config.build_image(entry["file_name"], stored),
            image,
            *stored.upright_size,
            [phrase for ref in refs for phrase in _read_phrases(ref, annotations, categories, stored, report)],
            None if detections is None else build_proposals(detections, image, stored, report),
        )


def _load_refs(
    path: Path, images: dict, annotations: dict, report: ReadingReport
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Refs with a known image and annotation, by split and image id."""
    refs = load_plain_pickle(path)
    if not isinstance(refs, list):
        raise ValueError(f"{path} holds a {type(refs).__name__}; a list of refs is expected.")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    seen = set()
    for number, ref in enumerate(refs):
        _check_ref(ref, number, path)
        where = f"ref {ref['ref_id']}"
        if ref["ref_id"] in seen:
            raise ValueError(f"{path}: {where} occurs twice. Make the ids unique.")
        seen.add(ref["ref_id"])
        image_id = str(ref["image_id"])
        if image_id not in images:
            report.add("image not in instances.json: ref skipped", f"{where} (image {image_id})")
        elif str(ref["ann_id"]) not in annotations[image_id]:
            report.add("annotation not among those of the image: ref skipped", f"{where} ({ref['ann_id']})")
        else:
            groups[ref["split"], image_id].append(ref)
    return groups


def _check_ref(ref: Any, number: int, path: Path) -> None:
    for name, kind in REF_FIELDS.items():
        if not isinstance(ref, dict) or not isinstance(ref.get(name), kind):
            raise ValueError(f"{path}: ref number {number} has no `{name}` of type `{kind.__name__}`.")
    for name in ("ref_id", "ann_id", "image_id"):
        if not is_id_number(ref[name]):
            raise ValueError(f"{path}: ref number {number} has a `{name}` that is not a whole number of 64 bits.")
    if not re.fullmatch(r"\w+", ref["split"]):
        raise ValueError(f"{path}: ref {ref['ref_id']} has split {ref['split']!r}, which is not the name of a split.")
    sentences = ref["sentences"]
    if not all(isinstance(entry, dict) and isinstance(entry.get("sent"), str) for entry in sentences):
        raise ValueError(f"{path}: a sentence of ref {ref['ref_id']} has no text `sent`.")
    ids = [entry.get("sent_id") for entry in sentences]
    ids = [value for value in ids if isinstance(value, str) or is_id_number(value)]
    if len(set(ids)) < len(sentences):
        raise ValueError(f"{path}: two sentences of ref {ref['ref_id']} share a `sent_id`, or one has none.")


def _read_phrases(
    ref: dict[str, Any], annotations: dict[str, dict], categories: dict, stored: StoredImage, report: ReadingReport
) -> list[dict[str, Any]]:
    """One phrase per sentence of a ref."""
    where, annotation = f"ref {ref['ref_id']}", annotations[str(ref["ann_id"])]
    category = read_category(annotation, categories, where, report)
    region, is_incomplete = read_object_region(annotation, stored, where, report)
    if not region:
        report.add("ref without a usable box: ref kept without a region", where)
    types = mark_incomplete([category] if category else None, False, is_incomplete)
    sentences = [entry for entry in ref["sentences"] if entry["sent"].strip()]
    if len(sentences) < len(ref["sentences"]) or not sentences:
        report.add("sentence without words: sentence skipped", where)
    return [
        build_phrase(
            f"{ref['ref_id']}#{entry['sent_id']}",
            entry["sent"],
            types=types,
            paraphrases=[other["sent"] for other in sentences if other is not entry] or None,
            **region,
        )
        for entry in sentences
    ]
