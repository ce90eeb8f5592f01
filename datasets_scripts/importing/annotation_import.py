# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Import of annotations: a folder with a JSON Lines file per split, pictures and a report, whole or not at all."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from albef_amc.datasets_scripts.importing.annotated_images import AnnotatedImage, AnnotatedObject
from albef_amc.datasets_scripts.importing.annotation_formats import (
    COCO,
    LABEL_STUDIO,
    YOLO,
    AnnotationFiles,
    find_annotations,
)
from albef_amc.datasets_scripts.importing.coco_annotations import read_coco
from albef_amc.datasets_scripts.importing.label_studio_annotations import read_label_studio
from albef_amc.datasets_scripts.importing.phrase_lists import read_phrase_lists
from albef_amc.datasets_scripts.importing.yolo_annotations import read_yolo
from albef_amc.datasets_scripts.jsonl.line_checks import BOX_FORMATS, NORMALIZED, XYWH, XYXY, check_line, is_text
from albef_amc.datasets_scripts.reading.image_files import StoredImage, read_annotated_image
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.regions import (
    clean_box,
    is_polygon,
    keep_usable,
    mark_incomplete,
    read_region,
)
from albef_amc.ranges_albef import check_choice

REPORT_FILE = "import.json"
IMAGES_FOLDER = "images"
TRAIN, VALIDATION = "train", "validation"
LABEL_PLACE = "{label}"
DEFAULT_SHARE = 0.1


def import_annotations(
    source: str | Path,
    output_dir: str | Path,
    *,
    annotation_format: str | None = None,
    image_root: str | Path | None = None,
    box_format: str = XYXY,
    validation_share: float = DEFAULT_SHARE,
    seed: int = 0,
    template: str = LABEL_PLACE,
    track: Callable[[Iterable[AnnotatedImage]], Iterable[AnnotatedImage]] = lambda images: images,
) -> dict[str, Any]:
    """Turn annotations of another tool into a folder that [`Jsonl`] reads.

    Objects of a picture with the same class or phrase become one phrase with all their boxes and outlines. A phrase
    that lost an object, because it could not be used, is marked ([`mark_incomplete`]) and has no region in training.

    Args:
        source (`str` or `Path`): file or folder of COCO, YOLO, Label Studio, JSON Lines or csv.
        output_dir (`str` or `Path`): folder to write; it must be new, empty, or made by an earlier import.
        annotation_format (`str`, *optional*): one of `FORMATS`; found from the contents by default.
        image_root (`str` or `Path`, *optional*): folder of the pictures, if not beside the annotations.
        box_format (`str`, defaults to "xyxy"): format of boxes in JSON Lines, one of `BOX_FORMATS`.
        validation_share (`float`, defaults to 0.1): share of the training pictures that become the split validation,
            in `[0, 1)`, unless the tool has made one. Files with the same contents stay together.
        seed (`int`, defaults to 0): which pictures they are.
        template (`str`, defaults to "{label}"): phrase of a class, such as "a {label}". Texts stay as they are.
        track (callable): iterates over the pictures and shows progress.

    Returns:
        `dict`: what `import.json` holds: format, `splits` with counts, `left_out` with the count and the first place
        of every reason.

    Raises:
        FileNotFoundError: no annotations, or no pictures.
        ValueError: annotations that cannot be read, several formats, a folder that holds something else, or no picture
            that can be used.
    """
    check_choice("box_format", box_format, BOX_FORMATS)
    if not 0 <= validation_share < 1:
        raise ValueError(f"`validation_share` must be at least 0 and below 1, got {validation_share}.")
    if LABEL_PLACE not in template:
        raise ValueError(f"`template` must have {LABEL_PLACE} where the class stands, got {template!r}.")
    source, output_dir = Path(source), Path(output_dir)
    if image_root is not None and not Path(image_root).is_dir():
        raise FileNotFoundError(f"No folder {image_root}. Check `--images`.")
    files = find_annotations(source, annotation_format)
    _check_places(files.root, output_dir)
    report = ReadingReport()
    images = _read_images(files, Path(image_root) if image_root else None, box_format, report)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{output_dir.name}-", dir=output_dir.parent) as temporary:
        folder = Path(temporary) / "new"
        rows = _Rows(folder, template, report)
        for image in track(images):
            rows.add(image)
        if not rows.rows:
            reasons = "".join(f" {count} x {reason}." for reason, count in report.counts.most_common())
            raise ValueError(f"No picture of {source} can be used.{reasons}")
        splits = rows.write_splits(validation_share, seed)
        result = {
            "format": files.annotation_format,
            "source": source.name,
            "template": template,
            "validation_share": validation_share,
            "seed": seed,
            "albef_amc": version("albef-amc"),
            "splits": splits,
            "left_out": {
                reason: {"count": count, "first": report.first_places[reason]}
                for reason, count in report.counts.most_common()
            },
        }
        text = json.dumps(result, indent=2, ensure_ascii=False)
        (folder / REPORT_FILE).write_text(text + "\n", encoding="utf-8")
        if output_dir.exists():
            output_dir.replace(Path(temporary) / "old")
        folder.replace(output_dir)
    return result


