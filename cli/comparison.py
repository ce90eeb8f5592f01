# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What `albef-amc evaluate` prints beside its numbers: those that others published, and whether they compare."""

from collections.abc import Mapping
from typing import Any

PERCENT = 100


def list_comparison_lines(split: str, result: Mapping[str, Any]) -> list[str]:
    """Lines about the published numbers of a split and the protocol, for people; none without a recipe.

    Args:
        split (`str`): the split.
        result (mapping): what [`~evaluation.benchmark.evaluate_split`] returns, with finite numbers.
    """
    if "protocol" not in result:
        return []
    lines = []
    for measure in dict.fromkeys(entry["measure"] for entry in result["published"]):
        if measure in result:
            lines.append(f"published beside measured, {split}, {measure} in per cent:")
            lines.append(f"  {_show(result[measure])}  this checkpoint{_show_interval(measure, result)}")
            entries = [entry for entry in result["published"] if entry["measure"] == measure]
            lines += [f"  {entry['percent']:6.2f}  {entry['method']}; {entry['source']}" for entry in entries]
    return [*lines, _describe_protocol(split, result)]


def _show(accuracy: float) -> str:
    return f"{PERCENT * accuracy:6.2f}"


def _show_interval(measure: str, result: Mapping[str, Any]) -> str:
    described = result.get("confidence_interval") or {}
    if described.get(measure) is None:
        return ""
    low, high = (_show(end).strip() for end in described[measure])
    return f" [{low}, {high}] at {PERCENT * described['confidence']:.0f} %, {described['computed'][measure]}"


def _describe_protocol(split: str, result: Mapping[str, Any]) -> str:
    protocol = result["protocol"]
    prefix = f"protocol of {protocol['recipe']}, {split}:"
    if not protocol["agrees"]:
        return f"{prefix} NOT followed: {'; '.join(protocol['departures'])}"
    if protocol["published_num_phrases"] is None:
        return f"{prefix} followed; {result['num_phrases']} phrases, no published number to compare with"
    return f"{prefix} followed; {result['num_phrases']} phrases, as published"
