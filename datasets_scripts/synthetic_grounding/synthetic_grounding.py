# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Synthetic grounding: scenes of coloured shapes with phrases that need every word, generated from a seed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import datasets

from albef_amc.datasets_scripts.features import GROUNDING_FEATURES, build_phrase, build_row
from albef_amc.datasets_scripts.option_types import check_options
from albef_amc.datasets_scripts.synthetic_grounding.phrases import (
    PHRASE_TYPES,
    ScenePhrase,
    build_caption,
    choose_phrases,
    describe_fully,
    list_phrases,
)
from albef_amc.datasets_scripts.synthetic_grounding.scenes import (
    HELD_OUT_COMPOSITIONS,
    OBJECT_GAP,
    SceneObject,
    draw_scene,
    sample_objects,
)
from albef_amc.datasets_scripts.synthetic_grounding.statements import list_exchanges, list_true_statements
from albef_amc.ranges_albef import Range, check_choice, check_number
from albef_amc.regions_albef import encode_rle

SPLITS = ("train", "validation", "test")
UNSEEN_COMPOSITION = "unseen_composition"
# Maximum fraction of the image that the largest objects may fill, so that a layout exists.
MAX_FILLED_SHARE = 0.6
# Pixels of a side: an image then takes 50 MB in memory.
MAX_IMAGE_SIDE = 4096
SCENES = Range(0, 10_000_000, is_whole=True)  # of a split


@dataclass
class SyntheticGroundingConfig(datasets.BuilderConfig):
    """Appearance and number of the scenes.

    Args:
        seed (`int`, defaults to 0): seed of the data set; every (seed, split, index) is one scene.
        image_side (`int`, defaults to 64): height and width of the images in pixels.
        num_train_scenes, num_validation_scenes, num_test_scenes (`int`, default to 8000, 500 and 1000): rows.
        min_objects, max_objects (`int`, default to 3 and 4): objects per scene.
        phrases_per_scene (`int`, defaults to 4): maximum number of phrases; a scene has at least two.
        phrase_types (`tuple` of `str`, defaults to category, size, relation and plural): types to
            generate. `"spatial"` ("the circle on the left", the leftmost of the circles) can be added: the
            hardest for a small model.
        full_description_share (`float`, defaults to 0.9): fraction of the phrases about one object that name its size,
            colour and shape; the others use no more words than necessary.
        small_min_side, small_max_side (`int`, default to 10 and 13): sides of small objects in pixels.
        big_min_side, big_max_side (`int`, default to 17 and 22): sides of big objects in pixels.
    """

    seed: int = 0
    image_side: int = 64
    num_train_scenes: int = 8000
    num_validation_scenes: int = 500
    num_test_scenes: int = 1000
    min_objects: int = 3
    max_objects: int = 4
    phrases_per_scene: int = 4
    phrase_types: tuple[str, ...] = ("category", "size", "relation", "plural")
    full_description_share: float = 0.9
    small_min_side: int = 10
    small_max_side: int = 13
    big_min_side: int = 17
    big_max_side: int = 22

    def __post_init__(self):
        super().__post_init__()
        check_options(self)
        for name in ("num_train_scenes", "num_validation_scenes", "num_test_scenes"):
            check_number(name, getattr(self, name), SCENES)
        if self.image_side > MAX_IMAGE_SIDE:
            raise ValueError(f"`image_side` must be {MAX_IMAGE_SIDE} pixels or fewer, got {self.image_side}.")
        if not 3 <= self.min_objects <= self.max_objects:
            raise ValueError(
                f"`min_objects` ({self.min_objects}) and `max_objects` ({self.max_objects}) must be in order and 3 "
                "or more: with fewer objects one word decides."
            )
        sides = (3, self.small_min_side, self.small_max_side, self.big_min_side - 1, self.big_max_side - 1)
        if list(sides) != sorted(sides):
            raise ValueError(
                "Sides must rise from `small_min_side` (3 or more) over `small_max_side` and `big_min_side` to "
                f"`big_max_side`, small and big apart; got {self.sides}."
            )
        filled = self.max_objects * (self.big_max_side + OBJECT_GAP) ** 2
        if filled > MAX_FILLED_SHARE * self.image_side**2:
            raise ValueError(
                f"{self.max_objects} objects of {self.big_max_side} pixels do not fit into `image_side` = "
                f"{self.image_side}. Raise `image_side`, or lower `max_objects` or `big_max_side`."
            )
        if self.phrases_per_scene < 1:
            raise ValueError(f"`phrases_per_scene` must be 1 or more, got {self.phrases_per_scene}.")
        if not self.phrase_types or not set(self.phrase_types) <= set(PHRASE_TYPES):
            raise ValueError(f"`phrase_types` may hold {', '.join(PHRASE_TYPES)}; got {self.phrase_types}.")
        if not 0 <= self.full_description_share <= 1:
            raise ValueError(f"`full_description_share` must lie in [0, 1], got {self.full_description_share}.")

    def list_splits(self) -> list[str]:
        """The three splits."""
        return list(SPLITS)

    @property
    def sides(self) -> dict[str, tuple[int, int]]:
        """Smallest and largest side in pixels of small and of big objects."""
        return {"small": (self.small_min_side, self.small_max_side), "big": (self.big_min_side, self.big_max_side)}


