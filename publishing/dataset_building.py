# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Raw files to a folder of Parquet shards with a card, that `datasets.load_dataset` reads without this package.

OUTPUT/data/SPLIT-00000.parquet   rows, the images inside
OUTPUT/manifest.json              name, size, checksum and rows of every shard; written after each of them
OUTPUT/report.json                statistics, what was skipped and why, published counts beside the measured ones
OUTPUT/README.md                  the card
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets.utils.py_utils import convert_file_size_to_int

from albef_amc.datasets_scripts import BUILDERS, ReadingReport, check_builder_options
from albef_amc.datasets_scripts.loading import ALL_SPLITS
from albef_amc.datasets_scripts.source_builder import SourceBuilder
from albef_amc.datasets_scripts.split_reader import SplitReader, list_split_readers
from albef_amc.datasets_scripts.statistics import build_statistics, iterate_tables
from albef_amc.messages_albef import suggest_nearest
from albef_amc.model_cards import CARD_FILE
from albef_amc.model_cards.front_matter import is_inside, shorten_place
from albef_amc.publishing.dataset_cards import DEFAULT_CONFIG_NAME, render_dataset_card
from albef_amc.publishing.dataset_shards import (
    DATA_FOLDER,
    SOURCES_PER_PART,
    UNFINISHED_SUFFIX,
    Shard,
    pack_report,
    unpack_report,
    write_shards,
)
from albef_amc.saving_albef import hash_file, write_atomically, write_json
from albef_amc.text_files_albef import load_json

BUILD_MANIFEST_FILE, REPORT_FILE = "manifest.json", "report.json"
DEFAULT_SHARD_SIZE = "500MB"
# What was skipped before any image was read.
ANNOTATIONS = "annotations"
# Names of published counts: what the statistics call them.
COUNTED = {
    "rows": "num_images",
    "images": "num_images",
    "phrases": "num_phrases",
    "boxes": "num_boxes",
    "questions": "num_questions",
}
# A phrase of these data sets is called REF#SENTENCE.
REFS = "refs"

# Gets the split, the number of sources read since the last call, and how many the split has.
Progress = Callable[[str, int, int], None]


