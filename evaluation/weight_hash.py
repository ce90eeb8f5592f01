# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The hash by which a result names its weights: equal float32 values have equal hashes, however they are stored."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def hash_weights(model: nn.Module) -> str:
    """SHA-256 of the weights of a model: the same for every copy, device, number of files and wider data type.

    The hash of a checkpoint, of training or grounding, is that of its [`AlbefForImageTextMatching`], at the image size
    of the checkpoint: momentum copies, queues and other heads do not count
    ([`~evaluation.checkpoints.hash_checkpoint`]).

    Args:
        model (`nn.Module`): the model, on any device.

    Returns:
        `str` of 64 hexadecimal digits.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc.evaluation.weight_hash import hash_weights
    >>> layer = torch.nn.Linear(3, 2).to(torch.bfloat16)
    >>> hash_weights(layer) == hash_weights(layer.float())
    True

    ```
    """
    return hash_tensors(model.state_dict())


def hash_tensors(tensors: Mapping[str, Any], prefix: str = "") -> str:
    """SHA-256 of text and named tensors, in the order of names: name, shape, and the values as float32.

    Args:
        tensors (mapping of `torch.Tensor`): name -> tensor; whole numbers keep their type.
        prefix (`str`, *optional*): hashed first.
    """
    digest = hashlib.sha256(prefix.encode())
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu()
        values = values.float() if values.is_floating_point() else values
        digest.update(f"\n{name} {values.dtype} {list(values.shape)}\n".encode())
        digest.update(values.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


__all__ = ["hash_tensors", "hash_weights"]
