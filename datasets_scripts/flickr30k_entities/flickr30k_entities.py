# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Flickr30k Entities: five captions per image, the mentions in them, and the boxes of the mentioned objects."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from albef_amc.datasets_scripts.features import build_phrase, build_row
from albef_amc.datasets_scripts.flickr30k_entities.author_files import (
    Captions,
    ChainBoxes,
    load_image_ids,
    load_unrelated_captions,
    read_captions,
    read_chain_boxes,
)
from albef_amc.datasets_scripts.flickr30k_entities.info_ground_files import (
    list_json_paths,
    load_json_split,
    parse_captions,
    parse_chain_boxes,
)
from albef_amc.datasets_scripts.reading.image_files import StoredImage, read_annotated_image
from albef_amc.datasets_scripts.reading.reading_report import ReadingReport
from albef_amc.datasets_scripts.reading.regions import clean_box, keep_usable, mark_incomplete
from albef_amc.datasets_scripts.source_builder import SourceBuilder, SplitsConfig
from albef_amc.ranges_albef import check_choice

SPLITS = ("train", "val", "test")
SOURCES = ("xml", "info_ground")
IMAGE_FOLDER = "flickr30k-images"
NOT_VISUAL = "0"


@dataclass
class Flickr30kEntitiesConfig(SplitsConfig):
    """Folders, and who wrote the files.

    Args:
        data_root (`str`): folder of the annotations. For "xml": `Annotations`, `Sentences`, the lists of ids and,
            optionally, `UNRELATED_CAPTIONS`. For "info_ground": `bounding_boxes_*.json` and `sentences_*.json`.
        source (`str`, defaults to "xml"): "xml", the authors' files, or "info_ground", files that the repository
            info-ground converts from them.
        splits (`list[str]` or `str`, defaults to train, val, test): splits to read.
        image_root (`str`, *optional*): folder of the images; `flickr30k-images` in `data_root` by default.
        embed_images (`bool`, defaults to `True`): whether rows hold the bytes of the images; otherwise they hold paths
            on this machine, and the files must not be moved.
    """

    source: str = "xml"
    splits: list[str] | tuple[str, ...] | str = SPLITS

    def _check_options(self) -> None:
        check_choice("source", self.source, SOURCES)
        self.splits = self._choose_several("splits", SPLITS)

    @property
    def root(self) -> Path:
        """Folder of the annotations."""
        return Path(self.data_root)

    @property
    def unrelated_path(self) -> Path:
        """Captions that do not describe their image."""
        return self.root / "UNRELATED_CAPTIONS"

    def list_annotation_paths(self) -> list[Path]:
        """Files that list the images of the splits."""
        if self.source == "xml":
            return [self.root / f"{split}.txt" for split in self.splits]
        return [path for split in self.splits for path in list_json_paths(self.root, split)]

    def list_other_paths(self) -> list[Path]:
        """Files of single images, and unrelated captions."""
        if self.source == "info_ground":
            return []
        paths = [*self.root.glob("Annotations/*.xml"), *self.root.glob("Sentences/*.txt")]
        return sorted([*paths, *([self.unrelated_path] if self.unrelated_path.is_file() else [])])

    def get_image_folder(self) -> Path:
        """`image_root`, or the folder in the images' archive."""
        return Path(self.image_root or self.root / IMAGE_FOLDER)


