# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Loading a checkpoint for a command."""

from pathlib import Path

import torch

from albef_amc import AlbefForImageTextMatching, AlbefProcessor


def load_checkpoint(
    checkpoint: str, image_size: int | None = None, device: str | None = None
) -> tuple[AlbefForImageTextMatching, AlbefProcessor]:
    """Model, in evaluation mode on its device, and processor of a checkpoint.

    Args:
        checkpoint (`str`): folder or Hub repository.
        image_size (`int`, *optional*): image side in pixels, if not the checkpoint's.
        device (`str`, *optional*): torch device; a GPU where there is one by default.

    Raises:
        FileNotFoundError: a path that is no checkpoint folder.
    """
    is_path = checkpoint.count("/") != 1 or checkpoint.startswith((".", "/", "~")) or Path(checkpoint).exists()
    if is_path and not (Path(checkpoint) / "config.json").is_file():
        raise FileNotFoundError(
            f"{checkpoint} is no checkpoint folder (no `config.json` in it). `make demo` makes checkpoints under "
            "runs/demo; `albef-amc convert` makes one of an original .pth."
        )
    size = {} if image_size is None else {"size": {"height": image_size, "width": image_size}}
    model = AlbefForImageTextMatching.from_pretrained(checkpoint, image_size=image_size)
    processor = AlbefProcessor.from_pretrained(checkpoint, **size)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval(), processor
