# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Fuzz test of what a processor is given: pictures, phrases, boxes, outlines and masks."""

import functools
import io
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_frame import UNAFFECTED, Category, Expectation, refused, repaired
from PIL import Image

from albef_amc import AlbefConfig, AlbefForImageTextMatching, AlbefImageProcessor, AlbefProcessor
from albef_amc.regions_albef import encode_rle
from albef_amc.text_processing_albef import build_tokenizer

WIDTH, HEIGHT = 40, 30
COLOURS, SHAPES = ("red", "blue", "green"), ("circle", "square", "triangle")
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "a", "left", "of", *COLOURS, *SHAPES]
MAX_PIECES = 24
Drawn = tuple[Any, Expectation]


def build_config() -> AlbefConfig:
    """A model of two layers per part, for images of 32 x 32 pixels."""
    vision = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    text = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2, fusion_layer=2)
    ids = dict(vocab_size=len(VOCABULARY), cls_token_id=2, sep_token_id=3, mask_token_id=4)
    return AlbefConfig(
        vision_config=dict(vision, image_size=32, patch_size=8, initializer_range=0.3),
        text_config=dict(text, max_position_embeddings=MAX_PIECES, initializer_range=0.3, **ids),
        projection_dim=8,
        explanation_layer=2,
        explanation_block=1,
        queue_size=8,
        initializer_range=0.3,
    )