def build_dataset(
    name: str,
    output_dir: str | Path,
    options: Mapping[str, Any],
    *,
    splits: Iterable[str] = (),
    num_workers: int = 1,
    shard_size: str = DEFAULT_SHARD_SIZE,
    resume: bool = False,
    repo_id: str | None = None,
    progress: Progress = lambda split, read, total: None,
) -> dict[str, Any]:
    """Builds a data set, or finishes a build that was stopped.

    Args:
        name (`str`): a key of `BUILDERS`.
        output_dir (`str` or `Path`): folder to write; empty, unless `resume`.
        options (mapping): configuration of the builder.
        splits (iterable of `str`): those to build; all by default.
        num_workers (`int`, defaults to 1): processes that read images.
        shard_size (`str`, defaults to "500MB"): rows of about this size go into a shard.
        resume (`bool`, defaults to `False`): keep the shards of an earlier run whose checksum is right.
        repo_id (`str`, *optional*): repository that the card's loading line names.
        progress (callable): is called with the progress of a split.

    Returns:
        `dict`: what `report.json` holds; `files`, bytes by name; `is_card_kept`, whether the card was edited by hand.

    Raises:
        FileNotFoundError: raw files are missing.
        ValueError: an unknown data set or split, a folder that holds something else, or raw files that cannot be used.
    """
    if name not in BUILDERS:
        listed = f"Builders: {', '.join(BUILDERS)}."
        raise ValueError(f"No builder {name!r}. {listed} {suggest_nearest(name, BUILDERS, '')}".rstrip())
    check_builder_options(name, options)
    shard_bytes = _read_size(shard_size)
    folder, hide = Path(output_dir), _build_hider(options)
    with TemporaryDirectory() as cache:
        builder = BUILDERS[name](**{"cache_dir": cache, **options})
        chosen = sorted(set(splits))
        _check_splits(name, builder.config.list_splits(), chosen)
        contents = _identify([name, str(builder.VERSION), builder.config_id, shard_bytes, chosen])
        earlier = _open_folder(folder, resume, contents)
        manifest = {
            "name": name,
            "builder": f"{type(builder).__name__} {builder.VERSION}",
            "albef_amc": version("albef-amc"),
            "config_name": options.get("config_name", DEFAULT_CONFIG_NAME),
            "options": {key: _hide_option(value, hide, options.get("data_root")) for key, value in options.items()},
            "contents": contents,
            "card_sha256": earlier.get("card_sha256"),
            "is_complete": False,
            "splits": earlier.get("splits", {}),
        }
        readers, report = list_split_readers(builder)
        _check_splits(name, readers, chosen)
        readers = {split: reader for split, reader in readers.items() if not chosen or split in chosen}
        left_out = _Build(folder, manifest, hide, progress, shard_bytes, num_workers).write(readers)
        if not any(split["shards"] for split in manifest["splits"].values()):
            raise ValueError(f"No image of {name!r} can be used.{_explain([report, *left_out.values()])}")
        published = builder.get_published_counts() if isinstance(builder, SourceBuilder) else {}
        published = {split: counts for split, counts in published.items() if not chosen or split in chosen}
    content = _describe(folder, manifest, published)
    found = {ANNOTATIONS: report, **left_out}
    content["left_out"] = {where: _list_reasons(report, hide) for where, report in found.items() if report.counts}
    content["empty_splits"] = [split for split, state in manifest["splits"].items() if not state["shards"]]
    write_json(folder / REPORT_FILE, content)
    is_card_kept = _write_card(folder, manifest, content, repo_id)
    return {
        **content,
        "is_card_kept": is_card_kept,
        "files": {path: (folder / path).stat().st_size for path in list_files(folder)},
    }


def _read_size(text: str) -> int:
    """Bytes of a size with its unit; lower case means the same units."""
    try:
        size = convert_file_size_to_int(text.upper())
    except ValueError:
        size = 0
    if size <= 0:
        raise ValueError(f"`--shard-size` must be a whole number with a unit, such as 500MB or 1GB, got {text!r}.")
    return size


def list_files(folder: Path) -> list[str]:
    """Paths below a built folder of everything that is published."""
    manifest = load_json(folder / BUILD_MANIFEST_FILE)
    shards = [shard["name"] for split in manifest["splits"].values() for shard in split["shards"]]
    return [CARD_FILE, BUILD_MANIFEST_FILE, REPORT_FILE, *shards]


def _identify(values: list[Any]) -> str:
    """What a build must have in common with the one that it continues."""
    return hashlib.sha256(json.dumps([*values, SOURCES_PER_PART]).encode()).hexdigest()


