# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Fuzz test of the published data sets' own files: JSON, pickles, XML, sentences, drawings and ALBEF's lists."""

import functools
import io
import json
import logging
import pickle
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from fuzz_frame import REPAIRS, UNAFFECTED, Category, Expectation, refused
from fuzz_inputs import Drawn, choose, encode, get_folder
from PIL import Image

from albef_amc.datasets_scripts import BUILDERS

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"
HUGE, NAN = 10**400, float("nan")
ADDED = "more than in the clean files: "
# Boxes as their two corners, and what is said; the fixtures' images have less than 250 pixels a side.
BOXES = [([-9, 3, 20, 20], "box of a file over the border"), ([3, 3, 20, 9999], "box of a file over the border")]
BOXES += [([5, 5, 5, 30], "empty box"), ([7, 7, 7, 7], "empty box"), ([900, 3, 960, 9], "box outside")]
BROKEN = "\ud83d dog"
# What a report calls a phrase without words: where its list is read, and where the row is checked.
WORDS = {"albef_json": ("caption", "phrase"), "albef_snli_ve": ("sentence", "hypothesis")}
Setter = Callable[[Any, Any], None]


@dataclass(frozen=True)
class Kind:
    """A data set whose files are copied from the fixtures of the tests.

    Args:
        builder (`str`): name of the builder.
        folder (`str`): of the fixtures.
        text (`str`): JSON file that the mutations change.
        images (`tuple[str, ...]`): files of images without faults.
        parts (`tuple[str, ...]`): beginnings of the paths that are copied; all by default.
        options (`dict`): of the builder; `image_root` is below the folder.
        set_box (callable, *optional*): gives a record in the JSON another box, by its corners.
        set_phrase (callable, *optional*): gives a record in the JSON another phrase.
        root (`str`): the builder's `data_root` below the folder.
    """

    builder: str
    folder: str
    text: str
    images: tuple[str, ...] = ()
    parts: tuple[str, ...] = ("",)
    options: tuple[tuple[str, str], ...] = ()
    set_box: Setter | None = None
    set_phrase: Setter | None = None
    root: str = ""


def _measure(box: Any) -> Any:
    """Corner and size of a box that was given as two corners; what is no box stays."""
    is_box = isinstance(box, list) and len(box) == 4 and all(type(value) is int and value < 10**5 for value in box)
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]] if is_box else box


def _set_region(content: Any, box: Any) -> None:
    values = _measure(box) if isinstance(box, list) and len(box) == 4 else [box] * 4
    content[2]["regions"][0].update(zip(("x", "y", "width", "height"), values, strict=True))


def _set_task_box(content: Any, box: Any) -> None:
    content[0]["instance_boxes"][0] = _measure(box)


def _set_annotation_box(content: Any, box: Any) -> None:
    content["annotations"][1]["bbox"] = _measure(box)


def _set_entry(name: str) -> Setter:
    return lambda content, value: content[0].update({name: value})


