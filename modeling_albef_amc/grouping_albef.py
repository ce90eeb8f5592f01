# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""How phrases are laid out on their way through the text layers: without padding, several kinds in one pass, and in
cross-attention those of an image side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from .parallel_albef import pad_pieces

LARGEST_GRID = 4  # places of a grid for each phrase, above which the images are copied in its stead


@dataclass(frozen=True)
class PhraseGroups:
    r"""Phrases side by side on a grid with one row an image, so that the image is read once for all of them.

    Keys and values of an image have hundreds of rows where a phrase has ten: attention from all phrases of an image
    at once copies none of them. Images with fewer phrases than the widest leave places empty; where that would waste
    more than it saves (one image with many phrases, many with one), every phrase gets a row and a copy of its image.

    Args:
        images (`torch.Tensor` of shape `(M,)`, *optional*): image of each row of the grid; None for all of them, in
            order.
        num_rows, width (`int`): M, and the places m of a row.
        places (`torch.Tensor` of shape `(P,)`, *optional*): place of each phrase, counted row by row; None where
            phrase p has place p.
        phrases (`torch.Tensor` of shape `(M * m,)`, *optional*): phrase of each place, any one for an empty place.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc.grouping_albef import PhraseGroups
    >>> groups = PhraseGroups.of(torch.tensor([2, 0, 2]), num_images=3)
    >>> groups.images, groups.spread(torch.tensor([5, 6, 7]))  # the place beside 6 is empty
    (tensor([0, 2]), tensor([[6, 5],
            [5, 7]]))
    >>> groups.collect(groups.spread(torch.tensor([5, 6, 7])))
    tensor([5, 6, 7])

    ```
    """

    images: torch.Tensor | None
    num_rows: int
    width: int
    places: torch.Tensor | None = None
    phrases: torch.Tensor | None = None

    @classmethod
    def of(cls, image_index: "torch.Tensor | PhraseGroups | None", num_images: int) -> "PhraseGroups":
        """Groups of phrases whose images are `image_index` `(P,)`; without it, of one phrase an image."""
        if isinstance(image_index, PhraseGroups):
            return image_index
        if image_index is None:
            return cls(None, num_images, 1)
        num_phrases = len(image_index)
        if num_images == 1 and num_phrases > 0:
            return cls(None, 1, num_phrases)
        counts = torch.bincount(image_index, minlength=num_images)
        images = counts.nonzero().flatten()
        width = int(counts.max()) if num_phrases > 0 else 0
        if num_phrases == 0 or len(images) * width > LARGEST_GRID * num_phrases:
            return cls(image_index, num_phrases, 1)
        order = image_index.argsort(stable=True)
        ordered = image_index[order]
        row_of_image, first = (counts > 0).cumsum(0) - 1, counts.cumsum(0) - counts
        steps = torch.arange(num_phrases, device=image_index.device)
        places = torch.empty_like(image_index)
        places[order] = row_of_image[ordered] * width + steps - first[ordered]
        read = None if len(images) == num_images else images
        if len(images) * width == num_phrases and torch.equal(places, steps):
            return cls(read, len(images), width)
        phrases = torch.zeros(len(images) * width, dtype=torch.int64, device=image_index.device)
        phrases[places] = steps
        return cls(read, len(images), width, places, phrases)

    @classmethod
    def of_each(cls, image_index: "ImageIndex", num_images: int) -> tuple["PhraseGroups", ...]:
        """Groups for each image of a phrase: one where `image_index` is `(P,)`, m where it is `(P, m)`."""
        if isinstance(image_index, tuple):
            return image_index
        if isinstance(image_index, torch.Tensor) and image_index.ndim == 2:
            return tuple(cls.of(column, num_images) for column in image_index.unbind(dim=1))
        return (cls.of(image_index, num_images),)

    def to(self, device: torch.device) -> "PhraseGroups":
        """The same groups for tensors on a device."""
        images, places, phrases = (_move(index, device) for index in (self.images, self.places, self.phrases))
        return replace(self, images=images, places=places, phrases=phrases)

    def select(self, of_images: torch.Tensor) -> torch.Tensor:
        """Rows of the images that are read: `(N, ...)` to `(M, ...)`."""
        return of_images if self.images is None else of_images.index_select(0, self.images)

    def spread(self, of_phrases: torch.Tensor) -> torch.Tensor:
        """Values of phrases on the grid: `(P, ...)` to `(M, m, ...)`; empty places repeat some phrase."""
        placed = of_phrases if self.phrases is None else of_phrases.index_select(0, self.phrases)
        return placed.unflatten(0, (self.num_rows, self.width))

    def collect(self, on_grid: torch.Tensor) -> torch.Tensor:
        """Values of phrases from the grid: `(M, m, ...)` to `(P, ...)`."""
        placed = on_grid.flatten(0, 1)
        return placed if self.places is None else placed.index_select(0, self.places)


