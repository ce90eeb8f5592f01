# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Grounding data sets: one builder class per data set, one row schema for all of them."""

from .features import GROUNDING_FEATURES, build_phrase, build_row, compute_statistics
from .synthetic_grounding import SyntheticGrounding, SyntheticGroundingConfig, build_scene, generate_scenes
from .synthetic_phrases import vocabulary

__all__ = [
    "GROUNDING_FEATURES",
    "SyntheticGrounding",
    "SyntheticGroundingConfig",
    "build_phrase",
    "build_row",
    "build_scene",
    "compute_statistics",
    "generate_scenes",
    "vocabulary",
]