@functools.cache
def build_model() -> AlbefForImageTextMatching:
    """The model, with the same random weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AlbefForImageTextMatching(build_config()).eval()


@functools.cache
def build_processor() -> AlbefProcessor:
    """Its processor."""
    tokenizer = build_tokenizer(VOCABULARY, model_max_length=MAX_PIECES)
    return AlbefProcessor(AlbefImageProcessor(size={"height": 32, "width": 32}), tokenizer)


@functools.cache
def get_folder() -> Path:
    """A folder for files of this process."""
    folder = tempfile.TemporaryDirectory(prefix="fuzz-")
    get_folder.kept = folder  # type: ignore[attr-defined]
    return Path(folder.name)


def build_photo(number: int) -> Image.Image:
    """A picture of smooth colours."""
    pixels = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write(data: bytes, name: str) -> Path:
    """A file of these bytes."""
    path = get_folder() / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def choose(generator: np.random.Generator, options: Any) -> Any:
    """One of several options, which may be of any type."""
    options = list(options)
    return options[int(generator.integers(len(options)))]


def ground(inputs: dict[str, Any]) -> list[dict[str, Any]]:
    """What the model finds for the phrases of a picture."""
    processor, model = build_processor(), build_model()
    batch = processor(**inputs)
    (found,) = processor.post_process_grounding(model.ground(**batch), return_heatmaps=False)
    return [{name: answer[name] for name in ("score", "point", "box")} for answer in found]


# Pictures

pictures = Category(
    "pictures",
    build_photo,
    lambda image: ground({"images": image, "text": ["the red circle", "a blue square"]}),
    num_clean=4,
)


@pictures.mutation
def other_container(image: Image.Image, generator: np.random.Generator) -> Drawn:
    data, array = encode(image), np.asarray(image)
    forms = {
        "path": lambda: write(data, "photo.png"),
        "text": lambda: str(write(data, "photo.png")),
        "bytes": lambda: data,
        "undecoded row": lambda: {"bytes": data, "path": "elsewhere.png"},
        "undecoded row without a path": lambda: {"bytes": data, "path": None},
        "list": lambda: [image],
        "tuple": lambda: (image,),
        "array": lambda: array,
        "read-only array": lambda: np.frombuffer(array.tobytes(), np.uint8).reshape(array.shape),
        "strided array": lambda: np.ascontiguousarray(array[:, ::-1])[:, ::-1],
        "column-major array": lambda: np.asfortranarray(array),
        "tensor": lambda: torch.from_numpy(array.copy()).permute(2, 0, 1),
        "16-bit array": lambda: array.astype(np.uint16) * 257,
        "wide whole numbers": lambda: array.astype(np.int64),
        "shares": lambda: array / 255,
        "shares as a tensor": lambda: torch.from_numpy(array / 255).permute(2, 0, 1).float(),
        "big-endian array": lambda: array.astype(">u2") * np.array(257, ">u2"),
    }
    return choose(generator, forms.values())(), UNAFFECTED


@pictures.mutation
def other_format(image: Image.Image, generator: np.random.Generator) -> Drawn:
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees to the right
    opaque = image.convert("RGBA")
    second = Image.new("RGB", image.size, "black")
    forms = {
        "BMP": lambda: encode(image, "BMP"),
        "PPM": lambda: encode(image, "PPM"),
        "TIFF": lambda: encode(image, "TIFF", compression=choose(generator, ["raw", "tiff_lzw", "tiff_deflate"])),
        "WebP": lambda: encode(image, "WEBP", lossless=True),
        "PNG of every level": lambda: encode(image, compress_level=int(generator.integers(10))),
        "PNG with a comment": lambda: encode(image, icc_profile=b"", dpi=(7, 7)),
        "opaque alpha": lambda: encode(opaque),
        "opaque alpha in WebP": lambda: encode(opaque, "WEBP", lossless=True),
        "turned by EXIF": lambda: encode(turned, exif=exif),
        "more frames": lambda: encode(image, "TIFF", save_all=True, append_images=[second]),
        "animation": lambda: encode(image, "PNG", save_all=True, append_images=[second]),
        "bytes after the end": lambda: encode(image) + generator.bytes(int(generator.integers(1, 50))),
        "another ending": lambda: write(
            encode(image), choose(generator, ["photo.jpg", "photo.eps", "photo", "a b.x"])
        ),
    }
    return choose(generator, forms.values())(), UNAFFECTED


@pictures.mutation
def transparent(image: Image.Image, generator: np.random.Generator) -> Drawn:
    mask = Image.fromarray(generator.integers(0, 255, (HEIGHT, WIDTH), dtype=np.uint8))
    laid = image.convert("RGBA")
    laid.putalpha(mask)
    gray = Image.merge("LA", (image.convert("L"), mask))
    palette = image.quantize(8)
    forms = [
        laid,
        gray,
        encode(laid),
        encode(gray),
        encode(laid, "WEBP", lossless=True),
        encode(laid, "TIFF"),
        np.asarray(laid),
        encode(palette, transparency=int(np.asarray(palette)[0, 0])),
        encode(image.convert("L"), transparency=int(np.asarray(image.convert("L"))[0, 0])),
        encode(image, transparency=image.getpixel((0, 0))),
    ]
    return choose(generator, forms), repaired("transparency")


@pictures.mutation
def whole_numbers_of_32_bits(image: Image.Image, generator: np.random.Generator) -> Drawn:
    values = generator.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.int32)
    return Image.fromarray(values), repaired("32-bit integers")


@pictures.mutation
def values_out_of_range(image: Image.Image, generator: np.random.Generator) -> Drawn:
    array = np.asarray(image)
    row, column = int(generator.integers(HEIGHT)), int(generator.integers(WIDTH))
    kind = choose(generator, [np.float32, np.float64, np.int32, np.int64, np.float16])
    wrong = [-1, 300, 100_000] if np.issubdtype(kind, np.integer) else [-0.01, 1.5, np.nan, np.inf, -np.inf, 255]
    array = (array if np.issubdtype(kind, np.integer) else array / 255).astype(kind)
    array[row, column, int(generator.integers(3))] = choose(generator, wrong)
    return array, refused("values outside 0 to")


@pictures.mutation
def wrong_shape(image: Image.Image, generator: np.random.Generator) -> Drawn:
    shapes = [(30, 40, 2), (30, 40, 5), (3, 30, 40), (1200,), (1, 1, 30, 40, 3), (0, 40, 3), (30, 0, 3), (30, 40, 0)]
    shape = choose(generator, shapes)
    value = np.zeros(shape, dtype=choose(generator, [np.uint8, np.float32]))
    return (value if len(shape) > 4 else [value]), refused("array of shape")


@pictures.mutation
def wrong_type(image: Image.Image, generator: np.random.Generator) -> Drawn:
    values = [7, 2.5, object(), {1, 2}, True, image.tobytes, ...]
    return [choose(generator, values)], refused("expected a PIL image")


@pictures.mutation
def array_of_no_numbers(image: Image.Image, generator: np.random.Generator) -> Drawn:
    kind = choose(generator, ["<U3", "S2", object, "datetime64[s]"])
    return [np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8).astype(kind)], refused("expected numbers")


@pictures.mutation
def no_file(image: Image.Image, generator: np.random.Generator) -> Drawn:
    names = ["nowhere.png", "https://example.org/photo.jpg", "file:///etc/passwd", "", "a" * 300, "photo\n.png"]
    return choose(generator, [*names, str(get_folder()), "/dev/null", "x\0y"]), refused("No image file at")


@pictures.mutation
def row_without_bytes(image: Image.Image, generator: np.random.Generator) -> Drawn:
    path = str(write(encode(image), "photo.png"))
    rows = [{"bytes": None, "path": path}, {"bytes": "text", "path": None}, {"bytes": [1, 2], "path": path}]
    others = [{}, {"image": image}, {"pixels": 7}, {"path": path}]
    if generator.integers(2):
        return choose(generator, others), refused("expected a PIL image")
    return choose(generator, rows), refused("undecoded row without bytes")


@pictures.mutation
def no_picture(image: Image.Image, generator: np.random.Generator) -> Drawn:
    texts = [
        b"",
        b"\0" * 500,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"<svg xmlns='x'/>",
        b"%PDF-1.7\n",
    ]
    texts += [
        b"GIF89a",
        b"\xff\xd8\xff",
        b"BM",
        b"RIFF\0\0\0\0WEBP",
        b"\x89PNG\r\n\x1a\n",
        b"II*\0",
        b"P6\n-1 5\n255\n",
    ]
    data = choose(generator, [*texts, generator.bytes(int(generator.integers(1, 400)))])
    value = data if generator.integers(2) else write(data, "photo.png")
    return value, refused("that Pillow")


@pictures.mutation
def cut_off(image: Image.Image, generator: np.random.Generator) -> Drawn:
    kind = choose(generator, ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM"])
    data = encode(image, kind)
    return data[: int(generator.integers(len(data) // 3, len(data) * 9 // 10))], refused("damaged")


@functools.cache
def build_progressive_photo() -> bytes:
    """A JPEG file of three million pixels in several scans."""
    return encode(Image.new("RGB", (2000, 1500), "gray"), "JPEG", progressive=True)


@pictures.mutation
def hundreds_of_scans(image: Image.Image, generator: np.random.Generator) -> Drawn:
    data = build_progressive_photo()
    start = data.index(b"\xff\xda")
    scan = data[start : start + 2 + int.from_bytes(data[start + 2 : start + 4])] + b"\x12"
    return data[:start] + scan * int(generator.integers(700, 3000)) + data[start:], refused("scans")


@pictures.mutation
def damaged_png(image: Image.Image, generator: np.random.Generator) -> Drawn:
    data = bytearray(encode(image))
    start = data.index(b"IDAT") + 4
    for place in generator.integers(start, len(data) - 24, 4):
        data[place] ^= int(generator.integers(1, 256))
    return bytes(data), refused("damaged")


@pictures.mutation
def huge_header(image: Image.Image, generator: np.random.Generator) -> Drawn:
    sides = int(generator.integers(10_001, 2**31)), int(generator.integers(10_001, 2**31))
    header = b"IHDR" + struct.pack(">IIBBBBB", *sides, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = encode(image)
    return data[:8] + chunk + data[8 + len(chunk) :], refused("ixels")


# Phrases

phrases = Category(
    "phrases",
    lambda number: {"text": [f"the {COLOURS[number]} circle", f"a {SHAPES[number]} left of the blue square"]},
    lambda inputs: ground({"images": build_photo(9), **inputs}),
    num_clean=3,
)


@phrases.mutation
def other_writing(inputs: dict, generator: np.random.Generator) -> Drawn:
    def respell(text: str) -> str:
        ways = [
            str.upper,
            str.title,
            lambda words: f"  {words}\n",
            lambda words: words.replace(" ", "   "),
            lambda words: words.replace(" ", "-"),
            lambda words: words.replace(" ", "/", 1),
            lambda words: f"({words})!?",
            lambda words: words.replace(" ", ", "),
            lambda words: f'"{words}."',
            lambda words: words.replace(" ", "\u00a0"),
            lambda words: words.replace("e", "é"),
            lambda words: words.replace("e", "e\u0301"),
            lambda words: words.replace(" ", " \x00"),
            lambda words: words.replace("r", "r\u200b"),
            lambda words: words.replace(" ", "\t"),
        ]
        return choose(generator, ways)(text)

    return {"text": [respell(text) for text in inputs["text"]]}, UNAFFECTED


@phrases.mutation
def other_nesting(inputs: dict, generator: np.random.Generator) -> Drawn:
    texts = inputs["text"]
    forms = {
        "per image": lambda: [texts],
        "tuple": lambda: tuple(texts),
        "tuples": lambda: (tuple(texts),),
        "array": lambda: np.array(texts),
        "objects": lambda: np.array(texts, dtype=object),
        "NumPy texts": lambda: [np.str_(text) for text in texts],
        "generator": lambda: (text for text in texts),
        "array per image": lambda: [np.array(texts)],
    }
    return {"text": choose(generator, forms.values())()}, UNAFFECTED


@phrases.mutation
def other_options(inputs: dict, generator: np.random.Generator) -> Drawn:
    limits = {"max_length": int(generator.integers(8, MAX_PIECES + 1)), "max_words": int(generator.integers(8, 99))}
    name = choose(generator, limits)
    return {**inputs, name: limits[name]}, UNAFFECTED


def put(inputs: dict, generator: np.random.Generator, text: Any) -> dict:
    """The inputs with one phrase replaced."""
    texts = list(inputs["text"])
    texts[int(generator.integers(len(texts)))] = text
    return {"text": [texts] if generator.integers(2) else texts}


@phrases.mutation
def no_words(inputs: dict, generator: np.random.Generator) -> Drawn:
    texts = ["", " ", "\n\t ", "?", "...", "-", "/ /", "!?()", "\u200b", "\x00", "  \u00a0 ", "#*:;~", "'", "-" * 50]
    return put(inputs, generator, choose(generator, texts)), refused("has no words once it is cleaned")


@phrases.mutation
def too_long(inputs: dict, generator: np.random.Generator) -> Drawn:
    words = " ".join(choose(generator, COLOURS) for _ in range(int(generator.integers(MAX_PIECES, 600))))
    return put(inputs, generator, words), refused("text positions")


@phrases.mutation
def no_text(inputs: dict, generator: np.random.Generator) -> Drawn:
    values = [None, 7, 2.5, float("nan"), b"red", True, {"phrase": "red"}, object(), {"red"}]
    return put(inputs, generator, choose(generator, values)), refused("`text` must be")


@phrases.mutation
def wrong_count(inputs: dict, generator: np.random.Generator) -> Drawn:
    texts = inputs["text"]
    forms = [([texts, texts], "phrases for 2 images"), ([], "has no phrases"), ([[]], "has no phrases")]
    forms += [([texts, []], "phrases for 2 images"), ([texts, "the circle"], "`text` must be"), (7, "`text` must be")]
    value, words = choose(generator, forms)
    return {"text": value}, refused(words)


@phrases.mutation
def wrong_limits(inputs: dict, generator: np.random.Generator) -> Drawn:
    options = [("max_length", number, "`max_length` must") for number in (0, 1, -3, MAX_PIECES + 1, 10**30)]
    options += [("max_words", number, "`max_words` must") for number in (0, -1)]
    name, value, words = choose(generator, options)
    return {**inputs, name: value}, refused(words)


@phrases.mutation
def half_characters(inputs: dict, generator: np.random.Generator) -> Drawn:
    broken = chr(int(generator.integers(0xD800, 0xE000)))
    return put(inputs, generator, choose(generator, [f"red {broken}", broken, f"the{broken} dog"])), refused("phrase")


@phrases.mutation
def no_spans(inputs: dict, generator: np.random.Generator) -> Drawn:
    spans = [choose(generator, [None, [], ()]) for _ in inputs["text"]]
    return {**inputs, "spans": spans}, UNAFFECTED


@phrases.mutation
def wrong_spans(inputs: dict, generator: np.random.Generator) -> Drawn:
    spans = [
        ([(0, 999)], "does not lie in its caption"),
        ([(-1, 3)], "does not lie in its caption"),
        ([(5, 5)], "does not lie in its caption"),
        ([(6, 2)], "does not lie in its caption"),
        ([(3, 4)], "covers no token"),
        ([3], "must be a list of (start, end)"),
        ([(1, 2, 3)], "must be a list of (start, end)"),
        ([(float("nan"), 2)], "span"),
        ([("a", "b")], "span"),
        ([(None, 2)], "span"),
        ([(0.5, 2.5)], "span"),
    ]
    value, words = choose(generator, spans)
    return {"text": ["the circle", "a square"], "spans": [value, None]}, refused(words)


# Boxes

BOXES = ([4.0, 4.0, 24.0, 20.0], [10.0, 2.0, 39.0, 15.0], [1.0, 12.0, 17.0, 29.0])


def read_regions(annotations: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Region masks of two phrases."""
    batch = build_processor()(images=build_photo(0), text=["the red circle", "a square"], **annotations)
    return {name: batch[name] for name in ("region_mask", "has_region")}


