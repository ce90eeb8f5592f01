# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Random numbers per example: the same in every process, worker and run."""

import hashlib

import numpy as np


def example_generator(seed: int, step: int, example_id: str, purpose: str = "") -> np.random.Generator:
    """Create the random generator of one example at one step: the same in every process, worker and run.

    The numbers of an example never depend on the examples that were drawn or prefetched before it.

    Args:
        seed (`int`): seed of the run.
        step (`int`): step, epoch or number of the draw.
        example_id (`str`): identity of the example.
        purpose (`str`, *optional*): separates draws for different purposes.

    Example:

    ```python
    >>> from albef_amc.datasets_scripts.randomness import example_generator
    >>> example_generator(0, 3, "photo_7").random() == example_generator(0, 3, "photo_7").random()
    True

    ```
    """
    key = "\x1f".join((str(seed), str(step), example_id, purpose)).encode()
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.blake2b(key, digest_size=16).digest(), "big")))


__all__ = ["example_generator"]
