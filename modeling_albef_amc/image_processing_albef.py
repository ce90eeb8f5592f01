# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Image processing of ALBEF: any picture becomes upright RGB, is resized without cropping, and normalised."""

import io
import mmap
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, ImageOps
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_base import BatchFeature
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs
from transformers.utils import ModelOutput, logging

from .collections_albef import describe_type, is_collection, iterate
from .ranges_albef import MAX_IMAGE_PIXELS, SHARE, check_number
from .regions_albef import BOX_THRESHOLD, BOX_THRESHOLDS, boxes_from_heatmap, iterate_located_phrases, read_sizes

logger = logging.get_logger(__name__)

# Supported formats, by Pillow's names. Their decoders run in this process and start no other program (the decoder of
# PostScript would). MPO is a JPEG file with more pictures after the first.
IMAGE_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_IMAGE_BYTES = 500_000_000
# Limit on pixels times scans of a JPEG file: every scan decodes all pixels, and a small file can have thousands.
MAX_SCANNED_PIXELS = 2_000_000_000
JPEG_END, JPEG_SCAN = b"\xd9", b"\xda"
JPEG_SCANS = re.compile(rb"\xff\xda")
JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd8\x01])")  # start of a segment, or the end of the picture
PNG_START, PNG_PIXELS, BYTES_AT_ONCE = b"\x89PNG\r\n\x1a\n", b"IDAT", 1 << 20
# Number of rows converted at once, because a conversion needs a multiple of their memory.
ROWS_AT_ONCE = 256
BYTE_MAX, SHORT_MAX = 255, 65535
SHORT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
ALPHA_MODES = ("LA", "PA", "RGBA", "RGBa")
KEY_MODES = ("1", "L", "RGB", *SHORT_MODES)
# Factor by which Pillow multiplies the values of 2-bit and 4-bit gray PNG files when it decodes them.
GRAY_FACTORS = {"L;2": 85, "L;4": 17}
DEEP_COLOUR = "RGB;16B"

ImageLike = Image.Image | str | Path | bytes | Mapping | np.ndarray | torch.Tensor
IMAGE_FORMS = (
    'expected a PIL image, a path, encoded bytes, {"bytes", "path"} of a data set, an array (height, width, channels) '
    'or a tensor (channels, height, width). Of a row give `row["image"]`; of a data set in the format of pandas, '
    "Polars or Arrow give `dataset.with_format(None)`."
)


class UnusableImageError(ValueError):
    """A picture that cannot be used: too large, damaged, or of an unsupported kind.

    Args:
        message (`str`): names the picture, the problem and the remedy.
        reason (`str`): a short form of the message, used to count problems.
    """

    def __init__(self, message: str, reason: str = "image cannot be used"):
        super().__init__(message)
        self.reason = reason


def open_image(
    source: str | Path | bytes, max_image_pixels: int = MAX_IMAGE_PIXELS, name: str | None = None
) -> Image.Image:
    """Open a picture, read its header and check its size. All code of the package opens pictures with this function.

    Nothing is decoded or downloaded. Only `IMAGE_FORMATS` are opened, whatever the extension of the file.

    Args:
        source: path of a file, or its bytes.
        max_image_pixels (`int`, defaults to 100,000,000): larger images are refused.
        name (`str`, *optional*): name of the image in error messages; by default its path.

    Returns:
        `PIL.Image.Image`, not decoded. The caller closes it.

    Raises:
        FileNotFoundError: no such file; web addresses are not downloaded.
        UnusableImageError: the picture cannot be used.
    """
    called = f" ({name})" if name else ""
    if isinstance(source, bytes):
        num_bytes = len(source)
    elif os.path.isdir(source):
        raise FileNotFoundError(f"No image file at {source}{called}: it is a folder. Give the files in it.")
    elif not os.path.isfile(source):  # also false if the name is too long for the system
        raise FileNotFoundError(
            f"No image file at {source}{called}. Check the path; web addresses are not downloaded."
        )
    else:
        num_bytes = Path(source).stat().st_size
    name = _name_image(source, name)
    if num_bytes > MAX_IMAGE_BYTES:
        raise UnusableImageError(
            f"{name} has {num_bytes} bytes, more than the {MAX_IMAGE_BYTES} that an image may have. Make it smaller.",
            "image file larger than the limit",
        )
    try:
        with warnings.catch_warnings():  # Pillow's own size warning; `max_image_pixels` decides
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            image = Image.open(file, formats=IMAGE_FORMATS)
    except Image.DecompressionBombError as error:
        raise UnusableImageError(
            f"{name} is too large to be safe: {error} Make it smaller.", "image has more pixels than the limit"
        ) from error
    except Exception as error:  # a damaged header can make a decoder raise anything
        raise UnusableImageError(
            f"{name} is not an image that Pillow {Image.__version__} can read as {', '.join(IMAGE_FORMATS)} (empty, "
            f"damaged, or another kind of file): {error}. Replace or remove it.",
            "image file damaged or not an image",
        ) from error
    try:
        _check_size(image, max_image_pixels, name)
        if image.format in ("JPEG", "MPO"):
            _check_scans(source, image.width * image.height, name)
    except UnusableImageError:
        image.close()
        raise
    return image


