# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Heatmaps of models that others published in transformers: one mechanism, one geometry, families as data."""

from .auto_grounder import AutoGrounder
from .grounder import Grounder, GrounderOutput
from .pipeline import GrounderPipeline

__all__ = ["AutoGrounder", "Grounder", "GrounderOutput", "GrounderPipeline"]
