# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Pickles of plain values (lists, dictionaries, texts, numbers): nothing else is built, nothing is ever called."""

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
    """Contents of a pickle that holds lists, tuples, dictionaries, texts and numbers, written by Python 2 or 3.

    Byte strings of Python 2 become text as Latin-1. A pickle that names any class or function could run code: it is
    refused before it is resolved. Lengths and numbers in it that would fill the memory are refused before it is read.

    Args:
        path (`Path`): the file.

    Raises:
        ValueError: the pickle names a class or function, or it is damaged; the message says which.
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
