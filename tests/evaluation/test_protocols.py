"""Recipes of `configuration/evaluation`: every value cites its source, wrong keys are named, departures are found."""

import re

import pytest
import yaml
from testing_utils import FIXTURES_FOLDER, PROJECT_FOLDER, build_rows

from albef_amc.configuration.shipped_files import CONFIGURATION_FOLDER, list_shipped
from albef_amc.datasets_scripts import BUILDERS
from albef_amc.evaluation.grounding_evaluation import evaluate_grounding
from albef_amc.evaluation.protocols import (
    EvaluationRecipe,
    find_evaluation_recipe,
    list_departures,
    load_evaluation_recipe,
    resolve_split,
)

SHIPPED = list_shipped("evaluation")
BICUBIC = 3
VALID = {"data": {"name": "synthetic"}, "splits": {"test": "test"}}


def write(tmp_path, **changes):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**VALID, **changes}))
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_load_and_cite_a_source_for_every_value(name):
    recipe = load_evaluation_recipe(name)
    assert recipe.name == name and recipe.resample == "bicubic" and recipe.max_length is None
    lines = (CONFIGURATION_FOLDER / "evaluation" / f"{name}.yaml").read_text().splitlines()
    protocol = [line for line in lines if re.match(r"^( {2})?\w+: \S", line) and not line.startswith("  name:")]
    for line in protocol:
        if not line.startswith("  dataset:"):
            assert re.search(r"  # (AMC|ALBEF|ALBEF, AMC|refer|ours)[,:;] ?", line), line
    for number in recipe.published:
        assert number.source and number.split in recipe.splits
    assert recipe.data["name"] in BUILDERS


def test_the_protocols_are_the_published_ones():
    recipes = {name: load_evaluation_recipe(name) for name in SHIPPED}
    assert recipes["flickr30k_entities"].image_size == 256
    assert recipes["flickr30k_entities"].num_phrases == {"test": 14481}
    assert recipes["refcoco_plus"].image_size == recipes["refclef"].image_size == 384
    assert recipes["refcoco_plus"].num_phrases == {"testA": 5726, "testB": 4889}
    ranking = recipes["refcoco_plus"].proposal_ranking
    assert (ranking.area_exponent, ranking.overlap_rule) == (0.5, "released")


def test_the_page_names_every_recipe():
    text = (PROJECT_FOLDER / "docs" / "evaluation.md").read_text()
    assert [name for name in SHIPPED if f"`{name}`" not in text] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_sizes": 256}, "unknown key `image_sizes`. Did you mean `image_size`"),
        ({"image_size": "256 px"}, "`image_size` must be a whole number"),
        ({"data": {"split": "test"}}, "`data` must hold `name`"),
        ({"splits": ["test"]}, "`splits` must map names to splits"),
        ({"resample": "cubic"}, "`resample` must be one of .*'bicubic'.*, got 'cubic'. Did you mean `bicubic`"),
        ({"box_rule": "all"}, "`box_rule` must be one of 'any', 'merged', got 'all'"),
        ({"proposal_ranking": {"area_exponent": 0.5}}, "proposal_ranking lacks `overlap_rule`"),
        ({"proposal_ranking": 0.5}, "proposal_ranking must hold keys with values"),
        ({"num_phrases": {"testA": 7}}, "`split` must be one of 'test', got 'testA'"),
        ({"published": [{"method": "x", "split": "test", "percent": 0.7}]}, "published lacks `source`"),
        (
            {"published": [dict(method="x", split="test", percent=786, source="s")]},
            r"must be a number in \[0, 100\], got 786",
        ),
        ({"published": [dict(method="x", split="test", percent=7, source="s", measure="iou")]}, "`measure`"),
    ],
)
def test_a_wrong_recipe_is_named_with_its_file(tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"mine\.yaml: .*{message}"):
        load_evaluation_recipe(write(tmp_path, **changes))


def test_what_is_not_a_recipe(tmp_path):
    (tmp_path / "mine.yaml").write_text("data: [")
    with pytest.raises(ValueError, match=r"mine\.yaml is not YAML"):
        load_evaluation_recipe(tmp_path / "mine.yaml")
    (tmp_path / "mine.yaml").write_text("text")
    with pytest.raises(ValueError, match=r"mine\.yaml must hold keys"):
        load_evaluation_recipe(tmp_path / "mine.yaml")
    with pytest.raises(FileNotFoundError, match="refcoco_plus"):
        load_evaluation_recipe("refcoco_minus")
    assert find_evaluation_recipe("refer") is None and find_evaluation_recipe("your-name/data") is None


def test_patterns_become_splits_of_the_data(tmp_path):
    recipe = load_evaluation_recipe("refclef")
    data = recipe.choose_data({"data_root": str(FIXTURES_FOLDER / "refer"), "cache_dir": str(tmp_path)})
    assert data["dataset"] == "refclef"
    assert resolve_split(recipe, "test", data) == "testA+testAB+testBC+testC"
    assert resolve_split(recipe, "val[:10]", data) == "val[:10]"
    recipe.splits["test"] = "exam*"
    with pytest.raises(ValueError, match=r"no split of refcoco fits 'exam\*'; it has train, val, testA"):
        resolve_split(recipe, "test", data)


def test_data_with_a_name_of_its_own_replaces_that_of_the_recipe():
    recipe = load_evaluation_recipe("refcoco_plus")
    data = recipe.choose_data({"name": "your-name/refcoco-plus"})
    assert data == {"name": "your-name/refcoco-plus"}
    departures = list_departures(recipe, "testA", data, (384, 384), BICUBIC)
    assert departures[0] == "`name` of the data is your-name/refcoco-plus, not refcoco"
    hidden = list_departures(recipe, "testA", {"name": "/data/refcoco"}, (384, 384), BICUBIC)
    assert hidden[0] == "`name` of the data is NAME, not refcoco"


def test_departures_from_the_protocol_are_listed():
    recipe = load_evaluation_recipe("refcoco_plus")
    data = recipe.choose_data({"data_root": "refer", "detections_file": "dets.json"})
    assert list_departures(recipe, "testA", data, (384, 384), BICUBIC) == []
    assert list_departures(recipe, "train", data, (256, 320), 2) == [
        "train is not among the splits val, testA, testB",
        "images are 256 x 320, not 384 x 384",
        "images are resized by the filter bilinear, not bicubic",
    ]
    assert list_departures(load_evaluation_recipe("synthetic"), "test", {"name": "synthetic"}, (64, 64), BICUBIC) == []


def test_phrases_are_truncated_where_the_recipe_says_so(tiny_model, tiny_processor):
    """With one token after [CLS], two phrases with the same first token are the same phrase."""
    rows = build_rows(1)
    rows[0]["phrases"][0]["phrase"], rows[0]["phrases"][1]["phrase"] = "a red dog", "a blue car"
    recipe = EvaluationRecipe(**VALID, max_length=2)
    short = evaluate_grounding(tiny_model, tiny_processor, rows, max_length=recipe.max_length).results
    whole = evaluate_grounding(tiny_model, tiny_processor, rows).results
    assert short[0].score == pytest.approx(short[1].score, abs=1e-6)
    assert whole[0].score != pytest.approx(whole[1].score, abs=1e-6)
