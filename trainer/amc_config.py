# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Settings of a training run: those of `transformers`' Trainer, and the objectives' margins, weights and choices."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from transformers import TrainingArguments
from transformers.utils import logging

from albef_amc.evaluation.grounding_metrics import POINTING_ACCURACY
from albef_amc.explanation_albef import HeatmapDenominator
from albef_amc.parallel_albef import CandidateScope
from albef_amc.pretraining_losses_albef import DistillationAxis, NegativeSampling
from albef_amc.ranges_albef import check_choice
from albef_amc.trainer.data.augmentation import FLIPS
from albef_amc.trainer.data.data_collator import BOX_CHOICES, REGION_SOURCES
from albef_amc.trainer.data.phrase_epochs import EPOCH_UNITS
from albef_amc.trainer.objectives.amc import MEAN_REDUCTIONS, AttentionMaskConsistencyLoss
from albef_amc.trainer.objectives.weighted_objectives import HeatmapObjectives, build_objective
from albef_amc.trainer.schedules import SCHEDULES
from albef_amc.trainer.setting_checks import check_schedule, check_training_settings
from albef_amc.trainer.sharding import prepare_deepspeed

logger = logging.get_logger(__name__)

# Option of `objectives.amc`: the field that is its short form.
AMC_SHORT_FORM = {
    "weight": "amc_weight",
    "mean_margin": "mean_margin",
    "max_margin": "max_margin",
    "mean_weight": "mean_weight",
    "max_weight": "max_weight",
    "mean_reduction": "amc_mean_reduction",
}


