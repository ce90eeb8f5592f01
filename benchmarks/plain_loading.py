# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The plain way to make a training batch, for comparison: every step works on all pixels, and nothing is packed.

The values are those of the package to the last bit; `benchmarks/loading.py` checks it.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from transformers.image_processing_base import BatchFeature

from albef_amc import AlbefImageProcessor, AlbefProcessor
from albef_amc.image_processing_albef import iterate_images, load_image
from albef_amc.regions_albef import clamp_boxes
from albef_amc.trainer import GroundingAugmentation
from albef_amc.trainer.data.augmentation import shift_hue


class PlainImageProcessor(AlbefImageProcessor):
    """Rescales in float64 and normalises each pixel, as `transformers` does, and stacks the images."""

    def _preprocess_image_like_inputs(self, images, max_image_pixels, return_tensors=None, **settings) -> BatchFeature:
        pictures = [np.array(load_image(image, max_image_pixels)) for image in iterate_images(images)]
        pixel_values = [
            self._preprocess([np.moveaxis(picture, -1, 0)], return_tensors=None, **settings)["pixel_values"][0]
            for picture in pictures
        ]
        sizes = np.array([picture.shape[:2] for picture in pictures], dtype=np.int64)
        data = {"pixel_values": np.stack(pixel_values), "original_sizes": sizes}
        return BatchFeature(data, tensor_type=return_tensors)


class PlainProcessor(AlbefProcessor):
    """Draws each box over its complete mask, in float64."""

    def _build_regions(self, annotations, sizes, image_index, mask_size) -> dict[str, torch.Tensor]:
        mask_height, mask_width = mask_size or (self.image_processor.size.height, self.image_processor.size.width)
        regions = []
        for boxes, image in zip(annotations["boxes"], image_index, strict=True):
            height, width = sizes[image]
            region = np.zeros((mask_height, mask_width))
            for x_min, y_min, x_max, y_max in clamp_boxes(boxes, height, width)[0].tolist():
                rows = _cover(y_min * mask_height / height, y_max * mask_height / height, mask_height)
                columns = _cover(x_min * mask_width / width, x_max * mask_width / width, mask_width)
                np.maximum(region, rows[:, None] * columns, out=region)
            regions.append(torch.from_numpy(region.clip(0, 1)).float())
        region_mask = torch.stack(regions)
        return {"region_mask": region_mask, "has_region": region_mask.flatten(1).amax(dim=1) > 0}


class PlainAugmentation(GroundingAugmentation):
    """Changes brightness and contrast of each pixel."""

    def _jitter(self, image: Image.Image, amounts: np.ndarray, keep_hue: bool) -> Image.Image:
        changes: list[tuple[Any, float]] = [
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation),
        ]
        for (enhance, largest), amount in zip(changes, amounts[:3], strict=True):
            image = enhance(image).enhance(1 + largest * amount)
        return image if keep_hue else shift_hue(image, self.hue * amounts[3])


def _cover(start: float, end: float, cells: int) -> np.ndarray:
    edges = np.arange(cells)
    return (np.minimum(end, edges + 1) - np.maximum(start, edges)).clip(0, 1)