ImageIndex = torch.Tensor | PhraseGroups | tuple[PhraseGroups, ...] | None


@dataclass(frozen=True)
class PieceLayout:
    r"""Pieces of phrases of unequal length below each other, so that nothing is computed for padding.

    Args:
        attention_mask (`torch.Tensor` of shape `(P, T)`): 1 for real pieces.
        places (`torch.Tensor` of shape `(num_pieces,)`, *optional*): place of each real piece among the P x T; None
            where all are real, or padding is kept.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc.grouping_albef import PieceLayout
    >>> layout = PieceLayout.of(torch.tensor([[1, 1, 1], [1, 0, 0]]))
    >>> packed = layout.pack(torch.tensor([[5, 6, 7], [8, 9, 9]]))
    >>> packed, layout.unpack(packed)
    (tensor([5, 6, 7, 8]), tensor([[5, 6, 7],
            [8, 0, 0]]))

    ```
    """

    attention_mask: torch.Tensor
    places: torch.Tensor | None = None

    @classmethod
    def of(cls, attention_mask: "torch.Tensor | PieceLayout", keep_padding: bool = False) -> "PieceLayout":
        """Layout of the pieces that `attention_mask` `(P, T)` marks, or with `keep_padding` of all."""
        if isinstance(attention_mask, PieceLayout):
            return attention_mask
        is_real = attention_mask.flatten() != 0
        if keep_padding or is_real.all():
            return cls(attention_mask)
        return cls(attention_mask, is_real.nonzero().flatten())

    @property
    def shape(self) -> tuple[int, int]:
        """P phrases of at most T pieces."""
        return self.attention_mask.shape[0], self.attention_mask.shape[1]

    def to(self, device: torch.device) -> "PieceLayout":
        """The same layout for states on a device; the mask stays where it is."""
        return replace(self, places=_move(self.places, device))

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """`(P, T, ...)` to `(num_pieces, ...)`."""
        below_each_other = padded.flatten(0, 1)
        return below_each_other if self.places is None else below_each_other.index_select(0, self.places)

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """`(num_pieces, ...)` to `(P, T, ...)`, 0 for padding."""
        if self.places is not None:
            whole = packed.new_zeros(self.shape[0] * self.shape[1], *packed.shape[1:])
            packed = whole.index_copy(0, self.places, packed)
        return packed.unflatten(0, self.shape)

    def first_pieces(self) -> "PieceLayout":
        """Layout of the first piece of every phrase."""
        return PieceLayout(self.attention_mask[:, :1])


