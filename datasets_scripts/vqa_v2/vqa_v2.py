# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""VQA v2 as published: questions and annotations of COCO's images."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from albef_amc.datasets_scripts.reading.json_lists import iterate_json_lists
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.record_groups import RecordGroups, iterate_records
from albef_amc.datasets_scripts.reading.regions import is_id_number
from albef_amc.datasets_scripts.reading.texts import has_words, keep_answers
from albef_amc.datasets_scripts.source_builder import SourceBuilder, SplitsConfig
from albef_amc.datasets_scripts.task_features import ANSWERED_FEATURES, ANSWERED_SPLITS, VQA, build_question
from albef_amc.text_processing_albef import find_broken_character

# Split -> its name in file names, and the folder of its images.
SUBTYPES = {
    "train": ("train2014", "train2014"),
    "val": ("val2014", "val2014"),
    "test": ("test2015", "test2015"),
    "test_dev": ("test-dev2015", "test2015"),
}
QUESTION, ANNOTATION = "questions", "annotations"
MAX_IMAGE_ID = 10**12 - 1  # file names have twelve digits


@dataclass
class VqaV2Config(SplitsConfig):
    """Folders, and the splits to read.

    Args:
        data_root (`str`): folder of `v2_OpenEnded_mscoco_train2014_questions.json`,
            `v2_mscoco_train2014_annotations.json` and so on.
        splits (`list[str]` or `str`, defaults to train and val): some of train, val, test, test_dev.
        image_root (`str`, *optional*): folder of the folders `train2014`, `val2014`, `test2015`; `data_root` by
            default.
        embed_images (`bool`, defaults to `True`): whether rows hold the bytes of the images; otherwise they hold paths
            on this machine, and the files must not be moved.
    """

    splits: list[str] | tuple[str, ...] | str = ANSWERED_SPLITS

    def _check_options(self) -> None:
        self.splits = self._choose_several("splits", tuple(SUBTYPES))

    def get_paths(self, split: str) -> dict[str, Path]:
        """Files of a split by the list that they hold; test splits have no annotations."""
        subtype, root = SUBTYPES[split][0], Path(self.data_root)
        paths = {QUESTION: root / f"v2_OpenEnded_mscoco_{subtype}_questions.json"}
        if split in ANSWERED_SPLITS:
            paths[ANNOTATION] = root / f"v2_mscoco_{subtype}_annotations.json"
        return paths

    def list_annotation_paths(self) -> list[Path]:
        """Questions and annotations of all splits."""
        return [path for split in self.splits for path in self.get_paths(split).values()]


class VqaV2(SourceBuilder):
    """Builder for VQA v2: one row per image with its questions, the ten answers of each, and their weights.

    Example:

        builder = VqaV2(cache_dir="cache", data_root="vqa", image_root="coco", splits=["val"])
        builder.download_and_prepare()
        rows = builder.as_dataset(split="val")
    """

    BUILDER_CONFIG_CLASS = VqaV2Config
    DESCRIPTION = "VQA v2: one row per image with its questions and the answers of their annotators."
    FEATURES = ANSWERED_FEATURES
    PUBLISHED_COUNTS: ClassVar[dict[str, dict[str, int]]] = {
        "train": {"questions": 443757, "images": 82783},
        "val": {"questions": 214354, "images": 40504},
        "test": {"questions": 447793, "images": 81434},
    }

    def get_published_counts(self) -> dict[str, dict[str, int]]:
        """Published counts of the splits to read."""
        return {split: counts for split, counts in self.PUBLISHED_COUNTS.items() if split in self.config.splits}

    def _read_split(self, split: str) -> dict[str, tuple[str, str, bytearray]]:
        """Image id -> split, path, and records of its questions and annotations."""
        groups = RecordGroups()
        for kind, path in self.config.get_paths(split).items():
            for image_id, kept in _iterate_entries(path, kind, self.report):
                if kind == ANNOTATION and image_id not in groups:
                    place = f"{path.name} {image_id}"
                    self.report.add("annotation of an image without a question: annotation skipped", place)
                else:
                    groups.add(image_id, [kind, *kept])
        folder = SUBTYPES[split][1]
        return {
            str(image_id): (split, f"{folder}/COCO_{folder}_{image_id:012d}.jpg", group)
            for image_id, group in groups.items()
        }

    def _read_row(self, image: str, source: Any, report: ReadingReport) -> dict[str, Any] | None:
        split, name, group = source
        fields: dict[str, dict[int, list[Any]]] = {QUESTION: {}, ANNOTATION: {}}
        for kind, question_id, *values in iterate_records(group):
            fields[kind][question_id] = values
        entries = (
            _build_entry(question_id, question, fields[ANNOTATION].get(question_id), split, report)
            for question_id, (question,) in fields[QUESTION].items()
        )
        questions = [entry for entry in entries if entry is not None]
        columns = self._read_image(name, report) if questions else None
        return columns and {**columns, "image_id": image, "questions": questions}


