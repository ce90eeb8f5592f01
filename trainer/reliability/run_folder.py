# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The output folder of a run: which run it holds, what may change on a resume, and whether the disk has the space."""

import dataclasses
import errno
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainingArguments
from transformers.trainer_utils import SaveStrategy
from transformers.utils import logging

from albef_amc.checkpoint_files_albef import ADAPTER_CONFIG_FILE, CONFIG_FILE
from albef_amc.saving_albef import write_json
from albef_amc.trainer.amc_config import AmcConfig
from albef_amc.trainer.reliability.run_checkpoints import list_checkpoints

logger = logging.get_logger(__name__)

RECIPE_FILE, END_FILE = "recipe.json", "finished.json"
OPTIMIZER_STATES = 2  # numbers that AdamW keeps for every trainable one
# What does not decide the weights: sections of a recipe, and prefixes of names in its `training`.
FREE_SECTIONS = ("evaluation_data", "card", "machine", "output_dir")
FREE_SETTINGS = (
    "logging_",
    "report_to",
    "disable_tqdm",
    "run_name",
    "project",
    "trackio_",
    "log_level",
    "dataloader_num_workers",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "dataloader_pin_memory",
    "eval_",
    "per_device_eval_batch_size",
    "save_",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
    "push_to_hub",
    "hub_",
    "max_skipped_steps",
)
DEFAULTS = {item.name: item.default for item in dataclasses.fields(AmcConfig)}
# Of settings that every `recipe.json` has: their values in a run whose file lacks them.
UNNAMED_SETTINGS = {"use_text_ids": False}
LENGTHS = ("num_train_epochs", "max_steps")


def check_run_folder(output_dir: Path, recipe: Any, resume: bool) -> None:
    """Refuses a folder that holds another run, before anything is loaded.

    Args:
        output_dir (`Path`): folder of the run.
        recipe ([`~trainer.training_recipes.Recipe`]): what is to run.
        resume (`bool`): whether the run in the folder is to be resumed.

    Raises:
        ValueError: the folder holds a run and `resume` is False, or it holds one of another recipe: the differences
            are listed. A longer run, and settings that do not decide the weights, may differ.
    """
    stored_file = output_dir / RECIPE_FILE
    stored = _read_recipe(stored_file) if stored_file.is_file() else None
    differences = [] if stored is None else compare_recipes(stored, _to_plain(recipe))
    if not resume:
        holds_weights = any((output_dir / name).is_file() for name in (CONFIG_FILE, ADAPTER_CONFIG_FILE))
        holds_weights = holds_weights or bool(list_checkpoints(output_dir))
        if holds_weights or differences:
            raise ValueError(
                f"{output_dir} holds a run already. Choose another `--output-dir`, or resume it: `--resume`."
            )
        return
    if stored is None and list_checkpoints(output_dir):
        logger.warning(f"{output_dir} has no {RECIPE_FILE}: whether its run had the same settings is not known.")
    if differences:
        raise ValueError(
            f"{output_dir} holds a run of another recipe ({'; '.join(differences)}). Resume with its settings, or "
            "choose another `--output-dir`."
        )


def store_recipe(output_dir: Path, recipe: Any) -> None:
    """Writes the recipe of a run that starts or resumes into its folder, for [`check_run_folder`]."""
    (output_dir / END_FILE).unlink(missing_ok=True)
    write_json(output_dir / RECIPE_FILE, _to_plain(recipe))


def store_end(output_dir: Path, recipe: Any, result: Mapping[str, Any]) -> None:
    """Writes the last file of a run, which marks it as finished.

    Args:
        output_dir (`Path`): folder of the run, with its final weights.
        recipe ([`~trainer.training_recipes.Recipe`]): what has run.
        result (mapping): the numbers of the run, as JSON knows them.
    """
    write_json(output_dir / END_FILE, {"lengths": _get_lengths(recipe.training), "result": result})


def read_end(output_dir: Path, recipe: Any) -> dict[str, Any] | None:
    """The numbers of a finished run of this recipe and this length; `None` if there is something left to do."""
    weights = any((output_dir / name).is_file() for name in (CONFIG_FILE, ADAPTER_CONFIG_FILE))
    weights = weights and any(output_dir.glob("*.safetensors"))
    if not weights or not all((output_dir / name).is_file() for name in (END_FILE, RECIPE_FILE)):
        return None
    try:
        content = json.loads((output_dir / END_FILE).read_bytes())
        lengths, result = content["lengths"], dict(content["result"])
    except (ValueError, TypeError, KeyError) as error:
        logger.warning(f"{output_dir / END_FILE} cannot be read ({error}): the end of the run is done again.")
        return None
    if lengths != _get_lengths(recipe.training):
        return None
    return None if compare_recipes(_read_recipe(output_dir / RECIPE_FILE), _to_plain(recipe)) else result