MSCOCO = "images/mscoco/images/train2014/COCO_train2014_000000"
KINDS = {
    "refcoco": Kind(
        "refcoco",
        "refer",
        "refcoco/instances.json",
        (f"{MSCOCO}028135.jpg", f"{MSCOCO}262200.jpg"),
        ("refcoco/", "images/mscoco/"),
        set_box=_set_annotation_box,
    ),
    "visual_genome": Kind(
        "visual_genome",
        "visual_genome",
        "region_descriptions.json",
        ("VG_100K_2/1.jpg",),
        ("region_d", "image_data", "VG_100K"),
        set_box=_set_region,
        set_phrase=lambda content, value: content[2]["regions"][0].update(phrase=value),
    ),
    "flickr30k_entities": Kind(
        "flickr30k_entities",
        "flickr30k_entities",
        "",
        ("flickr30k-images/310022957.jpg", "flickr30k-images/2100388104.jpg"),
        ("train.txt", "val.txt", "test.txt", "Ann", "Sent", "UNREL", "flickr30k-images"),
    ),
    "phrasecut": Kind(
        "phrasecut",
        "phrasecut/VGPhraseCut_v0",
        "refer_train.json",
        ("images/2391.jpg", "images/2407.jpg"),
        set_box=_set_task_box,
        set_phrase=_set_entry("phrase"),
    ),
    "kilogram": Kind("kilogram", "kilogram", "full_v0.json", parts=("full", "data_split", "tangrams")),
    "coco": Kind(
        "coco",
        "coco",
        "annotations/instances_val2017.json",
        ("val2017/000000000139.jpg", "val2017/000000000724.jpg"),
        ("annotations", "val2017"),
        set_box=_set_annotation_box,
    ),
    "albef_json": Kind(
        "albef_json",
        "albef_json",
        "data/coco_train.json",
        parts=("data/coco_train", "images/coco/"),
        options=(("annotation_files", "coco_train.json"), ("image_root", "images/coco")),
        set_phrase=_set_entry("caption"),
        root="data",
    ),
    "albef_retrieval": Kind(
        "albef_retrieval",
        "albef_json",
        "data/coco_val.json",
        ("images/coco/val2014/COCO_val2014_000000203564.jpg",),
        ("data/coco_val", "images/coco/"),
        (("val_files", "coco_val.json"), ("image_root", "images/coco")),
        root="data",
    ),
    "albef_snli_ve": Kind(
        "albef_snli_ve",
        "albef_json",
        "data/ve_dev.json",
        ("images/flickr30k/flickr30k-images/1007129816.jpg",),
        ("data/ve_dev", "images/flickr30k/"),
        (("val_files", "ve_dev.json"), ("image_root", "images/flickr30k/flickr30k-images")),
        set_phrase=_set_entry("sentence"),
        root="data",
    ),
    "albef_nlvr2": Kind(
        "albef_nlvr2",
        "albef_json",
        "data/nlvr_dev.json",
        parts=("data/nlvr_dev", "images/nlvr2/"),
        options=(("val_files", "nlvr_dev.json"), ("image_root", "images/nlvr2")),
        root="data",
    ),
    "albef_vqa": Kind(
        "albef_vqa",
        "albef_json",
        "data/vqa_val.json",
        parts=("data/vqa_val", "images/coco/"),
        options=(("val_files", "vqa_val.json"), ("image_root", "images/coco")),
        root="data",
    ),
}
LISTS = tuple(name for name in KINDS if name.startswith("albef_"))
WITH_TEXT = tuple(name for name, kind in KINDS.items() if kind.text)
WITH_IMAGES = tuple(name for name, kind in KINDS.items() if kind.images)
WITH_BOX = tuple(name for name, kind in KINDS.items() if kind.set_box)
WITH_PHRASE = tuple(name for name, kind in KINDS.items() if kind.set_phrase)


@dataclass
class Files:
    """The files of a data set before they are written.

    Args:
        name (`str`): of the kind.
        contents (`dict`): path below the folder -> bytes.
    """

    name: str
    contents: dict[str, bytes]

    @property
    def kind(self) -> Kind:
        """What is known of the data set."""
        return KINDS[self.name]

    def edit_json(self, edit: Callable[[Any], Any], path: str = "") -> None:
        """Changes the JSON of a file: `edit` changes its content, or returns another."""
        content = json.loads(self.contents[path or self.kind.text])
        other = edit(content)
        self.contents[path or self.kind.text] = json.dumps(content if other is None else other).encode()

    def edit_text(self, path: str, old: str, new: str) -> None:
        """Replaces a part of a text file, which it must have."""
        text = self.contents[path].decode()
        if old not in text:
            raise ValueError(f"{path} has no {old!r}.")
        self.contents[path] = text.replace(old, new, 1).encode("utf-8", "surrogatepass")


@functools.cache
def _read_fixtures(name: str) -> dict[str, bytes]:
    folder, parts = FIXTURES / KINDS[name].folder, KINDS[name].parts
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in paths.items() if name.startswith(parts)}


def build_files(name: str) -> Files:
    """Copies of the fixtures of a kind."""
    return Files(name, dict(_read_fixtures(name)))


def _build(files: Files) -> tuple[dict[str, list[dict[str, Any]]], dict[str, int]]:
    kind = files.kind
    with tempfile.TemporaryDirectory(dir=get_folder()) as folder:
        data, cache = Path(folder) / "data", Path(folder) / "cache"
        (data / kind.root).mkdir(parents=True)
        for name, content in files.contents.items():
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            (data / name).write_bytes(content)
        options = {name: str(data / value) if name == "image_root" else value for name, value in kind.options}
        builder = BUILDERS[kind.builder](cache_dir=str(cache), data_root=str(data / kind.root), **options)
        builder.download_and_prepare()
        splits = {}
        filled = [name for name, split in builder.info.splits.items() if split.num_examples]
        for name in filled:
            rows = builder.as_dataset(split=name)
            images = [column for column, feature in rows.features.items() if isinstance(feature, datasets.Image)]
            splits[name] = rows.remove_columns(images).to_list()
        shutil.rmtree(cache, ignore_errors=True)
    return splits, dict(builder.report.counts)