def _open_folder(folder: Path, resume: bool, contents: str) -> dict[str, Any]:
    """The manifest of an earlier run; empty where there was none."""
    path = folder / BUILD_MANIFEST_FILE
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`--output-dir` {folder} is a file: name a folder.")
    if not folder.exists() or not any(folder.iterdir()):
        return {}
    if not path.is_file():
        raise ValueError(f"`--output-dir` {folder} is not empty and holds no build. Name a new folder.")
    if not resume:
        raise ValueError(f"`--output-dir` {folder} holds a build: continue it with `--resume`, or name a new folder.")
    try:
        manifest = load_json(path)
        for state in manifest["splits"].values():
            state["shards"] = [dataclasses.asdict(Shard(**entry)) for entry in state["shards"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: remove {folder} and build again.") from error
    if manifest.get("contents") != contents:
        raise ValueError(
            f"{folder} was begun with another data set, other raw files or other options. Name a new folder."
        )
    return manifest


def _check_splits(name: str, splits: Iterable[str] | None, chosen: list[str]) -> None:
    """Refuses splits that are not among those of the data set; `None` means that these are not known yet."""
    unknown = [] if splits is None else sorted(set(chosen) - set(splits))
    if splits is not None and unknown:
        listed = f"it has {', '.join(splits)}."
        hint = suggest_nearest(unknown[0], splits, "")
        raise ValueError(f"`--split`: {name!r} has no split {', '.join(unknown)} here; {listed} {hint}".rstrip())


@dataclass
class _Build:
    """A build in progress: the folder, the manifest of what is done, and how the rest is built."""

    folder: Path
    manifest: dict[str, Any]
    hide: Callable[[str], str]
    progress: Progress
    shard_bytes: int
    num_workers: int

    def write(self, readers: dict[str, SplitReader]) -> dict[str, ReadingReport]:
        """Writes what is missing; returns what was skipped, by split. The manifest is updated after each shard."""
        kept = {split: self._keep_intact(self.manifest["splits"].get(split)) for split in readers}
        self._remove_others({shard.name for shards, _ in kept.values() for shard in shards})
        self.manifest["splits"] = {
            split: {"num_sources": len(reader), "shards": [dataclasses.asdict(shard) for shard in kept[split][0]]}
            for split, reader in readers.items()
        }
        self._save()
        left_out = {}
        for split, reader in readers.items():
            state = self.manifest["splits"][split]
            state["rest"] = self._write_split(reader, *kept[split])
            left_out[split] = ReadingReport()
            for packed in (*(shard["report"] for shard in state["shards"]), state["rest"]):
                left_out[split].update(unpack_report(packed))
        self.manifest["is_complete"] = True
        self._save()
        return left_out

    def _write_split(self, reader: SplitReader, done: list[Shard], rest: dict[str, Any] | None) -> dict[str, Any]:
        """Writes the shards of a split that are missing; returns what was skipped after the last one."""
        if rest is not None:
            self.progress(reader.name, len(reader), len(reader))
            return rest

        def keep(shard: Shard) -> None:
            entry = {**dataclasses.asdict(shard), "report": self._hide_places(shard.report)}
            self.manifest["splits"][reader.name]["shards"].append(entry)
            self._save()

        report = write_shards(
            self.folder,
            reader,
            done,
            shard_bytes=self.shard_bytes,
            num_workers=self.num_workers,
            on_progress=lambda read: self.progress(reader.name, read, len(reader)),
            on_shard=keep,
        )
        return self._hide_places(pack_report(report))

    def _hide_places(self, packed: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        places = packed["first_places"].items()
        return {**packed, "first_places": {reason: self.hide(place) for reason, place in places}}

    def _keep_intact(self, state: dict[str, Any] | None) -> tuple[list[Shard], dict[str, Any] | None]:
        """The first shards that are unchanged; if all are, also what was skipped after the last one."""
        if state is None:
            return [], None
        shards: list[Shard] = []
        for entry in state["shards"]:
            shard = Shard(**entry)
            if not shard.is_intact(self.folder):
                return shards, None
            shards.append(shard)
        return shards, state.get("rest")

    def _remove_others(self, kept: set[str]) -> None:
        """Removes shards that are not kept, incomplete shards, and what a killed run left of the other files."""
        for name in (BUILD_MANIFEST_FILE, REPORT_FILE, CARD_FILE):
            for path in self.folder.glob(f".{name}.*"):
                path.unlink()
        for path in (self.folder / DATA_FOLDER).glob("*"):
            is_ours = path.name.endswith(UNFINISHED_SUFFIX) or re.fullmatch(r"\w+-\d{5}\.parquet", path.name)
            if is_ours and f"{DATA_FOLDER}/{path.name}" not in kept:
                path.unlink()

    def _save(self) -> None:
        write_json(self.folder / BUILD_MANIFEST_FILE, self.manifest)


def _explain(reports: list[ReadingReport]) -> str:
    """Reasons and first places of reports, as the end of a message."""
    return "".join(
        f" {count} x {reason} (first: {found.first_places[reason]})."
        for found in reports
        for reason, count in found.counts.most_common()
    )


def _build_hider(options: Mapping[str, Any]) -> Callable[[str], str]:
    """A function that replaces the folders among the options, in a text, by their names in capitals."""
    folders = {str(value).rstrip("/"): name.upper() for name, value in options.items() if name.endswith("_root")}
    folders |= {str(Path(folder)): name for folder, name in folders.items()}
    folders |= {str(Path(folder).absolute()): name for folder, name in folders.items()}
    patterns = [
        (re.compile(rf"(?<![\w./-]){re.escape(folder)}(?=/|$)"), name)
        for folder, name in sorted(folders.items(), key=lambda pair: -len(pair[0]))
    ]

    def hide(text: str) -> str:
        for pattern, name in patterns:
            text = pattern.sub(name, text)
        return text

    return hide


def _hide_option(value: Any, hide: Callable[[str], str], data_root: str | None) -> Any:
    """An option as it is published: of a path elsewhere than in the raw data, the last part."""
    if isinstance(value, (list, tuple)):
        return [_hide_option(item, hide, data_root) for item in value]
    if isinstance(value, dict):
        return {_hide_option(key, hide, None): _hide_option(item, hide, data_root) for key, item in value.items()}
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    is_part = is_inside(text, data_root)
    return text if is_part else shorten_place(text) if hide(text) == text else hide(text)


def _list_reasons(report: ReadingReport, hide: Callable[[str], str]) -> dict[str, Any]:
    """What was skipped, most frequent reason first."""
    return {
        reason: {"count": count, "first": hide(report.first_places[reason])}
        for reason, count in report.counts.most_common()
    }


def _describe(folder: Path, manifest: dict[str, Any], published: dict[str, dict[str, int]]) -> dict[str, Any]:
    """Statistics of every split and of all together, and published counts beside them; from the files as written."""
    files = {
        split: [folder / shard["name"] for shard in state["shards"]]
        for split, state in manifest["splits"].items()
        if state["shards"]
    }
    statistics = {split: _measure(paths) for split, paths in files.items()}
    files[ALL_SPLITS] = [path for paths in files.values() for path in paths]
    statistics[ALL_SPLITS] = _measure(files[ALL_SPLITS]) if len(statistics) > 1 else next(iter(statistics.values()))
    counts = []
    for split, values in published.items():
        for what, value in values.items():
            measured = None
            if split in files:
                measured = (
                    _count_refs(files[split]) if what == REFS else statistics[split].get(COUNTED.get(what, what))
                )
            agrees = None if measured is None else measured == value
            counts.append(dict(split=split, what=what, published=value, measured=measured, agrees=agrees))
    return {"name": manifest["name"], "statistics": statistics, "published_counts": counts}


def _measure(files: list[Path]) -> dict[str, Any]:
    statistics = build_statistics(pq.read_schema(files[0]).names)
    for table in iterate_tables(files, statistics.columns):
        statistics.add(table)
    return statistics.summarize()


def _count_refs(files: list[Path]) -> int:
    refs: set[str] = set()
    for table in iterate_tables(files, ["phrases"]):
        ids = table["phrases"].combine_chunks().flatten().field("phrase_id")
        refs.update(pc.unique(pc.replace_substring_regex(ids, "#.*", "")).to_pylist())
    return len(refs)


def _write_card(folder: Path, manifest: dict[str, Any], content: dict[str, Any], repo_id: str | None) -> bool:
    """The card; one that was edited by hand stays. Returns whether it did."""
    path = folder / CARD_FILE
    if path.is_file() and manifest.get("card_sha256") != hash_file(path):
        return True
    text = render_dataset_card(folder, manifest, content, repo_id).encode()
    write_atomically(path, text)
    write_json(folder / BUILD_MANIFEST_FILE, {**manifest, "card_sha256": hash_file(path)})
    return False
