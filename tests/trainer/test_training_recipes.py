"""Recipes: every key is checked, overrides are typed, models are built from a configuration or a checkpoint."""

import dataclasses
import inspect
import json
import re
from pathlib import Path

import pytest
import torch
from testing_utils import GOLDEN_FOLDER, build_tiny_config

from albef_amc import AlbefForPreTraining
from albef_amc.configuration.shipped_files import list_shipped, resolve_shipped
from albef_amc.datasets_scripts import BUILDERS
from albef_amc.model_cards import ModelCard
from albef_amc.trainer.schedules import build_albef_cosine
from albef_amc.trainer.training_recipes import (
    ModelRecipe,
    Recipe,
    build_arguments,
    build_model_and_processor,
    build_vocabulary,
    load_recipe,
)

CONTENT = """
model: {checkpoint: runs/first}
train_data: {name: synthetic, split: train}
training: {learning_rate: 1e-5, max_steps: 3}
"""


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(CONTENT)
    return path


# What a user gives to a shipped recipe, by what it starts from.
GIVEN = {"albef_pretrain": ["model.vocabulary=vocab.txt"]}
GIVEN |= {name: [] for name in ("albef_pretrain_encoders", "base_scenes", "coco_phrases_encoders", "demo")}
OF_OWN_DATA = ("base_scenes", "coco_phrases", "coco_phrases_encoders", "demo", "own_boxes")
PUBLISHED = [name for name in list_shipped("training") if name not in OF_OWN_DATA]
ON_EIGHT = [name for name in PUBLISHED if not name.endswith("_single_gpu")]
SOURCED_LINE = re.compile(r"^  ([a-z_0-9]+): .*  # (AMC|ALBEF|ours)(;|:|$)")


def list_given(name: str) -> list[str]:
    return [*GIVEN.get(name.removesuffix("_single_gpu"), ["model.checkpoint=runs/first"]), "use_cpu=true"]


def load_shipped(name: str) -> Recipe:
    return load_recipe(name, list_given(name))


@pytest.mark.parametrize("name", list_shipped("training"))
def test_shipped_recipes_are_complete(name, tmp_path):
    recipe = load_shipped(name)
    assert build_arguments(recipe, tmp_path).output_dir == str(tmp_path)
    assert recipe.output_dir == str(Path("runs", name))
    assert ModelCard(**{"model_name": name, "description": "A small model.", **recipe.card}).source


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_value_of_a_published_recipe_cites_its_source(name):
    text = resolve_shipped(name, "training", ".yaml").read_text()
    section = None
    for line in text.splitlines():
        section = line.rstrip(":") if re.match(r"[a-z]", line) else section
        if line.startswith("  ") and section in ("machine", "model", "training", "peft"):
            assert SOURCED_LINE.match(line), f"{name}: no source in {line!r}"
    assert text.startswith("#") and f"{name}" in text.partition("\n\n")[0], "the header shows the command"


@pytest.mark.parametrize("name", list_shipped("training"))
def test_a_recipe_recommends_a_precision_and_keeps_the_published_one(name, tmp_path):
    header = resolve_shipped(name, "training", ".yaml").read_text().partition("\n\n")[0]
    recommended = re.search(
        r"^# Recommended precision: (bfloat16|float32)\b.*\n(?:#.*\n)*?#     --set (\S+)$", header, re.M
    )
    assert recommended, "the header recommends a precision, with the words for it"
    recipe = load_shipped(name)
    assert not build_arguments(recipe, tmp_path).bf16
    recipe = load_recipe(name, [*list_given(name), recommended[2]])
    assert build_arguments(recipe, tmp_path).bf16 == (recommended[1] == "bfloat16")


@pytest.mark.parametrize("name", ON_EIGHT)
def test_a_builder_takes_the_arguments_of_the_data(name):
    recipe = load_shipped(name)
    for data in (recipe.train_data, recipe.evaluation_data or recipe.train_data):
        if data["name"] not in BUILDERS:
            pytest.skip(f"no builder {data['name']} in this version")
        known = inspect.signature(BUILDERS[data["name"]].BUILDER_CONFIG_CLASS).parameters
        assert set(data) - {"name", "split"} <= set(known)


def test_amc_vg_has_the_published_values(tmp_path):
    """Values of the released code, written here a second time, and the schedule of the reference outputs."""
    arguments = build_arguments(load_shipped("amc_vg"), tmp_path)
    published = json.loads((GOLDEN_FOLDER / "tiny_pretrain_step" / "optimizer.json").read_text())
    first, group = published["schedules"][0], published["groups"][1]
    schedule = build_albef_cosine(arguments)
    rates = [schedule.compute_learning_rate(arguments.learning_rate, t) for t in range(len(first["lr_at_t"]))]
    assert rates == first["lr_at_t"]
    assert arguments.num_train_epochs == first["config"]["epochs"] == 30
    assert [arguments.adam_beta1, arguments.adam_beta2] == group["betas"] and arguments.adam_epsilon == group["eps"]
    assert arguments.weight_decay == group["weight_decay"] == 0.02
    assert (arguments.per_device_train_batch_size, load_shipped("amc_vg").machine) == (64, {"num_processes": 8})
    (objective,) = arguments.build_heatmap_objectives().objectives
    assert (objective.mean_margin, objective.max_margin) == (0.1, 0.5)
    assert (objective.mean_weight, objective.max_weight) == (0.2, 0.8)
    assert (arguments.distillation_alpha, arguments.mlm_probability, arguments.max_length) == (0.4, 0.15, 25)
    assert (arguments.max_grad_norm, arguments.bf16, arguments.epoch_unit) == (0, False, "phrase")


