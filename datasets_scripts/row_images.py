# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Images of rows: bytes, or files below the folder of the data set. An address in a row is never fetched."""

import copy
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub.constants import HF_HUB_CACHE
from PIL import ExifTags, ImageOps

from albef_amc.image_processing_albef import UnusableImageError, open_image

IMAGE_COLUMNS = ("image", "images")
# A protocol prefix (a single letter is a Windows drive), or a chain of file systems in the notation of fsspec.
REMOTE = re.compile(r"\A\s*[A-Za-z][\w+.-]+:|://|::")


class RowImage(datasets.Image):
    """The feature `Image` of `datasets`, restricted to supported formats and permitted folders.

    In files and in `to_dict` it is a plain `Image`.

    Args:
        folders (sequence of `Path`, *optional*): a path in a row must lie below one of them, links resolved; a
            relative path is below the first. Without folders, rows may name any local file.
        is_decoded (`bool`, defaults to `True`): whether a row holds the decoded image; otherwise it holds bytes or
            a path, which [`~image_processing_albef.load_image`] decodes.
        mode (`str`, *optional*): colour mode of decoded images, as for `datasets.Image`.
    """

    def __init__(self, folders: Sequence[Path] | None = None, is_decoded: bool = True, mode: str | None = None):
        super().__init__(mode=mode)
        self.folders = folders
        self.is_decoded = is_decoded

    def __eq__(self, other: object) -> bool:
        return isinstance(other, datasets.Image) and dataclasses.asdict(self) == dataclasses.asdict(other)

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> Any:
        """Decode a stored image to an upright PIL image, or return its bytes or path.

        Raises:
            ValueError: a path outside the folders, or one that is not on this machine.
            UnusableImageError: an image that cannot be used.
        """
        if not isinstance(value, Mapping):
            return value
        source = locate_image(value, self.folders)
        if not self.is_decoded:
            return source
        name = value.get("path") or "the image of a row"
        with open_image(source, name=name if isinstance(source, bytes) else None) as opened:
            try:
                opened.load()
                is_rotated = opened.getexif().get(ExifTags.Base.Orientation) is not None
                image = ImageOps.exif_transpose(opened) if is_rotated else opened
            except Exception as error:  # damaged data can make a decoder raise anything
                raise UnusableImageError(
                    f"{name} cannot be decoded: {error}. The file is truncated or damaged: replace it.",
                    "image file damaged or not an image",
                ) from error
        return image.convert(self.mode) if self.mode and self.mode != image.mode else image


def locate_image(value: Any, folders: Sequence[Path] | None = None) -> Any:
    """Return the bytes of a row's image, or the path of a file that the row may name.

    Args:
        value: value of the column: bytes, a path, or a mapping with `bytes` and `path`; anything else is returned.
        folders (sequence of `Path`, *optional*): see [`RowImage`].

    Raises:
        ValueError: a path outside the folders, or one that is not on this machine.
        UnusableImageError: neither bytes nor a path.
    """
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (None, value)
    if content is not None:
        return content
    if path is None:
        raise UnusableImageError("a row has no image, neither bytes nor a path. Drop it.", "row without an image")
    if not isinstance(path, str):
        return path
    if REMOTE.search(path):
        raise ValueError(
            f"a row names the image {path!r}, which is not a file of this machine: nothing is fetched from "
            "addresses in rows. Store the images' bytes in the rows; `albef-amc build-dataset` does."
        )
    if folders is None:
        return path
    places = [_resolve(folder, path) for folder in folders]
    inside = [place for place, folder in zip(places, folders, strict=True) if place and place.is_relative_to(folder)]
    if not inside:
        raise ValueError(
            f"a row names the image {path!r}, which is outside the folder of its data set ({folders[0]}): it is not "
            "opened. Store the images' bytes in the rows (`albef-amc build-dataset` does), or put the files there."
        )
    return str(next((place for place in inside if place.is_file()), inside[0]))


def _resolve(folder: Path, path: str) -> Path | None:
    """Resolve a path and its links; `None` for a path that no file can have."""
    try:
        return (folder / path).resolve()
    except (OSError, RuntimeError, ValueError):  # a name that is too long, links in a circle, a null character
        return None


def guard_images(rows: Any, folders: Sequence[Path] | None = None, is_decoded: bool = True) -> Any:
    """Read every image of a data set through [`RowImage`]; folders that were set before are kept.

    Columns of audio, video and documents are not decoded: their decoders could fetch addresses.

    Args:
        rows: data set of `datasets`, map-style or iterable; anything else is returned as it is.
        folders, is_decoded: as for [`RowImage`]. With `folders`, the columns `image` and `images` become images even
            where the file stores paths or bytes.

    Raises:
        ValueError: with `folders`, a column of that name that does not hold images.
    """
    if not isinstance(rows, datasets.Dataset | datasets.IterableDataset) or rows.features is None:
        return rows
    if folders is not None:
        rows = _make_images(rows)
    features = datasets.Features(
        {name: _guard(feature, folders, is_decoded) for name, feature in rows.features.items()}
    )
    if isinstance(rows, datasets.IterableDataset):
        return rows.cast(features)
    guarded = copy.deepcopy(rows)  # as `with_format` copies: the table is shared
    guarded.info.features = features
    return guarded


def _guard(feature: Any, folders: Sequence[Path] | None, is_decoded: bool) -> Any:
    if isinstance(feature, RowImage):
        return RowImage(feature.folders if folders is None else folders, is_decoded, feature.mode)
    if isinstance(feature, datasets.Image):
        return RowImage(folders, is_decoded, feature.mode) if feature.decode else feature
    if isinstance(feature, datasets.List):
        return datasets.List(_guard(feature.feature, folders, is_decoded), length=feature.length)
    if isinstance(feature, datasets.LargeList):
        return datasets.LargeList(_guard(feature.feature, folders, is_decoded))
    if isinstance(feature, dict):
        return {name: _guard(part, folders, is_decoded) for name, part in feature.items()}
    if hasattr(feature, "decode_example") and getattr(feature, "decode", False):
        return dataclasses.replace(feature, decode=False)
    return feature


def _make_images(rows: Any) -> Any:
    """Cast columns of paths, bytes or undecoded images with names of the schema to image columns."""
    for name in IMAGE_COLUMNS:
        feature = rows.features.get(name)
        is_list = name == "images" and isinstance(feature, datasets.List)
        if feature is None or _is_image(feature.feature if is_list else feature):
            continue
        try:
            rows = rows.cast_column(name, datasets.List(datasets.Image()) if is_list else datasets.Image())
        except (ValueError, TypeError, NotImplementedError) as error:
            raise ValueError(
                f"column `{name}` holds {feature}, not images: `datasets.Image` is expected, bytes or paths."
            ) from error
    return rows


def _is_image(feature: Any) -> bool:
    return isinstance(feature, datasets.Image) and feature.decode


def list_image_folders(name: str) -> list[Path]:
    """List the folders from which rows of a data set may take files.

    Args:
        name (`str`): a folder, otherwise a repository on the Hub, whose files are in the caches of this machine.
    """
    if Path(name).exists():
        return [Path(name).resolve()]
    caches = [
        Path(HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}",
        Path(datasets.config.EXTRACTED_DATASETS_PATH),
    ]
    return [cache.resolve() for cache in caches]


__all__ = ["RowImage", "guard_images", "list_image_folders", "locate_image"]
