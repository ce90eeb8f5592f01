# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Image processor: geometry, values, and every kind of picture or non-picture that users hand in."""

import io
import json
import logging
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from testing_utils import FIXTURES_FOLDER
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from albef_amc.image_processing_albef import (
    IMAGE_FORMATS,
    MAX_IMAGE_BYTES,
    AlbefImageProcessor,
    UnusableImageError,
    load_image,
    open_image,
)

COLOURS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[255, 255, 0], [0, 255, 255], [10, 20, 30]]], np.uint8)
ORIENTATION_TAG = 0x0112


@pytest.fixture
def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 61, 3), dtype=np.uint8))


@pytest.fixture
def warnings_logged(caplog):
    logging.Logger.warning_once.cache_clear()
    caplog.set_level(logging.WARNING)
    return caplog


def write_png(
    path: Path, width: int, height: int, bit_depth: int, colour_type: int, rows: bytes, chunks: tuple = ()
) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


def test_values_equal_plain_pillow(photo):
    processor = AlbefImageProcessor()
    features = processor(photo, return_tensors="pt")
    resized = np.asarray(photo.resize((256, 256), Image.Resampling.BICUBIC)) / 255
    expected = (resized - np.array(processor.image_mean)) / np.array(processor.image_std)
    assert features["pixel_values"].dtype == torch.float32
    np.testing.assert_allclose(features["pixel_values"][0].permute(1, 2, 0), expected, atol=1e-6, rtol=0)
    assert features["original_sizes"].dtype == torch.int64
    assert features["original_sizes"].tolist() == [[48, 61]]


@pytest.mark.parametrize(
    "options",
    [{}, {"do_rescale": False}, {"do_normalize": False}, {"do_resize": False}, {"resample": Image.Resampling.BOX}],
)
def test_levels_are_looked_up_that_transformers_computes_for_every_pixel(photo, options):
    settings = {name: getattr(AlbefImageProcessor(size=32), name) for name in ("do_resize", "size", "resample")}
    settings |= dict(do_center_crop=False, crop_size=None, do_rescale=True, rescale_factor=1 / 255, do_normalize=True)
    settings |= dict(image_mean=OPENAI_CLIP_MEAN, image_std=OPENAI_CLIP_STD, do_pad=False, pad_size=None)
    pixels = np.moveaxis(np.asarray(photo.convert("RGB")), -1, 0)
    expected = PilBackend()._preprocess([pixels], **settings | options, return_tensors="np")["pixel_values"]
    computed = AlbefImageProcessor(size=32)(photo, **options, return_tensors="np")["pixel_values"]
    assert computed.dtype == expected.dtype and np.array_equal(computed, expected)


def test_an_upright_rgb_image_is_not_copied(photo):
    image = photo.convert("RGB")
    assert load_image(image) is image
    image.getexif()[ORIENTATION_TAG] = 6
    assert load_image(image).size == image.size[::-1]


def test_defaults_are_the_published_ones():
    processor = AlbefImageProcessor()
    assert dict(processor.size) == {"height": 256, "width": 256}
    assert processor.resample == Image.Resampling.BICUBIC
    assert tuple(processor.image_mean) == (0.48145466, 0.4578275, 0.40821073)
    assert tuple(processor.image_std) == (0.26862954, 0.26130258, 0.27577711)


