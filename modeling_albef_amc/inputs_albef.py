# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Checks of what enters a model's `forward`."""

import torch


def check_phrase_inputs(
    pixel_values: torch.Tensor,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    image_index: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fills in what is optional and checks that every phrase has an image.

    Returns:
        `attention_mask` of shape `(P, T)` and `image_index` of shape `(P,)`.
    """
    num_images, num_phrases = len(pixel_values), len(input_ids)
    attention_mask = check_pieces(input_ids, attention_mask)
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


__all__ = ["check_phrase_inputs", "check_pieces"]
