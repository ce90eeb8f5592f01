# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The page of the metric's Space: candidate boxes, heat sums and annotated boxes as JSON in, the scores out."""

import json
from pathlib import Path

import evaluate
import gradio

box_accuracy = evaluate.load(str(Path(__file__).parent / "box_accuracy.py"))


def score(predictions: str, heat_sums: str, references: str, phrase_types: str) -> dict:
    """The metric's result for inputs written as JSON; what cannot be scored is shown as a message."""
    try:
        texts = (predictions, heat_sums, references, phrase_types)
        inputs = [json.loads(text) if text.strip() else None for text in texts]
        return box_accuracy.compute(
            predictions=inputs[0],
            heat_sums=inputs[1],
            references=inputs[2],
            phrase_types=inputs[3],
            return_hits=True,
        )
    except (TypeError, ValueError) as error:
        raise gradio.Error(str(error)) from error


demo = gradio.Interface(
    fn=score,
    inputs=[
        gradio.Textbox(
            label="candidate boxes of each phrase: [[[x_min, y_min, x_max, y_max], ...], ...]",
            value="[[[0, 0, 10, 10], [40, 0, 60, 10]], [[0, 0, 10, 10]]]",
        ),
        gradio.Textbox(label="heat sum of each candidate (may stay empty)", value="[[9, 15], [4]]"),
        gradio.Textbox(label="annotated boxes of each phrase", value="[[[40, 0, 60, 10]], [[5, 0, 15, 10]]]"),
        gradio.Textbox(label="types of each phrase (may stay empty)", value='[["animals"], ["people"]]'),
    ],
    outputs=gradio.JSON(label="result"),
    title="Box accuracy",
    description=box_accuracy.description,
)

if __name__ == "__main__":
    demo.launch()
