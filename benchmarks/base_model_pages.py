# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Figures of the base model in the pages: a table in docs/checkpoints.md, and what the README's quickstart prints."""

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

from figure_tables import read_figure, render_table, show_figure

from albef_amc.datasets_scripts.synthetic_grounding.synthetic_grounding import UNSEEN_COMPOSITION

PROJECT_FOLDER = Path(__file__).parents[1]
PAGE, README = PROJECT_FOLDER / "docs" / "checkpoints.md", PROJECT_FOLDER / "README.md"
RESULT_NAME = "benchmarks/results/base_model.json"
FIGURES = re.compile(r"(?<=<!-- base model -->\n).*?(?=<!-- end of base model -->)", flags=re.DOTALL)
QUICKSTART = re.compile(r"<!-- quickstart -->\n```python\n(.*?)```\n\n```\n(.*?)```", flags=re.DOTALL)
COLUMNS = {
    "test": "default phrases",
    "test_unseen": "of unseen compositions",
    "all_types": "phrases as in training",
    "all_types_unseen": "of unseen compositions",
}
MISSING = "–"


def write_pages(results: dict[str, Any]) -> None:
    """Writes the figures into both pages.

    Args:
        results (`dict`): content of `benchmarks/results/base_model.json`.
    """
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(FIGURES.sub(lambda _: render_figures(results), text), encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    (found,) = QUICKSTART.finditer(text)
    printed = run_quickstart(found[1])
    README.write_text(text[: found.start(2)] + printed + text[found.end(2) :], encoding="utf-8")


def run_quickstart(block: str) -> str:
    """What the Python block prints, run in the project's folder."""
    printed, folder = io.StringIO(), Path.cwd()
    os.chdir(PROJECT_FOLDER)
    try:
        with contextlib.redirect_stdout(printed):
            exec(block, {})
    finally:
        os.chdir(folder)
    return printed.getvalue()


def render_figures(results: dict[str, Any]) -> str:
    """A paragraph and a table, each tied to the keys of its numbers (`tests/page_numbers.py`)."""
    training = results["training"]
    minutes = f"{training['seconds'] / 60:.0f}"
    lines = [
        "",
        "<!-- numbers",
        f"{RESULT_NAME} bytes/1e6:.1f num_parameters/1e6:.2f training.steps:d training.seconds/60:.0f",
        "-->",
        f"{results['bytes'] / 1e6:.1f} MB, {results['num_parameters'] / 1e6:.2f} million parameters; "
        f"{training['steps']} steps of `{training['command']}` in {minutes} minutes on two cores.",
        "",
        "<!-- numbers",
    ]
    rows = _list_rows(results["figures"])
    lines += [" ".join([RESULT_NAME, *ties]) for _, ties, _ in rows]
    lines += ["-->", *render_table(["what", *COLUMNS.values()], [[name, *cells] for name, _, cells in rows])]
    return "\n".join([*lines, "", ""])


def _list_rows(figures: dict[str, Any]) -> list[tuple[str, list[str], list[str]]]:
    """Name of a row, keys of its numbers with their formats, and its cells."""
    names = {"ROC AUC, phrases of other scenes": ("matching_auc", ".3f")}
    for kind in figures["all_types"]["exchange_auc"]:
        names[f"ROC AUC, {kind} exchanged"] = (f"exchange_auc.{kind}", ".3f")
    names["pointing game"] = ("pointing_game_accuracy", ".1%")
    kinds = figures["all_types"]["pointing_game_accuracy_by_type"].keys()
    for kind in sorted(kinds - {UNSEEN_COMPOSITION}):  # which has columns of its own
        names[f"pointing game, {kind}"] = (f"pointing_game_accuracy_by_type.{kind}", ".1%")
    for rule in figures["all_types"]["baselines"]:
        names[f"pointing game of the {rule.replace('_', ' ')}"] = (f"baselines.{rule}", ".1%")
    for measure in figures["all_types"]["calibration"]["before"]:
        for name in ("before", "after"):
            title = f"{measure.replace('_', ' ')} {name} calibration"
            names[title] = (f"calibration.{name}.{measure}", ".3f")
    rows = []
    for title, (key, form) in names.items():
        ties, cells = [], []
        for column in COLUMNS:
            value = read_figure(figures[column], key)
            if value is None:
                cells.append(MISSING)
                continue
            ties.append(f"figures.{column}.{key}:{form}")
            cells.append(show_figure(value, form))
        rows.append((title, ties, cells))
    return rows
