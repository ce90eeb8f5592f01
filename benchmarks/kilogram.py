# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""KiloGram, every annotation: does the picture show, in the colour of a part, exactly the polygons of the part?

    python benchmarks/kilogram.py DATA_ROOT            # all of KiloGram (some minutes)
    python benchmarks/kilogram.py DATA_ROOT --quick    # every hundredth annotation

Pictures are decoded from the rows and polygons redrawn by another rule than the builder's (half-planes, centres of
pixels). Pixels whose centre lies on an edge are not compared. Where the drawing itself overlaps, a pixel of a part may
show a piece of another one: these are counted, and all others that differ.
"""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from machine import write_result

from albef_amc.datasets_scripts import KiloGram, compute_statistics
from albef_amc.datasets_scripts.kilogram.drawings import IMAGE_SIDE, read_drawing
from albef_amc.datasets_scripts.kilogram.kilogram import SAME_DRAWINGS

EDGE_TOLERANCE = 1e-3
QUICK_STEP = 100


def find_pixels(polygon: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels whose centres lie inside all edges of a convex polygon, and those whose centres lie on an edge."""
    centers = np.arange(IMAGE_SIDE) + 0.5
    inside = [np.ones((IMAGE_SIDE, IMAGE_SIDE), dtype=bool) for _ in range(2)]
    on_edge = np.zeros((IMAGE_SIDE, IMAGE_SIDE), dtype=bool)
    corners = np.array(polygon).reshape(-1, 2)
    for (x_from, y_from), (x_to, y_to) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        length = np.hypot(x_to - x_from, y_to - y_from)
        if not length:
            continue
        side = ((x_to - x_from) * (centers[:, None] - y_from) - (y_to - y_from) * (centers - x_from)) / length
        inside[0] &= side > 0
        inside[1] &= side < 0
        on_edge |= np.abs(side) <= EDGE_TOLERANCE
    return inside[0] | inside[1], on_edge


def check_row(row: dict[str, Any], folder: Path, counts: dict[str, int]) -> None:
    """Compares the parts of a row with its picture; `folder` has the drawings."""
    pixels = np.asarray(row["image"])
    tangram = row["image_id"].rpartition("_")[0]
    drawing = read_drawing(folder / f"{SAME_DRAWINGS.get(tangram, tangram)}.svg").polygons.values()
    found = {tuple(polygon): find_pixels(polygon) for polygon in drawing}
    on_edge = np.logical_or.reduce([edge for _, edge in found.values()])
    for part in row["phrases"]:
        own = {tuple(polygon) for polygon in part["polygons"] or []}
        if not own:
            continue
        union = np.logical_or.reduce([found[polygon][0] for polygon in own])
        others = np.logical_or.reduce([np.zeros_like(union), *(found[key][0] for key in found.keys() - own)])
        color = np.median(pixels[union & ~on_edge & ~others], axis=0)
        differing = ((pixels == color).all(axis=-1) != union) & ~on_edge
        counts["parts"] += 1
        counts["parts_equal_to_the_pixel"] += not differing.any()
        counts["pixels"] += int(union.sum())
        counts["pixels_hidden_by_another_part"] += int((differing & others & union).sum())
        counts["pixels_that_differ_otherwise"] += int((differing & ~(others & union)).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_root", help="folder of full_v0.json, data_split.json and tangrams-svg")
    parser.add_argument("--quick", action="store_true", help="every hundredth annotation")
    parser.add_argument("--output", type=Path, help="JSON to write; benchmarks/results/kilogram.json by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        builder = KiloGram(cache_dir=cache, data_root=arguments.data_root)
        start = time.perf_counter()
        builder.download_and_prepare()
        seconds = time.perf_counter() - start
        rows = builder.as_dataset(split="all")
        counts: Counter[str] = Counter()
        for index in range(0, len(rows), QUICK_STEP if arguments.quick else 1):
            check_row(rows[index], builder.config.get_image_folder(), counts)
        measured = {
            "seconds_to_build": round(seconds, 1),
            "rows": {name: split.num_examples for name, split in builder.info.splits.items()},
            "left_out": dict(builder.report.counts),
            "statistics": {k: v for k, v in compute_statistics(rows).items() if k != "num_words"},
            "picture_check": {"pixels_that_differ_otherwise": 0, **counts},
        }
    write_result("kilogram", measured, arguments.output, arguments.quick)


if __name__ == "__main__":
    main()
