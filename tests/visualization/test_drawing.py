# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Overlays, sheets and curves: what is drawn where, on what background, at which size, and how it is saved."""

import errno
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor
from testing_utils import PATIENCE

from albef_amc.visualization.drawing import (
    INNER_TONE,
    OUTER_TONE,
    POINT_TONE,
    draw_curves,
    draw_sheet,
    overlay_heatmap,
    save_picture,
)

BACKGROUNDS = ["black", "white", "grey", "red", "navy", "orange"]


def make_image(colour="grey", size=(400, 320)) -> Image.Image:
    return Image.new("RGB", size, ImageColor.getrgb(colour))


def find_tone(picture: Image.Image, tone: tuple[int, int, int]) -> np.ndarray:
    """Rows of (x, y) of the pixels that have exactly this colour."""
    rows, columns = np.nonzero((np.asarray(picture) == tone).all(axis=-1))
    return np.stack([columns, rows], axis=1)


def measure_colour_distance(background: str) -> np.ndarray:
    """How far the colour at 400 rising heat values lies from the colour at value 0, on a plain photograph."""
    ramp = np.linspace(0, 1, 400, dtype=np.float32)[None].repeat(320, axis=0)
    pixels = np.asarray(overlay_heatmap(make_image(background), ramp), dtype=np.float64)[160]
    return np.linalg.norm(pixels - pixels[0], axis=-1)


@pytest.mark.parametrize("background", ["black", "white", "grey", "red", "navy"])
def test_the_colour_moves_away_from_the_background_as_the_value_rises(background):
    distance = measure_colour_distance(background)
    assert distance[399] > 60
    assert distance[300] > distance[150] > distance[50] > 2


def test_heat_stands_out_from_a_background_of_its_own_colour():
    assert measure_colour_distance("orange")[50:].min() > 15


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_photograph_stays_visible_under_the_strongest_heat(background):
    image = make_image(background)
    image.paste(Image.new("RGB", (200, 320), (128, 200, 128)), (0, 0))
    picture = np.asarray(overlay_heatmap(image, np.ones((4, 4))), dtype=np.float64)
    assert np.abs(picture[160, 50] - picture[160, 350]).max() >= 5


