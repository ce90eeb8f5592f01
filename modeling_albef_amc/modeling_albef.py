# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The models of ALBEF under one name: what Auto classes find in a checkpoint, and this package exports."""

from .base_albef import AlbefModel
from .configuration_albef import ITM_MATCH_INDEX, AlbefConfig
from .matching_albef import AlbefForImageTextMatching
from .outputs_albef import (
    AlbefGroundingOutput,
    AlbefModelOutput,
    AlbefPreTrainingOutput,
    AlbefQuestionAnsweringOutput,
    RankedAnswers,
)
from .pretraining_albef import AlbefForPreTraining
from .question_answering_albef import AlbefForQuestionAnswering

AUTO_CLASSES = {
    AlbefModel: "AutoModel",
    AlbefForImageTextMatching: "AutoModelForZeroShotObjectDetection",
    AlbefForPreTraining: "AutoModelForPreTraining",
    AlbefForQuestionAnswering: "AutoModelForVisualQuestionAnswering",
}

AlbefConfig.register_for_auto_class()
for model_class, auto_class in AUTO_CLASSES.items():
    model_class.__module__ = __name__  # a checkpoint ships the file of its class, with all that the file imports
    model_class.register_for_auto_class(auto_class)

__all__ = [
    "ITM_MATCH_INDEX",
    "AlbefForImageTextMatching",
    "AlbefForPreTraining",
    "AlbefForQuestionAnswering",
    "AlbefGroundingOutput",
    "AlbefModel",
    "AlbefModelOutput",
    "AlbefPreTrainingOutput",
    "AlbefQuestionAnsweringOutput",
    "RankedAnswers",
]
