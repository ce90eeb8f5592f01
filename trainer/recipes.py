# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Recipes: a training run as a YAML file of values, checked key by key before anything is loaded."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import albef_amc.configuration
from albef_amc import AlbefConfig, AlbefForPreTraining, AlbefImageProcessor, AlbefProcessor
from albef_amc.model_cards import ModelCard
from albef_amc.text_processing_albef import build_tokenizer, clean_caption
from albef_amc.trainer.amc_config import AmcConfig
from albef_amc.trainer.checkpoints import load_model_and_processor

CONFIGURATION_FOLDER = Path(albef_amc.configuration.__file__).parent
VOCABULARY_OF_DATA = "data"
# Weights that a matching checkpoint lacks and that are made at random.
PRE_TRAINING_PARTS = ("mlm_head.",)
SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass
class ModelRecipe:
    """Where the model comes from: a checkpoint, or a configuration with random weights.

    Args:
        checkpoint (`str`, *optional*): folder or Hub repository to start from.
        config (`str`, *optional*): JSON file, or the name of one in `configuration/models`, for random weights.
        vocabulary (`str`, *optional*): with `config`: a `vocab.txt` of word pieces, or `"data"` for the words of the
            training phrases.
        image_size (`int`, *optional*): image side in pixels; the checkpoint's or configuration's by default.
    """

    checkpoint: str | None = None
    config: str | None = None
    vocabulary: str | None = None
    image_size: int | None = None

    def __post_init__(self):
        if (self.checkpoint is None) == (self.config is None):
            raise ValueError("`model` needs either `checkpoint` or `config`: set one of the two.")
        if self.config is not None and self.vocabulary is None:
            raise ValueError(
                "`model.vocabulary` is needed with `model.config`: a `vocab.txt` file, or `data` for the words of the "
                "training phrases."
            )


@dataclass
class Recipe:
    """A training run.

    Args:
        model ([`ModelRecipe`]): where the model comes from.
        train_data (mapping): `name`, `split` and further arguments of
            [`~datasets_scripts.load_grounding_dataset`].
        evaluation_data (mapping, *optional*): the same for the data that is evaluated during training; without
            `name` it is the training data with these changes.
        training (mapping): fields of [`~trainer.AmcConfig`].
        card (mapping): fields of [`~model_cards.ModelCard`] for the checkpoints' cards.
    """

    model: ModelRecipe
    train_data: dict[str, Any]
    evaluation_data: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)


def list_shipped(kind: str) -> list[str]:
    """Names of the files that ship in `configuration/<kind>`, without their ending."""
    return sorted(path.stem for path in (CONFIGURATION_FOLDER / kind).iterdir() if path.suffix in (".yaml", ".json"))


def resolve_shipped(name_or_path: str | Path, kind: str, suffix: str) -> Path:
    """A file by path, or one that ships in `configuration/<kind>` by name.

    Raises:
        FileNotFoundError: there is neither.
    """
    path = Path(name_or_path)
    shipped = CONFIGURATION_FOLDER / kind / f"{path.name.removesuffix(suffix)}{suffix}"
    if path.is_file():
        return path
    if path.parent == Path() and shipped.is_file():
        return shipped
    raise FileNotFoundError(
        f"no file {name_or_path}, and no such name among those that ship: {', '.join(list_shipped(kind))}."
    )