def _check_scans(source: str | Path | bytes, num_pixels: int, name: str) -> None:
    """Check the number of scans of a JPEG file's first picture; a quick search decides for most files."""
    limit = MAX_SCANNED_PIXELS // max(1, num_pixels)
    with nullcontext(source) if isinstance(source, bytes) else _map_file(source) as content:
        if len(JPEG_SCANS.findall(content)) <= limit:
            return
        num_scans = _count_scans(content)
    if num_scans > limit:
        raise UnusableImageError(
            f"{name} has {num_scans} scans of {num_pixels} pixels, which would take long to decode. Save it again.",
            "image has more scans than the limit",
        )


@contextmanager
def _map_file(path: str | Path) -> Iterator[mmap.mmap]:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield content


def _count_scans(content: bytes | mmap.mmap) -> int:
    """Count the scans of the first picture; segments, which may hold thumbnails, are skipped by their lengths."""
    num_scans, position = 0, 0
    while (marker := JPEG_MARKER.search(content, position)) and marker[1] != JPEG_END:
        num_scans += marker[1] == JPEG_SCAN
        position = marker.end() + max(2, int.from_bytes(content[marker.end() : marker.end() + 2], "big"))
    return num_scans


def load_image(image: ImageLike, max_image_pixels: int = MAX_IMAGE_PIXELS, name: str | None = None) -> Image.Image:
    """Convert any picture to an upright 8-bit RGB image: EXIF rotation applied, transparency on white.

    Builders keep exactly the pictures that this function accepts; training and evaluation read them with it. Only the
    first frame of a file is read. 16-bit values (including Pillow's mode `I`) are scaled to 8 bit, not clipped. An
    upright RGB image without a transparent colour, such as one that this function returned, is not copied.

    Args:
        image: `PIL.Image.Image`, path, encoded bytes, the mapping with `bytes` of an undecoded row
            (`datasets.Image(decode=False)`), `np.ndarray` of shape `(height, width[, channels])` or `torch.Tensor` of
            shape `([channels, ]height, width)` with 1, 3 or 4 channels. Integers are 0 to 255 (`uint16`: 0 to 65535),
            floating-point values 0 to 1.
        max_image_pixels (`int`, defaults to 100,000,000): larger images are refused before they are decoded.
        name (`str`, *optional*): name of the image in error messages; by default its path or type.

    Returns:
        `PIL.Image.Image` of mode `RGB`.

    Raises:
        FileNotFoundError: no such file; web addresses are not downloaded.
        UnusableImageError: a picture that cannot be used.
        TypeError: not a picture.
    """
    if isinstance(image, Mapping):
        image = _read_encoded(image, _name_image(image, name))
    if isinstance(image, str | Path | bytes):
        with open_image(image, max_image_pixels, name) as opened:
            decoded = _decode(opened, _name_image(image, name), in_place=True)
            return decoded.copy() if decoded is opened else decoded
    name = _name_image(image, name)
    if isinstance(image, np.ndarray | torch.Tensor):
        image = _array_to_pil(image, name)
    if not isinstance(image, Image.Image):
        raise TypeError(f"{name} is {describe_type(image)}, {IMAGE_FORMS}")
    if isinstance(image, ImageFile.ImageFile) and image.format not in (*IMAGE_FORMATS, "MPO"):
        raise UnusableImageError(
            f"{name} was opened as {image.format}; supported are {', '.join(IMAGE_FORMATS)}. Save it as one of "
            'them, or give `image.convert("RGB")`.',
            "image file damaged or not an image",
        )
    _check_size(image, max_image_pixels, name)
    return _decode(image, name, in_place=False)


