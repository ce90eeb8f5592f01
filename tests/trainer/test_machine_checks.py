"""What a recipe asks for and the machine, the installation or the data does not have: one error, beforehand."""

import dataclasses

import datasets
import pytest
import torch
from testing_utils import build_rows

from albef_amc.datasets_scripts import GROUNDING_FEATURES
from albef_amc.datasets_scripts.features import build_phrase, build_row
from albef_amc.trainer import AmcConfig, machine_checks
from albef_amc.trainer.data import phrase_epochs
from albef_amc.trainer.machine_checks import check_machine, check_package, check_regions, warn_of_other_batch
from albef_amc.trainer.training_recipes import ModelRecipe, Recipe

LAUNCHER_VARIABLES = ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in (*LAUNCHER_VARIABLES, "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def build_recipe(**training) -> Recipe:
    return Recipe(
        model=ModelRecipe(checkpoint="runs/first"), train_data={"name": "synthetic", "split": "all"}, training=training
    )


def pretend_gpus(monkeypatch, count: int, has_bf16: bool = True) -> None:
    """The answers of a machine with GPUs: the checks ask nothing else of it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(machine_checks, "is_torch_bf16_gpu_available", lambda: count > 0 and has_bf16)


def test_a_plain_recipe_passes_with_and_without_gpus(monkeypatch):
    for count in (0, 1, 8):
        pretend_gpus(monkeypatch, count)
        check_machine(build_recipe())
        check_machine(build_recipe(use_cpu=True, bf16=True, report_to="none"))
    check_machine(build_recipe(bf16=True, report_to="all"))


@pytest.mark.parametrize(
    ("gpus", "environment", "training", "words"),
    [
        (0, {}, {"bf16": True}, "`bf16` was asked for, but there is no GPU"),
        (0, {"ACCELERATE_MIXED_PRECISION": "bf16"}, {}, "`bf16` was asked for, but there is no GPU"),
        (2, {"ACCELERATE_MIXED_PRECISION": "fp16"}, {}, "fp16` of the launcher is refused"),
        (2, {"LOCAL_WORLD_SIZE": "8"}, {}, "8 processes were started on a machine with 2 GPUs.*--num_processes 2"),
        (0, {}, {"fsdp": "full_shard"}, "`training.fsdp` needs a GPU"),
        (0, {"ACCELERATE_USE_FSDP": "true"}, {}, "the launcher's fsdp configuration needs a GPU"),
        (8, {"ACCELERATE_USE_FSDP": "true"}, {"use_cpu": True}, "the launcher's fsdp configuration needs a GPU"),
        (1, {}, {"report_to": "tensorbord"}, "unknown tracker `tensorbord`. Did you mean `tensorboard`"),
        (1, {}, {"report_to": ["none", "my_tracker"]}, "unknown tracker `my_tracker`"),
    ],
)
def test_what_the_machine_does_not_have_is_refused(monkeypatch, gpus, environment, training, words):
    pretend_gpus(monkeypatch, gpus)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=words):
        check_machine(build_recipe(**training))


def test_a_gpu_without_bf16_is_named(monkeypatch):
    pretend_gpus(monkeypatch, 1, has_bf16=False)
    with pytest.raises(ValueError, match="this GPU does not have it"):
        check_machine(build_recipe(bf16=True))


def test_more_processes_than_gpus_are_allowed_on_the_cpu(monkeypatch):
    pretend_gpus(monkeypatch, 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    check_machine(build_recipe(use_cpu=True))


def test_packages_that_are_not_installed_are_named_with_their_remedy(monkeypatch):
    with pytest.raises(ValueError, match=r"`peft` needs no_such_package.*pip install '\.\[peft\]'` in a clone"):
        check_package("no_such_package", "`peft`", extra="peft")
    check_package("torch", "`training`")
    pretend_gpus(monkeypatch, 8)
    monkeypatch.setattr(machine_checks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"section `peft` needs peft.*pip install '\.\[peft\]'"):
        check_machine(dataclasses.replace(build_recipe(), peft={}))
    with pytest.raises(ValueError, match=r"`training.deepspeed` needs deepspeed.*pip install '\.\[deepspeed\]"):
        check_machine(build_recipe(deepspeed="zero2.json"))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match="the launcher's deepspeed configuration needs deepspeed"):
        check_machine(build_recipe())


def test_a_tracker_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(machine_checks, "get_available_reporting_integrations", lambda: ["trackio"])
    with pytest.raises(ValueError, match="`wandb` is not installed: `pip install wandb`"):
        check_machine(build_recipe(report_to=["trackio", "wandb"]))
    check_machine(build_recipe(report_to="trackio"))


@pytest.mark.parametrize(
    ("planned", "accumulation", "said"),
    [
        (8, 1, "a step has 4 images instead of 32. Set `gradient_accumulation_steps=8`"),
        (2, 3, "a step has 12 images instead of 24. Set `gradient_accumulation_steps=6`"),
        (1, 1, None),
        (None, 1, None),
    ],
)
def test_another_number_of_processes_says_what_a_step_becomes(monkeypatch, tmp_path, planned, accumulation, said):
    warnings = []
    monkeypatch.setattr(machine_checks.logger, "warning", warnings.append)
    recipe = build_recipe()
    recipe.machine.update({} if planned is None else {"num_processes": planned})
    arguments = AmcConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=accumulation,
    )
    warn_of_other_batch(recipe, arguments)
    assert [said in warning for warning in warnings] == ([] if said is None else [True])


def build_dataset(*regions: dict) -> datasets.Dataset:
    rows = [
        build_row(
            None, str(index), 40, 30, [build_phrase(f"{index}-0", "a dog"), build_phrase(f"{index}-1", "", **region)]
        )
        for index, region in enumerate(regions)
    ]
    return datasets.Dataset.from_list(rows, features=GROUNDING_FEATURES)


def test_data_without_a_region_is_refused():
    nowhere = build_dataset({}, {"boxes": []}, {"points": [[1.0, 2.0]]})
    for rows in (nowhere, list(nowhere)):
        for source in ("boxes", "polygons", "masks"):
            with pytest.raises(ValueError, match=f"None of the phrases of the 3 training images has `{source}`"):
                check_regions(rows, source)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("boxes", [[1.0, 2.0, 3.0, 4.0]]),
        ("polygons", [[1.0, 2.0, 3.0, 4.0, 5.0, 2.0]]),
        ("masks", [{"size": [30, 40], "counts": "0"}]),
    ],
)
def test_one_region_among_many_rows_is_found(monkeypatch, source, value):
    monkeypatch.setattr(phrase_epochs, "ROWS_READ_AT_ONCE", 4)
    rows = build_dataset(*([{}] * 9), {source: value}, {})
    check_regions(rows, source)
    check_regions(list(rows), source)
    with pytest.raises(ValueError, match="None of the phrases of the 9"):
        check_regions(rows.select(range(9)), source)
    check_regions(build_rows(), "boxes")
