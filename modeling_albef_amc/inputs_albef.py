# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Checks of what enters a model's `forward`."""

import torch


def check_phrase_inputs(
    pixel_values: torch.Tensor,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    image_index: torch.Tensor | None,
    images_per_text: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fills in what is optional and checks that every phrase has an image, or as many as `images_per_text`.

    Returns:
        `attention_mask` of shape `(P, T)` and `image_index` of shape `(P,)`, or `(P, images_per_text)` above 1.
    """
    num_images, num_phrases = len(pixel_values), len(input_ids)
    attention_mask = check_pieces(input_ids, attention_mask)
    if images_per_text > 1:
        if image_index is None:
            image_index = _number_images_of_texts(num_images, num_phrases, images_per_text).to(input_ids.device)
        _check_images_of_texts(num_images, num_phrases, image_index, images_per_text)
        return attention_mask, image_index
    if image_index is None:
        if num_images != num_phrases:
            raise ValueError(
                f"`image_index` is needed for {num_phrases} phrases on {num_images} images: pass the image row of "
                "every phrase (the processor returns it)."
            )
        image_index = torch.arange(num_images, device=input_ids.device)
    elif image_index.shape != (num_phrases,) or image_index.min() < 0 or image_index.max() >= num_images:
        raise ValueError(
            f"`image_index` must hold {num_phrases} image rows between 0 and {num_images - 1}, got "
            f"{image_index.tolist()}."
        )
    return attention_mask, image_index


def check_pieces(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """`attention_mask` `(P, T)`, all ones where it is absent, of at least one phrase with at least one real piece."""
    if input_ids.ndim != 2 or len(input_ids) == 0 or input_ids.shape[1] == 0:
        raise ValueError(f"`input_ids` must have shape (P, T) with at least one phrase, got {tuple(input_ids.shape)}.")
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    elif attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"`attention_mask` has shape {tuple(attention_mask.shape)} but `input_ids` {tuple(input_ids.shape)}: "
            "pass both as the processor returned them."
        )
    elif not attention_mask.any(dim=1).all():
        empty = (~attention_mask.any(dim=1)).nonzero().flatten().tolist()
        raise ValueError(f"`attention_mask` keeps no piece of phrase(s) {empty}: an empty phrase is nowhere.")
    return attention_mask


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


__all__ = ["check_phrase_inputs", "check_pieces"]
