# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc models`: the families of models that can be explained, and the model that ships."""

from pathlib import Path

from albef_amc.checkpoints import BASE_MODEL, BASE_MODEL_NAME
from albef_amc.cli.options import JsonOption
from albef_amc.cli.reporting import print_result
from albef_amc.grounders.families import FAMILIES
from albef_amc.text_files_albef import load_json

CARD_FIELDS = "model_card.json"


def models(as_json: JsonOption = False) -> None:
    """Lists the model that ships, and the types of models (`model_type` of config.json) that have heatmaps."""
    description = load_json(Path(BASE_MODEL) / CARD_FIELDS)["fields"]["description"]
    result = {BASE_MODEL_NAME: f"{description.partition('. ')[0]}."}
    for model_type in dict.fromkeys(family.model_type for family in FAMILIES):
        families = [family for family in FAMILIES if family.model_type == model_type]
        scores = " or ".join(family.score_name for family in families)
        result[model_type] = f"{families[0].class_name}, heatmap of its score {scores}."
    print_result(result, as_json)
