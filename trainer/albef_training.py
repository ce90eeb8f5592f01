# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""ALBEF in training: momentum weights and queues, masked words, and the order of events around them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import TrainerCallback

from albef_amc import AlbefForPreTraining
from albef_amc.configuration_albef import MODEL_RANGES
from albef_amc.evaluation.checkpoints import hash_checkpoint
from albef_amc.inference_albef import refuse_inference_layers
from albef_amc.layout_albef import may_be_equal, refuse_layout
from albef_amc.lora.adapter_training import attach_adapter
from albef_amc.processor_checks_albef import check_fits_model
from albef_amc.ranges_albef import check_ranges
from albef_amc.trainer.amc_config import AmcConfig
from albef_amc.trainer.callbacks import NegativesCallback
from albef_amc.trainer.data.augmentation import GroundingAugmentation
from albef_amc.trainer.data.data_collator import DataCollatorForGrounding
from albef_amc.trainer.freezing import freeze_parameters
from albef_amc.trainer.model_training import ModelTraining
from albef_amc.trainer.objectives.weighted_objectives import HeatmapObjectives
from albef_amc.trainer.sharding import prepare_fsdp

MODEL_INPUTS = (
    "pixel_values",
    "input_ids",
    "attention_mask",
    "image_index",
    "layout",
    "image_ids",
    "text_ids",
    "description_ids",
    "description_index",
    "token_mask",
    "mlm_input_ids",
    "mlm_labels",
    "negative_image_index",
    "negative_text_index",
    "negative_uniforms",
    "false_input_ids",
    "false_attention_mask",
    "false_image_index",
    "false_layout",
)


