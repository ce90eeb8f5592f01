# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Pictures of the work: heatmaps over photographs, sheets that compare them, and training curves.

Overlays are made pixel by pixel with Pillow; sheets and curves are figures of matplotlib (Agg, no display, no global
figure state). All use the font that matplotlib ships. A picture file appears complete or not at all.
"""

import functools
import io
import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont
from PIL.PngImagePlugin import PngInfo

from albef_amc.image_processing_albef import load_image, open_image
from albef_amc.saving_albef import write_atomically

LONG_SIDE_RANGE = (320, 1024)  # a picture's longer side in pixels: smaller ones are enlarged, larger ones reduced
PIXEL_ART_FACTOR = 3  # from this enlargement on the pixels of an image stay visible as squares
MIN_CANVAS_WIDTH = 240  # room for words below a narrow picture
LINE_HEIGHT = 1.35  # over the size of the letters
MAX_CAPTION_LINES = 6
TALLEST_CELL = 1.5  # height of a sheet's picture over the width of its column

# The part of the plasma scale that stands out on white and on black; the opacity rises with the value to 0.78.
HEAT = np.c_[matplotlib.colormaps["plasma"](np.linspace(0.12, 0.82, 512))[:, :3], np.linspace(0, 0.78, 512)]
HEAT_COLOURS = ListedColormap(HEAT)
HEAT_ON_PAPER = ListedColormap(1 + HEAT[:, 3:] * (HEAT[:, :3] - 1))
INNER_TONE, OUTER_TONE = (90, 240, 255), (10, 10, 10)  # a region's line and its border
POINT_TONE = (255, 255, 255)
PAPER, INK = "white", "#191919"
DOTS_PER_INCH = 100  # of figures that are laid out in pixels
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
    saturation: float = 1.0,
) -> Image.Image:
    """Draws a heatmap over the image that it explains, legible on bright and on dark photographs.

    The photograph stays visible: the opacity of a heat colour follows the value. Lines have two tones, so that one of
    them contrasts with any background. Words are written in a strip below the photograph. Small images are enlarged
    (with visible pixels if they are tiny), huge ones reduced.

    Args:
        image (`PIL.Image.Image`, path or array): the image, of any mode and size.
        heatmap (array or tensor of shape `(height, width)`, *optional*): values in [0, 1] at any resolution, over the
            whole image; what lies outside [0, 1] is clipped.
        phrase (`str`, *optional*): what the heatmap explains, written below the image.
        boxes (array of shape `(num_boxes, 4)`, *optional*): x_min, y_min, x_max, y_max in pixels of `image`, outlined.
        point (pair of `float`, *optional*): x, y of a pixel of `image`, marked with a cross.
        score (`float`, *optional*): matching probability, written after the phrase.
        region_mask (array of shape `(height, width)`, *optional*): region over the whole image, outlined at 0.5.
        saturation (`float`, defaults to 1.0): of the photograph's colours under a heatmap; 0 makes it grey, so that
            every colour is heat.

    Returns:
        `PIL.Image.Image` of mode RGB.

    Raises:
        ValueError: an array of the wrong shape, or a value that is not finite.
    """
    photograph = load_image(image)
    picture = _fit_for_viewing(photograph)
    scale = (picture.width / photograph.width, picture.height / photograph.height)
    if heatmap is not None:
        picture = _blend_heat(picture, _as_map("heatmap", heatmap), saturation)
    if region_mask is not None:
        picture = _outline_mask(picture, _as_map("region_mask", region_mask))
    pen = ImageDraw.Draw(picture)
    line_width = max(2, max(picture.size) // 150)
    for box in _as_boxes(boxes):
        _outline_box(pen, box, scale, picture.size, line_width)
    if point is not None:
        _mark_point(pen, point, scale, line_width, arm=max(8, max(picture.size) // 40))
    return add_caption(picture, compose_title(phrase, score))


def compose_title(phrase: str | None, score: float | None = None) -> str:
    """A phrase on one line, with its matching probability if there is one."""
    words = " ".join(phrase.split()) if phrase else ""
    return f"{words}  {score:.2f}".strip() if score is not None else words


def add_caption(picture: Image.Image, caption: str) -> Image.Image:
    """The picture above its words, on paper wide enough for both; without words the picture itself."""
    if not caption:
        return picture
    width = max(MIN_CANVAS_WIDTH, picture.width)
    size = _choose_letter_size(width)
    lines = _wrap(caption, size, width)
    strip = round(LINE_HEIGHT * size * (len(lines) + 0.5))
    canvas = Image.new("RGB", (width, picture.height + strip), PAPER)
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    middle = (width / 2, picture.height + strip / 2)
    pen = ImageDraw.Draw(canvas)
    pen.multiline_text(middle, "\n".join(lines), INK, _load_font(size), anchor="mm", align="center")
    return canvas


def draw_sheet(
    rows: Sequence[Sequence[Image.Image | str | None]],
    columns: Sequence[str],
    path: str | Path,
    cell_size: int = 240,
    has_colour_bar: bool = False,
) -> Path:
    """Draws pictures and words as a table, for example scene, phrase, region, and the heatmaps of two models.

    Args:
        rows (sequence of sequences): cells from left to right: a picture, words, or `None` for an empty cell.
        columns (sequence of `str`): one heading per column.
        path (`str` or `Path`): where to save; the ending chooses the format (png, jpg, webp).
        cell_size (`int`, defaults to 240): width of a column in pixels; pictures fill it unless they are very tall.
        has_colour_bar (`bool`, defaults to `False`): explain the colours of heatmaps below the table.

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
    size, margin = _choose_letter_size(cell_size), max(6, cell_size // 30)
    lines: list[list[Any]] = [[_wrap(heading, size, cell_size, is_bold=True) for heading in columns]]
    lines += [[_prepare_cell(cell, size, cell_size) for cell in row] for row in rows]
    heights = [max(_measure_height(cell, size, cell_size) for cell in line) for line in lines]
    top, bar_height = margin, 4 * size * has_colour_bar  # with its numbers and its label
    width = len(columns) * (cell_size + margin) + margin
    height = sum(heights) + margin * (len(heights) + 1) + bar_height
    figure = Figure(figsize=(width / DOTS_PER_INCH, height / DOTS_PER_INCH), dpi=DOTS_PER_INCH)
    table = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)  # in pixels
    table.set_axis_off()
    font: dict[str, Any] = {"family": "DejaVu Sans", "size": size * 72 / DOTS_PER_INCH}  # in points
    for line_height, line in zip(heights, lines, strict=True):
        for column, cell in enumerate(line):
            middle = margin + column * (cell_size + margin) + cell_size / 2
            if isinstance(cell, Image.Image):
                cell_height = _measure_height(cell, size, cell_size)
                half = round(cell_height * cell.width / cell.height) / 2
                table.imshow(cell, extent=(middle - half, middle + half, top + cell_height, top), aspect="auto")
            else:
                weight, text = "bold" if line is lines[0] else "normal", "\n".join(cell)
                words = table.text(middle, top + line_height / 2, text, color=INK, weight=weight, **font)
                words.set(ha="center", va="center", parse_math=False)  # "$5 and $6" is not a formula
        top += line_height + margin
    if has_colour_bar:
        edge = 2 * size / width  # half of the last number stands beside the bar
        place = (edge, 1 - (top + size / 2) / height, 1 - 2 * edge, size / 2 / height)
        bar = figure.colorbar(ScalarMappable(cmap=HEAT_ON_PAPER), figure.add_axes(place), orientation="horizontal")
        bar.set_label("heat, as a share of each heatmap's maximum", **font)
        bar.ax.tick_params(labelsize=font["size"])
    return save_picture(_render(figure), path)


