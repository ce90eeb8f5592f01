# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""How to install a missing package: from a clone of the repository, since this one is on no package index."""


def name_installation(extra: str) -> str:
    """The command for messages about a package that is not installed.

    Args:
        extra (`str`): the extra of this package that installs it, such as `"train"`.

    Example:
        >>> name_installation("train")
        "`pip install '.[train]'` in a clone of the repository"
    """
    return f"`pip install '.[{extra}]'` in a clone of the repository"
