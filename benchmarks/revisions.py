# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Speed of this revision against another checkout: `ground()` and a training step, in turns.

    python benchmarks/revisions.py --other ../earlier           # full size, 15 rounds
    python benchmarks/revisions.py --other ../earlier --quick   # a small model, 3 rounds

The other checkout has its own environment (`.venv`). Each revision runs its own `benchmarks/grounding.py` and
`benchmarks/training.py` functions in a process of its own, which stays alive. In each round both processes run once,
in an order that alternates, while the other one waits. The ratio of a round is the seconds of this revision over those
of the other: 1 means equal, less means faster. The interval of the median ratio is a bootstrap over rounds.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from machine import write_result

HERE = Path(__file__).resolve().parents[1]
RESAMPLES = 10_000
CASES = {  # name: (benchmark, images, phrases per image, image size)
    "grounding, 14 phrases, 256 px": ("grounding", 1, 14, 256),
    "grounding, 1 phrase, 256 px": ("grounding", 1, 1, 256),
    "training step, 4 images of 4 phrases, 256 px": ("training", 4, 4, 256),
}
WORKER = """
import argparse, sys, tempfile, time
answers, sys.stdout = sys.stdout, sys.stderr
checkout, benchmark, images, phrases, size, quick, threads = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
sys.path.insert(0, checkout + "/benchmarks")
sys.argv[1:] = []
import torch
torch.set_num_threads(threads)
import grounding, training
from measuring import count_flops
case = grounding.Case(phrases, images=images, size=size)
if benchmark == "grounding":
    model = grounding.build_model(bool(quick), size)
    run = grounding.build_sides(model, grounding.build_inputs(case), "bfloat16")["ground"]
else:
    arguments = argparse.Namespace(quick=bool(quick), device="cpu", precision="float32")
    model, inputs = training.build_model(arguments, size), training.build_inputs(case)
    run = training.build_sides(model, inputs, arguments, tempfile.mkdtemp(), ("trainer",))["trainer"]
run()
print(count_flops(run), file=answers, flush=True)
for line in sys.stdin:
    began = time.perf_counter()
    run()
    print(time.perf_counter() - began, file=answers, flush=True)
"""


class Revision:
    """A process that runs the benchmark of one checkout whenever it is asked to."""

    def __init__(self, checkout: Path, case: tuple[str, int, int, int], quick: bool, threads: int):
        words = [str(checkout), *map(str, case), str(int(quick)), str(threads)]
        python = checkout / ".venv" / "bin" / "python"
        if not python.is_file():
            raise FileNotFoundError(f"no {python}: run `make install` in that checkout.")
        pipes: dict[str, Any] = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process = subprocess.Popen([str(python), "-c", WORKER, *words], cwd=checkout, **pipes)
        self.gflop = self._read()

    def run(self) -> float:
        """Seconds of one more call."""
        self.process.stdin.write("again\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> float:
        line = self.process.stdout.readline()
        if not line:
            sys.exit("a revision ended before it was measured; its error is above.")
        return float(line)

    def close(self) -> None:
        """Ends the process."""
        self.process.communicate()


def measure(case: tuple[str, int, int, int], other: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of both revisions in every round, their ratio, and their operations."""
    sides = {
        "this": Revision(HERE, case, arguments.quick, arguments.threads),
        "other": Revision(other, case, arguments.quick, arguments.threads),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(arguments.rounds):
        for name in sorted(sides, reverse=bool(number % 2)):
            seconds[name].append(sides[name].run())
    for side in sides.values():
        side.close()
    ratios = np.divide(seconds["this"], seconds["other"])
    draws = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
    return {
        "median_ratio": float(np.median(ratios)),
        "confidence_interval": np.quantile(np.median(draws, axis=1), [0.025, 0.975]).tolist(),
        "rounds": arguments.rounds,
        "seconds_median": {name: statistics.median(values) for name, values in seconds.items()},
        "gflop": {name: side.gflop for name, side in sides.items()},
        "seconds": seconds,
    }


def name_revision(checkout: Path) -> str:
    """The commit of a checkout."""
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--other", type=Path, required=True, help="another checkout, with its environment in .venv")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a small model and 3 rounds, to see that it runs")
    parser.add_argument("--output", type=Path, help="JSON to write (benchmarks/results/revisions.json)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 3
    other = arguments.other.resolve()
    cases = [{"case": name, **measure(case, other, arguments)} for name, case in CASES.items()]
    revisions = {"this": name_revision(HERE), "other": name_revision(other)}
    write_result("revisions", {"revisions": revisions, "cases": cases}, arguments.output, arguments.quick)


if __name__ == "__main__":
    main()
