# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Augmentation: image and regions change together, and only where the words stay true."""

import copy
import string
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from albef_amc.datasets_scripts.randomness import example_generator
from albef_amc.regions_albef import decode_rle, encode_rle
from albef_amc.trainer.data.augmentation import COLOR_WORD, GroundingAugmentation, flip_row, may_be_mirrored, shift_hue

ONLY_FLIP = GroundingAugmentation(flip_probability=1, gray_probability=0, jitter_probability=0)


def make_row(phrase: str = "the dog", **values) -> dict:
    """A red object in columns 2 to 4 and rows 1 to 5 of a 10 x 8 image, annotated in every form."""
    pixels = np.zeros((8, 10, 3), np.uint8)
    pixels[1:6, 2:5] = (200, 30, 10)
    record = {
        "phrase_id": "p0",
        "phrase": phrase,
        "boxes": [[2.0, 1.0, 5.0, 6.0]],
        "points": [[2.0, 3.0]],
        "masks": [encode_rle(pixels[..., 0] > 0)],
        "polygons": [[2.0, 1.0, 5.0, 1.0, 5.0, 6.0, 2.0, 6.0]],
        "types": ["animals"],
        "caption": None,
        "spans": None,
        "paraphrases": None,
    }
    proposals = [{"box": [2.0, 1.0, 5.0, 6.0], "score": 0.9, "label": "dog"}]
    return {
        "image": Image.fromarray(pixels),
        "image_id": "photo",
        "width": 10,
        "height": 8,
        "proposals": proposals,
        "phrases": [{**record, **values}],
    }


def red_area(row: dict) -> np.ndarray:
    return np.asarray(row["image"])[..., 0] > 100


NO_SIDE = [
    "a dog",
    "the small red circle above the blue square",
    "a traffic light at night",
    "the bright t shirt of the man's friend",
    "two lights beside a height chart",
    "a delighted knight lifting his daughter's toilet lid",
    "freight train on a flight of stairs",
    "a number of yeast loaves on the beast's letterbox",
    "people walking between parked cars",
    "a clock on the wall of a favorite cafe",
    "man in a tuxedo holding a violet umbrella, seen from behind",
]
SIDE = [
    "dog on the left",
    "RIGHT dog",
    "leftmost cup",
    "rightest guy",
    "the lefty with a bat",
    "bottomright window",
    "upperleft corner",
    "upright guy in the middle of the row",
    "the right-hand side",
    "right of way sign",
    "pizza left over on the plate",
    "the dog has left",
    "guy on the lft",
    "rt man",
    "person rght",
    "r guy",
    "tr corner",
    "man l.",
    "the lhs person",
    "rigthmost cat",
    "toplfet picture",
    "lefmost",
    "an arrow turning clockwise",
    "hand at 7 o'clock",
    "dog at nine oclock",
    "cup at three o clock",
    "cup at three o' clock",
    "a sign reading stop",
    'a shirt with "go" on it',
    "a shirt with 'go' on it",
    "a shirt with `go` on it",
    "bus 42",
    "the letter b",
    "an S-shaped road",
    "the third man",
    "guy on the rite",
    "letward lamp",
    "the easternmost tent",
    "clock position nine",
    "the dog at nine",
    "a south paw pitcher",
    "the west gate",
    "the northeast corner",
    "the driver's side door",
    "starboard lamp",
    "perro a la izquierda",
    "chien a gauche",
    "der linke Hund",
    "hond rechts",
    "pies po lewej",
    "anjing di sebelah kanan",
    "hund til venstre",
    "sobaka sleva",
    "der dritte Mann von rechts",
    "cachorro \u00e0 direita",
    "\u5de6\u306e\u72ac",
    "\u0441\u043e\u0431\u0430\u043a\u0430 \u0441\u043b\u0435\u0432\u0430",
    "a caf\u00e9 chair",
    "a shirt with \u201cgo\u201d on it",
    "\uff4c\uff45\uff46\uff54 dog",
    "l\u0435ft dog",
    "dog \u2b05",
]


def misspell(word: str) -> set[str]:
    """Every way to drop, add or replace one letter, or to exchange it with its neighbour."""
    letters = string.ascii_lowercase + string.digits
    places = range(len(word))
    dropped = {word[:place] + word[place + 1 :] for place in places}
    replaced = {word[:place] + letter + word[place + 1 :] for place in places for letter in letters}
    added = {word[:place] + letter + word[place:] for place in range(len(word) + 1) for letter in letters}
    swapped = {word[: place - 1] + word[place] + word[place - 1] + word[place + 1 :] for place in places if place}
    return dropped | replaced | added | swapped


