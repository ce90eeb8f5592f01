# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc push`: a checkpoint, its processor, its card, and the code of ALBEF, to the Hub."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer

from albef_amc.cli.options import STORED_TYPES, JsonOption, PrivateOption
from albef_amc.cli.reporting import print_result, report
from albef_amc.evaluation.checkpoints import resolve_checkpoint
from albef_amc.publishing.checkpoint_publishing import (
    DEFAULT_MESSAGE,
    prepare_publication,
    upload_publication,
)
from albef_amc.publishing.repositories import check_token
from albef_amc.ranges_albef import check_choice


def push(
    checkpoint: Annotated[
        str, typer.Argument(help="Checkpoint folder: of a run, of the demo, of convert; or base, which ships.")
    ],
    repository: Annotated[str, typer.Argument(help="your-name/model; created if it does not exist.")],
    private: PrivateOption = False,
    revision: Annotated[str | None, typer.Option(help="Branch to push to; created if it does not exist.")] = None,
    dtype: Annotated[str | None, typer.Option(help=f"{', '.join(STORED_TYPES)}; the checkpoint's by default.")] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="Message of the commit.")] = DEFAULT_MESSAGE,
    metrics_file: Annotated[
        Path | None,
        typer.Option(
            "--metrics-file", "--metrics", help="File of `albef-amc evaluate --output` about this checkpoint."
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="Whose weights these derive from (albef, amc, albef-amc), for a checkpoint without a card."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be uploaded; contact nobody.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Uploads a checkpoint for grounding with its processor and card, and the code of ALBEF."""
    if dtype is not None:
        check_choice("--dtype", dtype, STORED_TYPES)
    if not dry_run:
        check_token()
    with redirect_stdout(sys.stderr), TemporaryDirectory() as folder:  # libraries print to standard output
        publication = prepare_publication(
            resolve_checkpoint(checkpoint),
            folder,
            repository,
            revision=revision,
            dtype=None if dtype is None else getattr(torch, dtype),
            metrics_file=metrics_file,
            source=source,
        )
        if publication.card is None:
            report("README.md was edited by hand: it is uploaded as it is.")
        result: dict[str, Any] = {"repository": repository, "revision": revision, "bytes": publication.list_files()}
        if dry_run:
            result["card"] = (publication.folder / "README.md").read_text(encoding="utf-8")
        else:
            report(f"uploading {len(result['bytes'])} files to {repository}")
            result |= upload_publication(publication, private=private or None, message=message)
    if dry_run and not as_json:
        report(result.pop("card"))
    print_result(result, as_json)
