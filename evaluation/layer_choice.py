# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Which layer to explain: every layer is evaluated on a development split, and the best is named."""

import re
from collections.abc import Mapping, Sequence

from albef_amc.evaluation.phrase_locators import EvaluatedModel
from albef_amc.evaluation.zero_shot_detectors import ZeroShotDetector
from albef_amc.grounders import Grounder

TEST_WORD = re.compile("(?<!la)test", re.IGNORECASE)  # not "latest"
DETECTOR_HAS_NO_LAYER = "a detector has no layer to explain: it returns boxes. Leave the layer out."
TIE_RULE = "of equal layers the one with the lowest number"


def list_test_splits(names: Sequence[str]) -> list[str]:
    """The splits whose names say that they are for testing: `test`, `testA`, `minitest`, `test[:100]`."""
    return [name for name in names if TEST_WORD.search(name)]


def check_development_split(split: str, parts: Sequence[str], is_test_allowed: bool) -> bool:
    """Refuses to choose a layer on test data, unless it is allowed.

    Args:
        split (`str`): name of the split that the layer is chosen on.
        parts (sequence of `str`): the splits of the data that it is made of.
        is_test_allowed (`bool`): choose on it all the same.

    Returns:
        `bool`: whether the split holds test data.

    Raises:
        ValueError: it does, and that is not allowed.
    """
    found = list_test_splits([split, *parts])
    if found and not is_test_allowed:
        raise ValueError(
            f"`--layer all` chooses a layer, and {found[0]} is a test split by its name: its number would be the best "
            "of several tries. Choose on a development split (such as validation or val), then evaluate that layer on "
            "the test split. `--choose-on-test` does it all the same, and marks the result."
        )
    return bool(found)


def list_layers(model: EvaluatedModel) -> range:
    """Layers that can be explained.

    Raises:
        ValueError: the method explains no layer, or the model is a detector.
    """
    if isinstance(model, ZeroShotDetector):
        raise ValueError(DETECTOR_HAS_NO_LAYER)
    if not isinstance(model, Grounder):
        return range(model.config.text_config.fusion_layer, model.config.text_config.num_hidden_layers)
    if not model.num_layers:
        raise ValueError(f"the method {model.method} explains no layer, so that none can be chosen. Leave it out.")
    return range(model.num_layers)


def explain_layer(model: EvaluatedModel, layer: int) -> EvaluatedModel:
    """The model with another layer explained: ALBEF itself, whose configuration is changed, or a new grounder of the
    same weights.

    Raises:
        ValueError: a layer that cannot be explained, or a detector.
    """
    if isinstance(model, Grounder):
        chosen = Grounder(model.model, model.processor, model.family, layer, model.method, model.source)
        return chosen.train(model.training)
    if isinstance(model, ZeroShotDetector):
        raise ValueError(DETECTOR_HAS_NO_LAYER)
    layers = list_layers(model)
    if layer not in layers:
        raise ValueError(
            f"`layer` is {layer}, but the layers with cross-attention, which can be explained, are {layers[0]} to "
            f"{layers[-1]}."
        )
    model.config.explanation_layer = layer
    return model


def choose_layer(accuracies: Mapping[int, float]) -> int:
    """The layer with the highest accuracy; of equal layers the one with the lowest number."""
    return min(accuracies, key=lambda layer: (-accuracies[layer], layer))


__all__ = ["TIE_RULE", "check_development_split", "choose_layer", "explain_layer", "list_layers", "list_test_splits"]
