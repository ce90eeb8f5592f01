# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Writing a file whole: a reader finds the file of before or the new one, never half of it."""

import json
import os
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: bytes) -> None:
    """Writes bytes under a temporary name beside `path` and renames; folders that are missing are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON with [`write_whole`]."""
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


__all__ = ["write_json", "write_whole"]
