# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Row schemas of the other tasks (not grounding): one row per image or pair of images, its texts inside.

As in `GROUNDING_FEATURES`, an image is stored once; `image_id` is its identity within the data set; `width` and
`height` are pixels after EXIF rotation; texts are kept as written; a field without a value is null, never absent.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Features, Image, List, Value

from albef_amc.datasets_scripts.features import GROUNDING_FEATURES, fill_fields

IMAGE_FEATURES = {name: GROUNDING_FEATURES[name] for name in ("image", "image_id", "width", "height")}

# Source of a question of VQA v2.
VQA = "vqa"
# Splits whose questions must have answers; those of the test splits are not published.
ANSWERED_SPLITS = ("train", "val")

CAPTION_FEATURES = {
    # unique in the split
    "caption_id": Value("string"),
    "caption": Value("string"),
}

QUESTION_FEATURES = {
    # unique among the questions of one `source` in a split; a number, as the evaluation servers expect it
    "question_id": Value("int64"),
    "question": Value("string"),
    # distinct answers in the order of their first appearance: the training targets; null where there are none (test)
    "answers": List(Value("string")),
    # weight of each of `answers` in the loss: fraction of annotators who gave it, 0.5 for Visual Genome
    "answer_weights": List(Value("float32")),
    # one answer per annotator, as stored: the references of VQA accuracy
    "annotator_answers": List(Value("string")),
    # first words of the question ("what color is"), and "yes/no", "number" or "other"; null where not annotated
    "question_type": Value("string"),
    "answer_type": Value("string"),
    # "vqa" or "vg" (Visual Genome)
    "source": Value("string"),
}

SENTENCE_FEATURES = {
    # unique in the split
    "sentence_id": Value("string"),
    "sentence": Value("string"),
    # whether the sentence is true of the pair: 0 or 1
    "label": ClassLabel(names=["False", "True"]),
}

HYPOTHESIS_FEATURES = {
    # unique in the split
    "hypothesis_id": Value("string"),
    "hypothesis": Value("string"),
    # relation of the image to it: 0, 1 or 2, in the order of ALBEF's classifier
    "label": ClassLabel(names=["contradiction", "neutral", "entailment"]),
}

# Image-text retrieval.
CAPTIONED_FEATURES = Features({**IMAGE_FEATURES, "captions": List(CAPTION_FEATURES)})

# Visual question answering.
ANSWERED_FEATURES = Features({**IMAGE_FEATURES, "questions": List(QUESTION_FEATURES)})

# Visual reasoning about two images.
PAIRED_FEATURES = Features(
    {
        # two, left and right; a pair is stored once, also with several sentences
        "images": List(Image()),
        "image_ids": List(Value("string")),
        "sentences": List(SENTENCE_FEATURES),
    }
)

# Visual entailment.
ENTAILED_FEATURES = Features({**IMAGE_FEATURES, "hypotheses": List(HYPOTHESIS_FEATURES)})


@dataclass(frozen=True)
class TextSchema:
    """Schema of a task with the names of its texts, for statistics and cards.

    Args:
        features (`datasets.Features`): columns of a row.
        texts (`str`): column that lists the texts.
        text (`str`): field of an entry that holds its text; `{text}_id` is its id.
        kinds (sequence of `str`): fields by which entries are counted.
        about (`str`): description of a row.
    """

    features: Features
    texts: str
    text: str
    kinds: Sequence[str]
    about: str


TASK_SCHEMAS = (
    TextSchema(CAPTIONED_FEATURES, "captions", "caption", (), "One row per image, its captions inside"),
    TextSchema(
        ANSWERED_FEATURES,
        "questions",
        "question",
        ("answer_type", "source"),
        "One row per image, its questions inside, each with its answers and their weights",
    ),
    TextSchema(
        PAIRED_FEATURES,
        "sentences",
        "sentence",
        ("label",),
        "One row per pair of images (left, right), the sentences about it inside",
    ),
    TextSchema(ENTAILED_FEATURES, "hypotheses", "hypothesis", ("label",), "One row per image, its hypotheses inside"),
)


def find_task_schema(columns: Iterable[str]) -> TextSchema | None:
    """Find the task schema whose columns are among these; `None` where there is none.

    Example:
        >>> find_task_schema(["image", "image_id", "width", "height", "questions"]).text
        'question'
    """
    names = set(columns)
    return next((schema for schema in TASK_SCHEMAS if set(schema.features) <= names), None)


def weigh_answers(annotator_answers: Sequence[str]) -> tuple[list[str], list[float]]:
    """Distinct answers with the fraction of annotators who gave them, as ALBEF weighs them in its loss.

    Answers are compared as written. One without words is not a target, but its annotators still count.

    Args:
        annotator_answers (sequence of `str`): one per annotator.

    Returns:
        `tuple`: answers in the order of their first appearance, and their weights.

    Example:
        >>> weigh_answers(["red", "dark red", "red", "red"])
        (['red', 'dark red'], [0.75, 0.25])
    """
    counts = Counter(annotator_answers)
    answers = [answer for answer in counts if answer.strip()]
    return answers, [counts[answer] / len(annotator_answers) for answer in answers]


def build_question(
    question_id: int, question: str, source: str, annotator_answers: Sequence[str] | None = None, **fields: Any
) -> dict[str, Any]:
    """Build an entry of `questions` with every field of the schema.

    Args:
        question_id (`int`): identity of the question.
        question (`str`): its text.
        source (`str`): "vqa" or "vg".
        annotator_answers (sequence of `str`, *optional*): one per annotator; `None` where they are not published.
        **fields: any other field of `QUESTION_FEATURES`; `answers` and `answer_weights` follow from the annotators'
            answers unless given.

    Returns:
        `dict`: the entry, keys in the order of the schema.

    Example:
        >>> build_question(7, "What is it?", "vqa", ["a cup", "cup", "a cup", "a cup"])["answer_weights"]
        [0.75, 0.25]
    """
    answers, weights = (None, None) if annotator_answers is None else weigh_answers(annotator_answers)
    known = {
        "question_id": question_id,
        "question": question,
        "source": source,
        "annotator_answers": None if annotator_answers is None else list(annotator_answers),
        "answers": answers,
        "answer_weights": weights,
        **fields,
    }
    return fill_fields(known, QUESTION_FEATURES, "question")
