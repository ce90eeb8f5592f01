# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What builders of raw files share: a checked root, a cache that follows the files, a report of what was left out."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import datasets
from datasets.exceptions import DatasetGenerationError
from datasets.utils import logging
from PIL import Image

from albef_amc.datasets_scripts.features import GROUNDING_FEATURES
from albef_amc.datasets_scripts.option_types import check_options
from albef_amc.datasets_scripts.reading.coco_records import ReadingReport
from albef_amc.datasets_scripts.reading.image_files import StoredImage
from albef_amc.datasets_scripts.task_features import find_task_schema
from albef_amc.datasets_scripts.usable_rows import keep_usable_texts


@dataclass
class SourceConfig(datasets.BuilderConfig):
    """Where the files are.

    Args:
        data_root (`str`): folder of the annotations.
    """

    data_root: str = ""

    def __post_init__(self):
        super().__post_init__()
        check_options(self)
        if not str(self.data_root):
            raise ValueError("`data_root` is missing: pass the folder that holds the annotations of the data set.")
        self.data_root = str(self.data_root)
        if not Path(self.data_root).is_dir():
            raise FileNotFoundError(f"No folder {self.data_root}. Check `data_root`; see the data set's card.")

    def list_annotation_paths(self) -> list[Path]:
        """Files that are read beside the images."""
        raise NotImplementedError

    def list_splits(self) -> list[str] | None:
        """Splits that there may be, or `None` where only the annotations say which."""
        return None

    def get_image_folder(self) -> Path:
        """Folder that the images' paths are relative to."""
        raise NotImplementedError

    def list_image_folders(self) -> list[Path]:
        """Folders of all images."""
        return [self.get_image_folder()]

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """Name of the cache; it changes with names, sizes and dates of the files: an edited one is read again."""
        digest = hashlib.sha256()
        suffixes = Image.registered_extensions()
        files = (path for folder in self.list_image_folders() for path in folder.rglob("*"))
        pictures = (path for path in files if path.suffix.lower() in suffixes)
        for path in [*self.list_annotation_paths(), *sorted(pictures)]:
            # Names of files may hold bytes that are no text.
            digest.update(f"{path}/{_describe_state(path)}".encode(errors="surrogateescape"))
        return super().create_config_id({**config_kwargs, "contents": digest.hexdigest()}, custom_features)


def _describe_state(path: Path) -> str:
    """Size and date of a file; a link that leads nowhere has none, and what needs the file says so."""
    try:
        state = path.stat()
    except OSError:
        return "missing"
    return f"{state.st_size}/{state.st_mtime_ns}"


@dataclass
class ImageRootConfig(SourceConfig):
    """Where annotations and images are, if apart.

    Args:
        image_root (`str`, *optional*): folder that the images' paths are relative to.
        embed_images (`bool`, defaults to `True`): whether the rows hold the images' bytes; else they hold their paths
            on this machine, and the files must stay where they are.
    """

    image_root: str | None = None
    embed_images: bool = True

    def __post_init__(self):
        super().__post_init__()
        if not self.get_image_folder().is_dir():
            raise FileNotFoundError(f"No image folder {self.get_image_folder()}. Put it there or pass `image_root`.")

    def get_image_folder(self) -> Path:
        """`image_root`, or the folder of the annotations."""
        return Path(self.image_root or self.data_root)

    def build_image(self, file_name: str, stored: StoredImage, folder: Path | None = None) -> dict[str, Any]:
        """The column `image` of a row, for a file in `folder` (by default the one of all images)."""
        if self.embed_images:
            return {"path": file_name, "bytes": stored.data}
        return {"path": str((folder or self.get_image_folder()).absolute() / file_name), "bytes": None}


class SourceBuilder(datasets.GeneratorBasedBuilder):
    """Base of builders that read raw files; a builder says what its splits are and how an image becomes a row.

    What cannot be used is left out with a reason, counted in `report` and logged; what would be ambiguous or unsafe
    raises a `ValueError`.
    """

    VERSION = datasets.Version("1.1.0")
    BUILDER_CONFIG_CLASS = SourceConfig
    DEFAULT_WRITER_BATCH_SIZE = 100
    DESCRIPTION = ""
    # Columns of the rows.
    FEATURES = GROUNDING_FEATURES
    # Split to what its authors say it holds, such as {"test": {"images": 1000}}; "all" is every split together.
    PUBLISHED_COUNTS: ClassVar[dict[str, dict[str, int]]] = {}

    # Name of a configuration (`config_name`) to the options that it stands for.
    CONFIGURATIONS: ClassVar[dict[str, dict[str, Any]]] = {}

    def __init__(self, *args: Any, config_name: str | None = None, **kwargs: Any):
        if config_name is not None:
            kwargs = self._expand_configuration(config_name, kwargs)
        super().__init__(*args, config_name=config_name, **kwargs)
        self.report = ReadingReport()

    def _expand_configuration(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        """The options with those that a configuration stands for.

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
                    "too: leave out one of the two."
                )
        return {**options, **stands_for}

    def get_published_counts(self) -> dict[str, dict[str, int]]:
        """`PUBLISHED_COUNTS` for the configuration of this builder."""
        return self.PUBLISHED_COUNTS

    @abstractmethod
    def _read_splits(self) -> dict[str, dict[str, Any]]:
        """Names of the splits; for each what `_read_row` needs of an image, by the image's name or id."""

    @abstractmethod
    def _read_row(self, image: str, source: Any, report: ReadingReport) -> dict[str, Any] | None:
        """The row of an image, or `None` where it cannot be used."""

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

    def _generate_examples(self, sources: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
        report = ReadingReport()
        for key, (image, source) in enumerate(sources.items()):
            row = self._read_row(image, source, report)
            row = None if row is None else keep_usable_texts(row, report)
            if row is not None:
                yield key, row
        self.report.update(report)

    def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        try:
            super()._download_and_prepare(*args, **kwargs)
        except DatasetGenerationError as error:
            if isinstance(error.__cause__, ValueError):
                raise error.__cause__ from None  # it names file and place, the error of `datasets` does not
            raise
        logger = logging.get_logger(type(self).__module__)
        self.report.log(logger, self.config.data_root)
        num_rows = {name: split.num_examples for name, split in (self.info.splits or {}).items()}
        if not any(num_rows.values()):
            raise ValueError(f"No image of {self.config.data_root} can be used.{self._explain()}")
        logger.info("%s: %s rows", self.config.data_root, num_rows)

    def _explain(self) -> str:
        """What was left out, most frequent reason first, as the end of a message."""
        places = self.report.first_places
        reasons = self.report.counts.most_common()
        return "".join(f" {count} x {reason} (first: {places[reason]})." for reason, count in reasons)
