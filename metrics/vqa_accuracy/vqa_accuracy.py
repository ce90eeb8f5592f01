# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""VQA accuracy: does an answer agree with those of at least three other annotators, up to spelling?

VQA accuracy scores visual question answering against the answers of ten annotators. Each annotator is excluded once;
an answer that a of the nine others gave scores min(a / 3, 1); the question's accuracy is the mean over the ten. With
0, 1, 2, 3 agreeing annotators among ten that is 0, 0.3, 0.6, 0.9, and 1 from four on.

Answers are compared after the processing of VQA's evaluation, done for predictions and annotators:
- punctuation becomes a space, or nothing if it is beside a space, or anywhere in an answer with a number like
  100,978; apostrophes and colons stay; a period stays before a digit,
- lower case; "none" and the number words from zero to ten become digits; the articles a, an, the go,
- a contraction without its apostrophe gets it ("dont" becomes "don't"),
- an answer of which nothing remains ("the", "?") is kept as written: it equals the same answer, and no other.

With `answer_processing="released"` annotators are processed as in the evaluation code of VQA that ALBEF ships: only
their punctuation, and only if they differ. It matters for annotators who wrote capitals, number words, articles or
contractions, since no prediction can then equal them.
"""

import inspect
import re

import datasets
import evaluate
import numpy as np

NOTHING_ADDED = "no question was added: the accuracy of nothing is undefined. Pass at least one question."

_CITATION = """
@inproceedings{antol2015vqa,
  title = {{VQA}: Visual Question Answering},
  author = {Antol, Stanislaw and Agrawal, Aishwarya and Lu, Jiasen and Mitchell, Margaret and Batra, Dhruv and
            Zitnick, C. Lawrence and Parikh, Devi},
  booktitle = {ICCV},
  year = {2015}
}
@inproceedings{goyal2017making,
  title = {Making the {V} in {VQA} Matter: Elevating the Role of Image Understanding in Visual Question Answering},
  author = {Goyal, Yash and Khot, Tejas and Summers-Stay, Douglas and Batra, Dhruv and Parikh, Devi},
  booktitle = {CVPR},
  year = {2017}
}
"""

# As many others must agree for a full score.
NUM_AGREEING = 3
# With fewer, no answer could have a full score once an annotator is excluded.
MIN_ANSWERS = NUM_AGREEING + 1
DESCRIBED, RELEASED = "described", "released"

MARKS = ';/[]"{}()=+\\_-><@`,?!'
COMMA_IN_NUMBER = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")
ARTICLES = {"a", "an", "the"}
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0", **{word: str(number) for number, word in enumerate(NUMBER_WORDS)}}
# Contractions that the evaluation knows; others are left as they are.
CONTRACTED = """
ain't aren't can't couldn't couldn't've could've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've shouldn't shouldn't've should've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've weren't we've what'll what're what's
what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't wouldn't
wouldn't've would've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
""".split()
# Each may lack any one of its apostrophes. Of "somebody'd" the evaluation takes the apostrophe away.
CONTRACTIONS = {
    contraction[:place] + contraction[place + 1 :]: contraction
    for contraction in CONTRACTED
    for place, character in enumerate(contraction)
    if character == "'"
} | {"somebody'd": "somebodyd"}


class VqaAccuracy(evaluate.Metric):
    """VQA accuracy over all questions and per type; the module's docstring has the rules.

    Args:
        predictions (list of `str`):
            The answer to each question. An empty one is wrong, unless annotators gave an empty answer.
        references (list of lists of `str`):
            The answers of each question's annotators, as published: ten, at least four.
        question_types, answer_types (list of `str`, *optional*):
            Types of each question ("what color is") and of its answer ("yes/no", "number", "other"); `None` where a
            question has none. Give them in every call or in none.
        answer_processing (`str`, defaults to `"described"`, `compute` only):
            `"described"`: annotators are processed as predictions are. `"released"`: as in the released code.
        return_accuracies (`bool`, defaults to `False`, `compute` only):
            Also return the accuracy of each question.

    Returns:
        `dict` with
            - `vqa_accuracy` (`float` in [0, 1]; papers print percent): mean over questions,
            - `num_questions` (`int`),
            - `vqa_accuracy_by_question_type`, `vqa_accuracy_by_answer_type` (`dict`): type -> accuracy in [0, 1],
            - `num_questions_by_question_type`, `num_questions_by_answer_type` (`dict`): type -> number of questions,
            - `accuracies` (list of `float`): one per question in the order they were added, with
              `return_accuracies=True`.
        In a distributed run (`num_process > 1`) process 0 gets it, the others get `None`; lists are in process order.

    Examples:
        >>> vqa_accuracy = evaluate.load("vqa_accuracy")
        >>> result = vqa_accuracy.compute(
        ...     predictions=["A red one.", "two"],
        ...     references=[["red 1"] * 2 + ["blue"] * 8, ["2"] * 10],
        ...     answer_types=["other", "number"],
        ... )
        >>> {name: round(value, 2) for name, value in result["vqa_accuracy_by_answer_type"].items()}
        {'number': 1.0, 'other': 0.6}
    """

    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation=_CITATION,
            inputs_description=inspect.cleandoc(self.__doc__),
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.List(datasets.Value("string")),
                    # empty: the question has no type
                    "question_types": datasets.Value("string"),
                    "answer_types": datasets.Value("string"),
                }
            ),
            reference_urls=["https://visualqa.org/evaluation.html", "https://arxiv.org/abs/1505.00468"],
            license="Apache-2.0",
        )

    def compute(
        self,
        *,
        predictions=None,
        references=None,
        question_types=None,
        answer_types=None,
        answer_processing=DESCRIBED,
        return_accuracies=False,
    ):
        """Scores the questions given here and all that were added before."""
        if answer_processing not in (DESCRIBED, RELEASED):
            raise ValueError(f"`answer_processing` must be {DESCRIBED!r} or {RELEASED!r}, got {answer_processing!r}.")
        if (predictions is None) != (references is None):
            raise ValueError("`predictions` and `references` go together: give both, or neither after `add_batch`.")
        if predictions is not None:
            self.add_batch(
                predictions=predictions,
                references=references,
                question_types=question_types,
                answer_types=answer_types,
            )
        elif question_types is not None or answer_types is not None:
            raise ValueError("types were given without `predictions`: give them to `add_batch`.")
        if not len(self):
            if self.num_process == 1:
                raise ValueError(NOTHING_ADDED)
            self.add_batch(predictions=[], references=[])  # the file of this process, which process 0 waits for
        return super().compute(answer_processing=answer_processing, return_accuracies=return_accuracies)

    def add_batch(self, *, predictions=None, references=None, question_types=None, answer_types=None):
        """Adds questions; they are checked here, so that an error names one and nothing of the batch is kept."""
        if predictions is None or references is None:
            raise ValueError("`predictions` and `references` are both needed: an answer and those of the annotators.")
        types = {"question_types": question_types, "answer_types": answer_types}
        types = {name: [None] * len(predictions) if found is None else found for name, found in types.items()}
        for name, values in ({"references": references} | types).items():
            if isinstance(values, str) or len(values) != len(predictions):
                raise ValueError(
                    f"there are {len(predictions)} `predictions` but {len(values)} `{name}`: give one per question."
                )
        super().add_batch(
            predictions=[_check_text(answer, f"predictions[{index}]") for index, answer in enumerate(predictions)],
            references=[_check_answers(answers, index) for index, answers in enumerate(references)],
            **{
                name: [
                    "" if value is None else _check_text(value, f"{name}[{index}]")
                    for index, value in enumerate(values)
                ]
                for name, values in types.items()
            },
        )

    def add(self, *, prediction=None, reference=None, question_type=None, answer_type=None):
        """Adds one question: its answer, the list of its annotators' answers, its types."""
        if prediction is None or reference is None:
            raise ValueError("`prediction` and `reference` are both needed: an answer and those of the annotators.")
        self.add_batch(
            predictions=[prediction],
            references=[reference],
            question_types=[question_type],
            answer_types=[answer_type],
        )

    def _compute(self, predictions, references, question_types, answer_types, answer_processing, return_accuracies):
        if not len(predictions):
            raise ValueError(NOTHING_ADDED)
        accuracies = [
            compute_accuracy(prediction, answers, answer_processing)
            for prediction, answers in zip(predictions, references, strict=True)
        ]
        result = {"vqa_accuracy": float(np.mean(accuracies)), "num_questions": len(accuracies)}
        for kind, types in (("question_type", question_types), ("answer_type", answer_types)):
            members = {}
            for accuracy, name in zip(accuracies, types, strict=True):
                if name:
                    members.setdefault(name, []).append(accuracy)
            result[f"vqa_accuracy_by_{kind}"] = {name: float(np.mean(members[name])) for name in sorted(members)}
            result[f"num_questions_by_{kind}"] = {name: len(members[name]) for name in sorted(members)}
        return {**result, "accuracies": accuracies} if return_accuracies else result


