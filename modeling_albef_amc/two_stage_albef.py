# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Retrieval in two stages: contrastive similarities choose k candidates of every query, the matching head ranks them.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651), section 4. The shortlists and scores are those
of the released code; it fuses a pair again for each shortlist that holds it, and projects keys and values a pair.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

from .base_albef import AlbefModel
from .configuration_albef import ITM_MATCH_INDEX
from .explanation_albef import at_least_float32, evaluation_mode
from .grouping_albef import PhraseRows, divide_by_length
from .inputs_albef import check_pieces
from .outputs_albef import AlbefRetrievalScores
from .pretrained_albef import AlbefPreTrainedModel
from .ranges_albef import check_choice

NOT_LISTED = -100.0  # score of a pair outside the shortlist, as published
IMAGES_PER_BLOCK = 16  # images whose keys and values are held at once
RECALL_RANKS = (1, 5, 10)
TIE_ORDERS = ("first", "released")

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
        pieces (`torch.Tensor` of shape `(num_pieces, hidden_size)`): states of the text encoder, text after text.
        lengths (`torch.Tensor` of shape `(P,)`, int64): pieces of each text.
        features (`torch.Tensor` of shape `(P, projection_dim)`): contrastive features, unit length, at least float32.
    """

    pieces: torch.Tensor
    lengths: torch.Tensor
    features: torch.Tensor

    def __len__(self) -> int:
        return len(self.features)

    def read(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """States `(R, T, hidden_size)` of some texts, and the mask `(R, T)` of their pieces."""
        lengths = self.lengths[rows]
        columns = torch.arange(int(lengths.max()), device=rows.device)
        is_real = columns < lengths[:, None]
        first = self.lengths.cumsum(0)[rows] - lengths
        places = (first[:, None] + columns).where(is_real, first[:, None])
        return self.pieces[places], is_real.long()


class TwoStageRetrieval(AlbefPreTrainedModel):
    """Gives a model with a matching head [`encode_images`], [`encode_texts`] and [`retrieve`]."""

    albef: AlbefModel
    match: Callable[..., tuple[torch.Tensor, torch.Tensor | None]]

    @torch.no_grad()
    def encode_images(
        self, batches: Batch | Iterable[Batch], storage_device: torch.device | str | None = None
    ) -> EncodedImages:
        r"""Encodes the images of a gallery, once for all queries; dropout is off.

        Args:
            batches (`Mapping` or iterable of them): `pixel_values` `(n, 3, image_height, image_width)` of each
                batch, as the processor returns them; the pixels of one batch are held at a time.
            storage_device (`torch.device` or `str`, *optional*): where the states wait for [`retrieve`]; `"cpu"` for a
                gallery larger than the GPU's memory. The model's device by default.

        Raises:
            ValueError: there is no image, or its size is not the model's.
        """
        embeds, features = [], []
        with evaluation_mode(self):
            for batch in _iterate(batches):
                pixel_values = _get(batch, "pixel_values")
                if len(pixel_values) == 0:
                    continue
                states = self.albef.vision_model(pixel_values.to(self.device))
                features.append(at_least_float32(self.albef.project_images(states)))
                embeds.append(states.to(storage_device or self.device))
        if not features:
            raise ValueError("the gallery has no image: give at least one batch (an iterator gives its batches once).")
        return EncodedImages(embeds, torch.cat(features))

    @torch.no_grad()
    def encode_texts(
        self, batches: Batch | Iterable[Batch], storage_device: torch.device | str | None = None
    ) -> EncodedTexts:
        r"""Encodes the texts of a gallery, once for all queries; dropout is off.

        Args:
            batches (`Mapping` or iterable of them): `input_ids` and `attention_mask` (all ones without) `(n, T)` of
                each batch, as the processor returns them; T may differ between batches.
            storage_device (`torch.device` or `str`, *optional*): as for [`encode_images`].

        Raises:
            ValueError: there is no text, or one without a piece.
        """
        pieces, lengths, features = [], [], []
        with evaluation_mode(self):
            for batch in _iterate(batches):
                input_ids, mask = _get(batch, "input_ids"), batch.get("attention_mask")
                is_real = check_pieces(input_ids, mask).to(self.device) != 0
                length = int(is_real.any(dim=0).nonzero().max()) + 1
                is_real = is_real[:, :length]
                states = self.albef.text_model.encode(input_ids[:, :length].to(self.device), is_real.long())
                features.append(at_least_float32(self.albef.project_texts(states)))
                pieces.append(states[is_real].to(storage_device or self.device))
                lengths.append(is_real.sum(dim=1).to(storage_device or self.device))
        if not features:
            raise ValueError("the gallery has no text: give at least one batch (an iterator gives its batches once).")
        return EncodedTexts(torch.cat(pieces), torch.cat(lengths), torch.cat(features))

    @torch.no_grad()
    def retrieve(
        self, images: EncodedImages, texts: EncodedTexts, k: int, pairs_per_chunk: int = 256
    ) -> AlbefRetrievalScores:
        r"""Ranks texts for every image and images for every text.

        The k candidates of largest contrastive similarity are each query's shortlist; among equal ones the first
        come first. A pair that is in a shortlist is fused once, whether its image or its text asked for it, or both;
        keys and values are projected once an image. Dropout is off.

        Args:
            images ([`EncodedImages`]), texts ([`EncodedTexts`]): the gallery, encoded by this model.
            k (`int`): length of a shortlist; a gallery with fewer candidates is scored as a whole.
            pairs_per_chunk (`int`, defaults to 256): pairs fused at once; bounds the memory.

        Raises:
            ValueError: `k` or `pairs_per_chunk` below 1, a gallery of another model, or scores that are not finite.
        """
        _check_galleries(self, images, texts, k, pairs_per_chunk)
        similarities = images.features.to(self.device) @ texts.features.to(self.device).T
        _check_finite("similarities", similarities)
        of_images = list_best(similarities, k)  # (N, P)
        of_texts = list_best(similarities.T, k)  # (P, N)
        scores = torch.full_like(similarities, NOT_LISTED)
        image_rows, text_rows = (of_images | of_texts.T).nonzero().T.contiguous()
        with evaluation_mode(self):
            scores[image_rows, text_rows] = self._score_pairs(images, texts, image_rows, text_rows, pairs_per_chunk)
        _check_finite("matching scores", scores)
        return AlbefRetrievalScores(
            similarities=similarities,
            scores_per_image=scores.masked_fill(~of_images, NOT_LISTED),
            scores_per_text=scores.T.masked_fill(~of_texts, NOT_LISTED),
            ranked_texts=rank_listed(scores, of_images),
            ranked_images=rank_listed(scores.T, of_texts),
        )

    def _score_pairs(
        self,
        images: EncodedImages,
        texts: EncodedTexts,
        image_rows: torch.Tensor,
        text_rows: torch.Tensor,
        pairs_per_chunk: int,
    ) -> torch.Tensor:
        """Matching scores of pairs in the order of images: block after block of images, within a block pairs whose
        texts are of similar length together."""
        scores = texts.features.new_empty(len(image_rows), device=self.device)
        first = 0
        for block in images.iterate_blocks():
            keys_values = self.albef.text_model.project_image(block.to(self.device))
            bounds = torch.tensor([first, first + len(block)], device=self.device)
            begin, end = torch.searchsorted(image_rows, bounds).tolist()
            own_images, own_texts = image_rows[begin:end] - first, text_rows[begin:end].to(texts.lengths.device)
            lengths = texts.lengths[own_texts]
            mask = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
            for rows, _ in divide_by_length(mask, pairs_per_chunk):
                states, attention_mask = (part.to(self.device) for part in texts.read(own_texts[rows]))
                rows = rows.to(self.device)
                logits, _ = self.match(PhraseRows(states, attention_mask, own_images[rows]), keys_values)
                scores[begin + rows] = logits[:, ITM_MATCH_INDEX].to(scores.dtype)
            first += len(block)
        return scores


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
    >>> from albef_amc.two_stage_albef import list_best
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


def compute_retrieval_recall(
    scores_per_image: torch.Tensor,
    scores_per_text: torch.Tensor,
    image_index: torch.Tensor,
    tie_order: str = "first",
) -> dict[str, float]:
    r"""Recall at 1, 5 and 10 in both directions, in percent.

    Text recall at r is the share of images with a text of their own among the best r; image recall at r that of texts
    with their image among the best r. An image may have any number of texts; one without is left out of text recall.
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


