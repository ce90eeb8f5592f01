# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc demo`, shortened: the files that it writes, what it measures and what it prints."""

import copy
import json

import pytest
from grounder_cases import build_tiny_grounder
from PIL import Image

from albef_amc import AlbefForImageTextMatching, AlbefProcessor
from albef_amc.cli.demo import MODELS, RUNS, _summarize, is_in_range
from albef_amc.cli.main import main
from albef_amc.datasets_scripts import load_grounding_dataset
from albef_amc.datasets_scripts.synthetic_grounding.phrases import vocabulary
from albef_amc.datasets_scripts.synthetic_grounding.statements import EXCHANGE_KINDS
from albef_amc.evaluation.checkpoints import hash_checkpoint
from albef_amc.evaluation.grounding_evaluation import evaluate_baselines
from albef_amc.publishing.checkpoint_publishing import prepare_publication
from albef_amc.trainer.training_recipes import ModelRecipe, build_model_and_processor, load_recipe

NUM_TEST_SCENES = 32  # the fewest that have a paired interval are 30
SHORT = (
    "max_steps=3",
    "eval_steps=2",
    "logging_steps=1",
    "per_device_train_batch_size=4",
    "disable_tqdm=true",
    "use_cpu=true",
    "train_data.num_train_scenes=16",
    "train_data.num_validation_scenes=12",
    f"train_data.num_test_scenes={NUM_TEST_SCENES}",
    "evaluation_data.split=validation[:4]",
)


def get_rows(folder, split):
    options = {"num_train_scenes": 16, "num_validation_scenes": 12, "num_test_scenes": NUM_TEST_SCENES}
    return list(load_grounding_dataset("synthetic", split, cache_dir=str(folder / "data"), **options))


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory):
    """What a short demo leaves; it starts from a model of random weights, in place of the one that ships."""
    folder, start = tmp_path_factory.mktemp("demo"), tmp_path_factory.mktemp("start") / "my-start"
    for part in build_model_and_processor(ModelRecipe(config="demo", vocabulary="data"), vocabulary()):
        part.save_pretrained(start)
    words = ["demo", "--output-dir", str(folder), "--json"]
    settings = (*SHORT, f"model.checkpoint={start}")
    assert main([*words, *(word for setting in settings for word in ("--set", setting))]) == 0
    return folder


@pytest.fixture(scope="module")
def metrics(demo_folder):
    return json.loads((demo_folder / "metrics.json").read_text())


@pytest.mark.slow
def test_demo_leaves_carded_checkpoints_that_start_from_the_base_model(demo_folder, metrics, tmp_path):
    for name in RUNS:
        checkpoint = demo_folder / name
        accuracy = metrics[name]["pointing_game_accuracy"]
        card = (checkpoint / "README.md").read_text()
        assert f"{100 * accuracy:.2f}" in card and "Started from my-start" in card
        assert json.loads((checkpoint / "metrics.json").read_text())["test"]["pointing_game_accuracy"] == accuracy
        assert metrics[name]["weights_sha256"] == hash_checkpoint(checkpoint)
        prepare_publication(checkpoint, tmp_path / name, "your-name/demo")
        model, processor = (cls.from_pretrained(checkpoint) for cls in (AlbefForImageTextMatching, AlbefProcessor))
        inputs = processor(images=[Image.new("RGB", (64, 64))], text=[["the red circle"]], return_tensors="pt")
        assert model.ground(**inputs).heatmap.shape == (1, 8, 8)
    assert len({metrics[name]["weights_sha256"] for name in MODELS}) == len(MODELS)


@pytest.mark.slow
def test_demo_measures_the_same_of_all_three_models(demo_folder, metrics):
    rows = get_rows(demo_folder, "test")
    for name in MODELS:
        measured = metrics[name]
        assert measured["num_phrases"] == sum(len(row["phrases"]) for row in rows)
        assert set(measured["exchange_auc"]) <= set(EXCHANGE_KINDS) and measured["exchange_auc"]
        assert "unseen_composition" in measured["pointing_game_accuracy_by_type"]
        accuracies = ["pointing_game_accuracy", "shuffled_phrases_accuracy", "recall_at_1_any", "matching_auc"]
        assert all(0 <= measured[accuracy] <= 1 for accuracy in accuracies)
        assert set(measured["mask_thresholds"]) == {"any", "merged", "all"}
    assert metrics["baselines"] == evaluate_baselines(rows)
    with_amc, without = (metrics[name] for name in ("with_amc", "without_amc"))
    accuracy = with_amc["pointing_game_accuracy"]
    gains = {
        "gain": accuracy - without["pointing_game_accuracy"],
        "gain_over_largest_object": accuracy - metrics["baselines"]["largest_object"],
    }
    for key, gain in gains.items():
        low, high = metrics["confidence_interval"][key]
        assert metrics[key] == pytest.approx(gain)
        assert low <= gain <= high
        assert metrics["confidence_interval"]["computed"][key] == f"paired bootstrap over {NUM_TEST_SCENES} images"
    assert metrics["matching_auc_change"]["from_base"] == pytest.approx(
        with_amc["matching_auc"] - metrics["base"]["matching_auc"]
    )


