# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What the settings of a run may be: types as they are declared, one table of ranges, and what excludes what."""

import dataclasses
import math
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, get_args

import torch
from accelerate import ParallelismConfig
from transformers import get_scheduler
from transformers.trainer_pt_utils import AcceleratorConfig

from albef_amc.configuration.setting_types import check_types
from albef_amc.ranges_albef import (
    BELOW_ONE,
    LARGE,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    TEXT_LENGTH,
    Range,
    check_choice,
    check_names,
    check_ranges,
    shorten_value,
)

MatmulPrecision = Literal["highest", "high", "medium"]

COMPILE_SETTINGS = ("torch_compile", "torch_compile_backend", "torch_compile_mode")
EXACT: MatmulPrecision = "highest"
INT32_COUNT = Range(1, LARGE, is_whole=True)
INT32_WHOLE = Range(0, LARGE, is_whole=True)
STEPS = Range(0, LARGE)  # below 1: a share of all steps
MASK_SIDE = Range(1, 4096, is_whole=True)
MOST_WORKERS = 1024
SEED = Range(0, 2**32 - 1, is_whole=True)  # what NumPy takes

TRAINING_RANGES = {
    # ours
    **dict.fromkeys(("amc_weight", "itc_weight", "itm_weight", "mlm_weight"), NOT_NEGATIVE),
    **dict.fromkeys(("mean_margin", "max_margin", "mean_weight", "max_weight"), NOT_NEGATIVE),
    "distillation_alpha": SHARE,
    "distillation_ramp_epochs": NOT_NEGATIVE,
    "mlm_probability": SHARE,
    "phrases_per_image": INT32_COUNT,
    "false_phrases_per_image": INT32_WHOLE,
    "shuffle_buffer": INT32_WHOLE,
    "max_length": TEXT_LENGTH,
    "mask_size": MASK_SIDE,
    "max_skipped_steps": INT32_COUNT,
    "min_learning_rate": NOT_NEGATIVE,
    "warmup_learning_rate": NOT_NEGATIVE,
    "warmup_intervals": INT32_WHOLE,
    "warmup_interval_steps": INT32_COUNT,
    "num_heatmaps_drawn": INT32_WHOLE,
    "early_stopping_patience": INT32_COUNT,
    # of `TrainingArguments`
    "num_train_epochs": Range(0, 1e9, is_above=True),
    "learning_rate": POSITIVE,
    "weight_decay": NOT_NEGATIVE,
    "adam_beta1": BELOW_ONE,
    "adam_beta2": BELOW_ONE,
    "adam_epsilon": POSITIVE,
    "max_grad_norm": NOT_NEGATIVE,
    "warmup_steps": STEPS,
    "neftune_noise_alpha": NOT_NEGATIVE,
    "per_device_train_batch_size": INT32_COUNT,
    "per_device_eval_batch_size": INT32_COUNT,
    "gradient_accumulation_steps": INT32_COUNT,
    "eval_accumulation_steps": INT32_COUNT,
    "torch_empty_cache_steps": INT32_COUNT,
    "logging_steps": STEPS,
    "eval_steps": STEPS,
    "eval_delay": STEPS,
    "save_steps": Range(0, LARGE, is_above=True),
    "save_total_limit": INT32_WHOLE,
    "seed": SEED,
    "data_seed": SEED,
    "local_rank": Range(-1, LARGE, is_whole=True),
    "dataloader_num_workers": Range(0, MOST_WORKERS, is_whole=True),
    "dataloader_prefetch_factor": INT32_COUNT,
    "ddp_bucket_cap_mb": INT32_COUNT,
    "ddp_timeout": INT32_COUNT,
}
NO_STEP_LIMIT = -1
# Names that `transformers` declares as plain text, or that a run of images and phrases can use only some of.
CHOICES: dict[str, tuple[Any, ...]] = {
    "include_num_input_tokens_seen": (True, False, "all", "non_padding", "no"),
    "train_sampling_strategy": ("random", "sequential"),  # the others sort rows by the length of their one text
}
# Settings that `TrainingArguments` replaces by objects of its own.
REPLACED = {"accelerator_config", "fsdp"}


