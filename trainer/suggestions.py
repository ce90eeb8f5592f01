# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The nearest valid name, for messages of the trainer; data sets use it too, so it lies with them."""

from albef_amc.datasets_scripts.suggestions import LEAST_LIKENESS, suggest_nearest

__all__ = ["LEAST_LIKENESS", "suggest_nearest"]