def _check_places(root: Path, output_dir: Path) -> None:
    """Refuse a folder that holds something else than an import, or that overlaps the source.

    Raises:
        ValueError: such a folder.
    """
    inside, outside = output_dir.resolve(), root.resolve()
    if inside.is_relative_to(outside) or outside.is_relative_to(inside):
        raise ValueError(f"{output_dir} and the source {root} overlap. Write to a folder beside the source.")
    if output_dir.is_dir() and any(output_dir.iterdir()) and not (output_dir / REPORT_FILE).is_file():
        raise ValueError(f"{output_dir} holds files that no import made. Choose another folder, or empty it.")


def _read_images(
    files: AnnotationFiles, image_root: Path | None, box_format: str, report: ReadingReport
) -> Iterator[AnnotatedImage]:
    """Annotated pictures of the files."""
    if files.annotation_format == COCO:
        return read_coco(files.paths, files.root, image_root, report)
    if files.annotation_format == YOLO:
        return read_yolo(files.paths[0], image_root, report)
    if files.annotation_format == LABEL_STUDIO:
        return read_label_studio(files.paths, files.root, image_root, report)
    return read_phrase_lists(files.paths, files.root, image_root, box_format, report)


@dataclass
class _Row:
    """Row of a picture as JSON, with its split, and a digest and the place of the file."""

    text: str
    split: str | None
    digest: str
    source: Path


class _Rows:
    """Rows of pictures that are copied as they come.

    Args:
        folder (`Path`): new folder to write.
        template (`str`): phrase of a class.
        report (`ReadingReport`): collects problems.
    """

    def __init__(self, folder: Path, template: str, report: ReadingReport):
        self.folder = folder
        self.template = template
        self.report = report
        self.rows: dict[str, _Row] = {}
        (folder / IMAGES_FOLDER).mkdir(parents=True)

    def add(self, image: AnnotatedImage) -> None:
        """Copy a picture and keep its row; a picture that cannot be used is reported."""
        if not image.objects:
            self.report.add("image without an annotation: image skipped", image.name)
            return
        stored = read_annotated_image(image.path, image.stated_size, self.report, is_upright=image.is_upright)
        if stored is None:
            return
        phrases = self._build_phrases(image, stored)
        place = PurePosixPath(IMAGES_FOLDER, image.name.removeprefix(f"{IMAGES_FOLDER}/")).as_posix()
        digest, split = hashlib.sha256(stored.data).hexdigest(), image.split
        earlier = self.rows.get(place)
        if earlier and earlier.source != image.path:
            raise ValueError(
                f"{earlier.source} and {image.path} would both be written as {place}. Rename one of them."
            )
        if earlier:
            self.report.add("image is listed twice: its annotations are joined", image.name)
            if earlier.split != split:
                self.report.add("image in several splits: the first is kept", image.name)
            split = earlier.split
            phrases = _join_phrases(json.loads(earlier.text)["phrases"], phrases)
        if not phrases:
            self.report.add("image without a usable phrase: image skipped", image.name)
            return
        for number, phrase in enumerate(phrases):
            phrase["phrase_id"] = f"{image.name}#{number}"
        width, height = stored.upright_size
        boxes = [(box, phrase["phrase"]) for phrase in phrases for box in phrase.get("boxes", ())]
        row = {
            "image": place,
            "width": width,
            "height": height,
            "proposals": [{"box": box, "score": 1.0, "label": label} for box, label in boxes],
            "phrases": phrases,
        }
        check_line(row, XYXY, image.name)
        self.rows[place] = _Row(json.dumps(row, ensure_ascii=False), split, digest, image.path)
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stored.data)

    def write_splits(self, validation_share: float, seed: int) -> dict[str, dict[str, int]]:
        """Write a file per split; returns its counts."""
        splits = _choose_splits(self.rows, validation_share, seed)
        counts: dict[str, Counter[str]] = {}
        for name, row in self.rows.items():
            split = splits[name]
            with (self.folder / f"{split}.jsonl").open("a", encoding="utf-8") as file:
                file.write(row.text + "\n")
            phrases = json.loads(row.text)["phrases"]
            found = counts.setdefault(split, Counter())
            found["images"] += 1
            found["phrases"] += len(phrases)
            found["boxes"] += sum(len(phrase.get("boxes") or ()) for phrase in phrases)
            found["phrases_without_region"] += sum(not _has_region(phrase) for phrase in phrases)
            found["incomplete_phrases"] += sum("types" in phrase for phrase in phrases)
        return {split: dict(found) for split, found in counts.items()}

    def _build_phrases(self, image: AnnotatedImage, stored: StoredImage) -> list[dict[str, Any]]:
        """Phrases of a picture: one for all its objects with the same text."""
        groups: dict[str, list[AnnotatedObject]] = {}
        for item in image.objects:
            text = " ".join(item.label.split())
            if not item.is_phrase:
                text = self.template.replace(LABEL_PLACE, text.replace("_", " "))
            if is_text(text) and is_text(item.label):
                groups.setdefault(text, []).append(item)
            else:
                self.report.add("phrase without words or with broken characters: object skipped", item.where)
        return [self._build_phrase(text, objects, image, stored) for text, objects in groups.items()]

    def _build_phrase(
        self, text: str, objects: list[AnnotatedObject], image: AnnotatedImage, stored: StoredImage
    ) -> dict[str, Any]:
        """Phrase with the boxes and outlines of its objects, in the upright picture."""
        boxes: list[Any] = []
        polygons: list[Any] = []
        masks: list[Any] = []
        lost_boxes = lost_outlines = any(item.is_lost for item in objects)
        has_outlines = [bool(item.outlines) for item in objects if item.boxes or item.outlines]
        lost_outlines |= not all(has_outlines)
        for item in objects:
            found_boxes, found_polygons, found_masks, is_incomplete = self._read_object(item, image, stored)
            boxes += found_boxes
            polygons += found_polygons
            masks += found_masks
            lost_boxes |= len(found_boxes) < max(len(item.boxes), bool(item.outlines))
            lost_outlines |= is_incomplete
        if not boxes and any(item.boxes or item.is_lost for item in objects):
            self.report.add("phrase without a usable box: phrase kept without a region", objects[0].where)
            polygons, masks = [], []
        types = mark_incomplete(None, lost_boxes and bool(boxes), lost_outlines and bool(polygons or masks))
        fields = {"phrase": text, "boxes": boxes, "polygons": polygons, "masks": masks, "types": types}
        return {name: value for name, value in fields.items() if value}

    def _read_object(
        self, item: AnnotatedObject, image: AnnotatedImage, stored: StoredImage
    ) -> tuple[list[Any], list[Any], list[Any], bool]:
        """Boxes, polygons and masks of an object in the upright picture, and whether outlines were lost."""
        sides = (stored.width, stored.height)
        item_boxes, outlines = item.boxes, item.outlines
        if image.box_format == NORMALIZED:
            item_boxes = [_scale(box, sides) for box in item_boxes]
            outlines = [_scale(outline, sides) for outline in outlines]
        is_xywh = image.box_format == XYWH
        if not item_boxes:
            item_boxes, is_xywh = [_find_bounds(outline) for outline in outlines if is_polygon(outline)], False
            item_boxes = [_join_boxes(item_boxes)] if item_boxes else []
        boxes, _ = keep_usable(item_boxes, lambda box: clean_box(box, *sides, item.where, self.report, is_xywh))
        if not outlines:
            return [stored.turn_box(box) for box in boxes], [], [], False
        region = {"0": {"segmentation": outlines}}
        polygons, masks, is_incomplete = read_region([0], region, *sides, item.where, self.report)
        return (
            [stored.turn_box(box) for box in boxes],
            [stored.turn_polygon(polygon) for polygon in polygons or ()],
            [stored.turn_mask(mask) for mask in masks or ()],
            is_incomplete or not (polygons or masks),
        )