class AlbefTraining(ModelTraining):
    """[`AlbefForPreTraining`] in training.

    Args:
        model ([`AlbefForPreTraining`]): the model.
        args ([`AmcConfig`]): the run's settings.

    Raises:
        TypeError: a model that is not [`AlbefForPreTraining`], or has LoRA layers already.
        ValueError: a configuration that no model can have, or layers for inference.
    """

    def __init__(self, model: AlbefForPreTraining, args: AmcConfig):
        super().__init__(args)
        if not hasattr(model, "update_momentum"):
            raise TypeError(f"`model` must be an `AlbefForPreTraining` or a `Grounder`, got {type(model).__name__}.")
        if hasattr(model, "peft_config"):
            raise TypeError("`model` has LoRA layers already: give the model without them, and `peft_config`.")
        refuse_inference_layers(model, "trained")
        check_ranges(model.config, MODEL_RANGES, "model.config.")
        self.model = model
        self._pending_features: dict[str, Any] | None = None

    def build_collator(self, processing_class: Any) -> DataCollatorForGrounding:
        """See [`build_training_collator`]."""
        check_fits_model(processing_class, self.model.config)
        return build_training_collator(processing_class, self.args, self.model.config.mlm_probability)

    def prepare_model(self, peft_config: Any) -> nn.Module:
        """The model with LoRA layers, or with parts frozen."""
        if peft_config is not None:
            self.weight_files = self.adapter = attach_adapter(self.model, peft_config, self.args)
            return self.adapter.peft_model
        if self.args.freeze:
            freeze_parameters(self.model, self.args.freeze)
        return self.model

    def check_distribution(self, accelerator: Accelerator) -> None:
        """See [`~trainer.sharding.prepare_fsdp`]."""
        prepare_fsdp(accelerator)

    def list_callbacks(self, rows: Any) -> list[TrainerCallback]:
        """A warning about rows without negatives."""
        return [NegativesCallback(rows)] if "itm" in self.args.pretraining_objectives else []

    def begin_step(self, model: Any) -> None:
        """Clamps the temperature and moves the momentum weights."""
        model.config.reset_calibration()  # of other weights
        if model.albef.temperature.requires_grad:
            model.clamp_temperature()
        if self.args.use_momentum_updates:
            (model if self.adapter is None else self.adapter).update_momentum()

    def end_micro_batch(self, model: Any) -> None:
        """Writes the momentum features of the micro-batch to the queues."""
        if self._pending_features is not None:
            model.enqueue(**self._pending_features, across_processes=True)
            self._pending_features = None

    def get_distillation_alpha(self, epoch: float) -> float:
        """A linear ramp, then constant."""
        alpha = self.args.distillation_alpha
        if alpha is None:
            alpha = self.model.config.distillation_alpha
        ramp = self.args.distillation_ramp_epochs
        return alpha * min(1.0, epoch / ramp) if ramp > 0 else alpha

    def choose_explained(self, inputs: Mapping[str, Any], objectives: HeatmapObjectives) -> dict[str, Any]:
        """The batch with `explained_phrases`, `(P,)` bool, the phrases whose heatmap is read; None for all of them.

        If these are the phrases with a region, and the layout of the batch knows which they are, the layout holds them
        instead: nothing then waits for the device, with any wrapper.
        """
        layout = inputs.get("layout")
        is_known = layout is not None and layout.annotated_phrases is not None and "has_region" in inputs
        if not (is_known and objectives and objectives.reads_annotated_phrases):
            return {**inputs, "explained_phrases": objectives.find_phrases(inputs)}
        annotated, device = layout.annotated_phrases, inputs["has_region"].device
        if not may_be_equal(annotated, inputs["has_region"]):
            refuse_layout("it was built from another `has_region`")
        region_rows = annotated.nonzero().flatten().to(device, non_blocking=True)
        return {**inputs, "layout": replace(layout, explained_phrases=annotated), "region_rows": region_rows}

    def build_model_inputs(self, inputs: dict[str, Any], has_heatmaps: bool, epoch: float) -> dict[str, Any]:
        """See [`ModelTraining.build_model_inputs`]."""
        args = self.args
        return {
            **{name: inputs[name] for name in MODEL_INPUTS if name in inputs},
            "objectives": args.pretraining_objectives,
            "distillation_alpha": self.get_distillation_alpha(epoch),
            "distillation_axis": args.distillation_axis,
            "candidate_scope": args.candidate_scope,
            "negative_sampling": args.negative_sampling,
            "output_heatmap": has_heatmaps,
            "explained_phrases": inputs.get("explained_phrases"),
            "heatmap_denominator": args.heatmap_denominator,
        }

    def keep_features(self, outputs: Any, inputs: Mapping[str, Any], is_finite: torch.Tensor) -> None:
        """Keeps the momentum features."""
        self._pending_features = {
            "image_features": outputs.momentum_image_features,
            "text_features": outputs.momentum_text_features,
            "image_ids": inputs.get("image_ids"),
            "image_index": outputs.image_index,
            "text_ids": inputs.get("text_ids"),
            "is_valid": is_finite,
        }

    def count_operations(self, model: Any, inputs: Mapping[str, Any]) -> int:
        """Six operations per weight and token: patches in the image encoder, text tokens in the text encoder."""
        albef = model.albef
        height, width = albef.config.vision_config.grid_size
        num_tokens = {
            albef.vision_model: len(inputs["pixel_values"]) * (1 + height * width),
            albef.text_model: inputs["input_ids"].numel(),
        }
        return sum(
            6 * tokens * encoder.num_parameters(exclude_embeddings=True) for encoder, tokens in num_tokens.items()
        )

    def hash_weights(self, model: Any, folder: Path) -> str:
        """See [`ModelTraining.hash_weights`]."""
        return hash_checkpoint(folder)

    def describe(self, model: Any) -> dict[str, Any]:
        """Description and image size."""
        return {
            "description": "An ALBEF model for phrase grounding, fine-tuned with albef-amc.",
            "image_size": model.config.vision_config.image_height_width,
        }


def build_training_collator(processor: Any, args: AmcConfig, mlm_probability: float) -> DataCollatorForGrounding:
    """The collator that the settings of a run describe.

    Args:
        processor ([`AlbefProcessor`]): makes the tensors.
        args ([`AmcConfig`]): the run's settings.
        mlm_probability (`float`): the model's share of masked tokens, used when `args` has none.
    """
    if args.mlm_probability is not None:
        mlm_probability = args.mlm_probability
    return DataCollatorForGrounding(
        processor,
        phrases_per_image=args.phrases_per_image,
        max_length=min(args.max_length, processor.tokenizer.model_max_length),
        mask_size=args.mask_size,
        region_source=args.region_source,
        box_choice=args.box_choice,
        use_paraphrases=args.use_paraphrases,
        augmentation=GroundingAugmentation(flip=args.flip) if args.use_augmentation else None,
        mlm_probability=mlm_probability,
        seed=args.seed,
        use_packed_regions=True,
        use_reduced_images=args.use_reduced_images,
        use_text_ids=args.use_text_ids,
        false_phrases_per_image=args.false_phrases_per_image,
    )


__all__ = ["MODEL_INPUTS", "AlbefTraining", "build_training_collator"]
