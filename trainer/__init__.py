"""Training and evaluation of grounding: objectives, collator, Trainer, pointing game, pictures."""

from albef_amc.evaluation.checkpoints import merge_adapter
from albef_amc.evaluation.grounding_evaluation import GroundingEvaluation, evaluate_grounding
from albef_amc.lora.adapters import build_lora_config

from .amc_config import AmcConfig
from .amc_trainer import AmcTrainer
from .data.augmentation import GroundingAugmentation
from .data.data_collator import DataCollatorForGrounding
from .objectives.amc import AttentionMaskConsistencyLoss

__all__ = [
    "AmcConfig",
    "AmcTrainer",
    "AttentionMaskConsistencyLoss",
    "DataCollatorForGrounding",
    "GroundingAugmentation",
    "GroundingEvaluation",
    "build_lora_config",
    "evaluate_grounding",
    "merge_adapter",
]
