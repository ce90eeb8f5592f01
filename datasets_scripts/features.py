# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The one row schema of every grounding data set: one row per image, its phrases and their regions inside.

The schemas of the other tasks (retrieval, question answering, reasoning, entailment) are in `task_features.py`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from datasets import Features, Image, List, Value

from albef_amc.collections_albef import describe_type

PROPOSAL_FEATURES = {
    # x_min, y_min, x_max, y_max in pixels of the stored image after EXIF rotation
    "box": List(Value("float32"), length=4),
    # confidence of the detector in [0, 1]; 1 where the proposals are annotations
    "score": Value("float32"),
    # what the detector calls it; null where it does not say
    "label": Value("string"),
}

# Types of a phrase of whose region a part was damaged in the source and is not in the row. What is left is right but
# not the whole: training takes such a phrase as one without a region, since it would punish heat on what was lost.
INCOMPLETE_BOXES, INCOMPLETE_OUTLINES = "incomplete_boxes", "incomplete_outlines"

PHRASE_FEATURES = {
    # unique in the data set: results are keyed by it
    "phrase_id": Value("string"),
    # what is to be grounded, as written in the source
    "phrase": Value("string"),
    # one box per object meant, x_min, y_min, x_max, y_max in pixels after EXIF rotation; null: not annotated
    "boxes": List(List(Value("float32"), length=4)),
    # annotated points x, y in the same pixels; null where the source has none
    "points": List(List(Value("float32"), length=2)),
    # COCO compressed run lengths (column-major), `size` = [height, width] of the image; their union is the region
    "masks": List({"size": List(Value("int32"), length=2), "counts": Value("string")}),
    # flat lists x, y, x, y, ... in the same pixels; the union of all of them (and of `masks`) is the region
    "polygons": List(List(Value("float32"))),
    # kinds the phrase belongs to; metrics are reported for each. `INCOMPLETE_BOXES` and `INCOMPLETE_OUTLINES` among
    # them say that a part of `boxes`, or of `masks` and `polygons` together, was lost
    "types": List(Value("string")),
    # sentence the phrase was taken from
    "caption": Value("string"),
    # [start, end) character offsets of the phrase in `caption`; several where its words are apart
    "spans": List(List(Value("int32"), length=2)),
    # other wordings with the same region
    "paraphrases": List(Value("string")),
}

GROUNDING_FEATURES = Features(
    {
        # picture as stored; bytes are in the row, once per image
        "image": Image(),
        # stable identity of the image within its data set
        "image_id": Value("string"),
        # pixels of the image after EXIF rotation
        "width": Value("int32"),
        "height": Value("int32"),
        # boxes for protocols that rank given boxes; null where the source has none
        "proposals": List(PROPOSAL_FEATURES),
        # what is asked of this image; at least one entry
        "phrases": List(PHRASE_FEATURES),
    }
)

# What training and evaluation read of a row.
ROW_FIELDS = ("image", "image_id", "phrases")


def _fill(fields: Mapping[str, Any], names: Iterable[str], kind: str) -> dict[str, Any]:
    names = list(names)
    unknown = sorted(set(fields) - set(names))
    if unknown:
        raise ValueError(f"A {kind} has no field {', '.join(f'`{name}`' for name in unknown)}. Fields: {names}.")
    return {name: fields.get(name) for name in names}


def build_phrase(phrase_id: str | int, phrase: str, **fields: Any) -> dict[str, Any]:
    """One entry of `phrases` in which every field of the schema is present; those not given are null.

    Args:
        phrase_id (`str` or `int`): unique in the data set.
        phrase (`str`): the words.
        **fields: any other field of `PHRASE_FEATURES`.

    Returns:
        `dict`: the entry, keys in the order of the schema.

    Example:
        >>> build_phrase(7, "the red circle", boxes=[[1.0, 2.0, 9.0, 8.0]])["masks"] is None
        True
    """
    return _fill({"phrase_id": str(phrase_id), "phrase": phrase, **fields}, PHRASE_FEATURES, "phrase")


