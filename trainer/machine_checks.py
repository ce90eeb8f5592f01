# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What a recipe asks of the machine and of its data, checked before a model or an image is loaded."""

import copy
import importlib.util
import os
from typing import Any

import pyarrow.compute as pc
import torch
from transformers import Trainer
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.utils import is_torch_bf16_gpu_available, logging

from albef_amc.configuration.installation import name_installation
from albef_amc.evaluation.grounding_metrics import POINTING_ACCURACY
from albef_amc.ranges_albef import check_names, shorten_value
from albef_amc.trainer.amc_config import AmcConfig
from albef_amc.trainer.callbacks import EVALUATION_SETTINGS
from albef_amc.trainer.data.mixtures import describe_size, list_parts
from albef_amc.trainer.data.phrase_epochs import iterate_phrase_lists
from albef_amc.trainer.training_recipes import Recipe

logger = logging.get_logger(__name__)

# Names of `report_to` whose package has another one.
TRACKER_PACKAGES = {"azure_ml": "azureml-mlflow", "comet_ml": "comet-ml", "flyte": "flytekit", "mlflow": "mlflow"}


def check_machine(recipe: Recipe) -> None:
    """Refuses a recipe that this machine or this installation cannot run.

    Call it before [`~trainer.training_recipes.build_arguments`], whose own errors on these points do not name the
    recipe's keys.

    Args:
        recipe ([`Recipe`]): the run.

    Raises:
        ValueError: more processes than GPUs, a precision that the device does not have, FSDP or DeepSpeed without a
            GPU, LoRA or DeepSpeed without its package, a tracker that is not installed.
    """
    training = recipe.training
    if recipe.peft is not None:
        check_package("peft", "section `peft`")
    _check_gpus(training)
    _check_sharding(training)
    _check_precision(training)
    _check_trackers(training.get("report_to"))


def check_optimizer(arguments: AmcConfig) -> None:
    """Refuses an optimizer whose package is missing; warns where `optim_args` has no effect.

    Args:
        arguments ([`AmcConfig`]): settings of the run.

    Raises:
        ValueError: the package of `optim` is not installed, or `optim_args` has a value that cannot be read.
    """
    wanted = f"`optim={arguments.optim.value}`"
    try:
        _, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
        without = copy.copy(arguments)
        without.optim_args = None
        _, plain = Trainer.get_optimizer_cls_and_kwargs(without)
    except ImportError as error:
        raise ValueError(f"{wanted}: {error}") from error
    except ValueError as error:
        if "model" in str(error):  # some optimizers look at the model first, which is not loaded yet
            return
        raise ValueError(f"{wanted} with `optim_args={arguments.optim_args}`: {error}") from error
    if arguments.optim_args and options == plain:
        logger.warning(f"`optim_args={arguments.optim_args}` changes nothing: {wanted} does not read it.")


def check_evaluation_settings(recipe: Recipe, arguments: AmcConfig) -> None:
    """Refuses settings of evaluations that a recipe does not have, and a metric that they do not give.

    Args:
        recipe ([`Recipe`]): the run; read is whether it has `evaluation_data`.
        arguments ([`AmcConfig`]): its settings.

    Raises:
        ValueError: the setting is named.
    """
    asked = [name for name in ("eval_on_start", *EVALUATION_SETTINGS) if getattr(arguments, name)]
    asked += ["eval_strategy"] if arguments.eval_strategy != "no" else []
    if asked and not recipe.evaluation_data:
        raise ValueError(f"`{asked[0]}` needs evaluations: give the recipe a section `evaluation_data`.")
    metric = arguments.metric_for_best_model
    if metric is not None and metric.removeprefix("eval_") != POINTING_ACCURACY and recipe.evaluation_data:
        raise ValueError(f"`metric_for_best_model` must be `{POINTING_ACCURACY}`, got {shorten_value(metric)}.")


