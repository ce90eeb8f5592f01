"""What DeepSpeed and FSDP may be asked for: settings that cannot be right are refused with those that are."""

import importlib.util
import json
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from testing_utils import PROJECT_FOLDER
from torch.distributed.fsdp import MixedPrecisionPolicy

from albef_amc.trainer.sharding import prepare_deepspeed, prepare_fsdp

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"
)
AUTOCAST = {"enabled": True, "dtype": "bfloat16"}
DEEPSPEED = {"zero_optimization": {"stage": 2}, "bf16": {}}
FSDP2 = dict(
    fsdp_version=2,
    auto_wrap_policy="TRANSFORMER_BASED_WRAP",
    transformer_cls_names_to_wrap=["AlbefVisionLayer"],
    state_dict_type="FULL_STATE_DICT",
)


def prepare_deepspeed_settings(has_bf16: bool, **settings) -> dict:
    """The settings as they are after the check of a run."""
    from accelerate import DeepSpeedPlugin

    plugin = DeepSpeedPlugin(hf_ds_config={**DEEPSPEED, **settings})
    plugin.set_mixed_precision("bf16" if has_bf16 else "no")  # as `TrainingArguments` does
    prepare_deepspeed(SimpleNamespace(deepspeed_plugin=plugin, bf16=has_bf16))
    return plugin.deepspeed_config


def test_a_run_without_deepspeed_or_fsdp_has_nothing_to_prepare():
    prepare_deepspeed(SimpleNamespace(deepspeed_plugin=None, bf16=True))
    prepare_fsdp(SimpleNamespace(state=SimpleNamespace()))


@needs_deepspeed
@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("stage", [1, 2])
def test_the_shipped_files_take_precision_from_the_run(stage, bf16):
    shipped = json.loads((PROJECT_FOLDER / "configuration" / "deepspeed" / f"zero{stage}.json").read_text())
    settings = prepare_deepspeed_settings(bf16, **shipped)
    assert settings["torch_autocast"]["enabled"] is bf16
    assert not settings["bf16"].get("enabled")


@needs_deepspeed
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bf16": {"enabled": True}}, '`bf16.enabled` of the DeepSpeed file.*stand still.*"bf16": {}.*zero2.json'),
        ({"bf16": {"enabled": "auto"}}, "momentum weights would stand still"),
        ({"bf16": {"enabled": True}, "torch_autocast": AUTOCAST}, "momentum weights would stand still"),
        ({}, "no `torch_autocast`.*zero2.json"),
        ({"torch_autocast": {"enabled": False}}, "no `torch_autocast`"),
        ({"torch_autocast": {"enabled": "auto", "dtype": "float16"}}, "must be 'bfloat16', got 'float16'"),
        ({"torch_autocast": {"enabled": "auto"}}, "must be 'bfloat16', got None"),
    ],
)
def test_bfloat16_momentum_weights_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        prepare_deepspeed_settings(True, **settings)


@needs_deepspeed
def test_zero3_is_refused_with_the_alternative():
    with pytest.raises(NotImplementedError, match=r"ZeRO-3.*zero2\.json.*fsdp2\.yaml"):
        prepare_deepspeed_settings(False, zero_optimization={"stage": 3})


def prepare_fsdp_plugin(**changes) -> FullyShardedDataParallelPlugin:
    plugin = FullyShardedDataParallelPlugin(**{**FSDP2, **changes})
    plugin.set_mixed_precision("bf16")  # as Accelerate does
    prepare_fsdp(SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin)))
    return plugin


@pytest.mark.parametrize("changes", [{}, {"auto_wrap_policy": "NO_WRAP"}])
def test_fsdp2_casts_nothing_by_itself(changes):
    policy = prepare_fsdp_plugin(**changes).mixed_precision_policy
    assert policy == MixedPrecisionPolicy() and policy.param_dtype is None
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fsdp_version": 1}, "`fsdp_version` must be 2, got 1.*fsdp2.yaml"),
        ({"state_dict_type": "SHARDED_STATE_DICT"}, "must be FULL_STATE_DICT, got SHARDED_STATE_DICT"),
        ({"transformer_cls_names_to_wrap": ["AlbefVisionLayer", "AlbefTextLayer"]}, "got AlbefTextLayer, AlbefVision"),
        ({"transformer_cls_names_to_wrap": None}, "may split AlbefVisionLayer only.*got another policy"),
        ({"auto_wrap_policy": "SIZE_BASED_WRAP", "min_num_params": 100}, "may split AlbefVisionLayer only"),
        ({"activation_checkpointing": True}, "Set `activation_checkpointing` in the recipe"),
    ],
)
def test_fsdp_that_cannot_be_right_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        prepare_fsdp_plugin(**changes)
