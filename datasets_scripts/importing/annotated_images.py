# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What every reader of annotations yields: pictures with annotated objects, coordinates as found in the file."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from albef_amc.datasets_scripts.jsonl.line_checks import XYXY
from albef_amc.datasets_scripts.reading.image_files import find_path_problem

# Words of file and folder names -> split.
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
}
# Pictures that are looked for in a folder before it is taken for the folder of all of them.
TRIED_PICTURES = 100


@dataclass(frozen=True)
class AnnotatedObject:
    """An object of a picture, not yet checked.

    Args:
        label (`str`): name of its class, or a phrase.
        where (`str`): place in the file, for messages.
        boxes (`list`): as found; empty where the file has none.
        outlines (`list`): polygons (flat lists) and run-length coded masks, as found.
        is_phrase (`bool`, defaults to `False`): whether `label` is a phrase that somebody wrote, not a class.
        is_lost (`bool`, defaults to `False`): whether the object was annotated in a form that cannot be imported; the
            other objects of its label are then not all there are.
    """

    label: str
    where: str
    boxes: list[Any] = field(default_factory=list)
    outlines: list[Any] = field(default_factory=list)
    is_phrase: bool = False
    is_lost: bool = False


@dataclass(frozen=True)
class AnnotatedImage:
    """A picture and its objects.

    Args:
        name (`str`): path below the folder of pictures that is written, with `/`.
        path (`Path`): the file.
        objects (`list[AnnotatedObject]`): in the order of the file.
        split (`str`, *optional*): split that the tool put it into.
        stated_size (`tuple`): width and height that the annotations state; None where they do not.
        box_format (`str`, defaults to "xyxy"): "xyxy" or "xywh" in pixels, or "normalized_xyxy", for which polygons
            are fractions too.
        is_upright (`bool`, defaults to `True`): whether coordinates belong to the picture after EXIF rotation.
    """

    name: str
    path: Path
    objects: list[AnnotatedObject]
    split: str | None = None
    stated_size: tuple[Any, Any] = (None, None)
    box_format: str = XYXY
    is_upright: bool = True


def find_split(path: Path, root: Path) -> str | None:
    """Find the split that the name of a file, or otherwise of its nearest folder below `root`, stands for.

    Example:
        >>> find_split(Path("data/annotations/instances_val2017.json"), Path("data"))
        'validation'
        >>> find_split(Path("data/valid/_annotations.coco.json"), Path("data"))
        'validation'
        >>> find_split(Path("data/labels.json"), Path("data")) is None
        True
    """
    inside = path.relative_to(root)
    for name in (path.stem, *(folder.name for folder in inside.parents)):
        for word in re.findall(r"[a-z]+", name.lower()):
            if word in SPLIT_WORDS:
                return SPLIT_WORDS[word]
    return None


def find_image_folder(file_names: Sequence[str], folders: Iterable[Path], annotations: Path) -> Path:
    """Find the folder that most of the first pictures lie in.

    Args:
        file_names (sequence of `str`): paths of pictures, as the annotations name them.
        folders (iterable of `Path`): folders to look in; the first one wins a tie.
        annotations (`Path`): the file, for the message.

    Raises:
        ValueError: a name leads out of its folder.
        FileNotFoundError: none of the pictures is in any of the folders.
    """
    for name in file_names:
        check_picture_name(name, str(annotations))
    tried = file_names[:TRIED_PICTURES]
    places = list(dict.fromkeys(folders))
    counts = {folder: sum((folder / name).is_file() for name in tried) for folder in places}
    best = max(places, key=counts.__getitem__)
    if tried and not counts[best]:
        raise FileNotFoundError(
            f"None of the pictures of {annotations} ({tried[0]}, ...) is in {', '.join(map(str, places))}. Pass the "
            "folder that they lie in (`--images`)."
        )
    return best


def check_picture_name(name: str, where: str) -> None:
    """Refuse the name of a picture that leads out of its folder.

    Raises:
        ValueError: an absolute path, one with `..` or one with backslashes.
    """
    problem = find_path_problem(name)
    if problem:
        raise ValueError(f"{where}: picture {name!r}: {problem}. Write it relative to the folder of the pictures.")


def name_picture(path: Path, root: Path, file_name: str) -> str:
    """Name a picture by its path below `root`, or by the name in the annotations where it lies elsewhere.

    Example:
        >>> name_picture(Path("data/train/a.jpg"), Path("data"), "a.jpg")
        'train/a.jpg'
        >>> name_picture(Path("photos/a.jpg"), Path("data"), "a.jpg")
        'a.jpg'
    """
    return str(path.relative_to(root).as_posix()) if path.is_relative_to(root) else str(Path(file_name).as_posix())
