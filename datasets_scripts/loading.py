# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Grounding data sets by name: a builder of this package, a folder of Parquet files, or a repository on the Hub."""

from pathlib import Path
from typing import Any

import datasets

from .albef_json import AlbefJson
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
from .visual_genome import VisualGenome

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
}


def load_grounding_dataset(name: str | Path, split: str, **kwargs: Any) -> datasets.Dataset:
    """Rows of the one schema, wherever they come from.

    Args:
        name (`str` or `Path`): a key of `BUILDERS`; else a folder or a Hub repository that
            `datasets.load_dataset` reads.
        split (`str`): such as "train", "test[:100]" or "all".
        **kwargs: configuration of the builder (and `cache_dir`), or further arguments of `load_dataset`; the name of
            a configuration is `config_name` for both.

    Returns:
        `datasets.Dataset`: with the columns of `GROUNDING_FEATURES`.

    Example:

        rows = load_grounding_dataset("coco_phrases", "all", data_root="coco_cc_mini")
    """
    name = str(name)
    if name in BUILDERS:
        builder = BUILDERS[name](**kwargs)
        builder.download_and_prepare()
        chosen, splits = split.partition("[")[0], builder.info.splits
        if chosen not in ("all", *splits) and "+" not in split:
            raise ValueError(f"`{name}` has no split {split!r} here; it has {', '.join(splits)}, all.")
        if chosen in splits and not splits[chosen].num_examples:
            raise ValueError(
                f"no image of split {chosen!r} of `{name}` can be used: its files are missing or damaged. Complete "
                "the download; the data set is then built again."
            )
        return builder.as_dataset(split=split)
    if not Path(name).exists() and (name.count("/") != 1 or name.startswith((".", "/"))):
        raise FileNotFoundError(
            f"No data set {name!r}: it is no builder ({', '.join(BUILDERS)}), no folder and no `user/name` of the Hub."
        )
    dataset = datasets.load_dataset(name, kwargs.pop("config_name", None), split=split, **kwargs)
    missing = sorted(set(GROUNDING_FEATURES) - set(dataset.column_names))
    if missing:
        raise ValueError(
            f"{name} has no column {', '.join(missing)}. The schema is `GROUNDING_FEATURES`; see docs/datasets.md."
        )
    return dataset
