# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Base of the builders that read raw files: checked options, a cache that follows the files, a report."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import datasets
from datasets.exceptions import DatasetGenerationError
from datasets.utils import logging
from PIL import Image

from albef_amc.datasets_scripts.features import GROUNDING_FEATURES
from albef_amc.datasets_scripts.option_types import check_options, list_option_types
from albef_amc.datasets_scripts.reading.image_files import StoredImage, read_image_file
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.task_features import find_task_schema
from albef_amc.datasets_scripts.usable_rows import keep_usable_texts


@dataclass
class SourceConfig(datasets.BuilderConfig):
    """Folder of the raw files. Types, options, folders and files are checked in this order, before anything is read.

    Args:
        data_root (`str`): folder of the annotations.
    """

    data_root: str = ""
    # What to do about a missing file, for its error message.
    REMEDY: ClassVar[str] = "Put it there"

    def __post_init__(self):
        super().__post_init__()
        check_options(self)
        if not str(self.data_root):
            raise ValueError("`data_root` is missing: pass the folder that holds the annotations of the data set.")
        self.data_root = str(self.data_root)
        if not Path(self.data_root).is_dir():
            raise FileNotFoundError(f"No folder {self.data_root}. Check `data_root`; see the data set's card.")
        self._check_options()
        options = ", ".join(f"`{name}`" for name in list_option_types(type(self)) if name != "embed_images")
        for folder in self.list_image_folders():
            if not folder.is_dir():
                raise FileNotFoundError(f"No image folder {folder}. Put it there, or check {options}.")
        for path in self.list_annotation_paths():
            if not path.is_file():
                raise FileNotFoundError(
                    f"No `{path.name}` in {path.parent}. {self.REMEDY}, or check {options}. Raw files are downloaded "
                    "by hand: docs/weights-and-data.md says where from, and docs/datasets.md into which folders."
                )

    def _check_options(self) -> None:
        """Refuse options that cannot be used, and fill in those that depend on others."""

    def _choose_several(self, option: str, choices: Sequence[str]) -> list[str]:
        """Values of an option that names some of several choices, each once.

        Raises:
            ValueError: none is named, or an unknown one.
        """
        value = getattr(self, option)
        chosen = [value] if isinstance(value, str) else list(dict.fromkeys(value))
        if not chosen or not set(chosen) <= set(choices):
            raise ValueError(f"`{option}` must name some of {', '.join(choices)}; got {chosen}.")
        return chosen

    def list_annotation_paths(self) -> list[Path]:
        """Files that must exist beside the images."""
        raise NotImplementedError

    def list_other_paths(self) -> list[Path]:
        """Further files beside the images that the rows depend on."""
        return []

    def list_splits(self) -> list[str] | None:
        """Splits that can exist, or `None` where only the annotations name them."""
        return None

    def get_image_folder(self) -> Path:
        """Folder that image paths are relative to."""
        raise NotImplementedError

    def list_image_folders(self) -> list[Path]:
        """Folders of all images."""
        return [self.get_image_folder()]

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """Name of the cache; it depends on names, sizes and dates of the files, so an edited file is read again."""
        digest = hashlib.sha256()
        suffixes = Image.registered_extensions()
        files = (path for folder in self.list_image_folders() for path in folder.rglob("*"))
        images = (path for path in files if path.suffix.lower() in suffixes)
        for path in [*self.list_annotation_paths(), *self.list_other_paths(), *sorted(images)]:
            # File names can hold bytes that are not text.
            digest.update(f"{path}/{_describe_state(path)}".encode(errors="surrogateescape"))
        return super().create_config_id({**config_kwargs, "contents": digest.hexdigest()}, custom_features)


def _describe_state(path: Path) -> str:
    """Size and date of a file; "missing" for a broken link, which is reported where the file is needed."""
    try:
        state = path.stat()
    except OSError:
        return "missing"
    return f"{state.st_size}/{state.st_mtime_ns}"


@dataclass
class ImageRootConfig(SourceConfig):
    """Folders of annotations and images.

    Args:
        image_root (`str`, *optional*): folder that image paths are relative to; `data_root` by default.
        embed_images (`bool`, defaults to `True`): whether rows hold the bytes of the images; otherwise they hold paths
            on this machine, and the files must not be moved.
    """

    image_root: str | None = None
    embed_images: bool = True

    def get_image_folder(self) -> Path:
        """`image_root`, or the folder of the annotations."""
        return Path(self.image_root or self.data_root)

    def build_image(self, file_name: str, stored: StoredImage, folder: Path | None = None) -> dict[str, Any]:
        """Column `image` of a row, for a file in `folder` (by default the image folder)."""
        if self.embed_images:
            return {"path": file_name, "bytes": stored.data}
        return {"path": str((folder or self.get_image_folder()).absolute() / file_name), "bytes": None}


