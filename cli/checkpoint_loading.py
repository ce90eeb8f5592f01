# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Loading a checkpoint for a command."""

import torch

from albef_amc import AlbefForImageTextMatching, AlbefProcessor
from albef_amc.configuration_albef import LONGEST_SIDE
from albef_amc.evaluation.checkpoints import load_model_and_processor
from albef_amc.ranges_albef import check_number


def load_checkpoint(
    checkpoint: str, image_size: int | None = None, device: str | None = None, revision: str | None = None
) -> tuple[AlbefForImageTextMatching, AlbefProcessor]:
    """Model, in evaluation mode on its device, and processor of a checkpoint.

    Args:
        checkpoint (`str`): folder or Hub repository, or `base`, the base model that ships.
        image_size (`int`, *optional*): image side in pixels, if not the checkpoint's.
        device (`str`, *optional*): torch device; a GPU where there is one by default.
        revision (`str`, *optional*): branch, tag or commit of the repository.

    Raises:
        FileNotFoundError: a path that is not a checkpoint folder.
        ValueError: a checkpoint that cannot be used, or a device that this machine does not have.
    """
    check_image_size(image_size)
    chosen = choose_device(device)
    model, processor = load_model_and_processor(AlbefForImageTextMatching, checkpoint, image_size, revision=revision)
    return model.to(chosen).eval(), processor


def check_image_size(image_size: int | None) -> None:
    """Refuses `--image-size`, where it is given, if no image can have it.

    Raises:
        ValueError: the range is named.
    """
    if image_size is not None:
        check_number("--image-size", image_size, LONGEST_SIDE)


def choose_device(name: str | None = None) -> torch.device:
    """A device by name, checked to work; without a name a GPU where there is one.

    Raises:
        ValueError: this machine has no such device.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        probe = torch.zeros(1, device=name)
        probe.tolist()  # the device "meta" has no values to give
        return probe.device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"`--device {name}` cannot be used here ({reason}). `albef-amc env` lists devices."
        ) from error
