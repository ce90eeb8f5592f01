# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Training data as a run reads it: one data set or several with weights, each map-style or streamed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import PurePath
from typing import Any

import datasets
import numpy as np

from albef_amc.collections_albef import without_format
from albef_amc.datasets_scripts import load_grounding_dataset
from albef_amc.datasets_scripts.features import read_row
from albef_amc.datasets_scripts.randomness import example_generator
from albef_amc.datasets_scripts.row_checks import warn_about_boxes
from albef_amc.datasets_scripts.row_images import guard_images
from albef_amc.text_processing_albef import find_text_problem
from albef_amc.trainer.data.epoch_dataset import EpochDataset
from albef_amc.trainer.data.group_by_image import group_rows_by_image
from albef_amc.trainer.data.phrase_epochs import build_epoch_dataset, iterate_phrase_lists
from albef_amc.trainer.data.streaming import StreamedRows, StreamSource

PERMUTATIONS_KEPT = 8
MOST_STREAMED_ROWS = 1_000  # whose phrases are looked at: a stream is read from its source


@dataclass(frozen=True)
class Mixture:
    """Several data sets that are trained on together.

    Args:
        parts (list): data sets of rows, all map-style or all streamed.
        weights (list of `float`): how often a row comes from each: the share of a part is its weight over the sum of
            all weights, whatever its size.
        names (list of `str`): what is put before the `image_id`s of each part, so that images of different data sets
            are different. Parts of the same name share their images.

    Raises:
        ValueError: no parts, weights that are not positive, or lists of different lengths.
    """

    parts: Sequence[Any]
    weights: Sequence[float]
    names: Sequence[str] = field(default_factory=list)

    def __post_init__(self):
        if not self.parts or not len(self.parts) == len(self.weights) == len(self.names):
            raise ValueError(
                f"a mixture needs a weight and a name for each part, got {len(self.parts)} parts, "
                f"{len(self.weights)} weights and {len(self.names)} names."
            )
        for weight in self.weights:
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
                raise ValueError(f"`weight` of a mixture's part must be a number above 0, got {weight!r}.")

    @property
    def shares(self) -> list[float]:
        """Share of the rows that each part gives."""
        return [weight / sum(self.weights) for weight in self.weights]


class MixedRows(EpochDataset):
    """Rows of several map-style data sets, in shares that do not depend on their sizes.

    An epoch has as many rows as all parts together. Each part goes through its rows in an order redrawn for every
    pass; where its share of an epoch ends within a pass, the next epoch continues. So no row of a part comes twice
    before every other one came. A row's `draw` is its part's pass. Rows are read where they are, none is copied.

    Args:
        parts (list of [`EpochDataset`]): the data sets.
        shares (list of `float`): share of the rows that each gives; sum 1.
        names (list of `str`): what is put before the `image_id`s of each part.
        seed (`int`, defaults to 0): seed of the run.

    Example:

    ```python
    >>> from albef_amc.trainer.data.epoch_dataset import EpochDataset
    >>> from albef_amc.trainer.data.mixtures import MixedRows
    >>> dogs, cups = [{"image_id": str(number)} for number in range(6)], [{"image_id": "0"}, {"image_id": "1"}]
    >>> rows = MixedRows([EpochDataset(dogs), EpochDataset(cups)], [0.5, 0.5], ["dogs", "cups"])
    >>> sorted(rows[number]["image_id"] for number in range(len(rows)))[:4]
    ['cups:0', 'cups:0', 'cups:1', 'cups:1']

    ```
    """

    def __init__(self, parts: Sequence[EpochDataset], shares: Sequence[float], names: Sequence[str], seed: int = 0):
        super().__init__([])
        for part, name in zip(parts, names, strict=True):
            if not len(part):
                raise ValueError(f"part {name!r} of the mixture has no rows.")
        self.parts = list(parts)
        self.names = list(names)
        self.seed = seed
        self._counts = apportion_rows(sum(len(part) for part in parts), shares)
        self._ends = np.cumsum(self._counts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, index: int, epoch: int) -> dict:
        """A row, as it comes in an epoch."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        part = self.parts[number]
        place = epoch * self._counts[number] + index - (int(self._ends[number]) - self._counts[number])
        num_pass, place = divmod(place, len(part))
        row = part.read(int(_draw_order(self.seed, number, num_pass, len(part))[place]), num_pass)
        return {**row, "image_id": f"{self.names[number]}:{row['image_id']}"}


@lru_cache(maxsize=PERMUTATIONS_KEPT)
def _draw_order(seed: int, number: int, num_pass: int, size: int) -> np.ndarray:
    """Order of a part's rows in a pass."""
    return example_generator(seed, num_pass, f"part {number}", "mixture").permutation(size)


