# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc inspect-dataset`: rows drawn with their phrases and regions, and statistics."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import datasets
import typer
from PIL import Image

from albef_amc.cli.options import CellSizeOption, DataOption, JsonOption, RawFolderOption, read_data
from albef_amc.cli.output_paths import check_output_file
from albef_amc.cli.reporting import print_result, report
from albef_amc.datasets_scripts import load_task_dataset
from albef_amc.datasets_scripts.row_checks import check_picture_size, count_boxes
from albef_amc.datasets_scripts.row_images import guard_images
from albef_amc.datasets_scripts.statistics import describe_dataset
from albef_amc.datasets_scripts.task_features import TextSchema, find_task_schema
from albef_amc.image_processing_albef import UnusableImageError, load_image
from albef_amc.regions_albef import build_region_mask, check_boxes
from albef_amc.visualization.drawing import draw_sheet, overlay_heatmap

PHRASES_PER_ROW = 3
GAP_SHARE = 20  # of the wider picture of a pair, between the two
CELL_SIZE = 320  # width of a column in pixels, at which words under a photograph stay legible


def inspect_dataset(
    dataset: Annotated[str, typer.Argument(help="Builder, folder that build-dataset wrote, or Hub repository.")],
    split: Annotated[str, typer.Option(help="Split, such as test; all joins them.")] = "all",
    options: DataOption = None,
    raw_dir: RawFolderOption = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows to draw, at even distances in the split.")] = 12,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", callback=check_output_file, help="Picture to draw: .png, .jpg, .webp."),
    ] = None,
    cell_size: CellSizeOption = CELL_SIZE,
    as_json: JsonOption = False,
) -> None:
    """Prints statistics of a data set and draws rows with their phrases and regions."""
    with redirect_stdout(sys.stderr):  # libraries print to standard output
        found = load_task_dataset(dataset, split, **read_data(options, raw_dir))
        result: dict[str, Any] = {"dataset": dataset, "split": split, **describe_dataset(found)}
        for warning in count_boxes(found).list_warnings():
            report(warning)
        if output is not None:
            chosen = sorted({index * len(found) // rows for index in range(rows)})
            result["picture"] = draw_rows(found.select(chosen), output, cell_size)
            report(f"drew {len(chosen)} of {len(found)} rows")
    print_result(result, as_json)


def draw_rows(rows: datasets.Dataset, path: Path, cell_size: int = CELL_SIZE) -> Path:
    """Draws a sheet: a line for each row, a column for each of its first phrases, regions outlined.

    Args:
        rows (`datasets.Dataset`): rows of the schema.
        path (`Path`): where to save; the ending chooses the format.
        cell_size (`int`, defaults to 320): width of a column in pixels.

    Returns:
        `Path` of the picture.
    """
    schema = find_task_schema(rows.column_names)
    word = schema.text if schema else "phrase"
    columns = ["row", *(f"{word} {number + 1}" for number in range(PHRASES_PER_ROW))]
    return draw_sheet([_draw_row(row) for row in guard_images(rows, is_decoded=False)], columns, path, cell_size)


def _draw_row(row: dict[str, Any]) -> list[Image.Image | str | None]:
    schema = find_task_schema(row)
    names = row.get("image_ids") or [row["image_id"]]
    try:
        pictures = [
            load_image(picture, name=f"image {name!r}")
            for picture, name in zip(row.get("images") or [row["image"]], names, strict=True)
        ]
    except (UnusableImageError, FileNotFoundError) as error:
        report(f"not drawn: {error}")
        return [" ".join(names), *["this picture cannot be used"] * PHRASES_PER_ROW]
    row = {**row, "images": pictures} if "images" in row else {**row, "image": pictures[0]}
    cells = _draw_phrases(row) if schema is None else _draw_texts(row, schema)
    return cells + [None] * (PHRASES_PER_ROW + 1 - len(cells))


def _draw_phrases(row: dict[str, Any]) -> list[Image.Image | str | None]:
    _report_problem(row)
    num_phrases = len(row["phrases"])
    words = f"{row['image_id']} {row['width']} x {row['height']} {num_phrases} phrase{'s' * (num_phrases != 1)}"
    return [words, *(_draw_phrase(row, phrase) for phrase in row["phrases"][:PHRASES_PER_ROW])]


def _report_problem(row: dict[str, Any]) -> None:
    """Reports a picture whose size differs from that in its row: it is drawn nevertheless."""
    try:
        check_picture_size(row, row["image"].size)
    except ValueError as error:
        report(str(error))


def _draw_texts(row: dict[str, Any], schema: TextSchema) -> list[Image.Image | str | None]:
    """The image (a pair side by side) once for each of the first texts, with its answers or its label."""
    picture = _join_pictures(row.get("images") or [row["image"]])
    names, num_texts = row.get("image_ids") or [row["image_id"]], len(row[schema.texts])
    word = schema.text if num_texts == 1 else schema.texts
    cells: list[Image.Image | str | None] = [f"{' '.join(names)} {num_texts} {word}"]
    for entry in row[schema.texts][:PHRASES_PER_ROW]:
        notes = list(entry.get("answers") or [])
        if "label" in entry:
            notes.append(schema.features[schema.texts].feature["label"].int2str(entry["label"]))
        words = entry[schema.text]
        cells.append(overlay_heatmap(picture, phrase=f"{words} [{', '.join(notes)}]" if notes else words))
    return cells


def _join_pictures(pictures: list[Image.Image]) -> Image.Image:
    """Pictures side by side on white, with a gap."""
    gap = max(picture.width for picture in pictures) // GAP_SHARE
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    joined = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        joined.paste(picture.convert("RGB"), (left, 0))
        left += picture.width + gap
    return joined


def _draw_phrase(row: dict[str, Any], phrase: dict[str, Any]) -> Image.Image:
    """The image with the phrase's boxes, the outline of its region and its first point; words and types below.

    Raises:
        ValueError: a region cannot be drawn; the message names phrase and image.
    """
    width, height = row["image"].size
    polygons, masks, boxes = phrase["polygons"], phrase["masks"], phrase["boxes"]
    notes = [*(phrase["types"] or []), *([] if polygons or masks or boxes else ["no region"])]
    words = f"{phrase['phrase']} [{', '.join(notes)}]" if notes else phrase["phrase"]
    point = phrase["points"][0] if phrase["points"] else None
    region = None
    try:
        check_boxes(boxes or ())
        if polygons or masks:
            region = build_region_mask(height, width, (height, width), polygons=polygons, masks=masks)
        return overlay_heatmap(row["image"], phrase=words, boxes=boxes, point=point, region_mask=region)
    except ValueError as error:
        raise ValueError(f"phrase {phrase['phrase_id']!r} of image {row['image_id']!r}: {error}") from error
