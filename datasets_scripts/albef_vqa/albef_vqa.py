# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""ALBEF's lists for visual question answering (VQA v2, questions of Visual Genome) and its list of answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef_amc.datasets_scripts.reading.annotation_lists import is_encodable
from albef_amc.datasets_scripts.reading.coco_records import ReadingReport
from albef_amc.datasets_scripts.reading.task_lists import (
    Entry,
    TaskListBuilder,
    TaskListConfig,
    has_words,
    iterate_lines,
)
from albef_amc.datasets_scripts.task_features import ANSWERED_FEATURES, build_question
from albef_amc.ranges_albef import check_choice
from albef_amc.text_files_albef import load_json

VQA, VISUAL_GENOME = "vqa", "vg"
SOURCES = (VQA, VISUAL_GENOME)
# Questions of Visual Genome have one answer by one annotator: the weight that ALBEF gives it.
VISUAL_GENOME_WEIGHT = 0.5
# Splits whose questions must have answers; those of the test splits are not published.
ANSWERED_SPLITS = ("train", "val")
MAX_QUESTION_ID = 2**63 - 1


@dataclass
class AlbefVqaConfig(TaskListConfig):
    """Where the lists of each split and the images are.

    Args:
        data_root (`str`): folder of the lists.
        train_files, val_files, test_files (`list[str]` or `str`): the lists of each split, below `data_root` or with
            their full path; a split without a list is not built. At least one is needed.
        image_root (`str`, *optional*): folder that the images of entries with `"dataset": "vqa"` are relative to;
            `data_root` by default.
        vg_root (`str`, *optional*): the same for `"dataset": "vg"`; `image_root` by default.
        embed_images (`bool`, defaults to `True`): whether the rows hold the images' bytes; else they hold their paths
            on this machine, and the files must stay where they are.
        path_prefixes (`dict[str, str]` or `str`, *optional*): what paths of the lists begin with, to what stands
            there instead, relative to the images' folder ("" for that folder itself); a text is removed.
    """

    vg_root: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if not self.get_source_folder(VISUAL_GENOME).is_dir():
            raise FileNotFoundError(f"No image folder {self.vg_root}. Put it there or pass another `vg_root`.")

    def get_source_folder(self, source: str) -> Path:
        """Folder of the images of a source."""
        return Path(self.vg_root) if source == VISUAL_GENOME and self.vg_root else self.get_image_folder()

    def list_image_folders(self) -> list[Path]:
        """Folders of the images, each once."""
        return list(dict.fromkeys(self.get_source_folder(source) for source in SOURCES))


class AlbefVqa(TaskListBuilder):
    """Builder for ALBEF's VQA lists: one row per image with its questions, their answers and the answers' weights.

    The id of an image is its source and its path, such as "vqa/val2014/COCO_val2014_000000203564.jpg".

    Example:

        builder = AlbefVqa(
            cache_dir="cache", data_root="data", image_root="coco", vg_root="visual_genome",
            train_files=["vqa_train.json", "vg_qa.json"], test_files="vqa_test.json",
        )
        builder.download_and_prepare()
        rows = builder.as_dataset(split="train")
    """

    BUILDER_CONFIG_CLASS = AlbefVqaConfig
    DESCRIPTION = "ALBEF's lists for visual question answering: one row per image with its questions."
    FEATURES = ANSWERED_FEATURES

    def _read_split(self, split: str) -> dict[str, Any]:
        self._seen: set[tuple[str, int]] = set()
        return super()._read_split(split)

    def _read_entry(self, entry: Entry) -> tuple[str, Any] | None:
        source, question_id = entry.read("dataset"), entry.read("question_id")
        check_choice("dataset", source, SOURCES, f"{entry.where}: ")
        if not is_question_id(question_id):
            raise ValueError(f"{entry.where}: `question_id` must be a whole number, got {question_id!r:.80}.")
        path = entry.read_path(entry.read("image"), "image", self.report)
        answers = self._read_answers(entry, source)
        question = entry.read_text("question", self.report)
        if answers is not None:
            answers = keep_answers(answers, entry.place, self.report)
        if path is None or question is None or answers == []:
            return None
        if (source, question_id) in self._seen:
            self.report.add("question id occurs twice: the first is kept", f"{entry.place} ({question_id})")
            return None
        self._seen.add((source, question_id))
        return f"{source}/{path}", [question_id, question, answers]

    def _read_answers(self, entry: Entry, source: str) -> list[str] | None:
        """Answers of the annotators; `None` where the split has none.

        Raises:
            ValueError: answers that are missing, or not as the source has them.
        """
        if entry.split not in ANSWERED_SPLITS and entry.fields.get("answer") is None:
            return None
        answer = entry.read("answer")
        if source == VISUAL_GENOME:
            if not isinstance(answer, str):
                raise ValueError(f"{entry.where}: `answer` of Visual Genome must be a text, got {answer!r:.80}.")
            return [answer]
        if not isinstance(answer, list) or not answer or not all(isinstance(text, str) for text in answer):
            raise ValueError(
                f"{entry.where}: `answer` must be a list of texts, one per annotator, got {answer!r:.80}."
            )
        return answer

    def _read_row(self, image: str, source: Any, report: ReadingReport) -> dict[str, Any] | None:
        name, _, path = image.partition("/")
        found = self._read_image(path, report, self.config.get_source_folder(name))
        if found is None:
            return None
        weights = {"answer_weights": [VISUAL_GENOME_WEIGHT]} if name == VISUAL_GENOME else {}
        questions = [
            build_question(question_id, question, name, answers, **(weights if answers else {}))
            for question_id, question, answers in iterate_lines(source)
        ]
        return {**found, "image_id": image, "questions": questions}


def is_question_id(value: Any) -> bool:
    """Whether it is a whole number that a column of numbers can hold."""
    return type(value) is int and 0 <= value <= MAX_QUESTION_ID


def keep_answers(answers: Sequence[str], place: str, report: ReadingReport) -> list[str]:
    """Answers of a question's annotators as they are stored; none at all where not one has words.

    Args:
        answers (sequence of `str`): one per annotator.
        place (`str`): of the question, for the report.
        report (`ReadingReport`): receives what was left out.

    Returns:
        `list[str]`: as many as there are annotators, those with broken characters empty; or an empty list.
    """
    kept = [answer if is_encodable(answer) else "" for answer in answers]
    usable = [has_words(answer) for answer in kept]
    if not any(usable):
        report.add("no answer with words: question skipped", place)
        return []
    if not all(usable):
        report.add("answer without words or with broken characters: not a training target", place)
    return kept


def read_answer_list(path: str | Path) -> list[str]:
    """The candidates that answers are ranked among, as in ALBEF's `answer_list.json`.

    Args:
        path (`str` or `Path`): JSON file with a list of texts.

    Returns:
        `list[str]`: the answers, as written and in their order.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a list of texts, or an answer that is empty or repeated.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No `{path.name}` in {path.parent}. It is part of ALBEF's download of lists.")
    answers = load_json(path)
    if not isinstance(answers, list) or not answers:
        raise ValueError(f"{path} must hold a list of answers, got {answers!r:.80}.")
    first: dict[str, int] = {}
    for number, answer in enumerate(answers):
        if not isinstance(answer, str) or not has_words(answer):
            raise ValueError(f"{path}: answer {number} must be a text with words, got {answer!r:.80}. Remove it.")
        if answer in first:
            raise ValueError(f"{path}: answer {number} repeats answer {first[answer]} ({answer!r:.80}). Remove it.")
        first[answer] = number
    return answers
