# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Region masks as workers send them to the device: a bit per pixel, and a list of the pixels partly covered."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

BITS = 8  # of a byte


@dataclass(eq=False)
class PackedRegions:
    r"""P region masks in about a twentieth of their memory, without loss.

    Nearly all pixels of a region are covered completely or not at all. These are stored as
    bits; the pixels at its border, which are covered in part, are a list. Workers pack the masks of a batch, and the
    device unpacks them.

    Args:
        bits (`torch.Tensor` of shape `(P, M_h, ceil(M_w / 8))`, uint8): pixels that are covered completely,
            the lowest bit first.
        width (`int`): M_w.
        partial_index (`torch.Tensor` of shape `(num_partial,)`, int64): positions of partly covered pixels among the
            P x M_h x M_w.
        partial_shares (`torch.Tensor` of shape `(num_partial,)`, float32): their covered shares, between 0 and 1.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc.trainer.data.packed_regions import pack_regions
    >>> regions = pack_regions(torch.tensor([[[1.0, 0.25, 0.0]]]))
    >>> regions.bits.tolist(), regions.partial_index.tolist(), regions.unpack()
    ([[[1]]], [1], tensor([[[1.0000, 0.2500, 0.0000]]]))

    ```
    """

    bits: torch.Tensor
    width: int
    partial_index: torch.Tensor
    partial_shares: torch.Tensor

    def map_tensors(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "PackedRegions":
        """The same with `function` applied to each of its tensors."""
        return PackedRegions(
            function(self.bits), self.width, function(self.partial_index), function(self.partial_shares)
        )

    def to(self, device: torch.device | str | int, non_blocking: bool = True) -> "PackedRegions":
        """The same on a device."""
        return self.map_tensors(lambda values: values.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "PackedRegions":
        """The same in page-locked memory, as a data loader asks for it."""
        return self.map_tensors(torch.Tensor.pin_memory)

    def unpack(self) -> torch.Tensor:
        """The masks `(P, M_h, M_w)`, float32, on the device of the bits; no value is read from it."""
        places = torch.arange(BITS, dtype=torch.uint8, device=self.bits.device)
        pixels = (self.bits[..., None] >> places) & 1  # (P, M_h, ceil(M_w / 8), 8)
        masks = pixels.flatten(-2)[..., : self.width].to(torch.float32).contiguous()
        masks.view(-1).index_copy_(0, self.partial_index, self.partial_shares)
        return masks


def pack_regions(region_mask: torch.Tensor) -> PackedRegions:
    """Pack region masks `(P, M_h, M_w)`, float32 in [0, 1], on the CPU."""
    masks = region_mask.numpy()
    is_covered = masks == 1
    partial = np.flatnonzero((masks > 0) & ~is_covered)
    return PackedRegions(
        torch.from_numpy(np.packbits(is_covered, axis=-1, bitorder="little")),
        masks.shape[-1],
        torch.from_numpy(partial),
        torch.from_numpy(masks.reshape(-1)[partial]),
    )
