# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The card of a built data set: the builder's card, after what was measured of this copy."""

import inspect
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import yaml
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from albef_amc.datasets_scripts import BUILDERS
from albef_amc.datasets_scripts.loading import ALL_SPLITS
from albef_amc.datasets_scripts.task_features import find_task_schema
from albef_amc.model_cards import check_front_matter
from albef_amc.model_cards.card_renderer import TEMPLATE

DEFAULT_CONFIG_NAME = "default"
# Size classes of the Hub: fewer rows than this number.
SIZE_CLASSES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
LARGEST_SIZE_CLASS = "1M<n<10M"
LONGEST_LIST, LONGEST_TEXT = 4, 120
ABOUT_GROUNDING = "One row per image, its phrases inside"
ABOUT_BOXES = "Boxes are x_min, y_min, x_max, y_max in pixels of the upright image."
# Counts of the table of splits, those that the statistics of the task have.
COLUMNS = (
    "images", "phrases", "phrases_without_region", "boxes", "captions", "questions", "sentences", "hypotheses",
    "words",
)  # fmt: skip


def read_builder_card(name: str) -> tuple[dict[str, Any], str]:
    """Front matter and text of a builder's card.

    Args:
        name (`str`): a key of `BUILDERS`; the card is the `README.md` beside the builder.

    Example:
        >>> read_builder_card("synthetic")[0]["license"]
        'apache-2.0'
    """
    path = Path(inspect.getfile(BUILDERS[name])).with_name("README.md")
    _, front_matter, text = path.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front_matter), text.strip()


def render_dataset_card(folder: Path, manifest: dict[str, Any], content: dict[str, Any], repo_id: str | None) -> str:
    """The text of `README.md`.

    Args:
        folder (`Path`): of the data set, with its shards.
        manifest (`dict`): splits and their shards.
        content (`dict`): statistics, published counts and what was skipped.
        repo_id (`str`, *optional*): repository for the loading line.

    Raises:
        ValueError: the Hub could not read the front matter.
    """
    front_matter, text = read_builder_card(manifest["name"])
    title, _, text = text.partition("\n")
    splits = [split for split, state in manifest["splits"].items() if state["shards"]]
    first_shard = folder / manifest["splits"][splits[0]]["shards"][0]["name"]
    features = datasets.Features.from_arrow_schema(pq.read_schema(first_shard))
    schema, place, config_name = find_task_schema(features), repo_id or "path/to/this/folder", manifest["config_name"]
    about = f"{schema.about if schema else ABOUT_GROUNDING}; the bytes of images are in the row."
    statistics = content["statistics"]
    overall = statistics[ALL_SPLITS]
    samples = [(name, value) for name, value in overall.items() if isinstance(value, dict) and "median" in value]
    card = DatasetCard.from_template(
        _build_front_matter(front_matter, manifest, features),
        template_path=str(TEMPLATE.with_name("dataset_card.md")),
        title=title,
        text=text.strip(),
        loading_words=f'"{place}"' if config_name == DEFAULT_CONFIG_NAME else f'"{place}", "{config_name}"',
        about=about if schema else f"{about} {ABOUT_BOXES}",
        splits=splits,
        columns=[name for name in COLUMNS if f"num_{name}" in overall],
        rows={split: statistics[split] for split in (*splits, *([ALL_SPLITS] if len(splits) > 1 else []))},
        overall=overall,
        samples=sorted(samples, key=lambda sample: sample[0] == "long_side"),
        row=_render_row(first_shard),
        manifest=manifest,
        options=", ".join(f"`{name}={value}`" for name, value in manifest["options"].items()),
        **{name: content[name] for name in ("published_counts", "left_out", "empty_splits")},
    )
    check_front_matter(str(card))
    return f"{str(card).rstrip()}\n"


def _build_front_matter(
    base: dict[str, Any], manifest: dict[str, Any], features: datasets.Features
) -> DatasetCardData:
    shards = {split: state["shards"] for split, state in manifest["splits"].items() if state["shards"]}
    num_rows = sum(shard["num_rows"] for entries in shards.values() for shard in entries)
    sizes = (name for bound, name in SIZE_CLASSES.items() if num_rows < bound)
    data = DatasetCardData(**{**base, "size_categories": [next(sizes, LARGEST_SIZE_CLASS)]})
    infos = {
        split: datasets.SplitInfo(
            split,
            num_bytes=sum(shard["num_bytes"] for shard in entries),
            num_examples=sum(shard["num_rows"] for shard in entries),
        )
        for split, entries in shards.items()
    }
    info = datasets.DatasetInfo(
        features=features,
        splits=datasets.SplitDict(infos),
        download_size=sum(shard["size"] for entries in shards.values() for shard in entries),
        dataset_size=sum(split.num_bytes for split in infos.values()),
    )
    DatasetInfosDict({manifest["config_name"]: info}).to_dataset_card_data(data)
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in shards]
    data["configs"] = [{"config_name": manifest["config_name"], "data_files": files}]
    return data


def _render_row(path: Path) -> str:
    with pq.ParquetFile(path) as file:
        row = next(file.iter_batches(batch_size=1)).to_pylist()[0]
    for picture in row.get("images") or [row["image"]]:
        picture["bytes"] = f"<{len(picture['bytes']):,} bytes>"
    lines = ",\n ".join(f"{json.dumps(key)}: {_show(value)}" for key, value in _shorten(row).items())
    return f"{{{lines}}}"


def _show(value: Any) -> str:
    """JSON with a line for each entry of a list of objects."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "[\n  " + ",\n  ".join(json.dumps(item, ensure_ascii=False) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _shorten(value: Any) -> Any:
    """The value with long lists and texts cut."""
    if isinstance(value, dict):
        return {key: _shorten(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shorten(item) for item in value[:LONGEST_LIST]] + ["..."] * (len(value) > LONGEST_LIST)
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return value[:LONGEST_TEXT] + "..."
    return round(value, 2) if isinstance(value, float) else value
