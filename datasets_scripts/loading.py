# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Data sets by name: a builder of this package, a folder of Parquet files, or a repository on the Hub."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq

from .albef_json import AlbefJson
from .albef_nlvr2 import AlbefNlvr2
from .albef_retrieval import AlbefRetrieval
from .albef_snli_ve import AlbefSnliVe
from .albef_vqa import AlbefVqa
from .amc_json import AmcJson
from .coco_phrases import CocoPhrases
from .coco_raw import Coco
from .features import GROUNDING_FEATURES
from .flickr30k_entities import Flickr30kEntities
from .jsonl import Jsonl
from .kilogram import KiloGram
from .phrasecut import PhraseCut
from .refcoco import RefCoco
from .synthetic_grounding import SyntheticGrounding
from .task_features import TASK_SCHEMAS, find_task_schema
from .visual_genome import VisualGenome
from .vqa_v2 import VqaV2

# Shards of a data set that was built on this disk, at most: what streams are dealt out by.
SHARDS_OF_BUILT = 64

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


def load_grounding_dataset(
    name: str | Path, split: str, streaming: bool = False, **kwargs: Any
) -> datasets.Dataset | datasets.IterableDataset:
    """Rows of the grounding schema, wherever they come from.

    Args:
        name (`str` or `Path`): a key of `BUILDERS` whose rows hold phrases; else a folder or a Hub repository that
            `datasets.load_dataset` reads.
        split (`str`): such as "train", "test[:100]" or "all".
        streaming (`bool`, defaults to `False`): rows are read in order while training, and not copied before.
        **kwargs: configuration of the builder (and `cache_dir`), or further arguments of `load_dataset`; the name of
            a configuration is `config_name` for both.

    Returns:
        `datasets.Dataset`, or `datasets.IterableDataset` with `streaming`: with the columns of `GROUNDING_FEATURES`.

    Example:

        rows = load_grounding_dataset("coco_phrases", "all", data_root="coco_cc_mini")
    """
    return _load(str(name), split, streaming, needs_phrases=True, **kwargs)


def load_task_dataset(
    name: str | Path, split: str, streaming: bool = False, **kwargs: Any
) -> datasets.Dataset | datasets.IterableDataset:
    """Rows of any task, wherever they come from: phrases, captions, questions, sentences or hypotheses.

    Args:
        name (`str` or `Path`): a key of `BUILDERS`; else a folder or a Hub repository that `datasets.load_dataset`
            reads.
        split (`str`): such as "train", "test[:100]" or "all".
        streaming (`bool`, defaults to `False`): rows are read in order, and not copied before.
        **kwargs: as for [`load_grounding_dataset`].

    Returns:
        `datasets.Dataset`, or `datasets.IterableDataset` with `streaming`: with the columns of one of the schemas in
        `features.py` and `task_features.py`.

    Example:

        rows = load_task_dataset("vqa_v2", "val", data_root="vqa", image_root="coco", splits=["val"])
    """
    return _load(str(name), split, streaming, needs_phrases=False, **kwargs)


def _load(
    name: str, split: str, streaming: bool, needs_phrases: bool, **kwargs: Any
) -> datasets.Dataset | datasets.IterableDataset:
    if name in BUILDERS:
        builder = BUILDERS[name](**kwargs)
        _check_columns(name, builder.info.features, needs_phrases)
        builder.download_and_prepare()
        chosen, splits = split.partition("[")[0], builder.info.splits
        if chosen not in ("all", *splits) and "+" not in split:
            raise ValueError(f"`{name}` has no split {split!r} here; it has {', '.join(splits)}, all.")
        if chosen in splits and not splits[chosen].num_examples:
            raise ValueError(
                f"no image of split {chosen!r} of `{name}` can be used: its files are missing or damaged. Complete "
                "the download; the data set is then built again."
            )
        built = builder.as_dataset(split=split)
        return stream_rows(built) if streaming else built
    if not Path(name).exists() and (name.count("/") != 1 or name.startswith((".", "/"))):
        raise FileNotFoundError(
            f"No data set {name!r}: it is no builder ({', '.join(BUILDERS)}), no folder and no `user/name` of the Hub."
        )
    config_name = kwargs.pop("config_name", None)
    dataset = datasets.load_dataset(name, config_name, split=split, streaming=streaming, **kwargs)
    _check_columns(name, dataset.column_names or (), needs_phrases)
    if streaming and not dataset.info.splits:
        files = datasets.load_dataset_builder(name, config_name, **kwargs).config.data_files[split]
        _state_size(dataset, count_rows(files))
    return dataset


def _check_columns(name: str, columns: Iterable[str], needs_phrases: bool) -> None:
    """Refuses columns of another task, or of none."""
    missing = sorted(set(GROUNDING_FEATURES) - set(columns))
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


def stream_rows(rows: datasets.Dataset) -> datasets.IterableDataset:
    """A data set on this disk as a stream of several shards."""
    stream = rows.to_iterable_dataset(num_shards=max(1, min(SHARDS_OF_BUILT, len(rows))))
    _state_size(stream, len(rows))
    return stream


def count_rows(files: Iterable[str]) -> int | None:
    """Rows of Parquet files on this disk, read off their ends; `None` for other files."""
    paths = [Path(file) for file in files]
    if not all(path.suffix == ".parquet" and path.is_file() for path in paths):
        return None
    return sum(pq.read_metadata(path).num_rows for path in paths)


def _state_size(stream: datasets.IterableDataset, num_rows: int | None) -> None:
    """Lets a stream say how many rows it has, as one from a repository with a card does."""
    if num_rows is not None:
        split = str(stream.split or "all")
        stream.info.splits = datasets.SplitDict({split: datasets.SplitInfo(split, num_examples=num_rows)})
