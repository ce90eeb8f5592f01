# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Which part of an image each cell of a model sees: masks, maps and points between pixels and cells.

A model sees an image as one or more pictures: the whole image stretched to a square, its centre, tiles. Each picture
is cut into cells, one for each image token. A [`View`] holds where a picture comes from, an [`ImageLayout`] all views
of an image, and [`read_layout`] finds them from an image processor of transformers. Coordinates are those of
`regions_albef.py`: continuous pixels of the stored image after EXIF rotation.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from transformers import PreTrainedConfig
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_transforms import (
    get_resize_output_image_size,
    get_size_with_aspect_ratio,
)
from transformers.image_utils import ChannelDimension, SizeDict, get_image_size_for_max_height_width
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas
from transformers.models.idefics3 import image_processing_pil_idefics3 as idefics3
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches
from transformers.models.vilt import image_processing_pil_vilt as vilt
from transformers.processing_utils import ProcessorMixin

from albef_amc.explanation_albef import at_least_float32
from albef_amc.regions_albef import resize_heatmap

Size = tuple[int, int]  # height, width
Box = tuple[float, float, float, float]  # x_min, y_min, x_max, y_max

# Pixels; less is rounding, not a part of an image.
TOLERANCE = 1e-6
# Limit on the pixels of masks that are converted to floating point at once.
MAX_PIXELS_AT_ONCE = 1 << 25
# Largest 8-bit value; the picture that measures an unknown processor has this many steps along each side.
BYTE_MAX = 255
# A measured border of a view this close to the image's border, as a share of the side, is the image's border.
BORDER_SHARE = 0.005
# Share of the range from black to white that a pixel of a picture has if it is not mixed with padding.
UNMIXED_SHARE = 0.98
# Pixels of a picture from the border of the image that the filters of a resize bend.
FILTER_REACH = 2


