# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Augmentation: image, regions and words change together, or not at all."""

import copy
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from albef_amc.regions_albef import decode_rle, encode_rle
from albef_amc.trainer.augmentation import (
    COLOR_WORD,
    GroundingAugmentation,
    example_generator,
    flip_row,
    shift_hue,
    swap_left_right,
)

ONLY_FLIP = GroundingAugmentation(flip_probability=1, gray_probability=0, jitter_probability=0)


def make_row(phrase: str = "the left dog", **values) -> dict:
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red ball", "a red ball"),
        ("the small red circle left of the blue square", "the small red circle right of the blue square"),
        ("dog on the left", "dog on the right"),
        ("a man on right behind the tree", "a man on left behind the tree"),
        ("LEFT dog", "RIGHT dog"),
        ("Right hand of the man", "Left hand of the man"),
        ("leftmost cup, Rightmost plate", "rightmost cup, Leftmost plate"),
        ("left-hand side", "right-hand side"),
        ("the lefthand window", "the righthand window"),
        ("left side of the street", "right side of the street"),
        ("second from the left", "second from the right"),
        ("his right leg and left arm", "his left leg and right arm"),
        ("from left to right", "from right to left"),
        ("upper-left corner", "upper-right corner"),
        ("the far left chair", "the far right chair"),
        ("bottomright window", "bottomleft window"),
        ("a man looking left", "a man looking right"),
        ("two dogs (left) and a cat", "two dogs (right) and a cat"),
        ("a bright upright piano with leftovers", "a bright upright piano with leftovers"),
    ],
)
def test_exchanges_words(text, expected):
    swapped, places = swap_left_right(text)
    assert swapped == expected
    assert len(places) == len(text) + 1 and places[-1] == len(swapped) and places == sorted(places)
    assert swap_left_right(swapped)[0] == text


@pytest.mark.parametrize(
    "text",
    [
        "pizza left over on the plate",
        "the left over food",
        "a suitcase left behind",
        "the dog has left",
        "the man left",
        "she left the room",
        "the last slice left",
        "what is left of the cake",
        "a man right next to the left door",
        "right behind the tree",
        "the right angle",
        "on the right side up",
        "the hand at 7 o'clock",
        "an arrow turning clockwise",
        "a sign reading stop",
        'a shirt with "go" on it',
        "bus 42",
        "the letter b",
        "the third man",
        "the west gate",
        "the driver's side door",
        "a lefty with a bat",
    ],
)
def test_does_not_guess(text):
    assert swap_left_right(text) is None
    assert flip_row(make_row(text)) is None
    row = make_row(text)
    result = ONLY_FLIP(row, example_generator(0, 0, "photo"))
    assert result["phrases"] == row["phrases"]
    assert np.array_equal(np.asarray(result["image"]), np.asarray(row["image"]))


def test_flip_moves_everything():
    row = make_row(paraphrases=["dog to the left"])
    flipped = ONLY_FLIP(row, example_generator(0, 0, "photo"))
    phrase = flipped["phrases"][0]
    area = red_area(flipped)
    assert np.array_equal(area, red_area(row)[:, ::-1])
    assert phrase["phrase"] == "the right dog"
    assert phrase["paraphrases"] == ["dog to the right"]
    assert phrase["boxes"] == [[5.0, 1.0, 8.0, 6.0]]
    assert area[1:6, 5:8].all() and area.sum() == 15
    assert phrase["points"] == [[7.0, 3.0]] and area[3, 7]
    assert np.array_equal(decode_rle(phrase["masks"][0]), area)
    xs, ys = phrase["polygons"][0][::2], phrase["polygons"][0][1::2]
    assert (min(xs), max(xs), min(ys), max(ys)) == (5.0, 8.0, 1.0, 6.0)
    assert flipped["proposals"][0]["box"] == [5.0, 1.0, 8.0, 6.0]
    assert phrase["types"] == ["animals"] and flipped["image_id"] == "photo"


def test_flip_twice_is_the_row():
    row = make_row(caption="A cat right of the left dog.", spans=[[15, 27]])
    again = flip_row(flip_row(row))
    assert np.array_equal(np.asarray(again["image"]), np.asarray(row["image"]))
    assert again["phrases"] == row["phrases"] and again["proposals"] == row["proposals"]


@pytest.mark.parametrize("part", ["the left dog", "A cat", "dog."])
def test_spans_follow_the_caption(part):
    caption = "A cat right of the left dog."
    start = caption.index(part)
    phrase = flip_row(make_row(caption=caption, spans=[[start, start + len(part)]]))["phrases"][0]
    assert phrase["caption"] == "A cat left of the right dog."
    ((start, end),) = phrase["spans"]
    assert phrase["caption"][start:end] == part.replace("left", "right")


@pytest.mark.parametrize("name", ["caption", "paraphrases"])
def test_one_unsafe_text_stops_the_flip(name):
    unsafe = "the dog left the house"
    assert flip_row(make_row(**{name: [unsafe] if name == "paraphrases" else unsafe})) is None


def test_the_row_that_came_in_is_unchanged():
    row = make_row(caption="the left dog", spans=[[0, 12]], paraphrases=["left dog"])
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
        "from albef_amc.trainer.augmentation import example_generator\n"
        "import sys; sys.stdout.write(str(example_generator(1, 2, 'a', 'mlm').integers(1 << 62)))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    )
    keys = [(1, 2, "a", "mlm"), (2, 2, "a", "mlm"), (1, 3, "a", "mlm"), (1, 2, "b", "mlm"), (1, 2, "a", "")]
    here = [int(example_generator(*key).integers(1 << 62)) for key in keys]
    assert int(there.stdout) == here[0]
    assert len(set(here)) == len(here)


@pytest.mark.parametrize(("name", "value"), [("flip_probability", 1.5), ("hue", 0.6), ("brightness", -0.1)])
def test_wrong_options_are_named(name, value):
    with pytest.raises(ValueError, match=f"`{name}`"):
        GroundingAugmentation(**{name: value})
