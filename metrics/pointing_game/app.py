# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The page of the metric's Space: points and boxes as JSON in, the scores out."""

import json
from pathlib import Path

import evaluate
import gradio

pointing_game = evaluate.load(str(Path(__file__).parent / "pointing_game.py"))


def score(predictions: str, references: str, phrase_types: str) -> dict:
    """The metric's result for inputs written as JSON; what cannot be scored is shown as a message."""
    try:
        inputs = [json.loads(text) if text.strip() else None for text in (predictions, references, phrase_types)]
        return pointing_game.compute(
            predictions=inputs[0], references=inputs[1], phrase_types=inputs[2], return_hits=True
        )
    except (TypeError, ValueError) as error:
        raise gradio.Error(str(error)) from error


demo = gradio.Interface(
    fn=score,
    inputs=[
        gradio.Textbox(label="points: [[x, y], ...]", value="[[5, 5], [10, 5]]"),
        gradio.Textbox(
            label="boxes of each phrase: [[[x_min, y_min, x_max, y_max], ...], ...]",
            value="[[[0, 0, 10, 10]], [[0, 0, 10, 10], [20, 0, 30, 10]]]",
        ),
        gradio.Textbox(label="types of each phrase (may stay empty)", value='[["animals"], ["people"]]'),
    ],
    outputs=gradio.JSON(label="result"),
    title="Pointing game",
    description=pointing_game.description,
)

if __name__ == "__main__":
    demo.launch()
