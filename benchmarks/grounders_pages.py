# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Figures of the benchmark of grounders in docs/grounders.md."""

import re
from pathlib import Path
from typing import Any

from figure_tables import read_figure, render_table, show_figure

PAGE = Path(__file__).parents[1] / "docs" / "grounders.md"
RESULT_NAME = "benchmarks/results/grounders.json"
FIGURES = re.compile(r"(?<=<!-- grounders -->\n).*?(?=<!-- end of grounders -->)", flags=re.DOTALL)
MEASURES = {
    "seconds": ("seconds_median", ".2f"),
    "phrases per second": ("phrases_per_second", ".2f"),
    "peak memory in GB": ("peak_memory_gb", ".2f"),
}
SIDES = {
    "blip": "BLIP, `grad_cam`",
    "blip_lavis": "BLIP, LAVIS's way",
    "clip": "CLIP ViT-B/16, `grad_cam`",
    "clip_hooks": "CLIP ViT-B/16, a pass per phrase",
    "grounding_dino_tiny": "GroundingDINO-tiny",
    "owlv2_base": "OWLv2-base",
}
# Sentences, each `{key}` a number with its format.
SENTENCES = (
    "Threads: {machine.threads:d}; rounds, in each of which every side had a turn: {rounds:d}. BLIP is "
    "{speed_ratio.blip:.1f} times as fast as LAVIS's way, CLIP {speed_ratio.clip:.1f} times as fast as a pass per "
    "phrase. Of CLIP's other methods, `attention` takes {sides.clip_attention.seconds_median:.2f} s, `similarity` "
    "{sides.clip_similarity.seconds_median:.2f} s and `relevancy` from the first block "
    "{sides.clip_relevancy.seconds_median:.2f} s; BLIP's `attention` {sides.blip_attention.seconds_median:.2f} s and "
    "`relevancy` {sides.blip_relevancy.seconds_median:.2f} s."
)
ONE_ROUND = " One round only shows that all sides run: on a machine with other work its ratios mean little."
PLACE = re.compile(r"\{([\w.]+):([\w.]+)\}")


def write_page(results: dict[str, Any]) -> None:
    """Writes the figures into the page.

    Args:
        results (`dict`): content of `benchmarks/results/grounders.json`.
    """
    figures = render_figures(results)
    PAGE.write_text(FIGURES.sub(lambda _: figures, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def render_figures(results: dict[str, Any]) -> str:
    """A table of all sides and a paragraph, with the ties of their numbers."""
    prefixes = " ".join(f"sides.{side}" for side in SIDES)
    ties = " ".join(f"{key}:{form}" for key, form in MEASURES.values())
    cells = [
        [title, *(show_figure(read_figure(results["sides"][side], key), form) for key, form in MEASURES.values())]
        for side, title in SIDES.items()
    ]
    table = render_table(["14 phrases of an image", *MEASURES], cells)
    keys = " ".join(f"{key}:{form}" for key, form in PLACE.findall(SENTENCES))
    sentences = PLACE.sub(lambda place: show_figure(read_figure(results, place[1]), place[2]), SENTENCES)
    sentences += ONE_ROUND * (results["rounds"] == 1)
    lines = ["<!-- numbers", f"{RESULT_NAME} [{prefixes}] {ties}", "-->", *table, ""]
    return "\n".join([*lines, "<!-- numbers", f"{RESULT_NAME} {keys}", "-->", sentences, "", ""])