def test_refcoco_plus_follows_the_second_schedule_of_the_reference_outputs(tmp_path):
    recipe = load_shipped("amc_refcoco_plus")
    arguments = build_arguments(recipe, tmp_path)
    second = json.loads((GOLDEN_FOLDER / "tiny_pretrain_step" / "optimizer.json").read_text())["schedules"][1]
    schedule = build_albef_cosine(arguments)
    rates = [schedule.compute_learning_rate(arguments.learning_rate, t) for t in range(len(second["lr_at_t"]))]
    assert rates == second["lr_at_t"]
    assert recipe.train_data == {"name": "refcoco", "split": "train", "dataset": "refcoco+", "split_by": "unc"}
    assert recipe.evaluation_data == {**recipe.train_data, "split": "val"}
    assert recipe.model.image_size == 384


def test_the_released_recipe_differs_from_the_paper_in_its_options_alone():
    paper, released = load_shipped("amc_vg"), load_shipped("amc_vg_released")
    changed = {name for name in released.training if released.training[name] != paper.training.get(name)}
    assert changed == {
        "amc_mean_reduction", "distillation_axis", "heatmap_denominator", "box_choice", "candidate_scope",
        "flip", "use_text_ids",
    }  # fmt: skip
    assert (released.model, released.train_data, released.machine) == (paper.model, paper.train_data, paper.machine)
    baseline = load_shipped("baseline_vg")
    assert {name for name in baseline.training if baseline.training[name] != paper.training[name]} == {"amc_weight"}


@pytest.mark.parametrize("name", ON_EIGHT)
def test_the_single_gpu_version_takes_the_same_step(name, tmp_path):
    steps = []
    for version in (name, f"{name}_single_gpu"):
        recipe = load_shipped(version)
        arguments = build_arguments(recipe, tmp_path)
        images = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
        steps.append(images * recipe.machine["num_processes"])
        recipe.training.update(per_device_train_batch_size=1, gradient_accumulation_steps=1)
        recipe.machine.clear()
        steps.append(dataclasses.replace(recipe, output_dir=None))
    assert steps[:2] == steps[2:]


def test_a_recipe_extends_its_base_key_by_key(recipe_file, tmp_path):
    (tmp_path / "middle.yaml").write_text("base: recipe.yaml\ntraining: {seed: 5}\ntrain_data: {split: all}\n")
    (tmp_path / "top.yaml").write_text(
        "base: middle.yaml\nmodel: {image_size: 64}\ntraining: {max_steps: 9}\noutput_dir: elsewhere\n"
    )
    recipe = load_recipe(tmp_path / "top.yaml", ["seed=6"])
    assert recipe.model == ModelRecipe(checkpoint="runs/first", image_size=64)
    assert recipe.training == {"learning_rate": "1e-5", "max_steps": 9, "seed": 6}
    assert recipe.train_data == {"name": "synthetic", "split": "all"}
    assert recipe.output_dir == "elsewhere"
    assert load_recipe(tmp_path / "middle.yaml").output_dir == str(Path("runs", "middle"))
    assert load_recipe(tmp_path / "top.yaml", ["output_dir=runs/7"]).output_dir == "runs/7"
    (tmp_path / "other.yaml").write_text("base: top.yaml\ntrain_data: {name: coco_phrases, split: train}\n")
    assert load_recipe(tmp_path / "other.yaml").train_data == {"name": "coco_phrases", "split": "train"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("base: no_such\n", "no file no_such.*among those that ship"),
        ("base: top.yaml\n", "leads back to itself"),
        ("base: recipe.yaml\ntraining: {sed: 1}\n", "unknown key `sed`. Did you mean `seed`"),
        ("base: recipe.yaml\ntraining: 3\n", "section `training` must hold keys"),
        ("base: recipe.yaml\ntraining: {output_dir: runs}\n", "unknown key `output_dir`"),
        ("base: recipe.yaml\nmachine: {num_proceses: 8}\n", "Did you mean `num_processes`"),
        ("base: recipe.yaml\nmachine: {num_processes: eight}\n", "`machine.num_processes` must be a whole number"),
        ("bas: recipe.yaml\n", "Did you mean `base`"),
    ],
)
def test_mistakes_on_top_of_a_base_are_named(recipe_file, tmp_path, content, words):
    (tmp_path / "top.yaml").write_text(content)
    with pytest.raises((TypeError, ValueError, FileNotFoundError), match=words):
        load_recipe(tmp_path / "top.yaml")