boxes = Category("boxes", lambda number: {"boxes": [[list(BOXES[number])], None]}, read_regions, num_clean=len(BOXES))


def with_box(box: Any) -> dict[str, Any]:
    """Annotations of one box."""
    return {"boxes": [[box], None]}


@boxes.mutation
def other_numbers(inputs: dict, generator: np.random.Generator) -> Drawn:
    (box,) = inputs["boxes"][0]
    forms = [tuple(box), [int(value) for value in box], np.array(box), torch.tensor(box), [np.float32(v) for v in box]]
    forms += [np.array(box, dtype=np.int16), torch.tensor(box, dtype=torch.int64), [torch.tensor(v) for v in box]]
    return with_box(choose(generator, forms)), UNAFFECTED


@boxes.mutation
def other_lists(inputs: dict, generator: np.random.Generator) -> Drawn:
    box = inputs["boxes"][0][0]
    forms = [{"boxes": ([box], None)}, {"boxes": [[box], []]}, {"boxes": [[box, box], None]}]
    forms += [{"boxes": [np.array([box]), None]}, {"boxes": [torch.tensor([box]), None]}]
    return choose(generator, forms), UNAFFECTED


@boxes.mutation
def over_the_border(inputs: dict, generator: np.random.Generator) -> Drawn:
    box = list(inputs["boxes"][0][0])
    side = int(generator.integers(4))
    box[side] = float(-generator.exponential(50) - 0.1 if side < 2 else generator.exponential(1e6) + 41)
    return with_box(box), repaired("box over the border")


