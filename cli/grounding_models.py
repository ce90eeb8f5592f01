# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The models that `albef-amc ground` runs: ALBEF by its own `ground`, other types by their grounder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from albef_amc import AlbefForImageTextMatching, AlbefGroundingOutput, AlbefProcessor
from albef_amc.checkpoint_files_albef import find_checkpoint, find_commit
from albef_amc.cli.checkpoint_loading import choose_device
from albef_amc.cli.evaluated_model import (
    ModelChoice,
    check_albef_options,
    load_albef,
    load_grounder,
    place_model,
    runs_as_albef,
)
from albef_amc.cli.switches import Switches
from albef_amc.evaluation.checkpoints import resolve_checkpoint
from albef_amc.evaluation.phrase_coverage import classify_word, find_unknown_words
from albef_amc.grounders import Grounder
from albef_amc.grounders.families import ALBEF
from albef_amc.grounders.methods import GRAD_CAM
from albef_amc.text_processing_albef import clean_caption


@dataclass(frozen=True)
class ModelOptions:
    """Options of the command that concern models.

    Args:
        layer, score, method, revision (*optional*): as for [`~grounders.AutoGrounder.from_pretrained`].
        image_size (`int`, *optional*): image side in pixels, if not the checkpoint's; for ALBEF.
        device (`str`, *optional*): torch device; a GPU where there is one by default.
        switches ([`~cli.switches.Switches`]): precision and packed weights.
    """

    layer: int | None = None
    score: str | None = None
    method: str | None = None
    revision: str | None = None
    image_size: int | None = None
    device: str | None = None
    switches: Switches = Switches()


class GroundingModel(Protocol):
    """What the command needs of a model.

    Args:
        checkpoint (`str`): as the user named it.
        grounds_batches (`bool`): several photographs are faster together than one after the other.
    """

    checkpoint: str
    grounds_batches: bool

    def describe(self) -> dict[str, Any]:
        """Checkpoint, resolved commit, and what is explained."""

    def find_unknown_words(self, phrase: str) -> list[str]:
        """Words of a phrase that the model cannot know."""

    def ground(
        self, images: list[Image.Image], phrases: list[str], box_threshold: float, min_score: float
    ) -> Iterator[list[dict[str, Any]]]:
        """The results of every phrase, for one photograph after the other, each when it is asked for."""


@dataclass
class AlbefGrounding:
    """ALBEF, as `model.ground` and `processor.post_process_grounding` ground it."""

    checkpoint: str
    commit: str | None
    model: AlbefForImageTextMatching
    processor: AlbefProcessor
    switches: Switches
    grounds_batches: bool = True

    def describe(self) -> dict[str, Any]:
        """Checkpoint, resolved commit, and what is explained."""
        config = self.model.config
        return {
            "checkpoint": self.checkpoint,
            "commit": self.commit,
            "source": None,
            "model_type": config.model_type,
            "score": ALBEF.score_name,
            "layer": config.explanation_layer,
            "method": GRAD_CAM,
            "is_probability": True,
        }

    def find_unknown_words(self, phrase: str) -> list[str]:
        """Words that the vocabulary lacks or spells letter by letter."""
        return find_unknown_words(phrase, self.processor.tokenizer)

    def ground(
        self, images: list[Image.Image], phrases: list[str], box_threshold: float, min_score: float
    ) -> Iterator[list[dict[str, Any]]]:
        """Grounds all photographs in one call of the model; heatmaps of their size are made one by one."""
        outputs = self._ground_together(images, phrases)
        post_process = self.processor.post_process_grounding
        return (post_process(one, box_threshold=box_threshold, min_score=min_score)[0] for one in outputs)

    def _ground_together(self, images: list[Image.Image], phrases: list[str]) -> list[AlbefGroundingOutput]:
        inputs = self.processor(images=images, text=[phrases] * len(images), return_tensors="pt")
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.device)  # `ground` reads the others on the CPU
        with self.switches.applied(self.model.device):
            outputs = self.model.ground(**inputs)
        parts = (outputs.match_probability.split(len(phrases)), outputs.heatmap.split(len(phrases)))
        return [
            AlbefGroundingOutput(
                match_probability=probability,
                heatmap=heatmap,
                image_index=torch.zeros(len(phrases), dtype=torch.int64),
                original_sizes=size,
            )
            for probability, heatmap, size in zip(*parts, inputs["original_sizes"].split(1), strict=True)
        ]


@dataclass
class OtherGrounding:
    """A model of another type, or ALBEF with another method than Grad-CAM."""

    checkpoint: str
    commit: str | None
    grounder: Grounder
    switches: Switches
    grounds_batches: bool = False

    def describe(self) -> dict[str, Any]:
        """Checkpoint, resolved commit, and what is explained."""
        grounder = self.grounder
        return {
            "checkpoint": self.checkpoint,
            "commit": self.commit,
            "source": None if grounder.source["name"] == self.checkpoint else grounder.source,
            **grounder.describe(),
            "is_probability": grounder.family.is_probability,
        }

    def find_unknown_words(self, phrase: str) -> list[str]:
        """Words for which the vocabulary has no token; some of these vocabularies know other scripts."""
        tokenizer = self.grounder.processor.tokenizer
        return [word for word in clean_caption(phrase).split() if classify_word(word, tokenizer)[0] == "unknown"]

    def ground(
        self, images: list[Image.Image], phrases: list[str], box_threshold: float, min_score: float
    ) -> Iterator[list[dict[str, Any]]]:
        """Grounds one photograph after the other."""
        for image in images:
            with self.switches.applied(self.grounder.model.device):
                (results,) = self.grounder.ground([image], [phrases], box_threshold=box_threshold, min_score=min_score)
            yield results


def load_grounding_models(checkpoints: list[str], options: ModelOptions) -> list[GroundingModel]:
    """Loads several checkpoints; an error names the one that it is about.

    Raises:
        FileNotFoundError, ValueError: as [`load_grounding_model`]; also for a revision of folders only.
    """
    if options.revision is not None and all(Path(resolve_checkpoint(name)).is_dir() for name in checkpoints):
        raise ValueError(
            f"`--revision {options.revision}` is for Hub repositories, but {checkpoints[0]} is a folder. Leave it out."
        )
    models = []
    for checkpoint in checkpoints:
        try:
            models.append(load_grounding_model(checkpoint, options))
        except ValueError as error:
            if len(checkpoints) == 1 or checkpoint in str(error):
                raise
            raise ValueError(f"{checkpoint}: {error}") from error
    return models


def load_grounding_model(checkpoint: str, options: ModelOptions) -> GroundingModel:
    """Loads a checkpoint of any type that can be grounded.

    Args:
        checkpoint (`str`): folder or Hub repository, or `base`, the base model that ships.
        options ([`ModelOptions`]): what to explain, and how to run it.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: a checkpoint that cannot be grounded, or an option that does not fit it.
    """
    name = resolve_checkpoint(checkpoint)
    arguments = find_checkpoint(name, {} if options.revision is None else {"revision": options.revision})
    commit = find_commit(name, arguments)
    choice = ModelChoice(checkpoint, options.revision, options.layer, options.score, options.method)
    if runs_as_albef(choice):
        model, processor = load_albef(choice, options.revision, options.image_size, options.device, options.switches)
        return AlbefGrounding(checkpoint, commit, model, processor, options.switches)
    check_albef_options(checkpoint, options.image_size, options.switches)
    device = choose_device(options.device)
    grounder = load_grounder(choice)
    return OtherGrounding(checkpoint, commit, grounder, place_model(grounder, device, options.switches))
