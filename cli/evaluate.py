# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc evaluate`: the pointing game of a checkpoint on a data set and split."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from albef_amc.cli.loading import load_checkpoint
from albef_amc.cli.reporting import print_result, report, track
from albef_amc.datasets_scripts import load_grounding_dataset
from albef_amc.trainer.evaluation import evaluate_baselines, evaluate_grounding
from albef_amc.trainer.files import write_json
from albef_amc.trainer.run_facts import build_evaluation_command


def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="Folder or Hub repository of the model.")],
    dataset: Annotated[str, typer.Argument(help="Builder (synthetic, refcoco, ...), folder or Hub repository.")],
    split: Annotated[str, typer.Option(help="Split, such as test or all.")] = "test",
    options: Annotated[
        list[str] | None, typer.Option("--data", help="Argument of the builder: data_root=photos. Repeatable.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images encoded together.")] = 16,
    image_size: Annotated[int | None, typer.Option(help="Image side in pixels, if not the checkpoint's.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... (the fastest one by default).")] = None,
    baselines: Annotated[bool, typer.Option(help="Also score centre, random point and largest object.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write metrics and points.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Scores a checkpoint on a data set, per phrase type, with the number of phrases and the throughput."""
    model, processor = load_checkpoint(checkpoint, image_size, device)
    data = read_options(options or ())
    rows = load_grounding_dataset(dataset, split, **data)
    report(f"{len(rows)} images of {dataset}, split {split}")
    began = time.perf_counter()
    evaluation = evaluate_grounding(
        model, processor, rows, batch_size=batch_size, progress=lambda batches: track(batches, "grounding")
    )
    seconds = time.perf_counter() - began
    result: dict[str, Any] = {
        "checkpoint": checkpoint,
        "dataset": dataset,
        "split": split,
        **evaluation.metrics,
        "num_phrases_without_box": evaluation.num_skipped,
        "seconds": seconds,
        "phrases_per_second": evaluation.metrics["num_phrases"] / seconds,
    }
    if baselines:
        result["baselines"] = evaluate_baselines(rows)
    if output is not None:
        command = build_evaluation_command(dataset, split, data, image_size)
        write_json(output, {**result, "command": command, "phrases": evaluation.to_rows()})
    print_result(result, as_json)


def read_options(options: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """`key=value` words as a dictionary, values read as YAML.

    Raises:
        ValueError: a word without `=`.
    """
    pairs = [option.partition("=") for option in options]
    for option, (name, separator, _) in zip(options, pairs, strict=True):
        if not separator or not name:
            raise ValueError(f"`--data {option}` is not of the form key=value.")
    return {name: yaml.safe_load(text) for name, _, text in pairs}