def apportion_rows(num_rows: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers with a given sum, as near to the shares as can be.

    Example:

    ```python
    >>> from albef_amc.trainer.data.mixtures import apportion_rows
    >>> apportion_rows(10, [0.5, 0.25, 0.25])
    [5, 3, 2]

    ```
    """
    exact = [num_rows * share for share in shares]
    counts = [int(value) for value in exact]
    by_rest = sorted(range(len(shares)), key=lambda number: (counts[number] - exact[number], number))
    for number in by_rest[: num_rows - sum(counts)]:
        counts[number] += 1
    return counts


def load_training_data(sections: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Any:
    """Loads what `train_data` of a recipe describes.

    Args:
        sections (mapping or list of mappings): arguments of [`~datasets_scripts.load_grounding_dataset`]; in a list
            each with a `weight`, 1 by default.

    Returns:
        A data set, or a [`Mixture`] for a list.
    """
    if isinstance(sections, Mapping):
        return load_grounding_dataset(**sections)
    options = [{name: value for name, value in section.items() if name != "weight"} for section in sections]
    names = shorten_names([str(option["name"]) for option in options])
    weights = [section.get("weight", 1) for section in sections]
    return Mixture([load_grounding_dataset(**option) for option in options], weights, names)


def shorten_names(names: Sequence[str]) -> list[str]:
    """The last part of each path or repository, and all of it where that would not tell two of them apart.

    Example:

    ```python
    >>> from albef_amc.trainer.data.mixtures import shorten_names
    >>> shorten_names(["data/coco", "your-name/scenes", "data/coco"])
    ['coco', 'scenes', 'coco']

    ```
    """
    short = {name: PurePath(name).name for name in names}
    is_clear = len(set(short.values())) == len(short)
    return [short[name] if is_clear else name for name in names]


def list_parts(rows: Any) -> list[Any]:
    """The data sets of a mixture, or the one data set, without a format that would change their rows."""
    return [without_format(part) for part in (rows.parts if isinstance(rows, Mixture) else [rows])]


def iterate_texts(rows: Any, with_paraphrases: bool = False) -> Iterator[str]:
    """Phrases of a data set or a mixture that can be used, without images; of a stream those of its first rows.

    Args:
        rows: data set of `datasets`, list of `dict`, or [`Mixture`]; others give nothing, since they may read images.
        with_paraphrases (`bool`, defaults to `False`): also their paraphrases.
    """
    for part in list_parts(rows):
        for phrase in _iterate_phrases(part):
            texts = [phrase.get("phrase"), *((phrase.get("paraphrases") or ()) if with_paraphrases else ())]
            yield from (text for text in texts if find_text_problem(text) is None)


def _iterate_phrases(rows: Any) -> Iterator[dict]:
    if isinstance(rows, datasets.Dataset):
        for phrases in (lists.flatten() for lists in iterate_phrase_lists(rows)):
            names = [name for name in ("phrase", "paraphrases") if phrases.type.get_field_index(name) >= 0]
            columns = [phrases.field(name).to_pylist() for name in names]
            yield from (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))
        return
    if isinstance(rows, datasets.IterableDataset):
        rows = islice(rows.select_columns(["image_id", "phrases"]), MOST_STREAMED_ROWS)
    elif not isinstance(rows, (list, tuple)):
        return
    for row in rows:
        yield from read_row(row, ("image_id", "phrases"))["phrases"]


def describe_size(rows: Any) -> str:
    """How many training images there are, in words.

    Example:

    ```python
    >>> from albef_amc.trainer.data.mixtures import Mixture, describe_size
    >>> describe_size(Mixture([[{}] * 3, [{}]], weights=[1, 1], names=["photos", "scenes"]))
    '3 + 1 training images'

    ```
    """
    parts = list_parts(rows)
    words = ["streamed" if isinstance(part, datasets.IterableDataset) else str(len(part)) for part in parts]
    return f"{' + '.join(words)} training images"


def build_training_dataset(rows: Any, args: Any) -> Any:
    """The training rows of a run as its settings want them.

    Args:
        rows: a data set (map-style or iterable), or a [`Mixture`].
        args ([`AmcConfig`]): the run's settings.

    Returns:
        [`EpochDataset`] or [`StreamedRows`]; iterable data sets other than those of `datasets` come back as they are.

    Raises:
        ValueError: a mixture of map-style and streamed data sets, settings that streams do not have, or so few rows
            that the run would not see a single batch.
    """
    mixture = rows if isinstance(rows, Mixture) else None
    parts = [guard_images(part, is_decoded=False) for part in list_parts(rows)]
    streamed = [isinstance(part, datasets.IterableDataset) for part in parts]
    if all(streamed):
        return build_streamed_rows(parts, args, mixture)
    if any(streamed):
        raise ValueError("a mixture has streamed and other data sets: set `streaming` for all of them, or for none.")
    if args.shuffle_buffer:
        raise ValueError("`shuffle_buffer` is for streamed data: remove it, or set `streaming` in `train_data`.")
    for part, name in zip(parts, [None] if mixture is None else mixture.names, strict=True):
        if args.process_index == 0:
            warn_about_boxes(part, "training data" if name is None else f"training data {name}")
    if args.group_by_image:
        parts = [group_rows_by_image(part) for part in parts]
    parts = [build_epoch_dataset(part, args) for part in parts]
    built = parts[0] if mixture is None else MixedRows(parts, mixture.shares, mixture.names, args.seed)
    _check_batches(built, args)
    return built


def check_has_rows(rows: Any) -> None:
    """Refuses training data without a row, as far as it knows how many it has.

    Raises:
        ValueError: a data set, or a part of a mixture, without rows.
    """
    names = rows.names if isinstance(rows, Mixture) else [""]
    for part, name in zip(list_parts(rows), names, strict=True):
        if hasattr(part, "__len__") and not len(part):
            owner = f"part {name!r} of the mixture" if name else "the training data"
            raise ValueError(
                f"{owner} has no rows: the run would not see a single batch. Choose another `split`, or look at what "
                "was filtered out."
            )


def check_evaluation_rows(rows: Any) -> None:
    """Refuses evaluation data without a row.

    Args:
        rows (data set, or `dict` of several): as a trainer takes them.

    Raises:
        ValueError: a data set without rows.
    """
    for name, part in rows.items() if isinstance(rows, dict) else [("", rows)]:
        if part is not None and hasattr(part, "__len__") and not len(part):
            owner = f"the evaluation data {name!r}" if name else "the evaluation data"
            raise ValueError(f"{owner} has no rows: nothing can be evaluated. Choose another split, or remove it.")


def _check_batches(rows: Any, args: Any) -> None:
    """Refuses rows of which no process would see a batch."""
    check_has_rows(rows)
    num_processes = 1 if args.accelerator_config.split_batches else args.world_size
    needed = args.per_device_train_batch_size * num_processes
    if args.dataloader_drop_last and hasattr(rows, "__len__") and len(rows) < needed:
        raise ValueError(
            f"the training data has {len(rows)} rows and a batch on each process takes {needed} "
            f"(`per_device_train_batch_size` {args.per_device_train_batch_size}, {num_processes} processes, "
            f"`gradient_accumulation_steps` {args.gradient_accumulation_steps}): with `dataloader_drop_last` the run "
            "would not see a single batch. Lower `per_device_train_batch_size`, or set `dataloader_drop_last=false`."
        )


def build_streamed_rows(
    streams: Sequence[datasets.IterableDataset], args: Any, mixture: Mixture | None = None
) -> StreamedRows:
    """Endless rows of streams for this process.

    A data set of fewer files than there are readers (processes times workers) is divided further where its format
    allows it: Parquet by row groups.

    Args:
        streams (list of `datasets.IterableDataset`): the data sets.
        args ([`AmcConfig`]): the run's settings.
        mixture ([`Mixture`], *optional*): shares and names, for several data sets.

    Raises:
        ValueError: `epoch_unit="phrase"`, which needs rows that can be counted.
    """
    if args.epoch_unit == "phrase":
        raise ValueError(
            "`epoch_unit='phrase'` needs rows that can be counted before they are read: load the data without "
            "`streaming`, or set `epoch_unit: image`."
        )
    num_readers = args.world_size * max(1, args.dataloader_num_workers)
    sources = []
    for stream in streams:
        if stream.num_shards < num_readers and not args.group_by_image:
            stream = stream.reshard()
        sources.append(
            StreamSource(
                stream,
                args.seed,
                shuffle_shards=args.train_sampling_strategy != "sequential",
                shuffle_buffer=args.shuffle_buffer,
                group_by_image=args.group_by_image,
            )
        )
    for source in sources:
        if source.num_rows == 0:
            raise ValueError("the streamed training data has no rows: the run would not see a single batch.")
    shares, names = (None, None) if mixture is None else (mixture.shares, mixture.names)
    return StreamedRows(sources, args.seed, shares, names, args.process_index, args.world_size)
