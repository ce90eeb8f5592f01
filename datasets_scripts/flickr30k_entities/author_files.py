# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Flickr30k Entities as published: lists of ids, captions with mentions in brackets, boxes in XML."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.xml_files import read_xml
from albef_amc.text_files_albef import read_text_file

COORDINATES = ("xmin", "ymin", "xmax", "ymax")
# XML numbers count from 1.
FIRST_PIXEL = 1
MENTION_START = "[/EN#"
MENTION_PATTERN = re.compile(r"\[/EN#(\d+)((?:/\w+)+)")
# Ids become file names, which systems limit.
IMAGE_ID_PATTERN = re.compile(r"[0-9]{1,100}")
WITHOUT_SIZE = "annotation without a size: size of the image used"


class Mention(NamedTuple):
    """Words of a caption that refer to the objects of a chain.

    Args:
        chain (`str`): id of the chain; "0" is not visual.
        phrase (`str`): its text.
        types (`list[str]`): such as "people" or "scene".
        span (`list[int]`, *optional*): [start, end) characters of the caption.
    """

    chain: str
    phrase: str
    types: list[str]
    span: list[int] | None


class ChainBoxes(NamedTuple):
    """Annotation of the chains of an image.

    Args:
        boxes (`dict`): boxes by chain, x_min, y_min, x_max, y_max counted from 0, unchecked.
        scenes (`set[str]`): chains that mean the whole scene.
        without_box (`set[str]`): chains that cannot be boxed.
        size (`tuple`, *optional*): stated width and height, unchecked.
    """

    boxes: dict[str, list[Any]]
    scenes: set[str]
    without_box: set[str]
    size: tuple[float, float] | None


# Number in the file, counted from 0 -> caption and its mentions.
Captions = dict[int, tuple[str, list[Mention]]]


def check_image_id(image_id: str, where: str) -> None:
    """Refuse an id with anything but digits: ids become file names."""
    if not IMAGE_ID_PATTERN.fullmatch(image_id):
        raise ValueError(f"{where}: {image_id!r:.80} is not an image id: an id has only digits, 100 at most.")


def load_image_ids(path: Path, report: ReadingReport) -> list[str]:
    """Load the distinct ids of a split.

    Args:
        path (`Path`): such as `train.txt`, one id per line.
        report (`ReadingReport`): collects repeated ids.

    Raises:
        ValueError: a line is not an id; the message names file and line.
    """
    image_ids: dict[str, None] = {}
    for number, line in enumerate(read_text_file(path).split("\n"), start=1):
        image_id = line.strip()
        if not image_id:
            continue
        check_image_id(image_id, f"{path}, line {number}")
        if image_id in image_ids:
            report.add("image listed twice in a split: later entry skipped", f"{path}, line {number} ({image_id})")
        image_ids[image_id] = None
    return list(image_ids)


def load_unrelated_captions(path: Path) -> set[tuple[str, int]]:
    """Load image id and number (from 0) of captions that do not describe their image; none without the file."""
    found = set()
    for number, line in enumerate(read_text_file(path).split("\n") if path.is_file() else [], start=1):
        words = line.partition("#")[0].split()
        if words and (len(words) != 2 or not re.fullmatch("[0-9]{1,9}", words[1])):
            raise ValueError(f"{path}, line {number}: an image id and the number of a sentence are expected.")
        if words:
            found.add((words[0], int(words[1]) - 1))
    return found


def read_captions(path: Path, report: ReadingReport) -> Captions:
    """Read the captions of an image; one with unmatched brackets is skipped, blank lines do not count.

    Args:
        path (`Path`): such as `Sentences/1000092795.txt`.
        report (`ReadingReport`): collects file and line of skipped captions.
    """
    captions: Captions = {}
    lines = [(number, line) for number, line in enumerate(read_text_file(path).split("\n"), start=1) if line.strip()]
    for index, (number, line) in enumerate(lines):
        try:
            captions[index] = parse_caption(line)
        except ValueError as error:
            report.add("caption with broken brackets: caption skipped", f"{path}, line {number} ({error})")
    return captions


def parse_caption(line: str) -> tuple[str, list[Mention]]:
    """Split an annotated caption into plain text and mentions.

    Args:
        line (`str`): words separated by white space; a mention is `[/EN#<chain>/<type>[/<type>...] words]`.

    Raises:
        ValueError: a mention is not closed, closed inside a word, or opened inside another one.

    Example:
        >>> caption, mentions = parse_caption("[/EN#3/people A  man] smiles .")
        >>> caption, mentions[0].types, mentions[0].span
        ('A man smiles .', ['people'], [0, 5])
    """
    words: list[str] = []
    mentions: list[Mention] = []
    opened: tuple[str, list[str], int] | None = None
    for token in line.split():
        start = MENTION_PATTERN.fullmatch(token)
        if start and not opened:
            opened = (start[1], start[2].split("/")[1:], len(words))
            continue
        if MENTION_START in token or (opened and "]" in token[:-1]):
            raise ValueError(f"`{token}` is out of place")
        is_end = opened is not None and token.endswith("]")
        word = token[:-1] if is_end else token
        words.extend([word] if word else [])
        if is_end:
            mentions.append(_close(opened, words))
            opened = None
    if opened:
        raise ValueError(f"the mention of chain {opened[0]} is not closed")
    return " ".join(words), mentions


def _close(opened: tuple[str, list[str], int], words: list[str]) -> Mention:
    chain, types, first = opened
    phrase = " ".join(words[first:])
    if not phrase:
        raise ValueError(f"the mention of chain {chain} has no words")
    start = len(" ".join(words[:first])) + bool(first)
    return Mention(chain, phrase, types, [start, start + len(phrase)])


def read_chain_boxes(path: Path, report: ReadingReport) -> ChainBoxes:
    """Read boxes and flags of the chains of an image.

    Args:
        path (`Path`): such as `Annotations/1000092795.xml`.
        report (`ReadingReport`): collects problems.

    Raises:
        ValueError: not XML, or XML with a document type; the message names the file.
    """
    try:
        root = read_xml(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a complete annotation in XML ({error}). Fetch it again.") from error
    found = ChainBoxes(defaultdict(list), set(), set(), _read_size(root))
    if found.size is None:
        report.add(WITHOUT_SIZE, str(path))
    for entry in root.findall("object"):
        chains = [(name.text or "").strip() for name in entry.findall("name")]
        box = entry.find("bndbox")
        if box is not None:
            corners = [_read_number(box.findtext(name)) for name in COORDINATES]
            if any(value is not None and value < FIRST_PIXEL for value in corners):
                report.add("coordinate below 1 in a file that counts from 1", f"{path} (chain {chains})")
            for chain in chains:
                found.boxes[chain].append([None if value is None else value - FIRST_PIXEL for value in corners])
            continue
        for flag, flagged in (("scene", found.scenes), ("nobndbox", found.without_box)):
            if (entry.findtext(flag) or "").strip() == "1":
                flagged.update(chains)
    return found


def _read_size(root: ElementTree.Element) -> tuple[float, float] | None:
    width, height = (_read_number(root.findtext(f"size/{name}")) for name in ("width", "height"))
    return (width, height) if width and height else None


def _read_number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
