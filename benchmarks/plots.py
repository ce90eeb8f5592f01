# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Curves of what a benchmark measured, as a picture beside its JSON."""

from pathlib import Path

from matplotlib.figure import Figure

WIDTH, HEIGHT = 6.4, 4.0  # inches
DOTS_PER_INCH = 120
ROOM_ABOVE = 1.08  # end of an axis over the largest value


def plot_sweeps(result: Path, title: str, y_label: str, sweeps: dict[str, list[dict]], labels: dict[str, str]) -> None:
    """A picture for each sweep beside a result file: milliseconds per phrase of every side.

    Args:
        result (`Path`): the result file.
        title, y_label (`str`): words of the pictures.
        sweeps (`dict`): name of what changes -> results of the cases, which hold its value under that name.
        labels (`dict`): the same names -> words of the x axis.
    """
    for name, rows in sweeps.items():
        curves = {
            side: [(row[name], 1e3 / row["sides"][side]["phrases_per_second"]) for row in rows]
            for side in rows[0]["sides"]
        }
        picture, words = result.with_name(f"{result.stem}_{name}.png"), f"{title}: time against {labels[name]}"
        plot_curves(picture, words, labels[name], y_label, curves, log_x=True, log_y=True)


def plot_curves(
    path: Path,
    title: str,
    x_label: str,
    y_label: str,
    curves: dict[str, list[tuple[float, float]]],
    log_x: bool = False,
    log_y: bool = False,
) -> None:
    """Writes a picture with one line per curve.

    Args:
        path (`Path`): PNG to write.
        title, x_label, y_label (`str`): words of the picture.
        curves (`dict`): name in the legend -> points (x, y), drawn in the order of x.
        log_x, log_y (`bool`): logarithmic axes. Ticks of the x axis are the values measured.
    """
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    if log_x:
        axes.set_xscale("log")
    ticks = sorted({x for points in curves.values() for x, _ in points})
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    if log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, ROOM_ABOVE * max(y for points in curves.values() for _, y in points))
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH)
