# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The facts that model classes declare, from which lists of classes are derived, are true of the classes."""

import re

import pytest
import torch
from model_cases import MODELS, build_config
from transformers import AutoConfig

import albef_amc
from albef_amc import AlbefConfig, AlbefForImageTextMatching
from albef_amc.pretrained_albef import AlbefPreTrainedModel

CLASSES = AlbefPreTrainedModel.task_classes


def list_weights(model_class: type) -> list[str]:
    with torch.device("meta"):
        return list(model_class(build_config(model_class)).state_dict())


def test_every_class_of_the_package_is_known_and_has_a_task_of_its_own():
    assert {*CLASSES.values()} == {*MODELS} and {*CLASSES} <= {*albef_amc.__all__}
    assert len({model_class.task for model_class in CLASSES.values()}) == len(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_the_auto_class_loads_the_class_that_declares_it(name):
    auto_class = CLASSES[name].auto_class
    if auto_class is None:
        assert CLASSES[name]._auto_class == name
    else:
        assert CLASSES[name]._auto_class == auto_class.__name__
        assert type(auto_class.from_config(build_config(CLASSES[name]))) is CLASSES[name]
    assert AutoConfig.for_model("albef").__class__ is AlbefConfig


@pytest.mark.parametrize("name", CLASSES)
def test_declared_weights_names_and_settings_exist(name):
    model_class, weights = CLASSES[name], list_weights(CLASSES[name])
    for prefix in (*model_class.optional_weights, *model_class.new_weights):
        assert any(weight.startswith(prefix) for weight in weights), prefix
    for _, prefix in model_class.original_names:
        assert any(weight.startswith(prefix) for weight in weights), prefix
    assert {*model_class.also_starts_from, *model_class.written_classes} <= {*CLASSES}
    assert all(hasattr(AlbefConfig(), setting) for setting in model_class.reported_settings)
    assert len(model_class.label_names) in (0, build_config(model_class).num_labels)
    ignored = [re.compile(pattern) for pattern in model_class._keys_to_ignore_on_load_unexpected or ()]
    assert not [weight for weight in weights if any(pattern.search(weight) for pattern in ignored)]


@pytest.mark.parametrize("name", [name for name in CLASSES if not CLASSES[name].new_weights])
def test_a_class_without_new_weights_is_general(name):
    assert CLASSES[name].is_general


def test_a_subclass_is_not_a_class_of_its_own_without_a_task():
    class Renamed(AlbefForImageTextMatching):
        pass

    assert "Renamed" not in CLASSES
    assert Renamed.build_auto_map() == AlbefForImageTextMatching.build_auto_map()
    assert Renamed.build_auto_map()["AutoModelForPreTraining"] == "modeling_albef.AlbefForPreTraining"
