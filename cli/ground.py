# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc ground`: where phrases are in photographs of one's own."""

from pathlib import Path
from typing import Annotated, Any

import typer

from albef_amc.cli.loading import load_checkpoint
from albef_amc.cli.reporting import print_result, report
from albef_amc.cli.switches import MatmulPrecisionOption, PrecisionOption, Switches
from albef_amc.image_processing_albef import load_image
from albef_amc.processing_albef import BOX_THRESHOLDS
from albef_amc.ranges_albef import check_number
from albef_amc.text_processing_albef import clean_caption
from albef_amc.trainer.drawing import draw_sheet, overlay_heatmap, save_picture
from albef_amc.trainer.files import write_json

SHEET_CELL = 320  # side of a picture on the sheet in pixels


def ground(
    photographs: Annotated[list[Path], typer.Argument(help="Image files.")],
    phrase: Annotated[list[str], typer.Option("--phrase", "-p", help="What to look for. Repeatable.")],
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", "-c", help="Folder or Hub repository of the model; what `make demo` made.")
    ] = "runs/demo/with_amc",
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Folder for JSON and overlays.")] = Path(
        "runs/ground"
    ),
    box_threshold: Annotated[float, typer.Option(help="Share of the maximum inside a box, in (0, 1].")] = 0.5,
    image_size: Annotated[int | None, typer.Option(help="Image side in pixels, if not the checkpoint's.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... (the fastest one by default).")] = None,
    precision: PrecisionOption = "float32",
    matmul_precision: MatmulPrecisionOption = "highest",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Shows where phrases are in photographs: points and boxes as JSON, heatmaps as overlays."""
    check_number("--box-threshold", box_threshold, BOX_THRESHOLDS)
    images = [load_image(path) for path in photographs]
    model, processor = load_checkpoint(checkpoint, image_size, device)
    for words in phrase:
        unknown = find_unknown_words(words, processor.tokenizer)
        if unknown:
            report(f'"{words}": this model does not know {", ".join(unknown)}; the heatmap says little')
    entries, switches = [], Switches(precision, matmul_precision)
    for path, image, stem in zip(photographs, images, choose_stems(photographs), strict=True):
        inputs = processor(images=[image], text=[phrase], return_tensors="pt").to(model.device)
        with switches.applied(model.device):
            outputs = model.ground(**inputs)
        results = processor.post_process_grounding(outputs, box_threshold=box_threshold)[0]
        entries.append(_write_photograph(path, image, phrase, results, output_dir / stem))
    write_json(output_dir / "grounding.json", entries)
    print_result({"photographs": entries, "json": output_dir / "grounding.json"}, as_json)


def find_unknown_words(phrase: str, tokenizer: Any) -> list[str]:
    """Words of a phrase without a piece of their own: unknown altogether, or spelled letter by letter."""
    words = clean_caption(phrase).split()
    pieces = {word: tokenizer.tokenize(word) for word in words if len(word) > 1}
    return [
        word
        for word, parts in pieces.items()
        if tokenizer.unk_token in parts or all(len(part.removeprefix("##")) == 1 for part in parts)
    ]


def choose_stems(paths: list[Path]) -> list[str]:
    """Names for the pictures of photographs: the files' own, numbered where several share one.

    Example:

    ```python
    >>> from pathlib import Path
    >>> from albef_amc.cli.ground import choose_stems
    >>> choose_stems([Path("a/dog.jpg"), Path("b/dog.jpg"), Path("cup.jpg")])
    ['dog', 'dog-2', 'cup']

    ```
    """
    stems: list[str] = []
    for path in paths:
        stem, number = path.stem, 1
        while stem in stems:
            number += 1
            stem = f"{path.stem}-{number}"
        stems.append(stem)
    return stems


def _write_photograph(
    path: Path, image: Any, phrases: list[str], results: list[dict], output_stem: Path
) -> dict[str, Any]:
    """Draws the overlays of one photograph; returns its entry in the JSON file."""
    entry: dict[str, Any] = {"photograph": str(path), "width": image.width, "height": image.height, "phrases": []}
    overlays = []
    for index, (words, result) in enumerate(zip(phrases, results, strict=True)):
        boxes = [] if result["box"] is None else [result["box"].tolist()]
        overlay = overlay_heatmap(
            image, result["heatmap"], words, boxes=boxes or None, point=result["point"].tolist(), score=result["score"]
        )
        overlay_path = save_picture(overlay, output_stem.with_name(f"{output_stem.name}_{index + 1}.png"))
        overlays.append(overlay)
        entry["phrases"].append(
            {
                "phrase": words,
                "score": float(result["score"]),
                "point": result["point"].tolist(),
                "box": boxes[0] if boxes else None,
                "boxes": result["boxes"].tolist(),
                "box_scores": result["box_scores"].tolist(),
                "overlay": str(overlay_path),
            }
        )
    sheet_path = output_stem.with_name(f"{output_stem.name}_sheet.png")
    sheet = draw_sheet([[image, *overlays]], ["photograph", *phrases], sheet_path, SHEET_CELL)
    entry["sheet"] = str(sheet)
    return entry
