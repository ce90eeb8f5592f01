# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Whether a heatmap shows what the score depends on: insertion, deletion, and maps of randomised weights.

- `deletion` and `insertion` (Petsiuk et al., RISE, BMVC 2018): pixels are replaced by the mean colour of the image, or
  put into the blurred image, in the order of the heatmap. The measure is the area under the score over the share of
  pixels. A faithful map has a low area of deletion and a high one of insertion.
- `weight_randomization` (Adebayo et al., NeurIPS 2018): the map is computed again after the entries of every weight
  were put in a random order, all weights at once. A map that stays similar does not depend on what was learned.

Each has a random map beside it, the number to compare with.
"""

import copy
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.nn.functional import avg_pool2d

from albef_amc.datasets_scripts.randomness import example_generator
from albef_amc.evaluation.grounding_metrics import FAITHFULNESS_METRICS
from albef_amc.explanation_albef import evaluation_mode
from albef_amc.grounders import Grounder
from albef_amc.ranges_albef import COUNT, check_number
from albef_amc.regions_albef import resize_heatmap

INSERTION, DELETION, RANDOMIZATION = FAITHFULNESS_METRICS
NUM_STEPS = 28  # RISE: 224 rows of an image, 8 per step
BLUR_SHARE = 5 / 224  # RISE: a Gaussian of 5 pixels for images of 224
RANDOM_SIDE = 16  # cells of a random map, about those of a model
IMAGES_PER_PASS = 16
SSIM_WINDOW, SSIM_CONSTANTS = 7, (0.01**2, 0.03**2)  # Wang et al., 2004, for values in [0, 1]
NORMALIZATION_EPSILON = 1e-12


@dataclass(frozen=True)
class FaithfulnessSettings:
    """How faithfulness is measured.

    Args:
        num_steps (`int`, defaults to 28): parts of the pixels that are replaced one after the other.
        seed (`int`, defaults to 0): of random maps and weights.
    """

    num_steps: int = NUM_STEPS
    seed: int = 0

    def __post_init__(self):
        check_number("num_steps", self.num_steps, COUNT)


class FaithfulnessMeasure:
    """Measures of the heatmaps of a grounder.

    Args:
        grounder ([`~grounders.Grounder`]): the model.
        metrics (collection of `str`): some of `FAITHFULNESS_METRICS`.
        settings ([`FaithfulnessSettings`]): how they are measured.
    """

    def __init__(self, grounder: Grounder, metrics: Collection[str], settings: FaithfulnessSettings):
        self.grounder, self.metrics, self.settings = grounder, set(metrics), settings
        self.randomized = randomize_weights(grounder, settings.seed) if RANDOMIZATION in self.metrics else None

    def measure(self, image: Image.Image, phrase: str, heatmap: torch.Tensor) -> dict[str, float]:
        """Measures of the heatmap of one phrase, each beside that of a random map.

        Args:
            image (`Image.Image`): the stored image, RGB.
            phrase (`str`): the phrase.
            heatmap (`torch.Tensor` of shape `(height, width)`): at the size of the image.

        Returns:
            `dict`: `insertion_auc` and `deletion_auc`, in units of the score; `rank_correlation_randomized` in [-1, 1]
            and `ssim_randomized`, at most 1. For a random map: `insertion_auc_random`, `deletion_auc_random`,
            `rank_correlation_random`, `ssim_random`.
        """
        generator = example_generator(self.settings.seed, 0, phrase, "random map")
        random_map = draw_random_map(image.height, image.width, generator)
        found: dict[str, float] = {}
        ends = {INSERTION: (blur_image(image), image), DELETION: (image, fill_with_mean(image))}
        for name, (first, last) in ends.items():
            if name in self.metrics:
                for ending, order_map in (("", heatmap), ("_random", random_map)):
                    steps = replace_in_order(first, last, order_map, self.settings.num_steps)
                    found[f"{name}_auc{ending}"] = compute_auc(score_images(self.grounder, steps, phrase))
        if self.randomized is not None:
            batch = self.randomized.prepare([image], [[phrase]])
            _, (cells,) = self.randomized.explain_image(batch)
            other = batch["layouts"][0].to_image(cells[None])[0]
            for ending, compared in (("randomized", other), ("random", random_map)):
                found[f"rank_correlation_{ending}"] = compute_rank_correlation(heatmap, compared)
                found[f"ssim_{ending}"] = compute_ssim(heatmap, compared)
        return found


def randomize_weights(grounder: Grounder, seed: int) -> Grounder:
    """A copy of a grounder in which the entries of every weight are in a random order: what they were trained to is
    lost, and their scale is kept, which fits any architecture."""
    randomized = copy.deepcopy(grounder)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in randomized.model.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return randomized


def draw_random_map(height: int, width: int, generator: np.random.Generator) -> torch.Tensor:
    """A map of random cells, resized as heatmaps are: as smooth as they, without knowledge of the image."""
    return resize_heatmap(torch.from_numpy(generator.random((RANDOM_SIDE, RANDOM_SIDE))), height, width)


def blur_image(image: Image.Image) -> Image.Image:
    """The image without details: what insertion starts from."""
    return image.filter(ImageFilter.GaussianBlur(BLUR_SHARE * min(image.size)))


def fill_with_mean(image: Image.Image) -> Image.Image:
    """The mean colour of the image everywhere: what deletion ends with."""
    red, green, blue = np.asarray(image).mean(axis=(0, 1)).round().astype(int).tolist()
    return Image.new("RGB", image.size, (red, green, blue))


def replace_in_order(
    first: Image.Image, last: Image.Image, order_map: torch.Tensor, num_steps: int
) -> list[Image.Image]:
    """Images in which none to all pixels of the first are replaced by those of the last.

    Args:
        first, last (`Image.Image`): RGB, of one size.
        order_map (`torch.Tensor` of shape `(height, width)`): pixels are replaced in the order of falling values, of
            equal ones in row-major order.
        num_steps (`int`): equal parts of the pixels, up to rounding.

    Returns:
        `num_steps + 1` images.
    """
    order = order_map.flatten().argsort(descending=True, stable=True).numpy()
    ends = [round(order.size * step / num_steps) for step in range(num_steps + 1)]
    pixels, others = (np.asarray(picture).reshape(-1, 3) for picture in (first, last))
    images = []
    for end in ends:
        replaced = pixels.copy()
        replaced[order[:end]] = others[order[:end]]
        images.append(Image.fromarray(replaced.reshape(first.height, first.width, 3)))
    return images


@torch.no_grad()
def score_images(grounder: Grounder, images: list[Image.Image], phrase: str) -> list[float]:
    """Scores of a phrase with each of several images."""
    scores: list[float] = []
    with evaluation_mode(grounder):
        for start in range(0, len(images), IMAGES_PER_PASS):
            part = images[start : start + IMAGES_PER_PASS]
            batch: dict[str, Any] = grounder.prepare(part, [[phrase]] * len(part))
            scores += grounder(batch, output_heatmap=False).score.tolist()
    return scores


def compute_auc(scores: list[float]) -> float:
    """Area under scores at equal steps from 0 to 1, by the trapezoidal rule.

    Example:

    ```python
    >>> from albef_amc.evaluation.faithfulness import compute_auc
    >>> compute_auc([1.0, 0.5, 0.0]), compute_auc([1.0, 0.0, 0.0])
    (0.5, 0.25)

    ```
    """
    return float(np.trapezoid(scores) / (len(scores) - 1))


def compute_rank_correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    """Spearman's correlation of two maps of one shape; equal values share their mean rank. 0 for a constant map."""
    ranks = [_rank(values) for values in (one, other)]
    centred = [rank - rank.mean() for rank in ranks]
    scale = np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    return float((centred[0] * centred[1]).sum() / scale) if scale > 0 else 0.0


