# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""A checkpoint or a model whose weights are not finite is never written."""

import pytest
import torch
from testing_utils import build_tiny_trainer
from transformers import TrainerCallback

from albef_amc.cli.main import main
from albef_amc.trainer.reliability.finite_weights import find_not_finite


class Spoil(TrainerCallback):
    """Writes a number that is not finite into one weight after a step, as a step that goes wrong does."""

    def __init__(self, name: str, value: float, step: int):
        self.name, self.value, self.step = name, value, step

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step + 1 == self.step:
            weights = dict(model.named_parameters()) | dict(model.named_buffers())
            weights[self.name].data.view(-1)[-1] = self.value


@pytest.mark.parametrize(
    "name", ["albef.temperature", "albef.text_model.layers.0.fc1.weight", "momentum_vision_projection.weight"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_first_such_weight_is_named(tiny_pretraining_model, name, value):
    assert find_not_finite(tiny_pretraining_model) is None
    weights = dict(tiny_pretraining_model.named_parameters()) | dict(tiny_pretraining_model.named_buffers())
    name = name if name in weights else next(one for one in weights if one.startswith("momentum_"))
    weights[name].data.view(-1)[-1] = value
    assert find_not_finite(tiny_pretraining_model) == name


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["no", "steps", "epoch"])
def test_nothing_is_saved_of_a_run_whose_weights_broke(strategy, tiny_pretraining_model, tmp_path):
    spoil = Spoil("albef.text_model.layers.0.fc1.weight", float("nan"), step=2)
    values = dict(save_strategy=strategy, save_steps=1, keep_best=False)
    trainer = build_tiny_trainer(tiny_pretraining_model, tmp_path / "run", callbacks=[spoil], **values)
    with pytest.raises(FloatingPointError, match=r"after step 2: `albef\.text_model\.layers\.0\.fc1\.weight`"):
        trainer.train()
    with pytest.raises(FloatingPointError, match="They are not saved"):
        trainer.save_model(str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()
    left = sorted(path.name for path in (tmp_path / "run").glob("*")) if (tmp_path / "run").exists() else []
    assert left == (["checkpoint-1"] if strategy == "steps" else [])


@pytest.mark.slow
def test_a_step_that_overflows_ends_the_command(recipe, tmp_path, capsys):
    words = ["--set", "learning_rate=1e39", "--set", "max_steps=1", "--set", "save_steps=1"]
    assert main(["train", str(recipe), "--output-dir", str(tmp_path / "run"), *words]) == 1
    streams = capsys.readouterr()
    assert "the weights are not finite after step 1: `" in streams.err.splitlines()[-1]
    assert "Traceback" not in streams.err and streams.out == ""
    assert not list((tmp_path / "run").rglob("*.safetensors")) and not (tmp_path / "run" / "config.json").exists()


def test_integers_are_finite():
    model = torch.nn.Module()
    model.register_buffer("counts", torch.tensor([1, 2]))
    assert find_not_finite(model) is None
