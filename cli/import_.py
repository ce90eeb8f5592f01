# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc import`: annotations of other tools to a folder that the builder `jsonl` reads."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from albef_amc.cli.options import JsonOption, OutputFolderOption
from albef_amc.cli.reporting import print_result, report, track
from albef_amc.datasets_scripts.importing.annotation_import import DEFAULT_SHARE, LABEL_PLACE, import_annotations


def import_(
    source: Annotated[Path, typer.Argument(help="File or folder: COCO, YOLO, Label Studio, JSON Lines or csv.")],
    output_dir: OutputFolderOption,
    annotation_format: Annotated[
        Literal["coco", "yolo", "label_studio", "jsonl", "csv"] | None,
        typer.Option("--format", help="Format, if not found from the contents."),
    ] = None,
    image_root: Annotated[
        Path | None, typer.Option("--images", help="Folder of the pictures, if not beside the annotations.")
    ] = None,
    box_format: Annotated[
        Literal["xyxy", "xywh", "normalized_xyxy"], typer.Option(help="Format of the boxes in JSON Lines.")
    ] = "xyxy",
    validation_share: Annotated[
        float, typer.Option(help="Share of training pictures that become validation, unless the tool has made one.")
    ] = DEFAULT_SHARE,
    seed: Annotated[int, typer.Option(help="Which pictures they are.")] = 0,
    template: Annotated[str, typer.Option(help="Phrase of a class: a {label}.")] = LABEL_PLACE,
    as_json: JsonOption = False,
) -> None:
    """Imports annotations of another tool: JSON Lines and pictures that the builder jsonl reads."""
    result = import_annotations(
        source,
        output_dir,
        annotation_format=annotation_format,
        image_root=image_root,
        box_format=box_format,
        validation_share=validation_share,
        seed=seed,
        template=template,
        track=partial(track, description="pictures"),
    )
    for reason, found in result["left_out"].items():
        report(f"{found['count']} x {reason} (first: {found['first']})")
    shown = {"output_dir": output_dir, "format": result["format"], "splits": result["splits"]}
    print_result({**shown, "left_out": result["left_out"]} if as_json else shown, as_json)
