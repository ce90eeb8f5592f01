# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Lists of `{"image", "caption", ...}` as ALBEF and AMC train on: read entry by entry, grouped by image."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef_amc.datasets_scripts.reading.coco_records import ReadingReport
from albef_amc.datasets_scripts.reading.json_lists import iterate_json_list
from albef_amc.datasets_scripts.reading.listed_paths import ListedPathsConfig

EMPTY_FILE = "file without entries: file skipped"


@dataclass
class AnnotationListConfig(ListedPathsConfig):
    """Where the lists and the images are.

    Args:
        data_root (`str`): folder of the lists.
        annotation_files (`list[str]` or `str`): the lists, below `data_root` or with their full path.
        image_root (`str`, *optional*): folder that the images' paths are relative to; `data_root` by default.
        embed_images (`bool`, defaults to `True`): whether the rows hold the images' bytes; else they hold their paths
            on this machine, and the files must stay where they are.
        path_prefixes (`dict[str, str]` or `str`, *optional*): what paths of the lists begin with, to what stands
            there instead, relative to `image_root` ("" for that folder itself); a text is removed.
    """

    annotation_files: list[str] | tuple[str, ...] | str = ()

    def __post_init__(self):
        super().__post_init__()
        files = [self.annotation_files] if isinstance(self.annotation_files, str) else list(self.annotation_files)
        if not files or not all(isinstance(name, str) for name in files):
            raise ValueError(f"`annotation_files` must name one or more JSON files, got {self.annotation_files!r}.")
        self.annotation_files = files
        for path in self.list_annotation_paths():
            if not path.is_file():
                raise FileNotFoundError(f"No `{path.name}` in {path.parent}. Put it there or pass `annotation_files`.")
        if len(self.name_files()) < len(files):
            raise ValueError(f"`annotation_files` has two files of one name: {files}. Phrases are numbered by them.")

    def list_splits(self) -> list[str]:
        """The only split."""
        return ["train"]

    def list_annotation_paths(self) -> list[Path]:
        """The lists."""
        return [Path(self.data_root) / name for name in self.annotation_files]

    def name_files(self) -> dict[str, Path]:
        """The lists by the names that `phrase_id` begins with: without the folder `data_root`."""
        root = Path(self.data_root)
        names = {}
        for path in self.list_annotation_paths():
            names[path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name] = path
        return names


# Reads what an entry has beside image and captions; gets the entry and its place for messages.
ExtraReader = Callable[[dict[str, Any], str], Any]


def group_by_image(
    config: AnnotationListConfig, read_extra: ExtraReader, report: ReadingReport
) -> dict[str, bytearray]:
    """Entries of all lists, grouped by image in the order of their first appearance.

    A group is one line of JSON per entry: a list of millions of entries needs little more memory than its text.

    Args:
        config (`AnnotationListConfig`): the lists, and what their paths stand for.
        read_extra (callable): from an entry and its place to what is kept beside place and captions.
        report (`ReadingReport`): receives what was left out.

    Returns:
        `dict`: groups by image path; see [`iterate_group`].

    Raises:
        ValueError: a list is damaged, or an entry has no image or caption of the right type.
    """
    groups: dict[str, bytearray] = {}
    for name, path in config.name_files().items():
        number = -1
        for number, entry in enumerate(iterate_json_list(path)):
            place, where = f"{name}#{number}", f"{path}: entry {number}"
            extra = read_extra(entry, where)
            image = _read_image_name(entry, config, where, report, place)
            captions = _read_captions(entry, where, report, place)
            if image is not None and captions:
                line = json.dumps([place, captions, extra], separators=(",", ":"))
                groups.setdefault(image, bytearray()).extend(line.encode() + b"\n")
        if number < 0:
            report.add(EMPTY_FILE, str(path))
    return groups


def iterate_group(group: bytearray) -> Iterator[tuple[str, list[str], Any]]:
    """Entries of a group: place (`file#number`), captions, and what `read_extra` kept."""
    for line in group.splitlines():
        yield tuple(json.loads(line))


def name_phrase(place: str, number: int) -> str:
    """`phrase_id` of a caption of an entry: the first has the entry's place, the others their number behind it.

    Example:
        >>> name_phrase("vg_descriptions.json#7", 0), name_phrase("vg_descriptions.json#7", 1)
        ('vg_descriptions.json#7', 'vg_descriptions.json#7.1')
    """
    return f"{place}.{number}" if number else place


def _read_image_name(
    entry: dict, config: AnnotationListConfig, where: str, report: ReadingReport, place: str
) -> str | None:
    image = entry.get("image")
    if not isinstance(image, str) or not image:
        raise ValueError(f"{where} has no `image` (a path is expected, got {image!r}).")
    name, problem = config.resolve_listed_path(image)
    if problem:
        report.add(problem, f"{place} ({image})")
    return name


def _read_captions(entry: dict, where: str, report: ReadingReport, place: str) -> list[str]:
    """Captions that have words, as written."""
    captions = entry.get("caption")
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise ValueError(
            f"{where} has no `caption` (a text or a list of texts is expected, got {entry.get('caption')!r:.80})."
        )
    usable = [caption for caption in captions if caption.strip() and is_encodable(caption)]
    if len(usable) < len(captions) or not captions:
        report.add("caption without words or with broken characters: caption skipped", place)
    return usable


def is_encodable(text: str) -> bool:
    """JSON can hold halves of characters that no file of text can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