def test_overrides_reach_their_sections_with_their_types(recipe_file, tmp_path):
    settings = ["learning_rate=2e-5", "use_augmentation=false", "train_data.split=all", "training.seed=7"]
    recipe = load_recipe(recipe_file, [*settings, "model.image_size=384"])
    arguments = build_arguments(recipe, tmp_path)
    assert arguments.learning_rate == 2e-5 and arguments.seed == 7 and arguments.use_augmentation is False
    assert recipe.train_data["split"] == "all" and recipe.model.image_size == 384
    assert build_arguments(load_recipe(recipe_file), tmp_path).learning_rate == 1e-5


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("learing_rate=1", "unknown key `learing_rate`. Did you mean `learning_rate`"),
        ("model.checkpont=a", "unknown key `checkpont`. Did you mean `checkpoint`"),
        ("trainig.seed=1", "unknown key `trainig`. Did you mean `training`"),
        ("learning_rate", "not of the form key=value"),
        ("model.config=demo", "either `checkpoint` or `config`"),
        ("model.text_encoder=bert", "`model.vision_encoder` and `model.text_encoder` belong together"),
    ],
)
def test_mistyped_overrides_are_named(recipe_file, setting, words):
    with pytest.raises(ValueError, match=words):
        load_recipe(recipe_file, [setting])


def test_missing_and_broken_recipes(tmp_path):
    with pytest.raises(FileNotFoundError, match="among those that ship: .*demo"):
        load_recipe("no_such_recipe")
    broken = tmp_path / "broken.yaml"
    broken.write_text("model: {")
    with pytest.raises(ValueError, match="is not YAML"):
        load_recipe(broken)
    broken.write_text("- a\n- b\n")
    with pytest.raises(ValueError, match="must hold keys"):
        load_recipe(broken)


def test_vocabulary_of_the_data_knows_every_word_and_spells_others():
    tokens = build_vocabulary(["the red dog.", "The Cup"])
    assert tokens[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] and len(set(tokens)) == len(tokens)
    assert {"the", "red", "dog", "cup", "d", "##d"} <= set(tokens)


def test_model_from_a_configuration_fits_its_tokenizer():
    torch.manual_seed(0)
    model, processor = build_model_and_processor(ModelRecipe(config="demo", vocabulary="data"), ["the red dog"])
    assert model.config.text_config.vocab_size == len(processor.tokenizer)
    assert model.config.text_config.mask_token_id == processor.tokenizer.mask_token_id
    inputs = processor(text=["the red dog"], return_tensors="pt")
    assert processor.tokenizer.unk_token_id not in inputs["input_ids"]


def test_model_from_a_checkpoint_at_another_size(tmp_path, tiny_processor):
    AlbefForPreTraining(build_tiny_config()).save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    model, processor = build_model_and_processor(ModelRecipe(checkpoint=str(tmp_path), image_size=64), [])
    assert model.config.vision_config.grid_size == (8, 8)
    assert processor.image_processor.size["height"] == 64


@pytest.mark.parametrize("start", ["random", "matching_checkpoint"])
def test_what_is_drawn_for_a_model_comes_from_the_seed(start, checkpoint):
    recipe = {
        "random": ModelRecipe(config="demo", vocabulary="data"),
        "matching_checkpoint": ModelRecipe(checkpoint=str(checkpoint)),  # its masked-word head and queues are new
    }[start]

    def build(seed: int, before: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(before)  # what the process drew before must not matter
        return build_model_and_processor(recipe, ["the red dog"], seed)[0].state_dict()

    first, again, other = build(3, before=0), build(3, before=1), build(4, before=0)
    assert [name for name in first if not torch.equal(first[name], again[name])] == []
    differing = {name for name in first if not torch.equal(first[name], other[name])}
    assert {"image_queue", "text_queue", "mlm_head.dense.weight"} <= differing


def test_sections_can_be_omitted():
    recipe = load_recipe("demo", ["evaluation_data=null", "eval_strategy=no"])
    assert recipe.evaluation_data is None and load_recipe("demo").evaluation_data is not None


def test_the_two_forms_of_an_option_of_amc_do_not_contradict_each_other(tmp_path):
    same = ["amc_weight=2", "objectives={amc: 2.0, dice: 0.5}"]
    assert build_arguments(load_recipe("demo", same), tmp_path).amc_weight == 2.0
    for weight in (1, 3):  # the default, and another value
        recipe = load_recipe("demo", [f"amc_weight={weight}", "objectives={amc: 2.0}"])
        with pytest.raises(
            ValueError, match=rf"`amc_weight={weight}\S*` is the short form of `objectives.amc.weight`"
        ):
            build_arguments(recipe, tmp_path)
