# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""ALBEF's lists for visual question answering (VQA v2, questions of Visual Genome)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef_amc.datasets_scripts.list_builder import Entry, ListBuilder, TaskListConfig
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.record_groups import RecordGroups, iterate_records
from albef_amc.datasets_scripts.reading.regions import is_id_number
from albef_amc.datasets_scripts.reading.texts import keep_answers
from albef_amc.datasets_scripts.task_features import ANSWERED_FEATURES, ANSWERED_SPLITS, VQA, build_question
from albef_amc.ranges_albef import check_choice

VISUAL_GENOME = "vg"
SOURCES = (VQA, VISUAL_GENOME)
# Questions of Visual Genome have one answer by one annotator: its weight in ALBEF's loss.
VISUAL_GENOME_WEIGHT = 0.5


@dataclass
class AlbefVqaConfig(TaskListConfig):
    """Folders and the lists of each split.

    Args:
        data_root (`str`): folder of the lists.
        train_files, val_files, test_files (`list[str]` or `str`): lists of each split, below `data_root` or with their
            full path; a split without a list is not built. At least one is needed.
        image_root (`str`, *optional*): folder that images of entries with `"dataset": "vqa"` are relative to;
            `data_root` by default.
        vg_root (`str`, *optional*): the same for `"dataset": "vg"`; `image_root` by default.
        embed_images (`bool`, defaults to `True`): whether rows hold the bytes of the images; otherwise they hold paths
            on this machine, and the files must not be moved.
        path_prefixes (`dict[str, str]` or `str`, *optional*): prefix of the paths in the lists -> its replacement,
            relative to the image folder ("" for that folder itself); a text is a prefix to remove.
    """

    vg_root: str | None = None

    def get_source_folder(self, source: str) -> Path:
        """Folder of the images of a source."""
        return Path(self.vg_root) if source == VISUAL_GENOME and self.vg_root else self.get_image_folder()

    def list_image_folders(self) -> list[Path]:
        """Distinct folders of the images."""
        return list(dict.fromkeys(self.get_source_folder(source) for source in SOURCES))


class AlbefVqa(ListBuilder):
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

    def _read_split(self, split: str) -> RecordGroups:
        self._seen: set[tuple[str, int]] = set()
        return super()._read_split(split)

    def _read_entry(self, entry: Entry) -> tuple[str, Any] | None:
        source, question_id = entry.read("dataset"), entry.read("question_id")
        check_choice("dataset", source, SOURCES, f"{entry.where}: ")
        if not is_id_number(question_id) or question_id < 0:
            raise ValueError(f"{entry.where}: `question_id` must be a whole number, got {question_id!r:.80}.")
        path = entry.read_path(entry.read("image"), "image")
        answers = self._read_answers(entry, source)
        question = entry.read_text("question")
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
            ValueError: answers are missing, or of another type than the source has.
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
        columns = self._read_image(path, report, self.config.get_source_folder(name))
        weights = {"answer_weights": [VISUAL_GENOME_WEIGHT]} if name == VISUAL_GENOME else {}
        questions = [
            build_question(question_id, question, name, answers, **(weights if answers else {}))
            for question_id, question, answers in iterate_records(source)
        ]
        return columns and {**columns, "image_id": image, "questions": questions}