@boxes.mutation
def without_area(inputs: dict, generator: np.random.Generator) -> Drawn:
    x, y = generator.uniform(0, 29, 2).tolist()
    shapes = [
        [x, y, x, y + 5],
        [x, y, x + 5, y],
        [x, y, x, y],
        [0, 0, 0, 0],
        [-9, -9, -2, -2],
        [50, 3, 60, 9],
        [3, 31, 9, 90],
    ]
    name = choose(generator, ["box without area", "region without area"])
    return with_box(choose(generator, shapes)), repaired(name)


@boxes.mutation
def shares_of_the_sides(inputs: dict, generator: np.random.Generator) -> Drawn:
    x, y = generator.uniform(0, 0.5, 2).tolist()
    return with_box([x, y, x + 0.4, y + 0.3]), repaired("boxes as shares")


@boxes.mutation
def reversed_corners(inputs: dict, generator: np.random.Generator) -> Drawn:
    x_min, y_min, x_max, y_max = inputs["boxes"][0][0]
    swapped = [[x_max, y_min, x_min, y_max], [x_min, y_max, x_max, y_min], [x_max, y_max, x_min, y_min]]
    return with_box(choose(generator, swapped)), refused("must not lie before x_min, y_min")


@boxes.mutation
def not_a_number(inputs: dict, generator: np.random.Generator) -> Drawn:
    box = list(inputs["boxes"][0][0])
    wrong = [float("nan"), float("inf"), -float("inf"), "7", None, True, 10**400, -(10**400), [3], {}, 1 + 2j, b"4"]
    box[int(generator.integers(4))] = choose(generator, [*wrong, np.float64("nan"), np.inf])
    return with_box(box), refused("coordinates must be finite")


