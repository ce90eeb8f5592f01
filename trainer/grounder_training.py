# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""A grounder of another model in training: its own losses, and objectives on the heatmaps of its cells."""

import math
from collections.abc import Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from transformers import TrainerCallback

from albef_amc.evaluation.weight_hash import hash_tensors, hash_weights
from albef_amc.grounders.grounder import Grounder
from albef_amc.grounders.methods import ATTENTION
from albef_amc.grounders.pair_inputs import PairInputs
from albef_amc.lora.grounder_adapters import GrounderAdapter, is_of_adapter
from albef_amc.publishing.grounder_cards import describe_grounder
from albef_amc.trainer.amc_config import AmcConfig
from albef_amc.trainer.callbacks import MOST_PHRASES
from albef_amc.trainer.data.augmentation import GroundingAugmentation
from albef_amc.trainer.data.grounder_collator import DataCollatorForGrounder
from albef_amc.trainer.data.mixtures import iterate_texts
from albef_amc.trainer.data.negatives import find_missing_negatives
from albef_amc.trainer.freezing import freeze_parameters
from albef_amc.trainer.model_training import CompareHeatmaps, ModelTraining
from albef_amc.trainer.objectives.weighted_objectives import HeatmapObjectives

PHRASES_AT_ONCE = 1_000  # whose tokens are counted together
ONLY_ALBEF = ("use_reduced_images", "num_heatmaps_drawn")


