# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Small images of coloured shapes: objects of a scene, their layout, and their drawing."""

from dataclasses import dataclass
from functools import lru_cache
from random import Random

import numpy as np
from PIL import Image, ImageDraw

COLORS = {
    "red": (214, 36, 40),
    "orange": (244, 134, 22),
    "yellow": (242, 216, 48),
    "green": (40, 158, 66),
    "blue": (40, 84, 214),
    "purple": (150, 54, 186),
}
SHAPES = ("circle", "cross", "square", "triangle")
SIZES = ("small", "big")

# Test split only. Every colour and every shape also occurs in other compositions of the training split.
HELD_OUT_COMPOSITIONS = frozenset({("red", "triangle"), ("green", "circle"), ("blue", "cross"), ("yellow", "square")})

# Arrangement -> frequency, chosen for about equal frequencies of the phrase types.
ARRANGEMENTS = {"free": 0.3, "grid": 0.36, "sizes": 0.12, "twins": 0.02, "rows": 0.2}
# Ranges of the centres in `rows`, as fractions of the image side: across the rows, and along them.
ROWS = ((0.0, 0.28), (0.72, 1.0))
ROW_PLACES = ((0.15, 0.45), (0.55, 0.85))

SUPERSAMPLING = 8
OBJECT_GAP = 2
BORDER_GAP = 1
COLOR_JITTER = 18
NOISE_LEVEL = 5.0
BACKGROUND_RANGE = (50, 205)
BACKGROUND_TINT = 14
PLACEMENT_ATTEMPTS = 60

Zone = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class SceneObject:
    """One drawn object.

    Args:
        size, color, shape (`str`): its three words.
        left, top, side (`int`): the square in pixels into which it is drawn.
    """

    size: str
    color: str
    shape: str
    left: int
    top: int
    side: int

    @property
    def composition(self) -> tuple[str, str]:
        """Colour and shape, the pair that may be held out."""
        return self.color, self.shape

    @property
    def box(self) -> tuple[float, float, float, float]:
        """`x_min, y_min, x_max, y_max` in pixels, tight to the object's mask."""
        x_min, y_min, x_max, y_max = _tight_box(self.shape, self.side)
        return self.left + x_min, self.top + y_min, self.left + x_max, self.top + y_max

    @property
    def center(self) -> tuple[float, float]:
        """Middle of the box, `x, y` in pixels."""
        x_min, y_min, x_max, y_max = self.box
        return (x_min + x_max) / 2, (y_min + y_max) / 2

    def draw_mask(self, image_side: int) -> np.ndarray:
        """Boolean mask `(image_side, image_side)` of the pixels that are covered by at least half."""
        mask = np.zeros((image_side, image_side), dtype=bool)
        mask[self.top : self.top + self.side, self.left : self.left + self.side] = (
            _draw_alpha(self.shape, self.side) >= 0.5
        )
        return mask


@lru_cache(maxsize=1024)
def _draw_alpha(shape: str, side: int) -> np.ndarray:
    """Antialiased coverage `(side, side)` in [0, 1] of a shape that fills its square."""
    large = side * SUPERSAMPLING
    canvas = Image.new("L", (large, large), 0)
    draw, last, third = ImageDraw.Draw(canvas), large - 1, large / 3
    if shape == "circle":
        draw.ellipse((0, 0, last, last), fill=255)
    elif shape == "square":
        draw.rectangle((0, 0, last, last), fill=255)
    elif shape == "triangle":
        draw.polygon([(last / 2, 0), (last, last), (0, last)], fill=255)
    else:
        draw.rectangle((third, 0, last - third, last), fill=255)
        draw.rectangle((0, third, last, last - third), fill=255)
    alpha = np.asarray(canvas.reduce(SUPERSAMPLING), dtype=np.float32) / 255
    alpha.setflags(write=False)
    return alpha


@lru_cache(maxsize=1024)
def _tight_box(shape: str, side: int) -> tuple[float, float, float, float]:
    rows, columns = np.nonzero(_draw_alpha(shape, side) >= 0.5)
    return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


def sample_objects(
    rng: Random,
    num_objects: int,
    image_side: int,
    sides: dict[str, tuple[int, int]],
    held_out: frozenset[tuple[str, str]],
) -> list[SceneObject]:
    """Sample the objects of one scene.

    The first three or four objects form an arrangement that needs several words: `grid` crosses two colours with two
    shapes; `sizes` shows one composition small and big; `twins` and `rows` show it twice in one size, and the others
    share its colour or its shape. In `rows` each twin has a neighbour on the same side, so only the neighbour's name
    distinguishes the twins. Further objects are free, and so are all objects of `free`.

    Args:
        rng (`random.Random`): source of every choice.
        num_objects (`int`): at least 3.
        image_side (`int`): pixels.
        sides (`dict`): for "small" and "big", the smallest and largest side in pixels.
        held_out (`frozenset`): compositions that must not occur.

    Returns:
        `list[SceneObject]`: objects that do not touch, in drawing order.
    """
    (arrangement,) = rng.choices(tuple(ARRANGEMENTS), tuple(ARRANGEMENTS.values()))
    words = _sample_words(rng, num_objects, arrangement, held_out)
    while True:
        lengths = [rng.randint(*sides[size]) for size, _, _ in words]
        corners = _place(rng, lengths, image_side, _choose_zones(rng, arrangement, num_objects))
        if corners is not None:
            break
    objects = [SceneObject(*three, *corner, side) for three, corner, side in zip(words, corners, lengths, strict=True)]
    rng.shuffle(objects)
    return objects