def _rank(values: torch.Tensor) -> np.ndarray:
    _, positions, counts = np.unique(values.double().numpy().ravel(), return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[positions]


def compute_ssim(one: torch.Tensor, other: torch.Tensor) -> float:
    """Structural similarity (Wang et al., 2004) of two maps `(height, width)`, each scaled to [0, 1]: mean over
    windows of 7 x 7 pixels, or of the shorter side where that is less."""
    first, second = (_scale(values.double())[None, None] for values in (one, other))
    window = min(SSIM_WINDOW, *one.shape)
    means = [avg_pool2d(values, window, stride=1) for values in (first, second)]
    products = (first * first, second * second, first * second)
    squares = [avg_pool2d(values, window, stride=1) for values in products]
    variances = squares[0] - means[0] ** 2, squares[1] - means[1] ** 2
    covariance = squares[2] - means[0] * means[1]
    small, large = SSIM_CONSTANTS
    above = (2 * means[0] * means[1] + small) * (2 * covariance + large)
    below = (means[0] ** 2 + means[1] ** 2 + small) * (variances[0] + variances[1] + large)
    return float((above / below).mean())


def _scale(values: torch.Tensor) -> torch.Tensor:
    shifted = values - values.min()
    return shifted / (shifted.max() + NORMALIZATION_EPSILON)


__all__ = [
    "FaithfulnessMeasure",
    "FaithfulnessSettings",
    "compute_auc",
    "compute_rank_correlation",
    "compute_ssim",
    "draw_random_map",
    "randomize_weights",
    "replace_in_order",
]
