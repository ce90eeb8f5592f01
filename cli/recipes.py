# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc recipes`: the training recipes that ship."""

import re
from itertools import takewhile

from albef_amc.cli.options import JsonOption
from albef_amc.cli.reporting import print_result
from albef_amc.configuration.shipped_files import list_shipped, resolve_shipped
from albef_amc.text_files_albef import read_text_file


def recipes(as_json: JsonOption = False) -> None:
    """Lists the recipes that `albef-amc train` takes by name, each with the first sentence of its file."""
    print_result({name: _describe(name) for name in list_shipped("training")}, as_json)


def _describe(name: str) -> str:
    """First sentence of the comment that a recipe begins with."""
    lines = read_text_file(resolve_shipped(name, "training", ".yaml")).splitlines()
    comment = " ".join(line.removeprefix("#").strip() for line in takewhile(lambda line: line.strip("# "), lines))
    return re.split(r"(?<=\.) (?=[A-Z])", comment)[0]
