# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Prints pip constraints: the oldest version that setup.cfg allows of every package that it names.

The tools that run the tests keep their versions of constraints.txt. What the packages need themselves is left to pip.

    python .ci/oldest_versions.py setup.cfg constraints.txt > oldest.txt
"""

import configparser
import re
import sys
from pathlib import Path

BOUND = re.compile(r"^([\w.-]+)>=([\w.]+)", re.MULTILINE)
PIN = re.compile(r"^([\w.-]+)==([\w.]+)", re.MULTILINE)
TOOLS = ("mypy", "pre-commit", "pytest", "pytest-timeout", "pytest-xdist", "ruff", "setuptools")


def normalize(name: str) -> str:
    """The name of a distribution as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main(setup_file: str, constraints_file: str) -> None:
    """Writes one `name==version` per line to standard output."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(setup_file, encoding="utf-8")
    sections = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    oldest = {normalize(name): version for text in sections for name, version in BOUND.findall(text)}
    pins = {normalize(name): version for name, version in PIN.findall(Path(constraints_file).read_text("utf-8"))}
    oldest |= {tool: pins[tool] for tool in TOOLS if tool in pins}
    sys.stdout.writelines(f"{name}=={version}\n" for name, version in sorted(oldest.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