def _sample_words(rng: Random, num_objects: int, arrangement: str, held_out: frozenset) -> list[tuple[str, str, str]]:
    """Size, colour and shape of each object; twins come first."""
    colors = tuple(COLORS)
    while True:
        (color, other_color), (shape, other_shape) = rng.sample(colors, 2), rng.sample(SHAPES, 2)
        sharing = [(color, other_shape), (other_color, shape)]
        rng.shuffle(sharing)
        if arrangement == "free":
            pairs = []
        elif arrangement == "grid":
            pairs = [(color, shape), *sharing, (other_color, other_shape)]
        else:
            pairs = [(color, shape), (color, shape), *sharing]
        pairs += [(rng.choice(colors), rng.choice(SHAPES)) for _ in range(num_objects - len(pairs))]
        pairs = pairs[:num_objects]
        if held_out.isdisjoint(pairs):
            break
    sizes = [rng.choice(SIZES) for _ in pairs]
    if arrangement == "sizes":
        sizes = [SIZES[(SIZES.index(sizes[index // 2]) + index) % 2] for index in range(num_objects)]  # in turns
    elif arrangement not in ("free", "grid"):
        sizes[1] = sizes[0]
    return [(size, *pair) for size, pair in zip(sizes, pairs, strict=True)]


def _choose_zones(rng: Random, arrangement: str, num_objects: int) -> list[Zone]:
    """Ranges of x and y for the centre of each object; `rows` (or columns) hold twin, twin, neighbour, neighbour."""
    if arrangement != "rows":
        return [((0.0, 1.0), (0.0, 1.0))] * num_objects
    first_row, second_row = rng.sample(ROWS, 2)
    twin, neighbor = rng.sample(ROW_PLACES, 2)
    zones = [(twin, first_row), (twin, second_row), (neighbor, first_row), (neighbor, second_row)]
    if rng.random() < 0.5:
        zones = [(y_range, x_range) for x_range, y_range in zones]
    return (zones + [((0.0, 1.0), (0.0, 1.0))] * (num_objects - 4))[:num_objects]


def _place(rng: Random, lengths: list[int], image_side: int, zones: list[Zone]) -> list[tuple[int, int]] | None:
    """Corners `left, top` of squares `OBJECT_GAP` apart, centres in their zones; `None` if a square does not fit."""
    placed: list[tuple[int, int, int]] = []
    for side, zone in zip(lengths, zones, strict=True):
        limit = image_side - BORDER_GAP - side
        (left_min, left_max), (top_min, top_max) = (
            (max(BORDER_GAP, round(start * image_side - side / 2)), min(limit, round(end * image_side - side / 2)))
            for start, end in zone
        )
        for _ in range(PLACEMENT_ATTEMPTS):
            square = (rng.randint(left_min, left_max), rng.randint(top_min, top_max), side)
            if all(_are_apart(square, other) for other in placed):
                placed.append(square)
                break
        else:
            return None
    return [(left, top) for left, top, _ in placed]


def _are_apart(first: tuple[int, int, int], second: tuple[int, int, int]) -> bool:
    (left, top, side), (other_left, other_top, other_side) = first, second
    return (
        left + side + OBJECT_GAP <= other_left
        or other_left + other_side + OBJECT_GAP <= left
        or top + side + OBJECT_GAP <= other_top
        or other_top + other_side + OBJECT_GAP <= top
    )


def draw_scene(rng: Random, objects: list[SceneObject], image_side: int) -> Image.Image:
    """Draw objects over a tinted gradient with noise.

    Args:
        rng (`random.Random`): source of background, colour jitter and noise.
        objects (`list[SceneObject]`): in drawing order.
        image_side (`int`): pixels.

    Returns:
        `PIL.Image.Image`: RGB, `image_side` x `image_side`.
    """
    start, end = (
        np.float32(rng.uniform(*BACKGROUND_RANGE))
        + np.array([rng.uniform(-BACKGROUND_TINT, BACKGROUND_TINT) for _ in range(3)], dtype=np.float32)
        for _ in range(2)
    )
    ramp = np.linspace(0, 1, image_side, dtype=np.float32)[:, None]
    lines = start + ramp * (end - start)  # (image_side, 3)
    lines = lines[:, None] if rng.random() < 0.5 else lines[None]  # vertical or horizontal gradient
    canvas = np.broadcast_to(lines, (image_side, image_side, 3)).copy()
    for item in objects:
        color = np.array([c + rng.uniform(-COLOR_JITTER, COLOR_JITTER) for c in COLORS[item.color]], dtype=np.float32)
        patch = canvas[item.top : item.top + item.side, item.left : item.left + item.side]
        patch += _draw_alpha(item.shape, item.side)[..., None] * (color - patch)
    noise = np.random.Generator(np.random.PCG64(rng.getrandbits(64))).standard_normal(canvas.shape, dtype=np.float32)
    return Image.fromarray(np.clip(canvas + NOISE_LEVEL * noise, 0, 255).astype(np.uint8))
