# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The page of the metric's Space: found and right candidates as JSON in, the scores out."""

import json
from pathlib import Path

import evaluate
import gradio

retrieval_recall = evaluate.load(str(Path(__file__).parent / "retrieval_recall.py"))


def score(predictions: str, references: str, direction: str) -> dict:
    """The metric's result for inputs written as JSON; what cannot be scored is shown as a message."""
    try:
        return retrieval_recall.compute(
            predictions=json.loads(predictions), references=json.loads(references), direction=direction
        )
    except (TypeError, ValueError) as error:
        raise gradio.Error(str(error)) from error


demo = gradio.Interface(
    fn=score,
    inputs=[
        gradio.Textbox(label="candidates that each query found, best first", value="[[10, 30], [40, 10]]"),
        gradio.Textbox(label="right candidates of each query", value="[[10, 30], [10]]"),
        gradio.Radio(label="direction", choices=["image_to_text", "text_to_image"], value="image_to_text"),
    ],
    outputs=gradio.JSON(label="result"),
    title="Retrieval recall",
    description=retrieval_recall.description,
)

if __name__ == "__main__":
    demo.launch()
