# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The page of the metric's Space: ranked boxes and annotated boxes as JSON in, the scores out."""

import json
from pathlib import Path

import evaluate
import gradio

phrase_recall = evaluate.load(str(Path(__file__).parent / "phrase_recall.py"))


def score(predictions: str, references: str, phrase_types: str) -> dict:
    """The metric's result for inputs written as JSON; what cannot be scored is shown as a message."""
    try:
        inputs = [json.loads(text) if text.strip() else None for text in (predictions, references, phrase_types)]
        return phrase_recall.compute(
            predictions=inputs[0], references=inputs[1], phrase_types=inputs[2], return_ious=True
        )
    except (TypeError, ValueError) as error:
        raise gradio.Error(str(error)) from error


demo = gradio.Interface(
    fn=score,
    inputs=[
        gradio.Textbox(
            label="boxes of each phrase, best first: [[[x_min, y_min, x_max, y_max], ...], ...]",
            value="[[[0, 0, 10, 10], [0, 0, 30, 10]]]",
        ),
        gradio.Textbox(label="annotated boxes of each phrase", value="[[[0, 0, 10, 10], [20, 0, 30, 10]]]"),
        gradio.Textbox(label="types of each phrase (may stay empty)", value='[["animals"]]'),
    ],
    outputs=gradio.JSON(label="result"),
    title="Phrase recall",
    description=phrase_recall.description,
)

if __name__ == "__main__":
    demo.launch()
