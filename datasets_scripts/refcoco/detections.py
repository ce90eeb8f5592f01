# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Files of detected boxes for the RefCOCO family, in three published formats."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from albef_amc.datasets_scripts.reading.image_files import StoredImage
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.regions import clean_box, is_number
from albef_amc.text_files_albef import load_json

Detections = dict[str, list[dict[str, Any]]]


def load_detections(path: Path) -> Detections:
    """Load detections by image id, each with `box` (x, y, width, height as in the file), `score` and `label` or None.

    | format | content |
    | --- | --- |
    | MAttNet | `[{"box": [x, y, w, h], "image_id", "category_name", "score", ...}]` |
    | refer | `{"dets": [{"box": {"x", "y", "w", "h"}, "image_id", "score", ...}]}` |
    | ALBEF | `{"IMAGE_ID": [[x, y, w, h], ...]}`, optionally followed by a score |

    Args:
        path (`Path`): the file.

    Raises:
        ValueError: not JSON, or none of these formats.
    """
    contents = load_json(path)
    entries = contents.get("dets", contents) if isinstance(contents, dict) else contents
    if isinstance(entries, dict):
        return {image_id: _read_lists(boxes, path, image_id) for image_id, boxes in entries.items()}
    if not isinstance(entries, list):
        raise ValueError(f"{path} holds a {type(entries).__name__}; a list or dictionary of detections is expected.")
    detections: Detections = defaultdict(list)
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or entry.get("image_id") is None or "box" not in entry:
            raise ValueError(f"{path}: detection number {number} has no `image_id` or no `box`.")
        box = entry["box"]
        if isinstance(box, dict):
            box = [box.get(name) for name in ("x", "y", "w", "h")]
        score, label = entry.get("score"), entry.get("category_name")
        where = f"{path}: detection number {number}"
        detections[str(entry["image_id"])].append(_build_detection(box, score, label, where))
    return dict(detections)


def _build_detection(box: Any, score: Any, label: Any, where: str) -> dict[str, Any]:
    if not (score is None or is_number(score)) or not isinstance(label, str | None):
        raise ValueError(
            f"{where} has score {score!r:.80} and label {label!r:.80}: a finite number and a text belong here."
        )
    return {"box": box, "score": None if score is None else float(score), "label": label}


def _read_lists(boxes: Any, path: Path, image_id: str) -> list[dict[str, Any]]:
    if not isinstance(boxes, list) or not all(isinstance(box, list) for box in boxes):
        raise ValueError(f"{path}: the detections of image {image_id} are not a list of boxes x, y, width, height.")
    where = f"{path}: a detection of image {image_id}"
    return [_build_detection(box[:4], box[4] if len(box) > 4 else None, None, where) for box in boxes]


def build_proposals(
    detections: Detections, image_id: str, stored: StoredImage, report: ReadingReport
) -> list[dict[str, Any]]:
    """Detections of an image as proposals, clipped to the upright image; those without area are dropped."""
    if image_id not in detections:
        report.add("image without detections: no proposals", f"image {image_id}")
    proposals, where = [], f"detection of image {image_id}"
    for detection in detections.get(image_id, ()):
        box = clean_box(detection["box"], stored.width, stored.height, where, report, is_xywh=True)
        if box is not None:
            proposals.append({**detection, "box": stored.turn_box(box)})
    return proposals