def _name_image(image: Any, name: str | None) -> str:
    """Return the name of an image in messages: its name and path, or its type if it has neither."""
    if isinstance(image, str | Path):
        return f"{name}: {image}" if name else str(image)
    return name or type(image).__name__


def _read_encoded(image: Mapping[str, Any], name: str) -> bytes:
    """Return the bytes of an undecoded row. Its path is not opened: an untrusted row may name any file."""
    content = image.get("bytes")
    if not isinstance(content, bytes):
        raise ValueError(
            f"{name} is an undecoded row without bytes (path {image.get('path')!r}), and no file is opened because a "
            "row names it. If you trust the data set give the path itself, or load it with `load_grounding_dataset`, "
            "which opens files of the data set's own folder."
        )
    return content


def _check_size(image: Image.Image, max_image_pixels: int, name: str) -> None:
    """Check the size in the header."""
    if image.width * image.height > max_image_pixels:
        raise UnusableImageError(
            f"{name} has {image.width} x {image.height} pixels, more than `max_image_pixels` ({max_image_pixels}). "
            "Make it smaller, or raise `max_image_pixels` if you trust it and have the memory.",
            "image has more pixels than the limit",
        )


def measure_image(source: str | Path | bytes, name: str | None = None) -> tuple[tuple[int, int], int]:
    """Measure the stored size and EXIF orientation of a picture; it is decoded and converted as by [`load_image`].

    Args:
        source: path of a file, or its bytes.
        name (`str`, *optional*): name of the image in error messages; by default its path.

    Returns:
        `tuple`: width and height before rotation, and the orientation, 1 by default.

    Raises:
        FileNotFoundError: no such file.
        UnusableImageError: the picture cannot be used.
    """
    with open_image(source, name=name) as opened:
        called, stored_as = _name_image(source, name), _read_pixel_format(opened)
        orientation = _load_pixels(opened, called)
        size = opened.size
        _rotate_and_convert(opened, called, stored_as, in_place=True)
    return size, orientation


def _decode(image: Image.Image, name: str, in_place: bool) -> Image.Image:
    """Decode, rotate and convert. An upright RGB image that is decoded already is not copied."""
    stored_as = _read_pixel_format(image)
    orientation = _load_pixels(image, name)
    is_file = isinstance(image, ImageFile.ImageFile)
    if not is_file and image.mode == "RGB" and orientation == 1 and "transparency" not in image.info:
        return image
    return _rotate_and_convert(image, name, stored_as, in_place)


def _read_pixel_format(image: Image.Image) -> object:
    """Return the pixel format of the file of an image that is not decoded yet."""
    return image.tile[0].args if isinstance(image, ImageFile.ImageFile) and image.tile else None


def _load_pixels(image: Image.Image, name: str) -> int:
    """Decode the image and return its EXIF orientation."""
    try:
        if isinstance(image, ImageFile.ImageFile) and image.format == "PNG":
            _check_png_pixels(image)
        image.load()
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # damaged data can make a decoder raise anything
        raise _describe_damage(name, error) from error


def _describe_damage(name: str, error: Exception) -> UnusableImageError:
    return UnusableImageError(
        f"{name} cannot be decoded: {error}. The file is truncated or damaged: download it again or remove it.",
        "image file damaged or not an image",
    )


def _rotate_and_convert(image: Image.Image, name: str, stored_as: object, in_place: bool) -> Image.Image:
    try:
        if in_place:
            ImageOps.exif_transpose(image, in_place=True)
        else:
            image = ImageOps.exif_transpose(image)
    except Exception as error:  # damaged EXIF data
        raise _describe_damage(name, error) from error
    return _to_rgb(image, name, stored_as)


def _check_png_pixels(image: ImageFile.ImageFile) -> None:
    """Check the checksums of a PNG file's pixels, which Pillow ignores: damaged data could give other pixels.

    Raises:
        ValueError: a checksum is wrong.
    """
    file = image.fp
    if file is None or file.closed:
        return  # already decoded
    position = file.tell()
    file.seek(0)
    kind = b"" if file.read(len(PNG_START)) == PNG_START else None
    while kind is not None and len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind != PNG_PIXELS:
            file.seek(length + 4, os.SEEK_CUR)
            continue
        checksum = zlib.crc32(kind)
        while length > 0 and (block := file.read(min(length, BYTES_AT_ONCE))):
            checksum, length = zlib.crc32(block, checksum), length - len(block)
        stored = file.read(4)
        if len(stored) == 4 and checksum != int.from_bytes(stored):
            raise ValueError("a checksum of its pixels is wrong")
    file.seek(position)


