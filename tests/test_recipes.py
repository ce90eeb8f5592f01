"""Recipes: every key is checked, overrides are typed, models are built from a configuration or a checkpoint."""

import pytest
import torch
from testing_utils import build_tiny_config

from albef_amc import AlbefForPreTraining
from albef_amc.trainer.recipes import (
    ModelRecipe,
    build_arguments,
    build_model_and_processor,
    build_vocabulary,
    list_shipped,
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


@pytest.mark.parametrize("name", list_shipped("training"))
def test_shipped_recipes_are_complete(name, tmp_path):
    settings = ["model.checkpoint=runs/first"] if name != "demo" else []
    recipe = load_recipe(name, settings)
    assert build_arguments(recipe, tmp_path).output_dir == str(tmp_path)


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
    with pytest.raises(ValueError, match="must hold sections"):
        load_recipe(broken)


def test_vocabulary_of_the_data_knows_every_word_and_spells_others():
    pieces = build_vocabulary(["the red dog.", "The Cup"])
    assert pieces[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] and len(set(pieces)) == len(pieces)
    assert {"the", "red", "dog", "cup", "d", "##d"} <= set(pieces)


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