@boxes.mutation
def wrong_number_of_numbers(inputs: dict, generator: np.random.Generator) -> Drawn:
    box = inputs["boxes"][0][0]
    return with_box(choose(generator, [[], box[:3], [*box, 1.0], box * 2, [[*box]]])), refused("must be")


@boxes.mutation
def wrong_nesting(inputs: dict, generator: np.random.Generator) -> Drawn:
    box = inputs["boxes"][0][0]
    forms = [box, [box], [box, box], [[box]], [[box], None, None], "boxes", {"boxes": box}, 7, [7, 7], [["box"], None]]
    forms += [[{"box": box}, None], [[None], None]]
    return {"boxes": choose(generator, forms)}, refused("`boxes`")


# Outlines and masks

REGION = np.zeros((HEIGHT, WIDTH), dtype=bool)
REGION[5:20, 8:30] = True
RUNS = [8 * HEIGHT + 5, *[15, 15] * 21, 15, 10 + 10 * HEIGHT]
POLYGON = [5.0, 4.0, 30.0, 6.0, 25.0, 22.0]

masks = Category(
    "masks",
    lambda number: {"polygons": [[list(POLYGON)], None]} if number else {"masks": [[encode_rle(REGION)], None]},
    read_regions,
    num_clean=2,
)


def with_mask(mask: Any) -> dict[str, Any]:
    """Annotations of one mask."""
    return {"masks": [[mask], None]}


