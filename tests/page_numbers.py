# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Numbers of README and docs: each decimal is tied to a key of a file, by a comment above its paragraph or table."""

import importlib
import json
import re
from functools import cache
from typing import Any

import yaml
from testing_utils import PROJECT_FOLDER

NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)*(?:e-\d+)?")
TIE = re.compile(r"(?:(?P<dividend>\d+)/)?(?P<key>\w[^/*:]*)(?:(?P<operator>[/*])(?P<factor>[\d.e]+))?:(?P<format>.*)")


@cache
def load_file(name: str) -> Any:
    """Content of a JSON or YAML file, or a module of ours."""
    if name.endswith(".py"):
        folder, _, rest = name.removesuffix(".py").partition("/")
        package = "albef_amc" if folder == "modeling_albef_amc" else f"albef_amc.{folder}"
        return importlib.import_module(f"{package}.{rest.replace('/', '.')}")
    text = (PROJECT_FOLDER / name).read_text("utf-8")
    return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)


def read_value(file: str, key: str) -> Any:
    """The value at a dotted key of a file; of a module, a constant or the default of a field."""
    value = load_file(file)
    for part in key.split("."):
        if isinstance(value, dict):
            value = value[part]
        elif isinstance(value, list | tuple):
            value = value[int(part)]
        else:
            value = getattr(value, part)
    return value


def render_ties(comment: str) -> list[str]:
    """Numbers that a page must show, from its comment `<!-- numbers ... -->`.

    A line names a file and the keys of the numbers in the order of the text, each with its format: `FILE key:.1f
    key/60:.1f 1000/key:.0f`. Keys after `[prefix ...]` are repeated for each prefix, as in the rows of a table. A line
    without a file reads the file of the line before it.
    """
    rendered, file = [], ""
    for line in comment.strip().splitlines():
        words = line.split()
        if "/" in words[0] and ":" not in words[0]:
            file = words.pop(0)
        prefixes = re.match(r"\[(.*?)\]", " ".join(words))
        keys = " ".join(words)[prefixes.end() :].split() if prefixes else words
        for prefix in [f"{one}." for one in prefixes[1].split()] if prefixes else [""]:
            for tie in map(TIE.fullmatch, keys):
                value = read_value(file, prefix + tie["key"])
                if tie["factor"]:
                    value = value / float(tie["factor"]) if tie["operator"] == "/" else value * float(tie["factor"])
                if tie["dividend"]:
                    value = int(tie["dividend"]) / value
                rendered.append(f"{value:{tie['format']}}".rstrip("%"))
    return rendered


def find_loose_numbers(text: str) -> list[str]:
    """What is wrong with the numbers of a Markdown page: every decimal outside code must be tied to a key of a file.

    A paragraph or table has its ties in a comment directly above it (see [`render_ties`]). They are compared with its
    numbers in order, up to the first difference; integers without a tie are ignored.
    """
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    problems = []
    for block in re.split(r"\n\s*\n", text):
        comment = re.search(r"<!-- numbers\n(.*?)-->", block, flags=re.DOTALL)
        expected = render_ties(comment[1]) if comment else []
        prose = re.sub(r"<!--.*?-->|`[^`]*`|\]\([^)]*\)", " ", block, flags=re.DOTALL)
        for number in NUMBER.findall(re.sub(r"(?<=\d),(?=\d{3})", "", prose)):
            if expected and number == expected[0]:
                expected.pop(0)
            elif not number.isdigit():
                problems.append(f"{number} is not tied to a file; the next number of its block is {expected[:1]}")
                break
        else:
            problems += [f"{number} of a file is not in its block" for number in expected[:1]]
    return problems
