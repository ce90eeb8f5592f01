# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""KiloGram: tangrams with a description of the whole shape and of its parts, and the pieces of every part."""

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from albef_amc.datasets_scripts.features import build_phrase, build_row
from albef_amc.datasets_scripts.kilogram.drawings import COLORS, IMAGE_SIDE, Drawing, read_drawing
from albef_amc.datasets_scripts.kilogram.phrases import add_article, build_caption
from albef_amc.datasets_scripts.reading.json_lists import iterate_json_object
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.source_builder import SourceBuilder, SourceConfig
from albef_amc.text_files_albef import load_json

ANNOTATIONS_FILE = "full_v0.json"
SPLITS_FILE = "data_split.json"
DRAWINGS_FOLDER = "tangrams-svg"
GAMES_FILE = "human_baseline_val/part+color_stimuli.json"
# Drawings that the authors removed because they repeat another.
SAME_DRAWINGS = {"page4-170": "page2-189", "page6-51": "page5-207", "page6-66": "page5-207"}
UNKNOWN_PART = "UNKNOWN"
PART_TYPE, WHOLE_TYPE = "part", "whole"
TRAIN, VALIDATION = "train", "validation"


@dataclass
class KiloGramConfig(SourceConfig):
    """Folder of the files, and its splits.

    Args:
        data_root (`str`): folder that holds `full_v0.json`, `data_split.json` and `tangrams-svg`.
        hold_out_validation (`bool`, defaults to `False`): whether the targets of the official validation games
            (`human_baseline_val`) move from the split "train", which contains them as published, to a split
            "validation".
    """

    hold_out_validation: bool = False

    def list_annotation_paths(self) -> list[Path]:
        """Annotations, splits and games."""
        files = (ANNOTATIONS_FILE, SPLITS_FILE, *([GAMES_FILE] if self.hold_out_validation else []))
        return [Path(self.data_root) / name for name in files]

    def list_other_paths(self) -> list[Path]:
        """Drawings."""
        return sorted(self.get_image_folder().glob("*.svg"))

    def get_image_folder(self) -> Path:
        """Folder of the drawings."""
        return Path(self.data_root) / DRAWINGS_FOLDER


class KiloGram(SourceBuilder):
    """Builder for KiloGram: one row per annotation, whose image has one colour per part.

    Phrases are the parts, with a box and a polygon for each of their pieces, and the whole shape, without a region;
    their caption is "This looks like WHOLE with PART, PART, and PART.". What the other annotators of the tangram call
    it and its parts is in `true_phrases`. Colours are drawn from the row's id.

    Example:

        builder = KiloGram(cache_dir="cache", data_root="kilogram")
        builder.download_and_prepare()
        rows = builder.as_dataset(split="heldout")
    """

    BUILDER_CONFIG_CLASS = KiloGramConfig
    DESCRIPTION = "Tangrams with descriptions of the whole shape and of its parts, and the pieces of the parts."
    PUBLISHED_COUNTS: ClassVar[dict[str, dict[str, int]]] = {
        "train": {"rows": 6929},
        "development": {"rows": 1250},
        "heldout": {"rows": 1253},
        "dense": {"rows": 741},
    }

    def _read_splits(self) -> dict[str, dict[str, Any]]:
        root = Path(self.config.data_root)
        splits = _read_split_names(root / SPLITS_FILE)
        sources: dict[str, dict[str, Any]] = {split: {} for split in splits.values()}
        seen = set()
        for tangram, annotations in iterate_json_object(root / ANNOTATIONS_FILE):
            if tangram in seen or not isinstance(annotations, list):
                problem = "occurs twice" if tangram in seen else "has no list of annotations"
                raise ValueError(f"{root / ANNOTATIONS_FILE}: tangram {tangram!r} {problem}. Fetch it again.")
            seen.add(tangram)
            if not annotations:
                self.report.add("tangram without annotations: tangram skipped", tangram)
            if tangram not in splits:
                self.report.add("tangram in no split: tangram skipped", tangram)
                continue
            for number, annotation in enumerate(annotations):
                sources[splits[tangram]][f"{tangram}_{number}"] = (tangram, annotation, annotations)
        for tangram in splits:
            if tangram not in seen:
                self.report.add("tangram without annotations: tangram skipped", tangram)
        if self.config.hold_out_validation:
            targets, train = _read_targets(root / GAMES_FILE), sources.get(TRAIN, {})
            sources[VALIDATION] = {key: source for key, source in train.items() if key in targets}
            sources[TRAIN] = {key: source for key, source in train.items() if key not in targets}
            for target in sorted(targets - train.keys()):
                self.report.add("target of a validation game is not in train: target skipped", target)
        return {split: rows for split, rows in sources.items() if rows}

    def _read_row(self, image: str, source: Any, report: ReadingReport) -> dict[str, Any] | None:
        tangram, annotation, annotations = source
        if not _is_annotation(annotation):
            report.add("annotation without `whole` or `piece`: annotation skipped", image)
            return None
        drawing = self._read_drawing(tangram, report)
        if drawing is None:
            return None
        parts = annotation["piece"]
        if set(parts) != set(drawing.polygons):
            report.add("pieces differ from those of the drawing: annotation skipped", image)
            return None
        groups: dict[str, list[str]] = {part: [] for part in parts.values()}
        for piece_id in drawing.polygons:
            groups[parts[piece_id]].append(piece_id)
        colors = dict(zip(groups, Random(image).sample(COLORS, len(groups)), strict=True))
        image_bytes = drawing.paint({piece_id: colors[part] for piece_id, part in parts.items()})
        phrases = _build_phrases(image, annotation["whole"], groups, drawing)
        return build_row(
            {"path": f"{image}.png", "bytes": image_bytes},
            image,
            IMAGE_SIDE,
            IMAGE_SIDE,
            phrases,
            true_phrases=_list_other_names(annotations, phrases),
        )

    def _read_drawing(self, tangram: str, report: ReadingReport) -> Drawing | None:
        path = self.config.get_image_folder() / f"{SAME_DRAWINGS.get(tangram, tangram)}.svg"
        if not os.path.isfile(path):  # also where the name is too long for the system
            report.add("drawing missing: annotation skipped", str(path))
            return None
        try:
            return read_drawing(path)
        except ValueError as error:
            report.add("drawing damaged: annotation skipped", f"{path} ({error})")
            return None


