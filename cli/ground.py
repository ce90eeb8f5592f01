# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc ground`: where phrases are in your own photographs."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from PIL import Image

from albef_amc.checkpoints import BASE_MODEL_NAME
from albef_amc.cli.ground_output import GroundOutput
from albef_amc.cli.grounding_models import GroundingModel, ModelOptions, load_grounding_models
from albef_amc.cli.options import CellSizeOption, DeviceOption, ImageSizeOption, JsonOption, OutputFolderOption
from albef_amc.cli.reporting import print_result, report
from albef_amc.cli.switches import MatmulPrecisionOption, PackOption, PrecisionOption, Switches
from albef_amc.grounders.methods import METHODS
from albef_amc.image_processing_albef import IMAGE_FORMATS, load_image
from albef_amc.processing_albef import BOX_THRESHOLDS, MIN_SCORE
from albef_amc.ranges_albef import SHARE, check_number
from albef_amc.text_processing_albef import find_text_problem
from albef_amc.visualization.drawing import add_caption, compose_title, draw_sheet, overlay_heatmap, save_picture

Given = TypeVar("Given", Path, str)


def ground(
    photographs: Annotated[list[Path], typer.Argument(help="Image files.")],
    phrase: Annotated[list[str], typer.Option("--phrase", "-p", help="What to look for. Repeatable.")],
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
    as_json: JsonOption = False,
) -> None:
    """Shows where phrases are in photographs: points and boxes as JSON, heatmaps as overlays."""
    for words in phrase:
        problem = find_text_problem(words)
        if problem:
            raise ValueError(f"`--phrase {words!r}` {problem}. Give a phrase with at least one word.")
    check_number("--box-threshold", box_threshold, BOX_THRESHOLDS)
    check_number("--min-score", min_score, SHARE)
    photographs, phrases = _drop_repeated(photographs, "photographs"), _drop_repeated(phrase, "phrases")
    checkpoints = _drop_repeated(checkpoint or [BASE_MODEL_NAME], "checkpoints")
    check_photographs(photographs)
    output = GroundOutput.plan(output_dir, photographs, len(phrases), len(checkpoints))
    skipped: list[dict[str, str]] = []
    readable = read_photographs(photographs, skipped)
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
                    pictures = output.list_pictures(path)
                    output.entries.append(
                        _write_photograph(path, image, phrases, models, grounded, pictures, cell_size)
                    )
        finally:  # what an interruption or an error leaves is listed, too
            removed = output.finish() if output.entries else 0
        if removed:
            report(f"removed from {output_dir}: {removed} pictures of the run before, which this one does not replace")
        print_result({"photographs": output.entries, "skipped": skipped, "json": output.json_path}, as_json)
    if skipped:
        raise ValueError(f"{len(skipped)} of {len(photographs)} photographs cannot be read: {skipped[0]['reason']}")


def _report_unknown_words(phrases: list[str], models: list[GroundingModel]) -> None:
    for model in models:
        name = "this model" if len(models) == 1 else model.checkpoint
        for words in phrases:
            unknown = model.find_unknown_words(words)
            if unknown:
                report(f'"{words}": {name} does not know {", ".join(unknown)}; the heatmap means little')


def _drop_repeated(given: list[Given], what: str) -> list[Given]:
    """Words of the command in their order, each once, files by where they lead; repetitions are reported."""
    kept = {word.resolve() if isinstance(word, Path) else word: word for word in reversed(given)}
    if len(kept) < len(given):
        report(f"{len(given) - len(kept)} {what} were given more than once: each is grounded once")
    return list(kept.values())[::-1]


def check_photographs(paths: list[Path]) -> None:
    """Refuses words that name no file, before any work.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a folder; the message shows how to give its pictures.
    """
    for path in paths:
        if path.is_dir():
            formats = Image.registered_extensions()
            endings = [file.suffix for file in path.iterdir() if formats.get(file.suffix.lower()) in IMAGE_FORMATS]
            example = path / f"*{max(sorted(endings), key=endings.count) if endings else '.jpg'}"
            raise ValueError(f"{path} is a folder. Give the pictures in it, such as `{example}`.")
        if not path.exists():
            raise FileNotFoundError(f"No image file at {path}. Check the path; web addresses are not downloaded.")


def read_photographs(paths: list[Path], skipped: list[dict[str, str]]) -> Iterator[tuple[Path, Image.Image]]:
    """The photographs that can be read, each when it is asked for.

    Args:
        paths (list of `Path`): files.
        skipped (list): receives the path of each that cannot be read, and the reason, which is also reported.
    """
    for path in paths:
        try:
            image = load_image(path)
        except (OSError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            report(f"skipped: {reason}")
            skipped.append({"photograph": str(path), "reason": reason})
        else:
            yield path, image


def _write_photograph(
    path: Path,
    image: Image.Image,
    phrases: list[str],
    models: list[GroundingModel],
    grounded: list[Iterator[list[dict[str, Any]]]],
    pictures: list[Path],
    cell_size: int,
) -> dict[str, Any]:
    """Draws the overlays and the sheet of one photograph; returns its entry in the JSON file.

    The next item of each iterator of `grounded` has the results of this photograph, of one model.
    """
    entry: dict[str, Any] = {"photograph": str(path), "width": image.width, "height": image.height}
    entry |= {"models": [model.describe() for model in models], "phrases": []}
    overlays: list[list[Image.Image]] = []
    titles: list[list[str]] = []
    paths = iter(pictures)
    for model, results in zip(models, grounded, strict=True):
        overlays.append([])
        titles.append([])
        for words, result in zip(phrases, next(results), strict=True):
            boxes = [] if result["box"] is None else [result["box"].tolist()]
            point = result["point"].tolist()
            overlays[-1].append(overlay_heatmap(image, result["heatmap"], boxes=boxes, point=point))
            caption = compose_title(words, result["score"])
            titles[-1].append(caption if len(models) == 1 else compose_title("score", result["score"]))
            entry["phrases"].append(
                {
                    "phrase": words,
                    "checkpoint": model.checkpoint,
                    "score": float(result["score"]),
                    "is_present": result["is_present"],
                    "point": point,
                    "box": boxes[0] if boxes else None,
                    "boxes": result["boxes"].tolist(),
                    "box_scores": result["box_scores"].tolist(),
                    "overlay": str(save_picture(add_caption(overlays[-1][-1], caption), next(paths))),
                }
            )
    rows: list[list[Image.Image | str]] = [[image, *overlays[0]]]
    columns = ["photograph", *titles[0]]
    if len(models) > 1:
        columns, rows = ["photograph", *name_models(models)], []
        for index, words in enumerate(phrases):
            rows.append([words, *(row[index] for row in titles)])
            rows.append([image, *(row[index] for row in overlays)])
    entry["sheet"] = str(draw_sheet(rows, columns, next(paths), cell_size, has_colour_bar=True))
    return entry


def name_models(models: list[GroundingModel]) -> list[str]:
    """Headings of models: of a folder its own name, if no other model has the same."""
    short = [Path(model.checkpoint).name if Path(model.checkpoint).is_dir() else model.checkpoint for model in models]
    return [name if short.count(name) == 1 else model.checkpoint for name, model in zip(short, models, strict=True)]