def test_heat_lies_where_the_heatmap_is_high_at_any_resolution():
    for size in ((4, 4), (16, 16), (320, 400), (7, 3)):
        heatmap = np.zeros(size, dtype=np.float32)
        heatmap[: max(1, size[0] // 4), : max(1, size[1] // 4)] = 1
        picture = np.asarray(overlay_heatmap(make_image("black"), heatmap), dtype=np.float64).sum(axis=-1)
        assert picture[10, 10] > 100
        assert picture[-10, -10] == 0


def test_overshoot_is_clipped_and_tensors_are_taken():
    heatmap = torch.tensor([[1.5, -0.5], [0.2, 0.2]], dtype=torch.bfloat16, requires_grad=True)
    clipped = overlay_heatmap(make_image(), heatmap)
    assert clipped.tobytes() == overlay_heatmap(make_image(), heatmap.detach().float().clip(0, 1).numpy()).tobytes()


def test_without_a_heatmap_the_photograph_keeps_its_colours():
    picture = overlay_heatmap(make_image("red"), boxes=[[100, 100, 200, 200]])
    assert picture.getpixel((10, 10)) == (255, 0, 0)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_a_region_and_a_point_show_both_tones(background):
    picture = overlay_heatmap(make_image(background), boxes=[[50, 60, 150, 160]], point=(300, 200))
    line = find_tone(picture, INNER_TONE)
    assert line.min(axis=0).tolist() == [50, 60]
    assert line.max(axis=0).tolist() == [150, 160]
    border = find_tone(picture.crop((40, 50, 160, 170)), OUTER_TONE)
    assert len(border) > 400
    cross = find_tone(picture.crop((280, 180, 321, 221)), POINT_TONE)
    assert np.abs(cross.mean(axis=0) - 20).max() <= 1
    assert len(find_tone(picture.crop((280, 180, 321, 221)), OUTER_TONE)) > 20


def test_regions_follow_the_scale_of_a_small_image():
    picture = overlay_heatmap(make_image(size=(64, 64)), boxes=[[16, 32, 32, 48]], point=(0, 0))
    line = find_tone(picture, INNER_TONE)
    assert picture.size == (320, 320)
    assert line.min(axis=0).tolist() == [80, 160]
    assert line.max(axis=0).tolist() == [160, 240]


def test_a_mask_is_outlined_along_its_border():
    mask = np.zeros((64, 64), dtype=bool)
    mask[16:32, 8:40] = True
    line = find_tone(overlay_heatmap(make_image(size=(64, 64)), region_mask=mask), INNER_TONE)
    assert np.abs(line.min(axis=0) - (40, 80)).max() <= 1
    assert np.abs(line.max(axis=0) - (199, 159)).max() <= 1


def test_boxes_that_leave_the_image_are_drawn_along_its_border():
    line = find_tone(overlay_heatmap(make_image(), boxes=[[-50, -50, 900, 900]]), INNER_TONE)
    assert line.min(axis=0).tolist() == [0, 0]
    assert line.max(axis=0).tolist() == [399, 319]


def test_words_stand_below_the_photograph_and_wrap():
    short = overlay_heatmap(make_image(), phrase="a dog", score=0.5)
    long = overlay_heatmap(make_image(), phrase="the small red circle left of the blue square " * 3)
    endless = overlay_heatmap(make_image(), phrase="x" * 5000)
    assert 320 < short.height < long.height <= endless.height < 640
    assert short.width == long.width == endless.width == 400
    strip = np.asarray(short.crop((0, 320, 400, short.height)))
    assert strip.max() == 255
    assert strip.min() < 60
    assert (np.asarray(short)[:320] == np.asarray(make_image())).all()


def test_no_words_leave_no_strip():
    assert overlay_heatmap(make_image(), phrase="  ").size == (400, 320)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), (320, 320)),
        ((64, 48), (320, 240)),
        ((200, 100), (320, 160)),
        ((400, 320), (400, 320)),
        ((4000, 2000), (1024, 512)),
        ((10000, 10), (1024, 1)),
        ((1, 1), (320, 320)),
    ],
)
def test_pictures_have_a_readable_size(size, expected):
    assert overlay_heatmap(make_image(size=size), np.ones((2, 2)), boxes=[[0, 0, 1, 1]], point=(0, 0)).size == expected


def test_pixels_of_a_tiny_image_stay_squares():
    image = Image.new("RGB", (32, 32), "white")
    image.putpixel((5, 5), (0, 0, 0))
    assert len(find_tone(overlay_heatmap(image), (0, 0, 0))) == 100


