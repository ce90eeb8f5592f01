# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The page of the metric's Space: candidate boxes, heat sums and annotated boxes as JSON in, the scores out."""

import json
from pathlib import Path

import evaluate
import gradio

box_accuracy = evaluate.load(str(Path(__file__).parent / "box_accuracy.py"))

# Argument of the metric -> label and example of its text field.
FIELDS = {
    "predictions": (
        "candidate boxes of each phrase: [[[x_min, y_min, x_max, y_max], ...], ...]",
        "[[[0, 0, 10, 10], [40, 0, 60, 10]], [[0, 0, 10, 10]]]",
    ),
    "heat_sums": ("heat sum of each candidate (may stay empty)", "[[9, 15], [4]]"),
    "references": ("annotated boxes of each phrase", "[[[40, 0, 60, 10]], [[5, 0, 15, 10]]]"),
    "phrase_types": ("types of each phrase (may stay empty)", '[["animals"], ["people"]]'),
}


def score(*texts: str) -> dict:
    """The metric's result for inputs written as JSON; what cannot be scored is shown as a message."""
    try:
        inputs = [json.loads(text) if text.strip() else None for text in texts]
        return box_accuracy.compute(**dict(zip(FIELDS, inputs, strict=True)), return_hits=True)
    except (TypeError, ValueError) as error:
        raise gradio.Error(str(error)) from error


demo = gradio.Interface(
    fn=score,
    inputs=[gradio.Textbox(label=label, value=example) for label, example in FIELDS.values()],
    outputs=gradio.JSON(label="result"),
    title="Box accuracy",
    description=box_accuracy.description,
)

if __name__ == "__main__":
    demo.launch()
