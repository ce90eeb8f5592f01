# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The page of the metric's Space: points and boxes as JSON in, the scores out."""

import json
from pathlib import Path

import evaluate
import gradio

pointing_game = evaluate.load(str(Path(__file__).parent / "pointing_game.py"))

# Argument of the metric -> label and example of its text field.
FIELDS = {
    "predictions": ("points: [[x, y], ...]", "[[5, 5], [10, 5]]"),
    "references": (
        "boxes of each phrase: [[[x_min, y_min, x_max, y_max], ...], ...]",
        "[[[0, 0, 10, 10]], [[0, 0, 10, 10], [20, 0, 30, 10]]]",
    ),
    "phrase_types": ("types of each phrase (may stay empty)", '[["animals"], ["people"]]'),
}


def score(*texts: str) -> dict:
    """The metric's result for inputs written as JSON; what cannot be scored is shown as a message."""
    try:
        inputs = [json.loads(text) if text.strip() else None for text in texts]
        return pointing_game.compute(**dict(zip(FIELDS, inputs, strict=True)), return_hits=True)
    except (TypeError, ValueError) as error:
        raise gradio.Error(str(error)) from error


demo = gradio.Interface(
    fn=score,
    inputs=[gradio.Textbox(label=label, value=example) for label, example in FIELDS.values()],
    outputs=gradio.JSON(label="result"),
    title="Pointing game",
    description=pointing_game.description,
)

if __name__ == "__main__":
    demo.launch()
