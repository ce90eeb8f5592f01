"""albef-amc: ALBEF for the Hugging Face Hub, its Grad-CAM heatmaps, and their training with AMC."""

from .configuration_albef import AlbefConfig, AlbefTextConfig, AlbefVisionConfig
from .modeling_albef import (
    ITM_MATCH_INDEX,
    AlbefForImageTextMatching,
    AlbefForPreTraining,
    AlbefGroundingOutput,
    AlbefModel,
    AlbefModelOutput,
    AlbefPreTrainingOutput,
)

__version__ = "0.1.0"

__all__ = [
    "ITM_MATCH_INDEX",
    "AlbefConfig",
    "AlbefForImageTextMatching",
    "AlbefForPreTraining",
    "AlbefGroundingOutput",
    "AlbefModel",
    "AlbefModelOutput",
    "AlbefPreTrainingOutput",
    "AlbefTextConfig",
    "AlbefVisionConfig",
]
