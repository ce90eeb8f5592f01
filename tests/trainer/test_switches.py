"""Switches of torch in the settings of a run: refused where they cannot work, set where they can."""

import pytest
import torch
from testing_utils import build_rows

from albef_amc.trainer import AmcConfig, AmcTrainer
from albef_amc.trainer.recipes import build_arguments, load_recipe


@pytest.fixture(autouse=True)
def _matmul_precision():
    previous = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(previous)


def test_the_precision_of_a_recipe_is_set_where_the_trainer_is_made(tiny_pretraining_model, tiny_processor, tmp_path):
    recipe = load_recipe("demo", ["float32_matmul_precision=high", "use_cpu=true", "bf16=false"])
    arguments = build_arguments(recipe, tmp_path)
    assert torch.get_float32_matmul_precision() == "highest"
    AmcTrainer(tiny_pretraining_model, arguments, tiny_processor, build_rows(), eval_dataset=build_rows())
    assert torch.get_float32_matmul_precision() == "high"


def test_without_the_setting_the_precision_stays(tiny_pretraining_model, tiny_processor, tmp_path):
    torch.set_float32_matmul_precision("medium")
    AmcTrainer(tiny_pretraining_model, AmcConfig(str(tmp_path), use_cpu=True), tiny_processor, build_rows())
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"torch_compile": True}, r"`torch_compile=True` compiles the whole model.*call `model.compile_encoders\(\)`"),
        ({"torch_compile_backend": "inductor"}, "`torch_compile_backend=inductor` compiles the whole model"),
        ({"torch_compile_mode": "default"}, "`torch_compile_mode=default` compiles the whole model"),
        ({"float32_matmul_precision": "low"}, "`float32_matmul_precision` must be one of 'highest', 'high', 'medium'"),
        ({"float32_matmul_precision": "highest", "tf32": True}, "`tf32=True` contradict each other"),
        ({"float32_matmul_precision": "high", "tf32": False}, "`tf32=False` contradict each other"),
    ],
)
def test_switches_that_cannot_work_are_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        AmcConfig(str(tmp_path), use_cpu=True, **changes)


def test_two_settings_that_agree_are_accepted(tmp_path):
    arguments = AmcConfig(str(tmp_path), use_cpu=True, float32_matmul_precision="highest", tf32=False)
    assert arguments.float32_matmul_precision == "highest"
