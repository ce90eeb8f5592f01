# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Fuzz test of raw files of data sets: JSON Lines, COCO-style files with phrases, and AMC's lists."""

import copy
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_frame import UNAFFECTED, Category, refused, repaired
from fuzz_inputs import HEIGHT, REGION, WIDTH, Drawn, build_photo, choose, encode, get_folder
from PIL import Image

from albef_amc.datasets_scripts import BUILDERS
from albef_amc.regions_albef import encode_rle

JSONL, COCO, AMC = "jsonl", "coco_phrases", "amc_json"
KINDS = (JSONL, COCO, AMC)
FILES = {JSONL: "train.jsonl", COCO: "annotations.json", AMC: "list.json"}  # read first
BOX = [4.0, 5.0, 14.0, 20.0]
SQUARE = [4, 5, 14, 5, 14, 20, 4, 20]
NAN, HUGE = float("nan"), 10**400


@dataclass
class Source:
    """Files of a data set before they are written.

    Args:
        kind (`str`): builder.
        content: what the annotations hold: lines, the two files of COCO, or entries.
        images (`dict`): file name -> bytes.
        rewrite (callable): from the bytes of an annotation file to those that are written.
    """

    kind: str
    content: Any
    images: dict[str, bytes]
    rewrite: Callable[[bytes], bytes] = bytes

    def list_records(self) -> list[dict[str, Any]]:
        """The records that hold the phrases: of COCO and AMC each, of JSON Lines each phrase of the lines."""
        if self.kind == JSONL:
            return [phrase for row in self.content for phrase in row["phrases"]]
        return self.content["phrases"] if self.kind == COCO else self.content

    def set_box(self, record: dict[str, Any], box: Any) -> None:
        """Gives a record another only box."""
        record["boxes" if self.kind == JSONL else "bbox"] = [box]

    def write(self, folder: Path) -> dict[str, Any]:
        """Writes the files; returns the options of the builder."""
        image_folder = folder / "images" if self.kind == COCO else folder
        image_folder.mkdir(exist_ok=True)
        for name, data in self.images.items():
            (image_folder / name).write_bytes(data)
        files = {"train.jsonl": "\n".join(json.dumps(row) for row in self.content)} if self.kind == JSONL else {}
        if self.kind == COCO:
            files = {f"{name}.json": json.dumps(content) for name, content in self.content.items()}
        if self.kind == AMC:
            files = {"list.json": json.dumps(self.content)}
        for name, text in files.items():
            (folder / name).write_bytes(self.rewrite(text.encode()))
        return {"data_root": str(folder), **({"annotation_files": "list.json"} if self.kind == AMC else {})}


def build_source(number: int) -> Source:
    """A clean data set of one of the kinds: two images, three phrases."""
    images = {name: encode(build_photo(index)) for index, name in enumerate(("a.png", "b.png"))}
    mask = encode_rle(REGION)
    if KINDS[number] == JSONL:
        first = {"phrase": "the dog", "boxes": [BOX], "polygons": [SQUARE], "types": ["animal"]}
        second = {"phrase": "a big cup", "boxes": [[1, 2, 30, 20]], "masks": [mask]}
        third = {"phrase": "the dog", "caption": "here is the dog", "spans": [[8, 15]], "paraphrases": ["a dog"]}
        rows = [
            {"image": "a.png", "width": WIDTH, "height": HEIGHT, "phrases": [first, second]},
            {"image": "b.png", "image_id": "other", "phrases": [third], "proposals": [{"box": BOX, "score": 0.5}]},
        ]
        return Source(JSONL, rows, images)
    if KINDS[number] == COCO:
        sizes = {"width": WIDTH, "height": HEIGHT}
        annotations = {
            "images": [{"id": 1, "file_name": "a.png", **sizes}, {"id": 2, "file_name": "b.png", **sizes}],
            "annotations": [
                {"id": 10, "image_id": 1, "bbox": [4, 5, 10, 15], "category_id": 7, "segmentation": [SQUARE]},
                {"id": 11, "image_id": 2, "bbox": [1, 2, 29, 18], "category_id": 7, "segmentation": mask},
            ],
            "categories": [{"id": 7, "name": "dog"}],
        }
        records = [
            {"id": 0, "image_id": 1, "phrase": "the dog", "bbox": [BOX], "ann_ids": [10]},
            {"id": 1, "image_id": 2, "phrase": "a big cup", "bbox": [[1, 2, 30, 20]], "ann_ids": [11]},
            {
                "id": 2,
                "image_id": 2,
                "phrase": "the dog",
                "bbox": [BOX],
                "caption": "here is the dog",
                "span": [8, 15],
            },
        ]
        return Source(COCO, {"annotations": annotations, "phrases": records}, images)
    entries = [
        {"image": "a.png", "caption": "the dog", "bbox": [BOX]},
        {"image": "b.png", "caption": ["a big cup", "the large cup"], "bbox": [[1, 2, 30, 20]]},
        {"image": "b.png", "caption": "the dog", "bbox": [BOX, [1, 1, 9, 9]]},
    ]
    return Source(AMC, entries, images)


