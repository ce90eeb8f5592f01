# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`transformers`' Trainer with ALBEF's pre-training objectives and AMC (Yang et al., CVPR 2023, section 3)."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from albef_amc import AlbefForPreTraining
from albef_amc.collections_albef import without_format
from albef_amc.evaluation.grounding_evaluation import GroundingEvaluation, evaluate_grounding
from albef_amc.evaluation.match_pairs import evaluate_matching
from albef_amc.grounders.grounder import Grounder
from albef_amc.model_cards import WEIGHTS_KEY, ModelCard, write_model_card
from albef_amc.pretraining_losses_albef import IGNORED_LABEL
from albef_amc.ranges_albef import check_ranges
from albef_amc.saving_albef import write_json
from albef_amc.trainer.albef_training import AlbefTraining
from albef_amc.trainer.amc_config import AmcConfig
from albef_amc.trainer.callbacks import CoverageCallback, ThroughputCallback, add_callbacks
from albef_amc.trainer.data.mixtures import build_training_dataset, check_evaluation_rows
from albef_amc.trainer.freezing import check_loss_trains
from albef_amc.trainer.grounder_training import GrounderTraining
from albef_amc.trainer.model_training import ModelTraining
from albef_amc.trainer.processes import average_over_processes, sum_counts
from albef_amc.trainer.reliability.reliable_trainer import ReliableTrainer
from albef_amc.trainer.run_facts import TrainingClock, describe_run
from albef_amc.trainer.setting_checks import TRAINING_RANGES
from albef_amc.trainer.sharding import build_full_model, keeping_parameters

logger = logging.get_logger(__name__)

# Share of the time spent waiting for batches above which a run on a device warns.
MOST_DATA_WAIT = 0.2
NEGATIVES_PER_PHRASE = 2  # another image, and another phrase of its image