def draw_curves(
    series: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    path: str | Path,
    title: str | None = None,
    x_label: str = "step",
    panel_size: tuple[float, float] = (4.4, 3.2),
) -> Path:
    """Draws terms of several runs over time: one panel per term, one line per run, in one picture.

    Args:
        series (mapping): run name -> term name -> (step, value) pairs; a run may lack a term, and values that are not
            finite leave a gap.
        path (`str` or `Path`): where to save; the ending chooses the format (png, jpg, webp).
        title (`str`, *optional*): words above the panels.
        x_label (`str`, defaults to `"step"`): what is counted from left to right.
        panel_size (two `float`, defaults to 4.4 and 3.2): width and height of a panel in inches of 110 pixels.

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
    width, height = panel_size
    figure = Figure(figsize=(width * num_columns, height * num_rows + 0.6), dpi=110, layout="constrained")
    panels = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
    for panel, term in zip(panels, terms, strict=False):
        _draw_panel(panel, term, series, x_label)
    for panel in panels[len(terms) :]:
        panel.set_axis_off()
    if title:
        figure.suptitle(title)
    handles, labels = _collect_legend(panels)
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(series)), frameon=False)
    return save_picture(_render(figure), path)


def draw_reliability(
    series: Mapping[str, Sequence[tuple[float, float]]], path: str | Path, title: str | None = None
) -> Path:
    """Draws a reliability diagram: share of pairs that match over predicted probability, one line per series.

    Args:
        series (mapping): name -> (mean probability, share of matches) of each bin of pairs, in order.
        path (`str` or `Path`): where to save; the ending chooses the format (png, jpg, webp).
        title (`str`, *optional*): words above the diagram.

    Returns:
        `Path` of the picture.
    """
    figure = Figure(figsize=(4.8, 4.8), dpi=110, layout="constrained")
    panel = figure.subplots()
    panel.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="probability = share")
    for name, bins in series.items():
        panel.plot(*zip(*bins, strict=True), marker="o", markersize=4, label=name)
    panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=title)
    panel.set(xlabel="predicted probability of a match", ylabel="share of pairs that match")
    panel.grid(alpha=0.3)
    panel.legend(frameon=False)
    return save_picture(_render(figure), path)


def save_picture(picture: Image.Image, path: str | Path) -> Path:
    """Saves a picture under a temporary name and renames it: a reader never finds half of one.

    Args:
        picture (`PIL.Image.Image`): what to save.
        path (`str` or `Path`): the ending chooses the format; folders that are missing are made.

    Returns:
        `Path` of the picture.

    Raises:
        ValueError: Pillow writes no format with this ending.
    """
    path = Path(path)
    picture_format = Image.registered_extensions().get(path.suffix.lower())
    if not path.suffix or picture_format not in Image.SAVE:
        raise ValueError(f"`path` is {path}, whose ending is not a picture format: use .png, .jpg or .webp.")
    encoded = io.BytesIO()
    mark = PngInfo()
    mark.add_text(MARK_KEY, MARK)
    options = {"pnginfo": mark} if picture_format == "PNG" else {}
    picture.save(encoded, format=picture_format, **options)
    write_atomically(path, encoded.getvalue())
    return path


def is_drawn_picture(path: Path) -> bool:
    """Whether [`save_picture`] wrote a PNG file, from the mark in its header."""
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


def _blend_heat(picture: Image.Image, heatmap: np.ndarray, saturation: float) -> Image.Image:
    """Colour follows the value along an ordered scale, and so does the opacity."""
    values = np.asarray(Image.fromarray(heatmap).resize(picture.size, Image.Resampling.BICUBIC)).clip(0, 1)
    heat = HEAT_COLOURS(values)  # (height, width, 4): red, green, blue, opacity
    photograph = np.asarray(ImageEnhance.Color(picture).enhance(saturation), dtype=np.float32)
    blended = photograph + heat[..., 3:] * (heat[..., :3] * 255 - photograph)
    return Image.fromarray(blended.round().astype(np.uint8))


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
def _load_font(size: int, is_bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if is_bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _choose_letter_size(width: int) -> int:
    return min(20, max(13, width // 18))


def _wrap(words: str, size: int, width: int, is_bold: bool = False) -> list[str]:
    """Lines that fit into `width` pixels; a word wider than that is broken, a text too long ends in an ellipsis."""
    font, room = _load_font(size, is_bold), width - size
    num_characters = max(1, round(1.9 * room / size))
    while True:
        lines = textwrap.wrap(words, num_characters, max_lines=MAX_CAPTION_LINES, placeholder="…") or [""]
        if num_characters == 1 or max(map(font.getlength, lines)) <= room:
            return lines
        num_characters -= 1


# ---- sheets and curves


def _prepare_cell(cell: Image.Image | str | None, size: int, cell_size: int) -> Image.Image | list[str]:
    if cell is None:
        return ["–"]
    return _wrap(cell, size, cell_size) if isinstance(cell, str) else _fit_for_viewing(load_image(cell))


def _measure_height(cell: Image.Image | list[str], size: int, cell_size: int) -> int:
    """Pixels that a cell needs: those of a picture as wide as its column (`TALLEST_CELL` at most), or of lines."""
    if isinstance(cell, Image.Image):
        return round(cell_size * min(TALLEST_CELL, cell.height / cell.width))
    return round(LINE_HEIGHT * size * len(cell))


def _render(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box stands for the letter
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


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


__all__ = [
    "add_caption",
    "compose_title",
    "draw_curves",
    "draw_sheet",
    "is_drawn_picture",
    "overlay_heatmap",
    "save_picture",
]
