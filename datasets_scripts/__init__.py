# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Grounding data sets: one builder class per data set, one row schema for all of them."""

from .albef_json import AlbefJson
from .amc_json import AmcJson, AmcJsonConfig
from .annotation_lists import AnnotationListConfig
from .coco_phrases import CocoPhrases, CocoPhrasesConfig, choose_split
from .coco_raw import Coco, CocoConfig
from .coco_records import ReadingReport
from .features import GROUNDING_FEATURES, PHRASE_FEATURES, build_phrase, build_row, compute_statistics
from .flickr30k_entities import Flickr30kEntities, Flickr30kEntitiesConfig
from .jsonl import Jsonl, JsonlConfig
from .kilogram import KiloGram, KiloGramConfig
from .loading import BUILDERS, load_grounding_dataset
from .phrasecut import PhraseCut, PhraseCutConfig
from .refcoco import RefCoco, RefCocoConfig
from .synthetic_grounding import SyntheticGrounding, SyntheticGroundingConfig, build_scene, generate_scenes
from .synthetic_phrases import vocabulary
from .synthetic_reader import find_referents
from .synthetic_scenes import HELD_OUT_COMPOSITIONS
from .visual_genome import VisualGenome, VisualGenomeConfig

__all__ = [
    "BUILDERS",
    "GROUNDING_FEATURES",
    "HELD_OUT_COMPOSITIONS",
    "PHRASE_FEATURES",
    "AlbefJson",
    "AmcJson",
    "AmcJsonConfig",
    "AnnotationListConfig",
    "Coco",
    "CocoConfig",
    "CocoPhrases",
    "CocoPhrasesConfig",
    "Flickr30kEntities",
    "Flickr30kEntitiesConfig",
    "Jsonl",
    "JsonlConfig",
    "KiloGram",
    "KiloGramConfig",
    "PhraseCut",
    "PhraseCutConfig",
    "ReadingReport",
    "RefCoco",
    "RefCocoConfig",
    "SyntheticGrounding",
    "SyntheticGroundingConfig",
    "VisualGenome",
    "VisualGenomeConfig",
    "build_phrase",
    "build_row",
    "build_scene",
    "choose_split",
    "compute_statistics",
    "find_referents",
    "generate_scenes",
    "load_grounding_dataset",
    "vocabulary",
]
