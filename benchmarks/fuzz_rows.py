# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Fuzz test of the rows of a data set: what evaluation and the collator of training do with them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from fuzz_frame import REPAIRS, UNAFFECTED, Category, Expectation, refused
from fuzz_inputs import HEIGHT, REGION, WIDTH, Drawn, build_model, build_photo, build_processor, choose, encode
from PIL import Image

from albef_amc.datasets_scripts import build_phrase, build_row
from albef_amc.evaluation.grounding_evaluation import evaluate_grounding
from albef_amc.regions_albef import encode_rle
from albef_amc.trainer.data.data_collator import DataCollatorForGrounding

BOX = [4.0, 5.0, 14.0, 20.0]
NAN, HUGE = float("nan"), 10**400
UNUSABLE = "cannot be used and"
EVALUATION, TRAINING, TRAINING_ON_MASKS = range(3)


@dataclass
class Rows:
    """Rows, and who reads them: evaluation (0) or the collator of training, on boxes (1) or masks (2)."""

    reader: int
    rows: list[dict[str, Any]]

    @property
    def phrase(self) -> dict[str, Any]:
        """The first phrase of the first row."""
        return self.rows[0]["phrases"][0]


def build_rows(reader: int) -> Rows:
    """Two clean rows of two phrases."""
    rows = []
    for number in range(2):
        phrases = [
            build_phrase("a", "the red circle", boxes=[BOX], masks=[encode_rle(REGION)]),
            build_phrase("b", "a blue square", boxes=[[1.0, 2.0, 30.0, 20.0]]),
        ]
        image = {"bytes": encode(build_photo(number)), "path": None}
        rows.append(build_row(image, str(number), WIDTH, HEIGHT, phrases))
    return Rows(reader, rows)


def read_rows(rows: Rows) -> Any:
    """Points and metrics of an evaluation, or a batch of training."""
    if rows.reader != EVALUATION:
        source = "boxes" if rows.reader == TRAINING else "masks"
        collator = DataCollatorForGrounding(build_processor(), max_length=None, region_source=source)
        return dict(collator(rows.rows))
    found = evaluate_grounding(build_model(), build_processor(), rows.rows)
    return {"metrics": dict(found.metrics), "points": [tuple(one.point) for one in found.results]}


data_rows = Category("rows", build_rows, read_rows, num_clean=3)


def declare_unusable(rows: Rows, words: str) -> Expectation:
    """A row that evaluation skips and says, and that training refuses."""
    return Expectation("named repair", UNUSABLE) if rows.reader == EVALUATION else refused(words)


@data_rows.mutation
def image_otherwise(rows: Rows, generator: np.random.Generator) -> Drawn:
    photo = build_photo(0)
    forms = [photo, encode(photo), np.asarray(photo), {"bytes": encode(photo, "BMP"), "path": "elsewhere.png"}]
    rows.rows[0]["image"] = choose(generator, forms)
    return rows, UNAFFECTED


@data_rows.mutation
def image_of_another_place(rows: Rows, generator: np.random.Generator) -> Drawn:
    places = ["http://127.0.0.1:1/a.png", "https://localhost/a.png", "s3://bucket/a.png", "hf://datasets/a/b/c.png"]
    places += ["zip://a.png::http://127.0.0.1:1/a.zip", "file:///etc/hostname", "memory:a.png", "FTP://127.0.0.1/a"]
    place = choose(generator, places)
    rows.rows[0]["image"] = {"bytes": None, "path": place}
    return rows, refused(place)


