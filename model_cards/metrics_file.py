# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Reading what an evaluation wrote."""

import json
from pathlib import Path
from typing import Any


def read_metrics(path: str | Path) -> dict[str, dict[str, Any]]:
    """The pointing game results of a metrics file.

    Args:
        path (`str` or `Path`): JSON: one result, or split -> result.

    Returns:
        `dict`: split -> result; a single result stands under its own `split`, or under `"all"`.

    Raises:
        ValueError: the file is no JSON, holds no result, or an accuracy outside [0, 1].
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


def _is_result(value: Any) -> bool:
    return isinstance(value, dict) and {"pointing_game_accuracy", "num_phrases"} <= value.keys()


__all__ = ["read_metrics"]
