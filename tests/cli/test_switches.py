"""Switches that exclude each other, and switches for CPUs on a GPU, are refused with what to do."""

from types import SimpleNamespace

import pytest
import torch

from albef_amc.cli.switches import Switches


@pytest.mark.parametrize(
    ("switches", "option"),
    [
        (Switches("int8"), "--precision int8"),
        (Switches(packs_weights=True), "--pack-weights"),
        (Switches("int8", packs_weights=True), "--pack-weights"),
    ],
)
def test_switches_for_a_cpu_are_refused_on_a_gpu(switches, option):
    with pytest.raises(ValueError, match=f"`{option}` is for a CPU, but the model is on cuda: use `--precision bf"):
        switches.prepare(SimpleNamespace(device=torch.device("cuda")))


@pytest.mark.parametrize(
    ("values", "option"), [({"precision": "int8"}, "--precision int8"), ({"packs_weights": True}, "--pack-weights")]
)
def test_replaced_layers_are_not_compiled(values, option):
    with pytest.raises(ValueError, match=f"`--compile` and `{option}` replace the same layers: use one of them"):
        Switches(**values, compiled=True)
