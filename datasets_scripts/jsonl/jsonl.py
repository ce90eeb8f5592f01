# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""JSON Lines of your own: one row of the schema per line, images beside the files."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from albef_amc.datasets_scripts.features import build_phrase, build_row
from albef_amc.datasets_scripts.jsonl.line_checks import BOX_FORMATS, NORMALIZED, XYWH, XYXY, check_line
from albef_amc.datasets_scripts.reading.image_files import find_path_problem, read_annotated_image
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.regions import (
    MIN_POLYGON_LENGTH,
    clean_box,
    has_too_many_outlines,
    keep_usable,
    mark_incomplete,
    reaches_image,
)
from albef_amc.datasets_scripts.source_builder import ImageRootConfig, SourceBuilder
from albef_amc.ranges_albef import check_choice
from albef_amc.regions_albef import decode_rle, encode_rle
from albef_amc.text_files_albef import open_text_file

SUFFIX = ".jsonl"
KEPT_FIELDS = ("points", "caption", "spans", "paraphrases")


@dataclass
class JsonlConfig(ImageRootConfig):
    """Folders, and the format of the boxes.

    Args:
        data_root (`str`): folder of the files; each `NAME.jsonl` is the split NAME.
        box_format (`str`, defaults to "xyxy"): format of a box: "xyxy" (x_min, y_min, x_max, y_max in pixels), "xywh"
            (x_min, y_min, width, height in pixels) or "normalized_xyxy" (fractions of width and height).
        image_root (`str`, *optional*): folder that image paths are relative to; `data_root` by default.
        embed_images (`bool`, defaults to `True`): whether rows hold the bytes of the images; otherwise they hold paths
            on this machine, and the files must not be moved.
    """

    box_format: str = XYXY

    def _check_options(self) -> None:
        check_choice("box_format", self.box_format, BOX_FORMATS)
        if not self.list_annotation_paths():
            raise FileNotFoundError(f"No `*{SUFFIX}` in {self.data_root}. Put one there for every split.")
        for path in self.list_annotation_paths():
            if not re.fullmatch(r"\w+", path.stem):
                raise ValueError(f"{path} is not the name of a split: letters, digits and `_` are. Rename it.")

    def list_splits(self) -> list[str]:
        """File names without their suffix."""
        return [path.stem for path in self.list_annotation_paths()]

    def list_annotation_paths(self) -> list[Path]:
        """The files, by name."""
        return sorted(path for path in Path(self.data_root).glob(f"*{SUFFIX}") if path.is_file())


