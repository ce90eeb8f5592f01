# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Flickr30k Entities as info-ground converts it: two JSON files per split, boxes and sentences by image."""

import json
import re
from pathlib import Path
from typing import Any

from albef_amc.datasets_scripts.flickr30k_entities.author_files import (
    WITHOUT_SIZE,
    Captions,
    ChainBoxes,
    Mention,
    check_image_id,
)
from albef_amc.datasets_scripts.reading.json_lists import iterate_json_object
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.text_processing_albef import find_broken_character

PHRASE_FIELDS = {"first_word_index": int, "phrase": str, "phrase_id": str, "phrase_type": list}


def list_json_paths(folder: Path, split: str) -> tuple[Path, Path]:
    """Boxes and sentences of a split."""
    return folder / f"bounding_boxes_{split}.json", folder / f"sentences_{split}.json"


def load_json_split(folder: Path, split: str, report: ReadingReport) -> dict[str, tuple[bytes, bytes]]:
    """Load boxes and sentences of each image as JSON text, which takes little more memory than the files.

    Args:
        folder (`Path`): folder of the files.
        split (`str`): "train", "val" or "test".
        report (`ReadingReport`): collects problems.

    Returns:
        `dict`: image id -> texts for [`parse_chain_boxes`] and [`parse_captions`].

    Raises:
        ValueError: a file is damaged, or an image id has anything but digits.
    """
    boxes_path, sentences_path = list_json_paths(folder, split)
    boxes = _load_texts(boxes_path, report)
    sentences = _load_texts(sentences_path, report)
    for image_id in boxes.keys() ^ sentences.keys():
        lacking = sentences_path if image_id in boxes else boxes_path
        report.add("image in one of the two files of its split: image skipped", f"{image_id} is not in {lacking}")
    return {image_id: (boxes[image_id], text) for image_id, text in sentences.items() if image_id in boxes}


def _load_texts(path: Path, report: ReadingReport) -> dict[str, bytes]:
    texts: dict[str, bytes] = {}
    for image_id, value in iterate_json_object(path):
        check_image_id(image_id, str(path))
        if image_id in texts:
            report.add("image listed twice in a split: later entry skipped", f"{path} ({image_id})")
        texts.setdefault(image_id, json.dumps(value, separators=(",", ":")).encode())
    return texts


def parse_chain_boxes(text: bytes, where: str, report: ReadingReport) -> ChainBoxes:
    """Parse boxes and flags of the chains of an image."""
    value = json.loads(text)
    boxes = value.get("boxes") if isinstance(value, dict) else None
    if not isinstance(boxes, dict) or not all(isinstance(found, list) for found in boxes.values()):
        raise ValueError(f"{where} has no `boxes`: lists of boxes by chain are expected.")
    flags = [[] if value.get(name) is None else value[name] for name in ("scene", "nobox")]
    if not all(isinstance(chains, list) for chains in flags):
        raise ValueError(f"{where}: `scene` and `nobox` must be lists of chains.")
    scenes, without_box = ({str(chain) for chain in chains} for chains in flags)
    size = (value.get("width"), value.get("height"))
    if None not in size:
        return ChainBoxes(boxes, scenes, without_box, size)
    report.add(WITHOUT_SIZE, where)
    return ChainBoxes(boxes, scenes, without_box, None)


def parse_captions(text: bytes, where: str, report: ReadingReport) -> Captions:
    """Parse the captions of an image with their mentions."""
    captions: Captions = {}
    value = json.loads(text)
    for number, entry in enumerate(value if isinstance(value, list) else [None]):
        place = f"{where}, sentence {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("sentence"), str):
            raise ValueError(f"{place} has no text `sentence`.")
        if not isinstance(entry.get("phrases"), list):
            raise ValueError(f"{place} has no list `phrases`.")
        mentions = [_parse_mention(phrase, entry["sentence"], place, report) for phrase in entry["phrases"]]
        if any(map(find_broken_character, (entry["sentence"], *(mention.phrase for mention in mentions)))):
            report.add("caption with broken characters: caption skipped", place)
        else:
            captions[number] = (entry["sentence"], mentions)
    return captions


def _parse_mention(phrase: Any, caption: str, where: str, report: ReadingReport) -> Mention:
    for name, kind in PHRASE_FIELDS.items():
        if not isinstance(phrase, dict) or not isinstance(phrase.get(name), kind):
            raise ValueError(f"{where}: a phrase has no `{name}` of type `{kind.__name__}`.")
    span = _find_span(caption, phrase["first_word_index"], phrase["phrase"].split())
    if span is None:
        report.add("words are not at the stated position of the caption: span dropped", where)
    return Mention(phrase["phrase_id"], phrase["phrase"], phrase["phrase_type"], span)


def _find_span(caption: str, first: int, words: list[str]) -> list[int] | None:
    """Character span of words of a caption, given the number of the first one; `None` where other words are there."""
    matches = list(re.finditer(r"\S+", caption))[max(first, 0) : first + len(words)]
    if first < 0 or not words or [match[0] for match in matches] != words:
        return None
    return [matches[0].start(), matches[-1].end()]
