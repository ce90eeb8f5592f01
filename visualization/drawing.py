# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Pictures of the work: heatmaps over photographs, sheets that compare them, and training curves.

Everything is drawn with Pillow and the Agg back-end of matplotlib, without a display, without global figure state and
with the font that matplotlib ships. What is saved appears whole or not at all.
"""

import functools
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont
from PIL.PngImagePlugin import PngInfo

from albef_amc.image_processing_albef import load_image, open_image
from albef_amc.saving_albef import write_atomically

LONG_SIDE_RANGE = (320, 1024)  # a picture's longer side in pixels: smaller ones are enlarged, larger ones reduced
PIXEL_ART_FACTOR = 3  # from this enlargement on the pixels of an image stay visible as squares
MIN_CANVAS_WIDTH = 240  # room for words below a narrow picture
MAX_CAPTION_LINES = 6
TALLEST_CELL = 1.5  # height of a sheet's picture over the width of its column

HEAT_COLOURS = (0.12, 0.82)  # part of the plasma scale that stands out on white and on black alike
HEAT_OPACITY = 0.78  # at the heatmap's value 1; the opacity falls with the value
KEPT_SATURATION = 0.4  # of the photograph's colours behind a heatmap, so that a strong colour is heat
INNER_TONE, OUTER_TONE = (90, 240, 255), (10, 10, 10)  # a region's line and its border
POINT_TONE = (255, 255, 255)
PAPER, INK, FAINT_INK = (255, 255, 255), (25, 25, 25), (150, 150, 150)
CURVE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#000000")
CURVE_STYLES = ("-", "--", "-.", ":")
MARK_KEY, MARK = "Software", "albef-amc"  # in the header of a PNG picture: who wrote it


def overlay_heatmap(
    image: Any,
    heatmap: Any = None,
    phrase: str | None = None,
    boxes: Any = None,
    point: Sequence[float] | None = None,
    score: float | None = None,
    region_mask: Any = None,
) -> Image.Image:
    """Draws a heatmap over the image that it explains, legible on bright and on dark photographs.

    The photograph stays visible: the opacity of a heat colour follows the value. Lines have two tones, so that one of
    them differs from whatever lies below. Words stand in a strip below the photograph. Small images are enlarged (with
    visible pixels where much is missing), huge ones reduced.

    Args:
        image (`PIL.Image.Image`, path or array): the image, of any mode and size.
        heatmap (array or tensor of shape `(height, width)`, *optional*): values in [0, 1] at any resolution, over the
            whole image; what lies outside [0, 1] is clipped.
        phrase (`str`, *optional*): what the heatmap explains, written below the image.
        boxes (array of shape `(num_boxes, 4)`, *optional*): x_min, y_min, x_max, y_max in pixels of `image`, outlined.
        point (pair of `float`, *optional*): x, y of a pixel of `image`, marked with a cross.
        score (`float`, *optional*): written behind the phrase.
        region_mask (array of shape `(height, width)`, *optional*): region over the whole image, outlined at 0.5.

    Returns:
        `PIL.Image.Image` of mode RGB.

    Raises:
        ValueError: an array of the wrong shape, or a value that is not finite.
    """
    photograph = load_image(image)
    picture = _fit_for_viewing(photograph)
    scale = (picture.width / photograph.width, picture.height / photograph.height)
    if heatmap is not None:
        picture = _blend_heat(picture, _as_map("heatmap", heatmap))
    if region_mask is not None:
        picture = _outline_mask(picture, _as_map("region_mask", region_mask))
    pen = ImageDraw.Draw(picture)
    line_width = max(2, max(picture.size) // 150)
    for box in _as_boxes(boxes):
        _outline_box(pen, box, scale, picture.size, line_width)
    if point is not None:
        _mark_point(pen, point, scale, line_width, arm=max(8, max(picture.size) // 40))
    return _add_caption(picture, _compose_caption(phrase, score))


def draw_sheet(
    rows: Sequence[Sequence[Image.Image | str | None]], columns: Sequence[str], path: str | Path, cell_size: int = 240
) -> Path:
    """Draws pictures and words as a table, for example scene, phrase, region, and the heatmaps of two models.

    Args:
        rows (sequence of sequences): cells from left to right: a picture, words, or `None` for an empty cell.
        columns (sequence of `str`): one heading per column.
        path (`str` or `Path`): where to save; the ending chooses the format (png, jpg, webp).
        cell_size (`int`, defaults to 240): width of a column in pixels; pictures fill it unless they are very tall.

    Returns:
        `Path` of the picture.

    Raises:
        ValueError: no column, or a row with another number of cells than there are columns.
    """
    if not columns:
        raise ValueError("`columns` is empty: a sheet needs one heading per column.")
    for index, row in enumerate(rows):
        if len(row) != len(columns):
            raise ValueError(
                f"row {index} has {len(row)} cells but there are {len(columns)} `columns`: give one each."
            )
    lines = [[_draw_words(heading, cell_size, bold=True) for heading in columns]]
    lines += [[_draw_cell(cell, cell_size) for cell in row] for row in rows]
    margin = max(6, cell_size // 30)
    widths = [max(line[column].width for line in lines) for column in range(len(columns))]
    heights = [max(cell.height for cell in line) for line in lines]
    sheet = Image.new(
        "RGB", (sum(widths) + margin * (len(widths) + 1), sum(heights) + margin * (len(heights) + 1)), PAPER
    )
    top = margin
    for line, height in zip(lines, heights, strict=True):
        left = margin
        for cell, width in zip(line, widths, strict=True):
            sheet.paste(cell, (left + (width - cell.width) // 2, top))
            left += width + margin
        top += height + margin
    return save_picture(sheet, path)


def draw_curves(
    series: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    path: str | Path,
    title: str | None = None,
    x_label: str = "step",
) -> Path:
    """Draws how terms of several runs went: one panel per term, one line per run, in one picture.

    Args:
        series (mapping): run name -> term name -> (step, value) pairs; a run may lack a term, and values that are not
            finite leave a gap.
        path (`str` or `Path`): where to save; the ending chooses the format (png, jpg, webp).
        title (`str`, *optional*): words above the panels.
        x_label (`str`, defaults to `"step"`): what is counted from left to right.

    Returns:
        `Path` of the picture.

    Raises:
        ValueError: no run holds a term.
    """
    terms = list(dict.fromkeys(term for curves in series.values() for term, pairs in curves.items() if len(pairs)))
    if not terms:
        raise ValueError("`series` holds no curve: give {run: {term: [(step, value), ...]}}.")
    num_columns = min(3, len(terms))
    num_rows = math.ceil(len(terms) / num_columns)
    figure = Figure(figsize=(4.4 * num_columns, 3.2 * num_rows + 0.6), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
    for panel, term in zip(panels, terms, strict=False):
        _draw_panel(panel, term, series, x_label)
    for panel in panels[len(terms) :]:
        panel.set_axis_off()
    if title:
        figure.suptitle(title)
    handles, labels = _collect_legend(panels)
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(series)), frameon=False)
    canvas.draw()
    return save_picture(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"), path)


def save_picture(picture: Image.Image, path: str | Path) -> Path:
    """Saves a picture under a temporary name and renames it: a reader never finds half of one.

    Args:
        picture (`PIL.Image.Image`): what to save.
        path (`str` or `Path`): the ending chooses the format; folders that are missing are made.

    Returns:
        `Path` of the picture.

    Raises:
        ValueError: the ending belongs to no format that Pillow writes.
    """
    path = Path(path)
    picture_format = Image.registered_extensions().get(path.suffix.lower())
    if picture_format not in Image.SAVE:
        raise ValueError(f"`path` is {path}, whose ending is no picture format: use .png, .jpg or .webp.")
    encoded = io.BytesIO()
    mark = PngInfo()
    mark.add_text(MARK_KEY, MARK)
    options = {"pnginfo": mark} if picture_format == "PNG" else {}
    picture.save(encoded, format=picture_format, **options)
    write_atomically(path, encoded.getvalue())
    return path


def is_drawn_picture(path: Path) -> bool:
    """Whether [`save_picture`] wrote a file: its PNG pictures say so in their header."""
    try:
        with open_image(path) as picture:
            return picture.info.get(MARK_KEY) == MARK
    except (OSError, ValueError):
        return False


# ---- the photograph


def _fit_for_viewing(image: Image.Image) -> Image.Image:
    """The image with its longer side in `LONG_SIDE_RANGE`, its shape kept; always a copy."""
    shortest, longest = LONG_SIDE_RANGE
    long_side = max(image.size)
    if shortest <= long_side <= longest:
        return image.copy()
    factor = longest / long_side if long_side > longest else shortest / long_side
    resample = Image.Resampling.LANCZOS
    if factor >= PIXEL_ART_FACTOR:
        factor, resample = math.ceil(factor), Image.Resampling.NEAREST
    return _rescale(image, factor, resample)


def _rescale(image: Image.Image, factor: float, resample: Image.Resampling) -> Image.Image:
    return image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))), resample)


def _as_array(values: Any) -> np.ndarray:
    """A float32 array from an array, a list or a tensor on any device."""
    if hasattr(values, "detach"):
        values = values.detach().float().cpu().numpy()
    return np.asarray(values, dtype=np.float32)


def _as_map(name: str, values: Any) -> np.ndarray:
    values = _as_array(values)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"`{name}` must have the shape (height, width), got {values.shape}. Pass one phrase's map.")
    if not np.isfinite(values).all():
        raise ValueError(f"`{name}` holds values that are not finite: nothing can be drawn from NaN or infinity.")
    return values.clip(0, 1)


def _blend_heat(picture: Image.Image, heatmap: np.ndarray) -> Image.Image:
    """Colour follows the value along an ordered scale, and so does the opacity; the photograph pales behind it."""
    values = np.asarray(Image.fromarray(heatmap).resize(picture.size, Image.Resampling.BICUBIC)).clip(0, 1)
    low, high = HEAT_COLOURS
    colours = matplotlib.colormaps["plasma"](low + (high - low) * values)[..., :3] * 255
    opacity = HEAT_OPACITY * values[..., None]
    pale = np.asarray(ImageEnhance.Color(picture).enhance(KEPT_SATURATION), dtype=np.float32)
    return Image.fromarray(((1 - opacity) * pale + opacity * colours).round().astype(np.uint8))


# ---- regions and points


def _as_boxes(boxes: Any) -> np.ndarray:
    array = _as_array([] if boxes is None else boxes)
    if not array.size:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4 or not np.isfinite(array).all():
        raise ValueError(f"`boxes` must be rows of finite x_min, y_min, x_max, y_max, got {array.tolist()}.")
    return array


def _outline_box(
    pen: ImageDraw.ImageDraw, box: np.ndarray, scale: tuple[float, float], size: tuple[int, int], line_width: int
) -> None:
    """A bright line between dark borders; a box that leaves the picture is drawn along its border."""
    limits = np.array([size[0] - 1, size[1] - 1] * 2)
    left, top, right, bottom = np.clip(box * (scale * 2), 0, limits).round().astype(int).tolist()
    right, bottom = max(left, right), max(top, bottom)
    for grow, tone, width in ((1, OUTER_TONE, line_width + 2), (0, INNER_TONE, line_width)):
        pen.rectangle((left - grow, top - grow, right + grow, bottom + grow), outline=tone, width=width)


def _outline_mask(picture: Image.Image, region_mask: np.ndarray) -> Image.Image:
    inside = Image.fromarray(((region_mask >= 0.5) * 255).astype(np.uint8)).resize(
        picture.size, Image.Resampling.NEAREST
    )
    inner = np.asarray(inside.filter(ImageFilter.MaxFilter(3))) > np.asarray(inside.filter(ImageFilter.MinFilter(3)))
    outer = Image.fromarray((inner * 255).astype(np.uint8)).filter(ImageFilter.MaxFilter(5))
    pixels = np.array(picture)
    pixels[np.asarray(outer) > 0] = OUTER_TONE
    pixels[inner] = INNER_TONE
    return Image.fromarray(pixels)


def _mark_point(
    pen: ImageDraw.ImageDraw, point: Sequence[float], scale: tuple[float, float], line_width: int, arm: int
) -> None:
    """A cross over the centre of the pixel `point`, white within black."""
    if len(point) != 2 or not all(math.isfinite(value) for value in point):
        raise ValueError(f"`point` must be two finite numbers x, y, got {list(point)}.")
    x, y = ((float(value) + 0.5) * factor for value, factor in zip(point, scale, strict=True))
    half = line_width / 2
    for grow, tone in ((line_width, OUTER_TONE), (0, POINT_TONE)):
        pen.rectangle((x - arm - grow, y - half - grow, x + arm + grow, y + half + grow), fill=tone)
        pen.rectangle((x - half - grow, y - arm - grow, x + half + grow, y + arm + grow), fill=tone)
    pen.rectangle((x - arm, y - half, x + arm, y + half), fill=POINT_TONE)


# ---- words


@functools.cache
def _load_font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _compose_caption(phrase: str | None, score: float | None) -> str:
    words = " ".join(phrase.split()) if phrase else ""
    return f"{words}  {score:.2f}".strip() if score is not None else words


def _wrap(words: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines that fit into `width` pixels; a word wider than that is broken, a text too long ends in an ellipsis."""
    lines = [""]
    for word in words.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    if len(lines) <= MAX_CAPTION_LINES:
        return lines
    last = lines[MAX_CAPTION_LINES - 1]
    while last and font.getlength(last + "…") > width:
        last = last[:-1]
    return [*lines[: MAX_CAPTION_LINES - 1], last + "…"]


