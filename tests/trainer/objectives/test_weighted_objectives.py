"""What holds for every registered objective on heatmaps, and their sum by name and weight."""

import dataclasses
import importlib
import re

import pytest
import torch
import yaml
from testing_utils import PROJECT_FOLDER

from albef_amc.trainer import AmcConfig, AttentionMaskConsistencyLoss
from albef_amc.trainer.objectives.heatmap_objective import (
    OBJECTIVES,
    RegionObjective,
    register_objective,
)
from albef_amc.trainer.objectives.weighted_objectives import HeatmapObjectives, build_objective

NAMES = sorted(OBJECTIVES)
NUM_PHRASES, GRID, MASK_SIDE = 8, 4, 6
ABSENT = {"has_region": torch.zeros(NUM_PHRASES, dtype=torch.bool), "paraphrase_index": torch.full((NUM_PHRASES,), -1)}


def build_inputs(dtype=torch.float32) -> dict[str, torch.Tensor]:
    """Eight phrases: half a batch is rows 0 to 3 or 4 to 7, with two regions and two pairs, or three and one."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(NUM_PHRASES, MASK_SIDE, MASK_SIDE, dtype=dtype)
    for index in range(NUM_PHRASES):
        mask[index, index % 3 : index % 3 + 3, 1 : 2 + index % 4] = 1.0
        mask[index, 5, 5] = 0.25
    return {
        "normalized_heatmap": torch.rand(NUM_PHRASES, GRID, GRID, generator=generator, dtype=dtype),
        "region_mask": mask,
        "has_region": torch.tensor([True, False, True, False, True, True, True, False]),
        "paraphrase_index": torch.tensor([1, -1, 3, -1, 5, -1, -1, -1]),
    }


def call(objective, inputs: dict[str, torch.Tensor], **options) -> dict[str, torch.Tensor]:
    tensors = {name: inputs[name] for name in objective.inputs}
    return objective(inputs["normalized_heatmap"], **tensors, **options)


def list_losses(losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in losses.items() if name.endswith("_loss")}


@pytest.fixture(params=NAMES)
def objective(request):
    return OBJECTIVES[request.param]()


def test_the_family():
    assert {"amc", "dice", "kl", "selfeq"} <= set(NAMES)


def test_every_objective_has_its_two_files_and_the_parts_of_its_docstring(objective):
    module = importlib.import_module(type(objective).__module__)
    assert module.__name__ == f"albef_amc.trainer.objectives.{objective.name}"
    assert (PROJECT_FOLDER / "tests/trainer/objectives" / f"test_{objective.name}.py").is_file()
    for part in ("Formula", "Inputs:", "Reduction:", "Example:"):
        assert part in type(objective).__doc__, part
    assert "Source:" in type(objective).__doc__ or "Departures:" in type(objective).__doc__
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.name = "other"


def test_names_of_the_losses(objective):
    losses = list_losses(call(objective, build_inputs()))
    assert f"{objective.name}_loss" in losses
    assert all(name.startswith(f"{objective.name}_") and value.ndim == 0 for name, value in losses.items())
    assert all(value > 0 for value in losses.values())


def test_the_order_of_phrases_changes_nothing(objective):
    inputs = build_inputs()
    order = torch.tensor([3, 6, 0, 7, 5, 1, 4, 2])
    places = torch.argsort(order)
    shuffled = {name: tensor[order] for name, tensor in inputs.items()}
    index = shuffled["paraphrase_index"]
    shuffled["paraphrase_index"] = torch.where(index >= 0, places[index.clamp(min=0)], -1)
    torch.testing.assert_close(call(objective, shuffled), call(objective, inputs))


@pytest.mark.slow
def test_gradcheck(objective):
    inputs = build_inputs(torch.float64)
    heatmap = inputs["normalized_heatmap"].requires_grad_()

    def loss(normalized_heatmap):
        return call(objective, {**inputs, "normalized_heatmap": normalized_heatmap})[f"{objective.name}_loss"]

    assert torch.autograd.gradcheck(loss, (heatmap,))


def test_float32_under_autocast_and_for_bfloat16(objective):
    inputs = build_inputs()
    expected = list_losses(call(objective, inputs))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = list_losses(call(objective, inputs))
    half = list_losses(call(objective, {**inputs, "normalized_heatmap": inputs["normalized_heatmap"].bfloat16()}))
    for name, value in expected.items():
        assert torch.equal(inside[name], value) and half[name].dtype == torch.float32


def test_zero_and_in_the_graph_where_no_phrase_takes_part(objective):
    inputs = {**build_inputs(), **ABSENT}
    heatmap = inputs["normalized_heatmap"].requires_grad_()
    losses = list_losses(call(objective, inputs))
    assert all(value.item() == 0 and value.requires_grad for value in losses.values())
    losses[f"{objective.name}_loss"].backward()
    assert torch.equal(heatmap.grad, torch.zeros_like(heatmap))
    assert objective.count(**{name: inputs[name] for name in objective.inputs}).item() == 0


def test_phrases_that_take_no_part_change_nothing_and_get_no_gradient(objective):
    inputs = build_inputs()
    expected = list_losses(call(objective, inputs))
    apart = 7  # neither a region nor a pair
    heatmap = inputs["normalized_heatmap"].clone()
    heatmap[apart] = float("nan")
    heatmap.requires_grad_()
    losses = list_losses(call(objective, {**inputs, "normalized_heatmap": heatmap}))
    torch.testing.assert_close({name: value.detach() for name, value in losses.items()}, expected)
    losses[f"{objective.name}_loss"].backward()
    assert torch.equal(heatmap.grad[apart], torch.zeros(GRID, GRID))
    assert torch.isfinite(heatmap.grad).all() and heatmap.grad.abs().sum() > 0


def test_heatmaps_of_other_phrases_are_not_read(objective):
    inputs = build_inputs()
    found = objective.find_phrases(**{name: inputs[name] for name in objective.inputs})
    assert found.dtype == torch.bool and 0 < found.sum() < NUM_PHRASES
    heatmap = inputs["normalized_heatmap"].clone().requires_grad_()
    list_losses(call(objective, {**inputs, "normalized_heatmap": heatmap}))[f"{objective.name}_loss"].backward()
    assert torch.equal(heatmap.grad.flatten(1).any(dim=1), found)


def test_phrases_of_several_objectives_are_those_of_any():
    inputs = build_inputs()
    alone = [HeatmapObjectives([build_objective(name, 1.0)]).find_phrases(inputs) for name in ("dice", "selfeq")]
    both = HeatmapObjectives([build_objective(name, 1.0) for name in ("dice", "selfeq")])
    assert not torch.equal(alone[0], alone[1])
    assert torch.equal(both.find_phrases(inputs), alone[0] | alone[1])


def split_in_two(inputs: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    halves = [{name: tensor[rows] for name, tensor in inputs.items()} for rows in (slice(0, 4), slice(4, 8))]
    index = halves[1]["paraphrase_index"]
    halves[1]["paraphrase_index"] = torch.where(index >= 0, index - 4, -1)
    return halves


def test_two_halves_normalised_by_the_global_count_are_the_whole():
    """As the trainer does it: global count over two processes as the share of each, and the mean over both."""
    objectives = HeatmapObjectives([build_objective(name, 0.5) for name in NAMES])
    inputs = build_inputs()
    whole = inputs["normalized_heatmap"].clone().requires_grad_()
    total, terms = objectives(whole, inputs)
    total.backward()
    parts = inputs["normalized_heatmap"].clone().requires_grad_()
    halves = split_in_two({**inputs, "normalized_heatmap": parts})
    shares = sum(objectives.count_regions(half) for half in halves) / 2
    assert (shares * 2).tolist() == objectives.count_regions(inputs).tolist()
    results = [objectives(half["normalized_heatmap"], half, shares) for half in halves]
    (sum(result for result, _ in results) / 2).backward()
    torch.testing.assert_close(parts.grad, whole.grad)
    for name, value in terms.items():
        torch.testing.assert_close(sum(half_terms[name] for _, half_terms in results) / 2, value)


def test_counts_and_weights_by_name():
    objectives = HeatmapObjectives([build_objective("dice", 0.5), build_objective("selfeq", {"weight": 2.0})])
    inputs = build_inputs()
    assert objectives.count_regions(inputs).tolist() == [5, 3]
    total, terms = objectives(inputs["normalized_heatmap"], inputs)
    assert total.item() == pytest.approx(0.5 * terms["dice_loss"].item() + 2 * terms["selfeq_loss"].item(), rel=1e-6)
    assert set(terms) == {"dice_loss", "selfeq_loss", "selfeq_similarity_loss", "selfeq_consistency_loss"}


def test_options_of_a_recipe_reach_the_objective():
    weight, objective = build_objective("kl", {"weight": "1e-1", "epsilon": "2e-2"})  # as YAML reads 1e-1
    assert (weight, objective.epsilon) == (0.1, 0.02)
    assert build_objective("kl", {})[0] == 1.0
    assert build_objective("amc", {"mean_reduction": "batch"})[1].mean_reduction == "batch"


@pytest.mark.parametrize(
    ("name", "setting", "words"),
    [
        ("dise", 1.0, "unknown objective `dise`. Did you mean `dice`"),
        ("hinge", 1.0, "Valid: amc, dice, kl, selfeq"),
        ("kl", {"epsilom": 1.0}, "`objectives.kl`: unknown option `epsilom`. Did you mean `epsilon`"),
        ("kl", {"epsilon": "small"}, "`objectives.kl.epsilon` must be a number, got 'small'"),
        ("kl", "much", "`objectives.kl.weight` must be a number"),
        ("kl", None, "`objectives.kl.weight` must be a number"),
        ("dice", -1.0, "`objectives.dice.weight` must be a finite number of at least 0, got -1.0"),
    ],
)
def test_wrong_settings_are_named(name, setting, words):
    with pytest.raises(ValueError, match=words):
        build_objective(name, setting)


@pytest.mark.parametrize(
    "settings",
    [
        {"amc_weight": 2.0, "mean_margin": 0.3, "amc_mean_reduction": "batch", "objectives": {"dice": 0.5}},
        {"objectives": {"amc": {"weight": 2.0, "mean_margin": "3e-1", "mean_reduction": "batch"}, "dice": 0.5}},
        {"objectives": {"dice": 0.5, "amc": {"mean_margin": 0.3, "mean_reduction": "batch"}}, "amc_weight": 2.0},
        {"extra_objectives": {"dice": 0.5, "amc": {"weight": 2, "mean_margin": 0.3, "mean_reduction": "batch"}}},
    ],
    ids=["short form", "objectives", "both", "earlier name"],
)
def test_amc_is_set_like_any_other_objective(settings, tmp_path, caplog):
    arguments = AmcConfig(output_dir=str(tmp_path), use_cpu=True, **settings)
    assert (arguments.amc_weight, arguments.mean_margin, arguments.amc_mean_reduction) == (2.0, 0.3, "batch")
    objectives = arguments.build_heatmap_objectives()
    assert list(objectives.weights.items()) == [("amc", 2.0), ("dice", 0.5)]
    assert objectives.objectives[0] == AttentionMaskConsistencyLoss(mean_margin=0.3, mean_reduction="batch")
    assert ("the earlier name of `objectives`" in caplog.text) == ("extra_objectives" in settings)
    assert dataclasses.replace(arguments, seed=1).build_heatmap_objectives().weights == objectives.weights


def test_a_batch_without_the_tensor_says_which_option_makes_it():
    objectives = HeatmapObjectives([build_objective("selfeq", 1.0)])
    with pytest.raises(ValueError, match="'selfeq' reads `paraphrase_index`.*Set `use_paraphrases=True`"):
        objectives.count_regions({"has_region": torch.tensor([True])})


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="two objectives are called 'amc'"):
        register_objective("amc")(OBJECTIVES["dice"])
    assert OBJECTIVES["dice"].name == "dice"


def test_a_new_objective_needs_nothing_but_its_name(tmp_path, request):
    request.addfinalizer(lambda: OBJECTIVES.pop("brightness"))

    @register_objective("brightness")
    @dataclasses.dataclass(frozen=True)
    class Brightness(RegionObjective):
        target: float = 0.5

        def compare(self, heatmap, mask, denominator):
            return {"brightness_loss": (heatmap.mean(-1) - self.target).abs().sum() / denominator}

    arguments = AmcConfig(output_dir=str(tmp_path), use_cpu=True, objectives={"brightness": {"target": 0.25}})
    inputs = build_inputs()
    _, terms = arguments.build_heatmap_objectives()(torch.ones(NUM_PHRASES, GRID, GRID), inputs)
    assert terms["brightness_loss"].item() == 0.75 and "amc_loss" in terms


def test_the_page_of_the_objectives_is_complete_and_runs(tmp_path):
    text = (PROJECT_FOLDER / "docs" / "objectives.md").read_text()
    assert [name for name in NAMES if f"| `{name}` |" not in text] == []
    (recipe,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    arguments = AmcConfig(output_dir=str(tmp_path), use_cpu=True, **yaml.safe_load(recipe)["training"])
    objectives = arguments.build_heatmap_objectives()
    assert objectives.weights == {"amc": 1.0, "dice": 0.5, "kl": 0.1, "selfeq": 1.0}
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names = {}
    exec(block, names)
    assert set(names["terms"]) == {"amc_loss", "amc_mean_loss", "amc_max_loss", "dice_loss"}


@pytest.mark.parametrize("name", [name for name in NAMES if issubclass(OBJECTIVES[name], RegionObjective)])
def test_known_rows_with_regions_change_no_loss(name):
    inputs, objective = build_inputs(), OBJECTIVES[name]()
    expected = call(objective, inputs)
    found = call(objective, inputs, region_rows=inputs["has_region"].nonzero().flatten())
    assert found.keys() == expected.keys() and all(torch.equal(found[term], expected[term]) for term in expected)
    summed = HeatmapObjectives([(1.0, objective)])
    some = {**inputs, "region_rows": torch.tensor([0])}
    assert summed.reads_annotated_phrases
    assert summed(inputs["normalized_heatmap"], some)[0] != summed(inputs["normalized_heatmap"], inputs)[0]


def test_objectives_on_other_phrases_than_those_with_a_region():
    class OnEveryPhrase(OBJECTIVES["dice"]):
        def find_phrases(self, region_mask, has_region):
            return None

    for other in (OBJECTIVES["selfeq"](), OnEveryPhrase()):
        assert not HeatmapObjectives([(1.0, OBJECTIVES["amc"]()), (1.0, other)]).reads_annotated_phrases