def load_recipe(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    r"""Reads a recipe and applies overrides.

    Args:
        name_or_path (`str` or `Path`): a YAML file, or the name of a recipe in `configuration/training`.
        overrides (iterable of `str`): `key=value` with YAML values. A key without a dot is a field of `training`;
            others say their section: `model.checkpoint=runs/first`, `train_data.split=all`.

    Raises:
        ValueError: an unknown key (the nearest valid one is named), or a value of the wrong type.
        FileNotFoundError: no such recipe.
    """
    path = resolve_shipped(name_or_path, "training", ".yaml")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold sections (model, train_data, training), got {type(content).__name__}.")
    for override in overrides:
        _apply_override(content, override)
    _check_keys(content, [item.name for item in dataclasses.fields(Recipe)], str(path))
    _check_keys(content.get("training") or {}, _training_fields(), "training")
    _check_keys(content.get("model") or {}, [item.name for item in dataclasses.fields(ModelRecipe)], "model")
    _check_keys(content.get("card") or {}, [item.name for item in dataclasses.fields(ModelCard)], "card")
    _check_data(content, path)
    sections = {name: value for name, value in content.items() if value is not None and name != "model"}
    return Recipe(model=ModelRecipe(**(content.get("model") or {})), **sections)


def _check_data(content: dict[str, Any], path: Path) -> None:
    if not content.get("train_data"):
        raise ValueError(f"{path} has no `train_data`.")
    if content.get("evaluation_data") and "name" not in content["evaluation_data"]:
        content["evaluation_data"] = {**content["train_data"], **content["evaluation_data"]}
    for section in ("train_data", "evaluation_data"):
        if content.get(section) and not {"name", "split"} <= content[section].keys():
            raise ValueError(f"`{section}` needs `name` and `split`, got {', '.join(content[section])}.")


def _training_fields() -> list[str]:
    return [item.name for item in dataclasses.fields(AmcConfig) if item.init]


def _apply_override(content: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ValueError(f"`--set {override}` is not of the form key=value.")
    section, _, name = key.rpartition(".")
    owner = content.setdefault(section or "training", {})
    if owner is None:
        owner = content[section or "training"] = {}
    if not isinstance(owner, dict):
        raise ValueError(f"`--set {override}`: `{section}` is no section of a recipe.")
    value = yaml.safe_load(text)
    owner[name] = _as_number(value) if isinstance(value, str) else value


def _as_number(text: str) -> str | float:
    """YAML reads 2e-5 as text; a recipe means the number."""
    try:
        return float(text)
    except ValueError:
        return text


def _check_keys(given: Mapping[str, Any], valid: Sequence[str], where: str) -> None:
    for name in given:
        if name not in valid:
            nearest = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
            hint = f"Did you mean `{nearest[0]}`?" if nearest else f"Valid keys: {', '.join(valid[:12])}."
            raise ValueError(f"{where}: unknown key `{name}`. {hint}")


def build_arguments(recipe: Recipe, output_dir: str | Path) -> AmcConfig:
    """The Trainer's arguments of a recipe; 1e-5 is read as a number, and `no` as a strategy's name, not as false."""
    values: dict[str, Any] = {}
    for name, value in recipe.training.items():
        if value is False and name.endswith("_strategy"):
            value = "no"
        values[name] = _as_number(value) if isinstance(value, str) else value
    return AmcConfig(**{**values, "output_dir": str(output_dir)})


def build_model_and_processor(
    recipe: ModelRecipe, phrases: Iterable[str]
) -> tuple[AlbefForPreTraining, AlbefProcessor]:
    """Loads the checkpoint of a recipe, or makes a model with random weights and the processor that goes with it.

    Args:
        recipe ([`ModelRecipe`]): where the model comes from.
        phrases (iterable of `str`): training phrases, read for a vocabulary of the data.
    """
    if recipe.checkpoint is not None:
        return load_model_and_processor(
            AlbefForPreTraining, recipe.checkpoint, recipe.image_size, may_lack=PRE_TRAINING_PARTS
        )
    config = AlbefConfig.from_json_file(resolve_shipped(recipe.config, "models", ".json"))
    if recipe.image_size is not None:
        config.vision_config.image_size = recipe.image_size
    vocabulary = build_vocabulary(phrases) if recipe.vocabulary == VOCABULARY_OF_DATA else recipe.vocabulary
    tokenizer = build_tokenizer(vocabulary, model_max_length=config.text_config.max_position_embeddings)
    text_config = config.text_config
    text_config.vocab_size = len(tokenizer)
    text_config.pad_token_id, text_config.cls_token_id = tokenizer.pad_token_id, tokenizer.cls_token_id
    text_config.sep_token_id, text_config.mask_token_id = tokenizer.sep_token_id, tokenizer.mask_token_id
    height, width = config.vision_config.image_height_width
    image_processor = AlbefImageProcessor(size={"height": height, "width": width})
    return AlbefForPreTraining(config), AlbefProcessor(image_processor, tokenizer)


def build_vocabulary(phrases: Iterable[str]) -> list[str]:
    """Word pieces for phrases: special pieces, their words, and letters for words that are not among them."""
    words = {word for phrase in phrases for word in clean_caption(phrase).split(" ")}
    letters = sorted({letter for word in words for letter in word})
    pieces = [*letters, *(f"##{letter}" for letter in letters), *sorted(words)]
    return [*SPECIAL_PIECES, *dict.fromkeys(piece for piece in pieces if piece)]


__all__ = [
    "ModelRecipe",
    "Recipe",
    "build_arguments",
    "build_model_and_processor",
    "build_vocabulary",
    "list_shipped",
    "load_recipe",
    "resolve_shipped",
]