def check_package(package: str, asked_by: str, extra: str | None = None) -> None:
    """Refuses a run without a package that its recipe needs.

    Args:
        package (`str`): name to import.
        asked_by (`str`): what of the recipe needs it.
        extra (`str`, *optional*): the extra of albef-amc that installs it; the package's name by default.

    Raises:
        ValueError: the package is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"{asked_by} needs {package}, which is not installed: {name_installation(extra or package)}.")


def _uses_gpu(training: dict[str, Any]) -> bool:
    return torch.cuda.is_available() and not training.get("use_cpu")


def _check_gpus(training: dict[str, Any]) -> None:
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if _uses_gpu(training) and processes > torch.cuda.device_count():
        raise ValueError(
            f"{processes} processes were started on a machine with {torch.cuda.device_count()} GPUs. Start with "
            f"`--num_processes {torch.cuda.device_count()}` and a larger `gradient_accumulation_steps`, or set "
            "`use_cpu=true`."
        )


def _check_sharding(training: dict[str, Any]) -> None:
    for name, package in (("deepspeed", "deepspeed"), ("fsdp", "torch")):
        by_launcher = os.environ.get(f"ACCELERATE_USE_{name.upper()}", "false").lower() in ("1", "true")
        if not training.get(name) and not by_launcher:
            continue
        asked_by = f"`training.{name}`" if training.get(name) else f"the launcher's {name} configuration"
        check_package(package, asked_by)
        if not _uses_gpu(training):
            raise ValueError(
                f"{asked_by} needs a GPU: without one Accelerate would ignore it silently. Use "
                "`configuration/accelerate/cpu.yaml`, or remove it."
            )


def _check_precision(training: dict[str, Any]) -> None:
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched == "fp16":
        raise ValueError("`mixed_precision: fp16` of the launcher is refused: gradients of AMC underflow. Use bf16.")
    wanted = training.get("bf16") or training.get("bf16_full_eval") or launched == "bf16"
    if wanted and not training.get("use_cpu") and not is_torch_bf16_gpu_available():
        device = "this GPU does not have it" if torch.cuda.is_available() else "there is no GPU"
        raise ValueError(
            f"`bf16` was asked for, but {device}. Set `bf16=false`, or `use_cpu=true` for bf16 on the CPU (slow)."
        )


def _check_trackers(report_to: Any) -> None:
    if not isinstance(report_to, str | list | tuple | None):
        raise TypeError(f"`report_to` must be the name of a tracker, or a list of names, got {report_to!r}.")
    names = [report_to] if isinstance(report_to, str) else list(report_to or ())
    installed = get_available_reporting_integrations()
    for name in names:
        if name in ("all", "none", *installed):
            continue
        check_names([name], [*INTEGRATION_TO_CALLBACK], "`report_to`", "tracker")
        raise ValueError(
            f"`report_to`: the tracker `{name}` is not installed: `pip install {TRACKER_PACKAGES.get(name, name)}`, "
            "or set `report_to=none`."
        )


def warn_of_other_batch(recipe: Recipe, arguments: AmcConfig) -> None:
    """Warns, with the size of a step, where a recipe runs on another number of processes than it was made for.

    Args:
        recipe ([`Recipe`]): the run; read is `machine.num_processes`.
        arguments ([`AmcConfig`]): its settings.
    """
    planned, running = recipe.machine.get("num_processes"), arguments.world_size
    if planned in (None, running) or arguments.process_index > 0:
        return
    images = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    steps, rest = divmod(arguments.gradient_accumulation_steps * planned, running)
    advice = "" if rest else f" Set `gradient_accumulation_steps={steps}` for the same step."
    logger.warning(
        f"The recipe is made for {planned} processes and this run has {running}: a step has {images * running} images "
        f"instead of {images * planned}.{advice}"
    )


def check_regions(rows: Any, region_source: str) -> None:
    """Refuses data without a single region: AMC would learn nothing from it.

    Args:
        rows (data set of `datasets`, sequence of `dict` or [`~trainer.data.mixtures.Mixture`]): training rows; images
            are not read, and no more rows than it takes to find a region.
        region_source (`str`): `"boxes"`, `"polygons"` or `"masks"`.

    Raises:
        ValueError: no phrase of any row has the annotation.
    """
    if not any(_has_region(part, region_source) for part in list_parts(rows)):
        raise ValueError(
            f"None of the phrases of the {describe_size(rows)} has `{region_source}`: AMC has nothing to learn "
            "from. Set `region_source` to what the data has, or `amc_weight=0` to train without AMC."
        )


def _has_region(rows: Any, region_source: str) -> bool:
    """Whether any phrase of a data set has the annotation; of a table nothing else is read."""
    if not hasattr(rows, "with_format"):
        return any(phrase.get(region_source) for row in rows for phrase in row["phrases"] or ())
    regions = (pc.struct_field(phrases.flatten(), region_source) for phrases in iterate_phrase_lists(rows))
    return any(pc.any(pc.greater(pc.list_value_length(one), 0)).as_py() for one in regions)
