# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Recipes: a training run as a YAML file of values, checked key by key before anything is loaded."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import set_seed

from albef_amc import AlbefConfig, AlbefForPreTraining, AlbefImageProcessor, AlbefProcessor
from albef_amc.checkpoint_files_albef import read_settings
from albef_amc.configuration.recipes import read_number, read_recipe, split_key_value
from albef_amc.configuration.setting_types import check_type, check_types, list_simple_fields
from albef_amc.configuration.shipped_files import resolve_shipped
from albef_amc.configuration.yaml_files import parse_yaml
from albef_amc.configuration_albef import LONGEST_SIDE
from albef_amc.conversion.from_encoders import build_processor
from albef_amc.datasets_scripts import check_builder_options, check_builder_split
from albef_amc.evaluation.checkpoints import is_albef_checkpoint, load_model_and_processor, resolve_checkpoint
from albef_amc.grounders import AutoGrounder, Grounder
from albef_amc.lora.adapters import check_lora_options, list_lora_fields
from albef_amc.model_cards import ModelCard
from albef_amc.ranges_albef import COUNT, POSITIVE, check_names, check_number, check_ranges, shorten_value
from albef_amc.text_processing_albef import SPECIAL_TOKENS, build_tokenizer, clean_caption
from albef_amc.trainer.amc_config import AMC_SHORT_FORM, AmcConfig

DEFAULT_OUTPUT_FOLDER = Path("runs")
OPTIONAL_SECTIONS = ("evaluation_data", "peft")
MACHINE_KEYS = ("num_processes",)
TYPED_SECTIONS = ("training", "model", "card")  # whose fields declare whether they are text
DATA_SECTIONS = ("train_data", "evaluation_data")
VOCABULARY_OF_DATA = "data"
# Weights that a matching checkpoint lacks; they are drawn at random.
PRE_TRAINING_PARTS = ("mlm_head.",)


@dataclass
class ModelRecipe:
    """Start of the model: a checkpoint, two pretrained encoders, or a configuration with random weights.

    Args:
        checkpoint (`str`, *optional*): folder or Hub repository to start from; `base` is the base model that ships.
        config (`str`, *optional*): JSON file, or the name of one in `configuration/models`, for random weights.
        vocabulary (`str`, *optional*): with `config`: a `vocab.txt` of tokens, or `"data"` for the words of the
            training phrases.
        image_size (`int`, *optional*): image side in pixels; by default that of the checkpoint, the configuration or
            the encoder.
        vision_encoder, text_encoder (`str`, *optional*): an image encoder and a BERT to start from, as
            [`~albef_amc.AlbefForPreTraining.from_encoders`] takes them.
        score, layer, method (*optional*): with a `checkpoint` of another type than ALBEF, what is explained, as
            [`~grounders.AutoGrounder`] takes it.
    """

    checkpoint: str | None = None
    config: str | None = None
    vocabulary: str | None = None
    image_size: int | None = None
    vision_encoder: str | None = None
    text_encoder: str | None = None
    score: str | None = None
    layer: int | None = None
    method: str | None = None

    def __post_init__(self):
        check_types(self, texts=[item.name for item in dataclasses.fields(self)], prefix="model.")
        check_ranges(self, {"image_size": LONGEST_SIDE}, "model.")
        if (self.vision_encoder is None) != (self.text_encoder is None):
            raise ValueError("`model.vision_encoder` and `model.text_encoder` belong together: set both.")
        if sum(start is not None for start in (self.checkpoint, self.config, self.vision_encoder)) != 1:
            raise ValueError(
                "`model` needs either `checkpoint` or `config` or the encoders (`vision_encoder`, `text_encoder`): "
                "set one of them, for example with `--set model.checkpoint=FOLDER`, and the others to null."
            )
        if self.config is not None and self.vocabulary is None:
            raise ValueError(
                "`model.vocabulary` is needed with `model.config`: a `vocab.txt` file, or `data` for the words of the "
                "training phrases."
            )

    @property
    def is_albef(self) -> bool:
        """Whether an ALBEF is trained; otherwise a grounder of another type of model."""
        return self.checkpoint is None or is_albef_checkpoint(self.checkpoint)