def read_source(source: Source) -> list[dict[str, Any]]:
    """Rows that the builder makes of the files, without the images' bytes."""
    with tempfile.TemporaryDirectory(dir=get_folder()) as folder:
        data, cache = Path(folder) / "data", Path(folder) / "cache"
        data.mkdir()
        options = source.write(data)
        builder = BUILDERS[source.kind](cache_dir=str(cache), **options)
        builder.download_and_prepare()
        splits = builder.as_dataset()
        rows = [row for split in splits.values() for row in split.remove_columns("image").to_list()]
        shutil.rmtree(cache, ignore_errors=True)
    return sorted(rows, key=lambda row: row["image_id"])


annotations = Category("annotations", build_source, read_source, num_clean=len(KINDS))


# The text of the files


@annotations.mutation
def other_text(source: Source, generator: np.random.Generator) -> Drawn:
    ways = [
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data + b"\n\n  \n",
        lambda data: data.replace(b'": ', b'" :  '),
        lambda data: data.replace(b"dog", b"\\u0064og"),
        lambda data: b"\n" + data,
    ]
    source.rewrite = choose(generator, ways)
    return source, UNAFFECTED


@annotations.mutation
def damaged_text(source: Source, generator: np.random.Generator) -> Drawn:
    share = generator.uniform(0.05, 0.95)
    ways = [
        lambda data: data[: int(len(data) * share)].rstrip(b" \n,}]") + b",",
        lambda data: data.replace(b":", b"", 1),
        lambda data: b"[" * 20_000 + data,
        lambda data: b"not JSON\n" + data,
        lambda data: data + b"]]",
        lambda data: b"\x89PNG\r\n" + data,
    ]
    source.rewrite = choose(generator, ways)
    return source, refused(FILES[source.kind])


