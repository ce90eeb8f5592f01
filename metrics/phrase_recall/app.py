# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The page of the metric's Space: ranked boxes and annotated boxes as JSON in, the scores out."""

import json
from pathlib import Path

import evaluate
import gradio

phrase_recall = evaluate.load(str(Path(__file__).parent / "phrase_recall.py"))

# Argument of the metric -> label and example of its text field.
FIELDS = {
    "predictions": (
        "boxes of each phrase, best first: [[[x_min, y_min, x_max, y_max], ...], ...]",
        "[[[0, 0, 10, 10], [0, 0, 30, 10]]]",
    ),
    "references": ("annotated boxes of each phrase", "[[[0, 0, 10, 10], [20, 0, 30, 10]]]"),
    "phrase_types": ("types of each phrase (may stay empty)", '[["animals"]]'),
}


def score(*texts: str) -> dict:
    """The metric's result for inputs written as JSON; what cannot be scored is shown as a message."""
    try:
        inputs = [json.loads(text) if text.strip() else None for text in texts]
        return phrase_recall.compute(**dict(zip(FIELDS, inputs, strict=True)), return_ious=True)
    except (TypeError, ValueError) as error:
        raise gradio.Error(str(error)) from error


demo = gradio.Interface(
    fn=score,
    inputs=[gradio.Textbox(label=label, value=example) for label, example in FIELDS.values()],
    outputs=gradio.JSON(label="result"),
    title="Phrase recall",
    description=phrase_recall.description,
)

if __name__ == "__main__":
    demo.launch()