@dataclass
class Recipe:
    """A training run.

    Args:
        model ([`ModelRecipe`]): where the model comes from.
        train_data (mapping or list): `name`, `split` and further arguments of
            [`~datasets_scripts.load_grounding_dataset`]; a list of such mappings, each with a `weight`, is a mixture
            ([`~trainer.data.mixtures.Mixture`]).
        evaluation_data (mapping, *optional*): the same for the data that is evaluated during training; without
            `name` it is the training data with these changes.
        training (mapping): fields of [`~trainer.AmcConfig`].
        card (mapping): fields of [`~model_cards.ModelCard`] for the checkpoints' cards.
        peft (mapping, *optional*): fields of `peft.LoraConfig`; with this section, empty or not, LoRA layers are
            trained (see [`~trainer.build_lora_config`]).
        machine (mapping): what the values are made for: `num_processes`, the number of processes (GPUs).
        output_dir (`str`, *optional*): folder of the run; `runs/` and the recipe's name by default.
    """

    model: ModelRecipe
    train_data: Any  # a mapping, or a list of mappings
    evaluation_data: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    peft: dict[str, Any] | None = None
    machine: dict[str, Any] = field(default_factory=dict)
    output_dir: str | None = None

    def __post_init__(self):
        check_types(self, texts=["output_dir"])
        if self.machine.get("num_processes") is not None:
            check_number("machine.num_processes", self.machine["num_processes"], COUNT)
        if self.peft is not None:
            check_lora_options(self.peft, "peft.")
        if self.peft is not None and self.model.checkpoint is None:
            raise ValueError("`peft` needs `model.checkpoint`: an adapter of random weights would have no base.")