def _draw_words(words: str, width: int, bold: bool = False, colour: tuple[int, int, int] = INK) -> Image.Image:
    """Words on paper, centred line by line, `width` pixels wide."""
    size = min(20, max(13, width // 18))
    font, line_height, margin = _load_font(size, bold), round(size * 1.35), size // 3
    lines = _wrap(words, font, width - 2 * margin)
    paper = Image.new("RGB", (width, line_height * len(lines) + 2 * margin), PAPER)
    pen = ImageDraw.Draw(paper)
    for index, line in enumerate(lines):
        pen.text((width / 2, margin + line_height * (index + 0.5)), line, font=font, fill=colour, anchor="mm")
    return paper


def _add_caption(picture: Image.Image, caption: str) -> Image.Image:
    """The picture above its words, on paper wide enough for both."""
    if not caption:
        return picture
    width = max(MIN_CANVAS_WIDTH, picture.width)
    strip = _draw_words(caption, width)
    canvas = Image.new("RGB", (width, picture.height + strip.height), PAPER)
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    canvas.paste(strip, (0, picture.height))
    return canvas


# ---- sheets and curves


def _draw_cell(cell: Image.Image | str | None, cell_size: int) -> Image.Image:
    if cell is None:
        return _draw_words("–", cell_size, colour=FAINT_INK)
    if isinstance(cell, str):
        return _draw_words(cell, cell_size)
    picture = load_image(cell)
    factor = min(cell_size / picture.width, TALLEST_CELL * cell_size / picture.height)
    resample = Image.Resampling.NEAREST if factor >= PIXEL_ART_FACTOR else Image.Resampling.LANCZOS
    return _rescale(picture, factor, resample)


def _draw_panel(panel: Any, term: str, series: Mapping[str, Mapping[str, Any]], x_label: str) -> None:
    for index, (run, curves) in enumerate(series.items()):
        pairs = np.asarray(curves.get(term, ()), dtype=np.float64).reshape(-1, 2)
        if len(pairs):
            panel.plot(
                *np.where(np.isfinite(pairs), pairs, np.nan).T,
                label=run,
                color=CURVE_COLOURS[index % len(CURVE_COLOURS)],
                linestyle=CURVE_STYLES[index // len(CURVE_COLOURS) % len(CURVE_STYLES)],
                marker="." if len(pairs) < 30 else None,
            )
    panel.set(xlabel=x_label, ylabel=term)
    panel.grid(alpha=0.3)


def _collect_legend(panels: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """One entry per run, taken from the first panel that shows it."""
    handles: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    return list(handles.values()), list(handles)


__all__ = ["draw_curves", "draw_sheet", "is_drawn_picture", "overlay_heatmap", "save_picture"]
