# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc ground`: where phrases are in your own photographs."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from albef_amc.checkpoints import BASE_MODEL_NAME
from albef_amc.cli.ground_output import GroundOutput, save_heatmap
from albef_amc.cli.grounding_models import GroundingModel, ModelOptions, load_grounding_models
from albef_amc.cli.options import CellSizeOption, DeviceOption, ImageSizeOption, JsonOption, OutputFolderOption
from albef_amc.cli.photographs import list_photographs, list_phrases, read_photographs
from albef_amc.cli.reporting import print_result, report, track
from albef_amc.cli.switches import MatmulPrecisionOption, PackOption, PrecisionOption, Switches
from albef_amc.grounders.methods import METHODS
from albef_amc.processing_albef import BOX_THRESHOLDS, MIN_SCORE
from albef_amc.ranges_albef import SHARE, check_number
from albef_amc.visualization.drawing import add_caption, compose_title, draw_sheet, overlay_heatmap, save_picture


def ground(
    photographs: Annotated[list[Path], typer.Argument(help="Image files, folders of them, or patterns in quotes.")],
    phrase: Annotated[list[str] | None, typer.Option("--phrase", "-p", help="What to look for. Repeatable.")] = None,
    phrases_file: Annotated[Path | None, typer.Option(help="Text file with a phrase in each line.")] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--checkpoint",
            "-c",
            help="Folder or Hub repository: ALBEF, BLIP, CLIP, SigLIP, ViLT, BridgeTower. Repeatable: models side by "
            "side. The base model that ships by default, which knows coloured shapes only.",
        ),
    ] = None,
    layer: Annotated[int | None, typer.Option(help="Layer to explain; that of the checkpoint by default.")] = None,
    score: Annotated[str | None, typer.Option(help="Score to explain, itm or itc, if a model has both.")] = None,
    method: Annotated[str | None, typer.Option(help=f"How heatmaps are made: {', '.join(METHODS)}.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub repository.")] = None,
    output_dir: OutputFolderOption = Path("runs/ground"),
    box_threshold: Annotated[float, typer.Option(help="Share of the maximum inside a box, in (0, 1].")] = 0.5,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Photographs that ALBEF grounds together; other models take one at a time.")
    ] = 4,
    min_score: Annotated[
        float, typer.Option(help="Score in [0, 1] from which a phrase counts as present; see `calibrate`.")
    ] = MIN_SCORE,
    image_size: ImageSizeOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = "float32",
    matmul_precision: MatmulPrecisionOption = "highest",
    pack_weights: PackOption = False,
    cell_size: CellSizeOption = 320,
    with_heatmaps: Annotated[
        bool, typer.Option("--heatmaps", help="Write heatmaps as .npy: float32, of the photograph's size.")
    ] = False,
    with_table: Annotated[bool, typer.Option("--csv", help="Write grounding.csv, a line per phrase.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Shows where phrases are in photographs: points and boxes as JSON, heatmaps as overlays."""
    phrases = list_phrases(phrase or [], phrases_file)
    check_number("--box-threshold", box_threshold, BOX_THRESHOLDS)
    check_number("--min-score", min_score, SHARE)
    checkpoints = list(dict.fromkeys(checkpoint or [BASE_MODEL_NAME]))
    photographs = list_photographs(photographs)
    output = GroundOutput.plan(output_dir, photographs, len(phrases), len(checkpoints), with_heatmaps, with_table)
    skipped: list[dict[str, str]] = []
    shown = track(photographs, "photographs") if len(photographs) > 1 else photographs
    readable = read_photographs(shown, skipped)
    first = next(readable, None)  # a command that can read nothing ends before it loads a model
    if first is not None:
        switches = Switches(precision, matmul_precision, pack_weights)
        options = ModelOptions(layer, score, method, revision, image_size, device, switches)
        models = load_grounding_models(checkpoints, options)
        _report_unknown_words(phrases, models)
        size = batch_size if all(model.grounds_batches for model in models) else 1
        remaining = chain([first], readable)
        try:
            while batch := list(islice(remaining, size)):
                grounded = [
                    model.ground([image for _, image in batch], phrases, box_threshold, min_score) for model in models
                ]
                while batch:
                    path, image = batch.pop(0)  # a photograph that is written is freed
                    output.entries.append(_write_photograph(path, image, phrases, models, grounded, output, cell_size))
        finally:  # what an interruption or an error leaves is listed, too
            removed = output.finish() if output.entries else 0
        if removed:
            report(f"removed from {output_dir}: {removed} pictures of the run before, which this one does not replace")
        result = {"photographs": output.entries, "skipped": skipped, "json": output.json_path}
        print_result(result | ({"csv": output.table_path} if with_table else {}), as_json)
    if skipped:
        raise ValueError(f"{len(skipped)} of {len(photographs)} photographs cannot be read: {skipped[0]['reason']}")


def _report_unknown_words(phrases: list[str], models: list[GroundingModel]) -> None:
    for model in models:
        name = "this model" if len(models) == 1 else model.checkpoint
        for words in phrases:
            unknown = model.find_unknown_words(words)
            if unknown:
                report(f'"{words}": {name} does not know {", ".join(unknown)}; the heatmap means little')


def _write_photograph(
    path: Path,
    image: Image.Image,
    phrases: list[str],
    models: list[GroundingModel],
    grounded: list[Iterator[list[dict[str, Any]]]],
    output: GroundOutput,
    cell_size: int,
) -> dict[str, Any]:
    """Draws the overlays and the sheet of one photograph; returns its entry in the JSON file.

    The next item of each iterator of `grounded` has the results of this photograph, of one model.
    """
    entry: dict[str, Any] = {"photograph": str(path), "width": image.width, "height": image.height}
    entry |= {"models": [model.describe() for model in models], "phrases": []}
    overlays: list[list[Image.Image]] = []
    titles: list[list[str]] = []
    pictures = iter(output.list_pictures(path))
    for model, results in zip(models, grounded, strict=True):
        overlays.append([])
        titles.append([])
        for words, result in zip(phrases, next(results), strict=True):
            picture = next(pictures)
            boxes = [] if result["box"] is None else [result["box"].tolist()]
            point = result["point"].tolist()
            overlays[-1].append(overlay_heatmap(image, result["heatmap"], boxes=boxes, point=point))
            caption = compose_title(words, result["score"])
            titles[-1].append(caption if len(models) == 1 else compose_title("score", result["score"]))
            found: dict[str, Any] = {
                "phrase": words,
                "checkpoint": model.checkpoint,
                "score": float(result["score"]),
                "is_present": result["is_present"],
                "point": point,
                "box": boxes[0] if boxes else None,
                "boxes": result["boxes"].tolist(),
                "box_scores": result["box_scores"].tolist(),
                "overlay": str(save_picture(add_caption(overlays[-1][-1], caption), picture)),
            }
            if output.with_heatmaps:
                found["heatmap"] = str(save_heatmap(result["heatmap"], picture))
            entry["phrases"].append(found)
    rows: list[list[Image.Image | str]] = [[image, *overlays[0]]]
    columns = ["photograph", *titles[0]]
    if len(models) > 1:
        columns, rows = ["photograph", *name_models(models)], []
        for index, words in enumerate(phrases):
            rows.append([words, *(row[index] for row in titles)])
            rows.append([image, *(row[index] for row in overlays)])
    entry["sheet"] = str(draw_sheet(rows, columns, next(pictures), cell_size, has_colour_bar=True))
    return entry


def name_models(models: list[GroundingModel]) -> list[str]:
    """Headings of models: of a folder its own name, if no other model has the same."""
    short = [Path(model.checkpoint).name if Path(model.checkpoint).is_dir() else model.checkpoint for model in models]
    return [name if short.count(name) == 1 else model.checkpoint for name, model in zip(short, models, strict=True)]
