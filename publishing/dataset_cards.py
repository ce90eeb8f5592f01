# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The card of a built data set: the builder's card, with what was measured of this copy in front of it."""

import inspect
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import yaml
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

from albef_amc.datasets_scripts import BUILDERS
from albef_amc.datasets_scripts.task_features import find_task_schema
from albef_amc.model_cards import check_front_matter

CARD_FILE = "README.md"
DEFAULT_CONFIG_NAME = "default"
# The Hub's classes of size: rows below this number.
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
        content (`dict`): statistics, published counts and what was left out.
        repo_id (`str`, *optional*): repository for the loading line.

    Raises:
        ValueError: the Hub could not read the front matter.
    """
    front_matter, text = read_builder_card(manifest["name"])
    title, _, text = text.partition("\n")
    splits = [split for split, state in manifest["splits"].items() if state["shards"]]
    first_shard = folder / manifest["splits"][splits[0]]["shards"][0]["name"]
    features = datasets.Features.from_arrow_schema(pq.read_schema(first_shard))
    sections = [
        f"---\n{_build_front_matter(front_matter, manifest, features)}\n---",
        title,
        _render_use(splits, repo_id or "path/to/this/folder", manifest["config_name"], features),
        _render_statistics(splits, content["statistics"]),
        _render_published(content["published_counts"]),
        _render_left_out(content["left_out"]),
        "".join(f"No image of split {split} can be used. " for split in content["empty_splits"]).strip(),
        _render_row(first_shard),
        _render_making(manifest),
        "The rest of this card is about the source in general.",
        text.strip(),
    ]
    card = "\n\n".join(section for section in sections if section) + "\n"
    check_front_matter(card)
    return card


def _build_front_matter(base: dict[str, Any], manifest: dict[str, Any], features: datasets.Features) -> str:
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
    return data.to_yaml().strip()


def _render_use(splits: list[str], place: str, config_name: str, features: datasets.Features) -> str:
    words = f'"{place}"' if config_name == DEFAULT_CONFIG_NAME else f'"{place}", "{config_name}"'
    schema = find_task_schema(features)
    about = f"{schema.about if schema else ABOUT_GROUNDING}; the bytes of images are in the row."
    if schema is None:
        about += f" {ABOUT_BOXES}"
    return f"""## Use

```python
from datasets import load_dataset

rows = load_dataset({words}, split="{splits[0]}")
rows = load_dataset({words}, split="{splits[0]}", streaming=True)
```

{about} Nothing but `datasets` is needed."""


def _render_statistics(splits: list[str], statistics: dict[str, Any]) -> str:
    overall = statistics["all"]
    columns = [name for name in COLUMNS if f"num_{name}" in overall]
    names = [*splits, *(["all"] if len(splits) > 1 else [])]
    lines = ["## This copy", "", f"| split | {' | '.join(name.replace('_', ' ') for name in columns)} |"]
    lines.append("| --- " * (len(columns) + 1) + "|")
    for split in names:
        values = (f"{statistics[split][f'num_{name}']:,}" for name in columns)
        lines.append(f"| {split} | {' | '.join(values)} |")
    lines += ["", "| measured | mean | min | median | 95 % | max |", "| --- | --- | --- | --- | --- | --- |"]
    samples = [name for name, value in overall.items() if isinstance(value, dict) and "median" in value]
    for name in sorted(samples, key=lambda name: name == "long_side"):
        values = ("-" if value is None else f"{value:.4g}" for value in overall[name].values())
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(values)} |")
    area = "; the area is a share of the image" * ("box_area_share" in overall)
    side = "; the side is in pixels" * ("long_side" in overall)
    lines += ["", f"Words are distinct and in lower case{area}{side}."]
    for name, found in overall.items():
        if "_by_" in name and found:
            kinds = (f"{kind} {count:,}" for kind, count in found.items())
            lines += ["", f"{name.removeprefix('num_').replace('_', ' ').capitalize()}: {', '.join(kinds)}."]
        elif name.startswith("num_repeated_") and found:
            column = name.removeprefix("num_repeated_").removesuffix("s")
            lines += ["", f"{found:,} rows or texts have an id that another one has (`{column}`)."]
    return "\n".join(lines)


def _render_published(counts: list[dict[str, Any]]) -> str:
    if not counts:
        return "No published counts are known to compare with."
    words = {None: "not compared", True: "agrees", False: "differs"}
    lines = ["| split | what | published | this copy | |", "| --- | --- | --- | --- | --- |"]
    for count in counts:
        measured = "-" if count["measured"] is None else f"{count['measured']:,}"
        published = f"{count['published']:,}"
        lines.append(f"| {count['split']} | {count['what']} | {published} | {measured} | {words[count['agrees']]} |")
    return "\n".join(lines)


def _render_left_out(left_out: dict[str, dict[str, Any]]) -> str:
    if not left_out:
        return "Nothing was left out or repaired."
    lines = ["Left out or repaired:", "", "| found in | times | what | first |", "| --- | --- | --- | --- |"]
    for where, reasons in left_out.items():
        for reason, found in reasons.items():
            place = str(found["first"]).replace("|", "\\|")
            lines.append(f"| {where} | {found['count']:,} | {reason} | {place} |")
    return "\n".join(lines)


def _render_row(path: Path) -> str:
    with pq.ParquetFile(path) as file:
        row = next(file.iter_batches(batch_size=1)).to_pylist()[0]
    for picture in row.get("images") or [row["image"]]:
        picture["bytes"] = f"<{len(picture['bytes']):,} bytes>"
    lines = ",\n ".join(f"{json.dumps(key)}: {_show(value)}" for key, value in _shorten(row).items())
    return f"A row:\n\n```json\n{{{lines}}}\n```"


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


def _render_making(manifest: dict[str, Any]) -> str:
    options = ", ".join(f"`{name}={value}`" for name, value in manifest["options"].items()) or "no options"
    return (
        f"Made by `albef-amc build-dataset {manifest['name']}` of albef-amc {manifest['albef_amc']} "
        f"({manifest['builder']}; {options}). `manifest.json` has the checksum of every file, `report.json` all "
        "numbers."
    )


__all__ = ["CARD_FILE", "read_builder_card", "render_dataset_card"]