@dataclass
class SplitsConfig(ImageRootConfig):
    """Folders, and the splits to read.

    Args:
        splits (`list[str]` or `str`): splits to read.
    """

    splits: list[str] | tuple[str, ...] | str = ()
    REMEDY: ClassVar[str] = "Put it there, drop its split from `splits`"

    def list_splits(self) -> list[str]:
        """Splits to read."""
        return list(self.splits)


class SourceBuilder(datasets.GeneratorBasedBuilder):
    """Base of builders that read raw files; a subclass lists the sources of each split and turns a source into a row.

    What cannot be used is skipped with a reason, counted in `report` and logged. What is ambiguous or unsafe raises a
    `ValueError`.
    """

    VERSION = datasets.Version("1.1.0")
    BUILDER_CONFIG_CLASS = SourceConfig
    DEFAULT_WRITER_BATCH_SIZE = 100
    DESCRIPTION = ""
    # Columns of the rows.
    FEATURES = GROUNDING_FEATURES
    # Split -> counts that its authors publish, such as {"test": {"images": 1000}}; "all" is every split together.
    PUBLISHED_COUNTS: ClassVar[dict[str, dict[str, int]]] = {}
    # Name of a configuration (`config_name`) -> the options that it stands for.
    CONFIGURATIONS: ClassVar[dict[str, dict[str, Any]]] = {}

    def __init__(self, *args: Any, config_name: str | None = None, **kwargs: Any):
        if config_name is not None:
            kwargs = self._expand_configuration(config_name, kwargs)
        super().__init__(*args, config_name=config_name, **kwargs)
        self.report = ReadingReport()

    def _expand_configuration(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        """Options together with those that a configuration stands for.

        Raises:
            ValueError: an unknown configuration, or an option that contradicts it.
        """
        if name not in self.CONFIGURATIONS:
            choices = ", ".join(self.CONFIGURATIONS) or "none"
            raise ValueError(f"`config_name` {name!r} is not a configuration of {type(self).__name__}: {choices}.")
        stands_for = self.CONFIGURATIONS[name]
        for option, value in stands_for.items():
            if options.get(option, value) != value:
                raise ValueError(
                    f"`config_name` {name!r} stands for {option}={value!r}, but {option}={options[option]!r} is given "
                    "too: drop one of the two."
                )
        return {**options, **stands_for}

    def get_published_counts(self) -> dict[str, dict[str, int]]:
        """`PUBLISHED_COUNTS` for the configuration of this builder."""
        return self.PUBLISHED_COUNTS

    def _read_splits(self) -> dict[str, dict[Any, Any]]:
        """Sources of every split: image id or name -> what `_read_row` needs."""
        return {split: self._read_split(split) for split in self.config.list_splits()}

    def _read_split(self, split: str) -> dict[Any, Any]:
        """Sources of one split."""
        raise NotImplementedError

    @abstractmethod
    def _read_row(self, image: Any, source: Any, report: ReadingReport) -> dict[str, Any] | None:
        """Row of an image, or `None` (reported) where it cannot be used."""

    def _read_image(self, name: str, report: ReadingReport, folder: Path | None = None) -> dict[str, Any] | None:
        """Columns of an image without its id, or `None` (reported) where the file is missing or damaged."""
        folder = folder or self.config.get_image_folder()
        stored = read_image_file(folder / name, report)
        if stored is None:
            return None
        width, height = stored.upright_size
        return {"image": self.config.build_image(name, stored, folder), "width": width, "height": height}

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(description=self.DESCRIPTION, features=self.FEATURES)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        self.report = ReadingReport()
        splits = self._read_splits()
        if not any(splits.values()):
            schema = find_task_schema(self.FEATURES)
            word = schema.text if schema else "phrase"
            raise ValueError(f"No image of {self.config.data_root} has a {word}.{self._explain()}")
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"sources": sources}) for split, sources in splits.items()
        ]

    def _generate_examples(self, sources: dict[Any, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
        report = ReadingReport()
        for key, (image, source) in enumerate(sources.items()):
            row = self._read_row(image, source, report)
            if row is not None and (row := keep_usable_texts(row, report)) is not None:
                yield key, row
        self.report.update(report)

    def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        try:
            super()._download_and_prepare(*args, **kwargs)
        except DatasetGenerationError as error:
            if isinstance(error.__cause__, ValueError):
                raise error.__cause__ from None  # it names file and place; the error of `datasets` does not
            raise
        logger = logging.get_logger(type(self).__module__)
        self.report.log(logger, self.config.data_root)
        num_rows = {name: split.num_examples for name, split in (self.info.splits or {}).items()}
        if not any(num_rows.values()):
            raise ValueError(f"No image of {self.config.data_root} can be used.{self._explain()}")
        logger.info("%s: %s rows", self.config.data_root, num_rows)

    def _explain(self) -> str:
        """Reasons of the report, the most frequent first, as the end of a message."""
        places = self.report.first_places
        reasons = self.report.counts.most_common()
        return "".join(f" {count} x {reason} (first: {places[reason]})." for reason, count in reasons)
