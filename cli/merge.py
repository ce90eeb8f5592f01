# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc merge`: a LoRA adapter and its base as one plain checkpoint."""

from typing import Annotated

import typer

from albef_amc.cli.options import JsonOption, OutputFolderOption
from albef_amc.cli.reporting import print_result
from albef_amc.evaluation.checkpoints import merge_adapter


def merge(
    adapter: Annotated[str, typer.Argument(help="Folder or Hub repository of the adapter.")],
    output_dir: OutputFolderOption,
    base: Annotated[
        str | None,
        typer.Option(help="Checkpoint that the adapter was trained on, if it was moved; base for the one that ships."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Merges a LoRA adapter into its base: a plain matching checkpoint, for use without peft."""
    print_result({"output_dir": merge_adapter(adapter, output_dir, base)}, as_json)
