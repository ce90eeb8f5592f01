# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Retrieval recall: is a right candidate among the first k that a query found?

Retrieval recall scores a search by its ranked results. Recall@k is the percentage of queries with a right candidate
among their first k. Text recall is that of images that look for texts, image recall that of texts that look for
images. One right candidate is enough: an image with five captions needs one of them.
"""

import inspect

import datasets
import evaluate
import numpy as np

RANKS = (1, 5, 10)
FOUND = {"image_to_text": "text", "text_to_image": "image"}  # direction -> what its queries look for

NOTHING_ADDED = "no query was added: the recall of nothing is undefined. Pass at least one query."

_CITATION = """
@inproceedings{li2021align,
  title = {Align before Fuse: Vision and Language Representation Learning with Momentum Distillation},
  author = {Li, Junnan and Selvaraju, Ramprasaath R. and Gotmare, Akhilesh Deepak and Joty, Shafiq and Xiong, Caiming
    and Hoi, Steven},
  booktitle = {NeurIPS},
  year = {2021}
}
"""


class RetrievalRecall(evaluate.Metric):
    """Text and image recall at 1, 5 and 10; the module's docstring has the rules.

    Args:
        predictions (list of lists of `int`):
            The candidates that each query found, best first, each at most once. The list may be shorter than the
            gallery, and empty.
        references (list of lists of `int`):
            The right candidates of each query, at least one.
        direction (`str`):
            `"image_to_text"` where images look for texts, `"text_to_image"` where texts look for images. Add each
            direction with a call of its own.

    Returns:
        `dict`, for each direction that was added, with
            - `text_recall_at_{k}` or `image_recall_at_{k}` (`float` in [0, 100]), for k of 1, 5 and 10,
            - `num_image_queries` or `num_text_queries` (`int`): queries that looked for texts, or for images.
        In a distributed run (`num_process > 1`) process 0 gets it and the others get `None`.

    Examples:
        >>> retrieval_recall = evaluate.load("retrieval_recall")
        >>> retrieval_recall.add_batch(
        ...     predictions=[[1, 2, 0], [0, 1, 2]], references=[[0, 1], [2]], direction="image_to_text"
        ... )
        >>> result = retrieval_recall.compute(
        ...     predictions=[[0, 1], [1, 0]], references=[[0], [0]], direction="text_to_image"
        ... )
        >>> result["text_recall_at_1"], result["text_recall_at_5"], result["image_recall_at_1"]
        (50.0, 100.0, 50.0)
    """

    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__,
            citation=_CITATION,
            inputs_description=inspect.cleandoc(self.__doc__),
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.Value("int64")),
                    "references": datasets.List(datasets.Value("int64")),
                    "directions": datasets.Value("string"),
                }
            ),
            reference_urls=["https://arxiv.org/abs/2107.07651"],
            license="Apache-2.0",
        )

    def compute(self, *, predictions=None, references=None, direction=None):
        """Scores the queries given here and all that were added before."""
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references, direction=direction)
        elif direction is not None:
            raise ValueError("`direction` was given without `predictions`: give it to `add_batch`.")
        if not len(self):
            if self.num_process == 1:
                raise ValueError(NOTHING_ADDED)
            super().add_batch(predictions=[], references=[], directions=[])  # the file that process 0 waits for
        return super().compute()

    def add_batch(self, *, predictions=None, references=None, direction=None):
        """Adds queries of one direction; they are checked here, so that an error names the query and nothing of the
        batch is kept."""
        if predictions is None or references is None:
            raise ValueError("`predictions` and `references` are both needed: found and right candidates of queries.")
        if direction not in FOUND:
            raise ValueError(f"`direction` must be one of {', '.join(map(repr, FOUND))}, got {direction!r}.")
        if len(references) != len(predictions):
            raise ValueError(
                f"there are {len(predictions)} `predictions` but {len(references)} `references`: give one per query."
            )
        super().add_batch(
            predictions=[_check_found(found, index) for index, found in enumerate(predictions)],
            references=[_check_right(right, index) for index, right in enumerate(references)],
            directions=[direction] * len(predictions),
        )

    def add(self, *, prediction=None, reference=None, direction=None):
        """Adds one query: the candidates it found, best first, and the right ones."""
        if prediction is None or reference is None:
            raise ValueError("`prediction` and `reference` are both needed: found and right candidates of the query.")
        self.add_batch(predictions=[prediction], references=[reference], direction=direction)

    def _compute(self, predictions, references, directions):
        if not len(predictions):
            raise ValueError(NOTHING_ADDED)
        result = {}
        for direction, found in FOUND.items():
            queries = [index for index, own in enumerate(directions) if own == direction]
            if not queries:
                continue
            ranks = np.array([find_rank(predictions[index], references[index]) for index in queries])
            for rank in RANKS:
                result[f"{found}_recall_at_{rank}"] = 100 * float((ranks < rank).mean())
            result[f"num_{direction.partition('_')[0]}_queries"] = len(queries)
        return result


def find_rank(found, right):
    """Place of the first right candidate among those found, counted from 0.

    Args:
        found (sequence of `int`): candidates, best first.
        right (sequence of `int`): right candidates.

    Returns:
        `float`; infinity if none was found.
    """
    places = np.flatnonzero(np.isin(found, right))
    return float(places[0]) if places.size else np.inf


def _check_found(found, index):
    values = _as_whole_numbers(found, f"`predictions[{index}]`")
    if len(set(values)) < len(values):
        raise ValueError(f"`predictions[{index}]` holds a candidate more than once: {values}. Name each once.")
    return values


def _check_right(right, index):
    values = _as_whole_numbers(right, f"`references[{index}]`")
    if not values:
        raise ValueError(f"`references[{index}]` has no right candidate: such a query cannot be scored. Leave it out.")
    return values


def _as_whole_numbers(values, name):
    numbers = np.asarray([] if values is None else values)
    if numbers.ndim != 1 or (numbers.size and not np.issubdtype(numbers.dtype, np.integer)):
        raise ValueError(f"{name} must be a list of candidates as whole numbers, got {values!r}.")
    if (numbers < 0).any():
        raise ValueError(f"{name} holds a negative candidate: {numbers.tolist()}. Candidates are counted from 0.")
    return numbers.tolist()
