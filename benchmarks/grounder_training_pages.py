# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Figures of the training of small models of other families, in docs/grounders.md."""

import re
from pathlib import Path
from typing import Any

from figure_tables import read_figure, render_table, show_figure

PAGE = Path(__file__).parents[1] / "docs" / "grounders.md"
RESULT_NAME = "benchmarks/results/grounder_training.json"
FIGURES = re.compile(r"(?<=<!-- grounder training -->\n).*?(?=<!-- end of grounder training -->)", flags=re.DOTALL)
NAMES = {"blip": "BLIP", "clip": "CLIP", "vilt": "ViLT"}
COLUMNS = {"start": "start", "mean.without_amc": "without AMC", "mean.with_amc": "with AMC"}
ARMS = ("without_amc", "with_amc")
POINTING = "pointing_game_accuracy"


def write_page(results: dict[str, Any]) -> None:
    """Writes the figures into the page.

    Args:
        results (`dict`): content of `benchmarks/results/grounder_training.json`.
    """
    text = PAGE.read_text(encoding="utf-8")
    families = results["families"]
    figures = render_budgets(families) + render_measures(families) + render_gains(results)
    PAGE.write_text(FIGURES.sub(lambda _: figures, text), encoding="utf-8")


def list_rows(figures: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Rows of a family, under their names: key and format."""
    rows = {"pointing game": (POINTING, ".1%")}
    for kind in figures["start"][f"{POINTING}_by_type"]:
        rows[f"pointing game, {kind.replace('_', ' ')}"] = (f"{POINTING}_by_type.{kind}", ".1%")
    rows["pointing game, phrases of a scene exchanged"] = ("shuffled_phrases_accuracy", ".1%")
    rows["ROC AUC of the score"] = ("matching_auc", ".3f")
    return rows


def render_budgets(families: dict[str, Any]) -> str:
    """A table of what each family is trained with, and of the minutes of a run on one thread."""
    keys = {
        "steps of the start": "budget.start_steps:d",
        "steps of a run": "budget.steps:d",
        "images of a step": "budget.batch_size:d",
        "phrases of an image": "budget.phrases_per_image:d",
        "minutes without AMC": "mean.without_amc.training_seconds/60:.1f",
        "minutes with AMC": "mean.with_amc.training_seconds/60:.1f",
    }
    ties, cells = [], []
    for family, figures in families.items():
        ties.append(" ".join(f"families.{family}.{key}" for key in keys.values()))
        budget, minutes = figures["budget"], [figures["mean"][arm]["training_seconds"] / 60 for arm in ARMS]
        counts = [str(budget[name]) for name in ("start_steps", "steps", "batch_size", "phrases_per_image")]
        cells.append([NAMES[family], *counts, *(f"{value:.1f}" for value in minutes)])
    lines = ["<!-- numbers", f"{RESULT_NAME} {ties[0]}", *ties[1:], "-->"]
    return "\n".join([*lines, *render_table(["family", *keys], cells), "", ""])


def render_measures(families: dict[str, Any]) -> str:
    """A table of every measure of every family, tied to the keys of its numbers (`tests/page_numbers.py`)."""
    ties, cells = [], []
    for family, figures in families.items():
        prefixes = " ".join(f"families.{family}.{column}" for column in COLUMNS)
        for title, (key, form) in list_rows(figures).items():
            ties.append(f"[{prefixes}] {key}:{form}")
            values = [read_figure(figures, f"{column}.{key}") for column in COLUMNS]
            cells.append([f"{NAMES[family]}, {title}", *(show_figure(value, form) for value in values)])
    lines = ["<!-- numbers", f"{RESULT_NAME} {ties[0]}", *ties[1:], "-->"]
    lines += render_table(["held-out scenes, mean over seeds", *COLUMNS.values()], cells)
    return "\n".join([*lines, "", ""])


def render_gains(results: dict[str, Any]) -> str:
    """A paragraph with the gain of AMC in every family, its paired interval in each seed, and rules that read no
    words."""
    ties, sentences = [], []
    for family, figures in results["families"].items():
        ties.append(f"{RESULT_NAME} families.{family}.mean.gain*100:.1f")
        ends = []
        for number, seed in enumerate(figures["seeds"]):
            key = f"families.{family}.seeds.{number}.confidence_interval"
            ties.append(f"{key}.0*100:.1f {key}.1*100:.1f")
            ends.append(" to ".join(f"{100 * end:.1f}" for end in seed["confidence_interval"]))
        mean = 100 * figures["mean"]["gain"]
        sentences.append(f"{NAMES[family]}: {mean:.1f} points over the same steps without AMC ({', '.join(ends)}).")
    rules = []
    for rule, accuracy in results["baselines"].items():
        ties.append(f"baselines.{rule}:.1%")
        rules.append(f"{rule.replace('_', ' ')} {100 * accuracy:.1f} %")
    words = "In brackets: paired intervals over scenes at 95 %, one per seed."
    prose = [*sentences, words, f"Rules that read no words: {', '.join(rules)}."]
    return "\n".join(["<!-- numbers", *ties, "-->", " ".join(prose), "", ""])
