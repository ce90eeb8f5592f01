"""Image files: EXIF turns of annotations agree with Pillow's turn of the pixels; paths stay in their folder."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from albef_amc.datasets_scripts import ReadingReport
from albef_amc.datasets_scripts.image_files import find_path_problem, read_image_file
from albef_amc.regions_albef import build_region_mask, decode_rle, encode_rle

WIDTH, HEIGHT = 24, 16


@pytest.mark.parametrize("orientation", range(9))
def test_annotations_turn_with_the_picture(tmp_path, orientation):
    """Box, polygon and mask of a white patch, made on the stored pixels, cover it in the upright picture."""
    box = [3, 2, 10, 8]
    pixels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    pixels[2:8, 3:10] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))) > 0
    stored = read_image_file(tmp_path / "a.png", ReadingReport())
    assert stored.upright_size == (upright.shape[1], upright.shape[0])
    shapes = {
        "boxes": [stored.turn_box(box)],
        "polygons": [stored.turn_polygon([3, 2, 10, 2, 10, 8, 3, 8])],
        "masks": [stored.turn_mask(encode_rle(pixels))],
    }
    for name, shape in shapes.items():
        region = build_region_mask(*upright.shape, upright.shape, **{name: shape}).numpy()
        assert np.allclose(region, upright), name
    assert (decode_rle(shapes["masks"][0]) == upright).all()


@pytest.mark.parametrize("content", [None, b"", b"not a picture"])
def test_unusable_files_are_reported(tmp_path, content):
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    report = ReadingReport()
    assert read_image_file(path, report) is None
    assert len(report.counts) == 1 and str(path) in next(iter(report.first_places.values()))


@pytest.mark.parametrize("name", ["a.jpg", "VG_100K/1.jpg", "./a.jpg", "a..b/c.jpg", "train 2014/ü.jpg"])
def test_paths_inside_are_taken(name):
    assert find_path_problem(name) is None


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("/etc/a.jpg", "absolute"),
        ("C:\\a.jpg", "absolute"),
        ("../a.jpg", "leaves"),
        ("a/../../b.jpg", "leaves"),
        ("a\\..\\b.jpg", "leaves"),
        (".", "leaves"),
        ("a\0.jpg", "leaves"),
        ("VG_100K\\1.jpg", "backslashes, where `/` is expected"),
    ],
)
def test_paths_outside_are_found(name, problem):
    assert problem in find_path_problem(name)
