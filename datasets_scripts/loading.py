# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Loading data sets by name: a builder of this package, a folder of Parquet files, or a repository on the Hub."""

import dataclasses
import errno
import inspect
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import pyarrow.parquet as pq
from datasets.exceptions import DatasetGenerationError
from datasets.packaged_modules.parquet.parquet import ParquetConfig

from albef_amc.checkpoint_files_albef import is_repository_name
from albef_amc.configuration.setting_types import check_type
from albef_amc.datasets_scripts.albef_json.albef_json import AlbefJson
from albef_amc.datasets_scripts.albef_nlvr2.albef_nlvr2 import AlbefNlvr2
from albef_amc.datasets_scripts.albef_retrieval.albef_retrieval import AlbefRetrieval
from albef_amc.datasets_scripts.albef_snli_ve.albef_snli_ve import AlbefSnliVe
from albef_amc.datasets_scripts.albef_vqa.albef_vqa import AlbefVqa
from albef_amc.datasets_scripts.amc_json.amc_json import AmcJson
from albef_amc.datasets_scripts.coco.coco import Coco
from albef_amc.datasets_scripts.coco_phrases.coco_phrases import CocoPhrases
from albef_amc.datasets_scripts.features import GROUNDING_FEATURES, OPTIONAL_COLUMNS
from albef_amc.datasets_scripts.flickr30k_entities.flickr30k_entities import Flickr30kEntities
from albef_amc.datasets_scripts.jsonl.jsonl import Jsonl
from albef_amc.datasets_scripts.kilogram.kilogram import KiloGram
from albef_amc.datasets_scripts.option_types import list_option_types
from albef_amc.datasets_scripts.phrasecut.phrasecut import PhraseCut
from albef_amc.datasets_scripts.refcoco.refcoco import RefCoco
from albef_amc.datasets_scripts.row_images import guard_images, list_image_folders
from albef_amc.datasets_scripts.synthetic_grounding.synthetic_grounding import SyntheticGrounding
from albef_amc.datasets_scripts.task_features import TASK_SCHEMAS, find_task_schema
from albef_amc.datasets_scripts.visual_genome.visual_genome import VisualGenome
from albef_amc.datasets_scripts.vqa_v2.vqa_v2 import VqaV2
from albef_amc.messages_albef import suggest_nearest

# Maximum number of shards of a streamed local data set: streams are distributed by shard.
SHARDS_OF_BUILT = 64
ALL_SPLITS = "all"
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Arguments of a builder beside the fields of its configuration.
COMMON_OPTIONS = ("config_name", "cache_dir")
# Arguments of `datasets.load_dataset` that have a parameter of their own here.
OWN_PARAMETERS = ("path", "name", "split", "streaming", "config_kwargs")
# Similarity to an argument of `datasets.load_dataset` from which an unknown option is a misspelling, not an option of
# the file format.
LIKENESS_OF_OTHERS = 0.7

COMMIT_HASH = re.compile("[0-9a-f]{40}")

BUILDERS: dict[str, type[datasets.GeneratorBasedBuilder]] = {
    "synthetic": SyntheticGrounding,
    "coco_phrases": CocoPhrases,
    "amc_json": AmcJson,
    "albef_json": AlbefJson,
    "refcoco": RefCoco,
    "visual_genome": VisualGenome,
    "flickr30k_entities": Flickr30kEntities,
    "coco": Coco,
    "phrasecut": PhraseCut,
    "kilogram": KiloGram,
    "jsonl": Jsonl,
    "albef_retrieval": AlbefRetrieval,
    "albef_vqa": AlbefVqa,
    "albef_nlvr2": AlbefNlvr2,
    "albef_snli_ve": AlbefSnliVe,
    "vqa_v2": VqaV2,
}


