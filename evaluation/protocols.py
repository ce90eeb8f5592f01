# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Evaluation recipes: data, protocol and published numbers of a benchmark as a YAML file, checked key by key."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import datasets
from transformers.image_utils import PILImageResampling

from albef_amc.configuration.recipes import build_section, read_recipe
from albef_amc.configuration.shipped_files import list_shipped, resolve_shipped
from albef_amc.configuration_albef import LONGEST_SIDE
from albef_amc.datasets_scripts import BUILDERS
from albef_amc.evaluation.grounding_metrics import (
    ACCURACIES,
    BOX_RULES,
    POINTING_ACCURACY,
    ProposalRanking,
    check_metrics,
)
from albef_amc.model_cards.front_matter import hide_folder
from albef_amc.ranges_albef import (
    COUNT,
    TEXT_LENGTH,
    Range,
    check_choice,
    check_names,
    check_number,
    check_ranges,
    shorten_value,
)

RESAMPLES = tuple(filter_.name.lower() for filter_ in PILImageResampling)
PERCENT = Range(0, 100)
PATTERN_CHARACTERS = "*?"


@dataclass(frozen=True)
class PublishedNumber:
    """A figure that somebody printed.

    Args:
        method (`str`): what was evaluated, and what it had learned from.
        split (`str`): split of the recipe.
        percent (`float`): the figure, in per cent.
        source (`str`): where it is printed.
        measure (`str`, defaults to `"pointing_game_accuracy"`): that, `"box_accuracy_at_50"`, or a recall such as
            `"recall_at_1_any"`.
    """

    method: str
    split: str
    percent: float
    source: str
    measure: str = POINTING_ACCURACY

    def __post_init__(self):
        check_choice("measure", self.measure, ACCURACIES, "published: ")
        check_number(f"percent of {self.method}", self.percent, PERCENT)


