"""Synthetic grounding: scenes of coloured shapes with phrases that need every word, made from a seed."""

from .phrase_reader import find_referents
from .phrases import vocabulary
from .scenes import HELD_OUT_COMPOSITIONS
from .synthetic_grounding import SyntheticGrounding, SyntheticGroundingConfig, build_scene, generate_scenes

__all__ = [
    "HELD_OUT_COMPOSITIONS",
    "SyntheticGrounding",
    "SyntheticGroundingConfig",
    "build_scene",
    "find_referents",
    "generate_scenes",
    "vocabulary",
]