def with_polygon(polygon: Any) -> dict[str, Any]:
    """Annotations of one polygon."""
    return {"polygons": [[polygon], None]}


@masks.mutation
def other_coding(inputs: dict, generator: np.random.Generator) -> Drawn:
    if "polygons" in inputs:
        turned = POLYGON[2:] + POLYGON[:2]
        backwards = [value for corner in (4, 2, 0) for value in POLYGON[corner : corner + 2]]
        forms = [tuple(POLYGON), np.array(POLYGON), torch.tensor(POLYGON), turned, backwards]
        forms += [[int(value) for value in POLYGON], [*POLYGON, *POLYGON[-2:]]]
        return with_polygon(choose(generator, forms)), UNAFFECTED
    text = encode_rle(REGION)["counts"]
    size = [HEIGHT, WIDTH]
    forms = [
        {"size": size, "counts": RUNS},
        {"size": size, "counts": tuple(RUNS)},
        {"size": size, "counts": np.array(RUNS)},
        {"size": size, "counts": text.encode()},
        {"size": tuple(size), "counts": text},
        {"size": np.array(size), "counts": text},
        {"size": size, "counts": [*RUNS[:1], 0, 0, *RUNS[1:]]},
        {"size": size, "counts": [float(run) for run in RUNS]},
        {"size": size, "counts": text, "id": 7},
    ]
    return with_mask(choose(generator, forms)), UNAFFECTED


@masks.mutation
def wrong_runs(inputs: dict, generator: np.random.Generator) -> Drawn:
    runs: list[Any] = list(RUNS)
    place = int(generator.integers(len(runs)))
    wrong = [-1, 0.5, True, "15", None, float("nan"), float("inf"), 2**63, 10**400, -(2**62), [15], 10**6, 14, 16]
    runs[place] = choose(generator, wrong)
    return with_mask({"size": [HEIGHT, WIDTH], "counts": runs}), refused("mask")


