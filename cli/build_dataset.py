# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc build-dataset`: raw files to Parquet with a card, and to the Hub."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm.auto import tqdm

from albef_amc.cli.options import DataOption, JsonOption, OutputFolderOption, PrivateOption, RawFolderOption, read_data
from albef_amc.cli.reporting import print_result, report
from albef_amc.publishing import dataset_building
from albef_amc.publishing.dataset_publishing import open_repository, upload_dataset

# Of the statistics, those printed for every split; which of them there are depends on the task.
SHOWN_COUNTS = (
    "num_images", "num_phrases", "num_boxes", "num_captions", "num_questions", "num_sentences", "num_hypotheses",
)  # fmt: skip


def build_dataset(
    name: Annotated[str, typer.Argument(help="Builder: synthetic, coco_phrases, refcoco, amc_json, ...")],
    output_dir: OutputFolderOption,
    options: DataOption = None,
    raw_dir: RawFolderOption = None,
    splits: Annotated[list[str] | None, typer.Option("--split", help="Split, if not all. Repeatable.")] = None,
    push_to_hub: Annotated[str | None, typer.Option(help="your-name/data; created if it does not exist.")] = None,
    private: PrivateOption = False,
    num_workers: Annotated[int, typer.Option(min=1, help="Processes that read images.")] = 1,
    shard_size: Annotated[str, typer.Option(help="Size of a file.")] = dataset_building.DEFAULT_SHARD_SIZE,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a build; finished shards are kept.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Builds a data set from raw files: Parquet shards, checksums, a report of what was skipped, and a card."""
    if private and push_to_hub is None:
        raise ValueError("`--private` is about the repository: give its name with `--push-to-hub`.")
    arguments = read_data(options, raw_dir)
    with redirect_stdout(sys.stderr):  # libraries print to standard output
        url = open_repository(push_to_hub, private=private) if push_to_hub else None
        with _showing_progress() as progress:
            built = dataset_building.build_dataset(
                name,
                output_dir,
                arguments,
                splits=splits or (),
                num_workers=num_workers,
                shard_size=shard_size,
                resume=resume,
                repo_id=push_to_hub,
                progress=progress,
            )
        _report_differences(built)
        result = _summarize(output_dir, built)
        if push_to_hub:
            report(f"uploading {len(built['files'])} files to {push_to_hub}")
            result |= {"url": url, "commit": upload_dataset(output_dir, push_to_hub)}
    if not as_json:
        del result["left_out"]  # is on standard error already
    print_result(result, as_json)


@contextmanager
def _showing_progress() -> Iterator[dataset_building.Progress]:
    """One bar per split on standard error."""
    bars: dict[str, tqdm] = {}

    def progress(split: str, read: int, total: int) -> None:
        if split not in bars:
            bars[split] = tqdm(desc=split, total=total, unit=" images", file=sys.stderr)
        bars[split].update(read)
        if bars[split].n >= total:
            bars[split].close()

    try:
        yield progress
    finally:
        for bar in bars.values():
            bar.close()


def _report_differences(built: dict[str, Any]) -> None:
    """Reports on standard error what was skipped, which splits are empty, and which published counts agree."""
    for where, reasons in built["left_out"].items():
        for reason, found in reasons.items():
            report(f"{where}: {found['count']} x {reason} (first: {found['first']})")
    for split in built["empty_splits"]:
        report(f"{split}: no image can be used; the split is not written")
    if built["is_card_kept"]:
        report("README.md was edited by hand: it stays as it is.")
    words = {None: "not compared", True: "agrees", False: "DIFFERS"}
    for count in built["published_counts"]:
        measured = f"{count['what']} of {count['split']}: {count['measured']}, published {count['published']}"
        report(f"{measured}: {words[count['agrees']]}")


def _summarize(output_dir: Path, built: dict[str, Any]) -> dict[str, Any]:
    shards = {name: size for name, size in built["files"].items() if name.endswith(".parquet")}
    counts = built["published_counts"]
    return {
        "output_dir": output_dir,
        "splits": {
            split: {name: found[name] for name in SHOWN_COUNTS if name in found}
            for split, found in built["statistics"].items()
        },
        "num_shards": len(shards),
        "bytes": sum(shards.values()),
        "left_out": built["left_out"],
        "published_counts": {
            "agree": sum(count["agrees"] is True for count in counts),
            "differ": sum(count["agrees"] is False for count in counts),
            "not_compared": sum(count["agrees"] is None for count in counts),
        },
    }
