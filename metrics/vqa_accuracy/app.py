# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The page of the metric's Space: answers and annotators' answers as JSON in, the scores out."""

import json
from pathlib import Path

import evaluate
import gradio

vqa_accuracy = evaluate.load(str(Path(__file__).parent / "vqa_accuracy.py"))


def score(predictions: str, references: str, answer_types: str) -> dict:
    """The metric's result for inputs written as JSON; what cannot be scored is shown as a message."""
    try:
        inputs = [json.loads(text) if text.strip() else None for text in (predictions, references, answer_types)]
        return vqa_accuracy.compute(
            predictions=inputs[0], references=inputs[1], answer_types=inputs[2], return_accuracies=True
        )
    except (TypeError, ValueError) as error:
        raise gradio.Error(str(error)) from error


demo = gradio.Interface(
    fn=score,
    inputs=[
        gradio.Textbox(label='answers: ["red", ...]', value='["The red one!", "two"]'),
        gradio.Textbox(
            label='answers of each question\'s annotators: [["red", "red", "dark red", ...], ...]',
            value='[["red 1", "red 1", "red", "red", "red", "red", "red", "red", "red", "red"], '
            '["2", "2", "2", "2", "2", "2", "2", "2", "2", "3"]]',
        ),
        gradio.Textbox(label="type of each answer (may stay empty)", value='["other", "number"]'),
    ],
    outputs=gradio.JSON(label="result"),
    title="VQA accuracy",
    description=vqa_accuracy.description,
)

if __name__ == "__main__":
    demo.launch()
