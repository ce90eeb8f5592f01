# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The page of the metric's Space: sums of heatmaps and regions as JSON in, the measures out."""

import json
from pathlib import Path

import evaluate
import gradio

heatmap_quality = evaluate.load(str(Path(__file__).parent / "heatmap_quality.py"))

# Argument of the metric -> label and example of its text field.
FIELDS = {
    "predictions": (
        "sums of each heatmap",
        '[{"heat_inside": 30, "heat_total": 40, "heat_distance": 2, "num_peaks_inside": 1, "num_peaks": 1}]',
    ),
    "references": ("areas of each region and image", '[{"region_area": 50, "image_area": 100}]'),
    "phrase_types": ("types of each phrase (may stay empty)", '[["animals"]]'),
}


def score(*texts: str) -> dict:
    """The metric's result for inputs written as JSON; what cannot be measured is shown as a message."""
    try:
        inputs = [json.loads(text) if text.strip() else None for text in texts]
        return heatmap_quality.compute(**dict(zip(FIELDS, inputs, strict=True)), return_values=True)
    except (TypeError, ValueError) as error:
        raise gradio.Error(str(error)) from error


demo = gradio.Interface(
    fn=score,
    inputs=[gradio.Textbox(label=label, value=example) for label, example in FIELDS.values()],
    outputs=gradio.JSON(label="result"),
    title="Heatmap quality",
    description=heatmap_quality.description,
)

if __name__ == "__main__":
    demo.launch()