class AmcTrainer(ReliableTrainer):
    r"""Trains [`AlbefForPreTraining`], or a grounder of another model, on phrases with regions: ITC + ITM + MLM + AMC.

    A [`~grounders.grounder.Grounder`] is trained with the losses that its class has (docs/grounders.md); what is saved
    is a plain checkpoint of that class and `grounder.json`.

    The heatmap is part of the model's `forward`, so that wrappers see one ordinary forward pass. Every term is logged
    (`itc_loss`, `itm_loss`, `mlm_loss`, `amc_loss`, `amc_mean_loss`, `amc_max_loss`, and those of `objectives`), with
    `phrases_per_second` and `images_per_second` over all processes, and `data_wait_share`, the share of the time in
    which this process waited for batches. Order of events in a step: before the first micro-batch the temperature is
    clamped and the momentum weights are updated; after each micro-batch's backward pass its momentum features enter
    the queues.

    Args:
        model ([`AlbefForPreTraining`] or [`~grounders.grounder.Grounder`]): the model to train.
        args ([`AmcConfig`]): the run's settings.
        processing_class ([`AlbefProcessor`], or that of the grounder): makes tensors of rows; saved with every
            checkpoint.
        train_dataset, eval_dataset: map-style data sets of rows (`datasets_scripts/features.py`). `train_dataset` may
            also be streamed (`datasets.IterableDataset`) or a [`~trainer.data.mixtures.Mixture`], `eval_dataset` a
            `dict` of several. Evaluation plays the pointing game and logs `eval_pointing_game_accuracy`.
        data_collator (*optional*): replaces the [`DataCollatorForGrounding`] made from `args`.
        card_details (mapping, *optional*): fields of [`~model_cards.ModelCard`] that the run cannot know itself
            (`model_name`, `description`, `datasets`, `evaluation_dataset`, `base_model`, `source`). Every saved
            checkpoint gets a card, and `metrics.json` where it was evaluated at the step it was saved.
        peft_config (`peft.LoraConfig`, *optional*): trains LoRA layers in place of the model; see
            [`~trainer.build_lora_config`] for its default targets. Checkpoints hold the adapter alone; of a grounder
            the merged model, and the adapter for a run to resume.
        kwargs: as for `Trainer`.

    Several processes train as one would with all their images: contrastive candidates and hard negatives come from
    the joint batch (`candidate_scope`), masked words and regions are counted over all processes and micro-batches, and
    the queues hold the features of every process (docs/distributed-training.md).

    Raises:
        TypeError: a model that is neither [`AlbefForPreTraining`] nor a grounder, or has LoRA layers already.
        ValueError: several GPUs without a launcher, which would split phrase rows: use `accelerate launch`.
            Settings of FSDP under which a heatmap cannot be differentiated.
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: AlbefForPreTraining | Grounder,
        args: AmcConfig,
        processing_class: Any,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        data_collator: Any = None,
        card_details: Mapping[str, Any] | None = None,
        peft_config: Any = None,
        **kwargs,
    ):
        self.model_training = build_model_training(model, args, processing_class)
        check_ranges(args, TRAINING_RANGES)  # they may have been changed since they were made
        if args.n_gpu > 1:
            raise ValueError(
                f"{args.n_gpu} GPUs are visible to one process, which would split the phrases of an image. Start the "
                "run with `accelerate launch`, or choose one GPU with CUDA_VISIBLE_DEVICES."
            )
        if data_collator is None:
            data_collator = self.model_training.build_collator(processing_class)
        if args.float32_matmul_precision is not None:
            torch.set_float32_matmul_precision(args.float32_matmul_precision)
        given_rows = train_dataset = without_format(train_dataset)
        if train_dataset is not None:
            train_dataset = build_training_dataset(train_dataset, args)
        super().__init__(
            self.model_training.prepare_model(peft_config),
            args,
            self.model_training.adapter,
            self.model_training.weight_files,
            processing_class=processing_class,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=data_collator,
            **kwargs,
        )
        self.model_training.check_distribution(self.accelerator)
        self.heatmap_objectives = args.build_heatmap_objectives()
        self.throughput = ThroughputCallback()
        add_callbacks(self)
        self.card_details = dict(card_details or {})
        self.add_callback(TrainingClock())
        if given_rows is not None:
            for callback in self.model_training.list_callbacks(given_rows):
                self.add_callback(callback)
        if given_rows is not None and hasattr(processing_class, "tokenizer"):
            longest = getattr(data_collator, "max_length", None)
            self.add_callback(CoverageCallback(given_rows, processing_class.tokenizer, longest, args.use_paraphrases))
        check_evaluation_rows(eval_dataset)
        self._evaluations: dict[str, dict[str, Any]] = {}
        self._evaluation_step: int | None = None
        self._begun_step: int | None = None
        self._term_sums: dict[str, Any] = defaultdict(float)
        self._term_count: Any = 0

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """One micro-batch; see the class for the order of events."""
        unwrapped = self.accelerator.unwrap_model(model)
        if self._begun_step != self.state.global_step:
            self._begun_step = self.state.global_step
            self.model_training.begin_step(unwrapped)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.throughput.count(inputs)
        self.model_training.end_micro_batch(unwrapped)
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Weighted sum of the objectives on one micro-batch, such that its mean over processes and micro-batches is
        that of all their phrases (`num_items_in_batch`: what [`_count_items`] counts, over all of them)."""
        args = self.args
        inputs = self.model_training.choose_explained(_unpack_regions(inputs, args.device), self.heatmap_objectives)
        has_heatmaps = len(self.heatmap_objectives) > 0
        with keeping_parameters(model), self.accelerator.autocast():
            outputs = model(**self.model_training.build_model_inputs(inputs, has_heatmaps, self.state.epoch or 0.0))
        counts = shares = self._count_items(inputs)
        if num_items_in_batch is not None:
            shares = num_items_in_batch / (args.world_size * self.current_gradient_accumulation_steps)
        shares = torch.where(shares > 0, shares, 1)
        terms = {f"{name}_loss": getattr(outputs, f"{name}_loss") for name in args.pretraining_objectives}
        if "mlm_loss" in terms and "mlm_labels" in inputs:
            terms["mlm_loss"] = terms["mlm_loss"] * (counts[0] / shares[0])
        loss = sum(getattr(args, f"{name}_weight") * terms[f"{name}_loss"] for name in args.pretraining_objectives)
        if self.heatmap_objectives:
            compare = self.model_training.choose_comparison(self.heatmap_objectives)
            heatmap_loss, heatmap_terms = compare(outputs.normalized_heatmap, inputs, shares[1:])
            loss = loss + heatmap_loss
            terms.update(heatmap_terms)
        if model.training:
            check_loss_trains(loss)
            is_finite = self.is_finite_loss(loss, inputs)
            self._term_count = self._term_count + is_finite.float()
            if "itm_loss" in terms:
                terms |= describe_negatives(outputs, len(inputs.get("false_input_ids", ())))
            terms |= self.model_training.describe_batch(inputs)
            for name, value in terms.items():
                self._term_sums[name] = self._term_sums[name] + torch.where(is_finite, value.detach(), 0.0)
            self.model_training.keep_features(outputs, inputs, is_finite)
        return (loss, outputs) if return_outputs else loss

    def _count_items(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """What means run over in a micro-batch: masked tokens (MLM), then the phrases of each heatmap objective."""
        device = inputs["input_ids"].device
        num_masked = torch.zeros(1, dtype=torch.int64, device=device)
        if "mlm_labels" in inputs:
            num_masked = (inputs["mlm_labels"] != IGNORED_LABEL).sum()[None]
        num_regions = self.heatmap_objectives.count_regions(inputs)
        return torch.cat([num_masked, num_regions.to(device)]).float()

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], torch.Tensor | None]:
        """Micro-batches of an optimizer step, with `region_mask`; their counts over all of them and all processes."""
        began = time.perf_counter()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.throughput.count_wait(time.perf_counter() - began)
        batches = [_unpack_regions(self._prepare_inputs(inputs), device) for inputs in batches]
        return batches, sum_counts([self._count_items(inputs) for inputs in batches], device) if batches else None

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """Rough count of a micro-batch, of which the log and `trainer_state.json` hold the sum (`total_flos`).

        Six operations per weight and token, forward and backward: patches in the image encoder, text tokens in the
        text encoder. The method of `Trainer` would take every pixel for a token.
        """
        return self.model_training.count_operations(self.accelerator.unwrap_model(self.model), inputs)

    def get_distillation_alpha(self) -> float:
        """Weight of the momentum model's targets at this point of the run: a linear ramp, then constant."""
        return self.model_training.get_distillation_alpha(self.state.epoch or 0.0)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of every loss term since the last training log, and the speed."""
        if "loss" in logs and self._term_sums:
            means = {name: total / self._term_count for name, total in self._term_sums.items()}
            *averages, num_batches = average_over_processes([*means.values(), self._term_count])
            if num_batches > 0:
                logs = {**logs, **dict(zip(means, averages, strict=True)), **self._measure_speed()}
            self._term_sums.clear()
            self._term_count = 0
        super().log(logs, start_time)

    def _measure_speed(self) -> dict[str, float]:
        """What [`ThroughputCallback`] measured since the last log; warns where the device waits for images."""
        speed = self.throughput.compute(self.args.device)
        if speed["data_wait_share"] > MOST_DATA_WAIT and self.args.device.type != "cpu":
            logger.warning_once(
                f"More than {MOST_DATA_WAIT:.0%} of the time the device waited for training images. Raise "
                f"`dataloader_num_workers` (now {self.args.dataloader_num_workers}), or set "
                "`use_reduced_images=True`; see docs/speed-and-memory.md."
            )
        return speed

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Pointing game of the present weights; returns and logs `{prefix}_pointing_game_accuracy` and more."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise ValueError("`eval_dataset` is None: give one to `AmcTrainer` or to `evaluate`.")
        if isinstance(dataset, dict):
            metrics = {}
            for name, part in dataset.items():
                metrics.update(self.evaluate(part, ignore_keys, f"{metric_key_prefix}_{name}"))
            return metrics
        scores = self.evaluate_phrases(dataset).metrics
        if self._evaluation_step != self.state.global_step:
            self._evaluations, self._evaluation_step = {}, self.state.global_step
        self._evaluations[metric_key_prefix.removeprefix("eval_")] = scores
        numbers = {name: value for name, value in scores.items() if isinstance(value, (int, float))}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in numbers.items()}
        matching_auc = self.evaluate_matching(dataset)
        if matching_auc is not None:
            metrics[f"{metric_key_prefix}_matching_auc"] = matching_auc
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def evaluate_phrases(self, dataset: Any) -> GroundingEvaluation:
        """Every phrase's point and hit, once each and in the order of the data set, on any number of processes."""
        return self._evaluate_with(evaluate_grounding, dataset)

    def evaluate_matching(self, dataset: Any) -> float | None:
        """Area under the ROC curve of the matching score ([`~evaluation.match_pairs.evaluate_matching`])."""
        return self._evaluate_with(evaluate_matching, dataset)

    def _evaluate_with(self, evaluate: Callable[..., Any], dataset: Any) -> Any:
        """What a function of `evaluation` returns for the present weights, on any number of processes."""
        return evaluate(
            build_full_model(self.accelerator.unwrap_model(self.model)),
            self.processing_class,
            dataset,
            batch_size=self.args.per_device_eval_batch_size,
            num_workers=self.args.dataloader_num_workers,
            rank=self.args.process_index,
            world_size=self.args.world_size,
        )

    def create_model_card(self, **kwargs) -> None:
        """Writes the card of the run's last weights."""
        if self.is_world_process_zero():
            self.write_card(Path(self.args.output_dir))

    def write_card(self, folder: Path) -> None:
        """Card of the present weights, which lie in `folder`; its numbers are those of an evaluation at this very
        step, or none."""
        of_model = self.model_training.describe(self.accelerator.unwrap_model(self.model))
        details = {**describe_run(self), **of_model, **self.card_details}
        if self._evaluation_step == self.state.global_step and self._evaluations:
            details["metrics_file"] = folder / "metrics.json"
            weights_sha256 = self._hash_saved_weights(folder)
            named = {} if weights_sha256 is None else {WEIGHTS_KEY: weights_sha256}
            evaluations = {name: {**scores, **named} for name, scores in self._evaluations.items()}
            write_json(details["metrics_file"], evaluations)
            details["weights_sha256"] = weights_sha256
        write_model_card(folder, ModelCard(**details))

    def _hash_saved_weights(self, folder: Path) -> str | None:
        """Hash of the weights that the run has just saved, or `None`, with a warning, where it continues without."""
        try:
            return self.model_training.hash_weights(self.accelerator.unwrap_model(self.model), folder)
        except (OSError, ValueError) as error:
            logger.warning(f"{folder / 'metrics.json'} does not name the weights that it was measured on. {error}")
            return None


