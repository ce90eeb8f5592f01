# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Queues of momentum features: the contrastive candidates beyond the batch (Li et al., NeurIPS 2021, section 3.2)."""

import torch
from torch import nn
from transformers import initialization as init

from .contrastive_albef import UNKNOWN_IMAGE_ID
from .explanation_albef import at_least_float32
from .parallel_albef import JointRows

MODALITIES = ("image", "text")


class FeatureQueues(nn.Module):
    """Gives a model an image and a text queue, each with the identity of every column and a pointer to the oldest."""

    image_queue: torch.Tensor
    text_queue: torch.Tensor
    image_queue_ids: torch.Tensor
    text_queue_ids: torch.Tensor

    def _build_queues(self, width: int, size: int) -> None:
        for modality in MODALITIES:
            self.register_buffer(f"{modality}_queue", torch.zeros(width, size))
            ids = torch.full((size,), UNKNOWN_IMAGE_ID, dtype=torch.int64)
            self.register_buffer(f"{modality}_queue_ids", ids)
            self.register_buffer(f"{modality}_queue_pointer", torch.zeros(1, dtype=torch.int64))

    def _keep_queues_precise(self) -> None:
        for modality in MODALITIES:
            setattr(self, f"{modality}_queue", at_least_float32(getattr(self, f"{modality}_queue")))

    @torch.no_grad()
    def _reset_queues(self) -> None:
        """Fills them with random unit features that stand for no image."""
        for modality in MODALITIES:
            queue = getattr(self, f"{modality}_queue")
            init.copy_(queue, nn.functional.normalize(torch.randn_like(queue), dim=0))
            init.constant_(getattr(self, f"{modality}_queue_ids"), UNKNOWN_IMAGE_ID)
            init.zeros_(getattr(self, f"{modality}_queue_pointer"))

    @torch.no_grad()
    def enqueue(
        self,
        image_features: torch.Tensor,
        text_features: torch.Tensor,
        image_ids: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        across_processes: bool = False,
    ) -> None:
        r"""Writes momentum features into the queues, oldest entries first: a column an image, a column a phrase.

        Args:
            image_features (`torch.Tensor` of shape `(N, projection_dim)`), text_features
                (`torch.Tensor` of shape `(P, projection_dim)`): momentum features, unit length.
            image_ids (`torch.Tensor` of shape `(N,)`, *optional*): identities; unknown (-1) without.
            image_index (`torch.Tensor` of shape `(P,)`, *optional*): image row of each phrase; needed if P != N.
            across_processes (`bool`, defaults to `False`): write the features of every process, in the order of
                ranks, so that the queues are equal everywhere. Every process must call it.
        """
        if image_ids is None:
            image_ids = torch.full((len(image_features),), UNKNOWN_IMAGE_ID, device=image_features.device)
        if image_index is None and len(image_features) != len(text_features):
            raise ValueError(
                f"`image_index` is needed for {len(text_features)} phrases on {len(image_features)} images: pass the "
                "image row of every phrase."
            )
        phrase_ids = image_ids if image_index is None else image_ids[image_index]
        for modality, features, ids in (("image", image_features, image_ids), ("text", text_features, phrase_ids)):
            rows = JointRows.of(len(features), features.device, "joint" if across_processes else "local")
            self._write_queue(modality, rows.gather(features), rows.gather(ids))

    def _write_queue(self, modality: str, features: torch.Tensor, ids: torch.Tensor) -> None:
        queue, pointer = getattr(self, f"{modality}_queue"), getattr(self, f"{modality}_queue_pointer")
        size = queue.shape[1]
        columns = (pointer + torch.arange(len(features), device=queue.device)) % size
        kept = slice(max(0, len(features) - size), None)  # of a batch larger than the queue the last ones stay
        queue[:, columns[kept]] = features[kept].T.to(queue.dtype)
        getattr(self, f"{modality}_queue_ids")[columns[kept]] = ids[kept]
        pointer.copy_((pointer + len(features)) % size)


__all__ = ["FeatureQueues"]
