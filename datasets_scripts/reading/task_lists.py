# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""ALBEF's lists for tasks with splits: read entry by entry, checked, grouped by what they speak of."""

import json
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from albef_amc.datasets_scripts.reading.annotation_lists import EMPTY_FILE, is_encodable
from albef_amc.datasets_scripts.reading.coco_records import ReadingReport
from albef_amc.datasets_scripts.reading.image_files import read_image_file
from albef_amc.datasets_scripts.reading.json_lists import iterate_json_list
from albef_amc.datasets_scripts.reading.listed_paths import ListedPathsConfig
from albef_amc.datasets_scripts.source_builder import SourceBuilder

SPLITS = ("train", "val", "test")


@dataclass
class TaskListConfig(ListedPathsConfig):
    """Where the lists of each split and the images are.

    Args:
        data_root (`str`): folder of the lists.
        train_files, val_files, test_files (`list[str]` or `str`): the lists of each split, below `data_root` or with
            their full path; a split without a list is not built. At least one is needed.
        image_root (`str`, *optional*): folder that the images' paths are relative to; `data_root` by default.
        embed_images (`bool`, defaults to `True`): whether the rows hold the images' bytes; else they hold their paths
            on this machine, and the files must stay where they are.
        path_prefixes (`dict[str, str]` or `str`, *optional*): what paths of the lists begin with, to what stands
            there instead, relative to `image_root` ("" for that folder itself); a text is removed.
    """

    train_files: list[str] | tuple[str, ...] | str = ()
    val_files: list[str] | tuple[str, ...] | str = ()
    test_files: list[str] | tuple[str, ...] | str = ()

    def __post_init__(self):
        super().__post_init__()
        for split in SPLITS:
            option = f"{split}_files"
            value = getattr(self, option)
            files = [value] if isinstance(value, str) else value
            if not isinstance(files, list | tuple) or not all(isinstance(name, str) and name for name in files):
                raise ValueError(f"`{option}` must name one or more JSON files, got {value!r}.")
            setattr(self, option, list(files))
            if len(self.name_files(split)) < len(files):
                raise ValueError(f"`{option}` has two files of one name: {files}. Texts are numbered by them.")
        if not self.list_annotation_paths():
            raise ValueError("No list is named: pass `train_files`, `val_files` or `test_files`.")
        for path in self.list_annotation_paths():
            if not path.is_file():
                raise FileNotFoundError(f"No `{path.name}` in {path.parent}. Put it there or name another list.")

    def name_files(self, split: str) -> dict[str, Path]:
        """The lists of a split by the names that ids begin with: without the folder `data_root`."""
        root = Path(self.data_root)
        paths = [root / name for name in getattr(self, f"{split}_files")]
        return {path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name: path for path in paths}

    def list_splits(self) -> list[str]:
        """The splits that have a list."""
        return [split for split in SPLITS if self.name_files(split)]

    def list_annotation_paths(self) -> list[Path]:
        """The lists of all splits."""
        return [path for split in SPLITS for path in self.name_files(split).values()]


class Entry(NamedTuple):
    """An entry of a list with its places.

    Args:
        fields (`dict`): what the list holds.
        split (`str`): split of the list.
        place (`str`): name of the list and number of the entry, for ids and the report.
        where (`str`): path of the list and number of the entry, for messages.
        config (`TaskListConfig`): what the paths of the list stand for.
    """

    fields: dict[str, Any]
    split: str
    place: str
    where: str
    config: TaskListConfig

    def read(self, name: str) -> Any:
        """A field that must be there.

        Raises:
            ValueError: it is missing or null.
        """
        if self.fields.get(name) is None:
            raise ValueError(f"{self.where} has no `{name}`. Fields found: {', '.join(self.fields) or 'none'}.")
        return self.fields[name]

    def read_text(self, name: str, report: ReadingReport) -> str | None:
        """A text as written; `None` (reported) where it has no words.

        Raises:
            ValueError: it is missing or no text.
        """
        text = self.read(name)
        if not isinstance(text, str):
            raise ValueError(f"{self.where}: `{name}` must be a text, got {text!r:.80}.")
        return self.keep_text(text, name, report)

    def keep_text(self, text: str, name: str, report: ReadingReport) -> str | None:
        """The text, or `None` (reported) where it has no words."""
        if has_words(text):
            return text
        report.add(f"{name} without words or with broken characters: {name} skipped", self.place)
        return None

    def read_path(self, path: Any, name: str, report: ReadingReport) -> str | None:
        """A path in its one spelling; `None` (reported) where it leaves the folder of the images.

        Raises:
            ValueError: it is no path.
        """
        if not isinstance(path, str) or not path:
            raise ValueError(f"{self.where}: `{name}` must be a path below the images' folder, got {path!r:.80}.")
        resolved, problem = self.config.resolve_listed_path(path)
        if problem:
            report.add(problem, f"{self.place} ({path})")
        return resolved


def has_words(text: str) -> bool:
    """Whether a text has more than white space and can be stored."""
    return bool(text.strip()) and is_encodable(text)


class TaskListBuilder(SourceBuilder):
    """Base of builders that read lists of entries per split; a builder says what an entry is about and what it keeps.

    Entries of a split that speak of the same image (or pair) become one row, in the order of first appearance. Until
    then they are lines of JSON: a list of millions of entries needs little more memory than its text.
    """

    BUILDER_CONFIG_CLASS = TaskListConfig

    @abstractmethod
    def _read_entry(self, entry: Entry) -> tuple[str, Any] | None:
        """What the entry is about, as a key, and what is kept of it as JSON; `None` (reported) to leave it out."""

    def _read_splits(self) -> dict[str, dict[str, Any]]:
        return {split: self._read_split(split) for split in SPLITS if self.config.name_files(split)}

    def _read_split(self, split: str) -> dict[str, Any]:
        groups: dict[str, bytearray] = {}
        for name, path in self.config.name_files(split).items():
            number = -1
            for number, fields in enumerate(iterate_json_list(path)):
                kept = self._read_entry(
                    Entry(fields, split, f"{name}#{number}", f"{path}: entry {number}", self.config)
                )
                if kept is not None:
                    line = json.dumps(kept[1], separators=(",", ":"))
                    groups.setdefault(kept[0], bytearray()).extend(line.encode() + b"\n")
            if number < 0:
                self.report.add(EMPTY_FILE, str(path))
        return groups

    def _read_image(self, name: str, report: ReadingReport, folder: Path | None = None) -> dict[str, Any] | None:
        """The columns of an image but its id, or `None` (reported) where it is missing or damaged."""
        folder = folder or self.config.get_image_folder()
        stored = read_image_file(folder / name, report)
        if stored is None:
            return None
        width, height = stored.upright_size
        return {"image": self.config.build_image(name, stored, folder), "width": width, "height": height}


def iterate_lines(group: bytes | bytearray) -> Iterator[Any]:
    """What was kept of the entries of a group."""
    for line in group.splitlines():
        yield json.loads(line)