class Flickr30kEntities(SourceBuilder):
    """Builder for Flickr30k Entities: one row per image and split, one phrase per mention.

    Example:

        builder = Flickr30kEntities(cache_dir="cache", data_root="flickr30k_entities")
        builder.download_and_prepare()
        rows = builder.as_dataset(split="test")
    """

    BUILDER_CONFIG_CLASS = Flickr30kEntitiesConfig
    CONFIGURATIONS: ClassVar[dict[str, dict[str, Any]]] = {source: {"source": source} for source in SOURCES}
    DESCRIPTION = "Photographs with five captions each, and boxes of what the captions mention."
    # Lines of the published lists.
    PUBLISHED_COUNTS = {"train": {"rows": 29_783}, "val": {"rows": 1_000}, "test": {"rows": 1_000}}

    def _read_splits(self) -> dict[str, dict[str, Any]]:
        config = self.config
        splits: dict[str, dict[str, Any]] = {}
        unrelated = load_unrelated_captions(config.unrelated_path) if config.source == "xml" else set()
        for split in config.splits:
            if config.source == "xml":
                path = config.root / f"{split}.txt"
                splits[split] = dict.fromkeys(load_image_ids(path, self.report))
            else:
                texts = load_json_split(config.root, split, self.report)
                splits[split] = {image: (split, *found) for image, found in texts.items()}
            for other in config.splits[: config.splits.index(split)]:
                for image in splits[split].keys() & splits[other].keys():
                    self.report.add("image in several splits: image kept in each", f"{image} in {other}, {split}")
            for image, number in sorted(unrelated):
                if image in splits[split]:
                    self.report.add(
                        "caption unrelated to its image: caption kept", f"image {image}, sentence {number}"
                    )
        return splits

    def _read_row(self, image: str, source: Any, report: ReadingReport) -> dict[str, Any] | None:
        file_name = f"{image}.jpg"
        try:
            annotation = self._read_annotation(image, source, report)
        except ValueError as error:
            report.add("annotation damaged: image skipped", str(error))
            return None
        if annotation is None:
            return None
        chains, captions = annotation
        path = self.config.get_image_folder() / file_name
        stored = read_annotated_image(path, chains.size or (None, None), report)
        if stored is None:
            return None
        phrases = _build_phrases(image, captions, chains, stored, report)
        return build_row(self.config.build_image(file_name, stored), image, *stored.upright_size, phrases)

    def _read_annotation(
        self, image: str, source: tuple[str, bytes, bytes] | None, report: ReadingReport
    ) -> tuple[ChainBoxes, Captions] | None:
        """Read boxes and captions of an image, from its two files or from the texts of `load_json_split`.

        Raises:
            ValueError: damaged; the message names file and place.
        """
        if source is not None:
            split, *texts = source
            boxes, sentences = (f"{path}: image {image}" for path in list_json_paths(self.config.root, split))
            return parse_chain_boxes(texts[0], boxes, report), parse_captions(texts[1], sentences, report)
        boxes_path = self.config.root / "Annotations" / f"{image}.xml"
        captions_path = self.config.root / "Sentences" / f"{image}.txt"
        for path in (boxes_path, captions_path):
            if not path.is_file():
                report.add("annotation file missing: image skipped", str(path))
                return None
        return read_chain_boxes(boxes_path, report), read_captions(captions_path, report)


def _build_phrases(
    image: str, captions: Captions, chains: ChainBoxes, stored: StoredImage, report: ReadingReport
) -> list[dict[str, Any]]:
    """One phrase per mention with all boxes of its chain."""
    boxes, lost = {}, {}
    for chain, found in chains.boxes.items():
        read = partial(_read_box, stored=stored, where=f"{image} chain {chain}", report=report)
        boxes[chain], lost[chain] = keep_usable(found, read)
    phrases = []
    for number, (caption, mentions) in captions.items():
        for index, mention in enumerate(mentions):
            phrase_id = f"{image}#{number}#{index}"
            if not boxes.get(mention.chain):
                reason = _explain_missing_box(mention.chain, chains)
                report.add(f"phrase without a box, {reason}: phrase kept without a region", phrase_id)
            phrases.append(
                build_phrase(
                    phrase_id,
                    mention.phrase,
                    boxes=boxes.get(mention.chain) or None,
                    types=mark_incomplete(mention.types, lost.get(mention.chain, False)),
                    caption=caption,
                    spans=mention.span and [mention.span],
                )
            )
    return phrases


def _read_box(box: Any, stored: StoredImage, where: str, report: ReadingReport) -> list[float] | None:
    """A box clipped to the upright image."""
    cleaned = clean_box(box, stored.width, stored.height, where, report)
    return None if cleaned is None else stored.turn_box(cleaned)


def _explain_missing_box(chain: str, chains: ChainBoxes) -> str:
    if chain == NOT_VISUAL:
        return "not visual"
    if chains.boxes.get(chain):
        return "its boxes cannot be used"
    if chain in chains.scenes:
        return "a scene"
    return "flagged" if chain in chains.without_box else "not annotated"
