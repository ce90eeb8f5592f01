# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Small checkpoints in the published layout, and their conversion."""

from pathlib import Path

import torch
from testing_utils import GOLDEN_FOLDER

from albef_amc.conversion.convert_albef_original_to_hf import convert_checkpoint

TINY = GOLDEN_FOLDER / "tiny_pretrain" / "checkpoint.pth"
HEADS = {"vision_config.num_attention_heads": 4, "text_config.num_attention_heads": 4}
SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
VOCABULARY = [SPECIAL.get(index, f"token{index}") for index in range(120)]


def save(state: dict, path: Path, **others) -> Path:
    torch.save({"model": state, **others}, path)
    return path


def convert(path, output, **values):
    return convert_checkpoint(path, output, **{"vocab": VOCABULARY, "overrides": HEADS, **values})


def assert_nothing_written(folder: Path) -> None:
    assert not [path for path in folder.iterdir() if path.is_dir()]
