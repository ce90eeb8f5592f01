# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Paths of images in lists of others: prefixes of another machine are replaced, and no path leaves its folder."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

from albef_amc.datasets_scripts.reading.image_files import ABSOLUTE_PATH, find_path_problem
from albef_amc.datasets_scripts.source_builder import ImageRootConfig

SEPARATORS = "/\\"  # lists of other machines have both


@dataclass
class ListedPathsConfig(ImageRootConfig):
    """Where the images are, and what the paths of the lists stand for.

    Args:
        data_root (`str`): folder of the lists.
        image_root (`str`, *optional*): folder that the images' paths are relative to; `data_root` by default.
        embed_images (`bool`, defaults to `True`): whether the rows hold the images' bytes; else they hold their paths
            on this machine, and the files must stay where they are.
        path_prefixes (`dict[str, str]` or `str`, *optional*): what paths of the lists begin with, to what stands
            there instead, relative to the folder of the images ("" for that folder itself); a text is removed. The
            longest prefix that fits is taken.
    """

    path_prefixes: dict[str, str] | str | None = None

    def __post_init__(self):
        super().__post_init__()
        for prefix, replacement in self.list_prefixes():
            if not prefix:
                raise ValueError("`path_prefixes` has an empty prefix: name what the paths of the lists begin with.")
            if replacement and find_path_problem(replacement):
                raise ValueError(
                    f"`path_prefixes`: {replacement!r} for {prefix!r}: {find_path_problem(replacement)}. It is "
                    "relative to the folder of the images (`image_root`) and lies inside it."
                )

    def list_prefixes(self) -> tuple[tuple[str, str], ...]:
        """Prefixes and what stands there instead, the longest first."""
        given = {self.path_prefixes: ""} if isinstance(self.path_prefixes, str) else self.path_prefixes or {}
        return tuple(sorted(given.items(), key=lambda pair: (-len(pair[0]), pair)))

    def resolve_listed_path(self, path: str) -> tuple[str | None, str | None]:
        """A path of a list below the folder of the images, in its one spelling; or why it cannot be used.

        Args:
            path (`str`): as written in the list.

        Returns:
            `tuple`: the path, or `None` and a reason for the report.
        """
        return _resolve(path, self.list_prefixes())


@lru_cache(maxsize=1024)  # entries of an image stand together
def _resolve(path: str, prefixes: tuple[tuple[str, str], ...]) -> tuple[str | None, str | None]:
    for prefix, replacement in prefixes:
        folder = prefix.rstrip(SEPARATORS)
        rest = path.removeprefix(folder)
        if path.startswith(folder) and rest[:1] in tuple(SEPARATORS):
            path = f"{replacement or '.'}/{rest.lstrip(SEPARATORS)}"
            break
    problem = find_path_problem(path)
    if problem is None:
        return str(PurePosixPath(path)), None
    remedy = "; the option `path_prefixes` replaces its prefix" if problem == ABSOLUTE_PATH else ""
    return None, f"{problem}: entry skipped{remedy}"
