# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc convert`: an original `.pth` of ALBEF or AMC to a checkpoint folder, and a report of every entry."""

from pathlib import Path
from typing import Annotated

import typer

from albef_amc.cli.options import OUTPUT_FOLDER, STORED_TYPES, JsonOption
from albef_amc.cli.output_paths import check_output_folder
from albef_amc.cli.reporting import print_result, report
from albef_amc.configuration.recipes import read_key_values
from albef_amc.ranges_albef import check_choice


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Original checkpoint (.pth) of ALBEF or AMC, of any kind.")],
    vocab: Annotated[Path, typer.Option(help="vocab.txt of bert-base-uncased, one token per line.")],
    output: Annotated[Path | None, typer.Argument(hidden=True, callback=check_output_folder)] = None,
    output_dir: Annotated[Path | None, OUTPUT_FOLDER] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Configuration value that the tensors do not show, such as vision_config.num_attention_heads=4. "
            "Repeat for several.",
        ),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Resize the position embeddings for images of this side in pixels.")
    ] = None,
    keep_momentum: Annotated[
        bool,
        typer.Option("--keep-momentum", help="Keep momentum copies, queues and masked-word head, to train on."),
    ] = False,
    model_class: Annotated[
        str | None,
        typer.Option(help="Class to write where the kind has several, such as AlbefForImageTextMatching."),
    ] = None,
    dtype: Annotated[str, typer.Option(help=f"Of the weights: {', '.join(STORED_TYPES)}.")] = STORED_TYPES[0],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it is a checkpoint.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn an original .pth of ALBEF or AMC into a checkpoint folder.

    The names of its entries show which of the published models it is. Reports missing, unexpected and resized
    entries. Nothing is written if the model needs an entry that is missing.
    """
    import torch

    from albef_amc.conversion.convert_albef_original_to_hf import IncompleteCheckpointError, convert_checkpoint

    check_choice("--dtype", dtype, STORED_TYPES)
    if output is not None:
        report(f"the folder is accepted as a word of its own, but its name is `--output-dir {output}` now.")
    folder = output_dir or output
    if folder is None or (output is not None and output_dir is not None):
        raise ValueError("give the folder to write once: `--output-dir FOLDER`.")
    try:
        conversion = convert_checkpoint(
            checkpoint,
            folder,
            vocab=vocab,
            overrides=read_key_values(overrides or (), "--set"),
            image_size=image_size,
            keep_momentum=keep_momentum,
            dtype=getattr(torch, dtype),
            overwrite=overwrite,
            model_class=model_class,
        )
    except IncompleteCheckpointError as error:
        for line in error.report.describe():
            report(line)
        raise
    for line in conversion.describe():
        report(line)
    written = {name: getattr(conversion, name) for name in ("output_dir", "kind", "model_class")}
    summary = {**written, **conversion.dimensions}
    print_result(conversion.to_dict() if as_json else summary, as_json=as_json)