@dataclass(frozen=True)
class PhraseRows:
    """Phrases on their way through the fusion layers.

    Args:
        states (`torch.Tensor` of shape `(R, T, hidden_size)`): states of their pieces.
        attention_mask (`torch.Tensor` of shape `(R, T)`): 1 for real pieces.
        image_index (`torch.Tensor` of shape `(R,)` or `(R, m)`): image of each, or its m images.
        keep_padding (`bool`, defaults to `False`): states of padding are read as well.
        pieces ([`PieceLayout`], *optional*), groups ([`PhraseGroups`], *optional*): where they are known already, what
            `attention_mask` and `image_index` say, for the device of the states.
    """

    states: torch.Tensor
    attention_mask: torch.Tensor
    image_index: torch.Tensor
    keep_padding: bool = False
    pieces: PieceLayout | None = None
    groups: PhraseGroups | tuple[PhraseGroups, ...] | None = None

    def __len__(self) -> int:
        return len(self.states)

    def find_layout(self, num_images: int) -> tuple[PieceLayout, tuple[PhraseGroups, ...]]:
        """Layout of the pieces, and the groups of phrases of `num_images` images, for each image of a phrase."""
        pieces = PieceLayout.of(self.attention_mask) if self.pieces is None else self.pieces
        return pieces, PhraseGroups.of_each(self.image_index if self.groups is None else self.groups, num_images)

    def __getitem__(self, rows: torch.Tensor) -> "PhraseRows":
        return PhraseRows(self.states[rows], self.attention_mask[rows], self.image_index[rows], self.keep_padding)

    @classmethod
    def join(cls, parts: Sequence["PhraseRows"]) -> "PhraseRows":
        """All rows below each other, padded to the longest."""
        if len(parts) == 1:
            return parts[0]
        length = max(part.states.shape[1] for part in parts)
        return cls(
            torch.cat([pad_pieces(part.states, length) for part in parts]),
            torch.cat([pad_pieces(part.attention_mask, length) for part in parts]),
            torch.cat([part.image_index for part in parts]),
            any(part.keep_padding for part in parts),
        )

    @staticmethod
    def split(states: torch.Tensor, parts: Sequence["PhraseRows"]) -> list["PhraseRows"]:
        """`parts` with the new states that [`join`] put below each other."""
        divided = states.split([len(part) for part in parts])
        return [replace(part, states=new[:, : part.states.shape[1]]) for new, part in zip(divided, parts, strict=True)]


def _move(index: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    return None if index is None else index.to(device, non_blocking=True)


def divide_by_length(attention_mask: torch.Tensor, rows_per_chunk: int) -> list[tuple[torch.Tensor, int]]:
    r"""Phrases in chunks of similar length, which are padded less than all of them together.

    Args:
        attention_mask (`torch.Tensor` of shape `(P, T)`): 1 for real pieces.
        rows_per_chunk (`int`): phrases of a chunk at most.

    Returns:
        `list` of `tuple`: numbers of the phrases of each chunk, `(R,)`, and the columns up to the last real piece
        among them. Phrases of one length stay in their order, and so do those of a single chunk.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc.grouping_albef import divide_by_length
    >>> divide_by_length(torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]]), rows_per_chunk=2)
    [(tensor([1, 2]), 2), (tensor([0]), 3)]

    ```
    """
    columns = torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
    lengths = ((attention_mask != 0) * columns).amax(dim=1)
    order = torch.arange(len(lengths), device=lengths.device)
    if len(lengths) > rows_per_chunk:
        order = lengths.argsort(stable=True)
    chunks = order.split(rows_per_chunk)
    longest = torch.stack([lengths[rows].amax() for rows in chunks]).tolist()
    return list(zip(chunks, longest, strict=True))


def divide_rows(is_first: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of the rows that `is_first` `(P,)` marks, and of the others; without any mark the first row is the
    first part, which is never empty."""
    if not is_first.any():
        is_first = torch.arange(len(is_first), device=is_first.device) == 0
    return is_first.nonzero().flatten(), (~is_first).nonzero().flatten()


__all__ = ["ImageIndex", "PhraseGroups", "PhraseRows", "PieceLayout", "divide_by_length", "divide_rows"]