def test_every_input_type_gives_the_same_pixels(photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    array = np.asarray(photo)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    inputs = [
        photo,
        str(tmp_path / "photo.png"),
        tmp_path / "photo.png",
        (tmp_path / "photo.png").read_bytes(),
        array,
        array.astype(np.int64),
        array.astype(np.float32) / 255,
        array.astype(np.uint16) * 257,
        tensor,
        tensor / 255,
        tensor.double() / 255,
    ]
    features = AlbefImageProcessor(size=32)(inputs, return_tensors="pt")
    assert features["pixel_values"].shape == (len(inputs), 3, 32, 32)
    for row in features["pixel_values"]:
        assert torch.equal(row, features["pixel_values"][0])
    assert features["original_sizes"].tolist() == [[48, 61]] * len(inputs)


def test_batched_arrays_are_lists_of_images(photo):
    batch = np.stack([np.asarray(photo)] * 3)
    assert AlbefImageProcessor(size=32)(batch)["pixel_values"].shape == (3, 3, 32, 32)


def test_height_and_width_are_kept_apart(photo):
    features = AlbefImageProcessor(size={"height": 32, "width": 64})(photo, return_tensors="pt")
    assert features["pixel_values"].shape == (1, 3, 32, 64)
    assert AlbefImageProcessor()(photo, size=16)["pixel_values"].shape == (1, 3, 16, 16)


def test_settings_are_kept_by_saving(tmp_path, photo):
    processor = AlbefImageProcessor(
        size={"height": 32, "width": 48}, image_mean=[0.1, 0.2, 0.3], image_std=[1.0, 2.0, 3.0], max_image_pixels=5000
    )
    processor.save_pretrained(tmp_path)
    reloaded = AlbefImageProcessor.from_pretrained(tmp_path)
    assert reloaded.to_dict() == processor.to_dict()
    assert json.loads(reloaded.to_json_string())["max_image_pixels"] == 5000
    assert np.array_equal(reloaded(photo)["pixel_values"], processor(photo)["pixel_values"])


@pytest.mark.parametrize("options", [{"size": {"shortest_edge": 32}}, {"do_center_crop": True, "crop_size": 16}])
def test_other_geometries_are_refused(photo, options):
    with pytest.raises(ValueError, match="regions and heatmaps follow one geometry"):
        AlbefImageProcessor()(photo, **options)


def test_without_resize_images_must_agree(photo):
    processor = AlbefImageProcessor(do_resize=False)
    assert processor(photo)["pixel_values"].shape == (1, 3, 48, 61)
    with pytest.raises(ValueError, match="different sizes cannot form a batch"):
        processor([photo, photo.resize((10, 10))])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    stored = {
        1: COLOURS,
        2: COLOURS[:, ::-1],
        3: COLOURS[::-1, ::-1],
        4: COLOURS[::-1],
        5: COLOURS.transpose(1, 0, 2),
        6: np.rot90(COLOURS, 1),
        7: COLOURS[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(COLOURS, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    file = tmp_path / f"turned.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(file, exif=exif)
    assert np.array_equal(load_image(file), COLOURS)
    assert AlbefImageProcessor()(file)["original_sizes"].tolist() == [[2, 3]]


def test_grayscale_and_bilevel(tmp_path):
    for mode in ("L", "1"):
        file = tmp_path / f"{mode}.png"
        Image.fromarray(COLOURS[..., 0]).convert(mode).save(file)
        image = load_image(file)
        assert image.mode == "RGB"
        assert np.asarray(image)[..., 2].tolist() == [[255, 0, 0], [255, 0, 0 if mode == "1" else 10]]


def test_cmyk(tmp_path):
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    red, green, blue = np.asarray(load_image(tmp_path / "cmyk.jpg"))[0, 0].tolist()
    assert red > 240 and green < 15 and blue < 15


def test_palette_with_transparency_is_laid_on_white(tmp_path, warnings_logged):
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 10, 0, 0, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "transparent.png", transparency=1)
    image.save(tmp_path / "transparent.gif", transparency=1)
    assert np.asarray(load_image(tmp_path / "opaque.png")).tolist() == [[[200, 10, 10], [0, 0, 0]]]
    assert not warnings_logged.records
    for name in ("transparent.png", "transparent.gif"):
        assert np.asarray(load_image(tmp_path / name)).tolist() == [[[200, 10, 10], [255, 255, 255]]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_on_white_and_logged_once(tmp_path, warnings_logged, mode):
    image = Image.new(mode, (2, 1), (0, 0, 0, 0) if mode == "RGBA" else (0, 0))
    image.putpixel((1, 0), (100, 100, 100, 255) if mode == "RGBA" else (100, 255))
    image.save(tmp_path / "alpha.png")
    for _ in range(2):
        assert np.asarray(load_image(tmp_path / "alpha.png")).tolist() == [[[255] * 3, [100] * 3]]
    assert [record.message for record in warnings_logged.records] == [
        "An image has transparent pixels: they are shown on white."
    ]


def test_opaque_alpha_is_silent(warnings_logged):
    assert load_image(Image.new("RGBA", (1, 1), (1, 2, 3, 255))).getpixel((0, 0)) == (1, 2, 3)
    assert not warnings_logged.records


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_gray_is_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    assert np.asarray(load_image(tmp_path / f"deep.{suffix}"))[..., 1].tolist() == [[0, 1, 128, 255]]


def test_sixteen_bit_rgb_is_scaled_not_clipped(tmp_path):
    row = b"\x00" + struct.pack(">6H", 0, 257, 32896, 65535, 514, 771)
    file = write_png(tmp_path / "deep.png", 2, 1, 16, 2, row)
    assert np.asarray(load_image(file)).tolist() == [[[0, 1, 128], [255, 2, 3]]]


def test_thirty_two_bit_modes(warnings_logged):
    assert load_image(Image.fromarray(np.array([[0, 65535]], np.int32))).getpixel((1, 0)) == (255, 255, 255)
    assert load_image(Image.fromarray(np.array([[0, 1]], np.float32))).getpixel((1, 0)) == (255, 255, 255)
    assert ["mode I" in record.message for record in warnings_logged.records] == [True]
    with pytest.raises(ValueError, match="values outside 0 to 65535"):
        load_image(Image.fromarray(np.array([[0, 65536]], np.int32)))


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tiff", "webp"])
def test_truncated_files_name_the_file_and_the_remedy(tmp_path, photo, suffix):
    file = tmp_path / f"cut.{suffix}"
    photo.save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    with pytest.raises(ValueError, match=rf"cut\.{suffix} (cannot be decoded|is not an image)"):
        AlbefImageProcessor()([photo, file])


@pytest.mark.parametrize("content", [b"", b"hello, I am a text file\n" * 20, b"%PDF-1.4 ...", b"\xff\xd8\xff"])
def test_files_that_are_not_images(tmp_path, content):
    file = tmp_path / "photo.jpg"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"photo\.jpg is not an image that Pillow .* Replace or remove it"):
        AlbefImageProcessor()(file)
    with pytest.raises(ValueError, match=r"images\[1\] is not an image"):
        AlbefImageProcessor()([Image.new("RGB", (2, 2)), content])


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No image file at .*nothing\.jpg"):
        AlbefImageProcessor()(tmp_path / "nothing.jpg")
    with pytest.raises(FileNotFoundError, match="No image file at"):
        AlbefImageProcessor()(str(tmp_path))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (10_000, 10), (10, 10_000)])
def test_extreme_shapes(width, height):
    features = AlbefImageProcessor()(Image.new("RGB", (width, height), (255, 255, 255)), return_tensors="pt")
    assert features["original_sizes"].tolist() == [[height, width]]
    assert torch.isfinite(features["pixel_values"]).all()
    assert features["pixel_values"].flatten(2).std() < 1


def test_large_images_are_refused_before_they_are_decoded(tmp_path):
    file = write_png(tmp_path / "large.png", 2000, 1000, 8, 2, b"never a picture")
    with pytest.raises(
        ValueError, match=r"large\.png has 2000 x 1000 pixels, more than `max_image_pixels` \(1000000\)"
    ):
        AlbefImageProcessor(max_image_pixels=1_000_000)(file)
    with pytest.raises(ValueError, match="cannot be decoded"):
        AlbefImageProcessor(max_image_pixels=2_000_000)(file)


def test_decompression_bombs_are_refused(tmp_path):
    bomb = write_png(tmp_path / "bomb.png", 100_000, 100_000, 8, 0, b"")
    with pytest.raises(ValueError, match=r"bomb\.png is too large to be safe"):
        load_image(bomb)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"10500 x 9600 pixels, more than `max_image_pixels`"):
            load_image(write_png(tmp_path / "large.png", 10_500, 9_600, 8, 0, b""))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 9), np.uint8), r"shape \(3, 8, 9\), expected \(height, width\[, channels\]\)"),
        (torch.zeros(8, 9, 3), r"shape \(8, 9, 3\), expected \(\[channels, \]height, width\)"),
        (np.zeros((0, 8, 3), np.uint8), "at least one pixel"),
        (np.full((2, 2, 3), 200.0), "values outside 0 to 1, the range of float64 pixels"),
        (np.full((2, 2, 3), np.nan), "values outside 0 to 1"),
        (np.full((2, 2, 3), -1), "values outside 0 to 255"),
        (torch.full((3, 2, 2), 300), "values outside 0 to 255"),
    ],
)
def test_arrays_of_wrong_layout_or_range(array, message):
    with pytest.raises(ValueError, match=message):
        AlbefImageProcessor()([array])