def build_scene(split: str, index: int, config: SyntheticGroundingConfig) -> dict[str, Any]:
    """Build a row, which depends only on `config`, `split` and `index`.

    Args:
        split (`str`): "train", "validation" or "test". Only test scenes contain `HELD_OUT_COMPOSITIONS`.
        index (`int`): number of the scene in its split.
        config (`SyntheticGroundingConfig`): the data set.

    Returns:
        `dict`: a row of `GROUNDING_FEATURES` with a PIL image.
    """
    check_choice("split", split, SPLITS)
    rng = Random(f"{config.seed}/{split}/{index}")
    held_out = frozenset() if split == "test" else HELD_OUT_COMPOSITIONS
    while True:
        num_objects = rng.randint(config.min_objects, config.max_objects)
        objects = sample_objects(rng, num_objects, config.image_side, config.sides, held_out)
        candidates = list_phrases(objects, config.image_side, config.phrase_types)
        if len(candidates) >= min(2, config.phrases_per_scene):
            break
    phrases = choose_phrases(rng, candidates, config.phrases_per_scene)
    phrases = describe_fully(rng, phrases, objects, config.full_description_share)
    image = draw_scene(rng, objects, config.image_side)
    image_id = f"{config.seed}-{split}-{index:06d}"
    proposals = [
        {"box": list(item.box), "score": 1.0, "label": f"{item.size} {item.color} {item.shape}"} for item in objects
    ]
    exchanges = (
        list_exchanges(phrase.text, proposals, Random(f"{image_id}/{phrase.text}"), held_out) for phrase in phrases
    )
    return build_row(
        image=image,
        image_id=image_id,
        width=config.image_side,
        height=config.image_side,
        proposals=proposals,
        phrases=_build_phrases(image_id, phrases, objects, config.image_side),
        true_phrases=list_true_statements(objects, config.phrase_types),
        false_phrases=sorted({text for by_kind in exchanges for text in by_kind.values()}),
    )


def _build_phrases(
    image_id: str, phrases: list[ScenePhrase], objects: list[SceneObject], image_side: int
) -> list[dict[str, Any]]:
    caption, spans = build_caption(phrases)
    masks = [encode_rle(item.draw_mask(image_side)) for item in objects]
    entries = []
    for number, (phrase, span) in enumerate(zip(phrases, spans, strict=True)):
        unseen = any(objects[index].composition in HELD_OUT_COMPOSITIONS for index in phrase.mentioned)
        entries.append(
            build_phrase(
                f"{image_id}-{number}",
                phrase.text,
                boxes=[list(objects[index].box) for index in phrase.referents],
                masks=[masks[index] for index in phrase.referents],
                types=[phrase.kind, UNSEEN_COMPOSITION] if unseen else [phrase.kind],
                caption=caption,
                spans=[list(span)],
            )
        )
    return entries


def generate_scenes(
    split: str, count: int, config: SyntheticGroundingConfig | None = None, start: int = 0
) -> list[dict[str, Any]]:
    """Generate rows in memory, equal to those of `SyntheticGrounding`; nothing is written to disk.

    Args:
        split (`str`): "train", "validation" or "test".
        count (`int`): number of rows.
        config (`SyntheticGroundingConfig`, *optional*): defaults to the default data set.
        start (`int`, defaults to 0): index of the first row.

    Returns:
        `list[dict]`: rows of `GROUNDING_FEATURES` with PIL images.

    Example:
        >>> row = generate_scenes("train", 1)[0]
        >>> row["image"].size, len(row["phrases"]) >= 2
        ((64, 64), True)
    """
    config = config or SyntheticGroundingConfig()
    return [build_scene(split, index, config) for index in range(start, start + count)]


class SyntheticGrounding(datasets.GeneratorBasedBuilder):
    """Builder for scenes of coloured shapes, generated from a seed; options as in `SyntheticGroundingConfig`.

    Example:

        builder = SyntheticGrounding(cache_dir="cache", seed=1, num_train_scenes=2000)
        builder.download_and_prepare()
        train = builder.as_dataset(split="train")
    """

    VERSION = datasets.Version("1.2.0")
    BUILDER_CONFIG_CLASS = SyntheticGroundingConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Scenes of coloured shapes with unambiguous phrases, boxes and masks, made from a seed.",
            features=GROUNDING_FEATURES,
            license="Apache-2.0",
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        counts = (self.config.num_train_scenes, self.config.num_validation_scenes, self.config.num_test_scenes)
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"split": split, "sources": range(count)})
            for split, count in zip(SPLITS, counts, strict=True)
        ]

    def _generate_examples(self, split: str, sources: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in sources:
            yield index, build_scene(split, index, self.config)
