"""albef-amc: ALBEF for the Hugging Face Hub, its Grad-CAM heatmaps, and their training with AMC."""

# ruff: noqa: E402
from .interrupts_albef import leave_at_interrupts

leave_at_interrupts()  # before the slow imports

import importlib
from typing import TYPE_CHECKING

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

BASE_MODEL: str  # folder of the base model that ships; found when it is first asked for

AutoConfig.register("albef", AlbefConfig)

if not TYPE_CHECKING:  # to a type checker, the module has no other names than those above

    def __getattr__(name: str) -> str:
        if name != "BASE_MODEL":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return importlib.import_module(f"{__name__}.checkpoints").BASE_MODEL
        except ModuleNotFoundError as error:
            raise AttributeError(
                f"`BASE_MODEL` is a checkpoint of the package albef-amc, and {__name__!r} here is not that package, "
                "installed. Install it, or name a checkpoint folder."
            ) from error


__all__ = [
    "BASE_MODEL",
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
