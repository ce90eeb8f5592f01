# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Tangrams of KiloGram: the pieces of an SVG drawing as polygons and as pixels of an image."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageColor

from albef_amc.datasets_scripts.reading.xml_files import read_xml
from albef_amc.datasets_scripts.row_checks import BORDER_TOLERANCE

# Side of the square images in pixels, as published.
IMAGE_SIDE = 224
COLORS = ("coral", "gold", "lightskyblue", "lightpink", "mediumseagreen", "darkgrey", "lightgrey")
BACKGROUND = "white"
# Corners of a piece; pieces of tangrams have three or four.
MIN_CORNERS, MAX_CORNERS = 3, 100
# zlib level: for plain areas nearly as small as the highest, and several times as fast.
COMPRESS_LEVEL = 3


@dataclass(frozen=True)
class Drawing:
    """Pieces of a tangram in the square image.

    Args:
        polygons (`dict[str, list[float]]`): piece id -> corners x, y, x, y, ... in pixels, in drawing order,
            rounded to float32 as in the rows.
        pieces (`np.ndarray` of shape `(224, 224)`): number of the polygon, from 1, at each pixel; 0 for none.
    """

    polygons: dict[str, list[float]]
    pieces: np.ndarray

    def list_boxes(self, piece_ids: list[str]) -> list[list[float]]:
        """Boxes x_min, y_min, x_max, y_max of pieces."""
        polygons = [self.polygons[piece_id] for piece_id in piece_ids]
        return [[min(p[::2]), min(p[1::2]), max(p[::2]), max(p[1::2])] for p in polygons]

    def paint(self, colors: Mapping[str, str]) -> bytes:
        """Paint the pieces, as a PNG file.

        Args:
            colors (`dict[str, str]`): piece id -> name of its colour; a piece without one is not painted.
        """
        names = [BACKGROUND, *(colors.get(piece_id, BACKGROUND) for piece_id in self.polygons)]
        palette = np.array([ImageColor.getrgb(name) for name in names], dtype=np.uint8)
        file = BytesIO()
        Image.fromarray(palette.take(self.pieces, axis=0)).save(file, format="PNG", compress_level=COMPRESS_LEVEL)
        return file.getvalue()


@lru_cache(maxsize=16)  # annotations of a tangram are adjacent
def read_drawing(path: Path) -> Drawing:
    """Read a drawing of polygons, centred in a square of its longer side and scaled to the image.

    Transforms of the pieces are applied. A pixel belongs to the piece that contains its centre, to the later one where
    pieces overlap; the white line around the pieces is not drawn, so a polygon equals its piece.

    Args:
        path (`Path`): SVG file with `viewBox` and `polygon` elements that have an `id`.

    Raises:
        ValueError: another kind of file; the message gives the reason.
    """
    root = read_xml(path)
    x_min, y_min, width, height = _read_numbers(root.get("viewBox"), "viewBox", 4)
    side = max(width, height)
    if min(width, height) <= 0:
        raise ValueError("its `viewBox` has no area")
    origin = np.array([x_min - (side - width) / 2, y_min - (side - height) / 2])
    polygons: dict[str, list[float]] = {}
    for element in root.iter():
        if not str(element.tag).endswith("}polygon"):
            if element.get("transform"):
                raise ValueError(f"a `{element.tag}` is transformed; only polygons may be")
            continue
        if len(polygons) == len(COLORS):
            raise ValueError(f"it has more than {len(COLORS)} pieces, those of a tangram")
        piece_id = element.get("id")
        if not piece_id or piece_id in polygons:
            raise ValueError(f"two pieces share the id {piece_id}" if piece_id else "a piece has no id")
        with np.errstate(over="ignore", invalid="ignore"):
            corners = (_read_corners(element) - origin) * np.divide(IMAGE_SIDE, side)
        if not ((corners >= -BORDER_TOLERANCE) & (corners <= IMAGE_SIDE + BORDER_TOLERANCE)).all():
            raise ValueError(f"a corner of piece {piece_id} lies outside the square around the `viewBox`")
        polygons[piece_id] = corners.clip(0, IMAGE_SIDE).astype(np.float32).ravel().tolist()
    return Drawing(polygons, _draw(polygons))


def _read_corners(element: ElementTree.Element) -> np.ndarray:
    """Transformed corners of a polygon element, of shape `(num_corners, 2)`."""
    numbers = _read_numbers(element.get("points"), "points")
    if len(numbers) % 2 or not MIN_CORNERS <= len(numbers) // 2 <= MAX_CORNERS:
        raise ValueError(
            f"piece {element.get('id')} has {len(numbers)} coordinates; three points or more are needed, and at most "
            f"{MAX_CORNERS}"
        )
    corners = np.array(numbers).reshape(-1, 2)
    transform = element.get("transform")
    if not transform:
        return corners
    found = re.fullmatch(r"\s*matrix\((.*)\)\s*", transform)
    if not found:
        raise ValueError(f"transform {transform!r:.60} is not read; only `matrix` is")
    a, b, c, d, e, f = _read_numbers(found[1], "transform", 6)
    return corners @ np.array([[a, b], [c, d]]) + [e, f]


def _read_numbers(text: str | None, name: str, count: int | None = None) -> list[float]:
    try:
        numbers = [float(value) for value in re.split(r"[\s,]+", (text or "").strip())]
    except ValueError as error:
        raise ValueError(f"`{name}` is {text!r:.60}; numbers are expected") from error
    if not all(map(math.isfinite, numbers)) or count not in (None, len(numbers)):
        raise ValueError(f"`{name}` is {text!r:.60}; {count or 'finite'} numbers are expected")
    return numbers


def _draw(polygons: Mapping[str, list[float]]) -> np.ndarray:
    """Number of the piece at each pixel, from 1; 0 for none."""
    pieces = np.zeros((IMAGE_SIDE, IMAGE_SIDE), dtype=np.uint8)
    for number, (piece_id, polygon) in enumerate(polygons.items(), start=1):
        inside = rasterize(polygon)
        if not inside.any():
            raise ValueError(f"piece {piece_id} covers no pixel of the image of {IMAGE_SIDE} x {IMAGE_SIDE}")
        pieces[inside] = number
    return pieces


def rasterize(polygon: list[float]) -> np.ndarray:
    """Pixels whose centres lie in a polygon (even-odd rule).

    Args:
        polygon (`list[float]`): x, y, x, y, ... in pixels of the image.

    Returns:
        `np.ndarray` of `bool` and shape `(224, 224)`.
    """
    centers = np.arange(IMAGE_SIDE) + 0.5
    corners = np.array(polygon).reshape(-1, 2)
    inside = np.zeros((IMAGE_SIDE, IMAGE_SIDE), dtype=bool)
    for (x_from, y_from), (x_to, y_to) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y_from == y_to:
            continue
        crosses = (y_from <= centers) != (y_to <= centers)
        crossings = x_from + (centers - y_from) * (x_to - x_from) / (y_to - y_from)
        inside ^= crosses[:, None] & (crossings[:, None] <= centers)
    return inside
