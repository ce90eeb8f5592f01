# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""JSON lists as ALBEF and AMC train on: `{"image", "caption", ...}` per entry, read one by one, grouped by image."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from albef_amc.datasets_scripts.reading.image_files import ABSOLUTE_PATH, find_path_problem
from albef_amc.datasets_scripts.reading.json_lists import iterate_json_list
from albef_amc.datasets_scripts.reading.reading_report import EMPTY_FILE, ReadingReport
from albef_amc.datasets_scripts.reading.record_groups import RecordGroups
from albef_amc.datasets_scripts.reading.texts import has_words
from albef_amc.datasets_scripts.source_builder import ImageRootConfig, SourceBuilder

SEPARATORS = "/\\"  # lists of other machines have both


@dataclass
class ListConfig(ImageRootConfig):
    """Folders and lists; a subclass names the option that holds the lists of each split.

    Args:
        path_prefixes (`dict[str, str]` or `str`, *optional*): prefix of the paths in the lists -> its replacement,
            relative to the image folder ("" for that folder itself); a text is a prefix to remove. The longest prefix
            that matches is replaced.
    """

    path_prefixes: dict[str, str] | str | None = None
    # Split -> option that names its lists.
    LIST_OPTIONS: ClassVar[dict[str, str]] = {}

    def _check_options(self) -> None:
        for split, option in self.LIST_OPTIONS.items():
            value = getattr(self, option)
            files = [value] if isinstance(value, str) and value else list(value)
            if not all(files):
                raise ValueError(f"`{option}` must name one or more JSON files, got {value!r}.")
            setattr(self, option, files)
            if len(self.name_files(split)) < len(files):
                raise ValueError(f"`{option}` has two files of one name: {files}. Texts are numbered by file name.")
        if not self.list_splits():
            options = ", ".join(f"`{option}`" for option in self.LIST_OPTIONS.values())
            raise ValueError(f"No list is named: pass {options}, one or more JSON files.")
        for prefix, replacement in self.list_prefixes():
            if not prefix:
                raise ValueError("`path_prefixes` has an empty prefix: name the prefix of the paths in the lists.")
            if replacement and find_path_problem(replacement):
                raise ValueError(
                    f"`path_prefixes`: {replacement!r} for {prefix!r}: {find_path_problem(replacement)}. It is "
                    "relative to the folder of the images (`image_root`) and lies inside it."
                )

    def name_files(self, split: str) -> dict[str, Path]:
        """Lists of a split by the prefix of their ids: the path below `data_root`, or the file name elsewhere."""
        root = Path(self.data_root)
        paths = [root / name for name in getattr(self, self.LIST_OPTIONS[split])]
        return {path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name: path for path in paths}

    def list_splits(self) -> list[str]:
        """Splits that have a list."""
        return [split for split in self.LIST_OPTIONS if self.name_files(split)]

    def list_annotation_paths(self) -> list[Path]:
        """Lists of all splits."""
        return [path for split in self.LIST_OPTIONS for path in self.name_files(split).values()]

    def list_prefixes(self) -> tuple[tuple[str, str], ...]:
        """Prefixes with their replacements, the longest first."""
        given = {self.path_prefixes: ""} if isinstance(self.path_prefixes, str) else self.path_prefixes or {}
        return tuple(sorted(given.items(), key=lambda pair: (-len(pair[0]), pair)))


@dataclass
class AnnotationListConfig(ListConfig):
    """Folders and lists of a data set whose only split is "train".

    Args:
        data_root (`str`): folder of the lists.
        annotation_files (`list[str]` or `str`): the lists, below `data_root` or with their full path.
        image_root (`str`, *optional*): folder that image paths are relative to; `data_root` by default.
        embed_images (`bool`, defaults to `True`): whether rows hold the bytes of the images; otherwise they hold paths
            on this machine, and the files must not be moved.
        path_prefixes (`dict[str, str]` or `str`, *optional*): prefix of the paths in the lists -> its replacement,
            relative to `image_root` ("" for that folder itself); a text is a prefix to remove.
    """

    annotation_files: list[str] | tuple[str, ...] | str = ()
    LIST_OPTIONS: ClassVar[dict[str, str]] = {"train": "annotation_files"}


@dataclass
class TaskListConfig(ListConfig):
    """Folders and the lists of each split.

    Args:
        data_root (`str`): folder of the lists.
        train_files, val_files, test_files (`list[str]` or `str`): lists of each split, below `data_root` or with their
            full path; a split without a list is not built. At least one is needed.
        image_root (`str`, *optional*): folder that image paths are relative to; `data_root` by default.
        embed_images (`bool`, defaults to `True`): whether rows hold the bytes of the images; otherwise they hold paths
            on this machine, and the files must not be moved.
        path_prefixes (`dict[str, str]` or `str`, *optional*): prefix of the paths in the lists -> its replacement,
            relative to `image_root` ("" for that folder itself); a text is a prefix to remove.
    """

    train_files: list[str] | tuple[str, ...] | str = ()
    val_files: list[str] | tuple[str, ...] | str = ()
    test_files: list[str] | tuple[str, ...] | str = ()
    LIST_OPTIONS: ClassVar[dict[str, str]] = {split: f"{split}_files" for split in ("train", "val", "test")}