@dataclass
class AmcConfig(TrainingArguments):
    r"""Arguments of [`AmcTrainer`]. Defaults are the published values (Yang et al., CVPR 2023, and its released code).

    Five options choose between the correct mathematics (default) and what the released code computes:
    `amc_mean_reduction="batch"`, `distillation_axis="sequence"`, `heatmap_denominator="padded"`,
    `candidate_scope="local"`, `flip="released"`.

    Args:
        amc_weight, itc_weight, itm_weight, mlm_weight (`float`, default to 1): weights of the four objectives in the
            loss; an objective of weight 0 is not computed. `amc_weight=0` is the baseline without AMC.
        mean_margin (`float`, defaults to 0.1), max_margin (`float`, defaults to 0.5), mean_weight (`float`, defaults
            to 0.2), max_weight (`float`, defaults to 0.8), amc_mean_reduction (`str`, defaults to `"sample"`): with
            `amc_weight` the short form of `objectives.amc`; see [`~trainer.AttentionMaskConsistencyLoss`].
        objectives (`dict`, *optional*): objectives on heatmaps (docs/objectives.md), name -> weight, or name ->
            options with `weight` among them: `{"amc": {"mean_margin": 0.2}, "dice": 0.5}`. Where `amc` is not among
            them, its short form decides.
        extra_objectives (`dict`, *optional*): earlier name of `objectives`.
        heatmap_denominator (`str`, defaults to `"kept"`): tokens that divide the heatmap's sum over tokens.
        distillation_axis (`str`, defaults to `"vocabulary"`): axis of the masked-word distillation.
        candidate_scope (`str`, defaults to `"joint"`): with several processes, contrastive candidates and hard
            negatives come from the batches of all of them; `"local"`: from each one's own, as in the released code.
        use_text_ids (`bool`, defaults to `True`): an image that holds the same cleaned phrase is a positive of the
            contrastive loss and never a negative; with `False`, as in the released code, it may be one. Phrases and
            paraphrases of a row count, also those that were not drawn, and its `true_phrases`. The log has
            `excluded_negatives`: images of the joint batch that this rules out, mean per phrase.
        negative_sampling (`str`, defaults to `"hard"`): negatives are drawn by similarity (`"hard"`), as published, or
            with equal probabilities (`"uniform"`).
        false_phrases_per_image (`int`, defaults to 0): at most so many of the `false_phrases` of an image's row are
            drawn, each a further pair that does not match.
        distillation_alpha (`float`, *optional*): weight of the momentum model's targets; the model's by default.
        distillation_ramp_epochs (`float`, defaults to 1): epochs over which that weight rises linearly from 0.
        mlm_probability (`float`, *optional*): share of tokens to predict; the model's by default.
        phrases_per_image (`int`, *optional*): phrases drawn of each image in a step; all by default.
        epoch_unit (`str`, defaults to `"image"`): what an epoch sees once: every `"image"`, or every `"phrase"` as in
            the released data sets, an image then coming as often as its phrases need.
        use_paraphrases (`bool`, defaults to `False`): adds one paraphrase of each drawn phrase that has any, as a
            further phrase with the same region. The objective `selfeq` needs it.
        group_by_image (`bool`, defaults to `False`): merges training rows of the same image into one before training,
            for data sets with one row per phrase. Of streamed ones, rows that follow each other.
        shuffle_buffer (`int`, defaults to 0): images of a shard that are mixed where the data is streamed; 0: only the
            order of shards is drawn.
        max_length (`int`, defaults to 25): tokens of a phrase at most in training, [CLS] included.
        mask_size (`int`, *optional*): side of the region masks in pixels; the image size by default.
        region_source (`str`, defaults to `"boxes"`): `"boxes"`, `"polygons"` or `"masks"`.
        box_choice (`str`, defaults to `"all"`): `"all"`, or `"random"` for one random box of a phrase as published.
        max_skipped_steps (`int`, defaults to 5): steps in a row whose loss or gradient is not finite, after which the
            run stops.
        use_augmentation (`bool`, defaults to `True`): flips, gray and colour jitter that the region follows.
        flip (`str`, defaults to `"safe"`): rows that may be flipped: `"safe"`: those whose texts name no side;
            `"released"`: all of them, as in the released code. See [`~trainer.GroundingAugmentation`].
        use_reduced_images (`bool`, defaults to `False`): training images are reduced to the model's size before they
            are augmented, by a faster resize: workers prepare more images per second, with slightly different pixels
            (docs/speed-and-memory.md). Evaluation is not affected.
        lr_scheduler (`str`, *optional*): `"albef_cosine"`, the published [`~trainer.schedules.AlbefCosine`]; what
            `lr_scheduler_type` and `warmup_steps` set by default.
        min_learning_rate, warmup_learning_rate (`float`, default to 1e-6), warmup_intervals (`int`, defaults to 20),
            warmup_interval_steps (`int`, defaults to 100): settings of `albef_cosine`.
        float32_matmul_precision (`str`, *optional*): `"highest"`, `"high"` or `"medium"`, for
            `torch.set_float32_matmul_precision` in this process; as it is by default. `tf32` of `TrainingArguments`
            sets the same for NVIDIA GPUs only: on is `"high"`, off `"highest"`. Give one of the two.
        freeze (list of `str`, *optional*): parts that are not trained, or prefixes of parameter names; see
            [`~trainer.freezing.freeze_parameters`].
        use_momentum_updates (`bool`, defaults to `True`): momentum weights follow the online ones; else they stay.
        num_heatmaps_drawn (`int`, defaults to 0): images of each evaluation data set whose heatmaps are drawn at every
            evaluation, into `<output_dir>/heatmaps/step-N.png`.
        keep_best (`bool`, defaults to `False`): keeps the model with the best pointing accuracy so far, per evaluation
            data set, in `<output_dir>/best-<name>`.
        early_stopping_patience (`int`, *optional*): stops the run after this many evaluations in a row without a
            better `metric_for_best_model`, by default `pointing_game_accuracy`. With several evaluation data sets name
            one: `<name>_pointing_game_accuracy`.

    Raises:
        TypeError: a value of another type than its field has, such as the text "false" for a switch.
        ValueError: a value outside its range (NaN and infinity are in none), half precision (`fp16`), which AMC does
            not support: use `bf16`, or `torch_compile`: call `model.compile_encoders()`. Settings of DeepSpeed under
            which momentum weights would be bfloat16.
        NotImplementedError: DeepSpeed ZeRO-3, which cannot differentiate twice.
    """

    amc_weight: float = 1.0
    itc_weight: float = 1.0
    itm_weight: float = 1.0
    mlm_weight: float = 1.0
    mean_margin: float = AttentionMaskConsistencyLoss.mean_margin
    max_margin: float = AttentionMaskConsistencyLoss.max_margin
    mean_weight: float = AttentionMaskConsistencyLoss.mean_weight
    max_weight: float = AttentionMaskConsistencyLoss.max_weight
    amc_mean_reduction: str = AttentionMaskConsistencyLoss.mean_reduction
    objectives: dict[str, Any] | None = None
    extra_objectives: dict[str, Any] | None = None
    heatmap_denominator: str = "kept"
    distillation_axis: str = "vocabulary"
    candidate_scope: str = "joint"
    use_text_ids: bool = True
    negative_sampling: str = "hard"
    false_phrases_per_image: int = 0
    distillation_alpha: float | None = None
    distillation_ramp_epochs: float = 1.0
    mlm_probability: float | None = None
    phrases_per_image: int | None = None
    epoch_unit: str = "image"
    use_paraphrases: bool = False
    group_by_image: bool = False
    shuffle_buffer: int = 0
    max_length: int = 25
    mask_size: int | None = None
    region_source: str = "boxes"
    box_choice: str = "all"
    max_skipped_steps: int = 5
    use_augmentation: bool = True
    flip: str = "safe"
    use_reduced_images: bool = False
    lr_scheduler: str | None = None
    min_learning_rate: float = 1e-6
    warmup_learning_rate: float = 1e-6
    warmup_intervals: int = 20
    warmup_interval_steps: int = 100
    float32_matmul_precision: str | None = None
    freeze: list[str] | None = None
    use_momentum_updates: bool = True
    num_heatmaps_drawn: int = 0
    keep_best: bool = False
    early_stopping_patience: int | None = None
    learning_rate: float = 1e-5
    weight_decay: float = 0.02
    max_grad_norm: float = field(default=0.0, metadata={"help": "0: no clipping, as published."})
    remove_unused_columns: bool = False
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Without effect: losses that are not finite are never logged."}
    )
    ddp_broadcast_buffers: bool | None = False
    ddp_find_unused_parameters: bool | None = True

    def __post_init__(self):
        if self.debug is None:  # from `HfArgumentParser`, which gives None for lists that have no default
            self.debug = ""
        check_training_settings(self)
        if self.remove_unused_columns:
            raise ValueError(
                "`remove_unused_columns=True` is refused: it would remove `image` and `phrases`, of which "
                "the collator makes what the model reads. Leave it False."
            )
        has_best = self.load_best_model_at_end or self.save_strategy == "best" or self.early_stopping_patience
        if has_best and self.metric_for_best_model is None:
            self.metric_for_best_model = POINTING_ACCURACY  # the Trainer's own default, a loss, is not evaluated
        super().__post_init__()
        prepare_deepspeed(self)
        for name, choices in (
            ("heatmap_denominator", get_args(HeatmapDenominator)),
            ("distillation_axis", get_args(DistillationAxis)),
            ("candidate_scope", get_args(CandidateScope)),
            ("negative_sampling", get_args(NegativeSampling)),
            ("amc_mean_reduction", MEAN_REDUCTIONS),
            ("region_source", REGION_SOURCES),
            ("box_choice", BOX_CHOICES),
            ("epoch_unit", EPOCH_UNITS),
            ("flip", FLIPS),
            ("lr_scheduler", (None, *SCHEDULES)),
        ):
            check_choice(name, getattr(self, name), choices)
        if self.lr_scheduler is not None and self.warmup_steps:
            raise ValueError(
                f"`warmup_steps={self.warmup_steps}` means nothing to `lr_scheduler={self.lr_scheduler}`. Set "
                "`warmup_intervals` and `warmup_interval_steps`, or `lr_scheduler=null` for `lr_scheduler_type`."
            )
        if self.lr_scheduler is None:
            check_schedule(self)
        if self.fp16:
            raise ValueError("`fp16=True` is refused: gradients of AMC underflow in half precision. Use `bf16=True`.")

        if self.extra_objectives and self.process_index == 0:
            logger.warning(
                "`extra_objectives` is the earlier name of `objectives`, which takes `amc` as well: rename it."
            )
        self._fill_short_form()
        if not self.build_heatmap_objectives() and not self.pretraining_objectives:
            raise ValueError("`amc_weight`, `itc_weight`, `itm_weight` and `mlm_weight` are all 0: nothing to learn.")
        self._check_batches()
        self._check_evaluation()

    def _check_batches(self) -> None:
        """Rows of a batch are images, results are phrases: nobody may split a batch by its first dimension."""
        if self.accelerator_config.dispatch_batches:
            raise ValueError(
                "`accelerator_config` has `dispatch_batches=True`, which cuts phrases and images at the same row. "
                "Leave it out: every process reads its own rows."
            )
        self.accelerator_config.dispatch_batches = False
        self.accelerator_config.non_blocking = self.dataloader_pin_memory  # such copies wait for nothing

    def _check_evaluation(self) -> None:
        if self.save_strategy == "best" and self.eval_strategy == "no":
            raise ValueError('`save_strategy="best"` needs evaluations: set `eval_strategy` to "steps" or "epoch".')
        if self.early_stopping_patience is None:
            return
        if self.eval_strategy == "no":
            raise ValueError('`early_stopping_patience` needs evaluations: set `eval_strategy` to "steps" or "epoch".')
        self.restore_callback_states_from_checkpoint = True  # so that a resumed run stops at the same step

    @property
    def pretraining_objectives(self) -> tuple[str, ...]:
        """Pre-training objectives with a weight, as the model's `forward` takes them."""
        return tuple(name for name in ("itc", "itm", "mlm") if getattr(self, f"{name}_weight") > 0)

    def _list_objectives(self) -> dict[str, Any]:
        """`objectives` under both of its names."""
        objectives, earlier = self.objectives or {}, self.extra_objectives or {}
        twice = [name for name in earlier if name in objectives]
        if twice:
            raise ValueError(
                f"{twice[0]!r} is in `objectives` and in `extra_objectives`, its earlier name: name it once."
            )
        return {**earlier, **objectives}

    def _fill_short_form(self) -> None:
        """Sets the short form to what `objectives.amc` has, so that each option has one value."""
        given = self._list_objectives().get("amc", {})
        weight, objective = build_objective("amc", given)
        for option in given if isinstance(given, Mapping) else ("weight",):
            name = AMC_SHORT_FORM[option]
            value, short = weight if option == "weight" else getattr(objective, option), getattr(self, name)
            if short not in (value, type(self).__dataclass_fields__[name].default):
                raise ValueError(
                    f"`{name}={short}` is the short form of `objectives.amc.{option}`, which is {value}: give one."
                )
            setattr(self, name, value)

    def build_heatmap_objectives(self) -> HeatmapObjectives:
        """Every objective on heatmaps with a weight: AMC first, then the others in their order.

        Raises:
            ValueError: an unknown name or option, or an objective that needs paraphrases without `use_paraphrases`.
        """
        amc = {option: getattr(self, name) for option, name in AMC_SHORT_FORM.items()}
        settings = {"amc": amc} | self._list_objectives() | {"amc": amc}
        built = [build_objective(name, setting) for name, setting in settings.items()]
        weighted = [(weight, objective) for weight, objective in built if weight > 0]
        for _, objective in weighted:
            if "paraphrase_index" in objective.inputs and not self.use_paraphrases:
                raise ValueError(f"`objectives`: {objective.name!r} compares paraphrases. Set `use_paraphrases=True`.")
        return HeatmapObjectives(weighted)
