# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Data sets: one builder class per data set, one row schema per task.

| looking for | file |
| --- | --- |
| a data set: builder, card, helpers | `NAME/NAME.py`, `NAME/README.md`, other files of `NAME/` |
| load rows by name; all names | `loading.py` (`load_grounding_dataset`, `load_task_dataset`, `BUILDERS`) |
| columns of a row | `features.py` (grounding), `task_features.py` (captions, questions, sentences, hypotheses) |
| base of builders of raw files | `source_builder.py`; of JSON lists as ALBEF and AMC use them: `list_builder.py` |
| types of builder options | `option_types.py` |
| readers that builders share: images, JSON, XML, regions, texts, the report | `reading/` |
| which texts of a row are usable | `usable_rows.py` |
| whether regions fit their image | `row_checks.py` |
| where rows may take image files from | `row_images.py` |
| a range of a split as rows, for Parquet shards | `split_reader.py` |
| counts and quantiles of a data set | `statistics.py` |
| random numbers per example | `randomness.py` |
"""

from .albef_json.albef_json import AlbefJson
from .albef_nlvr2.albef_nlvr2 import AlbefNlvr2
from .albef_retrieval.albef_retrieval import AlbefRetrieval
from .albef_snli_ve.albef_snli_ve import AlbefSnliVe
from .albef_vqa.albef_vqa import AlbefVqa, AlbefVqaConfig
from .amc_json.amc_json import AmcJson, AmcJsonConfig
from .coco.coco import Coco, CocoConfig
from .coco_phrases.coco_phrases import CocoPhrases, CocoPhrasesConfig, choose_split
from .features import GROUNDING_FEATURES, PHRASE_FEATURES, build_phrase, build_row
from .flickr30k_entities.flickr30k_entities import Flickr30kEntities, Flickr30kEntitiesConfig
from .jsonl.jsonl import Jsonl, JsonlConfig
from .kilogram.kilogram import KiloGram, KiloGramConfig
from .list_builder import AnnotationListConfig, TaskListConfig
from .loading import (
    BUILDERS,
    check_builder_options,
    check_builder_split,
    find_dataset_commit,
    load_grounding_dataset,
    load_task_dataset,
)
from .phrasecut.phrasecut import PhraseCut, PhraseCutConfig
from .reading.reading_report import ReadingReport
from .reading.texts import read_answer_list
from .refcoco.refcoco import RefCoco, RefCocoConfig
from .statistics import compute_statistics
from .synthetic_grounding.phrase_reader import find_referents
from .synthetic_grounding.phrases import vocabulary
from .synthetic_grounding.scenes import HELD_OUT_COMPOSITIONS
from .synthetic_grounding.synthetic_grounding import (
    SyntheticGrounding,
    SyntheticGroundingConfig,
    build_scene,
    generate_scenes,
)
from .task_features import (
    ANSWERED_FEATURES,
    CAPTIONED_FEATURES,
    ENTAILED_FEATURES,
    PAIRED_FEATURES,
    QUESTION_FEATURES,
    build_question,
    weigh_answers,
)
from .visual_genome.visual_genome import VisualGenome, VisualGenomeConfig
from .vqa_v2.vqa_v2 import VqaV2, VqaV2Config

__all__ = [
    "ANSWERED_FEATURES", "BUILDERS", "CAPTIONED_FEATURES", "ENTAILED_FEATURES", "GROUNDING_FEATURES",
    "HELD_OUT_COMPOSITIONS", "PAIRED_FEATURES", "PHRASE_FEATURES", "QUESTION_FEATURES", "AlbefJson", "AlbefNlvr2",
    "AlbefRetrieval", "AlbefSnliVe", "AlbefVqa", "AlbefVqaConfig", "AmcJson", "AmcJsonConfig", "AnnotationListConfig",
    "Coco", "CocoConfig", "CocoPhrases", "CocoPhrasesConfig", "Flickr30kEntities", "Flickr30kEntitiesConfig", "Jsonl",
    "JsonlConfig", "KiloGram", "KiloGramConfig", "PhraseCut", "PhraseCutConfig", "ReadingReport", "RefCoco",
    "RefCocoConfig", "SyntheticGrounding", "SyntheticGroundingConfig", "TaskListConfig", "VisualGenome",
    "VisualGenomeConfig", "VqaV2", "VqaV2Config", "build_phrase", "build_question", "build_row", "build_scene",
    "check_builder_options", "check_builder_split", "choose_split", "compute_statistics", "find_dataset_commit",
    "find_referents", "generate_scenes", "load_grounding_dataset", "load_task_dataset", "read_answer_list",
    "vocabulary", "weigh_answers",
]  # fmt: skip
