# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Options that several commands take: the same meaning has the same name in all of them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from albef_amc.cli.output_paths import check_output_folder
from albef_amc.cli.reporting import report
from albef_amc.configuration.recipes import read_key_values

STORED_TYPES = ("float32", "bfloat16", "float16")

CellSizeOption = Annotated[int, typer.Option(min=160, max=2000, help="Width of a picture on the sheet, in pixels.")]
DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data", "--option", metavar="KEY=VALUE", help="Argument of the data set: data_root=photos. Repeatable."
    ),
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, ... (the fastest one by default).")]
ImageSizeOption = Annotated[int | None, typer.Option(help="Image side in pixels, if not that of the checkpoint.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
OUTPUT_FOLDER = typer.Option("--output-dir", "-o", callback=check_output_folder, help="Folder to write.")
OutputFolderOption = Annotated[Path, OUTPUT_FOLDER]
PrivateOption = Annotated[bool, typer.Option("--private", help="Make a new repository private.")]
RawFolderOption = Annotated[Path | None, typer.Option("--raw-dir", hidden=True)]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="KEY=VALUE", help="Change a value: max_steps=50, train_data.split=all. Repeatable."
    ),
]

# Names that options had in earlier releases, by command; they are accepted.
EARLIER_NAMES = {
    **dict.fromkeys(
        ("build-dataset", "inspect-dataset", "evaluate"),
        {"--option": "--data", "--raw-dir": "--data data_root=FOLDER"},
    ),
    "push": {"--metrics": "--metrics-file"},
}


def report_earlier_names(verb: str | None, words: Iterable[str]) -> None:
    """Reports which words of a command are earlier names of options, and the present names."""
    names = EARLIER_NAMES.get(verb or "", {})
    for name in dict.fromkeys(word.partition("=")[0] for word in words):
        if name in names:
            report(f"`{name}` is accepted, but its name is `{names[name]}` now.")


def read_data(options: Iterable[str] | None, raw_folder: Path | None = None) -> dict[str, Any]:
    """Arguments of a data set from `--data` (and `--raw-dir`, the earlier name of `--data data_root=FOLDER`).

    Raises:
        ValueError: not of the form key=value, or a key that is given twice.
    """
    words = list(options or ())
    if raw_folder is not None:
        words.append(f"data_root={json.dumps(str(raw_folder))}")
    return read_key_values(words, "--data")