@pytest.mark.parametrize("image", [None, 3, [Image.new("RGB", (2, 2))]])
def test_wrong_types_are_named(image):
    with pytest.raises(TypeError, match=r"images\[1\] is a .* expected a PIL image"):
        AlbefImageProcessor()([Image.new("RGB", (2, 2)), image])


def test_no_images():
    with pytest.raises(ValueError, match="`images` is empty"):
        AlbefImageProcessor()([])


def test_the_image_of_the_caller_is_untouched():
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    buffer = io.BytesIO()
    Image.fromarray(COLOURS).save(buffer, "png", exif=exif)
    image = Image.open(buffer)
    load_image(image)
    assert image.size == (3, 2)
    assert image.getexif()[ORIENTATION_TAG] == 6


@pytest.mark.parametrize("suffix", ["avif", "bmp", "gif", "jpg", "png", "ppm", "tiff", "webp", "mpo"])
def test_the_formats_that_are_meant_are_read(tmp_path, photo, suffix):
    photo.save(
        tmp_path / f"photo.{suffix}", **({"save_all": True, "append_images": [photo]} if suffix == "mpo" else {})
    )
    (tmp_path / f"photo.{suffix}").rename(tmp_path / "photo")  # the name decides nothing
    assert load_image(tmp_path / "photo").size == photo.size
    assert type(load_image(tmp_path / "photo")) is Image.Image