def test_a_narrow_picture_leaves_room_for_its_words():
    picture = overlay_heatmap(make_image(size=(10, 2000)), np.ones((2, 2)), phrase="a tall thin thing")
    assert picture.width >= 240


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "YCbCr", "HSV", "F"])
def test_images_of_any_mode_are_drawn_and_stay_unchanged(mode):
    image = Image.new(mode, (40, 40))
    before = image.tobytes()
    assert overlay_heatmap(image, np.ones((2, 2)), "a dog", [[1, 1, 9, 9]], (3, 3), 0.2).mode == "RGB"
    assert image.mode == mode
    assert image.tobytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"heatmap": np.ones((1, 4, 4))}, "`heatmap` must have the shape"),
        ({"heatmap": np.full((4, 4), np.nan)}, "`heatmap` holds values that are not finite"),
        ({"region_mask": np.ones(4)}, "`region_mask` must have the shape"),
        ({"boxes": [1, 2, 3, 4]}, "`boxes` must be rows of"),
        ({"boxes": [[1, 2, 3, np.inf]]}, "`boxes` must be rows of"),
        ({"point": (1, 2, 3)}, "`point` must be two finite numbers"),
        ({"point": (np.nan, 2)}, "`point` must be two finite numbers"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        overlay_heatmap(make_image(), **arguments)


def test_a_sheet_holds_pictures_words_and_gaps(tmp_path):
    rows = [[make_image("red", (64, 64)), "a red thing", None], [make_image("navy", (300, 900)), "x" * 200, "b"]]
    path = draw_sheet(rows, ["scene", "phrase", "heatmap with AMC"], tmp_path / "new" / "sheet.png", cell_size=200)
    with Image.open(path) as sheet:
        assert sheet.width >= 600
        assert len(find_tone(sheet.convert("RGB"), (255, 0, 0))) == 200 * 200
        assert len(find_tone(sheet.convert("RGB"), (0, 0, 128))) == 100 * 300


def test_a_sheet_has_the_same_bytes_every_time_and_words_stay_inside_their_column(tmp_path):
    words = ["costs $5 and $6 in all", "W" * 60, "", "x"]
    paths = [draw_sheet([words, [make_image()] * 4], words, tmp_path / f"{index}.png", 160) for index in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with Image.open(paths[0]) as sheet:
        is_ink = (np.asarray(sheet.convert("L")) < 100)[:60]
    edges = [6 + column * 166 for column in range(4)]  # of columns of 160 pixels with gaps of 6
    assert all(not is_ink[:, max(0, edge - 6) : edge].any() for edge in (*edges, 670))
    assert is_ink[:, edges[0] : edges[0] + 160].any() and is_ink[:, edges[1] : edges[1] + 160].any()


def test_a_colour_bar_stands_below_the_pictures(tmp_path):
    rows = [[make_image("red")] * 2]
    plain, explained = (
        Image.open(draw_sheet(rows, ["a", "b"], tmp_path / f"{has_bar}.png", has_colour_bar=has_bar)).convert("RGB")
        for has_bar in (False, True)
    )
    assert explained.width == plain.width and explained.height > plain.height
    assert (np.asarray(explained)[: plain.height - 10] == np.asarray(plain)[:-10]).all()
    bar = np.asarray(explained)[plain.height - 2 :, explained.width // 2]
    expected = np.asarray(overlay_heatmap(Image.new("RGB", (400, 400), "white"), np.full((4, 4), 0.5)))[0, 0]
    assert np.abs(bar.astype(int) - expected).sum(axis=1).min() <= 6, "the middle of the bar shows the value 0.5"


def test_the_photograph_is_grey_only_where_it_is_asked_to_be():
    heatmap = np.zeros((4, 4))
    heatmap[0, 0] = 1
    assert overlay_heatmap(make_image("red"), heatmap).getpixel((390, 310)) == (255, 0, 0)
    grey = overlay_heatmap(make_image("red"), heatmap, saturation=0).getpixel((390, 310))
    assert grey[0] == grey[1] == grey[2]


def test_a_sheet_without_rows_is_its_headings(tmp_path):
    with Image.open(draw_sheet([], ["scene"], tmp_path / "sheet.png")) as sheet:
        assert sheet.height < 60


@pytest.mark.parametrize(
    ("rows", "columns", "words"), [([["a"]], [], "`columns` is empty"), ([["a"]], ["x", "y"], "row 0 has 1 cells")]
)
def test_a_sheet_that_does_not_fit_its_headings_is_refused(rows, columns, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        draw_sheet(rows, columns, tmp_path / "sheet.png")


def test_curves_show_every_run_and_leave_gaps(tmp_path):
    series = {
        "without AMC": {"itm_loss": [(0, 1.0), (10, float("nan")), (20, 0.5)]},
        "with AMC": {"itm_loss": [(0, 1.0), (20, 0.4)], "amc_loss": [(0, 0.3), (20, 0.1)], "empty": []},
    }
    path = draw_curves(series, tmp_path / "curves.png", title="training")
    with Image.open(path) as picture:
        for colour in ("#0072b2", "#d55e00"):
            assert len(find_tone(picture.convert("RGB"), ImageColor.getrgb(colour))) > 50


def test_curves_need_a_curve(tmp_path):
    with pytest.raises(ValueError, match="holds no curve"):
        draw_curves({"run": {"itm_loss": []}}, tmp_path / "curves.png")


@pytest.mark.slow
def test_drawing_does_not_import_pyplot():
    program = "import sys, albef_amc.visualization.drawing; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "A.PNG"])
def test_the_ending_chooses_the_format(name, tmp_path):
    with Image.open(save_picture(make_image(), tmp_path / name)) as picture:
        assert picture.size == (400, 320)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["picture", "picture.txt", "picture.psd"])
def test_an_ending_without_a_format_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="not a picture format"):
        save_picture(make_image(), tmp_path / name)


def test_a_full_disk_leaves_the_old_picture_and_no_rest(tmp_path, monkeypatch):
    path = save_picture(make_image("red"), tmp_path / "picture.png")
    before = path.read_bytes()

    def fill_the_disk(self, data):
        with open(self, "wb") as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.write_bytes", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        save_picture(make_image("navy"), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