@pytest.mark.parametrize("text", NO_SIDE)
def test_a_row_that_names_no_side_is_flipped(text):
    row = make_row(text)
    flipped = ONLY_FLIP(row, example_generator(0, 0, "photo"))
    assert np.array_equal(red_area(flipped), red_area(row)[:, ::-1])
    assert flipped["phrases"][0]["phrase"] == text


@pytest.mark.parametrize("text", SIDE)
def test_a_row_that_may_name_a_side_is_not_flipped(text):
    row = make_row(text)
    result = ONLY_FLIP(row, example_generator(0, 0, "photo"))
    assert result["phrases"] == row["phrases"]
    assert np.array_equal(np.asarray(result["image"]), np.asarray(row["image"]))


@pytest.mark.parametrize("word", ["left", "right"])
@pytest.mark.parametrize("ending", ["", "most"])
@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_every_misspelling_by_one_letter_is_a_side(word, ending, case):
    unseen = {one for one in misspell(word) if may_be_mirrored(case(f"the {one}{ending} dog"))}
    assert unseen == ({"light", "bright", "night"} if (word, ending) == ("right", "") else set())


@pytest.mark.parametrize("text", ["the left dog", "rightest guy", "perro a la izquierda", "cachorro \u00e0 direita"])
def test_the_released_flip_reads_no_words(text):
    row = make_row(text)
    flipped = GroundingAugmentation(1, 0, 0, flip="released")(row, example_generator(0, 0, "photo"))
    assert np.array_equal(red_area(flipped), red_area(row)[:, ::-1])
    assert flipped["phrases"][0]["phrase"] == text and flipped["phrases"][0]["boxes"] == [[5.0, 1.0, 8.0, 6.0]]


def test_flip_moves_everything():
    row = make_row(caption="A cat and the dog.", spans=[[10, 17]], paraphrases=["a hound"])
    flipped = ONLY_FLIP(row, example_generator(0, 0, "photo"))
    phrase = flipped["phrases"][0]
    area = red_area(flipped)
    assert np.array_equal(area, red_area(row)[:, ::-1])
    assert all(phrase[name] == row["phrases"][0][name] for name in ("phrase", "caption", "spans", "paraphrases"))
    assert phrase["boxes"] == [[5.0, 1.0, 8.0, 6.0]]
    assert area[1:6, 5:8].all() and area.sum() == 15
    assert phrase["points"] == [[7.0, 3.0]] and area[3, 7]
    assert np.array_equal(decode_rle(phrase["masks"][0]), area)
    xs, ys = phrase["polygons"][0][::2], phrase["polygons"][0][1::2]
    assert (min(xs), max(xs), min(ys), max(ys)) == (5.0, 8.0, 1.0, 6.0)
    assert flipped["proposals"][0]["box"] == [5.0, 1.0, 8.0, 6.0]
    assert phrase["types"] == ["animals"] and flipped["image_id"] == "photo"


def test_flip_twice_is_the_row():
    row = make_row(caption="A cat beside the dog.", spans=[[13, 20]])
    again = flip_row(flip_row(row))
    assert np.array_equal(np.asarray(again["image"]), np.asarray(row["image"]))
    assert again["phrases"] == row["phrases"] and again["proposals"] == row["proposals"]


@pytest.mark.parametrize("name", ["caption", "paraphrases", "label"])
@pytest.mark.parametrize("side", ["dog on the lft", "chien \u00e0 gauche"])
def test_every_text_of_a_row_is_read(name, side):
    row = make_row() if name == "label" else make_row(**{name: [side] if name == "paraphrases" else side})
    if name == "label":
        row["proposals"][0]["label"] = side
    result = ONLY_FLIP(row, example_generator(0, 0, "photo"))
    assert np.array_equal(red_area(result), red_area(row))


def test_the_row_that_came_in_is_unchanged():
    row = make_row(caption="the dog", spans=[[0, 7]], paraphrases=["a hound"])
    image, before = row["image"].copy(), copy.deepcopy({key: row[key] for key in row if key != "image"})
    for step in range(20):
        GroundingAugmentation(1, 0.5, 1)(row, example_generator(0, step, "photo"))
    assert np.array_equal(np.asarray(row["image"]), np.asarray(image))
    assert {key: row[key] for key in row if key != "image"} == before