@pytest.mark.slow
def test_demo_leaves_pictures_and_a_scene_with_its_phrases(demo_folder, metrics):
    for name in ("sheet.png", "curves.png"):
        with Image.open(demo_folder / name) as picture:
            assert min(picture.size) > 300
    scene, row = metrics["scene"], get_rows(demo_folder, "test")[2]
    with Image.open(scene["picture"]) as picture:
        assert picture.tobytes() == row["image"].tobytes()
    assert [phrase["phrase"] for phrase in scene["phrases"]] == [phrase["phrase"] for phrase in row["phrases"]]
    model, processor = (
        cls.from_pretrained(demo_folder / "with_amc") for cls in (AlbefForImageTextMatching, AlbefProcessor)
    )
    texts = [[phrase["phrase"] for phrase in scene["phrases"]]]
    inputs = processor(images=[scene["picture"]], text=texts, return_tensors="pt")
    (answers,) = processor.post_process_grounding(model.ground(**inputs))
    assert [answer["point"].tolist() for answer in answers] == [phrase["point"] for phrase in scene["phrases"]]


@pytest.mark.slow
def test_both_runs_begin_with_the_same_weights_and_batches_and_differ_in_amc_alone(demo_folder, metrics):
    cards = {name: (demo_folder / name / "README.md").read_text() for name in RUNS}
    assert "| amc_weight | 0.0 |" in cards["without_amc"] and "| amc_weight | 0.0 |" not in cards["with_amc"]
    differing = [
        lines
        for lines in zip(*(card.splitlines() for card in cards.values()), strict=True)
        if lines[0] != lines[1] and lines[0].startswith("|") and "weight" in lines[0]
    ]
    assert len(differing) == 1
    first_losses = [
        {term: metrics["logs"][name][term][0] for term in ("itc_loss", "itm_loss", "mlm_loss")} for name in RUNS
    ]
    assert first_losses[0] == first_losses[1]


def test_the_recipe_starts_from_the_base_model_with_the_published_margins_and_weights():
    recipe = load_recipe("demo")
    assert recipe.model.checkpoint == "base"
    published = {"amc_weight": 1, "mean_margin": 0.1, "mean_weight": 0.2, "max_margin": 0.5, "max_weight": 0.8}
    assert {name: recipe.training[name] for name in published} == published
    assert recipe.training["use_text_ids"] is True


def build_result():
    """A result inside the expected range, as small as the summary allows."""
    measured = {
        "pointing_game_accuracy": 0.8,
        "pointing_game_accuracy_by_type": {"unseen_composition": 0.7},
        "shuffled_phrases_accuracy": 0.25,
        "recall_at_1_any": 0.5,
        "matching_auc": 0.97,
        "exchange_auc": {"color": 0.9},
    }
    return {
        **{name: copy.deepcopy(measured) for name in MODELS},
        "baselines": {"center_point": 0.0625, "largest_object": 0.35},
        "gain": 0.2,
        "gain_over_largest_object": 0.45,
        "confidence_interval": {"confidence": 0.95, "gain": [0.18, 0.22], "gain_over_largest_object": None},
        "matching_auc_change": {"from_base": -0.005, "from_without_amc": 0.001},
        "is_in_range": True,
        "sheet": "sheet.png",
        "curves": "curves.png",
        "scene": {"picture": "scene.png"},
        "seconds": 300.0,
    }


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("with_amc", "pointing_game_accuracy"), 0.5),
        (("with_amc", "shuffled_phrases_accuracy"), 0.5),
        (("gain",), 0.01),
        (("gain_over_largest_object",), 0.1),
        (("matching_auc_change", "from_base"), -0.05),
        (("matching_auc_change", "from_without_amc"), -0.05),
    ],
)
def test_each_number_of_the_expected_range_counts(path, value):
    result = build_result()
    assert is_in_range(result)
    owner = result
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = value
    assert not is_in_range(result)


def test_the_summary_is_a_table_of_three_columns():
    lines = _summarize(build_result())
    assert lines["on held-out scenes"].split() == "base without AMC with AMC".split()
    assert lines["pointing game"].split() == ["80.0", "%"] * 3
    assert {len(lines[name]) for name in ("on held-out scenes", "pointing game", "    color exchanged")} == {3 * 14}
    assert lines["    unseen composition"].split() == ["70.0", "%"] * 3
    assert lines["without reading words"] == "center point 6.2 %, largest object 35.0 %"
    assert lines["AMC over the same budget without"] == "+20.0 points, 95 % interval +18.0 to +22.0"
    assert lines["AMC over the largest object"] == "+45.0 points"


def test_mistyped_setting_is_named(capsys, tmp_path):
    assert main(["demo", "-o", str(tmp_path), "--set", "max_step=3"]) == 2
    assert "Did you mean `max_steps`" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_that_is_not_an_albef_is_refused(capsys, tmp_path):
    build_tiny_grounder("blip-itm").save_pretrained(tmp_path / "blip")
    settings = (*SHORT, f"model.checkpoint={tmp_path / 'blip'}")
    words = ["demo", "-o", str(tmp_path / "demo"), *(word for setting in settings for word in ("--set", setting))]
    assert main(words) == 2
    assert "must be an ALBEF" in capsys.readouterr().err