class GrounderTraining(ModelTraining):
    """A [`~grounders.grounder.Grounder`] in training; what is saved is a plain checkpoint of its class.

    Args:
        grounder ([`~grounders.grounder.Grounder`]): the model, its processor and what is explained.
        args ([`AmcConfig`]): the run's settings.
        processing_class: the processor of the grounder.

    Raises:
        ValueError: losses that the model does not have, or a setting that only ALBEF has.
    """

    def __init__(self, grounder: Grounder, args: AmcConfig, processing_class: Any):
        super().__init__(args)
        if processing_class is not grounder.processor:
            raise ValueError("`processing_class` must be the processor of the grounder: pass `grounder.processor`.")
        check_trainable(grounder)
        check_settings(grounder, args)
        self.grounder = grounder
        self.weight_files = self.files = GrounderFiles(grounder)

    def build_collator(self, processing_class: Any) -> DataCollatorForGrounder:
        """The collator that the settings of the run describe."""
        args = self.args
        return DataCollatorForGrounder(
            self.grounder.inputs,
            phrases_per_image=args.phrases_per_image,
            mask_size=args.mask_size,
            region_source=args.region_source,
            box_choice=args.box_choice,
            use_paraphrases=args.use_paraphrases,
            augmentation=GroundingAugmentation(flip=args.flip) if args.use_augmentation else None,
            seed=args.seed,
            use_text_ids=args.use_text_ids,
            false_phrases_per_image=args.false_phrases_per_image,
        )

    def prepare_model(self, peft_config: Any) -> nn.Module:
        """The grounder, whose model has LoRA layers, or parts that are frozen."""
        model = self.grounder.model
        if peft_config is not None:
            if self.args.freeze:
                raise ValueError(
                    "`freeze` and `peft_config` exclude each other: LoRA freezes all but its layers. Choose what it "
                    "trains with `target_modules` and `modules_to_save`."
                )
            self.files.adapter = GrounderAdapter(model, peft_config, self.args.seed)
        elif self.args.freeze:
            freeze_parameters(model, self.args.freeze)
        return self.grounder

    def check_distribution(self, accelerator: Accelerator) -> None:
        """One process, or several of which each has the whole model.

        Raises:
            NotImplementedError: FSDP or DeepSpeed.
        """
        if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise NotImplementedError(
                f"a grounder cannot be trained under {accelerator.distributed_type.value}: its heatmap reads modules "
                "that are gathered in their own forward pass. Use several processes without it (DDP), such as "
                "`configuration/accelerate/gpu_8.yaml`."
            )

    def list_callbacks(self, rows: Any) -> list[TrainerCallback]:
        """Checks of the training rows."""
        return [TrainingRowsCallback(rows, self.grounder.inputs, self.args)]

    @torch.no_grad()
    def begin_step(self, model: Any) -> None:
        """Clamps the temperature of a model that was trained with such a limit."""
        contrast = model.family.contrast
        if contrast is not None and contrast.largest_scale is not None:
            model.model.logit_scale.clamp_(max=math.log(contrast.largest_scale))

    def end_micro_batch(self, model: Any) -> None:
        """Nothing: there are no queues."""

    def keep_features(self, outputs: Any, inputs: Mapping[str, Any], is_finite: torch.Tensor) -> None:
        """Nothing: there are no queues."""

    def choose_explained(self, inputs: Mapping[str, Any], objectives: HeatmapObjectives) -> dict[str, Any]:
        """The batch as it is: all heatmaps are computed."""
        return dict(inputs)

    def build_model_inputs(self, inputs: dict[str, Any], has_heatmaps: bool, epoch: float) -> dict[str, Any]:
        """See [`ModelTraining.build_model_inputs`]."""
        return {
            "batch": inputs,
            "output_heatmap": has_heatmaps,
            "losses": self.args.pretraining_objectives,
            "negative_sampling": self.args.negative_sampling,
            "candidate_scope": self.args.candidate_scope,
        }

    def choose_comparison(self, objectives: HeatmapObjectives) -> CompareHeatmaps:
        """Objectives on the cells of each image, without those that are padding."""
        return partial(compare_cells, objectives)

    def describe_batch(self, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """`unseen_regions`: regions of the micro-batch that no cell sees, and that take no part in its loss."""
        return {"unseen_regions": inputs["num_unseen_regions"].float()} if "num_unseen_regions" in inputs else {}

    def count_operations(self, model: Any, inputs: Mapping[str, Any]) -> int:
        """Six operations per weight and token; cells and text tokens count for all weights outside of embeddings."""
        num_tokens = inputs["cell_mask"].numel() + inputs["input_ids"].numel()
        return 6 * num_tokens * model.model.num_parameters(exclude_embeddings=True)

    def hash_weights(self, model: Any, folder: Path) -> str:
        """See [`ModelTraining.hash_weights`]."""
        adapter = self.files.adapter
        return hash_weights(model.model) if adapter is None else hash_tensors(adapter.merge_weights())

    def describe(self, model: Any) -> dict[str, Any]:
        """Class, score, layer and the licence, which is that of the base model."""
        name = model.family.class_name
        description = f"A `{name}` whose heatmaps were trained for phrase grounding with albef-amc."
        return {"description": description, **describe_grounder(model)}


class GrounderFiles:
    """Weights of a run as a plain checkpoint of the model's class, and `grounder.json`.

    Args:
        grounder ([`~grounders.grounder.Grounder`]): what is trained.

    Attributes:
        adapter ([`~lora.grounder_adapters.GrounderAdapter`], *optional*): LoRA layers of its model. They are merged in
            what is saved, and lie beside it in a checkpoint that a run may resume from.
    """

    def __init__(self, grounder: Grounder):
        self.grounder = grounder
        self.adapter: GrounderAdapter | None = None

    def save(self, folder: Path, with_state: bool, weights: Mapping[str, torch.Tensor]) -> None:
        """Writes model, processor and `grounder.json`."""
        if self.adapter is None:
            self.grounder.write_files(folder)
            return
        self.grounder.write_files(folder, self.adapter.merge_weights())
        if with_state:
            self.adapter.save(folder, {name.removeprefix("model."): value for name, value in weights.items()})

    @torch.no_grad()
    def load(self, checkpoint: str | Path) -> None:
        """Restores the weights of a checkpoint of the run.

        Raises:
            ValueError: a checkpoint of a LoRA run where there are no LoRA layers, or the other way round.
        """
        if self.adapter is not None:
            self.adapter.load(Path(checkpoint))
            return
        if is_of_adapter(checkpoint):
            raise ValueError(f"{checkpoint} is of a LoRA run: resume it with its `peft_config`.")
        model: Any = self.grounder.model
        stored = type(model).from_pretrained(checkpoint, dtype=model.dtype)
        model.load_state_dict(stored.state_dict())


class TrainingRowsCallback(TrainerCallback):
    """Refuses, before the first step, rows that the model cannot take or learn matching from.

    Args:
        rows: training rows as the run got them.
        inputs ([`~grounders.pair_inputs.PairInputs`]): knows how many tokens a phrase may have.
        args ([`AmcConfig`]): the run's settings.
    """

    def __init__(self, rows: Any, inputs: PairInputs, args: AmcConfig):
        self.rows, self.inputs, self.args = rows, inputs, args

    def on_train_begin(self, args, state, control, **kwargs):
        """Looks at the first rows on the first process."""
        if not state.is_world_process_zero:
            return
        if "itm" in self.args.pretraining_objectives:
            problem = find_missing_negatives(self.rows, self.args.false_phrases_per_image > 0)
            if problem is not None:
                raise ValueError(f"Training data: {problem}")
        texts = islice(iterate_texts(self.rows, self.args.use_paraphrases), MOST_PHRASES)
        while some := list(islice(texts, PHRASES_AT_ONCE)):
            try:
                self.inputs.check_phrases(some)
            except ValueError as error:
                raise ValueError(f"Training data: {error}") from error


def check_trainable(grounder: Grounder) -> None:
    """Refuse a model that cannot be trained.

    Raises:
        TypeError: LoRA layers that are there already.
        ValueError: weights that are quantised or in half precision, or a map that does not depend on the phrase.
    """
    model = grounder.model
    if hasattr(model, "peft_config") or any(".lora_A." in name for name, _ in model.named_parameters()):
        raise TypeError("`model` has LoRA layers already: give the model without them, and `peft_config`.")
    if getattr(model, "is_quantized", False):
        raise ValueError(
            "the model has quantised weights, through which no gradient passes. Load the checkpoint that it was made "
            "from."
        )
    halves = sorted({str(one.dtype) for one in model.parameters() if one.dtype in (torch.float16, torch.bfloat16)})
    if halves:
        raise ValueError(
            f"the model has weights in {halves[0]}, in which small steps are lost. Call `grounder.float()`, and set "
            "`bf16=True` to compute in bfloat16."
        )
    if grounder.method == ATTENTION and not grounder.family.score.has_token_rows:
        raise ValueError(
            f'`method` is "{ATTENTION}", whose map of `{grounder.family.class_name}` is the same for all phrases: the '
            'region of a phrase teaches it nothing. Choose `method="grad_cam"`.'
        )


def check_settings(grounder: Grounder, args: AmcConfig) -> None:
    """Refuse settings of a run that the model cannot follow.

    Args:
        grounder ([`~grounders.grounder.Grounder`]): what would be trained.
        args ([`AmcConfig`]): the run's settings.

    Raises:
        ValueError: all losses that the model does not have are named, or a setting that only ALBEF has.
    """
    owner, known = (
        f"`{grounder.family.class_name}` with the score {grounder.family.score_name!r}",
        grounder.family.losses,
    )
    wrong = [name for name in args.pretraining_objectives if name not in known]
    if wrong:
        raise ValueError(
            f"{owner} has no loss {' and '.join(map(repr, wrong))}; it has {' and '.join(map(repr, known))}. Set "
            f"{', '.join(f'`{name}_weight=0`' for name in wrong)}."
        )
    grounder.check_losses(args.pretraining_objectives, args.negative_sampling)
    if args.gradient_checkpointing:
        raise ValueError(
            "`gradient_checkpointing` cannot be switched on for a grounder here: call "
            "`grounder.model.gradient_checkpointing_enable()` and leave it out. From the explained layer on it is off."
        )
    for name in ONLY_ALBEF:
        if getattr(args, name):
            raise ValueError(f"`{name}={getattr(args, name)}` is for ALBEF alone: leave it out for {owner}.")


def compare_cells(
    objectives: HeatmapObjectives,
    normalized_heatmap: torch.Tensor,
    inputs: Mapping[str, Any],
    denominators: torch.Tensor,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Objectives on heatmaps over cells, where images may have different numbers of cells.

    Phrases of images with the same cells are compared together, without padding; sums over phrases add up.

    Args:
        objectives ([`~trainer.objectives.weighted_objectives.HeatmapObjectives`]): what is computed.
        normalized_heatmap (`torch.Tensor` of shape `(P, C)`): explanations in [0, 1].
        inputs (mapping): the batch; `cell_mask` `(N, C)`, False for padding, `image_index` `(P,)`, `region_mask`
            `(P, 1, C)`, `has_region` and `paraphrase_index` `(P,)` are read.
        denominators (`torch.Tensor` of shape `(num_objectives,)`): counts that the sums are divided by.
    """
    cell_mask = inputs["cell_mask"].index_select(0, inputs["image_index"])
    kinds, kind_of = cell_mask.unique(dim=0, return_inverse=True)
    total = normalized_heatmap.new_zeros(())
    terms: dict[str, torch.Tensor] = {}
    for number, cells in enumerate(kinds):
        rows, columns = (kind_of == number).nonzero().flatten(), cells.nonzero().flatten()
        heatmap = normalized_heatmap.index_select(0, rows).index_select(1, columns)[:, None]
        part, of_part = objectives(heatmap, _select_phrases(inputs, rows, columns), denominators)
        total = total + part
        terms = {name: value + terms[name] if name in terms else value for name, value in of_part.items()}
    return total, terms


def _select_phrases(inputs: Mapping[str, Any], rows: torch.Tensor, columns: torch.Tensor) -> dict[str, Any]:
    """What objectives read of a batch, for some phrases and some cells; paraphrases are of the same image."""
    chosen = {name: inputs[name].index_select(0, rows) for name in ("region_mask", "has_region") if name in inputs}
    if "region_mask" in chosen:
        chosen["region_mask"] = chosen["region_mask"].index_select(2, columns)
    if "paraphrase_index" in inputs:
        index = inputs["paraphrase_index"]
        place = torch.full((len(index) + 1,), -1, device=index.device)
        place[rows] = torch.arange(len(rows), device=index.device)
        chosen["paraphrase_index"] = place[index.index_select(0, rows)]
    return chosen


__all__ = ["GrounderFiles", "GrounderTraining", "check_settings", "check_trainable", "compare_cells"]