def test_null_fields_stay_null():
    empty = dict.fromkeys(("boxes", "points", "masks", "polygons", "types"))
    row = make_row(**empty) | {"proposals": None}
    flipped = flip_row(row)
    assert flipped["proposals"] is None
    assert all(flipped["phrases"][0][name] is None for name in [*empty, "caption", "spans", "paraphrases"])


def test_exif_rotation_is_applied_before_the_flip(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    upright = make_row()["image"]
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "photo.png", exif=exif)
    row = make_row() | {"image": Image.open(tmp_path / "photo.png")}
    flipped = ONLY_FLIP(row, example_generator(0, 0, "photo"))
    assert np.array_equal(red_area(flipped), red_area(make_row())[:, ::-1])


def test_gray():
    only_gray = GroundingAugmentation(flip_probability=0, gray_probability=1, jitter_probability=0)
    image = only_gray(make_row(), example_generator(0, 0, "photo"))["image"]
    pixels = np.asarray(image)
    assert image.mode == "RGB" and (pixels[..., 0] == pixels[..., 2]).all() and pixels.max() > 0


@pytest.mark.parametrize("values", [{"phrase": "the red dog"}, {"caption": "a dog in a GREENISH coat"}])
def test_named_colors_are_kept(values):
    augmentation = GroundingAugmentation(0, 1, 1, brightness=0, contrast=0, saturation=0, hue=0.5)
    row = make_row(**values)
    kept = augmentation(row, example_generator(0, 0, "photo"))["image"]
    assert np.abs(np.asarray(kept).astype(int) - np.asarray(row["image"]).astype(int)).max() <= 1
    free = GroundingAugmentation(0, 1, 1, protect_colors=False)(row, example_generator(0, 0, "photo"))["image"]
    assert (np.asarray(free)[..., 0] == np.asarray(free)[..., 2]).all()


def test_color_words():
    assert COLOR_WORD.search("a blue-eyed cat") and COLOR_WORD.search("reddish")
    assert not COLOR_WORD.search("a bored man with a tank")


def test_hue_goes_round():
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    green = np.asarray(shift_hue(red, 1 / 3))[0, 0]
    assert green[1] > 240 and green[0] < 10 and green[2] < 10
    blue = np.asarray(shift_hue(red, -1 / 3))[0, 0]
    assert blue[2] > 240
    assert np.array_equal(np.asarray(shift_hue(red, 0.0)), np.asarray(red))


@pytest.mark.parametrize("amounts", [(1, -1, 0), (-0.3, 0.7, 0), (0, 0, 0.5)])
def test_jitter_is_that_of_pillow(amounts):
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (40, 30, 3), dtype=np.uint8))
    expected = image
    changes = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for enhance, amount in zip(changes, amounts, strict=True):
        expected = enhance(expected).enhance(1 + 0.2 * amount)
    jittered = GroundingAugmentation()._jitter(image, np.array([*amounts, 0]), keep_hue=True)
    assert np.array_equal(jittered, expected)


def test_rates():
    flips = sum(
        red_area(GroundingAugmentation(gray_probability=0, jitter_probability=0)(make_row(), generator))[3, 7]
        for generator in (example_generator(0, step, "photo") for step in range(400))
    )
    assert 160 < flips < 240


def test_draws_do_not_depend_on_the_row():
    first, second = example_generator(0, 0, "photo"), example_generator(0, 0, "photo")
    GroundingAugmentation(1, 1, 1)(make_row(), first)
    GroundingAugmentation(0, 0, 0)(make_row("a red dog left over"), second)
    assert first.random() == second.random()


@pytest.mark.slow
def test_generator_is_the_same_in_another_process_and_differs_by_every_part():
    code = (
        "from albef_amc.datasets_scripts.randomness import example_generator\n"
        "import sys; sys.stdout.write(str(example_generator(1, 2, 'a', 'mlm').integers(1 << 62)))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    )
    keys = [(1, 2, "a", "mlm"), (2, 2, "a", "mlm"), (1, 3, "a", "mlm"), (1, 2, "b", "mlm"), (1, 2, "a", "")]
    here = [int(example_generator(*key).integers(1 << 62)) for key in keys]
    assert int(there.stdout) == here[0]
    assert len(set(here)) == len(here)


@pytest.mark.parametrize(
    ("name", "value"), [("flip", "always"), ("flip_probability", 1.5), ("hue", 0.6), ("brightness", -0.1)]
)
def test_wrong_options_are_named(name, value):
    with pytest.raises(ValueError, match=f"`{name}`"):
        GroundingAugmentation(**{name: value})
