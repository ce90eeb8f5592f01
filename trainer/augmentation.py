# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Augmentation of dataset rows: image, regions and words change together, or not at all."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from albef_amc.image_processing_albef import load_image
from albef_amc.regions_albef import decode_rle, encode_rle

DIRECTION = re.compile(
    r"(?<![a-z])(?P<joined_before>top|bottom|upper|lower|far|mid)?(?P<word>left|right)"
    r"(?P<joined_after>most|handed|hand|side|wards|ward)?(?![a-z])",
    re.IGNORECASE,
)
OPPOSITE = {"left": "right", "right": "left"}

# Mirroring makes these wrong, and no exchange of words makes them right again.
NEVER_MIRRORED = re.compile(
    r"\d"  # digits: lettering in the picture ("bus 42") and times ("7 o'clock")
    r"|[\"“”]"  # quoted lettering
    r"|o\s?['’]?\s?clock|clockwise"  # turning directions
    r"|\b(?:text|letter(?:s|ing)?|words?|numbers?|numerals?|digits?|reads|reading|says|saying|written|writing"
    r"|spell(?:s|ed|ing)?|lefty|lefties|southpaws?)\b"
    r"|\b(?:starboard|port side|driver['’]?s? side|passenger['’]?s? side)\b"
    r"|\b(?:east|west)(?:ern|wards?|bound)?\b",
    re.IGNORECASE,
)
# Counting starts on the left by habit: "the third man" is another man in the mirror, "third from the left" is not.
ORDINAL = re.compile(r"\b(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth)\b", re.IGNORECASE)

# "on the left", "to his right": a direction, whatever follows.
PLACE_PREPOSITIONS = frozenset("at from in on to toward towards".split())
DETERMINERS = frozenset("a an the his her its their my your our".split())
# "the left ...", "far left ...", "looking right": a direction unless a function word follows ("the left over food").
LEADING_WORDS = DETERMINERS | frozenset(
    "back bottom center centre extreme far front inner lower mid middle near outer rear top upper first second third "
    "face faces facing go goes going head heading heads lean leaning leans look looking looks move moves moving point "
    "pointing points turn turned turning turns".split()
)
# "left side", "right hand": a direction.
FOLLOWING_WORDS = frozenset(
    "arm arms border bottom boot corner ear edge end eye facing field foot front glove half hand handed headlight "
    "knee lane leg margin most part portion rear shoe shoulder side sleeve third tire top wheel wing wrist".split()
)
# "left over", "left behind", "left the room", "right next to", "right now", "right angle": rarely a direction.
FUNCTION_WORDS = frozenset(
    "a about above across after against alone along an and angle angled angles around as at away before behind below "
    "beneath beside between beyond blank by down empty for from he her here him his in inside into it its near next "
    "now off on onto open or out outside over she size standing the their them there they through to triangle "
    "triangles unattended under underneath uneaten untouched up way when where while with".split()
)
# "the right angle", "right side up": never a direction, also after a preposition.
NOT_A_DIRECTION = re.compile(r"[\s-]+(?:angle|angled|angles|triangles?|size|way|side[\s-]+up)\b", re.IGNORECASE)
# "what is left of the cake": a remainder, not a direction.
REMAINDERS = frozenset("all anything everything few little most much none nothing rest some something what".split())

COLOR_WORD = re.compile(
    r"\b(?:amber|aqua|auburn|beige|black|blond|blonde|blue|bronze|brown|brunette|burgundy|colored|coloured|colorful"
    r"|colourful|copper|coral|cream|crimson|cyan|fuchsia|gold|golden|gray|green|grey|hazel|indigo|ivory|khaki|lavender"
    r"|lilac|lime|magenta|maroon|mauve|navy|olive|orange|peach|pink|purple|rainbow|red|redhead|rust|salmon|scarlet"
    r"|silver|tan|teal|turquoise|violet|white|yellow)(?:s|ish|dish)?\b",
    re.IGNORECASE,
)


def example_generator(seed: int, step: int, example_id: str, purpose: str = "") -> np.random.Generator:
    """Random generator of one example at one step, the same in every process, worker and run.

    What is drawn for an example then never depends on which examples were drawn, or prefetched, before it.

    Args:
        seed (`int`): seed of the run.
        step (`int`): step, epoch or running number of the draw.
        example_id (`str`): identity of the example.
        purpose (`str`, *optional*): keeps the draws for one purpose apart from those for another.

    Example:

    ```python
    >>> from albef_amc.trainer.augmentation import example_generator
    >>> example_generator(0, 3, "photo_7").random() == example_generator(0, 3, "photo_7").random()
    True

    ```
    """
    key = "\x1f".join((str(seed), str(step), example_id, purpose)).encode()
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.blake2b(key, digest_size=16).digest(), "big")))