def check_builder_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a data set does not have, before any file is opened.

    Args:
        name (`str`): a key of `BUILDERS`, otherwise a folder or a Hub repository.
        options (mapping): arguments of [`load_grounding_dataset`] other than name, split and streaming.

    Raises:
        ValueError: an unknown option (the nearest one is suggested) or `config_name`.
        TypeError: a value of another type than that of the option.

    Example:
        >>> check_builder_options("jsonl", {"data_rot": "photos"})
        Traceback (most recent call last):
        ValueError: `jsonl` has no option `data_rot`. Did you mean `data_root`?
    """
    if name not in BUILDERS:
        _check_load_options(name, options)
        return
    builder = BUILDERS[name]
    hints = list_option_types(builder.BUILDER_CONFIG_CLASS)
    known = [*hints, *COMMON_OPTIONS]
    for option, value in options.items():
        if option not in known:
            hint = suggest_nearest(option, known, f"Options: {', '.join(known)}.")
            raise ValueError(f"`{name}` has no option `{option}`. {hint}")
        if option in hints:
            check_type(option, value, hints[option])
    config_name = options.get("config_name")
    configurations = getattr(builder, "CONFIGURATIONS", {})
    if config_name is not None and config_name not in configurations:
        listed = f"Configurations: {', '.join(configurations)}." if configurations else "It has none: drop the option."
        raise ValueError(
            f"`config_name` {config_name!r} is not a configuration of `{name}`. "
            + suggest_nearest(config_name, configurations, listed)
        )


def _check_load_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse misspelled options of a folder or a repository.

    Other names are options of the file format, which `datasets` checks when it has found the files.
    """
    known = [option for option in inspect.signature(datasets.load_dataset).parameters if option not in OWN_PARAMETERS]
    known.append("config_name")
    formats = [item.name for item in dataclasses.fields(ParquetConfig)]
    for option in options:
        hint = suggest_nearest(option, known, "", LIKENESS_OF_OTHERS)
        if hint and option not in known and option not in formats:
            raise ValueError(f"{name} is loaded by `datasets.load_dataset`, which has no option `{option}`. {hint}")


def check_builder_split(name: str, split: str, options: Mapping[str, Any]) -> None:
    """Refuse a split that a data set does not have, as far as this is known before the annotations are read.

    Args:
        name (`str`): a key of `BUILDERS`; a folder, whose file names give the splits; or a Hub repository, which is
            not contacted.
        split (`str`): such as "train", "test[:100]", "val+test" or "all".
        options (mapping): arguments of [`load_grounding_dataset`] other than name, split and streaming.

    Raises:
        ValueError: no such split, or options that cannot be used together.
        FileNotFoundError: files of the data set are missing.
    """
    check_builder_options(name, options)
    if name in BUILDERS:
        with TemporaryDirectory() as folder:  # the constructor creates the cache folder
            splits = BUILDERS[name](**{**options, "cache_dir": folder}).config.list_splits()
        _check_split(name, split, splits)
        return
    _check_exists(name)
    _check_split(name, split, _list_splits_of_folder(name, options))


def _check_split(name: str, split: str, splits: Iterable[str] | None) -> None:
    """Refuse a split, or one of several joined by `+`, that is not among `splits`; `None` means unknown."""
    if not isinstance(split, str) or not split:
        raise TypeError(f"`split` must be a text such as train, test[:100] or all, got {split!r}.")
    datasets.ReadInstruction.from_spec(split)  # refuses slices that `datasets` cannot parse
    for part in split.split("+") if splits is not None else ():
        chosen = part.partition("[")[0].strip()
        if chosen not in (ALL_SPLITS, *splits):
            valid = [*splits, ALL_SPLITS]
            nearest = suggest_nearest(chosen, valid, "")
            raise ValueError(f"`{name}` has no split {chosen!r} here; it has {', '.join(valid)}. {nearest}".rstrip())


def load_grounding_dataset(
    name: str | Path, split: str, streaming: bool = False, **kwargs: Any
) -> datasets.Dataset | datasets.IterableDataset:
    """Load rows of the grounding schema.

    Args:
        name (`str` or `Path`): a key of `BUILDERS` whose rows hold phrases, otherwise a folder or a Hub repository
            for `datasets.load_dataset`.
        split (`str`): such as "train", "test[:100]" or "all".
        streaming (`bool`, defaults to `False`): rows are read in order during training, without a copy.
        **kwargs: options of the builder (and `cache_dir`), or further arguments of `load_dataset`; the name of a
            configuration is `config_name` for both.

    Returns:
        `datasets.Dataset`, or `datasets.IterableDataset` with `streaming`: with the columns of `GROUNDING_FEATURES`;
        `true_phrases` and `false_phrases` are null where the data set lacks them.
        Images are opened by [`RowImage`]: a row that names a file outside the folder of its data set, or an address to
        fetch, is refused when it is read.

    Example:

        rows = load_grounding_dataset("coco_phrases", "all", data_root="coco_cc_mini")
    """
    return _load(str(name), split, streaming, True, kwargs)