@functools.cache
def _count_clean(name: str) -> dict[str, int]:
    return _build(build_files(name))[1]


def read_files(files: Files) -> dict[str, list[dict[str, Any]]]:
    """Rows of every split without the images; the fixtures have faults, so only further ones are said."""
    clean = _count_clean(files.name)
    splits, counts = _build(files)
    for reason, count in counts.items():
        if count > clean.get(reason, 0):
            logging.getLogger("albef_amc").warning(f"{ADDED}{reason}")
    return splits


def added(name: str) -> Expectation:
    """A repair of `REPAIRS` that the report counts more often than for the clean files."""
    return Expectation("named repair", ADDED + REPAIRS[name])


data_sets = Category("data sets", lambda number: build_files(list(KINDS)[number]), read_files, num_clean=len(KINDS))


# The text of the files


@data_sets.mutation
def json_written_otherwise(files: Files, generator: np.random.Generator) -> Drawn:
    path = files.kind.text
    if not path:
        return files, UNAFFECTED
    content = json.loads(files.contents[path])
    forms = [
        lambda: json.dumps(content, indent=1).encode(),
        lambda: json.dumps(content, ensure_ascii=False).encode(),
        lambda: json.dumps(content, separators=(" , ", " : ")).encode() + b"\r\n",
        lambda: b"\xef\xbb\xbf" + files.contents[path],
        lambda: b"\n\t " + files.contents[path],
    ]
    files.contents[path] = choose(generator, forms)()
    return files, UNAFFECTED


@data_sets.mutation
def json_damaged(files: Files, generator: np.random.Generator) -> Drawn:
    files = build_files(choose(generator, WITH_TEXT))
    path = files.kind.text
    data, share = files.contents[path], generator.uniform(0.05, 0.95)
    forms = [data[: int(len(data) * share)].rstrip(b" \n,}]") + b",", b"[" * 20_000 + data, data + b"]]", b"", b"\n"]
    forms += [b"null", b"7", b'"text"', b"true", data.replace(b":", b"", 1), b"\x89PNG\r\n" + data, b"\0" * 30]
    forms += [data.decode().encode("utf-16"), data.decode().encode("utf-16-le"), b"[null]", b"[[[]]]", b"\x80\x04]."]
    files.contents[path] = choose(generator, forms)
    return files, refused(Path(path).name)


@data_sets.mutation
def annotations_missing(files: Files, generator: np.random.Generator) -> Drawn:
    names = {name: KINDS[name].text for name in WITH_TEXT if name != "coco"} | {"phrasecut": "image_data_split.json"}
    files = build_files(choose(generator, names))
    files.contents.pop(names[files.name])
    return files, refused(Path(names[files.name]).name)


@data_sets.mutation
def one_of_two_annotation_files_missing(files: Files, generator: np.random.Generator) -> Drawn:
    files = build_files("coco")
    files.contents.pop(f"annotations/{choose(generator, ['instances', 'captions'])}_val2017.json")
    return files, added("annotation file missing")


@data_sets.mutation
def record_of_another_kind(files: Files, generator: np.random.Generator) -> Drawn:
    files = build_files(choose(generator, [*LISTS, "visual_genome", "phrasecut"]))
    value = choose(generator, [7, None, "text", [], True, NAN])
    files.edit_json(lambda content: content.__setitem__(0, value))
    return files, refused(Path(files.kind.text).name)


# Images


@data_sets.mutation
def image_missing(files: Files, generator: np.random.Generator) -> Drawn:
    files = build_files(choose(generator, WITH_IMAGES))
    files.contents.pop(choose(generator, files.kind.images))
    return files, added("image missing")