@dataclass(frozen=True)
class View:
    """A part of the image that a model sees as one grid of cells.

    Args:
        box (four `float`): x_min, y_min, x_max, y_max in pixels of the stored image; outside the image lies padding.
        grid (`tuple[int, int]`): rows and columns of cells, all of the same size.
    """

    box: Box
    grid: Size

    def __post_init__(self):
        x_min, y_min, x_max, y_max = self.box
        if not (all(map(math.isfinite, self.box)) and x_min < x_max and y_min < y_max):
            raise ValueError(f"`box` is {self.box}: finite x_min < x_max and y_min < y_max are expected.")
        if min(self.grid) < 1:
            raise ValueError(f"`grid` is {self.grid}: at least one row and one column of cells are expected.")

    @property
    def num_cells(self) -> int:
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class ImageLayout:
    """All views of an image. Cells are numbered view by view, row by row within a view.

    Args:
        image_size (`tuple[int, int]`): height and width of the stored image after EXIF rotation.
        views (`tuple[View, ...]`): in the order of the model's image tokens.

    Raises:
        ValueError: no view, a damaged box or grid, or a view that lies outside the image.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc.grounders.image_layout import ImageLayout, View
    >>> layout = ImageLayout(image_size=(2, 4), views=(View(box=(1, 0, 3, 2), grid=(1, 2)),))  # the centre square
    >>> values, is_visible = layout.to_cells(torch.tensor([[[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]))
    >>> values, is_visible
    (tensor([[0.5000, 0.0000]]), tensor([True]))
    >>> layout.to_image(torch.ones(1, 2))
    tensor([[[0., 1., 1., 0.],
             [0., 1., 1., 0.]]])

    ```
    """

    image_size: Size
    views: tuple[View, ...]

    def __post_init__(self):
        height, width = self.image_size
        if min(height, width) < 1:
            raise ValueError(f"`image_size` is {self.image_size}: height and width of at least 1 are expected.")
        if not self.views:
            raise ValueError("`views` is empty: at least one view of the image is expected.")
        for index, view in enumerate(self.views):
            x_min, y_min, x_max, y_max = view.box
            if min(x_max, width) - max(x_min, 0) < TOLERANCE or min(y_max, height) - max(y_min, 0) < TOLERANCE:
                raise ValueError(
                    f"`views[{index}]` has the box {view.box}, which lies outside the image of {width} x {height} "
                    "pixels. Give boxes in pixels of the stored image after EXIF rotation."
                )

    @property
    def num_cells(self) -> int:
        """Cells of all views."""
        return sum(view.num_cells for view in self.views)

    @cached_property
    def visible(self) -> torch.Tensor:
        """Pixels that a view sees at least in part: bool of shape `(height, width)`."""
        return self._cover_pixels() > 0

    @cached_property
    def visible_cells(self) -> torch.Tensor:
        """Cells that see at least a part of the image, not only padding: bool of shape `(num_cells,)`."""
        boxes = self._build_cell_boxes()
        return (boxes[:, 2:] - boxes[:, :2] > TOLERANCE).all(dim=1)

    def pad(self, grid: Size) -> "ImageLayout":
        """Extend the only view by cells on the right and below, as a batch of images of several sizes is padded.

        Args:
            grid (`tuple[int, int]`): rows and columns of cells of every image of the batch.

        Raises:
            ValueError: `grid` is smaller than the view's, or there are several views.
        """
        if len(self.views) > 1 or grid[0] < self.views[0].grid[0] or grid[1] < self.views[0].grid[1]:
            raise ValueError(
                f"`grid` is {grid}, but the layout has the grids {[view.grid for view in self.views]}: a single view "
                "can be padded to more rows and columns."
            )
        (view,) = self.views
        x_min, y_min, x_max, y_max = view.box
        cell_height, cell_width = (y_max - y_min) / view.grid[0], (x_max - x_min) / view.grid[1]
        box = (x_min, y_min, x_min + grid[1] * cell_width, y_min + grid[0] * cell_height)
        return ImageLayout(self.image_size, (View(box, grid),))

    def to_image(self, maps: torch.Tensor) -> torch.Tensor:
        """Resize maps over cells to the stored image.

        A view is resized to its box as [`resize_heatmap`] does it for a whole image: bicubic, `align_corners=False`.
        Cells that see only padding have no influence. A pixel in several views is their mean, weighted by the share of
        the pixel that each view covers. A constant map stays constant. Gradients of any order reach `maps`.

        Args:
            maps (`torch.Tensor` of shape `(P, num_cells)`): floating point; float32 is the least precision used.

        Returns:
            `torch.Tensor` of shape `(P, height, width)`; 0 where no view sees the pixel (`visible`).

        Raises:
            ValueError: another number of cells.
        """
        if maps.ndim != 2 or maps.shape[1] != self.num_cells:
            raise ValueError(
                f"`maps` has shape {tuple(maps.shape)}, but the layout has {self.num_cells} cells in grids "
                f"{[view.grid for view in self.views]}: (maps, cells) is expected. Remove tokens that are no cells."
            )
        maps = at_least_float32(maps)
        parts = maps.split([view.num_cells for view in self.views], dim=1)
        images, is_single = maps.new_zeros(len(maps), *self.image_size), len(parts) == 1
        for (rows, columns), view, part in zip(self._axes, self.views, parts, strict=True):
            grid = part.unflatten(1, view.grid)[:, rows.cells, columns.cells]
            if is_single and rows.is_whole and columns.is_whole:
                return resize_heatmap(grid, *self.image_size)
            resized = rows.interpolate().to(maps) @ grid @ columns.interpolate().to(maps).T
            shares = 1 if is_single else (rows.cover()[:, None] * columns.cover()).to(maps)
            images[:, rows.pixels, columns.pixels] += resized * shares
        return images if is_single else images / self._cover_pixels().clamp(min=TOLERANCE).to(maps)

    def to_cells(self, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Average masks of regions over every cell.

        Only the part of a cell inside the image counts, so a mask of ones gives 1 in every visible cell; padding gives
        0. Overlapping views each see the region. Masks are converted to floating point a few at a time.

        Args:
            masks (`torch.Tensor` of shape `(P, mask_height, mask_width)`): bool, or floating point in [0, 1]. A mask
                covers the whole stored image, at its size or any other.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: values of shape `(P, num_cells)` in [0, 1], float32 or float64; and
            bool of shape `(P,)`, False where no cell sees a part of the region. Such a region takes no part in a loss;
            the caller counts it.

        Raises:
            ValueError: not three dimensions, or values outside [0, 1].
        """
        if masks.ndim != 3:
            raise ValueError(f"`masks` has shape {tuple(masks.shape)}: (masks, height, width) is expected.")
        if masks.numel() and not (masks.min() >= 0 and masks.max() <= 1):
            raise ValueError(
                f"`masks` holds values from {masks.min().item():g} to {masks.max().item():g}: shares in [0, 1] are "
                "expected. Divide masks of 0 and 255 by 255."
            )
        dtype = torch.float64 if masks.dtype == torch.float64 else torch.float32
        num_at_once = max(1, MAX_PIXELS_AT_ONCE // max(1, masks.shape[1] * masks.shape[2]))
        weights = [
            tuple(axis.average(size).to(masks.device, dtype) for axis, size in zip(axes, masks.shape[1:], strict=True))
            for axes in self._axes
        ]
        values = masks.new_empty(0, self.num_cells, dtype=dtype)
        for some in masks.split(num_at_once):
            parts = [(rows @ some.to(dtype) @ columns.T).flatten(1) for rows, columns in weights]
            values = torch.cat([values, torch.cat(parts, dim=1)])
        values = values.clamp(0, 1)  # sums of shares are rounded
        return values, (values > 0).any(dim=1)

    def points_to_cells(self, points: torch.Tensor) -> torch.Tensor:
        """Find the cells that see each point: one, several where views overlap, or none outside the visible part.

        Args:
            points (`torch.Tensor` of shape `(K, 2)`): x, y in pixels of the stored image. The centre of the pixel in
                column c and row r is c + 0.5, r + 0.5.

        Returns:
            `torch.Tensor` of shape `(K, num_cells)`, bool.
        """
        boxes, points = self._build_cell_boxes().to(points.device), points.double()[:, None]
        return ((points >= boxes[:, :2]) & (points < boxes[:, 2:])).all(dim=-1)

    def cells_to_points(self, cells: torch.Tensor) -> torch.Tensor:
        """Compute the centre of each cell's part of the image.

        Args:
            cells (`torch.Tensor` of shape `(K,)`, int64): numbers of cells.

        Returns:
            `torch.Tensor` of shape `(K, 2)`, float64: x, y in pixels of the stored image.

        Raises:
            ValueError: a cell sees only padding, or its number is not one of the layout's.
        """
        for cell in cells.tolist():
            if not (0 <= cell < self.num_cells and self.visible_cells[cell]):
                raise ValueError(
                    f"`cells` has {cell}, which sees no part of the image: one of the layout's {self.num_cells} cells "
                    "that is True in `visible_cells` is expected."
                )
        boxes = self._build_cell_boxes().to(cells.device)[cells]
        return (boxes[:, :2] + boxes[:, 2:]) / 2

    @cached_property
    def _axes(self) -> list[tuple["_Axis", "_Axis"]]:
        """Rows and columns of every view."""
        height, width = self.image_size
        return [
            (
                _Axis(view.box[1], view.box[3], view.grid[0], height),
                _Axis(view.box[0], view.box[2], view.grid[1], width),
            )
            for view in self.views
        ]

    def _cover_pixels(self) -> torch.Tensor:
        """Sum the shares of each pixel that the views cover: `(height, width)`, float64."""
        covered = torch.zeros(self.image_size, dtype=torch.float64)
        for rows, columns in self._axes:
            covered[rows.pixels, columns.pixels] += rows.cover()[:, None] * columns.cover()
        return covered

    def _build_cell_boxes(self) -> torch.Tensor:
        """Build the box of each cell's part of the image, empty for padding: `(num_cells, 4)`, float64."""
        boxes = []
        for rows, columns in self._axes:
            y, x = rows.edges(), columns.edges()
            corners = torch.meshgrid(y[:-1], x[:-1], indexing="ij"), torch.meshgrid(y[1:], x[1:], indexing="ij")
            boxes.append(torch.stack([corner for y, x in corners for corner in (x, y)], dim=-1).flatten(0, 1))
        return torch.cat(boxes)


@dataclass(frozen=True)
class _Axis:
    """The rows, or the columns, of a view: `count` cells between `low` and `high`, in an image of `length` pixels."""

    low: float
    high: float
    count: int
    length: int

    @property
    def pixels(self) -> slice:
        """Pixels of the image that the view covers at least in part."""
        return slice(math.floor(max(self.low, 0) + TOLERANCE), math.ceil(min(self.high, self.length) - TOLERANCE))

    @property
    def cells(self) -> slice:
        """Cells that see a part of the image."""
        seen = torch.nonzero(self.edges().diff() > TOLERANCE)
        return slice(int(seen[0]), int(seen[-1]) + 1)

    @property
    def is_whole(self) -> bool:
        """Whether the cells that see the image cover exactly its side."""
        size = (self.high - self.low) / self.count
        starts_at_border = abs(self.low + self.cells.start * size) < TOLERANCE
        return starts_at_border and abs(self.low + self.cells.stop * size - self.length) < TOLERANCE

    def edges(self) -> torch.Tensor:
        """Borders of the cells, clipped at the image's border: `(count + 1,)`, float64."""
        shares = torch.arange(self.count + 1, dtype=torch.float64) / self.count
        return (self.low + shares * (self.high - self.low)).clamp(0, self.length)

    def cover(self) -> torch.Tensor:
        """Compute the share of each of `pixels` that the view covers: `(num_pixels,)`, float64."""
        starts = torch.arange(self.pixels.start, self.pixels.stop, dtype=torch.float64)
        return (starts + 1).clamp(max=self.high) - starts.clamp(min=self.low)

    def interpolate(self) -> torch.Tensor:
        """Compute bicubic weights of `cells` for the centres of `pixels`: `(num_pixels, num_cells)`, float64."""
        num_cells = self.cells.stop - self.cells.start
        centers = torch.arange(self.pixels.start, self.pixels.stop, dtype=torch.float64) + 0.5
        positions = (centers - self.low) * self.count / (self.high - self.low) - self.cells.start
        places = torch.stack([torch.zeros_like(positions), 2 * positions / num_cells - 1], dim=-1)  # x, y in [-1, 1]
        units = torch.eye(num_cells, dtype=torch.float64)[None, :, :, None]  # a column of pixels for each cell
        weights = functional.grid_sample(units, places[None, :, None], "bicubic", "border", align_corners=False)
        return weights[0, :, :, 0].T

    def average(self, num_pixels: int) -> torch.Tensor:
        """Compute weights that average a side of `num_pixels` mask pixels over cells: `(count, num_pixels)`."""
        edges = self.edges()[:, None]
        borders = torch.arange(num_pixels + 1, dtype=torch.float64) * self.length / num_pixels
        overlaps = torch.minimum(edges[1:], borders[1:]) - torch.maximum(edges[:-1], borders[:-1])
        sizes = edges.diff(dim=0)
        return torch.where(sizes > TOLERANCE, overlaps.clamp(min=0) / sizes.clamp(min=TOLERANCE), 0)


@dataclass(frozen=True)
class _Picture:
    """A picture that a model's vision encoder is given: its own size, and the box of the image that it shows."""

    size: Size
    box: Box

    def __post_init__(self):
        _check_width(self.size, (1, 1))

    def crop(self, size: Size, offset: Size) -> "_Picture":
        """Cut out a part, or add padding where the part reaches over the border.

        Args:
            size (`tuple[int, int]`): height and width of the part.
            offset (`tuple[int, int]`): rows and columns before the part; negative for padding.
        """
        x_min, y_min, x_max, y_max = self.box
        x_scale, y_scale = (x_max - x_min) / self.size[1], (y_max - y_min) / self.size[0]
        left, top = x_min + offset[1] * x_scale, y_min + offset[0] * y_scale
        return _Picture(size, (left, top, left + size[1] * x_scale, top + size[0] * y_scale))

    def build_view(self, cell_size: Size) -> View:
        """Cut the picture into cells; pixels on the right and below that fill no cell are not seen."""
        rows, columns = (side // cell for side, cell in zip(self.size, cell_size, strict=True))
        _check_width(self.size, cell_size)
        seen = self.crop((rows * cell_size[0], columns * cell_size[1]), (0, 0))
        return View(seen.box, (rows, columns))


def _check_width(size: Size, least: Size) -> None:
    """Refuse a picture without a single cell; rounding can even leave it without pixels."""
    if size[0] < least[0] or size[1] < least[1]:
        raise ValueError(
            f"the image processor makes a picture of {size[1]} x {size[0]} pixels, less than {least[1]} x {least[0]}, "
            "the least that the model can see. The image is too narrow: cut it or pad it."
        )


def read_layout(
    processor: ProcessorMixin | BaseImageProcessor, image_size: Size, model_config: PreTrainedConfig
) -> ImageLayout:
    """Find which part of an image each cell of a model sees, for one image alone (for a batch: [`ImageLayout.pad`]).

    Processors that stretch, crop and pad as transformers' back-ends do, and those in `GEOMETRIES`, are computed from
    their settings. Any other one is measured with a picture whose colours are its coordinates: it runs three times on
    pictures of the image's size, and boxes are off by about a pixel.

    Args:
        processor: a processor, or its image processor.
        image_size (`tuple[int, int]`): height and width of the stored image after EXIF rotation. The processor is
            given the upright image (`load_image`).
        model_config (`PreTrainedConfig`): the model's; it gives the size of patches, and how many make an image token.

    Raises:
        ValueError: the geometry is not known and cannot be measured, or the image is too narrow for the model.
    """
    image_processor = processor.image_processor if isinstance(processor, ProcessorMixin) else processor
    name = type(image_processor).__name__.removesuffix("Fast").removesuffix("Pil")
    if name in GEOMETRIES:
        pictures = GEOMETRIES[name](image_processor, image_size)
    elif _is_standard(image_processor):
        pictures = _read_standard(image_processor, image_size)
    else:
        pictures = _measure_pictures(image_processor, image_size)
    cell_size = _read_cell_size(model_config)
    return ImageLayout(image_size, tuple(picture.build_view(cell_size) for picture in pictures))


def _read_cell_size(config: PreTrainedConfig) -> Size:
    """Read the height and width of an image token, in pixels of the vision encoder's picture."""
    vision_config = config.vision_config if hasattr(config, "vision_config") else config
    if not hasattr(vision_config, "patch_size"):
        raise ValueError(
            f"`model_config` is a {type(config).__name__} without `patch_size`: the configuration of a model with a "
            "vision transformer is expected."
        )
    height, width = np.broadcast_to(vision_config.patch_size, 2).tolist()
    if hasattr(vision_config, "spatial_merge_size"):  # Qwen-VL
        merged = vision_config.spatial_merge_size
    elif hasattr(config, "downsample_ratio"):  # InternVL
        merged = round(1 / config.downsample_ratio)
    elif hasattr(config, "scale_factor"):  # Idefics 3, SmolVLM
        merged = config.scale_factor
    else:
        merged = 1
    return height * merged, width * merged


def _show_image(image_size: Size, size: Size) -> _Picture:
    """Stretch the whole image to `size`."""
    return _Picture(size, (0.0, 0.0, float(image_size[1]), float(image_size[0])))


def _pretend_image(image_size: Size) -> np.ndarray:
    """An image without memory, for functions of transformers that read only the shape of an image."""
    return np.broadcast_to(np.uint8(0), (1, *image_size))


def _is_standard(image_processor: BaseImageProcessor) -> bool:
    """Whether an image processor resizes, crops and pads with the methods of transformers' back-ends."""
    for backend in (PilBackend, TorchvisionBackend):
        if isinstance(image_processor, backend):
            steps = ("_preprocess", "resize", "center_crop", "pad")
            kept = all(getattr(type(image_processor), step) is getattr(backend, step) for step in steps)
            return kept and not (image_processor.do_pad and image_processor.pad_size)
    return False


def _read_standard(image_processor: BaseImageProcessor, image_size: Size) -> list[_Picture]:
    """BLIP, CLIP, SigLIP, ALBEF and their kin: resize, then perhaps a crop at the centre."""
    size = _resize(image_processor.size, image_size) if image_processor.do_resize else image_size
    picture = _show_image(image_size, size)
    if image_processor.do_center_crop:
        picture = _crop_center(
            image_processor, picture, (image_processor.crop_size.height, image_processor.crop_size.width)
        )
    return [picture]


def _resize(size: SizeDict, image_size: Size) -> Size:
    """Compute the size after the `resize` of transformers' back-ends, with its functions and in its order."""
    if size.shortest_edge and size.longest_edge:
        return get_size_with_aspect_ratio(image_size, size.shortest_edge, size.longest_edge)
    if size.shortest_edge:
        return get_resize_output_image_size(
            _pretend_image(image_size),
            size.shortest_edge,
            default_to_square=False,
            input_data_format=ChannelDimension.FIRST,
        )
    if size.max_height and size.max_width:
        return get_image_size_for_max_height_width(image_size, size.max_height, size.max_width)
    return size.height, size.width


def _crop_center(image_processor: BaseImageProcessor, picture: _Picture, size: Size) -> _Picture:
    """Crop at the centre. Where padding is odd, the Pillow back-end adds the larger part before, torchvision after."""
    spare = [side - cropped for side, cropped in zip(picture.size, size, strict=True)]
    is_pil = image_processor.backend == "pil"
    top, left = (pixels // 2 if is_pil else int(pixels / 2) for pixels in spare)
    return picture.crop(size, (top, left))


def _read_llava(image_processor: BaseImageProcessor, image_size: Size) -> list[_Picture]:
    """LLaVA: perhaps padding to a square first, then as CLIP."""
    if not image_processor.do_pad:
        return _read_standard(image_processor, image_size)
    side = max(image_size)
    top, left = ((side - length) // 2 for length in image_size)
    square = (side, side)
    (picture,) = _read_standard(image_processor, square)
    x_min, y_min, x_max, y_max = picture.box
    return [_Picture(picture.size, (x_min - left, y_min - top, x_max - left, y_max - top))]


def _read_rounded(image_processor: BaseImageProcessor, image_size: Size) -> list[_Picture]:
    """ViLT: the shorter side to a length, unless the longer one is then too long; sides rounded down."""
    if not image_processor.do_resize:
        return [_show_image(image_size, image_size)]
    shorter = image_processor.size.shortest_edge
    size = vilt.get_resize_output_image_size(
        _pretend_image(image_size),
        shorter=shorter,
        longer=int(vilt.MAX_LONGER_EDGE / vilt.MAX_SHORTER_EDGE * shorter),
        size_divisor=image_processor.size_divisor,
        input_data_format=ChannelDimension.FIRST,
    )
    return [_show_image(image_size, size)]


def _read_bridgetower(image_processor: BaseImageProcessor, image_size: Size) -> list[_Picture]:
    """BridgeTower: as ViLT, then the square at the centre, with padding where a side is shorter."""
    (picture,) = _read_rounded(image_processor, image_size)
    if image_processor.do_center_crop:
        side = image_processor.crop_size.shortest_edge
        picture = _crop_center(image_processor, picture, (side, side))
    return [picture]


def _read_siglip2(image_processor: BaseImageProcessor, image_size: Size) -> list[_Picture]:
    """SigLIP 2 with `spatial_shapes`: the largest grid of about the image's shape with a limited number of patches."""
    if not image_processor.do_resize:
        return [_show_image(image_size, image_size)]
    size = get_image_size_for_max_num_patches(*image_size, image_processor.patch_size, image_processor.max_num_patches)
    return [_show_image(image_size, size)]


def _read_qwen(image_processor: BaseImageProcessor, image_size: Size) -> list[_Picture]:
    """Qwen2-VL and later: sides rounded to whole image tokens, the number of pixels within limits."""
    if not image_processor.do_resize:
        return [_show_image(image_size, image_size)]
    limits = image_processor.size
    size = smart_resize(
        *image_size,
        factor=image_processor.patch_size * image_processor.merge_size,
        min_pixels=limits.shortest_edge,
        max_pixels=limits.longest_edge,
    )
    return [_show_image(image_size, size)]


def _read_internvl(image_processor: BaseImageProcessor, image_size: Size) -> list[_Picture]:
    """InternVL: perhaps tiles in the arrangement whose shape is nearest to the image's."""
    tile = (image_processor.size.height, image_processor.size.width)
    if not image_processor.crop_to_patches or image_processor.max_patches <= 1:
        return [_show_image(image_size, tile if image_processor.do_resize else image_size)]
    columns, rows = get_optimal_tiled_canvas(
        image_size, tile, image_processor.min_patches, image_processor.max_patches
    )
    return _split(image_size, tile, rows, columns)


def _read_idefics3(image_processor: BaseImageProcessor, image_size: Size) -> list[_Picture]:
    """Idefics 3 and SmolVLM: sides rounded up to whole square tiles, unless the image fits into one."""
    side = image_processor.max_image_size["longest_edge"]
    if not image_processor.do_image_splitting:
        return _split(image_size, (side, side), 1, 1)
    height, width = image_size
    if image_processor.do_resize:
        height, width = idefics3.get_resize_output_image_size(
            _pretend_image(image_size), resolution_max_side=image_processor.size.longest_edge
        )
    if width >= height:
        columns = math.ceil(width / side)
        rows = math.ceil(int(columns * side / (width / height)) / side)
    else:
        rows = math.ceil(height / side)
        columns = math.ceil(int(rows * side * (width / height)) / side)
    return _split(image_size, (side, side), rows, columns)


def _split(image_size: Size, tile: Size, rows: int, columns: int) -> list[_Picture]:
    """Cut the image into equal tiles row by row, and add the whole image if there are several."""
    canvas = _show_image(image_size, (rows * tile[0], columns * tile[1]))
    tiles = [canvas.crop(tile, (row * tile[0], column * tile[1])) for row in range(rows) for column in range(columns)]
    return [*tiles, _show_image(image_size, tile)] if len(tiles) > 1 else tiles


# Image processors with a geometry of their own, by class name without the suffix of the back-end.
GEOMETRIES: dict[str, Callable[[BaseImageProcessor, Size], list[_Picture]]] = {
    "BridgeTowerImageProcessor": _read_bridgetower,
    "GotOcr2ImageProcessor": _read_internvl,
    "Idefics3ImageProcessor": _read_idefics3,
    "LlavaImageProcessor": _read_llava,
    "Qwen2VLImageProcessor": _read_qwen,
    "Siglip2ImageProcessor": _read_siglip2,
    "SmolVLMImageProcessor": _read_idefics3,
    "ViltImageProcessor": _read_rounded,
}


def _measure_pictures(image_processor: BaseImageProcessor, image_size: Size) -> list[_Picture]:
    """Measure the pictures of an unknown processor with an image whose colours are its coordinates.

    A black and a white image show which pixels come from the image and what their range is; the third image gives
    their coordinates, to which a straight line is fitted along each axis.
    """
    height, width = image_size
    ramp = np.zeros((height, width, 3), dtype=np.uint8)
    ramp[..., 0] = np.round((np.arange(width) + 0.5) / width * BYTE_MAX)
    ramp[..., 1] = np.round((np.arange(height) + 0.5) / height * BYTE_MAX)[:, None]
    images = (np.zeros_like(ramp), np.full_like(ramp, BYTE_MAX), ramp)
    black, white, colours = (_run_processor(image_processor, image) for image in images)
    pictures = []
    for low, high, values in zip(black, white, colours, strict=True):
        ranges = high - low
        is_inside = (ranges > UNMIXED_SHARE * ranges.max()).all(axis=0)
        shares = (values - low)[:, is_inside] / ranges[:, is_inside]
        rows, columns = np.nonzero(is_inside)
        picture_size = is_inside.shape
        x_min, x_max = _fit_side(columns, shares[0], picture_size[1], width, image_processor)
        y_min, y_max = _fit_side(rows, shares[1], picture_size[0], height, image_processor)
        pictures.append(_Picture(picture_size, (x_min, y_min, x_max, y_max)))
    return pictures


def _run_processor(image_processor: BaseImageProcessor, image: np.ndarray) -> np.ndarray:
    """Return the pictures that a processor makes of an image: `(num_pictures, 3, height, width)`, float64."""
    try:
        pixel_values = image_processor(images=[Image.fromarray(image)], return_tensors="pt")["pixel_values"]
        return pixel_values.double().reshape(-1, *pixel_values.shape[-3:]).numpy()
    except Exception as error:  # whatever the code of an unknown class raises
        raise _describe_unknown(image_processor, f"it fails on a picture of coordinates: {error}") from error


def _fit_side(
    places: np.ndarray, shares: np.ndarray, num_pixels: int, length: int, image_processor: BaseImageProcessor
) -> tuple[float, float]:
    """Fit a line from pixels of a picture to coordinates of the image; return where the picture begins and ends."""
    if len(np.unique(places)) < 2 + 2 * FILTER_REACH:
        raise _describe_unknown(image_processor, f"its pictures show {len(np.unique(places))} pixels of a side")
    is_inner = (places >= places.min() + FILTER_REACH) & (places <= places.max() - FILTER_REACH)
    places, shares = places[is_inner], shares[is_inner]
    slope, start = np.polyfit(places + 0.5, shares * length, 1)
    deviation = np.abs(start + slope * (places + 0.5) - shares * length).mean()
    if slope <= 0 or deviation > max(slope, length / BYTE_MAX):
        raise _describe_unknown(image_processor, "it does more than stretch, crop and pad upright pictures")
    return _snap(start, length), _snap(start + slope * num_pixels, length)


def _snap(end: float, length: int) -> float:
    """Take a measured border that is close to the image's border for it."""
    return next((border for border in (0.0, float(length)) if abs(end - border) < BORDER_SHARE * length), end)


def _describe_unknown(image_processor: BaseImageProcessor, problem: str) -> ValueError:
    return ValueError(
        f"the geometry of {type(image_processor).__name__} is not known and cannot be measured: {problem}. Known are "
        f"{', '.join(GEOMETRIES)}, and every processor that resizes and crops as BLIP's and CLIP's do. Build an "
        "`ImageLayout` from the boxes and grids of its views."
    )


__all__ = ["ImageLayout", "View", "read_layout"]
