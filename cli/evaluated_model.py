# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The model that an evaluation is of, and what its results say of it."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from albef_amc import AlbefForImageTextMatching, AlbefProcessor
from albef_amc.checkpoint_files_albef import CONFIG_FILE, check_settings, find_checkpoint, find_commit
from albef_amc.cli.checkpoint_loading import check_image_size, choose_device, load_checkpoint
from albef_amc.cli.switches import Switches
from albef_amc.evaluation.checkpoints import hash_checkpoint, is_albef_checkpoint, resolve_checkpoint
from albef_amc.evaluation.layer_choice import explain_layer
from albef_amc.evaluation.phrase_locators import EvaluatedModel
from albef_amc.evaluation.weight_hash import hash_weights
from albef_amc.evaluation.zero_shot_detectors import DETECTORS, ZeroShotDetector
from albef_amc.grounders import AutoGrounder, Grounder
from albef_amc.grounders.families import ALBEF, FAMILIES
from albef_amc.grounders.methods import GRAD_CAM
from albef_amc.messages_albef import suggest_nearest
from albef_amc.model_cards import WEIGHTS_KEY
from albef_amc.ranges_albef import check_choice


@dataclass(frozen=True)
class ModelChoice:
    """Which checkpoint, and what of it is explained.

    Args:
        checkpoint (`str`): folder or Hub repository, or `base`, the base model that ships.
        revision (`str`, *optional*): branch, tag or commit of the repository.
        layer (`int`, *optional*): layer that is explained, if not the default one.
        score, method (`str`, *optional*): as for [`~grounders.AutoGrounder`].
    """

    checkpoint: str
    revision: str | None = None
    layer: int | None = None
    score: str | None = None
    method: str | None = None

    def list_words(self) -> list[str]:
        """The options that were given, as words of a command."""
        options = {"revision": self.revision, "layer": self.layer, "score": self.score, "method": self.method}
        return [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode on its device.

    Args:
        model ([`~albef_amc.AlbefForImageTextMatching`] or [`~grounders.Grounder`]): the model.
        processor: its processor.
        device (`torch.device`): of the weights.
        switches ([`~cli.switches.Switches`]): what is applied around each evaluation.
        facts (`dict`): what results say of it: `model_type`, `weights_sha256`, what is explained (`score`, `layer`,
            `method`), and where it is known `commit`, the revision of a repository, or `source`, the `name` and
            `commit` of the checkpoint that a saved grounder was made from.
    """

    model: EvaluatedModel
    processor: Any
    device: torch.device
    switches: Switches
    facts: dict[str, Any]

    def explain(self, layer: int) -> "LoadedModel":
        """The same model with another layer explained."""
        facts = self.facts | {"layer": layer}
        return dataclasses.replace(self, model=explain_layer(self.model, layer), facts=facts)


def load_model(
    choice: ModelChoice, image_size: int | None, recipe_size: int | None, device: str | None, switches: Switches
) -> LoadedModel:
    """Loads what [`ModelChoice`] names: ALBEF with its own class, any other family with [`~grounders.AutoGrounder`].

    Args:
        choice ([`ModelChoice`]): checkpoint and what is explained.
        image_size (`int`, *optional*): image side in pixels that the user asked for; for ALBEF.
        recipe_size (`int`, *optional*): image side of the recipe, which ALBEF takes where the user asked for none.
        device (`str`, *optional*): torch device; a GPU where there is one by default.
        switches ([`~cli.switches.Switches`]): precision, packed and compiled layers.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: a checkpoint, layer, score or method that cannot be used, an option that is for ALBEF alone, or a
            device that this machine lacks.
    """
    check_image_size(image_size)
    name = resolve_checkpoint(choice.checkpoint)
    if choice.revision is not None and Path(name).is_dir():
        raise ValueError(
            f"`--revision {choice.revision}` is for Hub repositories, but {choice.checkpoint} is a folder. Leave it "
            "out."
        )
    if runs_as_albef(choice):
        return _load_albef(choice, recipe_size if image_size is None else image_size, device, switches)
    check_albef_options(choice.checkpoint, image_size, switches)
    chosen = choose_device(device)
    if _read_model_type(name, choice.revision) in DETECTORS:
        return _load_detector(choice, chosen, switches)
    grounder = load_grounder(choice)
    facts = grounder.describe() | {WEIGHTS_KEY: hash_weights(grounder.model)}
    own = place_model(grounder, chosen, switches)
    if not Path(name).is_dir():
        facts["commit"] = grounder.source["commit"]
    elif grounder.source["commit"] is not None:
        facts["source"] = grounder.source
    return LoadedModel(grounder, grounder.processor, chosen, own, facts)


def runs_as_albef(choice: ModelChoice) -> bool:
    """Whether ALBEF's own class runs a checkpoint; another method than Grad-CAM needs its grounder."""
    name = resolve_checkpoint(choice.checkpoint)
    return is_albef_checkpoint(name, choice.revision) and choice.method in (None, GRAD_CAM)


def load_albef(
    choice: ModelChoice, revision: str | None, image_size: int | None, device: str | None, switches: Switches
) -> tuple[AlbefForImageTextMatching, AlbefProcessor]:
    """An ALBEF on its device that explains the layer of the choice, with its switches on, and its processor.

    Args:
        choice ([`ModelChoice`]): checkpoint and what is explained.
        revision (`str`, *optional*): what of a repository is read, such as the commit that its revision stands for.
        image_size, device, switches: as for [`load_model`].

    Raises:
        FileNotFoundError, ValueError: as [`load_model`].
    """
    if choice.score is not None:
        check_choice("score", choice.score, [ALBEF.score_name])
    model, processor = load_checkpoint(choice.checkpoint, image_size, device, revision)
    if choice.layer is not None:
        explain_layer(model, choice.layer)
    switches.prepare(model)
    return model, processor


def load_grounder(choice: ModelChoice) -> Grounder:
    """The grounder of a checkpoint, as it is stored: on the CPU.

    Raises:
        FileNotFoundError, ValueError: as [`~grounders.AutoGrounder.from_pretrained`].
    """
    name = resolve_checkpoint(choice.checkpoint)
    return AutoGrounder.from_pretrained(name, choice.layer, choice.method, choice.revision, choice.score)


def place_model(model: torch.nn.Module, device: torch.device, switches: Switches) -> Switches:
    """Moves a model that is not run under autocast to its device, with weights in the precision of the switches.

    Returns:
        [`~cli.switches.Switches`]: those that are left to apply around its calls.
    """
    model.to(device, torch.bfloat16 if switches.precision == "bfloat16" else torch.float32)
    return dataclasses.replace(switches, precision="float32")


def _read_model_type(name: str, revision: str | None) -> str:
    """The type of a model that is not ALBEF.

    Raises:
        ValueError: a type that cannot be evaluated.
    """
    arguments = find_checkpoint(name, {} if revision is None else {"revision": revision})
    model_type = check_settings(name, [CONFIG_FILE], arguments).get(CONFIG_FILE, {}).get("model_type")
    known = [*dict.fromkeys(family.model_type for family in FAMILIES), *DETECTORS]
    if model_type not in known:
        nearest = suggest_nearest(str(model_type), known, otherwise="")
        raise ValueError(
            f"{name} is a model of type {model_type!r}, which cannot be evaluated. Types that can, detectors last: "
            f"{', '.join(known)}. {nearest}".rstrip()
        )
    return str(model_type)


def _load_detector(choice: ModelChoice, device: torch.device, switches: Switches) -> LoadedModel:
    for name in ("layer", "score", "method"):
        if getattr(choice, name) is not None:
            raise ValueError(
                f"`--{name}` is for heatmaps, but {choice.checkpoint} is a detector and returns boxes. Leave it out."
            )
    detector = ZeroShotDetector.from_pretrained(choice.checkpoint, choice.revision)
    facts = {WEIGHTS_KEY: hash_weights(detector.model), "model_type": detector.model.config.model_type}
    facts |= {} if detector.commit is None else {"commit": detector.commit}
    own = place_model(detector.model, device, switches)
    return LoadedModel(detector, detector.processor, device, own, facts)


def _load_albef(choice: ModelChoice, image_size: int | None, device: str | None, switches: Switches) -> LoadedModel:
    name = resolve_checkpoint(choice.checkpoint)
    commit = find_commit(name, find_checkpoint(name, {} if choice.revision is None else {"revision": choice.revision}))
    revision = None if choice.revision is None else commit
    model, processor = load_albef(choice, revision, image_size, device, switches)
    facts = {
        WEIGHTS_KEY: hash_checkpoint(choice.checkpoint, revision),
        "model_type": model.config.model_type,
        "score": ALBEF.score_name,
        "layer": model.config.explanation_layer,
        "method": GRAD_CAM,
        **({} if commit is None else {"commit": commit}),
    }
    return LoadedModel(model, processor, model.device, switches, facts)


def check_albef_options(checkpoint: str, image_size: int | None, switches: Switches) -> None:
    """Refuse options that are for ALBEF with its own class."""
    given = {
        "--image-size": image_size is not None,
        "--precision int8": switches.precision == "int8",
        "--pack-weights": switches.packs_weights,
        "--compile": switches.compiled,
    }
    for option, is_given in given.items():
        if is_given:
            raise ValueError(
                f"`{option}` is for checkpoints of ALBEF with the method {GRAD_CAM}; {checkpoint} is run by "
                "transformers' own class. Leave it out."
            )


__all__ = [
    "LoadedModel",
    "ModelChoice",
    "check_albef_options",
    "load_albef",
    "load_grounder",
    "load_model",
    "place_model",
    "runs_as_albef",
]