def build_row(
    image: Any,
    image_id: str | int,
    width: int,
    height: int,
    phrases: list[dict[str, Any]],
    proposals: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """One row of the schema.

    Args:
        image: what `datasets.Image` takes: a PIL image, a path, or `{"path": ..., "bytes": ...}`.
        image_id (`str` or `int`): identity of the image.
        width, height (`int`): pixels after EXIF rotation.
        phrases (`list[dict]`): entries made by `build_phrase`.
        proposals (`list[dict]`, *optional*): `{"box", "score", "label"}`; absent keys become null.

    Returns:
        `dict`: the row.

    Example:
        >>> row = build_row("scene.png", 3, 64, 48, [build_phrase(0, "a dog")], [{"box": [0.0, 0.0, 9.0, 9.0]}])
        >>> row["image_id"], row["proposals"][0]["score"] is None
        ('3', True)
    """
    if proposals is not None:
        proposals = [_fill(proposal, PROPOSAL_FEATURES, "proposal") for proposal in proposals]
    values = (image, str(image_id), width, height, proposals, phrases)
    return dict(zip(GROUNDING_FEATURES, values, strict=True))


def read_row(row: Any, fields: Iterable[str] = ROW_FIELDS) -> dict[str, Any]:
    """A row as people hold it: of a list, or of a data set in the format of torch or NumPy.

    Args:
        row: mapping with the fields of the schema; numbers and lists may be tensors and arrays.
        fields (iterable of `str`): fields that the caller reads.

    Returns:
        `dict`: the row with plain lists and numbers, the image as it was; phrases that have no `phrase_id` get
        `<image_id>#<position>`, and null among `types` is dropped.

    Raises:
        TypeError: something that is not a row.
        ValueError: a field is missing, or `phrases` are no mappings.

    Example:
        >>> row = {"image": "scene.png", "image_id": "3", "phrases": [{"phrase": "a dog", "types": None}]}
        >>> read_row(row)["phrases"]
        [{'phrase': 'a dog', 'types': [], 'phrase_id': '3#0'}]
    """
    if not isinstance(row, Mapping):
        raise TypeError(
            f"a row is {describe_type(row)}, expected a mapping with {', '.join(map(repr, fields))}. Of a data set in "
            "the format of pandas, Polars or Arrow give `dataset.with_format(None)`."
        )
    missing = [name for name in fields if name not in row]
    if missing:
        raise ValueError(
            f"a row has no {', '.join(f'`{name}`' for name in missing)}. Its fields are "
            f"{', '.join(map(str, row)) or 'none'}: rename or add columns (`datasets_scripts/features.py`)."
        )
    plain = {name: value if name == "image" else _to_lists(value) for name, value in row.items()}
    phrases = [] if plain["phrases"] is None else plain["phrases"]
    if not isinstance(phrases, list) or not all(isinstance(phrase, dict) for phrase in phrases):
        raise ValueError(
            f"`phrases` of image {row['image_id']!r} must be a list of mappings with `phrase`, got "
            f"{row['phrases']!r:.80}."
        )
    return {**plain, "phrases": [_complete_phrase(plain, index, phrase) for index, phrase in enumerate(phrases)]}


def _complete_phrase(row: dict[str, Any], index: int, phrase: dict[str, Any]) -> dict[str, Any]:
    types = phrase.get("types")
    if types is not None and not isinstance(types, list):
        raise TypeError(f"`types` of phrase {index} of image {row['image_id']!r} must be a list, got {types!r}.")
    phrase = {**phrase, "phrase_id": phrase.get("phrase_id") or f"{row['image_id']}#{index}"}
    return {**phrase, "types": [name for name in types or () if name is not None]} if "types" in phrase else phrase


def _to_lists(value: Any) -> Any:
    """Tensors and arrays as lists and numbers, also in mappings and lists."""
    if isinstance(value, Mapping):
        return {name: _to_lists(item) for name, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [_to_lists(item) for item in value] if isinstance(value, list | tuple) else value


def compute_statistics(rows: Any) -> dict[str, Any]:
    """Counts of a data set or of a list of rows; images of a `datasets.Dataset` are not decoded.

    Args:
        rows (`datasets.Dataset` or iterable of `dict`): rows of the schema.

    Returns:
        `dict`: `num_images`, `num_phrases`, `num_annotated_phrases` (with boxes, points, masks or polygons),
        `num_boxes`, `num_words` (distinct, lower case), `num_phrases_by_type`.

    Example:
        >>> compute_statistics([{"phrases": [build_phrase(0, "a red dog", types=["category"])]}])["num_words"]
        3
    """
    if hasattr(rows, "select_columns"):
        rows = rows.select_columns(["phrases"])
    totals: Counter[str] = Counter()
    types: Counter[str] = Counter()
    words: set[str] = set()
    for row in rows:
        totals["num_images"] += 1
        for phrase in row["phrases"]:
            totals["num_phrases"] += 1
            totals["num_annotated_phrases"] += any(phrase[name] for name in ("boxes", "points", "masks", "polygons"))
            totals["num_boxes"] += len(phrase["boxes"] or [])
            types.update(phrase["types"] or [])
            words.update(phrase["phrase"].lower().split())
    names = ("num_images", "num_phrases", "num_annotated_phrases", "num_boxes")
    return {
        **{name: totals[name] for name in names},
        "num_words": len(words),
        "num_phrases_by_type": dict(sorted(types.items())),
    }