def _build_phrases(image: str, whole: str, groups: dict[str, list[str]], drawing: Drawing) -> list[dict[str, Any]]:
    """Phrases of the parts in the order of their first piece, then that of the whole shape."""
    named = {part: pieces for part, pieces in groups.items() if part != UNKNOWN_PART}
    caption, (whole_phrase, *part_phrases) = build_caption(whole, list(named))
    phrases = [
        build_phrase(
            f"{image}#{number}",
            words,
            boxes=drawing.list_boxes(pieces),
            polygons=[drawing.polygons[piece_id] for piece_id in pieces],
            types=[PART_TYPE],
            caption=caption,
            spans=[span],
        )
        for number, ((words, span), pieces) in enumerate(zip(part_phrases, named.values(), strict=True))
    ]
    words, span = whole_phrase
    return [*phrases, build_phrase(f"{image}#whole", words, types=[WHOLE_TYPE], caption=caption, spans=[span])]


def _list_other_names(annotations: list[Any], phrases: list[dict[str, Any]]) -> list[str] | None:
    """What all annotators call the tangram and its parts, without the phrases of one of them."""
    names = {
        add_article(words)
        for annotation in filter(_is_annotation, annotations)
        for words in (annotation["whole"], *annotation["piece"].values())
        if words != UNKNOWN_PART
    }
    return sorted(names.difference(phrase["phrase"] for phrase in phrases)) or None


def _read_split_names(path: Path) -> dict[str, str]:
    """Split of every tangram."""
    contents = load_json(path)
    if not isinstance(contents, dict) or not all(isinstance(names, list) for names in contents.values()):
        raise ValueError(f"{path}: lists of tangrams by the name of their split are expected.")
    for split in contents:
        if not re.fullmatch(r"\w+", split):
            raise ValueError(f"{path}: {split!r} is not the name of a split.")
    names = [name for part in contents.values() for name in part]
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
            raise ValueError(
                f"{path}: {name!r:.80} is not the name of a tangram: its drawing is the file of this name."
            )
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{path}: tangram {name!r} occurs twice. Give it one split.")
    return {name: split for split, part in contents.items() for name in part}


def _read_targets(path: Path) -> set[str]:
    """Ids of the annotations that the games ask for."""
    games = load_json(path)
    if not isinstance(games, list) or not all(
        isinstance(g, dict) and isinstance(g.get("targets"), str) for g in games
    ):
        raise ValueError(f"{path}: a list of games with `targets` is expected. Fetch it again.")
    return {game["targets"] for game in games}


def _is_annotation(annotation: Any) -> bool:
    if not isinstance(annotation, dict) or not isinstance(annotation.get("piece"), dict):
        return False
    words = [annotation.get("whole"), *annotation["piece"].values()]
    return all(isinstance(word, str) and word.strip() for word in words)