class Jsonl(SourceBuilder):
    """Builder for JSON Lines: one row per line, with the fields of the schema; fields that are not given are null.

    A mistake in a line is an error with file and line; a missing or damaged image is skipped.

    Example:

        builder = Jsonl(cache_dir="cache", data_root="mine")
        builder.download_and_prepare()
        rows = builder.as_dataset(split="train")
    """

    BUILDER_CONFIG_CLASS = JsonlConfig
    DESCRIPTION = "Images with phrases and regions, from JSON Lines."

    def _read_splits(self) -> dict[str, dict[str, Any]]:
        places: dict[str, str] = {}
        splits_of: dict[str, str] = {}
        splits: dict[str, dict[str, Any]] = {}
        for path in self.config.list_annotation_paths():
            rows = splits[path.stem] = {}
            for where, text in _iterate_lines(path):
                row = _parse_line(text, where)
                check_line(row, self.config.box_format, where)
                _check_path(row["image"], where)
                image_id = _name_image(row)
                if image_id in rows:
                    raise ValueError(f"{where}: image id {image_id!r} is also in {rows[image_id][0]}. One line each.")
                if splits_of.setdefault(image_id, path.stem) != path.stem:
                    self.report.add("image in several splits: image kept in each", f"{where} ({image_id})")
                rows[image_id] = (where, text)
                for number, phrase in enumerate(row["phrases"]):
                    phrase_id = _name_phrase(phrase, where, number)
                    if phrase_id in places:
                        raise ValueError(f"{where}: phrase id {phrase_id!r} is also in {places[phrase_id]}.")
                    places[phrase_id] = where
        return splits

    def _read_row(self, image: str, source: Any, report: ReadingReport) -> dict[str, Any] | None:
        where, text = source
        row = json.loads(text)
        name = str(PurePosixPath(row["image"]))
        path = self.config.get_image_folder() / name
        stored = read_annotated_image(path, (row.get("width"), row.get("height")), report, is_upright=True)
        if stored is None:
            return None
        size = stored.upright_size
        phrases = [self._read_phrase(phrase, size, where, n, report) for n, phrase in enumerate(row["phrases"])]
        proposals = row.get("proposals")
        if proposals is not None:
            boxes = [self._read_box(entry["box"], size, where, report) for entry in proposals]
            proposals = [
                {**entry, "box": box, "score": None if entry.get("score") is None else float(entry["score"])}
                for entry, box in zip(proposals, boxes, strict=True)
                if box is not None
            ]
        return build_row(
            self.config.build_image(name, stored),
            image,
            *size,
            phrases,
            proposals,
            true_phrases=row.get("true_phrases"),
            false_phrases=row.get("false_phrases"),
        )

    def _read_phrase(
        self, phrase: dict[str, Any], size: tuple[int, int], where: str, number: int, report: ReadingReport
    ) -> dict[str, Any]:
        """Phrase with boxes clipped to the image; without a region where it has boxes and none can be used."""
        place = f"{where}, phrase {number}"
        fields = {name: phrase.get(name) for name in KEPT_FIELDS}
        fields["points"] = [[float(x), float(y)] for x, y in phrase.get("points") or ()] or phrase.get("points")
        lost_boxes = lost_outlines = False
        if phrase.get("boxes") is not None:
            boxes, lost_boxes = keep_usable(phrase["boxes"], lambda box: self._read_box(box, size, place, report))
            fields["boxes"] = boxes or None
        if phrase.get("boxes") and not fields["boxes"]:
            report.add("phrase without a usable box: phrase kept without a region", place)
            fields["polygons"] = None
        else:
            outlines = [*(phrase.get("polygons") or ()), *(phrase.get("masks") or ())]
            if has_too_many_outlines(outlines, *size, place, report):
                outlines = []
            kept, lost_outlines = keep_usable(outlines, lambda outline: _read_outline(outline, size, place, report))
            fields["polygons"] = [outline for outline in kept if isinstance(outline, list)] or None
            fields["masks"] = [outline for outline in kept if isinstance(outline, dict)] or None
        fields["types"] = mark_incomplete(phrase.get("types"), lost_boxes, lost_outlines)
        return build_phrase(_name_phrase(phrase, where, number), phrase["phrase"], **fields)

    def _read_box(
        self, box: list[float], size: tuple[int, int], where: str, report: ReadingReport
    ) -> list[float] | None:
        """A box as x_min, y_min, x_max, y_max in pixels."""
        if self.config.box_format == NORMALIZED:
            box = [value * side for value, side in zip(box, size * 2, strict=True)]
        return clean_box(box, *size, where, report, is_xywh=self.config.box_format == XYWH)


def _iterate_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Place and text of every line that is not blank."""
    with open_text_file(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path.name}, line {number}", line


def _parse_line(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON ({error}). One object per line is expected.") from error


def _check_path(image: str, where: str) -> None:
    problem = find_path_problem(image)
    if problem:
        raise ValueError(
            f"{where}: `image` {image!r}: {problem}. Write it relative to the folder of the images (`image_root`)."
        )


def _name_image(row: dict[str, Any]) -> str:
    """`image_id`, otherwise the path."""
    image_id = row.get("image_id")
    return str(PurePosixPath(row["image"])) if image_id is None else str(image_id)


def _name_phrase(phrase: dict[str, Any], where: str, number: int) -> str:
    """`phrase_id`, otherwise the place, such as `train:3#0`."""
    if phrase.get("phrase_id") is not None:
        return str(phrase["phrase_id"])
    file_name, _, line = where.partition(f"{SUFFIX}, line ")
    return f"{file_name}:{line}#{number}"


def _read_outline(
    outline: Any, size: tuple[int, int], where: str, report: ReadingReport
) -> list[float] | dict[str, Any] | None:
    """A polygon, or a mask as compressed run lengths; `None` (reported) where it is damaged or of another size."""
    if isinstance(outline, list):
        if len(outline) >= MIN_POLYGON_LENGTH and reaches_image(outline, *size):
            return outline
        reason = "outside the image" if len(outline) >= MIN_POLYGON_LENGTH else "of fewer than three points"
        report.add(f"polygon {reason}: polygon dropped", where)
        return None
    try:
        pixels = decode_rle(outline, size[::-1])
    except ValueError as error:
        report.add("mask damaged or of another size: mask dropped", f"{where} ({error})")
        return None
    if pixels.any():
        return encode_rle(pixels)
    report.add("mask without a pixel: mask dropped", where)
    return None