@lru_cache(maxsize=1024)  # entries of an image are adjacent
def _resolve(path: str, prefixes: tuple[tuple[str, str], ...]) -> tuple[str | None, str]:
    """Normalised path below the image folder, or None and the reason why it cannot be used."""
    for prefix, replacement in prefixes:
        folder = prefix.rstrip(SEPARATORS)
        rest = path.removeprefix(folder)
        if path.startswith(folder) and rest[:1] in tuple(SEPARATORS):
            path = f"{replacement or '.'}/{rest.lstrip(SEPARATORS)}"
            break
    problem = find_path_problem(path)
    if problem is None:
        return str(PurePosixPath(path)), ""
    remedy = "; the option `path_prefixes` replaces its prefix" if problem == ABSOLUTE_PATH else ""
    return None, f"{problem}: entry skipped{remedy}"


@dataclass(frozen=True)
class Entry:
    """Entry of a list with its place.

    Args:
        fields (`dict`): the JSON object.
        split (`str`): split of the list.
        place (`str`): name of the list and number of the entry, for ids and the report.
        where (`str`): path of the list and number of the entry, for errors.
        config (`ListConfig`): prefixes of the paths.
        report (`ReadingReport`): collects problems.
    """

    fields: dict[str, Any]
    split: str
    place: str
    where: str
    config: ListConfig
    report: ReadingReport

    def read(self, name: str) -> Any:
        """A required field.

        Raises:
            ValueError: the field is missing or null.
        """
        if self.fields.get(name) is None:
            raise ValueError(f"{self.where} has no `{name}`. Fields found: {', '.join(self.fields) or 'none'}.")
        return self.fields[name]

    def read_text(self, name: str) -> str | None:
        """A text, unchanged; `None` (reported) where it has no words.

        Raises:
            ValueError: the field is missing or not a text.
        """
        text = self.read(name)
        if not isinstance(text, str):
            raise ValueError(f"{self.where}: `{name}` must be a text, got {text!r:.80}.")
        return self.keep_text(text, name)

    def keep_text(self, text: str, name: str) -> str | None:
        """The text, or `None` (reported) where it has no words."""
        if has_words(text):
            return text
        self.report.add(f"{name} without words or with broken characters: {name} skipped", self.place)
        return None

    def read_captions(self) -> list[tuple[int, str]]:
        """Captions with words, unchanged, each with its number in the entry.

        Raises:
            ValueError: the field is missing, or neither a text nor a list of texts.
        """
        captions = self.read("caption")
        captions = [captions] if isinstance(captions, str) else captions
        if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
            raise ValueError(f"{self.where}: `caption` must be a text or a list of texts, got {captions!r:.80}.")
        return [(number, text) for number, text in enumerate(captions or [""]) if self.keep_text(text, "caption")]

    def read_path(self, path: Any, name: str) -> str | None:
        """Normalised path below the image folder; `None` (reported) where it leaves the folder.

        Raises:
            ValueError: the value is not a path.
        """
        if not isinstance(path, str) or not path:
            raise ValueError(f"{self.where}: `{name}` must be a path below the images' folder, got {path!r:.80}.")
        resolved, problem = _resolve(path, self.config.list_prefixes())
        if resolved is None:
            self.report.add(problem, f"{self.place} ({path})")
        return resolved


class ListBuilder(SourceBuilder):
    """Base of builders that read JSON lists; a subclass selects the image of an entry and the record to keep.

    Entries of a split about the same image (or pair) become one row, in the order of their first appearance.
    """

    BUILDER_CONFIG_CLASS = TaskListConfig

    @abstractmethod
    def _read_entry(self, entry: Entry) -> tuple[str, Any] | None:
        """Key of the image and the record to keep, as JSON; `None` (reported) to skip the entry."""

    def _read_split(self, split: str) -> RecordGroups:
        groups = RecordGroups()
        for name, path in self.config.name_files(split).items():
            number = -1
            for number, fields in enumerate(iterate_json_list(path)):
                places = (f"{name}#{number}", f"{path}: entry {number}")
                kept = self._read_entry(Entry(fields, split, *places, self.config, self.report))
                if kept is not None:
                    groups.add(*kept)
            if number < 0:
                self.report.add(EMPTY_FILE, str(path))
        return groups


def name_phrase(place: str, number: int) -> str:
    """Id of a caption: place of its entry, followed by the number of the caption unless it is the first.

    Example:
        >>> name_phrase("vg_descriptions.json#7", 0), name_phrase("vg_descriptions.json#7", 1)
        ('vg_descriptions.json#7', 'vg_descriptions.json#7.1')
    """
    return f"{place}.{number}" if number else place