def _scale(values: Any, sides: tuple[int, int]) -> Any:
    """Fractions x, y, ... in pixels; anything else as it is, for the check to refuse."""
    try:
        return [value * sides[place % 2] for place, value in enumerate(values)]
    except TypeError:
        return values


def _find_bounds(polygon: list[float]) -> list[float]:
    return [min(polygon[::2]), min(polygon[1::2]), max(polygon[::2]), max(polygon[1::2])]


def _join_boxes(boxes: list[list[float]]) -> list[float]:
    """Smallest box around all."""
    return [pick(values) for pick, values in zip((min, min, max, max), zip(*boxes, strict=True), strict=True)]


def _has_region(phrase: dict[str, Any]) -> bool:
    return any(phrase.get(name) for name in ("boxes", "polygons", "masks"))


def _join_phrases(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Phrases of two entries of the same picture; those with the same text become one, without repeated regions."""
    joined = {phrase["phrase"]: phrase for phrase in first}
    for phrase in second:
        known = joined.setdefault(phrase["phrase"], phrase)
        for name in ("boxes", "polygons", "masks", "types"):
            parts = [*(known.get(name) or ()), *(phrase.get(name) or ())]
            if parts:
                known[name] = [part for place, part in enumerate(parts) if part not in parts[:place]]
    return list(joined.values())


def _choose_splits(rows: dict[str, _Row], validation_share: float, seed: int) -> dict[str, str]:
    """Split of every picture: that of the tool; a share of the others, or of train, becomes validation.

    At least one of two different pictures is in validation, unless the share is 0.
    """
    splits = {name: row.split or TRAIN for name, row in rows.items()}
    if VALIDATION in splits.values():
        return splits
    digests = {row.digest for name, row in rows.items() if splits[name] == TRAIN}
    ordered = sorted(digests, key=lambda digest: hashlib.sha256(f"{seed}/{digest}".encode()).digest())
    num_chosen = min(max(round(validation_share * len(ordered)), 1), len(ordered) - 1) if validation_share else 0
    chosen = set(ordered[: max(num_chosen, 0)])
    return {
        name: VALIDATION if split == TRAIN and rows[name].digest in chosen else split for name, split in splits.items()
    }
