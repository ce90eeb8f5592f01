"""Image files: EXIF turns of annotations agree with Pillow's turn of the pixels; paths stay in their folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from testing_utils import FIXTURES_FOLDER

from albef_amc.datasets_scripts import ReadingReport
from albef_amc.datasets_scripts.reading.image_files import find_path_problem, read_image_file
from albef_amc.image_processing_albef import MAX_IMAGE_BYTES, AlbefImageProcessor
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


def draw_float(largest: float) -> Image.Image:
    return Image.fromarray(np.full((8, 8), largest, dtype=np.float32))


@pytest.mark.parametrize(
    ("picture", "kind", "reason"),
    [
        (draw_float(1.0), "TIFF", None),
        (draw_float(200.0), "TIFF", "image has a colour mode or values that are not read"),
        (draw_float(np.nan), "TIFF", "image has a colour mode or values that are not read"),
        (draw_float(1.0), "SPIDER", "image file damaged or not an image"),
        (Image.fromarray(np.full((8, 8), 65536, dtype=np.int32)), "TIFF", "image has a colour mode or values"),
        (Image.new("RGB", (8, 8)), "JPEG2000", "image file damaged or not an image"),
        (Image.new("1", (20_000, 6_000)), "PNG", "image has more pixels than the limit"),
        (Image.new("CMYK", (8, 8)), "TIFF", None),
        (Image.new("LA", (8, 8)), "PNG", None),
    ],
)
def test_builder_and_processor_decide_alike(tmp_path, picture, kind, reason):
    path, report = tmp_path / "picture", ReadingReport()
    picture.save(path, kind)
    stored = read_image_file(path, report)
    if reason is None:
        assert stored is not None and not report.counts
        assert AlbefImageProcessor(size=8)(path)["pixel_values"].shape == (1, 3, 8, 8)
        return
    assert stored is None
    ((found, place),) = report.first_places.items()
    assert found.startswith(reason) and found.endswith(": image skipped")
    assert str(path) in place
    with pytest.raises(ValueError, match=str(path)):
        AlbefImageProcessor(size=8)(path)


@pytest.mark.parametrize("name", ["damaged.avif", "postscript.jpg"])
def test_pictures_that_cannot_be_decoded_are_counted(name):
    report = ReadingReport()
    assert read_image_file(FIXTURES_FOLDER / "pictures" / name, report) is None
    assert report.counts == {"image file damaged or not an image: image skipped": 1}


def test_a_huge_file_is_not_read(tmp_path):
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    report = ReadingReport()
    assert read_image_file(tmp_path / "a.jpg", report) is None
    assert report.counts == {"image file larger than the limit: image skipped": 1}


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


def test_a_name_that_is_too_long_for_the_system_is_a_missing_file(tmp_path):
    report = ReadingReport()
    assert read_image_file(tmp_path / f"{'a' * 5000}.jpg", report) is None
    assert report.counts == {"image file missing: image skipped": 1}


def test_a_file_that_the_system_cannot_read_is_counted(tmp_path, monkeypatch):
    place = tmp_path / "a.jpg"
    place.write_bytes(b"text")

    def fail(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", fail)  # a superuser may read every file
    report = ReadingReport()
    assert read_image_file(place, report) is None
    assert report.first_places == {"image file cannot be read: image skipped": f"{place} (Permission denied)"}
