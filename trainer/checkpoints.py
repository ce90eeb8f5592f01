# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Loading a checkpoint whole: a model with a new matching head would ground at random, so it is refused."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from albef_amc import AlbefForImageTextMatching, AlbefForPreTraining, AlbefProcessor

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
NAMES_SHOWN = 3


def load_model_and_processor(
    model_class: type[AlbefForImageTextMatching] | type[AlbefForPreTraining],
    checkpoint: str | Path,
    image_size: int | None = None,
    may_lack: Sequence[str] = (),
) -> tuple[Any, AlbefProcessor]:
    """Model and processor of a checkpoint.

    Args:
        model_class (`type`): class of the model.
        checkpoint (`str` or `Path`): folder or Hub repository.
        image_size (`int`, *optional*): image side in pixels, if not the checkpoint's.
        may_lack (sequence of `str`, *optional*): beginnings of names of weights that may be missing; they start at
            random.

    Raises:
        FileNotFoundError: a path that is no checkpoint folder.
        ValueError: a checkpoint of another architecture, or one that lacks weights of this one, heads included.
    """
    checkpoint = str(checkpoint)
    if not Path(checkpoint).exists() and not HUB_NAME.fullmatch(checkpoint):
        raise FileNotFoundError(
            f"No checkpoint folder at {checkpoint}. `make demo` makes checkpoints under runs/demo; "
            "`albef-amc convert` makes one of an original .pth."
        )
    model, info = model_class.from_pretrained(
        checkpoint, image_size=image_size, output_loading_info=True, ignore_mismatched_sizes=True
    )
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(tuple(may_lack)))
    missing += sorted(str(name) for name, *_ in info["mismatched_keys"])
    if missing:
        names = ", ".join(missing[:NAMES_SHOWN]) + (", ..." if len(missing) > NAMES_SHOWN else "")
        raise ValueError(
            f"{checkpoint} lacks {len(missing)} weights of {model_class.__name__} or has them in another shape: "
            f"{names}. Its heatmaps would mean nothing; get a complete checkpoint."
        )
    size = {} if image_size is None else {"size": {"height": image_size, "width": image_size}}
    return model, AlbefProcessor.from_pretrained(checkpoint, **size)


__all__ = ["load_model_and_processor"]
