# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc builders`: the data sets that are read by name."""

import inspect

from albef_amc.cli.options import JsonOption
from albef_amc.cli.reporting import print_result
from albef_amc.datasets_scripts import BUILDERS


def builders(as_json: JsonOption = False) -> None:
    """Lists the data sets that commands and recipes take by name, each with the first line of its builder."""
    print_result({name: (inspect.getdoc(kind) or "").partition("\n")[0] for name, kind in BUILDERS.items()}, as_json)