@data_rows.mutation
def image_damaged(rows: Rows, generator: np.random.Generator) -> Drawn:
    data = rows.rows[0]["image"]["bytes"]
    forms = [b"", b"text", data[: len(data) // 2], generator.bytes(60), b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>"]
    rows.rows[0]["image"]["bytes"] = choose(generator, forms)
    return rows, declare_unusable(rows, "image")


@data_rows.mutation
def image_of_another_type(rows: Rows, generator: np.random.Generator) -> Drawn:
    rows.rows[0]["image"] = choose(generator, [7, {}, {"bytes": None, "path": None}, [], True, {"path": 7}])
    return rows, refused("image '0'")


@data_rows.mutation
def image_missing(rows: Rows, generator: np.random.Generator) -> Drawn:
    rows.rows[0]["image"] = choose(generator, [None, "", "nowhere/a.png"])
    return rows, declare_unusable(rows, "image")


@data_rows.mutation
def image_of_another_size(rows: Rows, generator: np.random.Generator) -> Drawn:
    size = choose(generator, [(HEIGHT, WIDTH), (1, 1), (400, 300)])
    rows.rows[0]["image"]["bytes"] = encode(Image.new("RGB", size))
    return rows, refused("width")


@data_rows.mutation
def phrase_of_another_kind(rows: Rows, generator: np.random.Generator) -> Drawn:
    rows.phrase["phrase"] = choose(generator, [7, None, ["a dog"], {"a": 1}, True, 2.5, NAN, HUGE, b"dog"])
    return rows, declare_unusable(rows, "phrase")


@data_rows.mutation
def phrase_without_words(rows: Rows, generator: np.random.Generator) -> Drawn:
    rows.phrase["phrase"] = choose(generator, ["", " ", "...", "\ud83d dog", "\n", "?!"])
    return rows, declare_unusable(rows, "phrase")


@data_rows.mutation
def box_of_no_numbers(rows: Rows, generator: np.random.Generator) -> Drawn:
    box: list[Any] = list(BOX)
    box[int(generator.integers(4))] = choose(generator, ["many", None, NAN, float("inf"), HUGE, {}, [3]])
    rows = build_rows(choose(generator, [EVALUATION, TRAINING]))
    rows.phrase["boxes"] = choose(generator, [[box], [BOX[:3]], [[*BOX, 1.0]], "box", 7, {"x": 1}, [7]])
    return rows, refused("box")


@data_rows.mutation
def box_over_the_border(rows: Rows, generator: np.random.Generator) -> Drawn:
    rows = build_rows(choose(generator, [EVALUATION, TRAINING]))
    rows.phrase["boxes"] = [choose(generator, [[-5, 3, 9, 9], [3, 3, 99, 9], [3, 3, 9, 1e9]])]
    words = {EVALUATION: "boxes extend beyond their image", TRAINING: REPAIRS["box over the border"]}
    return rows, Expectation("named repair", words[rows.reader])


@data_rows.mutation
def mask_damaged(rows: Rows, generator: np.random.Generator) -> Drawn:
    rows = build_rows(TRAINING_ON_MASKS)
    size = [HEIGHT, WIDTH]
    forms = [{"size": [10**6, 10**6], "counts": [10**12]}, {"size": size, "counts": [HUGE]}, {}, 7, "mask", [3]]
    forms += [{"size": size, "counts": [2**62] * 4}, {"size": [WIDTH, HEIGHT], "counts": REGION.size}, {"size": size}]
    rows.phrase["masks"] = [choose(generator, forms)]
    rows.phrase["boxes"] = None
    return rows, refused("mask")


@data_rows.mutation
def row_of_another_kind(rows: Rows, generator: np.random.Generator) -> Drawn:
    name = choose(generator, ["image", "phrases", "width"])
    change = choose(generator, ["remove", "other"])
    if change == "remove":
        rows.rows[0].pop(name if name != "width" else "image")
        return rows, refused(f"`{name if name != 'width' else 'image'}`")
    rows.rows[0]["phrases"] = choose(generator, [7, "dog", [7], [None], {"phrase": 7}])
    return rows, refused("phrase")


@data_rows.mutation
def ids_otherwise(rows: Rows, generator: np.random.Generator) -> Drawn:
    rows.rows[0]["proposals"] = choose(generator, [None, []])
    rows.rows[0] = dict(reversed(rows.rows[0].items()))
    return rows, UNAFFECTED