def load_task_dataset(
    name: str | Path, split: str, streaming: bool = False, **kwargs: Any
) -> datasets.Dataset | datasets.IterableDataset:
    """Load rows of any task: phrases, captions, questions, sentences or hypotheses.

    Args:
        name (`str` or `Path`): a key of `BUILDERS`, otherwise a folder or a Hub repository for
            `datasets.load_dataset`.
        split (`str`): such as "train", "test[:100]" or "all".
        streaming (`bool`, defaults to `False`): rows are read in order, without a copy.
        **kwargs: as for [`load_grounding_dataset`].

    Returns:
        `datasets.Dataset`, or `datasets.IterableDataset` with `streaming`: with the columns of one of the schemas in
        `features.py` and `task_features.py`.

    Example:

        rows = load_task_dataset("vqa_v2", "val", data_root="vqa", image_root="coco", splits=["val"])
    """
    return _load(str(name), split, streaming, False, kwargs)


def _load(
    name: str, split: str, streaming: bool, needs_phrases: bool, options: Mapping[str, Any]
) -> datasets.Dataset | datasets.IterableDataset:
    check_builder_options(name, options)
    if name in BUILDERS:
        built = _build(name, split, needs_phrases, options)
        return stream_rows(built) if streaming else built
    _check_exists(name)
    _check_split(name, split, _list_splits_of_folder(name, options))
    others = {option: value for option, value in options.items() if option != "config_name"}
    config_name = options.get("config_name")
    with _explaining_failures(name):
        dataset = datasets.load_dataset(name, config_name, split=split, streaming=streaming, **others)
    _check_columns(name, dataset.column_names or (), needs_phrases)
    dataset = guard_images(_fill_columns(dataset), list_image_folders(name))
    if streaming and not dataset.info.splits:
        files = datasets.load_dataset_builder(name, config_name, **others).config.data_files[split]
        _state_size(dataset, count_rows(files))
    return dataset


def find_dataset_commit(name: str | Path, rows: datasets.Dataset) -> str | None:
    """The commit of the repository that rows were loaded from; `None` for a builder or a folder.

    `datasets` names the folder of its cache by the commit.
    """
    if str(name) in BUILDERS or Path(name).is_dir():
        return None
    folders = [Path(file["filename"]).parent.name for file in rows.cache_files]
    return next((folder for folder in folders if COMMIT_HASH.fullmatch(folder)), None)


def _build(name: str, split: str, needs_phrases: bool, options: Mapping[str, Any]) -> datasets.Dataset:
    """Run a builder, or read its cache."""
    builder = BUILDERS[name](**options)
    _check_columns(name, builder.info.features, needs_phrases)
    _check_split(name, split, builder.config.list_splits())
    with _explaining_failures(name):
        builder.download_and_prepare()
    chosen, splits = split.partition("[")[0], builder.info.splits
    _check_split(name, split, splits)
    if chosen in splits and not splits[chosen].num_examples:
        raise ValueError(
            f"no image of split {chosen!r} of `{name}` can be used: its files are missing or damaged. Complete the "
            "download; the data set is then built again."
        )
    return guard_images(builder.as_dataset(split=split))


@contextmanager
def _explaining_failures(name: str) -> Iterator[None]:
    """Raise the cause of an error of `datasets`, whose own message does not state it.

    Raises:
        OSError: the disk of the cache is full.
        ValueError: a file of the data set is damaged.
    """
    try:
        yield
    except DatasetGenerationError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in FULL_DISK:
            raise OSError(
                cause.errno,
                f"{os.strerror(cause.errno)}: the cache has no room for the rows of {name}. Make room, or set "
                "HF_DATASETS_CACHE to a folder on another disk",
            ) from error
        if isinstance(cause, ValueError):
            raise ValueError(f"{name} cannot be read: {cause}") from error
        raise


