# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Row schema of every grounding data set: one row per image, its phrases and their regions inside.

The schemas of the other tasks (retrieval, question answering, reasoning, entailment) are in `task_features.py`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from datasets import Features, Image, List, Value

from albef_amc.collections_albef import describe_type

PROPOSAL_FEATURES = {
    # x_min, y_min, x_max, y_max in pixels of the stored image after EXIF rotation
    "box": List(Value("float32"), length=4),
    # confidence of the detector in [0, 1]; 1 where the proposals are annotations
    "score": Value("float32"),
    # class that the detector predicts; null where it predicts none
    "label": Value("string"),
}

# Types of a phrase that lost a damaged part of its region. The rest is correct but incomplete: training treats such a
# phrase as one without a region, because it would punish heat on the lost part.
INCOMPLETE_BOXES, INCOMPLETE_OUTLINES = "incomplete_boxes", "incomplete_outlines"

PHRASE_FEATURES = {
    # unique in the data set: results are keyed by it
    "phrase_id": Value("string"),
    # text to be grounded, as written in the source
    "phrase": Value("string"),
    # one box per named object, x_min, y_min, x_max, y_max in pixels after EXIF rotation; null: not annotated
    "boxes": List(List(Value("float32"), length=4)),
    # annotated points x, y in the same pixels; null where the source has none
    "points": List(List(Value("float32"), length=2)),
    # COCO compressed run lengths (column-major), `size` = [height, width] of the image; their union is the region
    "masks": List({"size": List(Value("int32"), length=2), "counts": Value("string")}),
    # flat lists x, y, x, y, ... in the same pixels; the union of all of them (and of `masks`) is the region
    "polygons": List(List(Value("float32"))),
    # categories of the phrase; metrics are reported for each. `INCOMPLETE_BOXES` and `INCOMPLETE_OUTLINES` mean that a
    # part of `boxes`, or of `masks` and `polygons` together, was lost
    "types": List(Value("string")),
    # sentence the phrase was taken from
    "caption": Value("string"),
    # [start, end) character offsets of the phrase in `caption`; several where its words are not adjacent
    "spans": List(List(Value("int32"), length=2)),
    # other wordings with the same region
    "paraphrases": List(Value("string")),
}

GROUNDING_FEATURES = Features(
    {
        # image as stored; its bytes are in the row once
        "image": Image(),
        # stable identity of the image within its data set
        "image_id": Value("string"),
        # pixels of the image after EXIF rotation
        "width": Value("int32"),
        "height": Value("int32"),
        # boxes for protocols that rank given boxes; null where the source has none
        "proposals": List(PROPOSAL_FEATURES),
        # phrases about this image; at least one
        "phrases": List(PHRASE_FEATURES),
        # further descriptions that are true of the image, without regions: it is no negative of them
        "true_phrases": List(Value("string")),
        # descriptions that are false of the image, best a word away from true ones: its hard negatives
        "false_phrases": List(Value("string")),
    }
)

# Columns that training and evaluation read.
ROW_FIELDS = ("image", "image_id", "phrases")
# Columns that a data set may lack: all their values are then null.
OPTIONAL_COLUMNS = ("true_phrases", "false_phrases")


def fill_fields(fields: Mapping[str, Any], names: Iterable[str], kind: str) -> dict[str, Any]:
    """Return a mapping with every field of a schema in its order; those not given are null.

    Raises:
        ValueError: a field that the schema does not have.
    """
    names = list(names)
    unknown = sorted(set(fields) - set(names))
    if unknown:
        raise ValueError(f"A {kind} has no field {', '.join(f'`{name}`' for name in unknown)}. Fields: {names}.")
    return {name: fields.get(name) for name in names}


def build_phrase(phrase_id: str | int, phrase: str, **fields: Any) -> dict[str, Any]:
    """Build an entry of `phrases` with every field of the schema; those not given are null.

    Args:
        phrase_id (`str` or `int`): unique in the data set.
        phrase (`str`): its text.
        **fields: any other field of `PHRASE_FEATURES`.

    Returns:
        `dict`: the entry, keys in the order of the schema.

    Example:
        >>> build_phrase(7, "the red circle", boxes=[[1.0, 2.0, 9.0, 8.0]])["masks"] is None
        True
    """
    return fill_fields({"phrase_id": str(phrase_id), "phrase": phrase, **fields}, PHRASE_FEATURES, "phrase")


def build_row(
    image: Any,
    image_id: str | int,
    width: int,
    height: int,
    phrases: list[dict[str, Any]],
    proposals: list[dict[str, Any]] | None = None,
    true_phrases: list[str] | None = None,
    false_phrases: list[str] | None = None,
) -> dict[str, Any]:
    """Build a row of the schema.

    Args:
        image: anything that `datasets.Image` encodes: a PIL image, a path, or `{"path": ..., "bytes": ...}`.
        image_id (`str` or `int`): identity of the image.
        width, height (`int`): pixels after EXIF rotation.
        phrases (`list[dict]`): entries made by `build_phrase`.
        proposals (`list[dict]`, *optional*): `{"box", "score", "label"}`; absent keys become null.
        true_phrases, false_phrases (`list[str]`, *optional*): further descriptions that are true of the image, and
            descriptions that are false of it.

    Returns:
        `dict`: the row.

    Example:
        >>> row = build_row("scene.png", 3, 64, 48, [build_phrase(0, "a dog")], [{"box": [0.0, 0.0, 9.0, 9.0]}])
        >>> row["image_id"], row["proposals"][0]["score"] is None
        ('3', True)
    """
    if proposals is not None:
        proposals = [fill_fields(proposal, PROPOSAL_FEATURES, "proposal") for proposal in proposals]
    values = (image, str(image_id), width, height, proposals, phrases, true_phrases, false_phrases)
    return dict(zip(GROUNDING_FEATURES, values, strict=True))


def read_row(row: Any, fields: Iterable[str] = ROW_FIELDS) -> dict[str, Any]:
    """Normalise a row of a list, or of a data set in the format of torch or NumPy.

    Args:
        row: mapping with the fields of the schema; numbers and lists may be tensors and arrays.
        fields (iterable of `str`): fields that the caller reads.

    Returns:
        `dict`: the row with plain lists and numbers, the image unchanged; phrases without `phrase_id` get
        `<image_id>#<position>`, and null among `types` is dropped.

    Raises:
        TypeError: not a row.
        ValueError: a field is missing, or `phrases` are not mappings.

    Example:
        >>> row = {"image": "scene.png", "image_id": "3", "phrases": [{"phrase": "a dog", "types": None}]}
        >>> read_row(row)["phrases"]
        [{'phrase': 'a dog', 'types': [], 'phrase_id': '3#0'}]
    """
    if not isinstance(row, Mapping):
        raise TypeError(
            f"a row is {describe_type(row)}, expected a mapping with {', '.join(map(repr, fields))}. For a data set "
            "in the format of pandas, Polars or Arrow, pass `dataset.with_format(None)`."
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
