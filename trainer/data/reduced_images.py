# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Training images that are reduced to the model's size as soon as they are read: later steps have less to do."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image
from torch.nn import functional

from albef_amc.image_processing_albef import ImageLike, load_image, open_image

# A JPEG file is decoded at a half, a quarter or an eighth of its size if this many times the model's size is left.
DECODED_SIZE = 2
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


def load_reduced_image(
    image: ImageLike, height: int, width: int, max_image_pixels: int, name: str
) -> tuple[Image.Image, tuple[int, int]]:
    """Load any picture as [`~image_processing_albef.load_image`] does, at the size of the model's image.

    The resize is torch's bicubic one with antialiasing, four times as fast as Pillow's. Both round to whole levels
    between their two passes, so some pixels differ by a level of 255, few by more. JPEG files of at least four times
    the model's size are decoded at a half of their size or less, which changes edges by more
    (docs/speed-and-memory.md).

    Args:
        image: see [`~image_processing_albef.load_image`].
        height, width (`int`): size of the model's image.
        max_image_pixels (`int`): larger images are refused before they are decoded.
        name (`str`): name of the image in error messages.

    Returns:
        `tuple`: the RGB image of `width` x `height` pixels, and height and width of the stored one after EXIF
        rotation.

    Raises:
        FileNotFoundError, UnusableImageError, TypeError: as for [`~image_processing_albef.load_image`].
    """
    source = image.get("bytes") if isinstance(image, Mapping) else image
    if isinstance(source, str | Path | bytes):
        with open_image(source, max_image_pixels, name) as opened:
            stored_width, stored_height = opened.size
            side = DECODED_SIZE * max(height, width)
            opened.draft(None, (side, side))
            picture = load_image(opened, max_image_pixels, name)
            if opened.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS:
                stored_width, stored_height = stored_height, stored_width
    else:
        picture = load_image(image, max_image_pixels, name)
        stored_width, stored_height = picture.size
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)  # (3, height, width)
    reduced = functional.interpolate(pixels[None], size=(height, width), mode="bicubic", antialias=True)[0]
    return Image.fromarray(reduced.permute(1, 2, 0).contiguous().numpy()), (stored_height, stored_width)