@pytest.mark.parametrize(
    "kind", ["EPS", "SPIDER", "ICO", "TGA", "PCX", "SGI", "JPEG2000", "XBM", "PDF", "DDS", "ICNS"]
)
def test_other_formats_are_refused_under_any_name(tmp_path, kind):
    file = tmp_path / "photo.jpg"
    picture = Image.new({"SPIDER": "F", "XBM": "1"}.get(kind, "RGB"), (64, 64))
    content = io.BytesIO()
    picture.save(content, kind)  # Pillow's writer of SPIDER would register the ending of a file's name as its own
    file.write_bytes(content.getvalue())
    for source in (file, file.read_bytes()):
        with pytest.raises(UnusableImageError, match="can read as AVIF, BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP"):
            load_image(source)
    if kind in Image.OPEN:
        with Image.open(file) as opened, pytest.raises(UnusableImageError, match=f"was opened as {kind}"):
            load_image(opened)


def test_postscript_starts_no_program(monkeypatch, tmp_path):
    """A `gs` on the path would leave a file behind."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for source in (
        FIXTURES_FOLDER / "pictures" / "postscript.jpg",
        Image.open(FIXTURES_FOLDER / "pictures/postscript.jpg"),
    ):
        with pytest.raises(UnusableImageError, match="AVIF, BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP"):
            AlbefImageProcessor()(source)
    assert not (tmp_path / "started").exists()


def test_every_damage_of_the_pixels_of_a_png_file_is_found(photo):
    """Pillow compares no checksum of pixels: without ours some of these give another picture, and nothing is said."""
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    data = buffer.getvalue()
    start, end = data.index(b"IDAT") + 4, data.index(b"IEND") - 8
    for place in range(start, end, max(1, (end - start) // 200)):
        damaged = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        for opened in (damaged, Image.open(io.BytesIO(damaged))):
            with pytest.raises(UnusableImageError, match="cannot be decoded"):
                load_image(opened)
    assert np.array_equal(load_image(data), load_image(Image.open(io.BytesIO(data))))


def test_a_name_too_long_for_the_system_is_not_a_file():
    with pytest.raises(FileNotFoundError, match="No image file at a"):
        load_image("a" * 5000)


def test_a_damaged_avif_picture_is_one_error_that_names_the_file(tmp_path, photo):
    with pytest.raises(UnusableImageError, match=r"damaged\.avif is not an image") as caught:
        load_image(FIXTURES_FOLDER / "pictures" / "damaged.avif")
    assert caught.value.reason == "image file damaged or not an image"


@pytest.mark.parametrize("suffix", ["avif", "jpg", "png", "gif", "bmp", "tiff", "webp", "ppm"])
def test_damage_anywhere_is_one_kind_of_error(tmp_path, photo, suffix):
    file = tmp_path / f"photo.{suffix}"
    photo.save(file)
    content, generator = file.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(content)
        first = int(generator.integers(len(data)))
        data[first : first + 8] = generator.bytes(8)
        try:
            assert load_image(bytes(data[: int(generator.integers(len(data)))] if generator.random() < 0.3 else data))
        except UnusableImageError as error:
            assert str(error).startswith("bytes ")


def test_sixteen_bit_gray_with_a_transparent_value_is_laid_on_white():
    assert set(load_image(FIXTURES_FOLDER / "pictures" / "gray16_transparent.png").getdata()) == {(255, 255, 255)}


@pytest.mark.parametrize(
    ("bit_depth", "colour_type", "row", "key", "kept"),
    [
        (1, 0, b"\x40", (0,), [255, 255, 255]),
        (1, 0, b"\x80", (1,), [0, 0, 0]),
        (2, 0, b"\x90", (2,), [85, 85, 85]),
        (4, 0, b"\x35", (3,), [85, 85, 85]),
        (8, 0, b"\x03\x05", (3,), [5, 5, 5]),
        (16, 0, struct.pack(">2H", 1000, 40000), (1000,), [156, 156, 156]),
        (8, 2, bytes([1, 2, 3, 4, 5, 6]), (1, 2, 3), [4, 5, 6]),
        (16, 2, struct.pack(">6H", 1000, 2000, 3000, 40000, 50000, 60000), (1000, 2000, 3000), [156, 195, 234]),
    ],
)
def test_one_transparent_colour_is_laid_on_white_at_every_depth(tmp_path, bit_depth, colour_type, row, key, kept):
    chunk = (b"tRNS", struct.pack(f">{len(key)}H", *key))
    file = write_png(tmp_path / "key.png", 2, 1, bit_depth, colour_type, b"\0" + row, (chunk,))
    assert np.asarray(load_image(file)).tolist() == [[[255, 255, 255], kept]]


@pytest.mark.parametrize("mode", ["1", "L", "La", "LA", "P", "PA", "RGB", "RGBa", "RGBA", "RGBX", "I", "I;16", "F"])
@pytest.mark.parametrize("key", [None, 0, (0, 0, 0), b"\0"])
def test_every_mode_and_declared_transparency_is_read_or_refused_by_name(mode, key):
    image = Image.new(mode, (2, 1))
    if key is not None:
        image.info["transparency"] = key
    try:
        assert load_image(image).mode == "RGB"
    except UnusableImageError as error:
        assert "which cannot be converted" in str(error)


def test_files_that_grow_when_they_are_opened_are_refused(tmp_path):
    bomb = b"k\0\0" + zlib.compress(bytes(50_000_000))
    for kind in (b"zTXt", b"iCCP"):
        file = write_png(tmp_path / "text.png", 1, 1, 8, 0, b"\0\0", ((kind, bomb),))
        with pytest.raises(UnusableImageError, match="too large"):
            load_image(file)


def test_pictures_of_thousands_of_scans_are_refused(tmp_path):
    buffer = io.BytesIO()
    thumbnail = Image.Exif()
    thumbnail[0x010E] = "\xff\xda" * 2000  # looks like scans, inside a segment
    Image.new("L", (2000, 2000), 128).save(buffer, "JPEG", progressive=True, exif=thumbnail)
    content = buffer.getvalue()
    last = content[content.rindex(b"\xff\xda") : -2]
    assert load_image(content).size == (2000, 2000)
    assert load_image(content + last * 600).size == (2000, 2000)  # after the end of the picture
    (tmp_path / "scans.jpg").write_bytes(content[:-2] + last * 600 + content[-2:])
    for source in (tmp_path / "scans.jpg", (tmp_path / "scans.jpg").read_bytes()):
        with pytest.raises(UnusableImageError, match="has 60[0-9] scans of 4000000 pixels"):
            load_image(source)


def test_large_files_are_refused_before_they_are_read(tmp_path):
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    with pytest.raises(UnusableImageError, match=r"large\.jpg has 500000001 bytes, more than the 500000000"):
        open_image(tmp_path / "large.jpg")


def test_rows_of_pixels_are_converted_alike_in_every_band():
    """More rows than are converted at once."""
    values = np.random.default_rng(0).integers(0, 65536, (600, 3), dtype=np.uint16)
    expected = np.rint(values.astype(np.float64) * (255 / 65535))
    assert np.array_equal(np.asarray(load_image(Image.fromarray(values)))[..., 0], expected)
    alpha = Image.fromarray(np.random.default_rng(1).integers(0, 256, (600, 3, 4), dtype=np.uint8))
    white = Image.new("RGBA", alpha.size, "white")
    assert load_image(alpha).tobytes() == Image.alpha_composite(white, alpha).convert("RGB").tobytes()


@pytest.mark.parametrize("value", [None, 5, object()])
def test_what_is_not_a_picture_is_a_type_error(value):
    with pytest.raises(TypeError, match="image 'x' is a .*, expected a PIL image"):
        load_image(value, name="image 'x'")


def test_names_of_formats_are_those_of_pillow():
    assert set(IMAGE_FORMATS) <= set(Image.OPEN)