def compute_accuracy(prediction, answers, answer_processing=DESCRIBED):
    """Accuracy of one answer.

    Args:
        prediction (`str`): the answer.
        answers (sequence of `str`): those of the annotators.
        answer_processing (`str`): `"described"` or `"released"`.

    Returns:
        `float` in [0, 1].
    """
    if answer_processing == DESCRIBED:
        prediction, *answers = (normalize_answer(answer) or write_plainly(answer) for answer in (prediction, *answers))
    else:
        prediction = normalize_answer(prediction)
        if len(set(answers)) > 1:
            answers = [remove_punctuation(answer) for answer in answers]
    agrees = np.array([answer == prediction for answer in answers])
    others = agrees.sum() - agrees  # agreeing annotators beside each of them
    return float(np.minimum(others / NUM_AGREEING, 1).mean())


def normalize_answer(answer):
    """The answer as it is compared: without punctuation, capitals, articles and number words.

    Args:
        answer (`str`): as predicted or annotated.

    Returns:
        `str`: words separated by single spaces; empty where none is left.
    """
    words = remove_punctuation(" ".join(answer.split())).lower().split()
    words = [NUMBERS.get(word, word) for word in words]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def write_plainly(answer):
    """The answer in lower case with single spaces, for one that [`normalize_answer`] would leave empty."""
    return " ".join(answer.lower().split())


def remove_punctuation(answer):
    """The answer without punctuation but apostrophes, colons, and periods before a digit.

    Args:
        answer (`str`): as predicted or annotated.

    Returns:
        `str`: spaces may be repeated.
    """
    text = answer
    for mark in MARKS:
        is_beside_a_space = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if is_beside_a_space or COMMA_IN_NUMBER.search(answer) else " ")
    return PERIOD.sub("", text)


def _check_text(value, name):
    if not isinstance(value, str):
        raise ValueError(f"`{name}` must be a text, got {value!r}.")
    return value


def _check_answers(answers, index):
    if isinstance(answers, str) or answers is None or not all(isinstance(answer, str) for answer in answers):
        raise ValueError(f"`references[{index}]` must be a list of texts, one per annotator, got {answers!r}.")
    if len(answers) < MIN_ANSWERS:
        raise ValueError(
            f"`references[{index}]` has {len(answers)} answers: the rule compares with ten, and with fewer than "
            f"{MIN_ANSWERS} no answer could be right. Repeat each annotator's answer as published."
        )
    return list(answers)
