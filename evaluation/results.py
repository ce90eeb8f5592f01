# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The file of an evaluation: numbers and phrases as JSON, or the phrases as Parquet with the numbers in its header."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from albef_amc.evaluation.grounding_metrics import PHRASE_VALUES
from albef_amc.saving_albef import write_atomically, write_json

PARQUET = ".parquet"
RESULTS_KEY = b"albef_amc_results"
BOX = pyarrow.list_(pyarrow.float64())
PHRASE_SCHEMA = pyarrow.schema(
    {
        "split": pyarrow.string(),
        "phrase_id": pyarrow.string(),
        "image_id": pyarrow.string(),
        "phrase": pyarrow.string(),
        "types": pyarrow.list_(pyarrow.string()),
        "boxes": pyarrow.list_(BOX),
        "point": BOX,
        "score": pyarrow.float64(),
        "is_hit": pyarrow.bool_(),
        "proposal": BOX,
        "proposal_iou": pyarrow.float64(),
        "is_proposal_hit": pyarrow.bool_(),
        "problem": pyarrow.string(),
    }
)


def write_results(path: Path, results: Mapping[str, Mapping[str, Any]], phrases: Mapping[str, list[dict]]) -> None:
    """Writes the results of one or several splits to a file, completely or not at all.

    Args:
        path (`Path`): a name that ends in `.parquet` gets one row per phrase, and the numbers as JSON in the header;
            any other gets JSON: the result of the only split, or split -> result, each with its `phrases`. Values of
            a phrase that only some metrics give (`heatmap_quality`, `mask_iou`) are columns where they were computed.
        results (mapping): split -> result, finite numbers.
        phrases (mapping): split -> [`~evaluation.grounding_evaluation.PhraseResult`] as dictionaries.
    """
    if path.suffix == PARQUET:
        rows = [{"split": split, **phrase} for split, entries in phrases.items() for phrase in entries]
        schema = PHRASE_SCHEMA
        for name in PHRASE_VALUES:
            keys = dict.fromkeys(key for row in rows for key in row.get(name) or ())
            if keys:
                schema = schema.append(pyarrow.field(name, pyarrow.struct([(key, pyarrow.float64()) for key in keys])))
        schema = schema.with_metadata({RESULTS_KEY: json.dumps(results)})
        buffer = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), buffer)
        write_atomically(path, buffer.getvalue().to_pybytes())
        return
    content = {split: {**result, "phrases": phrases[split]} for split, result in results.items()}
    write_json(path, next(iter(content.values())) if len(content) == 1 else content)


__all__ = ["PHRASE_SCHEMA", "write_results"]