def check_training_settings(settings: Any) -> None:
    """Refuses settings of a wrong type, and numbers that no run can use.

    Args:
        settings ([`AmcConfig`]): the run's settings.

    Raises:
        TypeError: a value of another type than is declared, such as the text "false" for a switch.
        ValueError: NaN, infinity, a number outside its range, or a name that is not among those to choose from.
    """
    check_types(settings, texts={item.name for item in dataclasses.fields(settings)} - REPLACED)
    if not isinstance(settings.accelerator_config, str | Mapping | AcceleratorConfig | None):
        raise TypeError(
            "`accelerator_config` must be keys with values or a JSON file, got "
            f"{shorten_value(settings.accelerator_config)}."
        )
    _check_enumerations(settings)
    _check_choices(settings)
    _check_accelerator(settings.accelerator_config)
    if settings.parallelism_config is not None and not isinstance(settings.parallelism_config, ParallelismConfig):
        raise TypeError(
            "`parallelism_config` must be a `ParallelismConfig` of accelerate, got "
            f"{shorten_value(settings.parallelism_config)}."
        )
    if settings.dataloader_persistent_workers and not settings.dataloader_num_workers:
        raise ValueError(
            "`dataloader_persistent_workers` needs workers: set `dataloader_num_workers` to 1 or more, or it to false."
        )
    pairs = settings.optim_args.replace(" ", "").split(",") if settings.optim_args else []
    if not all(name and value for name, _, value in (pair.partition("=") for pair in pairs)):
        raise ValueError(f"`optim_args` must be `name=value,name=value`, got {shorten_value(settings.optim_args)}.")
    check_ranges(settings, TRAINING_RANGES)
    if settings.max_steps != NO_STEP_LIMIT and settings.max_steps not in INT32_COUNT:
        raise ValueError(
            f"`max_steps` must be at least 1, or {NO_STEP_LIMIT} for as many as `num_train_epochs` has, got "
            f"{shorten_value(settings.max_steps)}."
        )
    if settings.label_smoothing_factor:
        raise ValueError(
            f"`label_smoothing_factor={settings.label_smoothing_factor}` has no effect: no objective reads it. Remove "
            "it; `distillation_alpha` softens the targets of the pre-training objectives."
        )
    if not all(isinstance(part, str) for part in settings.freeze or ()):
        raise TypeError(
            f"`freeze` must be a list of parts such as [vision_model], got {shorten_value(settings.freeze)}."
        )
    for name in ("lr_scheduler_kwargs", "objectives", "extra_objectives"):
        _check_numbers_inside(name, getattr(settings, name))
    _check_compilation_and_precision(settings)


def _check_compilation_and_precision(settings: Any) -> None:
    """Refuses compilation of the whole model, and `float32_matmul_precision` against `tf32`."""
    for name in COMPILE_SETTINGS:
        if getattr(settings, name):
            raise ValueError(
                f"`{name}={getattr(settings, name)}` compiles the whole model, but AMC differentiates its upper "
                "layers twice, which compiled code cannot be. Remove it, and call `model.compile_encoders()` "
                "before training: it compiles the layers below."
            )
    precision = settings.float32_matmul_precision
    if precision is None:
        return
    check_choice("float32_matmul_precision", precision, get_args(MatmulPrecision))
    if settings.tf32 is not None and settings.tf32 == (precision == EXACT):
        raise ValueError(
            f"`float32_matmul_precision={precision}` and `tf32={settings.tf32}` contradict each other: TF32 is on "
            'with "high" and "medium", and off with "highest". Give one of the two.'
        )


def _check_enumerations(settings: Any) -> None:
    """Refuses names that `transformers` does not know, such as schedulers and strategies, and names the setting."""
    for name, hint in typing.get_type_hints(type(settings)).items():
        for kind in typing.get_args(hint):
            if not isinstance(kind, type) or not issubclass(kind, Enum):
                continue
            known = [item.value for item in kind]
            value = getattr(settings, name)
            if not isinstance(value, kind):
                check_choice(name, value, known)


def _check_choices(settings: Any) -> None:
    """Refuses text that is not among what a setting declares in its metadata, or in [`CHOICES`]."""
    for item in dataclasses.fields(settings):
        known = CHOICES.get(item.name, item.metadata.get("choices"))
        value = getattr(settings, item.name)
        if known is not None and value is not None:
            check_choice(item.name, value, known)


def _check_accelerator(settings: Any) -> None:
    """Refuses options that Accelerate does not have, and values of another type, where they are given as a mapping."""
    if not isinstance(settings, Mapping):
        return
    known = [item.name for item in dataclasses.fields(AcceleratorConfig)]
    check_names(settings, known, "`accelerator_config`", "option")
    check_types(AcceleratorConfig(**settings), prefix="accelerator_config.")


def check_schedule(settings: Any) -> None:
    """Builds the schedule of a run for a parameter that nobody trains, to refuse options that it does not have.

    Args:
        settings ([`AmcConfig`]): the run's settings, once `TrainingArguments` has read them.

    Raises:
        ValueError: `lr_scheduler_kwargs` that do not fit `lr_scheduler_type`.
    """
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    try:
        get_scheduler(
            settings.lr_scheduler_type,
            optimizer,
            num_warmup_steps=0,
            num_training_steps=2,
            scheduler_specific_kwargs=settings.lr_scheduler_kwargs,
        )
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ValueError(
            f"`lr_scheduler_kwargs={shorten_value(settings.lr_scheduler_kwargs)}` does not fit "
            f"`lr_scheduler_type={settings.lr_scheduler_type.value}`: {error}"
        ) from error


def _check_numbers_inside(name: str, value: Any) -> None:
    """Refuses NaN and infinity inside a mapping of options."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_numbers_inside(f"{name}.{key}", item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"`{name}` must be a finite number, got {value}.")
