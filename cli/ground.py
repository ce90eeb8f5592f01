# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc ground`: where phrases are in your own photographs."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image

from albef_amc import AlbefForImageTextMatching, AlbefGroundingOutput, AlbefProcessor
from albef_amc.checkpoints import BASE_MODEL_NAME
from albef_amc.cli.checkpoint_loading import load_checkpoint
from albef_amc.cli.ground_output import GroundOutput
from albef_amc.cli.options import CellSizeOption, DeviceOption, ImageSizeOption, JsonOption, OutputFolderOption
from albef_amc.cli.reporting import print_result, report
from albef_amc.cli.switches import MatmulPrecisionOption, PackOption, PrecisionOption, Switches
from albef_amc.evaluation.phrase_coverage import find_unknown_words
from albef_amc.image_processing_albef import IMAGE_FORMATS, load_image
from albef_amc.processing_albef import BOX_THRESHOLDS, MIN_SCORE
from albef_amc.ranges_albef import SHARE, check_number
from albef_amc.text_processing_albef import find_text_problem
from albef_amc.visualization.drawing import add_caption, compose_title, draw_sheet, overlay_heatmap, save_picture


def ground(
    photographs: Annotated[list[Path], typer.Argument(help="Image files.")],
    phrase: Annotated[list[str], typer.Option("--phrase", "-p", help="What to look for. Repeatable.")],
    checkpoint: Annotated[
        str,
        typer.Option(
            "--checkpoint",
            "-c",
            help="Folder or Hub repository; base is the model that ships, which knows coloured shapes only.",
        ),
    ] = BASE_MODEL_NAME,
    output_dir: OutputFolderOption = Path("runs/ground"),
    box_threshold: Annotated[float, typer.Option(help="Share of the maximum inside a box, in (0, 1].")] = 0.5,
    batch_size: Annotated[int, typer.Option(min=1, help="Photographs grounded together, and held in memory.")] = 4,
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
    photographs, phrases = _drop_repeated(photographs, phrase)
    check_photographs(photographs)
    output = GroundOutput.plan(output_dir, photographs, len(phrases))
    skipped: list[dict[str, str]] = []
    readable = read_photographs(photographs, skipped)
    first = next(readable, None)  # a command that can read nothing ends before it loads a model
    if first is not None:
        model, processor = load_checkpoint(checkpoint, image_size, device)
        for words in phrases:
            unknown = find_unknown_words(words, processor.tokenizer)
            if unknown:
                report(f'"{words}": this model does not know {", ".join(unknown)}; the heatmap means little')
        switches = Switches(precision, matmul_precision, pack_weights)
        switches.prepare(model)
        remaining = chain([first], readable)
        try:
            while batch := list(islice(remaining, batch_size)):
                grounded = ground_photographs(model, processor, switches, [image for _, image in batch], phrases)
                for outputs in grounded:
                    path, image = batch.pop(0)  # a photograph that is written is freed
                    (results,) = processor.post_process_grounding(
                        outputs, box_threshold=box_threshold, min_score=min_score
                    )
                    pictures = output.list_pictures(path, len(phrases))
                    output.entries.append(_write_photograph(path, image, phrases, results, pictures, cell_size))
        finally:  # what an interruption or an error leaves is listed, too
            removed = output.finish() if output.entries else 0
        if removed:
            report(f"removed from {output_dir}: {removed} pictures of the run before, which this one does not replace")
        print_result({"photographs": output.entries, "skipped": skipped, "json": output.json_path}, as_json)
    if skipped:
        raise ValueError(f"{len(skipped)} of {len(photographs)} photographs cannot be read: {skipped[0]['reason']}")


def ground_photographs(
    model: AlbefForImageTextMatching,
    processor: AlbefProcessor,
    switches: Switches,
    images: list[Image.Image],
    phrases: list[str],
) -> list[AlbefGroundingOutput]:
    """Grounds every phrase in every photograph, in one call of the model; returns an output for each photograph."""
    inputs = processor(images=images, text=[phrases] * len(images), return_tensors="pt")
    inputs["pixel_values"] = inputs["pixel_values"].to(model.device)  # `ground` reads the others on the CPU
    with switches.applied(model.device):
        outputs = model.ground(**inputs)
    parts = (outputs.match_probability.split(len(phrases)), outputs.heatmap.split(len(phrases)))
    return [
        AlbefGroundingOutput(
            match_probability=probability,
            heatmap=heatmap,
            image_index=torch.zeros(len(phrases), dtype=torch.int64),
            original_sizes=size,
        )
        for probability, heatmap, size in zip(*parts, inputs["original_sizes"].split(1), strict=True)
    ]


def _drop_repeated(photographs: list[Path], phrases: list[str]) -> tuple[list[Path], list[str]]:
    """Photographs and phrases in their order, each once; repetitions are reported."""
    kept_photographs = list({path.resolve(): path for path in reversed(photographs)}.values())[::-1]
    kept_phrases = list(dict.fromkeys(phrases))
    for word, given, kept in (("photographs", photographs, kept_photographs), ("phrases", phrases, kept_phrases)):
        if len(kept) < len(given):
            report(f"{len(given) - len(kept)} {word} were given more than once: each is grounded once")
    return kept_photographs, kept_phrases


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
    path: Path, image: Image.Image, phrases: list[str], results: list[dict], pictures: list[Path], cell_size: int
) -> dict[str, Any]:
    """Draws the overlays and the sheet of one photograph; returns its entry in the JSON file."""
    entry: dict[str, Any] = {"photograph": str(path), "width": image.width, "height": image.height, "phrases": []}
    overlays, titles = [], []
    for words, result, overlay_path in zip(phrases, results, pictures[:-1], strict=True):
        boxes = [] if result["box"] is None else [result["box"].tolist()]
        overlays.append(overlay_heatmap(image, result["heatmap"], boxes=boxes, point=result["point"].tolist()))
        titles.append(compose_title(words, result["score"]))
        entry["phrases"].append(
            {
                "phrase": words,
                "score": float(result["score"]),
                "is_present": result["is_present"],
                "point": result["point"].tolist(),
                "box": boxes[0] if boxes else None,
                "boxes": result["boxes"].tolist(),
                "box_scores": result["box_scores"].tolist(),
                "overlay": str(save_picture(add_caption(overlays[-1], titles[-1]), overlay_path)),
            }
        )
    columns = ["photograph", *titles]
    entry["sheet"] = str(draw_sheet([[image, *overlays]], columns, pictures[-1], cell_size, has_colour_bar=True))
    return entry
