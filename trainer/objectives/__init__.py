"""Objectives on heatmaps: pure functions of named tensors, weighted and summed. One file per objective."""

from .amc import AttentionMaskConsistencyLoss
from .heatmap_objective import HeatmapObjective, RegionObjective, register_objective
from .weighted_objectives import HeatmapObjectives, build_objective

__all__ = [
    "AttentionMaskConsistencyLoss",
    "HeatmapObjective",
    "HeatmapObjectives",
    "RegionObjective",
    "build_objective",
    "register_objective",
]
