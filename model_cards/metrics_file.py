# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Reading the file of an evaluation, and checking that it is about a checkpoint."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WEIGHTS_KEY = "weights_sha256"  # of a result: hash of the weights that it was measured on


def read_metrics(path: str | Path) -> dict[str, dict[str, Any]]:
    """The pointing game results of a metrics file.

    Args:
        path (`str` or `Path`): JSON: one result, or split -> result.

    Returns:
        `dict`: split -> result; a single result stands under its own `split`, or under `"all"`.

    Raises:
        ValueError: the file is not JSON, holds no result, or an accuracy outside [0, 1].
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}). Evaluate the checkpoint again to write it.") from error
    if _is_result(content):
        entries = {content.get("split", "all"): content}
    else:
        entries = content if isinstance(content, dict) else {}
    results = {str(split): result for split, result in entries.items() if _is_result(result)}
    if not results:
        raise ValueError(f"{path} holds no `pointing_game_accuracy`, neither for all phrases nor for a split.")
    for split, result in results.items():
        accuracies = [result["pointing_game_accuracy"], *result.get("pointing_game_accuracy_by_type", {}).values()]
        if not all(isinstance(accuracy, (int, float)) and 0 <= accuracy <= 1 for accuracy in accuracies):
            raise ValueError(f"{path}: an accuracy of {split} is outside [0, 1]. Metrics files hold fractions.")
    return results


def check_weights(path: str | Path, results: Mapping[str, Mapping[str, Any]], weights_sha256: str) -> None:
    """Refuses results that were measured on other weights than those of a checkpoint.

    Args:
        path (`str` or `Path`): the file, for the message.
        results (mapping): split -> result, as [`read_metrics`] returns them.
        weights_sha256 (`str`): hash of the checkpoint's weights.

    Raises:
        ValueError: a result that was measured on other weights, or without the hash of the weights.
    """
    for split, result in results.items():
        measured = result.get(WEIGHTS_KEY)
        if measured == weights_sha256:
            continue
        command = str(result.get("command") or "")
        if " evaluate " not in command:
            command = "albef-amc evaluate CHECKPOINT RECIPE_OR_DATASET"
        remedy = f"Measure this checkpoint: `{command} --output scores.json`, then push it with"
        remedy += " `--metrics-file scores.json`."
        if measured is None:
            raise ValueError(
                f"{path}: the result of {split} does not say which weights it was measured on (no `{WEIGHTS_KEY}`): "
                f"they may be others than this checkpoint's. {remedy}"
            )
        raise ValueError(
            f"{path}: the result of {split} was measured on other weights (`{WEIGHTS_KEY}` {measured}) than those of "
            f"this checkpoint ({weights_sha256}). {remedy}"
        )


def _is_result(value: Any) -> bool:
    return isinstance(value, dict) and {"pointing_game_accuracy", "num_phrases"} <= value.keys()
