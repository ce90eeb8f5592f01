# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Augmentation of dataset rows: image and regions change together, and only where the words stay true."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps, ImageStat

from albef_amc.configuration.setting_types import check_types
from albef_amc.datasets_scripts.features import OPTIONAL_COLUMNS
from albef_amc.image_processing_albef import load_image
from albef_amc.ranges_albef import SHARE, Range, check_choice, check_ranges
from albef_amc.regions_albef import decode_rle, encode_rle

# Words that a mirror may make wrong. A false alarm costs one flip, a missed one teaches the wrong side, so a word in
# doubt is listed. Common words that are one letter away from "right" and mean no side: light, bright, night.
SIDE_WORD = re.compile(
    r"""
    # left, leftmost, lefty, topleft; a letter dropped, added, replaced, or exchanged with its neighbour
    lef | lfe | lft | letf | elft | \b\w?eft | \bl.eft | \ble.ft
    | \bl\wft (?:most|side|ward|hand\w*|er|est|y)? \b | \ble\w?t (?:most|side|ward|hand\w*|est|y)? \b
    # right, rightmost, rightest, upright, in the same way
    | (?<!b)(?:righ|rig\w?t|ri\w?ht|r\w?ght) | rig.ht | ri.ght | bright(?:most|hand|side) | rihg | rgh | rgih | rgt
    | \br.?ight | \brite\b
    | \b[a-dg-kopru-z0-9]?ight | \b(?!(?:light|night)\b)\w?ight (?:most|side|hand\w*)? \b
    # abbreviations, and single letters, which have another shape in a mirror
    | \b(?:lf|lt|rt|rht|[lr]hs?|[tbu][lr]|l[lr]|[ns][ew])\b | (?<!')\b[b-gj-lnp-sz]\b
    # other names of sides
    | \b(?:starboard|larboard|port[ -]?side|south[ -]?paws?|(?:driver|passenger)'?s?'?[ ]side)\b
    | \b(?:north|south)?[ -]?(?:east|west)(?:ern|ernmost|erly|most|wards?|bound|side)?\b
    | \b(?:izquierd|derech|esquerd|direit|gauche|sinistr|rechte?|linke|venstre|vanster|vlevo|vpravo|nalevo|napravo)
    | \b(?:droite?|destr[ao]|links|ho[yj]re|hoger|s(?:leva|prava)|(?:lew|praw)(?:[aoy]|ej)|stanga|dreapta|kiri|kanan)\b
    # turning directions and clock positions; digits, quotes and written text; counting, which starts on the left
    | o\W{0,2}clock | clockwise | \bclock[ -]?(?:face|hand|position)s?\b
    | \bat[ ](?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)\b | \d | ["`] | (?<!\w)'
    | \b(?:text|letter(?:s|ed|ing)?|words?|numbers?(?![ ]of)|numerals?|digits?|reads|reading|says|saying|written
        |writing|spell\w*)\b
    | \b(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth)\b
    """,
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
FLIPS = ("safe", "released")
AUGMENTATION_RANGES = {
    **dict.fromkeys(("flip_probability", "gray_probability", "jitter_probability"), SHARE),
    **dict.fromkeys(("brightness", "contrast", "saturation"), SHARE),
    "hue": Range(0, 0.5),
}

COLOR_WORD = re.compile(
    r"\b(?:amber|aqua|auburn|beige|black|blond|blonde|blue|bronze|brown|brunette|burgundy|colored|coloured|colorful"
    r"|colourful|copper|coral|cream|crimson|cyan|fuchsia|gold|golden|gray|green|grey|hazel|indigo|ivory|khaki|lavender"
    r"|lilac|lime|magenta|maroon|mauve|navy|olive|orange|peach|pink|purple|rainbow|red|redhead|rust|salmon|scarlet"
    r"|silver|tan|teal|turquoise|violet|white|yellow)(?:s|ish|dish)?\b",
    re.IGNORECASE,
)


def may_be_mirrored(text: str) -> bool:
    """Whether a text stays true when its image is mirrored, as far as can be told.

    Only plain ASCII can be told: accents, other scripts and typographic quotes count as unknown. A text that names a
    side, or may do so (`SIDE_WORD`), is not mirrored, whatever it means by it.

    Args:
        text (`str`): phrase, caption, paraphrase or label.

    Example:

    ```python
    >>> from albef_amc.trainer.data.augmentation import may_be_mirrored
    >>> [may_be_mirrored(text) for text in ("the red dog", "the rigthest dog", "dog at nine o'clock")]
    [True, False, False]

    ```
    """
    return text.isascii() and not SIDE_WORD.search(text)


@dataclass(frozen=True)
class GroundingAugmentation:
    r"""Random changes of a dataset row that keep image, regions and words in agreement.

    A horizontal flip mirrors boxes, points, polygons and masks with the image; words stay as they are. A row is
    flipped only if [`may_be_mirrored`] holds for all its texts. Gray and the shift of hue are skipped where a text of
    the row names a colour. Resizing is the processor's job.

    Args:
        flip_probability (`float`, defaults to 0.5): horizontal flip.
        gray_probability (`float`, defaults to 0.2): conversion to shades of gray.
        jitter_probability (`float`, defaults to 0.5): change of brightness, contrast, saturation and hue.
        brightness, contrast, saturation (`float`, default to 0.2): the factor is drawn from 1 - value to 1 + value.
        hue (`float`, defaults to 0.2): the shift is drawn from -value to value, as a share of the colour circle.
        protect_colors (`bool`, defaults to `True`): keep colours where a text names one
            (`COLOR_WORD`). The released code does not.
        flip (`str`, defaults to `"safe"`): which rows may be flipped: `"safe"`: those whose texts name no side;
            `"released"`: all of them, as in the released code, which mirrors an image whose phrase says "left".

    Example:

    ```python
    >>> from PIL import Image
    >>> from albef_amc.trainer.data.augmentation import GroundingAugmentation
    >>> from albef_amc.datasets_scripts.randomness import example_generator
    >>> row = {"image": Image.new("RGB", (10, 8)), "phrases": [{"phrase": "a dog", "boxes": [[0, 0, 4, 4]]}]}
    >>> flipped = GroundingAugmentation(flip_probability=1.0)(row, example_generator(0, 0, "photo_7"))
    >>> flipped["phrases"][0]
    {'phrase': 'a dog', 'boxes': [[6.0, 0, 10.0, 4]]}

    ```
    """

    flip_probability: float = 0.5
    gray_probability: float = 0.2
    jitter_probability: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.2
    protect_colors: bool = True
    flip: str = "safe"

    def __post_init__(self):
        check_choice("flip", self.flip, FLIPS)
        check_ranges(self, AUGMENTATION_RANGES)
        check_types(self)

    def __call__(self, row: dict, generator: np.random.Generator) -> dict:
        """Change a row. The row that came in, its image included, stays as it was.

        Args:
            row (`dict`): dataset row with `image` and `phrases`; `original_size`, height and width of the stored
                image, if `image` is a reduced copy.
            generator (`np.random.Generator`): source of all random draws, see [`example_generator`]. The same number
                of draws is taken whatever the row holds.

        Returns:
            `dict`: the new row; its image is RGB and upright.
        """
        flip, gray, jitter, *amounts = generator.random(7)
        row = {**row, "image": load_image(row["image"], name=row.get("image_id"))}
        if flip < self.flip_probability and (self.flip == "released" or all(map(may_be_mirrored, _texts(row)))):
            row = flip_row(row)
        keep_colors = self.protect_colors and any(COLOR_WORD.search(text) for text in _texts(row))
        if jitter < self.jitter_probability:
            row["image"] = self._jitter(row["image"], 2 * np.array(amounts) - 1, keep_colors)
        if gray < self.gray_probability and not keep_colors:
            row["image"] = ImageOps.grayscale(row["image"]).convert("RGB")
        return row

    def _jitter(self, image: Image.Image, amounts: np.ndarray, keep_hue: bool) -> Image.Image:
        image = _map_levels(image, 1 + self.brightness * amounts[0], mean_level=0)
        mean_level = int(ImageStat.Stat(image.convert("L")).mean[0] + 0.5)
        image = _map_levels(image, 1 + self.contrast * amounts[1], mean_level)
        image = ImageEnhance.Color(image).enhance(1 + self.saturation * amounts[2])
        return image if keep_hue else shift_hue(image, self.hue * amounts[3])


def _map_levels(image: Image.Image, factor: float, mean_level: int) -> Image.Image:
    """Multiply the distance of every level of an RGB image from `mean_level`, as `ImageEnhance` does for brightness
    (0) and contrast (the mean of the gray image), but for the 256 levels in place of the pixels."""
    levels = Image.frombytes("L", (256, 1), bytes(range(256)))
    mapped = Image.blend(Image.new("L", levels.size, mean_level), levels, factor)
    return image.point(list(mapped.tobytes()) * 3)


def flip_row(row: dict) -> dict:
    """Mirror a row from left to right: image, regions and proposals. Words stay: see [`may_be_mirrored`].

    Texts among `true_phrases` and `false_phrases` that may not be mirrored are dropped.

    Args:
        row (`dict`): dataset row whose image is upright; its `original_size` (height, width), if it has one, is the
            size that its regions refer to.
    """
    height, width = row.get("original_size") or row["image"].size[::-1]
    flipped = {**row, "image": ImageOps.mirror(row["image"])}
    flipped["phrases"] = [_flip_phrase(phrase, width, height) for phrase in row["phrases"] or ()]
    if row.get("proposals"):
        flipped["proposals"] = [{**proposal, "box": flip_box(proposal["box"], width)} for proposal in row["proposals"]]
    for name in OPTIONAL_COLUMNS:
        if row.get(name):
            flipped[name] = [text for text in row[name] if may_be_mirrored(text)]
    return flipped


def flip_box(box: Sequence[float], width: float) -> list[float]:
    """Mirror a box `x_min, y_min, x_max, y_max`, whose sides lie between pixels, in an image of `width` pixels."""
    return [float(width) - box[2], box[1], float(width) - box[0], box[3]]


def shift_hue(image: Image.Image, share: float) -> Image.Image:
    """Turn all colours of an RGB image by `share` of the colour circle, in [-0.5, 0.5]."""
    pixels = np.array(image.convert("HSV"))
    pixels[..., 0] += np.uint8(round(share * 256) % 256)  # wraps around, as the circle does
    return Image.frombytes("HSV", image.size, pixels.tobytes()).convert("RGB")


def _flip_phrase(phrase: dict, width: int, height: int) -> dict:
    flipped = dict(phrase)
    if phrase.get("boxes"):
        flipped["boxes"] = [flip_box(box, width) for box in phrase["boxes"]]
    if phrase.get("points"):
        # A point is a pixel, not a place between pixels.
        flipped["points"] = [[float(width) - 1 - x, y] for x, y in phrase["points"]]
    if phrase.get("polygons"):
        flipped["polygons"] = [
            [value if index % 2 else float(width) - value for index, value in enumerate(polygon)]
            for polygon in phrase["polygons"]
        ]
    if phrase.get("masks"):
        flipped["masks"] = [encode_rle(decode_rle(mask, (height, width))[:, ::-1]) for mask in phrase["masks"]]
    return flipped


def _texts(row: dict) -> list[str]:
    texts = [proposal.get("label") for proposal in row.get("proposals") or ()]
    texts += row.get("false_phrases") or ()
    for phrase in row["phrases"] or ():
        texts += [phrase.get("phrase"), phrase.get("caption"), *(phrase.get("paraphrases") or ())]
    return [text for text in texts if text]
