# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Image files of a data set: safe paths, bytes checked by decoding them, annotations rotated with the image."""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.row_checks import format_sizes, is_stated_size
from albef_amc.image_processing_albef import MAX_IMAGE_BYTES, UnusableImageError, measure_image
from albef_amc.regions_albef import decode_rle, encode_rle

# EXIF orientations by their effect on the stored pixels: first exchange x and y, then mirror.
UPRIGHT = 1
EXCHANGED = (5, 6, 7, 8)
MIRRORED_IN_X = (2, 3, 6, 7)
MIRRORED_IN_Y = (3, 4, 7, 8)
ABSOLUTE_PATH = "absolute path"


@dataclass(frozen=True)
class StoredImage:
    """An image file that can be decoded.

    Args:
        data (`bytes`): the file.
        width, height (`int`): pixels of the stored array, EXIF rotation not applied.
        orientation (`int`): EXIF orientation, 1 to 8; 1 is upright.

    Example:
        >>> image = StoredImage(b"", width=150, height=110, orientation=6)
        >>> image.upright_size, image.turn_box([12, 31, 57, 66])
        ((110, 150), [44, 12, 79, 57])
    """

    data: bytes
    width: int
    height: int
    orientation: int = UPRIGHT

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height after EXIF rotation."""
        return (self.height, self.width) if self.orientation in EXCHANGED else (self.width, self.height)

    def turn_point(self, x: float, y: float) -> tuple[float, float]:
        """Map a point of the stored array to the upright image."""
        if self.orientation in EXCHANGED:
            x, y = y, x
        width, height = self.upright_size
        return (
            width - x if self.orientation in MIRRORED_IN_X else x,
            height - y if self.orientation in MIRRORED_IN_Y else y,
        )

    def turn_box(self, box: list[float]) -> list[float]:
        """Map x_min, y_min, x_max, y_max of the stored array to the upright image."""
        (x_first, y_first), (x_second, y_second) = self.turn_point(*box[:2]), self.turn_point(*box[2:])
        return [min(x_first, x_second), min(y_first, y_second), max(x_first, x_second), max(y_first, y_second)]

    def turn_polygon(self, polygon: list[float]) -> list[float]:
        """Map a flat list x, y, x, y, ... of the stored array to the upright image."""
        corners = zip(polygon[::2], polygon[1::2], strict=True)
        return [value for corner in corners for value in self.turn_point(*corner)]

    def turn_mask(self, mask: dict[str, Any]) -> dict[str, Any]:
        """Map a run-length coded mask of the stored array to the upright image."""
        if self.orientation == UPRIGHT:
            return mask
        pixels = decode_rle(mask, (self.height, self.width))
        pixels = pixels.T if self.orientation in EXCHANGED else pixels
        pixels = np.flip(pixels, axis=1) if self.orientation in MIRRORED_IN_X else pixels
        return encode_rle(np.flip(pixels, axis=0) if self.orientation in MIRRORED_IN_Y else pixels)


def find_path_problem(file_name: str) -> str | None:
    """Explain why a path of an annotation file must not be opened; `None` where it stays inside its folder.

    Example:
        >>> find_path_problem("train2014/a.jpg"), find_path_problem("../a.jpg"), find_path_problem("/a.jpg")
        (None, 'path leaves the image folder', 'absolute path')
    """
    path = PurePosixPath(file_name.replace("\\", "/"))
    if path.is_absolute() or (path.parts and ":" in path.parts[0]):
        return ABSOLUTE_PATH
    if not path.parts or ".." in path.parts or "\0" in file_name:
        return "path leaves the image folder"
    if "\\" in file_name:
        return "path with backslashes, where `/` is expected between folders"
    return None


def read_image_file(path: Path, report: ReadingReport) -> StoredImage | None:
    """Read an image file with its size; `None` (reported) where it is missing or cannot be used.

    Usable is what [`~image_processing_albef.load_image`] decodes: training and evaluation read with it.

    Args:
        path (`Path`): the file.
        report (`ReadingReport`): collects problems.
    """
    if not os.path.isfile(path):  # also where the name is too long for the system
        report.add("image file missing: image skipped", str(path))
        return None
    try:
        if path.stat().st_size > MAX_IMAGE_BYTES:
            report.add("image file larger than the limit: image skipped", str(path))
            return None
        data = path.read_bytes()
    except OSError as error:  # no permission, a damaged disk
        report.add("image file cannot be read: image skipped", f"{path} ({error.strerror})")
        return None
    try:
        (width, height), orientation = measure_image(data, name=str(path))
    except UnusableImageError as error:
        report.add(f"{error.reason}: image skipped", str(error))
        return None
    is_known = orientation in (*EXCHANGED, *MIRRORED_IN_X, *MIRRORED_IN_Y)
    return StoredImage(data, width, height, orientation if is_known else UPRIGHT)


def read_annotated_image(
    path: Path, annotated_size: tuple[Any, Any], report: ReadingReport, is_upright: bool = False
) -> StoredImage | None:
    """Read an image file in the frame of its annotations; `None` (reported) where they were made for another size.

    Published readers ignore EXIF: their coordinates belong to the stored pixels, unless the published size is that of
    the upright image.

    Args:
        path (`Path`): the file.
        annotated_size (`tuple`): width and height that the annotations state; None where they do not, which stands for
            the size of the image.
        report (`ReadingReport`): collects problems and rotations.
        is_upright (`bool`, defaults to `False`): whether coordinates always belong to the upright image.
    """
    stored = read_image_file(path, report)
    if stored is None:
        return None
    stored_size = (stored.width, stored.height)
    sizes = [stored.upright_size] if is_upright else [stored_size, stored.upright_size]
    if not any(is_stated_size(annotated_size, size) for size in sizes):
        differing = format_sizes(sizes[0], annotated_size)
        report.add("image size differs from the annotation: image skipped", f"{path} ({differing})")
        return None
    if stored.orientation == UPRIGHT:
        return stored
    if is_upright or not is_stated_size(annotated_size, stored_size):
        report.add("image is rotated by its EXIF data: boxes belong to the upright image", str(path))
        return StoredImage(stored.data, *stored.upright_size)
    report.add("image is rotated by its EXIF data: boxes rotated with it", str(path))
    return stored
