# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The page of the metric's Space: answers and annotators' answers as JSON in, the scores out."""

import json
from pathlib import Path

import evaluate
import gradio

vqa_accuracy = evaluate.load(str(Path(__file__).parent / "vqa_accuracy.py"))

# Argument of the metric -> label and example of its text field.
FIELDS = {
    "predictions": ('answers: ["red", ...]', '["The red one!", "two"]'),
    "references": (
        'answers of each question\'s annotators: [["red", "red", "dark red", ...], ...]',
        '[["red 1", "red 1", "red", "red", "red", "red", "red", "red", "red", "red"], '
        '["2", "2", "2", "2", "2", "2", "2", "2", "2", "3"]]',
    ),
    "answer_types": ("type of each answer (may stay empty)", '["other", "number"]'),
}


def score(*texts: str) -> dict:
    """The metric's result for inputs written as JSON; what cannot be scored is shown as a message."""
    try:
        inputs = [json.loads(text) if text.strip() else None for text in texts]
        return vqa_accuracy.compute(**dict(zip(FIELDS, inputs, strict=True)), return_accuracies=True)
    except (TypeError, ValueError) as error:
        raise gradio.Error(str(error)) from error


demo = gradio.Interface(
    fn=score,
    inputs=[gradio.Textbox(label=label, value=example) for label, example in FIELDS.values()],
    outputs=gradio.JSON(label="result"),
    title="VQA accuracy",
    description=vqa_accuracy.description,
)

if __name__ == "__main__":
    demo.launch()
