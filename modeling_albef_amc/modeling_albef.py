# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The models of ALBEF under one name: what Auto classes find in a checkpoint, and this package exports."""

from .base_albef import AlbefModel
from .classification_albef import AlbefForVisualEntailment
from .configuration_albef import ITM_MATCH_INDEX, AlbefConfig
from .galleries_albef import compute_retrieval_recall
from .matching_albef import AlbefForImageTextMatching
from .outputs_albef import (
    AlbefClassificationOutput,
    AlbefGroundingOutput,
    AlbefModelOutput,
    AlbefPreTrainingOutput,
    AlbefQuestionAnsweringOutput,
    AlbefRetrievalOutput,
    AlbefRetrievalScores,
    AlbefTextAssignmentOutput,
    RankedAnswers,
)
from .pretraining_albef import AlbefForPreTraining
from .question_answering_albef import AlbefForQuestionAnswering
from .reasoning_albef import AlbefForTextAssignment, AlbefForVisualReasoning
from .retrieval_albef import AlbefForImageTextRetrieval

AlbefConfig.register_for_auto_class()
for model_class in AlbefModel.task_classes.values():
    model_class.__module__ = __name__  # a checkpoint ships the file of its class, with all that the file imports

__all__ = [
    "ITM_MATCH_INDEX",
    "AlbefClassificationOutput",
    "AlbefForImageTextMatching",
    "AlbefForImageTextRetrieval",
    "AlbefForPreTraining",
    "AlbefForQuestionAnswering",
    "AlbefForTextAssignment",
    "AlbefForVisualEntailment",
    "AlbefForVisualReasoning",
    "AlbefGroundingOutput",
    "AlbefModel",
    "AlbefModelOutput",
    "AlbefPreTrainingOutput",
    "AlbefQuestionAnsweringOutput",
    "AlbefRetrievalOutput",
    "AlbefRetrievalScores",
    "AlbefTextAssignmentOutput",
    "RankedAnswers",
    "compute_retrieval_recall",
]
