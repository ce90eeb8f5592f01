# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What the card of a grounder says of its class and of what its heatmaps explain."""

from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES

from albef_amc.grounders import Grounder

UNKNOWN_ORIGIN = "a checkpoint whose training is not recorded here"
SCORES = {"itm": "image-text matching score", "itc": "similarity of image and text"}


def describe_grounder(grounder: Grounder) -> dict[str, Any]:
    """Fields of a [`~model_cards.ModelCard`]: class, what is explained, base model, and the licence, which is its own.

    Args:
        grounder ([`~grounders.Grounder`]): model and settings.
    """
    family = grounder.family
    layer = ""
    if grounder.layer is not None:
        layer = f", layer {grounder.layer} of `{family.module_name.partition('.{')[0]}`"
    runs_alone = family.class_name in MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES.values()
    return {
        "grounder_class": family.class_name,
        "explained": f"`{grounder.method}` map of its {SCORES[family.score_name]}{layer}",
        "source": "other",
        "base_model": grounder.source["name"],
        "pipeline_tag": "zero-shot-image-classification" if runs_alone else None,
        "has_code": False,
    }