def _to_rgb(image: Image.Image, name: str, stored_as: object = None) -> Image.Image:
    """Convert an image of any mode to RGB on white; `stored_as` is the pixel format of its file."""
    if image.mode == "I":
        logger.warning_once("An image of 32-bit integers (Pillow mode I) is read as 16-bit: 65535 is white.")
    try:
        key = image.info.get("transparency")
        is_transparent = None
        if key is not None and image.mode in KEY_MODES:
            is_transparent = _find_key_colour(image, key, stored_as)
        if image.mode in SHORT_MODES or image.mode == "F":
            image = _scale_to_gray(image, name)
        image = _blend_with_white(image)
    except UnusableImageError:
        raise
    except Exception as error:  # Pillow converts only some modes, and checks neither palettes nor transparency
        raise UnusableImageError(
            f"{name} has colour mode {image.mode}, which cannot be converted: {error}. Save it as RGB.",
            "image has a colour mode or values that are not read",
        ) from error
    if is_transparent is not None and is_transparent.any():
        _warn_of_transparency()
        image.paste("white", mask=Image.fromarray(is_transparent))
    return image


def _find_key_colour(image: Image.Image, key: Any, stored_as: Any) -> np.ndarray:
    """Find the pixels with the colour that the file declares transparent, `(height, width)` bool.

    Pillow keeps that colour as it is in the file, but scales pixels of 2 and 4 bits, and keeps only the high bytes of
    16-bit RGB.
    """
    colour: Any
    if image.mode == "RGB":
        colour = [int(value) >> 8 if stored_as == DEEP_COLOUR else int(value) for value in key]
    else:
        colour = bool(key) if image.mode == "1" else int(key) * GRAY_FACTORS.get(str(stored_as), 1)
    is_key = [np.asarray(band) == colour for _, band in _iterate_bands(image)]
    return np.concatenate([band.all(axis=-1) if band.ndim == 3 else band for band in is_key])


