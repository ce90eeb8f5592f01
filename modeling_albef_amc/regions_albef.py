# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Regions of an image: annotations to mask pixels, heatmaps to points and boxes, run-length coded masks."""

import numpy as np


def encode_rle(mask: np.ndarray) -> dict:
    """Code a binary mask as COCO's compressed run-length string.

    Runs go down the columns, begin with a run of zeros (possibly empty) and, from the fourth on, are stored as the
    difference to the run two places earlier.

    Args:
        mask (`np.ndarray` of shape `(height, width)`): non-zero where the region is.

    Returns:
        `dict`: `size` as `[height, width]` and `counts` as ASCII `str`.

    Example:

    ```python
    >>> import numpy as np
    >>> from albef_amc.regions_albef import encode_rle
    >>> encode_rle(np.array([[0, 1], [1, 1]]))
    {'size': [2, 2], 'counts': '13'}

    ```
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"`mask` must have shape (height, width), got {mask.shape}.")
    pixels = mask.ravel(order="F") != 0
    borders = np.flatnonzero(np.diff(pixels)) + 1
    edges = np.concatenate([[0], borders, [pixels.size]])
    runs = np.diff(edges).tolist()
    if pixels.size and pixels[0]:
        runs.insert(0, 0)
    text = []
    for index, run in enumerate(runs):
        text.append(_encode_number(run - runs[index - 2] if index > 2 else run))
    return {"size": [int(mask.shape[0]), int(mask.shape[1])], "counts": "".join(text)}


def decode_rle(rle: dict) -> np.ndarray:
    """Decode COCO run-length coding, compressed (`str` or `bytes`) or not (list of run lengths).

    Args:
        rle (`dict`): `size` as `[height, width]` and `counts`.

    Returns:
        `np.ndarray` of `bool` and shape `(height, width)`.

    Example:

    ```python
    >>> from albef_amc.regions_albef import decode_rle
    >>> decode_rle({"size": [2, 2], "counts": "13"}).tolist()
    [[False, True], [True, True]]

    ```
    """
    try:
        height, width = (int(value) for value in rle["size"])
        counts = rle["counts"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"a mask must be a dict with `size` [height, width] and `counts`, got {rle!r:.80}."
        ) from error
    runs = np.array(_decode_counts(counts) if isinstance(counts, str | bytes) else counts, dtype=np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(
            f"the runs of a mask cover {int(runs.sum())} pixels but its `size` [{height}, {width}] has "
            f"{height * width}. The run-length string is damaged or belongs to another image."
        )
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape((height, width), order="F")


def _encode_number(number: int) -> str:
    """Five bits a character, lowest first; bit 6 says that more follow, the last bit of the last one is the sign."""
    text = []
    while True:
        group = number & 0x1F
        number >>= 5
        is_last = number == (-1 if group & 0x10 else 0)
        text.append(chr(48 + (group if is_last else group | 0x20)))
        if is_last:
            return "".join(text)


def _decode_counts(counts: str | bytes) -> list[int]:
    codes = counts if isinstance(counts, bytes) else counts.encode("ascii", errors="replace")
    runs: list[int] = []
    number, shift = 0, 0
    for code in codes:
        group = code - 48
        if not 0 <= group < 64:
            raise ValueError(f"the run-length string of a mask holds {chr(code)!r}, which COCO's coding never writes.")
        number |= (group & 0x1F) << shift
        shift += 5
        if group & 0x20:
            continue
        if group & 0x10:
            number -= 1 << shift
        runs.append(number + runs[-2] if len(runs) > 2 else number)
        number, shift = 0, 0
    if shift:
        raise ValueError("the run-length string of a mask ends inside a number: it was cut off.")
    return runs


__all__ = ["decode_rle", "encode_rle"]