def _get_lengths(training: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _to_number(training.get(name, DEFAULTS[name])) for name in LENGTHS}


def compare_recipes(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What differs between two recipes and decides the weights, as `name: old -> new`.

    Example:

    ```python
    >>> from albef_amc.trainer.reliability.run_folder import compare_recipes
    >>> compare_recipes({"training": {"seed": 1, "max_steps": 10}}, {"training": {"logging_steps": 5, "max_steps": 9}})
    ['max_steps: 10 -> 9 (shorter)', 'seed: 1 -> 42']

    ```
    """
    different = []
    for section in sorted({*stored, *wanted} - {"training", *FREE_SECTIONS}):
        old, new = stored.get(section), wanted.get(section)
        names = sorted({*old, *new}) if isinstance(old, dict) and isinstance(new, dict) else []
        if names:
            pairs = [(f"{section}.{name}", old.get(name), new.get(name)) for name in names]
        else:
            pairs = [(section, old, new)]
        different += [f"{name}: {before} -> {after}" for name, before, after in pairs if before != after]
    return different + _compare_training(stored.get("training") or {}, wanted.get("training") or {})


def _compare_training(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    stored, wanted = _rename_objectives(stored), _rename_objectives(wanted)
    different = []
    for name in sorted({*stored, *wanted}):
        old = stored.get(name, UNNAMED_SETTINGS.get(name, DEFAULTS.get(name)))
        new = wanted.get(name, DEFAULTS.get(name))
        if name.startswith(FREE_SETTINGS) or _to_number(old) == _to_number(new):
            continue
        if name not in LENGTHS:
            different.append(f"{name}: {old} -> {new}")
        elif _is_shorter(_to_number(old), _to_number(new)):
            different.append(f"{name}: {old} -> {new} (shorter)")
        else:
            logger.warning(f"{name} was {old} and is {new} now: from here on the learning rate follows {new}.")
    return different


def _rename_objectives(training: Mapping[str, Any]) -> dict[str, Any]:
    """`training` with `objectives` in place of its earlier name."""
    objectives = {**(training.get("extra_objectives") or {}), **(training.get("objectives") or {})}
    return {**training, "extra_objectives": None, "objectives": objectives or None}


def _to_number(value: Any) -> Any:
    """A number as a float, also where YAML reads it as text (1e-3); anything else as it is."""
    try:
        return float(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else value
    except ValueError:
        return value


def _is_shorter(old: Any, new: Any) -> bool:
    """Whether a length became less; `max_steps` of -1 means the epochs decide, which is another run."""
    return not all(isinstance(value, float) and value > 0 for value in (old, new)) or new < old


def _to_plain(recipe: Any) -> dict[str, Any]:
    plain = json.loads(json.dumps(dataclasses.asdict(recipe), default=str))
    named = {name: plain["training"].get(name, DEFAULTS[name]) for name in UNNAMED_SETTINGS}
    return {**plain, "training": {**plain["training"], **named}}


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        recipe = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}). Remove it if the folder is free for a new run.") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} is not a recipe. Remove it if the folder is free for a new run.")
    return recipe


def check_free_space(model: nn.Module, arguments: TrainingArguments, is_adapter: bool = False) -> None:
    """Compares what the checkpoints of a run will take, roughly, with what the disk has left.

    Counted are weights, buffers and AdamW's two numbers for every trainable one, for the checkpoints that are kept at
    a time and the one being written; without a `save_total_limit` for two, since how many there will be is not known.

    Raises:
        OSError: the disk has less.
    """
    folder = Path(arguments.output_dir).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    needed = estimate_run_bytes(model, arguments, len(list_checkpoints(folder)), is_adapter)
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"the checkpoints of this run need about {needed / 1e9:.3g} GB and the disk has {free / 1e9:.3g} GB left. "
            "Free space, choose another output folder, or lower `save_total_limit`",
            str(folder),
        )


def estimate_run_bytes(
    model: nn.Module, arguments: TrainingArguments, num_present: int = 0, is_adapter: bool = False
) -> int:
    """Bytes that a run will add to its folder at most at a time, roughly; see [`check_free_space`].

    Args:
        model (`nn.Module`): what is trained.
        arguments (`TrainingArguments`): the run's settings.
        num_present (`int`, defaults to 0): checkpoints in the folder already.
        is_adapter (`bool`, defaults to `False`): only what is trained is saved, its momentum copies and the buffers.
    """
    trainable = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    weights = 2 * trainable if is_adapter else sum(weight.nbytes for weight in model.parameters())
    weights += sum(buffer.nbytes for buffer in model.buffers())
    if arguments.save_strategy == SaveStrategy.NO:
        return weights
    checkpoint = weights + (0 if arguments.save_only_model else OPTIMIZER_STATES * trainable)
    kept = max(2, (arguments.save_total_limit or 0) + 1)
    return checkpoint * max(1, kept - num_present)
