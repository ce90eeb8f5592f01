# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""COCO-style files with phrases: `annotations.json` as COCO has it, phrases with their boxes in `phrases.json`."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
from datasets.utils import logging
from PIL import ExifTags, Image, ImageOps

from .coco_records import ReadingReport, read_boxes, read_proposals, read_region, read_spans
from .features import GROUNDING_FEATURES, build_phrase, build_row

logger = logging.get_logger(__name__)

# Upper bounds of an image's hash in per cent: 70 % train, 15 % validation, 15 % test.
SPLIT_BOUNDS = {"train": 70, "validation": 85, "test": 100}


@dataclass
class CocoPhrasesConfig(datasets.BuilderConfig):
    """Where the files are.

    Args:
        data_root (`str`): folder that holds everything below.
        annotations_file (`str`, defaults to "annotations.json"): COCO `images`, `annotations`, `categories`.
        phrases_file (`str`, defaults to "phrases.json"): list of phrase records.
        images_folder (`str`, defaults to "images"): folder of the images named by `file_name`.
    """

    data_root: str = ""
    annotations_file: str = "annotations.json"
    phrases_file: str = "phrases.json"
    images_folder: str = "images"

    def __post_init__(self):
        super().__post_init__()
        if not str(self.data_root):
            raise ValueError("`data_root` is missing: pass the folder that holds the annotations, phrases and images.")
        self.data_root = str(self.data_root)
        if not Path(self.data_root).is_dir():
            raise FileNotFoundError(f"No folder {self.data_root}. Check `data_root`; see the data set's card.")
        for name in ("annotations_file", "phrases_file", "images_folder"):
            path = self.get_path(name)
            if not path.exists():
                raise FileNotFoundError(f"No `{path.name}` in {path.parent}. Put it there or pass `{name}`.")

    def get_path(self, name: str) -> Path:
        """Path of one of the files, by the name of its argument."""
        return Path(self.data_root) / getattr(self, name)

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """Name of the cache; it changes with the contents of the files, so that an edited file is read again."""
        digest = hashlib.sha256()
        for name in ("annotations_file", "phrases_file"):
            digest.update(self.get_path(name).read_bytes())
        for path in sorted(self.get_path("images_folder").rglob("*")):
            digest.update(f"{path}/{path.stat().st_size}/{path.stat().st_mtime_ns}".encode())
        return super().create_config_id({**config_kwargs, "contents": digest.hexdigest()}, custom_features)


def choose_split(image_id: str | int) -> str:
    """Split of an image, from a hash of its id: the same in every version and order of the files.

    Example:
        >>> choose_split(790)
        'test'
    """
    percentage = int(hashlib.sha256(str(image_id).encode()).hexdigest(), 16) % 100
    return next(split for split, bound in SPLIT_BOUNDS.items() if percentage < bound)