def load_recipe(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    r"""Reads a recipe and applies overrides.

    A recipe may start with `base: OTHER`, a shipped name or a path beside it: that one is read first, and the keys
    of this one replace or extend its sections key by key. Data with a `name` of its own replaces that of the base.

    Args:
        name_or_path (`str` or `Path`): a YAML file, or the name of a recipe in `configuration/training`.
        overrides (iterable of `str`): `key=value` with YAML values. A key without a dot is a field of `training`
            (or `output_dir`); others name their section: `model.checkpoint=runs/first`, `train_data.split=all`.
            `evaluation_data=null` and `peft=null` drop a section; `train_data.0.split=all` is of the first data
            set of a mixture.

    Raises:
        ValueError: an unknown key (the nearest valid one is named), or a value of the wrong type.
        FileNotFoundError: no such recipe.
    """
    path = resolve_shipped(name_or_path, "training", ".yaml")
    content = read_recipe(path, "training", _check_sections)
    for override in overrides:
        _apply_override(content, override)
    _check_sections(content, str(path))
    _check_data(content, path)
    if content.get("output_dir") in (None, ""):
        content["output_dir"] = str(DEFAULT_OUTPUT_FOLDER / path.stem)
    sections = {name: value for name, value in content.items() if value is not None and name != "model"}
    return Recipe(model=ModelRecipe(**(content.get("model") or {})), **sections)


def _check_sections(content: dict[str, Any], where: str) -> None:
    """Refuses unknown keys, and sections that are not mappings."""
    check_names(content, [*(item.name for item in dataclasses.fields(Recipe)), "base"], where)
    for name, value in content.items():
        if name == "train_data" and isinstance(value, list):
            _check_mixture(value, where)
        elif name != "output_dir" and value is not None and not isinstance(value, dict):
            raise ValueError(f"{where}: section `{name}` must hold keys with values, got {shorten_value(value)}.")
    if content.get("peft") is not None:
        check_names(content["peft"], list_lora_fields(), "peft")
    check_names(content.get("machine") or {}, MACHINE_KEYS, "machine")
    for section, kind in (("training", AmcConfig), ("model", ModelRecipe), ("card", ModelCard)):
        fields = [item.name for item in dataclasses.fields(kind) if item.init]
        if kind is AmcConfig:
            fields.remove("output_dir")  # a key of the recipe itself
        check_names(content.get(section) or {}, fields, section)


def _check_mixture(parts: list[Any], where: str) -> None:
    """Refuses a mixture without parts, and parts that are not mappings or name no data set."""
    for part in parts or [None]:
        if not isinstance(part, dict) or "name" not in part or "split" not in part:
            raise ValueError(
                f"{where}: `train_data`, where it is a list, must hold data sets with `name` and `split` each, got "
                f"{shorten_value(part)}."
            )


def _check_data(content: dict[str, Any], path: Path) -> None:
    if not content.get("train_data"):
        raise ValueError(f"{path} has no `train_data`.")
    evaluation = content.get("evaluation_data")
    if evaluation and "name" not in evaluation:
        if isinstance(content["train_data"], list):
            raise ValueError(f"{path}: `evaluation_data` needs a `name`, since `train_data` is a mixture.")
        inherited = {name: value for name, value in content["train_data"].items() if name != "streaming"}
        content["evaluation_data"] = evaluation = {**inherited, **evaluation}
    if evaluation and evaluation.get("streaming"):
        raise ValueError(
            f"{path}: `evaluation_data` cannot be streamed: every phrase is evaluated once, and counted before. "
            "Remove `streaming`."
        )
    for section in DATA_SECTIONS:
        given = content.get(section)
        if isinstance(given, dict) and given and not {"name", "split"} <= given.keys():
            raise ValueError(f"`{section}` needs `name` and `split`, got {', '.join(map(str, given))}.")
        for part in given if isinstance(given, list) else [given] if given else []:
            _check_data_set(section, part)


def _check_data_set(section: str, part: Mapping[str, Any]) -> None:
    """Refuses values and options that a data set cannot have, before any file is read."""
    for name, kind in (("name", str), ("split", str), ("cache_dir", str), ("streaming", bool)):
        if name in part:
            check_type(f"{section}.{name}", part[name] or None if kind is str else part[name], kind)
    if "weight" in part:
        check_number(f"{section}.weight", part["weight"], POSITIVE)
    check_builder_options(part["name"], _list_options(part))


def _list_options(part: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the data set itself."""
    return {name: value for name, value in part.items() if name not in ("name", "split", "streaming", "weight")}


def check_data_sets(recipe: Recipe) -> None:
    """Refuses data sets that are missing, and splits that they do not have, as far as the names of their files show.

    Args:
        recipe ([`Recipe`]): the run.

    Raises:
        ValueError: no such split, or an option that is missing.
        FileNotFoundError: no such data set or folder.
    """
    train_data = recipe.train_data if isinstance(recipe.train_data, list) else [recipe.train_data]
    for part in [*train_data, *([recipe.evaluation_data] if recipe.evaluation_data else [])]:
        check_builder_split(part["name"], part["split"], _list_options(part))


def _apply_override(content: dict[str, Any], override: str) -> None:
    key, text = split_key_value(override, "--set")
    if key == "output_dir":
        content[key] = None if text.strip().lower() in ("", "~", "null") else text
        return
    value = parse_yaml(text, f"`--set {key}`")
    if key in OPTIONAL_SECTIONS and value is None:
        content[key] = None
        return
    if key in [item.name for item in dataclasses.fields(Recipe)]:
        raise ValueError(f"`--set {override}`: `{key}` is a section. Set its keys, as in `--set {key}.KEY=VALUE`.")
    if key == "base":
        raise ValueError(f"`--set {override}`: the `base` of a recipe is set in its file.")
    section, _, name = key.rpartition(".")
    list_name, _, number = section.rpartition(".")
    if isinstance(content.get(list_name), list) and number.isdigit() and int(number) < len(content[list_name]):
        owner = content[list_name][int(number)]
    else:
        owner = content.setdefault(section or "training", {})
    if owner is None:
        owner = content[section or "training"] = {}
    if not isinstance(owner, dict):
        hint = f" It is a list: begin with `{section}.0`, `{section}.1`, ..." if isinstance(owner, list) else ""
        raise ValueError(f"`--set {override}`: `{section}` is not a section of a recipe.{hint}")
    is_option = section not in ("", *TYPED_SECTIONS)
    owner[name] = read_number(value) if is_option else value


def build_arguments(recipe: Recipe, output_dir: str | Path) -> AmcConfig:
    """Arguments of the Trainer from a recipe; 1e-5 is read as a number, and `no` as the name of a strategy."""
    if recipe.training.get("resume_from_checkpoint") is not None:
        raise ValueError("`resume_from_checkpoint` has no meaning in a recipe: give `--resume` to the command.")
    values: dict[str, Any] = {}
    kinds = list_simple_fields(AmcConfig)
    for name, value in recipe.training.items():
        if value is False and name.endswith("_strategy"):
            value = "no"
        if str not in kinds.get(name, (str,)):
            value = read_number(value)
        if isinstance(value, float) and value.is_integer() and int in kinds.get(name, ()):
            value = int(value)  # 1e3 steps
        values[name] = value
    arguments = AmcConfig(**{**values, "output_dir": str(output_dir)})
    for option, name in AMC_SHORT_FORM.items():
        if name in values and getattr(arguments, name) != values[name]:
            raise ValueError(
                f"`{name}={values[name]}` is the short form of `objectives.amc.{option}`, which is "
                f"{getattr(arguments, name)}: give one."
            )
    return arguments


def build_model_and_processor(
    recipe: ModelRecipe, phrases: Iterable[str], seed: int = 0
) -> tuple[AlbefForPreTraining | Grounder, Any]:
    """Loads the checkpoint of a recipe, or makes a model of encoders or with random weights, and its processor.

    A checkpoint of another type than ALBEF gives a grounder, whose weights are float32, and its processor.

    Weights, queues and heads that are not read are drawn. The global generators are seeded first, so that every
    process and every start of a run draws the same.

    Args:
        recipe ([`ModelRecipe`]): where the model comes from.
        phrases (iterable of `str`): training phrases, read for a vocabulary of the data.
        seed (`int`, defaults to 0): seed of the run.
    """
    set_seed(seed)
    if not recipe.is_albef:
        grounder = AutoGrounder.from_pretrained(
            str(recipe.checkpoint), recipe.layer, recipe.method, score=recipe.score
        ).float()
        return grounder, grounder.processor
    if recipe.checkpoint is not None:
        return load_model_and_processor(
            AlbefForPreTraining, recipe.checkpoint, recipe.image_size, may_lack=PRE_TRAINING_PARTS
        )
    if recipe.vision_encoder is not None:
        model = AlbefForPreTraining.from_encoders(recipe.vision_encoder, recipe.text_encoder, recipe.image_size)
        return model, build_processor(recipe.text_encoder, model.config, recipe.vision_encoder)
    config = _read_config(recipe.config)
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


def _read_config(name_or_path: str) -> AlbefConfig:
    """The configuration of a model with random weights."""
    return AlbefConfig(**read_settings(resolve_shipped(name_or_path, "models", ".json")))


def check_model_files(recipe: ModelRecipe) -> None:
    """Reads the configuration and looks for the vocabulary of a model with random weights, and checks the files of the
    base model that ships, before any data is read; and that the keys fit the type of the checkpoint.

    Args:
        recipe ([`ModelRecipe`]): where the model comes from.

    Raises:
        ValueError: a configuration that no model can have, or a base model that was changed.
        FileNotFoundError: there is no such file.
    """
    if recipe.checkpoint is not None:
        resolve_checkpoint(recipe.checkpoint)
    for name in ("score", "layer", "method", "image_size"):
        if getattr(recipe, name) is not None and recipe.is_albef != (name == "image_size"):
            kind = "other models than ALBEF" if recipe.is_albef else "ALBEF, and the images of others are as stored"
            raise ValueError(f"`model.{name}` is for {kind}: leave it out for {recipe.checkpoint or recipe.config}.")
    if recipe.config is not None:
        _read_config(recipe.config)
    if recipe.vocabulary not in (None, VOCABULARY_OF_DATA) and not Path(recipe.vocabulary).is_file():
        raise FileNotFoundError(
            f"no vocabulary at {recipe.vocabulary} (`model.vocabulary`): give a `vocab.txt`, or "
            f"`{VOCABULARY_OF_DATA}` for the words of the training phrases."
        )


def build_vocabulary(phrases: Iterable[str]) -> list[str]:
    """Tokens for phrases: special tokens, the words of the phrases, and letters for other words."""
    words = {word for phrase in phrases for word in clean_caption(phrase).split(" ")}
    letters = sorted({letter for word in words for letter in word})
    tokens = [*letters, *(f"##{letter}" for letter in letters), *sorted(words)]
    return [*SPECIAL_TOKENS.values(), *dict.fromkeys(token for token in tokens if token)]