def _iterate_bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield bands of rows of an image with their first row, so that conversions need little memory."""
    for top in range(0, image.height, ROWS_AT_ONCE):
        yield top, image.crop((0, top, image.width, min(top + ROWS_AT_ONCE, image.height)))


def _scale_to_gray(image: Image.Image, name: str) -> Image.Image:
    """Convert an image of 16-bit or floating-point values to 8-bit gray."""
    gray = Image.new("L", image.size)
    for top, band in _iterate_bands(image):
        gray.paste(_array_to_pil(np.asarray(band), name, is_short=image.mode in SHORT_MODES), (0, top))
    return gray


def _blend_with_white(image: Image.Image) -> Image.Image:
    """Convert an 8-bit image of any mode to RGB; transparent pixels become white."""
    if image.mode == "La":
        image = image.convert("LA")
    has_alpha = image.mode in ALPHA_MODES or (image.mode == "P" and image.has_transparency_data)
    if not has_alpha:
        return image.convert("RGB") if image.mode != "RGB" else image
    opaque, is_transparent = Image.new("RGB", image.size), False
    for top, band in _iterate_bands(image):
        band = band.convert("RGBA")
        is_transparent = is_transparent or band.getextrema()[-1][0] < BYTE_MAX
        white = Image.new("RGBA", band.size, "white")
        opaque.paste(Image.alpha_composite(white, band).convert("RGB"), (0, top))
    if is_transparent:
        _warn_of_transparency()
    return opaque


def _warn_of_transparency() -> None:
    logger.warning_once("An image has transparent pixels: they are shown on white.")


def _array_to_pil(array: np.ndarray | torch.Tensor, name: str, is_short: bool = False) -> Image.Image:
    """Check the layout and range of an array and convert it to an 8-bit image (`L`, `RGB` or `RGBA`)."""
    if isinstance(array, torch.Tensor):
        layout = "([channels, ]height, width)"
        pixels = (array.float() if array.is_floating_point() else array).detach().cpu().numpy()
        pixels = np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 else pixels
    else:
        layout, pixels = "(height, width[, channels])", array
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] not in (1, 3, 4)) or 0 in pixels.shape:
        raise ValueError(
            f"{name} is an array of shape {tuple(array.shape)}, expected {layout} with 1, 3 or 4 channels and at "
            "least one pixel. Move its channels there."
        )
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    return Image.fromarray(_to_bytes(pixels, name, is_short or pixels.dtype == np.uint16))


def _to_bytes(pixels: np.ndarray, name: str, is_short: bool) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    if not (np.issubdtype(pixels.dtype, np.number) or pixels.dtype == bool):
        raise TypeError(f"{name} is an array of {pixels.dtype}, expected numbers.")
    is_unit = pixels.dtype == bool or np.issubdtype(pixels.dtype, np.floating)
    largest = 1 if is_unit else SHORT_MAX if is_short else BYTE_MAX
    scaled = np.empty(pixels.shape, dtype=np.uint8)
    for top in range(0, len(pixels), ROWS_AT_ONCE):
        band = pixels[top : top + ROWS_AT_ONCE]
        if not ((band >= 0) & (band <= largest)).all():  # also catches NaN
            raise UnusableImageError(
                f"{name} has values outside 0 to {largest}, the range of {pixels.dtype} pixels. Rescale it to that "
                "range or convert it to uint8.",
                "image has a colour mode or values that are not read",
            )
        scaled[top : top + ROWS_AT_ONCE] = np.rint(band.astype(np.float64) * (BYTE_MAX / largest))
    return scaled


class AlbefImageProcessorKwargs(ImagesKwargs, total=False):
    """Options of [`AlbefImageProcessor`] in addition to the usual ones.

    max_image_pixels (`int`): larger images are refused before they are decoded.
    """

    max_image_pixels: int


class AlbefImageProcessor(PilBackend):
    r"""Resize to exactly `size` (bicubic, no crop), rescale to [0, 1], normalise with CLIP's mean and deviation.

    Args:
        size (`dict` or `int`, defaults to 256 x 256): `height` and `width` of the model's image in pixels.
        resample (`PILImageResampling`, defaults to bicubic): filter of the resize.
        image_mean, image_std (`list[float]`, default to CLIP's): per channel, in [0, 1].
        max_image_pixels (`int`, defaults to 100,000,000): larger images are refused before they are decoded.

    Returns of a call (`BatchFeature`):
        pixel_values (`torch.Tensor` of shape `(num_images, 3, height, width)`)
        original_sizes (`torch.Tensor` of shape `(num_images, 2)`, int64): height and width of each stored image after
            EXIF rotation.

    Example:

    ```python
    >>> import numpy as np
    >>> from albef_amc import AlbefImageProcessor
    >>> features = AlbefImageProcessor(size=64)(np.zeros((30, 40, 3), dtype=np.uint8), return_tensors="pt")
    >>> features["pixel_values"].shape, features["original_sizes"].tolist()
    (torch.Size([1, 3, 64, 64]), [[30, 40]])

    ```
    """

    valid_kwargs = AlbefImageProcessorKwargs
    model_input_names = ["pixel_values", "original_sizes"]

    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"height": 256, "width": 256}
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    max_image_pixels = MAX_IMAGE_PIXELS

    def _validate_preprocess_kwargs(self, size=None, do_center_crop=None, do_pad=None, **kwargs):
        """Refuse geometries that the masks and boxes of the package do not support."""
        if do_center_crop or do_pad or not (size and size.height and size.width):
            raise ValueError(
                "regions and heatmaps follow one geometry: the full image is resized to `size` with `height` and "
                f"`width`. Got size={dict(size or {})}, do_center_crop={do_center_crop}, do_pad={do_pad}."
            )
        super()._validate_preprocess_kwargs(size=size, **kwargs)

    def _preprocess_image_like_inputs(
        self,
        images: ImageLike | list[ImageLike],
        max_image_pixels: int,
        do_resize: bool,
        size: SizeDict,
        resample: PILImageResampling,
        return_tensors: str | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Load, measure and resize the images one by one, so that only one full-size picture is in memory.

        Rescaling and normalising give each level of a channel one value, so they are computed for the 256 levels and
        looked up for the pixels.
        """
        pictures, original_sizes = [], []
        for index, image in enumerate(iterate_images(images)):
            picture = load_image(image, max_image_pixels, name=f"images[{index}]")
            original_sizes.append((picture.height, picture.width))
            pictures.append(np.asarray(picture.resize((size.width, size.height), resample) if do_resize else picture))
        if len({picture.shape for picture in pictures}) > 1:
            raise ValueError("images of different sizes cannot form a batch. Set `do_resize` or pass them one by one.")
        levels = np.broadcast_to(np.arange(BYTE_MAX + 1, dtype=np.uint8), (3, 1, BYTE_MAX + 1))
        settings = dict(do_resize=False, size=size, resample=resample, return_tensors=None, **kwargs)
        (table,) = self._preprocess([levels], **settings)["pixel_values"]  # (3, 1, 256)
        pixel_values = np.empty((len(pictures), 3, *pictures[0].shape[:2]), dtype=table.dtype)
        for picture, values in zip(pictures, pixel_values, strict=True):
            for channel in range(3):
                table[channel, 0].take(picture[..., channel], out=values[channel], mode="clip")
        data = {"pixel_values": pixel_values, "original_sizes": np.array(original_sizes, dtype=np.int64)}
        return BatchFeature(data, tensor_type=return_tensors)

    def post_process_object_detection(
        self,
        outputs: ModelOutput,
        threshold: float = 0.1,
        target_sizes: torch.Tensor | Sequence[tuple[int, int]] | None = None,
        box_threshold: float = BOX_THRESHOLD,
    ) -> list[dict[str, torch.Tensor]]:
        r"""Convert heatmaps to scored boxes, for the pipeline `zero-shot-object-detection` of `transformers`.

        Boxes are those of [`AlbefProcessor.post_process_grounding`]. A box's score is the probability that phrase and
        image match times the box's share of the heatmap's maximum, so the box of the point has the probability itself.

        Args:
            outputs ([`AlbefGroundingOutput`]): `heatmap`, `match_probability`, `image_index`, `original_sizes`.
            threshold (`float`, defaults to 0.1): only boxes with a larger score are kept.
            target_sizes (`(N, 2)`, *optional*): height and width per image; `original_sizes` of `outputs` by default.
            box_threshold (`float`, defaults to 0.5): minimum value of a box's pixels, as a share in (0, 1] of
                the map's maximum.

        Returns:
            Per image a `dict` with **scores** `(K,)`, **labels** `(K,)` int64, the phrase's index among those of the
            image, and **boxes** `(K, 4)` x_min, y_min, x_max, y_max in pixels of the stored image.
        """
        check_number("box_threshold", box_threshold, BOX_THRESHOLDS)
        check_number("threshold", threshold, SHARE)
        sizes = read_sizes(outputs, target_sizes, "target_sizes")
        found: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in sizes]
        for image, probability, heatmap in iterate_located_phrases(outputs, sizes):
            boxes, shares = boxes_from_heatmap(heatmap, box_threshold)
            found[image].append((boxes, probability * shares))
        return [_keep_detections(phrases, threshold) for phrases in found]


