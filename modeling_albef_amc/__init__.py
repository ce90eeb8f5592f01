"""albef-amc: ALBEF for the Hugging Face Hub, its Grad-CAM heatmaps, and their training with AMC."""

# ruff: noqa: E402
from .interrupts_albef import leave_at_interrupts

leave_at_interrupts()  # before the slow imports

from transformers import AutoConfig

from .configuration_albef import AlbefConfig, AlbefTextConfig, AlbefVisionConfig
from .image_processing_albef import AlbefImageProcessor
from .modeling_albef import (
    ITM_MATCH_INDEX,
    AlbefClassificationOutput,
    AlbefForImageTextMatching,
    AlbefForImageTextRetrieval,
    AlbefForPreTraining,
    AlbefForQuestionAnswering,
    AlbefForTextAssignment,
    AlbefForVisualEntailment,
    AlbefForVisualReasoning,
    AlbefGroundingOutput,
    AlbefModel,
    AlbefModelOutput,
    AlbefPreTrainingOutput,
    AlbefQuestionAnsweringOutput,
    AlbefRetrievalOutput,
    AlbefRetrievalScores,
    AlbefTextAssignmentOutput,
    RankedAnswers,
    compute_retrieval_recall,
)
from .pipeline_albef import VisualGroundingPipeline
from .processing_albef import AlbefProcessor

__version__ = "0.1.0"

AutoConfig.register("albef", AlbefConfig)

__all__ = [
    "ITM_MATCH_INDEX",
    "AlbefClassificationOutput",
    "AlbefConfig",
    "AlbefForImageTextMatching",
    "AlbefForImageTextRetrieval",
    "AlbefForPreTraining",
    "AlbefForQuestionAnswering",
    "AlbefForTextAssignment",
    "AlbefForVisualEntailment",
    "AlbefForVisualReasoning",
    "AlbefGroundingOutput",
    "AlbefImageProcessor",
    "AlbefModel",
    "AlbefModelOutput",
    "AlbefPreTrainingOutput",
    "AlbefProcessor",
    "AlbefQuestionAnsweringOutput",
    "AlbefRetrievalOutput",
    "AlbefRetrievalScores",
    "AlbefTextAssignmentOutput",
    "AlbefTextConfig",
    "AlbefVisionConfig",
    "RankedAnswers",
    "VisualGroundingPipeline",
    "compute_retrieval_recall",
]
