# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Fuzz test of settings: recipes of training in YAML, as `albef-amc train` reads them."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from fuzz_frame import UNAFFECTED, Category, refused
from fuzz_inputs import Drawn, choose, get_folder

from albef_amc.trainer.training_recipes import build_arguments, load_recipe

NAN, INFINITY = float("nan"), float("inf")
# Settings of a recipe by what they may be; the values are among those that they may have.
FRACTIONS = {"amc_weight": 2.0, "itm_weight": 0.5, "mean_margin": 0.25, "weight_decay": 0.125, "learning_rate": 0.001}
FRACTIONS |= {"distillation_alpha": 0.5, "mlm_probability": 0.25, "adam_beta1": 0.5, "num_train_epochs": 2.0}
COUNTS = {"max_steps": 30, "per_device_train_batch_size": 4, "max_length": 20, "phrases_per_image": 2, "seed": 3}
COUNTS |= {"mask_size": 32, "max_skipped_steps": 2, "gradient_accumulation_steps": 2, "dataloader_num_workers": 1}
SWITCHES = {"use_augmentation": False, "keep_best": False, "use_momentum_updates": True, "group_by_image": False}
CHOICES = {"flip": "safe", "region_source": "boxes", "box_choice": "all", "epoch_unit": "phrase"}
CHOICES |= {"heatmap_denominator": "padded", "distillation_axis": "sequence", "lr_scheduler_type": "cosine"}
VALUES = {**FRACTIONS, **COUNTS, **SWITCHES, **CHOICES}
# Values that no setting of a kind may have.
WRONG_FRACTIONS = [NAN, INFINITY, -INFINITY, -1.0, -1e-9, "much", "1,5", True, [1.0], {"value": 1.0}, 10**400, "nan"]
WRONG_COUNTS = [NAN, INFINITY, -7, 2.5, "many", True, [1], {}, 10**400, "0x"]
WRONG_SWITCHES = ["false", "no", 0, 1, 2.0, [], "True ", {}]
WRONG_CHOICES = ["Boxes ", "none of them", 7, True, ["all"], {}, "sife"]


def build_recipe(number: int) -> dict[str, Any]:
    """A clean recipe."""
    return {
        "model": {"checkpoint": "runs/first"},
        "train_data": {"name": "synthetic", "split": "train"},
        "evaluation_data": {"split": "validation"},
        "training": {**VALUES, "report_to": "none", "use_cpu": True},
        "card": {"source": "amc"},
    }


def read_recipe(recipe: dict[str, Any] | str | bytes) -> dict[str, Any]:
    """The settings that a recipe's text stands for."""
    with tempfile.TemporaryDirectory(dir=get_folder()) as folder:
        path = Path(folder) / "recipe.yaml"
        text = yaml.safe_dump(recipe) if isinstance(recipe, dict) else recipe
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        loaded = load_recipe(path)
        arguments = build_arguments(loaded, Path(folder) / "run")
    settings = {name: getattr(arguments, name) for name in VALUES}
    return {**settings, "train_data": loaded.train_data, "evaluation_data": loaded.evaluation_data}


settings = Category("settings", build_recipe, read_recipe)


def change(recipe: dict[str, Any], generator: np.random.Generator, names: Any, values: Any, words: str) -> Drawn:
    """The recipe with one of several settings at one of several values, which is refused by the setting's name."""
    name = choose(generator, names)
    recipe["training"][name] = choose(generator, values)
    return recipe, refused(words or f"`{name}`")


@settings.mutation
def fraction_of_no_range(recipe: dict, generator: np.random.Generator) -> Drawn:
    return change(recipe, generator, FRACTIONS, WRONG_FRACTIONS, "")


@settings.mutation
def share_above_one(recipe: dict, generator: np.random.Generator) -> Drawn:
    return change(recipe, generator, ["distillation_alpha", "mlm_probability", "adam_beta1"], [1.5, 5, 1e30], "")


@settings.mutation
def count_of_no_range(recipe: dict, generator: np.random.Generator) -> Drawn:
    return change(recipe, generator, COUNTS, WRONG_COUNTS, "")


@settings.mutation
def count_of_zero(recipe: dict, generator: np.random.Generator) -> Drawn:
    names = sorted(COUNTS.keys() - {"seed", "dataloader_num_workers"})
    return change(recipe, generator, names, [0, 0.0, -2], "")


@settings.mutation
def number_beyond_every_count(recipe: dict, generator: np.random.Generator) -> Drawn:
    steps = ["save_steps", "logging_steps", "eval_steps", "warmup_steps", "eval_delay", "eval_accumulation_steps"]
    values = [10**300, -(10**300), 1e300, 10**19, 2**63, -(10**400)]
    return change(recipe, generator, [*COUNTS, *steps, "dataloader_prefetch_factor", "data_seed"], values, "")


@settings.mutation
def switch_of_another_kind(recipe: dict, generator: np.random.Generator) -> Drawn:
    return change(recipe, generator, SWITCHES, WRONG_SWITCHES, "")


@settings.mutation
def choice_that_is_none(recipe: dict, generator: np.random.Generator) -> Drawn:
    return change(recipe, generator, CHOICES, WRONG_CHOICES, "")


@settings.mutation
def mistyped_key(recipe: dict, generator: np.random.Generator) -> Drawn:
    name = choose(generator, VALUES)
    place = int(generator.integers(1, len(name)))
    wrong = choose(generator, [name[:place] + name[place + 1 :], name[:place] + "x" + name[place:], name.upper()])
    recipe["training"][wrong] = recipe["training"].pop(name)
    return recipe, refused(f"unknown key `{wrong}`")