class CocoPhrases(datasets.GeneratorBasedBuilder):
    """Builder for COCO-style files with phrases: one row per image that has a phrase; "all" joins the three splits.

    What cannot be used is left out with a reason, counted in `report` and logged; what would be ambiguous or unsafe
    (repeated ids, paths that leave the folder, files of another kind) raises a `ValueError`.

    Example:

        builder = CocoPhrases(cache_dir="cache", data_root="coco_cc_mini")
        builder.download_and_prepare()
        rows = builder.as_dataset(split="all")
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = CocoPhrasesConfig
    DEFAULT_WRITER_BATCH_SIZE = 100

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.report = ReadingReport()

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Photographs with phrases, their boxes and, where the source has them, outlines.",
            features=GROUNDING_FEATURES,
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        self.report = ReadingReport()
        images, annotations, categories = _load_annotations(self.config.get_path("annotations_file"))
        records = _load_records(self.config.get_path("phrases_file"), images, self.report)
        splits = defaultdict(list)
        for image_id, image in images.items():
            if image_id in records:
                row_source = (image, records[image_id], annotations[image_id], categories)
                splits[choose_split(image_id)].append(row_source)
            else:
                self.report.add("image without a phrase: left out", f"image {image_id}")
        if not splits:
            raise ValueError(f"No image of {self.config.data_root} has a phrase: `image_id` of the records fits none.")
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"sources": tuple(splits[split])})
            for split in SPLIT_BOUNDS
            if split in splits
        ]

    def _generate_examples(self, sources: tuple) -> Iterator[tuple[int, dict[str, Any]]]:
        report = ReadingReport()
        for key, (image, records, annotations, categories) in enumerate(sources):
            row = _read_row(self.config.get_path("images_folder"), image, records, annotations, categories, report)
            if row is not None:
                yield key, row
        self.report.update(report)

    def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        super()._download_and_prepare(*args, **kwargs)
        self.report.log(logger, self.config.data_root)


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}). It may be cut off: fetch it again.") from error


def _index_by_id(entries: list[dict[str, Any]], kind: str, path: Path) -> dict[str, dict[str, Any]]:
    """Entries by their id as text; a missing or repeated id is refused, since everything is keyed by it."""
    indexed: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or entry.get("id") is None:
            raise ValueError(f"{path}: {kind} number {number} has no `id`. Give each one its own.")
        if str(entry["id"]) in indexed:
            raise ValueError(f"{path}: {kind} id {entry['id']!r} occurs twice. Make the ids unique.")
        indexed[str(entry["id"])] = entry
    return indexed


def _load_annotations(path: Path) -> tuple[dict, dict, dict]:
    """Images by id, annotations by image id and then by id, category names by id."""
    contents = _load_json(path)
    for name in ("images", "annotations", "categories"):
        if not isinstance(contents, dict) or not isinstance(contents.get(name), list):
            raise ValueError(f"{path} has no list `{name}`. COCO's format is expected.")
    images = _index_by_id(contents["images"], "image", path)
    for image in images.values():
        _check_file_name(image.get("file_name"), path)
    annotations: dict[str, dict] = defaultdict(dict)
    for annotation_id, annotation in _index_by_id(contents["annotations"], "annotation", path).items():
        annotations[str(annotation.get("image_id"))][annotation_id] = annotation
    categories = _index_by_id(contents["categories"], "category", path)
    return images, annotations, {key: category.get("name") for key, category in categories.items()}


def _check_file_name(file_name: Any, path: Path) -> None:
    if not isinstance(file_name, str) or not file_name:
        raise ValueError(f"{path}: an image has no `file_name` (got {file_name!r}).")
    parts = PurePosixPath(file_name.replace("\\", "/"))
    if not parts.parts or parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
        raise ValueError(f"{path}: `file_name` {file_name!r} leaves the image folder. Use a path inside it.")


def _load_records(path: Path, images: dict, report: ReadingReport) -> dict[str, list[dict[str, Any]]]:
    """Phrase records that have words and a known image, by image id."""
    contents = _load_json(path)
    if not isinstance(contents, list):
        raise ValueError(f"{path} holds a {type(contents).__name__}; a list of phrase records is expected.")
    records = defaultdict(list)
    for record_id, record in _index_by_id(contents, "phrase record", path).items():
        if str(record.get("image_id")) not in images:
            report.add("phrase of an unknown image: left out", f"record {record_id}")
        elif not isinstance(record.get("phrase"), str) or not record["phrase"].strip():
            report.add("record without a phrase: left out", f"record {record_id}")
        else:
            records[str(record["image_id"])].append(record)
    return records


def _read_row(
    folder: Path,
    image: dict[str, Any],
    records: list[dict[str, Any]],
    annotations: dict[str, dict[str, Any]],
    categories: dict[str, str],
    report: ReadingReport,
) -> dict[str, Any] | None:
    """One row, or None where the image cannot be used or no phrase is left."""
    stored = _read_image(folder / image["file_name"], image, report)
    if stored is None:
        return None
    data, width, height = stored
    entries = (_read_phrase(record, annotations, width, height, report) for record in records)
    phrases = [entry for entry in entries if entry is not None]
    if not phrases:
        report.add("image without a usable phrase: left out", image["file_name"])
        return None
    return build_row(
        image={"path": image["file_name"], "bytes": data},
        image_id=image["id"],
        width=width,
        height=height,
        phrases=phrases,
        proposals=read_proposals(annotations, categories, width, height, report),
    )


def _read_image(path: Path, image: dict[str, Any], report: ReadingReport) -> tuple[bytes, int, int] | None:
    """Bytes as stored and the upright width and height, or None where the file cannot be used."""
    if not path.is_file():
        report.add("image file missing: image left out", str(path))
        return None
    data = path.read_bytes()
    try:
        with Image.open(BytesIO(data)) as picture:
            picture.load()
            width, height = ImageOps.exif_transpose(picture).size
            is_rotated = picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        report.add("image file damaged or not an image: image left out", f"{path} ({error})")
        return None
    if (image.get("width", width), image.get("height", height)) != (width, height):
        sizes = f"{width} x {height}, not {image.get('width')} x {image.get('height')}"
        report.add("image size differs from the annotation: image left out", f"{path} ({sizes})")
        return None
    if is_rotated:
        report.add("image is turned by its EXIF data: boxes are taken as those of the upright picture", str(path))
    return data, width, height


def _read_phrase(
    record: dict[str, Any], annotations: dict[str, dict], width: int, height: int, report: ReadingReport
) -> dict[str, Any] | None:
    """One entry of `phrases`, or None where none of the annotated boxes can be used."""
    where = f"record {record['id']}"
    boxes = read_boxes(record.get("bbox"), width, height, where, report)
    if record.get("bbox") and not boxes:
        report.add("phrase without a usable box: left out", where)
        return None
    polygons, masks = read_region(record.get("ann_ids"), annotations, width, height, where, report)
    return build_phrase(
        record["id"],
        record["phrase"],
        boxes=boxes,
        masks=masks,
        polygons=polygons,
        types=[record["kind"]] if record.get("kind") else None,
        caption=record.get("caption"),
        spans=read_spans(record, where, report),
    )
