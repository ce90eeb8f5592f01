# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The models of ALBEF under one name: what Auto classes find in a checkpoint, and this package exports."""

from .base_albef import AlbefModel
from .classification_albef import AlbefForVisualEntailment
from .configuration_albef import ITM_MATCH_INDEX, AlbefConfig
from .matching_albef import AlbefForImageTextMatching
from .outputs_albef import (
    AlbefClassificationOutput,
    AlbefGroundingOutput,
    AlbefModelOutput,
    AlbefPreTrainingOutput,
    AlbefTextAssignmentOutput,
)
from .pretraining_albef import AlbefForPreTraining
from .reasoning_albef import AlbefForTextAssignment, AlbefForVisualReasoning

AUTO_CLASSES = {
    AlbefModel: "AutoModel",
    AlbefForImageTextMatching: "AutoModelForZeroShotObjectDetection",
    AlbefForPreTraining: "AutoModelForPreTraining",
}
WITHOUT_AUTO_CLASS = (AlbefForTextAssignment, AlbefForVisualEntailment, AlbefForVisualReasoning)

AlbefConfig.register_for_auto_class()
for model_class, auto_class in AUTO_CLASSES.items():
    model_class.__module__ = __name__  # a checkpoint ships the file of its class, with all that the file imports
    model_class.register_for_auto_class(auto_class)
for model_class in WITHOUT_AUTO_CLASS:
    model_class.__module__ = __name__
    model_class._auto_class = model_class.__name__  # so that its checkpoints ship the code, too, and name the class

__all__ = [
    "ITM_MATCH_INDEX",
    "AlbefClassificationOutput",
    "AlbefForImageTextMatching",
    "AlbefForPreTraining",
    "AlbefForTextAssignment",
    "AlbefForVisualEntailment",
    "AlbefForVisualReasoning",
    "AlbefGroundingOutput",
    "AlbefModel",
    "AlbefModelOutput",
    "AlbefPreTrainingOutput",
    "AlbefTextAssignmentOutput",
]