def _iterate(batches: Batch | Iterable[Batch]) -> Iterable[Batch]:
    return [batches] if isinstance(batches, Mapping) else batches


def _get(batch: Batch, name: str) -> torch.Tensor:
    if not isinstance(batch, Mapping) or name not in batch:
        held = ", ".join(batch) if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
        raise ValueError(f"a batch must hold `{name}` as the processor returns it, got {held or 'nothing'}.")
    return batch[name]


def _check_finite(name: str, values: torch.Tensor) -> None:
    if not values.isfinite().all():
        raise ValueError(
            f"the {name} are not finite: the gallery or the model's weights hold NaN or infinity. Check the images "
            "and the checkpoint."
        )


def _check_galleries(
    model: AlbefPreTrainedModel, images: EncodedImages, texts: EncodedTexts, k: int, pairs_per_chunk: int
) -> None:
    for name, value in (("k", k), ("pairs_per_chunk", pairs_per_chunk)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}.")
    width = model.config.projection_dim
    for name, gallery in (("images", images), ("texts", texts)):
        if gallery.features.shape[1] != width:
            raise ValueError(
                f"`{name}` has features of width {gallery.features.shape[1]}, this model's are {width} wide: encode "
                "the gallery with the model that ranks it."
            )


__all__ = ["NOT_LISTED", "EncodedImages", "EncodedTexts", "TwoStageRetrieval", "compute_retrieval_recall"]