@dataclass
class EvaluationRecipe:
    """How a benchmark is evaluated, and what others got.

    Args:
        data (mapping): `name` and further arguments of [`~datasets_scripts.load_grounding_dataset`].
        splits (mapping): name of a split in reports -> split of the data, or a pattern (`"*test*"`) of splits that
            are scored together.
        image_size (`int`, *optional*): image side in pixels; the checkpoint's by default.
        resample (`str`, defaults to `"bicubic"`): filter that resizes images, to a square and without cropping.
        max_length (`int`, *optional*): tokens of a phrase at most, [CLS] included; all of them by default.
        box_rule (`str`, defaults to `"any"`): of several boxes of a phrase, `"any"` one counts, or the `"merged"`
            smallest box around them.
        proposal_ranking (mapping, *optional*): fields of [`~evaluation.grounding_evaluation.ProposalRanking`], for
            rows with proposals.
        metrics (list of `str`, *optional*): metrics to compute, of `pointing_game`, `box_accuracy`, `heatmap_quality`
            and `phrase_recall`; by default the first, and where there are proposals to rank the second.
        num_phrases (mapping): split -> how many phrases the published evaluation scored.
        published (list of mappings): fields of [`PublishedNumber`].
        name (`str`): name of the file.
    """

    data: dict[str, Any]
    splits: dict[str, str]
    image_size: int | None = None
    resample: str = "bicubic"
    max_length: int | None = None
    box_rule: str = "any"
    proposal_ranking: Any = None
    metrics: list[str] | None = None
    num_phrases: dict[str, int] = field(default_factory=dict)
    published: list[Any] = field(default_factory=list)
    name: str = ""

    def __post_init__(self):
        if not isinstance(self.data, dict) or not isinstance(self.data.get("name"), str):
            raise ValueError(
                f"`data` must hold `name`, a builder, folder or repository; got {shorten_value(self.data)}."
            )
        if not isinstance(self.splits, dict) or not all(isinstance(split, str) for split in self.splits.values()):
            raise ValueError(f"`splits` must map names to splits of the data, got {shorten_value(self.splits)}.")
        check_choice("resample", self.resample, RESAMPLES)
        check_choice("box_rule", self.box_rule, BOX_RULES)
        check_ranges(self, {"image_size": LONGEST_SIDE, "max_length": TEXT_LENGTH})
        if self.proposal_ranking is not None:
            self.proposal_ranking = build_section(ProposalRanking, self.proposal_ranking, "proposal_ranking")
        if self.metrics is not None:
            self.metrics = list(check_metrics(self.metrics))
        if not isinstance(self.num_phrases, dict) or not isinstance(self.published, list):
            raise TypeError("`num_phrases` must hold keys with values, and `published` a list of such.")
        for split, number in self.num_phrases.items():
            check_number(f"num_phrases.{split}", number, COUNT)
        self.published = [build_section(PublishedNumber, entry, "published") for entry in self.published]
        for split in (*self.num_phrases, *(number.split for number in self.published)):
            check_choice("split", split, self.splits)

    def choose_data(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The data with the arguments of a user on top; data with a `name` of its own replaces that of the recipe."""
        return dict(options) if "name" in options else {**self.data, **options}

    def list_published(self, split: str) -> list[PublishedNumber]:
        """The published numbers of a split, in the order of the file."""
        return [number for number in self.published if number.split == split]


def find_evaluation_recipe(word: str) -> Path | None:
    """The file of a recipe by path or shipped name; `None` for a word that is neither."""
    is_path = word.endswith((".yaml", ".yml"))
    return resolve_shipped(word, "evaluation", ".yaml") if is_path or word in list_shipped("evaluation") else None


def load_evaluation_recipe(name_or_path: str | Path) -> EvaluationRecipe:
    """Reads a recipe of `configuration/evaluation` by name, or any by path.

    Raises:
        ValueError: no YAML, an unknown key (the nearest valid one is named) or a value that cannot be meant.
        FileNotFoundError: no such recipe.

    Example:

    ```python
    >>> from albef_amc.evaluation.protocols import load_evaluation_recipe
    >>> recipe = load_evaluation_recipe("refcoco_plus")
    >>> recipe.image_size, recipe.num_phrases
    (384, {'testA': 5726, 'testB': 4889})

    ```
    """
    path = resolve_shipped(name_or_path, "evaluation", ".yaml")
    keys = [item.name for item in dataclasses.fields(EvaluationRecipe) if item.name != "name"]
    content = read_recipe(path, "evaluation", lambda section, where: check_names(section, [*keys, "base"], where))
    try:
        recipe: EvaluationRecipe = build_section(EvaluationRecipe, content, "an evaluation recipe")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    recipe.name = path.stem
    return recipe


def list_data_splits(data: Mapping[str, Any]) -> list[str]:
    """Names of the splits of a data set.

    Args:
        data (mapping): `name` and further arguments of [`~datasets_scripts.load_grounding_dataset`].
    """
    options = dict(data)
    name = options.pop("name")
    if name not in BUILDERS:
        return datasets.get_dataset_split_names(name, options.pop("config_name", None), **options)
    builder = BUILDERS[name](**options)
    builder.download_and_prepare()
    return list(builder.info.splits)


def has_pattern(recipe: EvaluationRecipe, split: str) -> bool:
    """Whether a split stands for all splits of the data whose names fit a pattern."""
    name = split.partition("[")[0]
    return any(character in recipe.splits.get(name, name) for character in PATTERN_CHARACTERS)


def resolve_split(recipe: EvaluationRecipe, split: str, data: Mapping[str, Any]) -> str:
    """A split as `datasets` reads it: names of the recipe replaced, patterns written out, slices kept.

    Args:
        recipe ([`EvaluationRecipe`]): the recipe.
        split (`str`): a split of the recipe or of the data, perhaps with a slice: `testA[:100]`.
        data (mapping): `name` and arguments of the data.

    Raises:
        ValueError: a pattern that fits no split of the data.
    """
    name, bracket, rest = split.partition("[")
    pattern = recipe.splits.get(name, name)
    names = [pattern]
    if has_pattern(recipe, split):
        existing = list_data_splits(data)
        names = [candidate for candidate in existing if fnmatchcase(candidate, pattern)]
        if not names:
            raise ValueError(f"no split of {data['name']} fits {pattern!r}; it has {', '.join(existing)}.")
    return "+".join(f"{candidate}{bracket}{rest}" for candidate in names)


def list_departures(
    recipe: EvaluationRecipe,
    split: str,
    data: Mapping[str, Any],
    image_size: Sequence[int] | None,
    resample: int | None,
) -> list[str]:
    """What an evaluation did otherwise than its recipe, one line each.

    Args:
        recipe ([`EvaluationRecipe`]): the recipe.
        split (`str`): split as the user named it.
        data (mapping): `name` and arguments of the data that was read.
        image_size (two `int`, *optional*): height and width of ALBEF's images; `None` for a model of another family,
            whose processor makes its images as it was trained.
        resample (`int`, *optional*): filter of ALBEF's processor.
    """
    departures = [
        f"`{key}` of the data is {hide_folder(data.get(key), key, data.get('data_root'))}, not {value}"
        for key, value in recipe.data.items()
        if data.get(key) != value
    ]
    if split not in recipe.splits:
        departures.append(f"{split} is not among the splits {', '.join(recipe.splits)}")
    if image_size is None or resample is None:
        return departures + _list_departures_of_others(recipe)
    if recipe.image_size is not None and tuple(image_size) != (recipe.image_size, recipe.image_size):
        departures.append(
            f"images are {image_size[0]} x {image_size[1]}, not {recipe.image_size} x {recipe.image_size}"
        )
    used = PILImageResampling(resample).name.lower()
    if used != recipe.resample:
        departures.append(f"images are resized by the filter {used}, not {recipe.resample}")
    return departures


def _list_departures_of_others(recipe: EvaluationRecipe) -> list[str]:
    """What a model of another family does otherwise than a recipe that states how ALBEF reads images and phrases."""
    departures = []
    if recipe.image_size is not None:
        departures.append(f"images have the size of the model, not {recipe.image_size} x {recipe.image_size}")
    if recipe.max_length is not None:
        departures.append(f"phrases are not cut at {recipe.max_length} tokens")
    return departures


__all__ = [
    "EvaluationRecipe",
    "PublishedNumber",
    "find_evaluation_recipe",
    "has_pattern",
    "list_data_splits",
    "list_departures",
    "load_evaluation_recipe",
    "resolve_split",
]