def _unpack_regions(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with `region_mask`, on the device, in place of `packed_regions`, if it has these."""
    unpacked = dict(inputs)
    regions = unpacked.pop("packed_regions", None)
    return inputs if regions is None else {**unpacked, "region_mask": regions.to(device).unpack()}


def describe_negatives(outputs: Any, num_false_phrases: int) -> dict[str, torch.Tensor]:
    """What the log holds about the negative pairs of a micro-batch, as scalars.

    `constant_itm_loss` is the matching loss of a score that is the same for all pairs of this process: the share of
    them that match. `missing_negatives` is the number of negative pairs, of two, that a phrase has not because every
    candidate is true, mean per phrase; `excluded_negatives` the number of images that are not negatives because the
    phrase is true of them, mean per phrase.
    """
    num_phrases, num_pairs = len(outputs.image_index), len(outputs.itm_pair_logits)
    device = outputs.itm_pair_logits.device
    share = num_phrases / num_pairs
    entropy = sum(-part * math.log(part) for part in (share, 1 - share) if part > 0)
    num_missing = (1 + NEGATIVES_PER_PHRASE) * num_phrases + num_false_phrases - num_pairs
    described = {
        "constant_itm_loss": torch.full((), entropy, device=device),
        "missing_negatives": torch.full((), num_missing / num_phrases, device=device),
    }
    if outputs.excluded_negatives is not None:
        described["excluded_negatives"] = outputs.excluded_negatives
    return described


def build_model_training(model: Any, args: AmcConfig, processing_class: Any) -> ModelTraining:
    """How a run trains its model, by the kind of model.

    Args:
        model ([`AlbefForPreTraining`] or [`~grounders.grounder.Grounder`]): the model.
        args ([`AmcConfig`]): the run's settings.
        processing_class: the model's processor.
    """
    if isinstance(model, Grounder):
        return GrounderTraining(model, args, processing_class)
    return AlbefTraining(model, args)
