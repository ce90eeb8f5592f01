# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Unpickling of plain values (lists, dictionaries, texts, numbers): no class or function is resolved or called."""

import io
import pickle
from pathlib import Path
from typing import Any

from albef_amc.conversion.pickle_files import find_pickle_end


class _GlobalFound(pickle.UnpicklingError):
    """The pickle names a class or a function."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise _GlobalFound(f"{module}.{name}")


def load_plain_pickle(path: Path) -> Any:
    """Load a pickle of lists, tuples, dictionaries, texts and numbers, written by Python 2 or 3.

    Byte strings of Python 2 are decoded as Latin-1. A pickle that names a class or function could run code: it is
    refused before the name is resolved. Lengths and numbers that would fill the memory are refused before reading.

    Args:
        path (`Path`): the file.

    Raises:
        ValueError: the pickle names a class or function, or is damaged.
    """
    content = path.read_bytes()
    try:
        find_pickle_end(content)
        return _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    except _GlobalFound as error:
        raise ValueError(
            f"{path} refers to `{error}`: loading it could run code, so it is refused. Plain lists, dictionaries, "
            "texts and numbers are expected. Fetch the file from the authors of the data set."
        ) from error
    except Exception as error:  # a damaged pickle fails in any way, see the documentation of `pickle`
        raise ValueError(f"{path} is not a complete pickle ({error}). It may be cut off: fetch it again.") from error
