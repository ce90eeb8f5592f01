# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Files of values that ship with the package, by name."""

from pathlib import Path

CONFIGURATION_FOLDER = Path(__file__).parent


def list_shipped(kind: str) -> list[str]:
    """Names of the files that ship in `configuration/<kind>`, without their ending."""
    return sorted(path.stem for path in (CONFIGURATION_FOLDER / kind).iterdir() if path.suffix in (".yaml", ".json"))


def resolve_shipped(name_or_path: str | Path, kind: str, suffix: str) -> Path:
    """A file by path, or one that ships in `configuration/<kind>` by name.

    Raises:
        FileNotFoundError: there is neither.
    """
    path = Path(name_or_path)
    shipped = CONFIGURATION_FOLDER / kind / f"{path.name.removesuffix(suffix)}{suffix}"
    if path.is_file():
        return path
    if path.parent == Path() and shipped.is_file():
        return shipped
    raise FileNotFoundError(
        f"no file {name_or_path}, and no such name among those that ship: {', '.join(list_shipped(kind))}."
    )
