# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Figures of the demo in the pages: rows of the README's table, every figure in docs/evaluation.md."""

import re
from pathlib import Path
from typing import Any

from figure_tables import read_figure, render_table, show_figure

from albef_amc.cli.demo import MODELS

PROJECT_FOLDER = Path(__file__).parents[1]
README, PAGE = PROJECT_FOLDER / "README.md", PROJECT_FOLDER / "docs" / "evaluation.md"
RESULT_NAME = "benchmarks/results/demo.json"
FIGURES = re.compile(r"(?<=<!-- demo -->\n).*?(?=<!-- end of demo -->)", flags=re.DOTALL)
TIES_OF_ROWS = re.compile(r"(?<=^benchmarks/results/demo\.json\n)(?:\[mean.*\n)+", flags=re.MULTILINE)
ROWS = re.compile(
    r"(?<=^\| what \| here \| compared with \| command \|\n).*?(?=^\| 14 phrases)", re.MULTILINE | re.DOTALL
)
MINUTES = re.compile(r"(?<=In about )\d+(?= minutes on two CPU cores it trains)")
POINTING = "pointing_game_accuracy"
# Rows of the README: key of a model's measures, and format.
SHORT_ROWS = {
    "pointing game on held-out scenes, mean of three seeds": (POINTING, ".1%"),
    "the same, compositions never seen in training": (f"{POINTING}_by_type.unseen_composition", ".1%"),
    "the same, phrases of a scene exchanged (lower is better)": ("shuffled_phrases_accuracy", ".1%"),
    "ROC AUC of the matching score on the same scenes": ("matching_auc", ".3f"),
}
GAINS = {"gain": "over the same steps without it", "gain_over_largest_object": "over the largest object"}


def write_pages(results: dict[str, Any]) -> None:
    """Writes the figures into both pages.

    Args:
        results (`dict`): content of `benchmarks/results/demo.json`.
    """
    mean = results["mean"]
    text = PAGE.read_text(encoding="utf-8")
    figures = render_measures(mean) + render_gains(results)
    PAGE.write_text(FIGURES.sub(lambda _: figures, text), encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    ties, rows = render_short_rows(mean)
    text = TIES_OF_ROWS.sub(lambda _: ties, text)
    text = MINUTES.sub(f"{results['seeds'][0]['seconds'] / 60:.0f}", text)
    README.write_text(ROWS.sub(lambda _: rows, text), encoding="utf-8")


def render_short_rows(mean: dict[str, Any]) -> tuple[str, str]:
    """Rows of the README's table, with AMC against without AMC and the base, and the keys of their numbers.

    Args:
        mean (`dict`): means over seeds.
    """
    ties, rows = "", "| --- | ---: | ---: | --- |\n"
    for title, (key, form) in SHORT_ROWS.items():
        ties += f"[mean.with_amc mean.without_amc mean.base] {key}:{form}\n"
        shown = {name: show_figure(read_figure(mean[name], key), form) for name in MODELS}
        command = "`python benchmarks/demo.py`" if title in list(SHORT_ROWS)[:1] else "the same"
        compared = f"{shown['without_amc']} without AMC, {shown['base']} base"
        rows += f"| {title} | {shown['with_amc']} | {compared} | {command} |\n"
    return ties, rows


def list_rows(mean: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Rows of all measures, under their names: key and format."""
    rows = {"pointing game": (POINTING, ".1%")}
    for kind in mean["base"][f"{POINTING}_by_type"]:
        rows[f"pointing game, {kind.replace('_', ' ')}"] = (f"{POINTING}_by_type.{kind}", ".1%")
    rows["pointing game, phrases of a scene exchanged"] = ("shuffled_phrases_accuracy", ".1%")
    for protocol in ("any", "merged", "all"):
        rows[f"boxes with an IoU of at least one half, {protocol}"] = (f"recall_at_1_{protocol}", ".1%")
    rows["ROC AUC of the score, phrases of other scenes"] = ("matching_auc", ".3f")
    for kind in mean["base"]["exchange_auc"]:
        rows[f"ROC AUC of the score, {kind} exchanged"] = (f"exchange_auc.{kind}", ".3f")
    return rows


def render_measures(mean: dict[str, Any]) -> str:
    """A table of every measure with a column per model, tied to the keys of its numbers (`tests/page_numbers.py`).

    Args:
        mean (`dict`): means over seeds.
    """
    rows = list_rows(mean)
    prefixes = " ".join(f"mean.{name}" for name in MODELS)
    ties = [f"[{prefixes}] {key}:{form}" for key, form in rows.values()]
    lines = ["<!-- numbers", RESULT_NAME + " " + ties[0], *ties[1:], "-->"]
    cells = [
        [title, *(show_figure(read_figure(mean[name], key), form) for name in MODELS)]
        for title, (key, form) in rows.items()
    ]
    lines += render_table(["held-out scenes, mean of three seeds", *MODELS.values()], cells)
    return "\n".join([*lines, "", ""])


def render_gains(results: dict[str, Any]) -> str:
    """A paragraph with the gains of AMC and their paired intervals of each seed, and the rules that read no words."""
    ties, sentences = [], []
    for key, words in GAINS.items():
        ties.append(f"{RESULT_NAME} mean.{key}*100:.1f")
        ends = []
        for seed, result in enumerate(results["seeds"]):
            ties.append(" ".join(f"seeds.{seed}.confidence_interval.{key}.{end}*100:.1f" for end in (0, 1)))
            ends.append(" to ".join(f"{100 * end:.1f}" for end in result["confidence_interval"][key]))
        intervals = ", ".join(ends)
        sentences.append(f"AMC gains {100 * results['mean'][key]:.1f} points {words}: {intervals}.")
    rules = []
    for rule, accuracy in results["mean"]["baselines"].items():
        ties.append(f"{RESULT_NAME} mean.baselines.{rule}:.1%")
        rules.append(f"{rule.replace('_', ' ')} {100 * accuracy:.1f} %")
    words = "The intervals are paired, over scenes, one per seed, at 95 %."
    lines = ["<!-- numbers", *ties, "-->", *sentences, words, f"Rules that read no words: {', '.join(rules)}."]
    return "\n".join([*lines[: len(ties) + 2], " ".join(lines[len(ties) + 2 :]), "", ""])