@masks.mutation
def overflowing_runs(inputs: dict, generator: np.random.Generator) -> Drawn:
    first = int(generator.integers(1, 1200))
    runs = [first, 2**62, 2**62, 2**62, 2**62, HEIGHT * WIDTH - first]
    return with_mask({"size": [HEIGHT, WIDTH], "counts": runs}), refused("mask")


@masks.mutation
def wrong_mask_size(inputs: dict, generator: np.random.Generator) -> Drawn:
    sizes = [
        [WIDTH, HEIGHT],
        [10**6, 10**6],
        [0, 0],
        [-30, 40],
        [30],
        [30, 40, 1],
        None,
        "30x40",
        [30.5, 40],
        [True, 40],
    ]
    sizes += [[2**40, 2**40], [10**400, 1], [float("nan"), 40], [float("inf"), 40], {}, [[30], [40]], [None, None]]
    return with_mask({"size": choose(generator, sizes), "counts": encode_rle(REGION)["counts"]}), refused("mask")


@masks.mutation
def damaged_text(inputs: dict, generator: np.random.Generator) -> Drawn:
    text = encode_rle(REGION)["counts"]
    place = int(generator.integers(len(text)))
    forms = [
        text[:place],
        text + text,
        text[:place] + "~" + text[place:],
        text[:place] + "\u00e9" + text[place:],
        text[:place] + "\ud800" + text[place:],
        text + "P",
        "",
        "P" * 40 + "0",
        text[:place] + "`" + text[place + 1 :] + "o" * 12 + "0",
    ]
    return with_mask({"size": [HEIGHT, WIDTH], "counts": choose(generator, forms)}), refused("mask")


@masks.mutation
def no_mask(inputs: dict, generator: np.random.Generator) -> Drawn:
    rle = encode_rle(REGION)
    forms = [{}, {"size": rle["size"]}, {"counts": rle["counts"]}, {"size": rle["size"], "counts": None}]
    forms += [{"size": rle["size"], "counts": 7}, {"size": rle["size"], "counts": {}}, "mask", [1, 2], None, 7, REGION]
    return with_mask(choose(generator, forms)), refused("mask")


@masks.mutation
def empty_region(inputs: dict, generator: np.random.Generator) -> Drawn:
    if "polygons" in inputs:
        shapes = [
            [3.0, 3.0, 9.0, 9.0],
            [3.0, 3.0] * 4,
            [-9.0, -9.0, -2.0, -9.0, -5.0, -2.0],
            [99.0, 9.0, 90.0, 8.0, 80.0, 20.0],
        ]
        return with_polygon(choose(generator, shapes)), repaired("region without area")
    return with_mask(encode_rle(np.zeros((HEIGHT, WIDTH)))), repaired("region without area")


@masks.mutation
def wrong_corners(inputs: dict, generator: np.random.Generator) -> Drawn:
    polygon: list[Any] = list(POLYGON)
    wrong = [float("nan"), float("inf"), "5", None, True, 10**400, 1e30, [4], {}, b"4"]
    polygon[int(generator.integers(len(polygon)))] = choose(generator, wrong)
    return with_polygon(choose(generator, [polygon, POLYGON[:5], [*POLYGON, 3.0]])), refused("polygon")


@masks.mutation
def too_many_corners(inputs: dict, generator: np.random.Generator) -> Drawn:
    corners = generator.uniform(0, 30, 2 * int(generator.integers(10_001, 12_000)))
    return with_polygon(corners.tolist()), refused("corners, more than")


@masks.mutation
def wrong_outline_nesting(inputs: dict, generator: np.random.Generator) -> Drawn:
    forms = [[POLYGON, None], [[POLYGON]], POLYGON, [[[POLYGON]], None], [["polygon"], None], "polygon", 7, [7, 7]]
    return {"polygons": choose(generator, forms)}, refused("polygon")
