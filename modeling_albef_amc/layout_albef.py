# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Which tokens are real and which phrases share an image: the layout that all text layers read, and the checks of what
it is built from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import torch
from torch import nn

LARGEST_GRID = 4  # slots of the grid per phrase; above that every phrase gets a copy of its image instead


@dataclass(eq=False)
class ImageGrouping:
    r"""Phrases on a grid with one row per image, so that the image is read once for all of them.

    Keys and values of an image have hundreds of rows where a phrase has ten: attention from all phrases of an image
    at once copies none of them. Images with fewer phrases than the widest leave slots empty; where that would waste
    more than it saves (one image with many phrases, many with one), every phrase gets a row and a copy of its image.

    Args:
        images (`torch.Tensor` of shape `(M,)`, *optional*): image of each row of the grid; None for all of them, in
            order.
        num_rows, width (`int`): M, and the slots m of a row.
        slots (`torch.Tensor` of shape `(P,)`, *optional*): slot of each phrase, counted row by row; None where phrase
            p has slot p.
        phrases (`torch.Tensor` of shape `(M * m,)`, *optional*): phrase of each slot, any one for an empty slot.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc.layout_albef import group_by_image
    >>> grouping = group_by_image(torch.tensor([2, 0, 2]), num_images=3)
    >>> grouping.images, grouping.to_grid(torch.tensor([5, 6, 7]))  # the slot beside 6 is empty
    (tensor([0, 2]), tensor([[6, 5],
            [5, 7]]))
    >>> grouping.from_grid(grouping.to_grid(torch.tensor([5, 6, 7])))
    tensor([5, 6, 7])

    ```
    """

    images: torch.Tensor | None
    num_rows: int
    width: int
    slots: torch.Tensor | None = None
    phrases: torch.Tensor | None = None

    def map_tensors(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "ImageGrouping":
        """The grouping with `function` applied to each of its tensors."""
        images, slots, phrases = (
            None if values is None else function(values) for values in (self.images, self.slots, self.phrases)
        )
        return ImageGrouping(images, self.num_rows, self.width, slots, phrases)

    def to(self, device: torch.device | str | int, non_blocking: bool = True) -> "ImageGrouping":
        """The grouping for states on a device."""
        return self.map_tensors(lambda values: values.to(device, non_blocking=non_blocking))

    def select_images(self, values: torch.Tensor) -> torch.Tensor:
        """Rows of the images that are read: `(N, ...)` to `(M, ...)`."""
        return values if self.images is None else values.index_select(0, self.images)

    def to_grid(self, values: torch.Tensor) -> torch.Tensor:
        """Values of phrases on the grid: `(P, ...)` to `(M, m, ...)`; empty slots repeat some phrase."""
        placed = values if self.phrases is None else values.index_select(0, self.phrases)
        return placed.unflatten(0, (self.num_rows, self.width))

    def from_grid(self, grid: torch.Tensor) -> torch.Tensor:
        """Values of phrases from the grid: `(M, m, ...)` to `(P, ...)`."""
        placed = grid.flatten(0, 1)
        return placed if self.slots is None else placed.index_select(0, self.slots)


def group_by_image(image_index: torch.Tensor, num_images: int) -> ImageGrouping:
    """Grouping of phrases whose images are `image_index` `(P,)`."""
    num_phrases = len(image_index)
    if num_images == 1 and num_phrases > 0:
        return ImageGrouping(None, 1, num_phrases)
    counts = torch.bincount(image_index, minlength=num_images)
    images = counts.nonzero().flatten()
    width = int(counts.max()) if num_phrases > 0 else 0
    if num_phrases == 0 or len(images) * width > LARGEST_GRID * num_phrases:
        return ImageGrouping(image_index, num_phrases, 1)
    order = image_index.argsort(stable=True)
    ordered = image_index[order]
    row_of_image, first = (counts > 0).cumsum(0) - 1, counts.cumsum(0) - counts
    numbers = torch.arange(num_phrases, device=image_index.device)
    slots = torch.empty_like(image_index)
    slots[order] = row_of_image[ordered] * width + numbers - first[ordered]
    images_read = None if len(images) == num_images else images
    if len(images) * width == num_phrases and torch.equal(slots, numbers):
        return ImageGrouping(images_read, len(images), width)
    phrases = torch.zeros(len(images) * width, dtype=torch.int64, device=image_index.device)
    phrases[slots] = numbers
    return ImageGrouping(images_read, len(images), width, slots, phrases)


@dataclass(eq=False)
class PhraseLayout:
    r"""P phrases of T tokens on N images as the text layers read them: packed without padding, grouped by image.

    [`build_layout`] makes it. The processor and the collator put it into the batch as `layout`, computed on the CPU,
    so that `forward` does not wait for the device to find out what it holds. When it goes to a device, what other
    layouts are built from (given phrases with masked ones, with negatives) stays on the CPU.

    Args:
        attention_mask (`torch.Tensor` of shape `(P, T)`): 1 for real tokens. It stays on the device where it was
            built: masks of attention are made there.
        image_index (`torch.Tensor` of shape `(P,)` or `(P, m)`): image row of each phrase, or its m rows. It stays
            where it was built.
        num_images (`int`): N.
        token_index (`torch.Tensor` of shape `(num_tokens,)`, *optional*): position of each real token among the
            P x T; None where all are real, or where the states of padding are computed as well.
        groupings (`tuple` of [`ImageGrouping`]): one for each image of a phrase.
        masked_tokens (`torch.Tensor` of shape `(P, T)`, bool, *optional*): tokens that the masked-word loss predicts;
            None if unknown. It stays where it was built.
        annotated_phrases (`torch.Tensor` of shape `(P,)`, bool, *optional*): phrases with a region; None if unknown.
            It stays where it was built.
        explained_phrases (`torch.Tensor` of shape `(P,)`, bool, *optional*): phrases whose heatmap is needed in
            training; None for all of them. It stays where it was built.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc.layout_albef import build_layout
    >>> layout = build_layout(torch.tensor([[1, 1, 1], [1, 0, 0]]), torch.tensor([0, 0]), num_images=1)
    >>> packed = layout.pack(torch.tensor([[5, 6, 7], [8, 9, 9]]))
    >>> packed, layout.unpack(packed)
    (tensor([5, 6, 7, 8]), tensor([[5, 6, 7],
            [8, 0, 0]]))

    ```
    """

    attention_mask: torch.Tensor
    image_index: torch.Tensor
    num_images: int
    token_index: torch.Tensor | None
    groupings: tuple[ImageGrouping, ...]
    masked_tokens: torch.Tensor | None = None
    annotated_phrases: torch.Tensor | None = None
    explained_phrases: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """P phrases of at most T tokens."""
        return self.attention_mask.shape[0], self.attention_mask.shape[1]

    def __getitem__(self, rows: object) -> NoReturn:
        raise TypeError(
            f"the `layout` of a batch cannot be cut (got [{rows!r:.40}]). Remove it from the batch (`batch.pop("
            '"layout")`) before you choose phrases or images: the model builds it anew.'
        )

    def map_tensors(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "PhraseLayout":
        """The layout with `function` applied to each of its tensors."""

        def apply(values: torch.Tensor | None) -> torch.Tensor | None:
            return None if values is None else function(values)

        groupings = tuple(one.map_tensors(function) for one in self.groupings)
        return PhraseLayout(
            function(self.attention_mask),
            function(self.image_index),
            self.num_images,
            apply(self.token_index),
            groupings,
            apply(self.masked_tokens),
            apply(self.annotated_phrases),
            apply(self.explained_phrases),
        )

    def to(self, device: torch.device | str | int, non_blocking: bool = True) -> "PhraseLayout":
        """The layout for states on a device: what moves rows goes there, what describes phrases stays."""
        groupings = tuple(one.to(device, non_blocking) for one in self.groupings)
        token_index = self.token_index
        if token_index is not None:
            token_index = token_index.to(device, non_blocking=non_blocking)
        return replace(self, token_index=token_index, groupings=groupings)

    def pin_memory(self) -> "PhraseLayout":
        """The layout in page-locked memory, as a data loader asks for it."""
        return self.map_tensors(torch.Tensor.pin_memory)

    def keep_padding(self) -> "PhraseLayout":
        """The layout by which the states of padding are computed as well."""
        return replace(self, token_index=None)

    def first_tokens(self) -> "PhraseLayout":
        """Layout of the first token of every phrase."""
        return replace(self, attention_mask=self.attention_mask[:, :1], token_index=None)

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """`(P, T, ...)` to `(num_tokens, ...)`."""
        tokens = padded.flatten(0, 1)
        return tokens if self.token_index is None else tokens.index_select(0, self.token_index)

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """`(num_tokens, ...)` to `(P, T, ...)`, 0 for padding."""
        if self.token_index is not None:
            tokens = packed.new_zeros(self.shape[0] * self.shape[1], *packed.shape[1:])
            packed = tokens.index_copy(0, self.token_index, packed)
        return packed.unflatten(0, self.shape)


def build_layout(
    attention_mask: torch.Tensor, image_index: torch.Tensor | None, num_images: int, keep_padding: bool = False
) -> PhraseLayout:
    r"""Layout of P phrases of T tokens on `num_images` images.

    It reads values of its tensors: built on the CPU it costs nothing, on a GPU every look waits for the device.

    Args:
        attention_mask (`torch.Tensor` of shape `(P, T)`): 1 for real tokens.
        image_index (`torch.Tensor` of shape `(P,)` or `(P, m)`, *optional*): image row of each phrase, or the rows of
            its m images; None where phrase p has image p.
        num_images (`int`): N.
        keep_padding (`bool`, defaults to `False`): the states of padding are computed as well.
    """
    token_index = None
    if not keep_padding:
        is_real = attention_mask.flatten() != 0
        token_index = None if is_real.all() else is_real.nonzero().flatten()
    groupings: tuple[ImageGrouping, ...] = (ImageGrouping(None, num_images, 1),)
    if image_index is None:
        image_index = torch.arange(num_images, device=attention_mask.device)
    else:
        per_image = image_index.unbind(dim=1) if image_index.ndim == 2 else (image_index,)
        groupings = tuple(group_by_image(index, num_images) for index in per_image)
    return PhraseLayout(attention_mask, image_index, num_images, token_index, groupings)


@dataclass(frozen=True)
class PhraseInputs:
    """Phrases that entered a model's `forward`, checked, with what is optional filled in.

    Args:
        attention_mask (`torch.Tensor` of shape `(P, T)`): 1 for real tokens.
        image_index (`torch.Tensor` of shape `(P,)` or `(P, m)`): image row of each phrase, or its m rows.
        layout ([`PhraseLayout`]): the layout of these two, on the CPU.
    """

    attention_mask: torch.Tensor
    image_index: torch.Tensor
    layout: PhraseLayout

    def select(self, rows: torch.Tensor, length: int) -> PhraseLayout:
        """Layout of the phrases `rows` `(R,)`, of their first `length` tokens."""
        if (len(rows), length) == self.layout.shape:
            return self.layout  # one chunk of all phrases, in their order
        layout = self.layout
        return build_layout(layout.attention_mask[rows, :length], layout.image_index[rows], layout.num_images)


def check_phrase_inputs(
    pixel_values: torch.Tensor,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    image_index: torch.Tensor | None,
    layout: PhraseLayout | None,
    images_per_text: int = 1,
) -> PhraseInputs:
    """Fills in what is optional and checks that every phrase has an image, or as many as `images_per_text`.

    A `layout` that came with the batch was built of checked values; it must fit the other arguments, and nothing waits
    for their device. Without it they are fetched once, to be checked and laid out on the CPU.
    """
    num_images, num_phrases, device = len(pixel_values), len(input_ids), input_ids.device
    if layout is not None:
        _check_layout(layout, num_images, input_ids, attention_mask, image_index)
        if attention_mask is None:
            attention_mask = layout.attention_mask.to(device, non_blocking=True)
        if image_index is None:
            image_index = layout.image_index.to(device, non_blocking=True)
        has_images = image_index.shape == ((num_phrases,) if images_per_text == 1 else (num_phrases, images_per_text))
        if has_images and layout.attention_mask.device.type == "cpu":
            return PhraseInputs(attention_mask, image_index, layout)
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    known_mask = check_tokens(input_ids, attention_mask.cpu())
    known_index = None if image_index is None else image_index.cpu()
    if images_per_text > 1:
        if known_index is None:
            known_index = _number_images_of_texts(num_images, num_phrases, images_per_text)
        _check_images_of_texts(num_images, num_phrases, known_index, images_per_text)
    elif known_index is None:
        if num_images != num_phrases:
            raise ValueError(
                f"`image_index` is needed for {num_phrases} phrases on {num_images} images: pass the image row of "
                "every phrase (the processor returns it)."
            )
        known_index = torch.arange(num_images)
    elif known_index.shape != (num_phrases,) or known_index.min() < 0 or known_index.max() >= num_images:
        raise ValueError(
            f"`image_index` must hold {num_phrases} image rows between 0 and {num_images - 1}, got "
            f"{known_index.tolist()}."
        )
    if image_index is None:
        image_index = known_index.to(device, non_blocking=True)
    return PhraseInputs(attention_mask, image_index, build_layout(known_mask, known_index, num_images))


def check_tokens(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """`attention_mask` `(P, T)`, all ones where it is absent, of at least one phrase with at least one real token."""
    if input_ids.ndim != 2 or len(input_ids) == 0 or input_ids.shape[1] == 0:
        raise ValueError(f"`input_ids` must have shape (P, T) with at least one phrase, got {tuple(input_ids.shape)}.")
    attention_mask = resolve_mask(input_ids, attention_mask, "input_ids", "attention_mask")
    if not attention_mask.any(dim=1).all():
        empty = (~attention_mask.any(dim=1)).nonzero().flatten().tolist()
        raise ValueError(f"`attention_mask` keeps no token of phrase(s) {empty}: an empty phrase is nowhere.")
    return attention_mask


def resolve_mask(ids: torch.Tensor, mask: torch.Tensor | None, ids_name: str, mask_name: str) -> torch.Tensor:
    """Mask of real tokens, shaped like `ids`: all ones if it is absent; raises `ValueError` if the shapes differ."""
    if mask is None:
        return torch.ones_like(ids)
    if mask.shape != ids.shape:
        raise ValueError(
            f"`{mask_name}` has shape {tuple(mask.shape)} but `{ids_name}` {tuple(ids.shape)}: pass both as the "
            "processor returned them."
        )
    return mask


def _check_layout(
    layout: PhraseLayout,
    num_images: int,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    image_index: torch.Tensor | None,
) -> None:
    """Raises `ValueError` where a batch was changed after its layout was built: by shapes, and by values where both
    sides are on the CPU."""
    built_from = {
        "attention_mask": (layout.attention_mask, attention_mask),
        "image_index": (layout.image_index, image_index),
    }
    reason = None
    if layout.shape != tuple(input_ids.shape) or layout.num_images != num_images:
        reason = (
            f"it describes {layout.shape[0]} phrases of {layout.shape[1]} tokens on {layout.num_images} images, but "
            f"`input_ids` has shape {tuple(input_ids.shape)} and there are {num_images} images"
        )
    for name, (known, given) in built_from.items():
        if reason is None and given is not None and not may_be_equal(known, given):
            reason = f"it was built from another `{name}`"
    if reason is not None:
        refuse_layout(reason)


def refuse_layout(reason: str) -> NoReturn:
    """Raises `ValueError`: a batch and its layout do not belong together."""
    raise ValueError(
        f"`layout` does not fit the batch: {reason}. Remove it after changing a batch of the processor or the "
        'collator (`batch.pop("layout")`): the model then builds it anew.'
    )


def may_be_equal(known: torch.Tensor, given: torch.Tensor) -> bool:
    """False if the shapes differ, or the values of two tensors on the CPU. Values on a device are not read."""
    if known.shape != given.shape:
        return False
    return known.device.type != "cpu" or given.device.type != "cpu" or torch.equal(known, given.to(known.dtype))


def _number_images_of_texts(num_images: int, num_texts: int, images_per_text: int) -> torch.Tensor:
    """Image rows `(P, images_per_text)` of texts: the first image of every text, then the second of every text, ..."""
    if num_images != images_per_text * num_texts:
        raise ValueError(
            f"`pixel_values` has {num_images} images for {num_texts} texts, but each text is read with "
            f"{images_per_text}. Pass {images_per_text * num_texts} rows, the first image of every text and then the "
            f"second of every text, or `image_index` of shape ({num_texts}, {images_per_text})."
        )
    return torch.arange(num_images).view(images_per_text, num_texts).T


def _check_images_of_texts(num_images: int, num_texts: int, image_index: torch.Tensor, images_per_text: int) -> None:
    if image_index.shape != (num_texts, images_per_text):
        raise ValueError(
            f"`image_index` must have shape ({num_texts}, {images_per_text}), the {images_per_text} image rows of "
            f"each text, got {tuple(image_index.shape)}."
        )
    if image_index.min() < 0 or image_index.max() >= num_images:
        raise ValueError(
            f"`image_index` must hold image rows between 0 and {num_images - 1}, got {image_index.tolist()}."
        )


@dataclass(frozen=True)
class PhraseRows:
    """Phrases of one kind that go through fusion layers together with phrases of other kinds.

    Args:
        states (`torch.Tensor` of shape `(R, T, hidden_size)`): states of their tokens.
        attention_mask (`torch.Tensor` of shape `(R, T)`): 1 for real tokens; on the CPU.
        image_index (`torch.Tensor` of shape `(R,)`): image of each; on the CPU.
        keep_padding (`bool`, defaults to `False`): states of padding are read as well.
    """

    states: torch.Tensor
    attention_mask: torch.Tensor
    image_index: torch.Tensor
    keep_padding: bool = False

    def __len__(self) -> int:
        return len(self.states)

    def select(self, rows: torch.Tensor) -> "PhraseRows":
        """The phrases whose numbers `rows` holds, on the CPU."""
        states = select_rows(self.states, rows)
        return PhraseRows(states, self.attention_mask[rows], self.image_index[rows], self.keep_padding)

    def build_layout(self, num_images: int) -> PhraseLayout:
        """Their layout, on `num_images` images, for their states."""
        layout = build_layout(self.attention_mask, self.image_index, num_images, self.keep_padding)
        return layout.to(self.states.device)


def select_rows(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The rows of `values` `(R, ...)` whose numbers `rows` holds on the CPU, without waiting for their device."""
    return values.index_select(0, rows.to(values.device, non_blocking=True))


@dataclass(frozen=True)
class FalsePhrases:
    """F phrases that are false of their images: further pairs that do not match.

    Args:
        input_ids (`torch.Tensor` of shape `(F, T)`): their tokens.
        layout ([`PhraseLayout`]): of them, on the CPU.
    """

    input_ids: torch.Tensor
    layout: PhraseLayout

    @classmethod
    def check(
        cls,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        image_index: torch.Tensor | None,
        layout: PhraseLayout | None,
    ) -> "FalsePhrases | None":
        """The arguments `false_input_ids` and so on of a model's `forward`, checked; None without any phrase."""
        if input_ids is None or len(input_ids) == 0:
            return None
        try:
            return cls(
                input_ids, check_phrase_inputs(pixel_values, input_ids, attention_mask, image_index, layout).layout
            )
        except ValueError as error:
            raise ValueError(f"false phrases: {error}") from error

    def take(self, states: torch.Tensor) -> PhraseRows:
        """Their rows, with states of their tokens `(F, T, hidden_size)` or longer."""
        mask = pad_tokens(self.layout.attention_mask, states.shape[1])
        return PhraseRows(states, mask, self.layout.image_index)


def join_rows(parts: Sequence[PhraseRows]) -> PhraseRows:
    """All rows in one, part after part, padded to the longest."""
    if len(parts) == 1:
        return parts[0]
    length = max(part.states.shape[1] for part in parts)
    return PhraseRows(
        torch.cat([pad_tokens(part.states, length) for part in parts]),
        torch.cat([pad_tokens(part.attention_mask, length) for part in parts]),
        torch.cat([part.image_index for part in parts]),
        any(part.keep_padding for part in parts),
    )


def split_rows(states: torch.Tensor, parts: Sequence[PhraseRows]) -> list[PhraseRows]:
    """`parts` with the new states of the rows that [`join_rows`] made of them."""
    divided = states.split([len(part) for part in parts])
    return [replace(part, states=new[:, : part.states.shape[1]]) for new, part in zip(divided, parts, strict=True)]


def pad_tokens(values: torch.Tensor, length: int) -> torch.Tensor:
    """Fills values of tokens `(P, T, ...)` up to `(P, length, ...)` with zeros."""
    missing = length - values.shape[1]
    return values if missing == 0 else nn.functional.pad(values, [0, 0] * (values.ndim - 2) + [0, missing])


def chunk_by_length(attention_mask: torch.Tensor, rows_per_chunk: int) -> list[tuple[torch.Tensor, int]]:
    r"""Phrases in chunks of similar length, which are padded less than all of them together.

    Args:
        attention_mask (`torch.Tensor` of shape `(P, T)`): 1 for real tokens.
        rows_per_chunk (`int`): phrases of a chunk at most.

    Returns:
        `list` of `tuple`: numbers of the phrases of each chunk, `(R,)`, and the columns up to the last real token
        among them. Phrases of one length stay in their order, and so do those of a single chunk.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc.layout_albef import chunk_by_length
    >>> chunk_by_length(torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]]), rows_per_chunk=2)
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


def find_explained_rows(is_explained: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of the phrases that `is_explained` `(P,)` marks, and of the others, all on the CPU; without any mark the
    first phrase is explained, so that every process runs the explanation pass."""
    if not is_explained.any():
        is_explained = torch.arange(len(is_explained), device=is_explained.device) == 0
    return is_explained.nonzero().flatten(), (~is_explained).nonzero().flatten()


__all__ = [
    "ImageGrouping",
    "PhraseInputs",
    "PhraseLayout",
    "PhraseRows",
    "build_layout",
    "check_phrase_inputs",
    "check_tokens",
    "chunk_by_length",
    "find_explained_rows",
    "group_by_image",
    "join_rows",
    "may_be_equal",
    "pad_tokens",
    "refuse_layout",
    "resolve_mask",
    "select_rows",
    "split_rows",
]