@annotations.mutation
def other_encoding(source: Source, generator: np.random.Generator) -> Drawn:
    encoding = choose(generator, ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
    source.rewrite = lambda data: data.decode().encode(encoding)
    return source, refused("UTF-8")


@annotations.mutation
def latin_text(source: Source, generator: np.random.Generator) -> Drawn:
    source.rewrite = lambda data: data.replace(b"big", "größe".encode("latin-1"))
    return source, refused("UTF-8")


@annotations.mutation
def other_top_level(source: Source, generator: np.random.Generator) -> Drawn:
    text = choose(generator, [b"null", b"7", b'"text"', b"true", b"{}" if source.kind != JSONL else b"[]"])
    source.rewrite = lambda data: text
    return source, refused(FILES[source.kind])


@annotations.mutation
def empty_files(source: Source, generator: np.random.Generator) -> Drawn:
    source.rewrite = choose(generator, [lambda data: b"", lambda data: b" \n", lambda data: b"\xef\xbb\xbf"])
    return source, refused("has a phrase" if source.kind == JSONL else FILES[source.kind])


@annotations.mutation
def other_order_of_keys(source: Source, generator: np.random.Generator) -> Drawn:
    def turn(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: turn(value[name]) for name in reversed(value)}
        return [turn(entry) for entry in value] if isinstance(value, list) else value

    source.content = turn(source.content)
    return source, UNAFFECTED


# Images


@annotations.mutation
def image_missing(source: Source, generator: np.random.Generator) -> Drawn:
    source.images.pop(choose(generator, ["a.png", "b.png"]))
    return source, repaired("image missing")


@annotations.mutation
def image_damaged(source: Source, generator: np.random.Generator) -> Drawn:
    name = choose(generator, ["a.png", "b.png"])
    data = source.images[name]
    ways = [b"", b"text", data[: len(data) // 2], data[:50], generator.bytes(80), b"%!PS-Adobe-3.0 EPSF-3.0\n"]
    source.images[name] = choose(generator, ways)
    return source, repaired("image damaged")


@annotations.mutation
def image_in_another_format(source: Source, generator: np.random.Generator) -> Drawn:
    kind = choose(generator, ["BMP", "TIFF", "PPM", "JPEG", "WEBP"])
    source.images["a.png"] = encode(build_photo(0), kind)
    return source, UNAFFECTED


@annotations.mutation
def image_of_another_size(source: Source, generator: np.random.Generator) -> Drawn:
    if source.kind == AMC:
        return source, UNAFFECTED  # its lists hold no sizes
    source.images["a.png"] = encode(
        Image.new("RGB", choose(generator, [(HEIGHT, WIDTH), (41, 30), (400, 300), (1, 1)]))
    )
    return source, repaired("image of another size")


@annotations.mutation
def image_turned(source: Source, generator: np.random.Generator) -> Drawn:
    exif = Image.Exif()
    exif[0x0112] = choose(generator, [2, 3, 4])
    source.images["a.png"] = encode(build_photo(0), exif=exif)
    return source, repaired("image turned")


@annotations.mutation
def path_outside(source: Source, generator: np.random.Generator) -> Drawn:
    names = [
        "../a.png",
        "/etc/passwd",
        "x/../../a.png",
        "C:/a.png",
        "..\\a.png",
        "x\\a.png",
        "a.png\0",
        "..",
        "//a.png",
    ]
    name = choose(generator, names)
    if source.kind == JSONL:
        source.content[0]["image"] = name
    elif source.kind == COCO:
        source.content["annotations"]["images"][0]["file_name"] = name
    else:
        source.content[0]["image"] = name
        source.content[1:] = []
    words = {JSONL: "line 1: `image`", COCO: "`file_name`", AMC: "list.json#0"}
    return source, refused(words[source.kind])


# Boxes


@annotations.mutation
def number_of_another_kind(source: Source, generator: np.random.Generator) -> Drawn:
    record = choose(generator, source.list_records()[:2])
    box = list(record["boxes" if source.kind == JSONL else "bbox"][0])
    source.set_box(record, [choose(generator, [int, float])(value) for value in box])
    return source, UNAFFECTED


@annotations.mutation
def box_over_the_border(source: Source, generator: np.random.Generator) -> Drawn:
    boxes = [[-5, 3, 9, 9], [3, -904, 9, 9], [3, 3, 41, 9], [3, 3, 9, 1e9], [-9, -9, 99, 99]]
    source.set_box(choose(generator, source.list_records()), choose(generator, boxes))
    return source, repaired("box of a file over the border")


@annotations.mutation
def box_without_place(source: Source, generator: np.random.Generator) -> Drawn:
    forms = [([5, 5, 5, 9], "empty box"), ([5, 5, 9, 5], "empty box"), ([7, 7, 7, 7], "empty box")]
    forms += [([50, 3, 60, 9], "box outside"), ([-9, -9, -2, -2], "box outside"), ([3, 31, 9, 90], "box outside")]
    box, name = choose(generator, forms)
    source.set_box(choose(generator, source.list_records()), box)
    return source, repaired(choose(generator, [name, "phrase without a box"]))


@annotations.mutation
def box_reversed(source: Source, generator: np.random.Generator) -> Drawn:
    source.set_box(
        choose(generator, source.list_records()), choose(generator, [[9, 3, 5, 9], [3, 9, 9, 5], [9, 9, 3, 3]])
    )
    return source, refused("ends before it begins") if source.kind == JSONL else repaired("reversed box")


@annotations.mutation
def box_of_no_numbers(source: Source, generator: np.random.Generator) -> Drawn:
    box: list[Any] = list(BOX)
    box[int(generator.integers(4))] = choose(
        generator, ["7", None, True, NAN, float("inf"), HUGE, -HUGE, [3], {}, 1e300]
    )
    box = choose(generator, [box, box, box, BOX[:3], [*BOX, 1.0], [BOX], "4,5,14,20"])
    source.set_box(choose(generator, source.list_records()), box)
    return source, refused("`boxes` must be lists") if source.kind == JSONL else repaired("box not of numbers")


@annotations.mutation
def boxes_of_another_kind(source: Source, generator: np.random.Generator) -> Drawn:
    record = choose(generator, source.list_records())
    value = choose(generator, ["box", 7, {"x": 4}, True])
    record["boxes" if source.kind == JSONL else "bbox"] = value
    if source.kind == COCO:
        return source, repaired("box not of numbers")
    return source, refused("boxes" if source.kind == JSONL else "bbox")


@annotations.mutation
def one_box_damaged_among_several(source: Source, generator: np.random.Generator) -> Drawn:
    record = choose(generator, source.list_records())
    record["boxes" if source.kind == JSONL else "bbox"] = [BOX, [5, 5, 5, 5]]
    return source, repaired("empty box")


@annotations.mutation
def boxes_as_shares(source: Source, generator: np.random.Generator) -> Drawn:
    source = build_source(0)
    for row in source.content:
        row.pop("proposals", None)
        for phrase in row["phrases"]:
            phrase["boxes"] = [[0.1, 0.1, 0.4, 0.7]]
    return source, refused("`box_format='normalized_xyxy'`")


# Phrases


@annotations.mutation
def phrase_of_another_kind(source: Source, generator: np.random.Generator) -> Drawn:
    value = choose(generator, [7, None, ["a dog", 7], {"a": "dog"}, True, 2.5])
    source.list_records()[0]["caption" if source.kind == AMC else "phrase"] = value
    if source.kind == COCO:
        return source, repaired("record without a phrase")
    return source, refused("phrase" if source.kind == JSONL else "caption")


@annotations.mutation
def phrase_of_half_characters(source: Source, generator: np.random.Generator) -> Drawn:
    text = choose(generator, ["\ud83d dog", "a \udc36", "\udfff"])
    source.list_records()[0]["caption" if source.kind == AMC else "phrase"] = text
    if source.kind == JSONL:
        return source, refused("`phrase` must be a text")
    if source.kind == COCO and not text.strip():
        return source, repaired("record without a phrase")
    return source, repaired("text without words")


@annotations.mutation
def phrase_without_words(source: Source, generator: np.random.Generator) -> Drawn:
    text = choose(generator, ["", " ", "\n", "?", "...", "-", "!?", " / "])
    source.list_records()[0]["caption" if source.kind == AMC else "phrase"] = text
    if source.kind == JSONL and not text.strip():
        return source, refused("`phrase`")
    if source.kind == COCO and not text.strip():
        return source, repaired("record without a phrase")
    return source, repaired("text without words")


@annotations.mutation
def span_elsewhere(source: Source, generator: np.random.Generator) -> Drawn:
    if source.kind == AMC:
        return source, UNAFFECTED  # its lists hold no spans
    span = choose(
        generator, [[8, 99], [-1, 3], [9, 9], [9, 3], [0.5, 3], ["8", "15"], [8], [8, 15, 16], [None, 3], [HUGE, 9]]
    )
    record = source.list_records()[2]
    record["spans" if source.kind == JSONL else "span"] = [span] if source.kind == JSONL else span
    return source, refused("`spans`") if source.kind == JSONL else repaired("span not in the caption")


# Outlines


@annotations.mutation
def mask_damaged(source: Source, generator: np.random.Generator) -> Drawn:
    if source.kind == AMC:
        return source, UNAFFECTED  # its lists hold no outlines
    text = encode_rle(REGION)["counts"]
    size = [HEIGHT, WIDTH]
    forms = [
        {"size": size, "counts": text[: len(text) // 2]},
        {"size": size, "counts": [2**62, 2**62, 2**62, 2**62, HEIGHT * WIDTH]},
        {"size": [10**6, 10**6], "counts": [10**12]},
        {"size": size, "counts": [HUGE]},
        {"size": [HEIGHT, HUGE], "counts": text},
        {"size": [WIDTH, HEIGHT], "counts": text},
        {"size": size, "counts": [0.5, 3]},
        {"size": size, "counts": [-5, HEIGHT * WIDTH + 5]},
        {"size": size},
        {},
        {"size": size, "counts": "\ud800"},
        {"size": size, "counts": [True] * 5},
    ]
    mask = choose(generator, forms)
    if source.kind == JSONL:
        source.list_records()[1]["masks"] = [mask]
        return source, repaired("mask damaged")
    source.content["annotations"]["annotations"][1]["segmentation"] = mask
    return source, repaired("outline damaged")


@annotations.mutation
def polygon_damaged(source: Source, generator: np.random.Generator) -> Drawn:
    if source.kind == AMC:
        return source, UNAFFECTED  # its lists hold no outlines
    polygon: list[Any] = list(SQUARE)
    polygon[int(generator.integers(8))] = choose(generator, ["7", None, True, NAN, float("inf"), HUGE, [3], {}, 1e30])
    polygon = choose(generator, [polygon, polygon, SQUARE[:7], [SQUARE], "polygon"])
    if source.kind == JSONL:
        source.list_records()[0]["polygons"] = [polygon]
        return source, refused("`polygons`")
    source.content["annotations"]["annotations"][0]["segmentation"] = [polygon]
    return source, repaired("outline damaged")


# Records


@annotations.mutation
def unknown_field(source: Source, generator: np.random.Generator) -> Drawn:
    record = choose(generator, source.list_records())
    record[choose(generator, ["comment", "bboxes", "Phrase", ""])] = choose(generator, [7, "text", None, []])
    return source, refused("unknown field") if source.kind == JSONL else UNAFFECTED


@annotations.mutation
def field_missing(source: Source, generator: np.random.Generator) -> Drawn:
    if source.kind == JSONL:
        source.content[0].pop(name := choose(generator, ["image", "phrases"]))
        return source, refused(f"no `{name}`")
    if source.kind == AMC:
        source.content[0].pop(name := choose(generator, ["image", "caption", "bbox"]))
        return source, refused(f"`{name}`")
    part = choose(generator, ["images", "annotations", "categories"])
    change = choose(generator, ["list", "entries", "id"])
    if change == "list":
        source.content["annotations"].pop(part)
    elif change == "entries":
        source.content["annotations"][part] = choose(generator, [None, {}, "text", [7], [None]])
    else:
        source.content["annotations"][part][0].pop("id")
    return source, refused(f"`{part}`" if change == "list" else "annotations.json")


@annotations.mutation
def record_of_another_kind(source: Source, generator: np.random.Generator) -> Drawn:
    value = choose(generator, [7, None, "text", [], True])
    if source.kind == JSONL:
        source.content[0] = value
    elif source.kind == COCO:
        source.content["phrases"][0] = value
    else:
        source.content[0] = value
    return source, refused("phrases.json" if source.kind == COCO else FILES[source.kind])


@annotations.mutation
def repeated(source: Source, generator: np.random.Generator) -> Drawn:
    if source.kind == AMC:
        source.content.append(copy.deepcopy(source.content[0]))
        return source, repaired("entry repeated")
    if source.kind == JSONL:
        source.content.append(copy.deepcopy(source.content[0]))
        return source, refused("image id")
    part = choose(generator, ["images", "annotations", "categories"])
    source.content["annotations"][part].append(copy.deepcopy(source.content["annotations"][part][0]))
    return source, refused("occurs twice")


@annotations.mutation
def dangling(source: Source, generator: np.random.Generator) -> Drawn:
    if source.kind != COCO:
        return source, UNAFFECTED
    change = choose(generator, ["image", "annotation", "phrases"])
    if change == "image":
        source.content["phrases"][0]["image_id"] = choose(generator, [99, None, "1.0", HUGE, [1], True])
        return source, repaired("unknown image")
    if change == "annotation":
        source.content["phrases"][0]["ann_ids"] = [choose(generator, [99, None, "x", 11, HUGE])]
        return source, repaired("unknown annotation")
    source.content["phrases"] = source.content["phrases"][1:]
    return source, repaired("image without a phrase")
