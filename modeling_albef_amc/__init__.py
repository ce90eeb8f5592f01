"""albef-amc: ALBEF for the Hugging Face Hub, its Grad-CAM heatmaps, and their training with AMC."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForZeroShotObjectDetection,
)

from .configuration_albef import AlbefConfig, AlbefTextConfig, AlbefVisionConfig
from .image_processing_albef import AlbefImageProcessor
from .modeling_albef import (
    ITM_MATCH_INDEX,
    AlbefForImageTextMatching,
    AlbefForImageTextRetrieval,
    AlbefForPreTraining,
    AlbefGroundingOutput,
    AlbefModel,
    AlbefModelOutput,
    AlbefPreTrainingOutput,
    AlbefRetrievalOutput,
    AlbefRetrievalScores,
    compute_retrieval_recall,
)
from .pipeline_albef import VisualGroundingPipeline
from .processing_albef import AlbefProcessor

__version__ = "0.1.0"

AutoConfig.register("albef", AlbefConfig)
AutoModel.register(AlbefConfig, AlbefModel)
AutoModelForPreTraining.register(AlbefConfig, AlbefForPreTraining)
AutoModelForZeroShotObjectDetection.register(AlbefConfig, AlbefForImageTextMatching)

__all__ = [
    "ITM_MATCH_INDEX",
    "AlbefConfig",
    "AlbefForImageTextMatching",
    "AlbefForImageTextRetrieval",
    "AlbefForPreTraining",
    "AlbefGroundingOutput",
    "AlbefImageProcessor",
    "AlbefModel",
    "AlbefModelOutput",
    "AlbefPreTrainingOutput",
    "AlbefProcessor",
    "AlbefRetrievalOutput",
    "AlbefRetrievalScores",
    "AlbefTextConfig",
    "AlbefVisionConfig",
    "VisualGroundingPipeline",
    "compute_retrieval_recall",
]
