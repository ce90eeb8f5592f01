# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Galleries of retrieval: encoded images and texts, shortlists of candidates, recall.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651), section 4, and its released implementation.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

from .pretrained_albef import AlbefPreTrainedModel
from .ranges_albef import COUNT, check_choice, check_number

NOT_LISTED = -100.0  # score of a pair outside the shortlist, as published
RECALL_RANKS = (1, 5, 10)
TIE_ORDERS = ("first", "released")
IMAGES_PER_BLOCK = 16  # images whose keys and values are held at once

Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class EncodedImages:
    """N images of a gallery as [`encode_images`] leaves them.

    Args:
        embeds (`list` of `torch.Tensor` of shape `(n, 1 + num_patches, hidden_size)`): encoder states, batch by batch.
        features (`torch.Tensor` of shape `(N, projection_dim)`): contrastive features, unit length, at least float32.
    """

    embeds: list[torch.Tensor]
    features: torch.Tensor

    def __len__(self) -> int:
        return len(self.features)

    def iterate_blocks(self) -> Iterator[torch.Tensor]:
        """States of at most [`IMAGES_PER_BLOCK`] images."""
        for batch in self.embeds:
            yield from batch.split(IMAGES_PER_BLOCK)


@dataclass(frozen=True)
class EncodedTexts:
    """P texts of a gallery as [`encode_texts`] leaves them; no padding is kept.

    Args:
        tokens (`torch.Tensor` of shape `(num_tokens, hidden_size)`): states of the text encoder, text after text.
        lengths (`torch.Tensor` of shape `(P,)`, int64): tokens of each text.
        features (`torch.Tensor` of shape `(P, projection_dim)`): contrastive features, unit length, at least float32.
    """

    tokens: torch.Tensor
    lengths: torch.Tensor
    features: torch.Tensor

    def __len__(self) -> int:
        return len(self.features)

    def read(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """States `(R, T, hidden_size)` of some texts, and the mask `(R, T)` of their tokens."""
        lengths = self.lengths[rows]
        columns = torch.arange(int(lengths.max()), device=rows.device)
        is_real = columns < lengths[:, None]
        first = self.lengths.cumsum(0)[rows] - lengths
        positions = (first[:, None] + columns).where(is_real, first[:, None])
        return self.tokens[positions], is_real.long()


def list_best(similarities: torch.Tensor, k: int) -> torch.Tensor:
    r"""Marks the k largest of every row, or all where there are fewer; of equal ones the first.

    Args:
        similarities (`torch.Tensor` of shape `(R, C)`): finite numbers.
        k (`int`): at least 1.

    Returns:
        `torch.Tensor` of shape `(R, C)`, bool.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc.galleries_albef import list_best
    >>> list_best(torch.tensor([[0.5, 0.9, 0.5, 0.1]]), k=2)
    tensor([[ True,  True, False, False]])

    ```
    """
    if k >= similarities.shape[1]:
        return torch.ones_like(similarities, dtype=torch.bool)
    smallest = similarities.topk(k, dim=1).values[:, -1:]
    is_larger, is_equal = similarities > smallest, similarities == smallest
    room = k - is_larger.sum(dim=1, keepdim=True)
    return is_larger | (is_equal & (is_equal.cumsum(dim=1, dtype=torch.int32) <= room))


def rank_listed(scores: torch.Tensor, is_listed: torch.Tensor) -> torch.Tensor:
    """Columns of the listed entries of every row `(R, C)`, largest score first, `(R, k)`; every row lists k."""
    columns = is_listed.nonzero()[:, 1].view(len(is_listed), -1)
    order = scores.gather(1, columns).argsort(dim=1, descending=True, stable=True)
    return columns.gather(1, order)


def iterate_batches(batches: Batch | Iterable[Batch]) -> Iterable[Batch]:
    """Batches of a gallery, which may be a single one."""
    return [batches] if isinstance(batches, Mapping) else batches


def get_tensor(batch: Batch, name: str) -> torch.Tensor:
    """A tensor of a batch; raises `ValueError` if there is none of this name."""
    if not isinstance(batch, Mapping) or name not in batch:
        held = ", ".join(batch) if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
        raise ValueError(f"a batch must hold `{name}` as the processor returns it, got {held or 'nothing'}.")
    return batch[name]


def check_features(name: str, values: torch.Tensor) -> None:
    """Raises `ValueError` if features or scores are not finite; `name` says what they are."""
    if not values.isfinite().all():
        raise ValueError(
            f"the {name} are not finite: the gallery or the model's weights hold NaN or infinity. Check the images "
            "and the checkpoint."
        )


def check_galleries(
    model: AlbefPreTrainedModel, images: EncodedImages, texts: EncodedTexts, k: int, pairs_per_chunk: int
) -> None:
    """Raises `ValueError` or `TypeError` if a search cannot be made: `k` or `pairs_per_chunk` is not a whole number of
    at least 1, or another model encoded a gallery."""
    for name, value in (("k", k), ("pairs_per_chunk", pairs_per_chunk)):
        check_number(name, value, COUNT)
    width = model.config.projection_dim
    for name, gallery in (("images", images), ("texts", texts)):
        if gallery.features.shape[1] != width:
            raise ValueError(
                f"`{name}` has features of width {gallery.features.shape[1]}, this model's are {width} wide: encode "
                "the gallery with the model that ranks it."
            )


def compute_retrieval_recall(
    scores_per_image: torch.Tensor,
    scores_per_text: torch.Tensor,
    image_index: torch.Tensor,
    tie_order: str = "first",
) -> dict[str, float]:
    r"""Recall at 1, 5 and 10 in both directions, in percent.

    Text recall at r is the share of images with a text of their own among the best r; image recall at r that of texts
    with their image among the best r. An image may have any number of texts; one without is ignored in text recall.
    Candidates outside the shortlist have one score, below all others, so that recall at ranks above k depends on the
    order of the gallery: choose a k of at least the largest rank. The published numbers do (k is 128 or 256).

    Args:
        scores_per_image (`torch.Tensor` of shape `(N, P)`), scores_per_text (`torch.Tensor` of shape `(P, N)`): scores
            of [`AlbefRetrievalScores`], or any others.
        image_index (`torch.Tensor` of shape `(P,)`): image row of each text.
        tie_order (`str`, defaults to `"first"`): of equal scores the `"first"` candidate of the gallery ranks first.
            `"released"`: the last one does, as in the published code, which reverses an ascending order.

    Returns:
        `dict`: `text_recall_at_1`, `text_recall_at_5`, `text_recall_at_10`, and `image_recall_at_1` and so on.

    Raises:
        ValueError: shapes that do not fit, image rows that do not exist, or an unknown `tie_order`.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc import compute_retrieval_recall
    >>> scores = torch.tensor([[0.9, 0.8, 0.7], [0.6, 0.1, 0.2]])  # texts 0 and 1 belong to image 0
    >>> recall = compute_retrieval_recall(scores, scores.T, torch.tensor([0, 0, 1]))
    >>> recall["text_recall_at_1"], recall["text_recall_at_5"], round(recall["image_recall_at_1"], 1)
    (50.0, 100.0, 66.7)

    ```
    """
    check_choice("tie_order", tie_order, TIE_ORDERS)
    num_images, num_texts = scores_per_image.shape
    if scores_per_text.shape != (num_texts, num_images) or image_index.shape != (num_texts,):
        raise ValueError(
            f"`scores_per_image` has shape {(num_images, num_texts)}: `scores_per_text` must be its transpose and "
            f"`image_index` hold {num_texts} image rows, got {tuple(scores_per_text.shape)} and "
            f"{tuple(image_index.shape)}."
        )
    if num_texts == 0 or image_index.min() < 0 or image_index.max() >= num_images:
        raise ValueError(
            f"`image_index` must hold image rows between 0 and {num_images - 1}, got {image_index.tolist()}."
        )
    belongs = (
        image_index.to(scores_per_image.device) == torch.arange(num_images, device=scores_per_image.device)[:, None]
    )
    recall = {}
    for found, scores, is_own in (("text", scores_per_image, belongs), ("image", scores_per_text, belongs.T)):
        has_own = is_own.any(dim=1)
        order = _rank_candidates(scores[has_own], tie_order)
        hits = is_own[has_own].to(order.device).gather(1, order)
        for rank in RECALL_RANKS:
            recall[f"{found}_recall_at_{rank}"] = 100 * hits[:, :rank].any(dim=1).double().mean().item()
    return recall


def _rank_candidates(scores: torch.Tensor, tie_order: str) -> torch.Tensor:
    """Columns of every row `(R, C)`, largest score first; of equal scores as `tie_order` says."""
    if tie_order == "first":
        return scores.argsort(dim=1, descending=True, stable=True)
    return scores.argsort(dim=1, stable=True).flip(1)


__all__ = [
    "IMAGES_PER_BLOCK",
    "NOT_LISTED",
    "Batch",
    "EncodedImages",
    "EncodedTexts",
    "check_features",
    "check_galleries",
    "compute_retrieval_recall",
    "get_tensor",
    "iterate_batches",
    "list_best",
    "rank_listed",
]