def swap_left_right(text: str) -> tuple[str, list[int]] | None:
    """Exchange "left" and "right" in a text, as its mirrored image needs it.

    English only. A word counts as a direction where its neighbours say so ("on the left", "left of", "leftmost",
    "left-hand side"); where they do not ("pizza left over", "right next to", "the dog left"), or where the text holds
    something that a mirror makes wrong (lettering, clock positions, counting, points of the compass), there is no
    safe exchange.

    Args:
        text (`str`): phrase or caption.

    Returns:
        `tuple[str, list[int]]` or `None`: the new text and, for each of the `len(text) + 1` places between characters
        of the old one, its place in the new one. `None` where the image must not be mirrored.

    Example:

    ```python
    >>> from albef_amc.trainer.augmentation import swap_left_right
    >>> swap_left_right("The left dog")
    ('The right dog', [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13])
    >>> swap_left_right("pizza left over") is None
    True

    ```
    """
    matches = list(DIRECTION.finditer(text))
    if NEVER_MIRRORED.search(text) or (ORDINAL.search(text) and not matches):
        return None
    if not all(_is_direction(text, match) for match in matches):
        return None
    swapped = ""
    places: list[int] = []
    position = 0
    for match in matches:
        start, end = match.span("word")
        places.extend(range(len(swapped), len(swapped) + start - position))
        swapped += text[position:start]
        opposite = _with_case_of(match["word"], OPPOSITE[match["word"].lower()])
        places.extend(len(swapped) + min(index, len(opposite)) for index in range(end - start))
        swapped += opposite
        position = end
    places.extend(range(len(swapped), len(swapped) + len(text) - position + 1))
    return swapped + text[position:], places


def _is_direction(text: str, match: re.Match) -> bool:
    if match["joined_before"] or match["joined_after"]:
        return True
    words_before = re.findall(r"[a-z']+", text[: match.start()].lower())
    is_closed = text[match.end() :].lstrip()[:1] in tuple(",;:)")
    words_after = [] if is_closed else re.findall(r"[a-z']+", text[match.end() :].lower())
    before, before_that = ([*reversed(words_before), "", ""])[:2]
    after, after_that = (words_after + ["", ""])[:2]
    if NOT_A_DIRECTION.match(text, match.end()):
        return False
    if before in PLACE_PREPOSITIONS or (before in DETERMINERS and before_that in PLACE_PREPOSITIONS):
        return True
    if (before in ("and", "or", "to") and before_that in OPPOSITE) or (
        after in ("and", "or", "to") and after_that in OPPOSITE
    ):
        return True
    if after == "of":
        return REMAINDERS.isdisjoint(words_before)
    if after in FUNCTION_WORDS:
        return False
    is_apart = not text[: match.start()].strip() or text[: match.start()].rstrip()[-1] in ",;:("
    return after in FOLLOWING_WORDS or before in LEADING_WORDS or is_apart


def _with_case_of(model: str, word: str) -> str:
    if model.isupper():
        return word.upper()
    return word.capitalize() if model[0].isupper() else word


