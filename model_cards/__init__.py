# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Model cards: the description that a checkpoint carries."""

from .card_renderer import CHECKPOINT_WORD, ModelCard, render_model_card
from .front_matter import check_front_matter
from .metrics_file import WEIGHTS_KEY, check_weights, read_metrics
from .stored_card import CARD_FILE, read_model_card, write_model_card

__all__ = [
    "CARD_FILE",
    "CHECKPOINT_WORD",
    "WEIGHTS_KEY",
    "ModelCard",
    "check_front_matter",
    "check_weights",
    "read_metrics",
    "read_model_card",
    "render_model_card",
    "write_model_card",
]
