# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Model cards: what a checkpoint says about itself."""

from .card_renderer import ModelCard, read_metrics, render_model_card, write_model_card

__all__ = ["ModelCard", "read_metrics", "render_model_card", "write_model_card"]