@data_sets.mutation
def image_damaged(files: Files, generator: np.random.Generator) -> Drawn:
    files = build_files(choose(generator, WITH_IMAGES))
    path = choose(generator, files.kind.images)
    data = files.contents[path]
    files.contents[path] = choose(generator, [b"", b"text", data[: len(data) // 2], generator.bytes(80), b"GIF89a"])
    return files, added("image damaged")


@data_sets.mutation
def image_of_another_size(files: Files, generator: np.random.Generator) -> Drawn:
    files = build_files(choose(generator, ["refcoco", "visual_genome", "phrasecut", "coco"]))
    size = choose(generator, [(1, 1), (90, 161), (800, 600)])
    files.contents[choose(generator, files.kind.images)] = encode(Image.new("RGB", size))
    return files, added("image of another size")


@data_sets.mutation
def image_in_another_format(files: Files, generator: np.random.Generator) -> Drawn:
    if files.kind.images:
        path = choose(generator, files.kind.images)
        with Image.open(io.BytesIO(files.contents[path])) as image:
            files.contents[path] = encode(image, choose(generator, ["PNG", "BMP", "WEBP", "TIFF"]))
    return files, UNAFFECTED


@data_sets.mutation
def path_outside(files: Files, generator: np.random.Generator) -> Drawn:
    files = build_files(choose(generator, ["albef_json", "albef_retrieval", "albef_snli_ve", "albef_vqa"]))
    path = choose(generator, ["../a.png", "/etc/passwd", "x/../../a.png", "C:/a.png", "x\\a.png", "..", "//a.png"])
    files.edit_json(lambda content: [{**entry, "image": path} for entry in content])
    return files, refused("path" if files.name != "albef_snli_ve" else "")


# Boxes


@data_sets.mutation
def box_without_place(files: Files, generator: np.random.Generator) -> Drawn:
    files = build_files(choose(generator, WITH_BOX))
    box, name = choose(generator, BOXES)
    files.edit_json(lambda content: files.kind.set_box(content, box))
    return files, added(name)


@data_sets.mutation
def box_of_no_numbers(files: Files, generator: np.random.Generator) -> Drawn:
    files = build_files(choose(generator, WITH_BOX))
    value = choose(generator, [NAN, float("inf"), HUGE, -HUGE, "7", None, True, [3], {}, 1e300])
    box = choose(generator, [[value] * 4, value]) if files.name != "visual_genome" else value
    files.edit_json(lambda content: files.kind.set_box(content, box))
    return files, added("box not of numbers")


# Phrases


@data_sets.mutation
def phrase_without_words(files: Files, generator: np.random.Generator) -> Drawn:
    files = build_files(choose(generator, WITH_PHRASE))
    text = choose(generator, ["", " ", "?", "...", "\n", BROKEN, BROKEN])
    files.edit_json(lambda content: files.kind.set_phrase(content, text))
    word = WORDS.get(files.name, ("phrase", "phrase"))[text in ("?", "...")]
    return files, Expectation("named repair", f"{ADDED}{word} {REPAIRS['text without words']}")


@data_sets.mutation
def phrase_of_another_kind(files: Files, generator: np.random.Generator) -> Drawn:
    files = build_files(choose(generator, WITH_PHRASE))
    value = choose(generator, [7, None, {"a": "dog"}, True, 2.5, HUGE, [["dog"]]])
    files.edit_json(lambda content: files.kind.set_phrase(content, value))
    if files.name == "visual_genome" and value is None:
        return files, Expectation("named repair", f"{ADDED}phrase {REPAIRS['text without words']}")
    return files, refused(Path(files.kind.text).name)


# Pickles of RefCOCO


class _Command:
    """What a hostile pickle runs."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("a pickle ran code",)


@data_sets.mutation
def pickle_otherwise(files: Files, generator: np.random.Generator) -> Drawn:
    if files.name == "refcoco":
        path = "refcoco/refs(unc).p"
        refs = pickle.loads(files.contents[path])
        files.contents[path] = pickle.dumps(refs, protocol=int(generator.integers(5)))
    return files, UNAFFECTED


@data_sets.mutation
def pickle_damaged(files: Files, generator: np.random.Generator) -> Drawn:
    files = build_files("refcoco")
    path = "refcoco/refs(unc).p"
    data = files.contents[path]
    refs = pickle.loads(data)
    one = choose(generator, ["ref_id", "ann_id", "image_id", "split", "sentences"])
    wrong = [{**refs[0], one: choose(generator, [None, 2.5, {}, NAN])}, *refs[1:]]
    lacking = [{name: value for name, value in refs[0].items() if name != one}, *refs[1:]]
    forms = [b"", b"text", data[: int(len(data) * generator.uniform(0.05, 0.95))], json.dumps(refs).encode()]
    forms += [pickle.dumps(value) for value in (_Command(), [_Command()], None, 7, {}, [7], [None], wrong, lacking)]
    forms += [pickle.dumps([HUGE]), pickle.dumps(["text" * 9] * 9), b"]" + b"]a" * 20_000 + b".", generator.bytes(90)]
    forms += [b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"a.", b"cos\nsystem\n(S'true'\ntR."]
    files.contents[path] = choose(generator, forms)
    return files, refused("refs(unc).p")


# XML and sentences of Flickr30k Entities


@data_sets.mutation
def xml_damaged(files: Files, generator: np.random.Generator) -> Drawn:
    files = build_files("flickr30k_entities")
    path = "Annotations/310022957.xml"
    data = files.contents[path]

    def ten(level: int) -> str:
        return f"&a{level};" * 10

    entities = ['<!ENTITY a0 "lol">', *(f'<!ENTITY a{level} "{ten(level - 1)}">' for level in range(1, 10))]
    bomb = f"<!DOCTYPE a [{''.join(entities)}]><annotation>&a9;</annotation>".encode()
    forms = [b"", b"text", data[: int(len(data) * generator.uniform(0.1, 0.9))], bomb]
    forms += [b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>', b"<a>" * 30_000]
    forms += [data.replace(b"</bndbox>", b"</box>", 1), b"\0" * 9, generator.bytes(60)]
    files.contents[path] = choose(generator, forms)
    return files, added("annotation damaged")


@data_sets.mutation
def xml_of_wrong_numbers(files: Files, generator: np.random.Generator) -> Drawn:
    files = build_files("flickr30k_entities")
    value = choose(generator, ["many", "", "nan", "inf", str(HUGE), "1,5", "0x10", "1e400"])
    files.edit_text("Annotations/310022957.xml", "<ymin>21</ymin>", f"<ymin>{value}</ymin>")
    return files, added("box not of numbers")


@data_sets.mutation
def xml_written_otherwise(files: Files, generator: np.random.Generator) -> Drawn:
    if files.name == "flickr30k_entities":
        path = "Annotations/310022957.xml"
        data = files.contents[path]
        forms = [data.replace(b"\n", b"\r\n"), data.replace(b"\t", b""), b'<?xml version="1.0"?>' + data]
        forms += [
            data.replace(b"<annotation>", b"<annotation><!-- remark --><folder>x</folder>"),
            b"\xef\xbb\xbf" + data,
        ]
        files.contents[path] = choose(generator, forms)
    return files, UNAFFECTED


@data_sets.mutation
def sentences_damaged(files: Files, generator: np.random.Generator) -> Drawn:
    files = build_files("flickr30k_entities")
    path = "Sentences/310022957.txt"
    data = files.contents[path]
    files.contents[path] = choose(generator, [b"\xff\xfe" + data, data.decode().encode("utf-16"), b"caf\xe9" + data])
    return files, added("annotation damaged")


# Drawings of KiloGram


@data_sets.mutation
def drawing_damaged(files: Files, generator: np.random.Generator) -> Drawn:
    files = build_files("kilogram")
    path = "tangrams-svg/page1-900.svg"
    data = files.contents[path]
    numbers = ["nan", "1e400", str(HUGE), "many", "", "inf"]
    forms = [b"", b"text", data[: int(len(data) * generator.uniform(0.1, 0.9))], b"<svg/>", b"<a>" * 30_000]
    forms += [data.replace(b'points="10.0,', f'points="{number},'.encode()) for number in numbers]
    forms += [data.replace(b'id="7"', b'id="6"'), data.replace(b"144.0 144.0", b"1e9 1e9"), b"\0" * 20]
    forms += [b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + data.partition(b"?>")[2]]
    files.contents[path] = choose(generator, forms)
    return files, added("drawing damaged")


@data_sets.mutation
def drawing_missing(files: Files, generator: np.random.Generator) -> Drawn:
    files = build_files("kilogram")
    files.contents.pop(choose(generator, [path for path in files.contents if path.endswith(".svg")]))
    return files, added("drawing missing")