def _check_exists(name: str) -> None:
    """Refuse a name that is neither a builder, nor a folder, nor a possible name of a repository."""
    if not name or not (Path(name).exists() or is_repository_name(name)):
        listed = f"it is neither a builder ({', '.join(BUILDERS)}), nor a folder, nor a `user/name` of the Hub."
        raise FileNotFoundError(f"No data set {name!r}: {listed} {suggest_nearest(name, BUILDERS, '')}".rstrip())


def _list_splits_of_folder(name: str, options: Mapping[str, Any]) -> Iterable[str] | None:
    """Splits of a folder, from its file names; `None` where they contain none, and for a repository."""
    if not Path(name).is_dir():
        return None
    known = inspect.signature(datasets.load_dataset_builder).parameters
    others = inspect.signature(datasets.load_dataset).parameters.keys() - known.keys() | {"config_name"}
    kept = {option: value for option, value in options.items() if option not in others}
    builder = datasets.load_dataset_builder(name, options.get("config_name"), **kept)
    return [str(split) for split in builder.config.data_files or ()] or None  # `datasets` has its own type for names


def _check_columns(name: str, columns: Iterable[str], needs_phrases: bool) -> None:
    """Refuse columns of another task, or of none."""
    missing = sorted(set(GROUNDING_FEATURES) - set(OPTIONAL_COLUMNS) - set(columns))
    schema = find_task_schema(columns)
    if not missing or (schema is not None and not needs_phrases):
        return
    if schema is not None:
        raise ValueError(
            f"{name} has no column phrases: its rows hold {schema.texts}. Load it with `load_task_dataset`; grounding "
            "needs a data set with phrases."
        )
    if needs_phrases:
        raise ValueError(
            f"{name} has no column {', '.join(missing)}. The schema is `GROUNDING_FEATURES`; see docs/datasets.md."
        )
    texts = ", ".join(["phrases", *(schema.texts for schema in TASK_SCHEMAS)])
    raise ValueError(f"{name} has the columns of no task (one of {texts} is needed); see docs/datasets.md.")


def _fill_columns(
    rows: datasets.Dataset | datasets.IterableDataset,
) -> datasets.Dataset | datasets.IterableDataset:
    """Rows of grounding with those of `OPTIONAL_COLUMNS` that they lack, all null."""
    columns = rows.column_names or ()
    missing = [name for name in OPTIONAL_COLUMNS if "phrases" in columns and name not in columns]
    if isinstance(rows, datasets.IterableDataset):
        features = {name: GROUNDING_FEATURES[name] for name in missing}
        return rows.cast(datasets.Features({**rows.features, **features})) if missing else rows
    for name in missing:
        rows = rows.add_column(name, [None] * len(rows), feature=GROUNDING_FEATURES[name])
    return rows


def stream_rows(rows: datasets.Dataset) -> datasets.IterableDataset:
    """Convert a local data set to a stream of several shards.

    Raises:
        ValueError: the data set has no rows.
    """
    if not len(rows):
        raise ValueError("the data set has no rows: there is nothing to stream. Choose another split.")
    stream = rows.to_iterable_dataset(num_shards=max(1, min(SHARDS_OF_BUILT, len(rows))))
    _state_size(stream, len(rows))
    return stream


def count_rows(files: Iterable[str]) -> int | None:
    """Count the rows of local Parquet files by their metadata; `None` for other files."""
    paths = [Path(file) for file in files]
    if not all(path.suffix == ".parquet" and path.is_file() for path in paths):
        return None
    return sum(pq.read_metadata(path).num_rows for path in paths)


def _state_size(stream: datasets.IterableDataset, num_rows: int | None) -> None:
    """Store the number of rows in a stream, as in one from a repository with a card."""
    if num_rows is not None:
        split = str(stream.split or "all")
        stream.info.splits = datasets.SplitDict({split: datasets.SplitInfo(split, num_examples=num_rows)})