@dataclass(frozen=True)
class GroundingAugmentation:
    r"""Random changes of a dataset row that keep image, regions and words in agreement.

    A horizontal flip mirrors boxes, points, polygons and masks with the image and exchanges "left" and "right" in
    phrases, captions (spans follow), paraphrases and labels; it is left out where [`swap_left_right`] finds no safe
    exchange. Gray and the shift of hue are left out where a text of the row names a colour. Resizing is the
    processor's job.

    Args:
        flip_probability (`float`, defaults to 0.5): horizontal flip.
        gray_probability (`float`, defaults to 0.2): conversion to shades of gray.
        jitter_probability (`float`, defaults to 0.5): change of brightness, contrast, saturation and hue.
        brightness, contrast, saturation (`float`, default to 0.2): the factor is drawn from 1 - value to 1 + value.
        hue (`float`, defaults to 0.2): the shift is drawn from -value to value, as a share of the colour circle.
        protect_colors (`bool`, defaults to `True`): leave gray and hue alone where a text names a colour
            (`COLOR_WORD`). The released code does not.

    Example:

    ```python
    >>> from PIL import Image
    >>> from albef_amc.trainer.augmentation import GroundingAugmentation, example_generator
    >>> row = {"image": Image.new("RGB", (10, 8)), "phrases": [{"phrase": "left dog", "boxes": [[0, 0, 4, 4]]}]}
    >>> flipped = GroundingAugmentation(flip_probability=1.0)(row, example_generator(0, 0, "photo_7"))
    >>> flipped["phrases"][0]
    {'phrase': 'right dog', 'boxes': [[6.0, 0, 10.0, 4]]}

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

    def __post_init__(self):
        for name in ("flip_probability", "gray_probability", "jitter_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must lie in [0, 1], got {getattr(self, name)!r}.")
        for name, largest in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= largest:
                raise ValueError(f"`{name}` must lie in [0, {largest}], got {getattr(self, name)!r}.")

    def __call__(self, row: dict, generator: np.random.Generator) -> dict:
        """Change a row. The row that came in, its image included, stays as it was.

        Args:
            row (`dict`): dataset row with `image` and `phrases`.
            generator (`np.random.Generator`): source of all random draws, see [`example_generator`]. The same number
                of draws is taken whatever the row holds.

        Returns:
            `dict`: the new row; its image is RGB and upright.
        """
        flip, gray, jitter, *amounts = generator.random(7)
        row = {**row, "image": load_image(row["image"], name=row.get("image_id"))}
        if flip < self.flip_probability:
            row = flip_row(row) or row
        keep_colors = self.protect_colors and any(COLOR_WORD.search(text) for text in _texts(row))
        if jitter < self.jitter_probability:
            row["image"] = self._jitter(row["image"], 2 * np.array(amounts) - 1, keep_colors)
        if gray < self.gray_probability and not keep_colors:
            row["image"] = ImageOps.grayscale(row["image"]).convert("RGB")
        return row

    def _jitter(self, image: Image.Image, amounts: np.ndarray, keep_hue: bool) -> Image.Image:
        image = ImageEnhance.Brightness(image).enhance(1 + self.brightness * amounts[0])
        image = ImageEnhance.Contrast(image).enhance(1 + self.contrast * amounts[1])
        image = ImageEnhance.Color(image).enhance(1 + self.saturation * amounts[2])
        return image if keep_hue else shift_hue(image, self.hue * amounts[3])


def flip_row(row: dict) -> dict | None:
    """Mirror a row from left to right: image, regions, proposals and words.

    Args:
        row (`dict`): dataset row whose image is upright.

    Returns:
        `dict` or `None`: a new row, or `None` where a text of the row has no safe exchange of left and right.
    """
    if any(swap_left_right(text) is None for text in _texts(row)):
        return None
    width = row["image"].width
    flipped = {**row, "image": ImageOps.mirror(row["image"])}
    flipped["phrases"] = [_flip_phrase(phrase, width) for phrase in row["phrases"] or ()]
    if row.get("proposals"):
        flipped["proposals"] = [
            {**proposal, "box": flip_box(proposal["box"], width), **_swap_field(proposal, "label")}
            for proposal in row["proposals"]
        ]
    return flipped


def flip_box(box: Sequence[float], width: float) -> list[float]:
    """Mirror a box `x_min, y_min, x_max, y_max`, whose sides lie between pixels, in an image of `width` pixels."""
    return [float(width) - box[2], box[1], float(width) - box[0], box[3]]


def shift_hue(image: Image.Image, share: float) -> Image.Image:
    """Turn all colours of an RGB image by `share` of the colour circle, in [-0.5, 0.5]."""
    pixels = np.array(image.convert("HSV"))
    pixels[..., 0] += np.uint8(round(share * 256) % 256)  # wraps around, as the circle does
    return Image.frombytes("HSV", image.size, pixels.tobytes()).convert("RGB")


def _flip_phrase(phrase: dict, width: int) -> dict:
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
        flipped["masks"] = [encode_rle(decode_rle(mask)[:, ::-1]) for mask in phrase["masks"]]
    if phrase.get("paraphrases"):
        flipped["paraphrases"] = [swap_left_right(text)[0] for text in phrase["paraphrases"]]
    if phrase.get("caption") and phrase.get("spans"):
        places = swap_left_right(phrase["caption"])[1]
        flipped["spans"] = [[places[start], places[end]] for start, end in phrase["spans"]]
    return {**flipped, **_swap_field(phrase, "phrase"), **_swap_field(phrase, "caption")}


def _swap_field(record: dict, name: str) -> dict:
    return {name: swap_left_right(record[name])[0]} if record.get(name) else {}


def _texts(row: dict) -> list[str]:
    texts = [proposal.get("label") for proposal in row.get("proposals") or ()]
    for phrase in row["phrases"] or ():
        texts += [phrase.get("phrase"), phrase.get("caption"), *(phrase.get("paraphrases") or ())]
    return [text for text in texts if text]


__all__ = ["GroundingAugmentation", "example_generator", "flip_box", "flip_row", "shift_hue", "swap_left_right"]