def _build_entry(
    question_id: int, question: str, annotation: list[Any] | None, split: str, report: ReadingReport
) -> dict[str, Any] | None:
    """Entry of `questions`, or `None` (reported) where the split must have answers and there are none."""
    place = f"question {question_id}"
    if split not in ANSWERED_SPLITS:
        return build_question(question_id, question, VQA)
    if annotation is None:
        report.add("question without an annotation: question skipped", place)
        return None
    answers, question_type, answer_type = annotation
    kept = keep_answers(answers, place, report)
    types = {"question_type": question_type, "answer_type": answer_type}
    return build_question(question_id, question, VQA, kept, **types) if kept else None


def _iterate_entries(path: Path, kind: str, report: ReadingReport) -> Iterator[tuple[int, list[Any]]]:
    """Image id of every entry of a file, with its question id and the fields to keep.

    Raises:
        ValueError: the file has no list of that kind, or an entry lacks a required field.
    """
    seen: set[int] = set()
    is_listed = False
    for key, entry in iterate_json_lists(path):
        if key != kind:
            continue
        is_listed = True
        image_id, question_id = (_read_number(entry, name, path) for name in ("image_id", "question_id"))
        kept = _read_annotation(entry, path) if kind == ANNOTATION else _read_question(entry, path, report)
        if question_id in seen:
            report.add("question id occurs twice: the first is kept", f"{path.name}, question {question_id}")
        elif kept is not None:
            seen.add(question_id)
            yield image_id, [question_id, *kept]
    if not is_listed:
        raise ValueError(f"{path} has no list `{kind}`. The format of VQA v2 is expected.")


def _read_number(entry: dict[str, Any], name: str, path: Path) -> int:
    number = entry.get(name)
    if not is_id_number(number) or number < 0:
        raise ValueError(f"{path}: `{name}` must be a whole number, got {number!r:.80} in {json.dumps(entry):.80}")
    if name == "image_id" and number > MAX_IMAGE_ID:
        raise ValueError(f"{path}: `image_id` {number} is not an id of COCO: it has more than twelve digits.")
    return number


def _read_question(entry: dict[str, Any], path: Path, report: ReadingReport) -> list[str] | None:
    question, place = entry.get("question"), f"question {entry['question_id']}"
    if not isinstance(question, str):
        raise ValueError(f"{path}: {place} has no `question` (got {question!r:.80}).")
    if has_words(question):
        return [question]
    report.add("question without words or with broken characters: question skipped", place)
    return None


def _read_annotation(entry: dict[str, Any], path: Path) -> list[Any]:
    """Answers of the annotators, type of the question, type of the answer."""
    where, answers = f"{path}: annotation of question {entry['question_id']}", entry.get("answers")
    if not isinstance(answers, list) or not answers:
        raise ValueError(f"{where} has no `answers` (a list of objects with `answer` is expected).")
    texts = [answer.get("answer") if isinstance(answer, dict) else None for answer in answers]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{where}: every one of its `answers` must be an object with the text `answer`.")
    types = [entry.get(name) for name in ("question_type", "answer_type")]
    if not all(value is None or (isinstance(value, str) and not find_broken_character(value)) for value in types):
        raise ValueError(f"{where}: `question_type` and `answer_type` must be texts, got {types!r:.80}.")
    return [texts, *types]