def _keep_detections(phrases: list[tuple[torch.Tensor, torch.Tensor]], threshold: float) -> dict[str, torch.Tensor]:
    """Join boxes `(K, 4)` and scores `(K,)` of the phrases of an image and keep those above the threshold."""
    boxes = torch.cat([torch.zeros(0, 4), *(boxes for boxes, _ in phrases)])
    scores = torch.cat([torch.zeros(0), *(scores for _, scores in phrases)])
    labels = torch.arange(len(phrases)).repeat_interleave(torch.tensor([len(one) for one, _ in phrases], dtype=int))
    kept = scores > threshold
    return {"scores": scores[kept], "labels": labels[kept], "boxes": boxes[kept]}


def iterate_images(images: Any) -> Iterator[ImageLike]:
    """Yield one picture, or the pictures of a collection, each read on demand and checked for its type.

    Args:
        images: a picture; a list, tuple, generator, column of a data set or of a table, or torch data set of pictures;
            an array or a tensor of four dimensions, pictures first.

    Raises:
        ValueError: a collection without pictures.
        TypeError: an item is not a picture; the message names its position.
    """
    is_stack = isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4
    items = iterate(images) if is_collection(images) else images if is_stack else [images]
    count = 0
    for count, image in enumerate(items, start=1):
        if not isinstance(image, ImageLike) or (isinstance(image, Mapping) and "bytes" not in image):
            raise TypeError(f"images[{count - 1}] is {describe_type(image)}, {IMAGE_FORMS}")
        yield image
    if not count:
        raise ValueError("`images` is empty: give at least one image.")


__all__ = [
    "IMAGE_FORMATS",
    "AlbefImageProcessor",
    "UnusableImageError",
    "iterate_images",
    "load_image",
    "measure_image",
    "open_image",
]