@settings.mutation
def unknown_section(recipe: dict, generator: np.random.Generator) -> Drawn:
    name = choose(generator, ["trainin", "Model", "data", "train-data", "cards"])
    recipe[name] = {}
    return recipe, refused(f"unknown key `{name}`")


@settings.mutation
def section_of_another_kind(recipe: dict, generator: np.random.Generator) -> Drawn:
    name = choose(generator, ["model", "train_data", "evaluation_data", "training", "card", "machine", "peft"])
    recipe[name] = choose(generator, [7, "text", [1], [[]], True, NAN])
    return recipe, refused(f"`{name}`")


@settings.mutation
def section_missing(recipe: dict, generator: np.random.Generator) -> Drawn:
    name = choose(generator, ["model", "train_data"])
    if generator.integers(2):
        recipe.pop(name)
    else:
        recipe[name] = None
    return recipe, refused(f"`{name}`")


@settings.mutation
def data_without_a_name_or_a_split(recipe: dict, generator: np.random.Generator) -> Drawn:
    recipe["train_data"].pop(choose(generator, ["name", "split"]))
    return recipe, refused("`train_data` needs `name` and `split`")


@settings.mutation
def two_starts(recipe: dict, generator: np.random.Generator) -> Drawn:
    recipe["model"] |= choose(generator, [{"config": "demo", "vocabulary": "data"}, {"vision_encoder": "vit"}])
    return recipe, refused("model")


@settings.mutation
def model_of_another_kind(recipe: dict, generator: np.random.Generator) -> Drawn:
    value = choose(generator, [7, True, ["runs/first"], {}, 2.5])
    recipe["model"] = {"checkpoint": value}
    return recipe, refused("`model.checkpoint`")


@settings.mutation
def image_size_of_no_range(recipe: dict, generator: np.random.Generator) -> Drawn:
    recipe["model"]["image_size"] = choose(generator, [0, -16, 2.5, "384", True, NAN, 10**9, [384]])
    return recipe, refused("`model.image_size`")


@settings.mutation
def nothing_to_learn(recipe: dict, generator: np.random.Generator) -> Drawn:
    recipe["training"] |= dict.fromkeys(("amc_weight", "itc_weight", "itm_weight", "mlm_weight"), 0)
    return recipe, refused("nothing to learn")


@settings.mutation
def half_precision(recipe: dict, generator: np.random.Generator) -> Drawn:
    recipe["training"]["fp16"] = True
    return recipe, refused("fp16")


@settings.mutation
def same_numbers_written_otherwise(recipe: dict, generator: np.random.Generator) -> Drawn:
    text = yaml.safe_dump(recipe)
    ways = [
        lambda: text.replace("learning_rate: 0.001", "learning_rate: 1e-3"),
        lambda: text.replace("amc_weight: 2.0", "amc_weight: 2"),
        lambda: text.replace("max_steps: 30", "max_steps: 3e1"),
        lambda: text.replace("\n", "  # remark\n"),
        lambda: text.replace("\n", "\r\n"),
        lambda: "\ufeff" + text,
        lambda: "---\n" + text,
        lambda: yaml.safe_dump(recipe, default_flow_style=True),
        lambda: yaml.safe_dump(dict(reversed(recipe.items())), sort_keys=False),
        lambda: text.replace("use_augmentation: false", "use_augmentation: no"),
        lambda: text + "machine: {}\n",
        lambda: text + "machine:\n",
    ]
    return choose(generator, ways)(), UNAFFECTED


@settings.mutation
def no_yaml(recipe: dict, generator: np.random.Generator) -> Drawn:
    text = yaml.safe_dump(recipe)
    forms = [
        (text.replace(": ", ":", 3).replace("\n", "\n\t", 2), "is not YAML"),
        ("{" + text, "is not YAML"),
        ("a: b: c", "is not YAML"),
        ("model: !!python/object/apply:os.getcwd []", "is not YAML"),
        ("model: *nowhere", "is not YAML"),
        ("- model", "must hold sections"),
        ("7", "must hold sections"),
        (text.encode("utf-16"), "UTF-8"),
        (b"\xff\xfe\0", "recipe.yaml"),
        ("\0", "recipe.yaml, line 1"),
    ]
    value, words = choose(generator, forms)
    return value, refused(words)


@settings.mutation
def anchors_that_multiply(recipe: dict, generator: np.random.Generator) -> Drawn:
    levels = int(generator.integers(8, 12))
    lines = ["model:", "  - &a0 [" + ", ".join(["lol"] * 9) + "]"]
    lines += [f"  - &a{level} [" + ", ".join([f"*a{level - 1}"] * 9) + "]" for level in range(1, levels)]
    return "\n".join(lines), refused("where its anchors are written out")


@settings.mutation
def many_levels(recipe: dict, generator: np.random.Generator) -> Drawn:
    depth = int(generator.integers(1000, 4000))
    return choose(
        generator, ["model: " + "[" * depth, "model: " + "{a: " * depth, "[" * depth + "]" * depth]
    ), refused("levels, which no recipe has")


@settings.mutation
def base_that_leads_nowhere(recipe: dict, generator: np.random.Generator) -> Drawn:
    forms = [
        ("recipe.yaml", "leads back to itself"),
        ("nowhere", "no file nowhere"),
        ("../x.yaml", "no file ../x.yaml"),
    ]
    recipe["base"], words = choose(generator, forms)
    return recipe, refused(words)
