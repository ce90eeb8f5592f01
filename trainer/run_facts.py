# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What a run knows about itself, for its card: time, hardware, versions, resolved settings."""

import dataclasses
import platform
import shlex
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState

from albef_amc.datasets_scripts import BUILDERS
from albef_amc.evaluation.checkpoints import describe_checkpoint
from albef_amc.model_cards import CHECKPOINT_WORD
from albef_amc.model_cards.front_matter import hide_folder, is_place
from albef_amc.trainer.amc_config import AmcConfig
from albef_amc.trainer.training_recipes import Recipe

CPU_FILE = Path("/proc/cpuinfo")
SOFTWARE = ("torch", "transformers")
# Arguments of builders that are folders of files, not what is in them.
PLACES = ("cache_dir",)
# Settings of `TrainingArguments` that decide what is learned; every setting that `AmcConfig` adds is one.
TRAINER_SETTINGS = (
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "weight_decay",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "adam_beta1",
    "adam_beta2",
    "max_grad_norm",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "bf16",
    "seed",
)
OWN_SETTINGS = tuple(
    item.name
    for item in dataclasses.fields(AmcConfig)
    if item.name not in {inherited.name for inherited in dataclasses.fields(TrainingArguments)}
)
CARD_ARGUMENTS = (*OWN_SETTINGS, *TRAINER_SETTINGS)


class TrainingClock(TrainerCallback, ExportableState):
    """Measures the wall-clock seconds of a training, over all its resumptions: the Trainer's state keeps them."""

    def __init__(self):
        self.seconds_before = 0.0
        self._began: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds so far; those of an earlier process count up to its last checkpoint."""
        running = 0.0 if self._began is None else time.perf_counter() - self._began
        return self.seconds_before + running

    def state(self) -> dict:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": {"seconds_before": self.seconds}}

    def on_train_begin(self, args, state, control, **kwargs):
        """Starts the clock, at the time that a resumed state holds."""
        stored = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self.seconds_before = stored["attributes"]["seconds_before"] if state.global_step else 0.0
        self._began = time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs):
        """Stops the clock."""
        self.seconds_before, self._began = self.seconds, None


def describe_run(trainer: Trainer) -> dict[str, Any]:
    """Fields of a card that a run knows by itself.

    Args:
        trainer (`Trainer`): the run; a [`TrainingClock`] is among its callbacks.
    """
    clocks = (callback for callback in trainer.callback_handler.callbacks if isinstance(callback, TrainingClock))
    return {
        "model_name": Path(trainer.args.output_dir).resolve().name,
        "evaluation_dataset": "the run's evaluation data",
        "hardware": describe_device(trainer.args.device),
        "num_processes": trainer.args.world_size,
        "training_seconds": next(clocks).seconds,
        "software": describe_software(),
        "training_arguments": {"steps": trainer.state.global_step, **list_card_arguments(trainer.args)},
    }


def describe_device(device: torch.device) -> str:
    """Name of the hardware of a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    lines = CPU_FILE.read_text().splitlines() if CPU_FILE.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"CPU ({names[0] if names else platform.processor() or platform.machine()})"


def describe_software() -> dict[str, str]:
    """Versions of the libraries that decide the numbers."""
    return {name: version(name) for name in SOFTWARE}


def list_card_arguments(args: TrainingArguments) -> dict[str, Any]:
    """The resolved settings of a run that a card shows."""
    values = args.to_dict()
    return {name: values[name] for name in CARD_ARGUMENTS}


def describe_recipe(recipe: Recipe) -> dict[str, Any]:
    """Fields of a card that a recipe knows; those of its own section `card` go before the others."""
    parts = recipe.train_data if isinstance(recipe.train_data, list) else [recipe.train_data]
    details: dict[str, Any] = {
        "datasets": list(dict.fromkeys(hide_dataset(part["name"], "train_data") for part in parts)),
        "base_model": None if recipe.model.checkpoint is None else describe_checkpoint(recipe.model.checkpoint),
    }
    if recipe.evaluation_data is not None:
        options = dict(recipe.evaluation_data)
        name, split = options.pop("name"), options.pop("split")
        details |= {
            "evaluation_dataset": hide_dataset(name, "evaluation_data"),
            "evaluation_split": split,
            "evaluation_command": build_evaluation_command(name, split, options),
        }
    return {**details, **recipe.card}


def build_evaluation_command(
    dataset: str,
    split: str,
    options: Mapping[str, Any],
    image_size: int | None = None,
    is_recipe: bool = False,
    switches: Sequence[str] = (),
) -> str:
    """The command that scores a checkpoint on a data set, as a card shows it: folders of one machine are hidden.

    Args:
        dataset (`str`): builder, folder or repository; a recipe with `is_recipe`.
        split (`str`): split.
        options (mapping): arguments of the builder.
        image_size (`int`, *optional*): image side in pixels, if not the checkpoint's or the recipe's.
        is_recipe (`bool`, defaults to `False`): `dataset` is a recipe of `configuration/evaluation`.
        switches (sequence of `str`, *optional*): further words of the command, such as `--precision bfloat16`.

    Example:

    ```python
    >>> from albef_amc.trainer.run_facts import build_evaluation_command
    >>> build_evaluation_command("coco_phrases", "test", {"data_root": "/data/photos", "seed": 1})
    'albef-amc evaluate CHECKPOINT coco_phrases --split test --data data_root=DATA_ROOT --data seed=1'

    ```
    """
    words = ["albef-amc", "evaluate", CHECKPOINT_WORD, hide_dataset(dataset, "dataset")]
    words += [split] if is_recipe else ["--split", split]
    for name, value in options.items():
        if name not in PLACES:
            words += ["--data", f"{name}={hide_folder(value, name, options.get('data_root'))}"]
    words += [] if image_size is None else ["--image-size", str(image_size)]
    return shlex.join([*words, *switches])


def hide_dataset(name: str, word: str) -> str:
    """The name of a data set as a card shows it: of a folder of one machine `word` in capitals."""
    is_folder = is_place(name) or (name not in BUILDERS and Path(name).is_dir())
    return word.upper() if is_folder else name
