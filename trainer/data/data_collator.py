# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""From dataset rows (one per image) to the tensors of a training or evaluation step (one row per phrase)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.utils import logging

from albef_amc.datasets_scripts.features import INCOMPLETE_BOXES, INCOMPLETE_OUTLINES, read_row
from albef_amc.datasets_scripts.randomness import example_generator
from albef_amc.datasets_scripts.row_checks import check_picture_size
from albef_amc.datasets_scripts.true_phrases import hash_text, list_true_phrases, refuse_contradictions
from albef_amc.image_processing_albef import load_image
from albef_amc.layout_albef import build_layout
from albef_amc.pretraining_losses_albef import IGNORED_LABEL, mask_tokens
from albef_amc.ranges_albef import check_choice, check_number
from albef_amc.text_processing_albef import clean_caption, find_broken_character, find_text_problem
from albef_amc.trainer.data.augmentation import GroundingAugmentation
from albef_amc.trainer.data.packed_regions import pack_regions
from albef_amc.trainer.data.reduced_images import load_reduced_image
from albef_amc.trainer.setting_checks import MASK_SIDE, TRAINING_RANGES

logger = logging.get_logger(__name__)

# Fields of a phrase that may become its region.
REGION_SOURCES = ("boxes", "polygons", "masks")
# Field -> type of the phrases that lost a part of it when the data set was built.
INCOMPLETE_TYPES = {"boxes": INCOMPLETE_BOXES, "polygons": INCOMPLETE_OUTLINES, "masks": INCOMPLETE_OUTLINES}
BOX_CHOICES = ("all", "random")


class DataCollatorForGrounding:
    r"""Turns dataset rows into one batch: N images, and P phrases that point at them.

    Every random choice (phrases, box, augmentation, masked tokens, negatives) comes from a generator seeded by
    (`seed`, the row's `draw`, the ids of image and phrase), never from a global one: what other rows, workers or
    prefetched batches do changes nothing. `draw` is an integer that the training data set writes into a row (its
    running number or epoch); rows without it count as draw 0, so that evaluation is the same every time.

    Args:
        processor ([`AlbefProcessor`]): makes the tensors.
        phrases_per_image (`int`, *optional*): phrases drawn of each image, without replacement, fewer where it has
            fewer; all phrases by default.
        max_length (`int`, *optional*, defaults to 25): tokens of a phrase at most, [CLS] included. `None`: not cut.
        mask_size (`int` or (height, width), *optional*): size of `region_mask` in pixels; the image's size in the
            model by default.
        use_paraphrases (`bool`, defaults to `False`): one paraphrase, drawn, of each phrase that has any becomes a
            further phrase after it, with the same region; the batch then holds `paraphrase_index`.
        region_source (`str`, defaults to `"boxes"`): annotation that becomes the region: `"boxes"`, `"polygons"` or
            `"masks"`. A phrase without it has no region; nor has one that lost a part of it when the data set was
            built (type `"incomplete_boxes"` or `"incomplete_outlines"`): heat on the lost part is not wrong. Such
            phrases are counted in `num_incomplete_regions`.
        box_choice (`str`, defaults to `"all"`): `"all"`: the region is the union of a phrase's boxes; `"random"`: one
            box drawn, as in the released code.
        augmentation ([`GroundingAugmentation`], *optional*): applied to each row after its phrases are drawn.
        mlm_probability (`float`, *optional*): share of tokens to mask (0.15 as published). Of those 80 % become
            [MASK], 10 % a random token and 10 % stay; [CLS] and padding are never chosen. With it the batch also
            holds `negative_uniforms`.
        seed (`int`, defaults to 0): seed of the run.
        return_phrase_ids (`bool`, defaults to `False`): also return `phrase_ids`, a list of P `str`.
        use_reduced_images (`bool`, defaults to `False`): reduce images to the model's size before they are augmented,
            with torch ([`~trainer.data.reduced_images.load_reduced_image`]): faster, with slightly different pixels.
        use_packed_regions (`bool`, defaults to `False`): return `packed_regions` in place of `region_mask`, in about
            a twentieth of the memory. [`AmcTrainer`] unpacks them on the device.
        use_text_ids (`bool`, defaults to `False`): return `text_ids`, `description_ids` and `description_index`.
        false_phrases_per_image (`int`, defaults to 0): at most so many of a row's `false_phrases`, drawn without
            replacement, come as further pairs that do not match.

    Returns of a call (`dict`), N images, P phrases of T tokens:

    | key | shape | meaning |
    | --- | --- | --- |
    | `pixel_values` | (N, 3, image_height, image_width) | normalised images |
    | `original_sizes` | (N, 2) int64 | height and width after EXIF rotation |
    | `image_ids` | (N,) int64 | hash of the row's `image_id`, the same everywhere |
    | `row_ids` | list of N `str` | the `image_id` of each row, for messages |
    | `input_ids`, `attention_mask` | (P, T) int64 | tokens, and 1 for real ones |
    | `image_index` | (P,) int64 | image row of each phrase |
    | `layout` | `PhraseLayout` | the same two, as the text layers read them, with masked tokens and regions |
    | `region_mask` | (P, M_h, M_w) float32 | annotated region in [0, 1] |
    | `packed_regions` | `PackedRegions` | the same, packed, on request |
    | `has_region` | (P,) bool | False without a complete annotation, or where the mask has no area |
    | `paraphrase_index` | (P,) int64 | row of the phrase's paraphrase, -1 for none |
    | `mlm_input_ids`, `mlm_labels` | (P, T) int64 | masked tokens, and what they were (-100 elsewhere) |
    | `text_ids` | (P,) int64 | hash of each cleaned phrase, the same everywhere; on request |
    | `description_ids`, `description_index` | (D,) int64 | all that `list_true_phrases` finds; image rows |
    | `false_input_ids`, `false_attention_mask` | (F, T) int64 | phrases that are false of their images, if any |
    | `false_image_index`, `false_layout` | (F,) int64 | their image rows, and how text layers read them |
    | `negative_uniforms` | (P, 2) float32 | numbers in [0, 1) that choose the negatives of each phrase |

    Example:

    ```python
    >>> from PIL import Image
    >>> from albef_amc import AlbefImageProcessor, AlbefProcessor
    >>> from albef_amc.text_processing_albef import build_tokenizer
    >>> from albef_amc.trainer.data.data_collator import DataCollatorForGrounding
    >>> tokenizer = build_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog"])
    >>> collator = DataCollatorForGrounding(AlbefProcessor(AlbefImageProcessor(size=32), tokenizer), mask_size=2)
    >>> phrases = [{"phrase": "a dog", "boxes": [[0, 0, 9, 9]]}, {"phrase": "dog"}]
    >>> batch = collator([{"image": Image.new("RGB", (18, 9)), "image_id": "7", "phrases": phrases}])
    >>> batch["input_ids"].tolist(), batch["image_index"].tolist(), batch["has_region"].tolist()
    ([[2, 5, 6], [2, 6, 0]], [0, 0], [True, False])
    >>> batch["region_mask"][0]
    tensor([[1., 0.],
            [1., 0.]])

    ```
    """

    def __init__(
        self,
        processor: Any,
        phrases_per_image: int | None = None,
        max_length: int | None = 25,
        mask_size: int | tuple[int, int] | None = None,
        region_source: str = "boxes",
        box_choice: str = "all",
        augmentation: GroundingAugmentation | None = None,
        mlm_probability: float | None = None,
        seed: int = 0,
        return_phrase_ids: bool = False,
        use_paraphrases: bool = False,
        use_packed_regions: bool = False,
        use_reduced_images: bool = False,
        use_text_ids: bool = False,
        false_phrases_per_image: int = 0,
    ):
        for name, value in (
            ("phrases_per_image", phrases_per_image),
            ("max_length", max_length),
            ("mlm_probability", mlm_probability),
            ("seed", seed),
            ("false_phrases_per_image", false_phrases_per_image),
        ):
            if value is not None:
                check_number(name, value, TRAINING_RANGES[name])
        check_choice("region_source", region_source, REGION_SOURCES)
        check_choice("box_choice", box_choice, BOX_CHOICES)
        self.processor = processor
        self.phrases_per_image = phrases_per_image
        self.max_length = max_length
        self.mask_size = None if mask_size is None else _as_mask_size(mask_size)
        self.region_source = region_source
        self.box_choice = box_choice
        self.augmentation = augmentation
        self.mlm_probability = mlm_probability
        self.seed = seed
        self.return_phrase_ids = return_phrase_ids
        self.use_paraphrases = use_paraphrases
        self.use_packed_regions = use_packed_regions
        self.use_reduced_images = use_reduced_images
        self.use_text_ids = use_text_ids
        self.false_phrases_per_image = false_phrases_per_image
        self.num_empty_regions = 0
        self.num_incomplete_regions = 0

    def __call__(self, rows: Sequence[dict]) -> dict[str, Any]:
        """Collate rows; see the class for what comes back."""
        if not rows:
            raise ValueError("a batch needs at least one row, got none.")
        rows = [self._prepare_row(row) for row in rows]
        phrases = [phrase for row in rows for phrase in row["phrases"]]
        try:
            batch = self._process(rows)
        except ValueError as error:
            raise ValueError(f"{error} (image {self._find_bad_row(rows)!r})") from error
        self._count_lost_regions(phrases, batch)
        batch["row_ids"] = [row["image_id"] for row in rows]
        batch["image_ids"] = torch.tensor([hash_image_id(row_id) for row_id in batch["row_ids"]])
        if self.use_text_ids:
            batch["text_ids"] = torch.tensor([hash_text(clean_caption(phrase["phrase"])) for phrase in phrases])
            known = [(hash_text(text), index) for index, row in enumerate(rows) for text in row["true_phrases"]]
            batch["description_ids"], batch["description_index"] = torch.tensor(known).T.contiguous()
        if self.false_phrases_per_image:
            batch.update(self._process_false_phrases(rows))
        if self.use_packed_regions:
            batch["packed_regions"] = pack_regions(batch.pop("region_mask"))
        if self.use_paraphrases:
            batch["paraphrase_index"] = _find_paraphrases(phrases)
        if self.mlm_probability is not None:
            generators = [
                self._seed_torch(row, f"phrase {phrase['phrase_id']}") for row in rows for phrase in row["phrases"]
            ]
            batch["mlm_input_ids"], batch["mlm_labels"] = self._mask_tokens(batch, generators)
            batch["layout"] = replace(batch["layout"], masked_tokens=batch["mlm_labels"] != IGNORED_LABEL)
            batch["negative_uniforms"] = draw_uniforms(generators)
        if self.return_phrase_ids:
            batch["phrase_ids"] = [phrase["phrase_id"] for phrase in phrases]
        return batch

    def _prepare_row(self, row: dict) -> dict:
        """Check a row, draw its phrases, load its image and augment both."""
        row = read_row(row)
        if not isinstance(row["image_id"], str) or find_broken_character(row["image_id"]):
            raise ValueError(f"a row needs an `image_id` of type `str`, got {row['image_id']!r}.")
        phrases = row["phrases"]
        for index, phrase in enumerate(phrases):
            _check_words(row, index, phrase)
        if not phrases:
            raise ValueError(
                f"the dataset row of image {row['image_id']!r} is without a phrase. Filter such rows out of the "
                "data set."
            )
        true_phrases = list_true_phrases(row) if self.use_text_ids or self.false_phrases_per_image else set()
        if self.phrases_per_image is not None and len(phrases) > self.phrases_per_image:
            chosen = self._seed_numpy(row, "phrases").choice(len(phrases), self.phrases_per_image, replace=False)
            phrases = [phrases[index] for index in sorted(chosen)]
        if self.use_paraphrases:
            phrases = [wording for phrase in phrases for wording in self._draw_wordings(row, phrase)]
        image, (height, width) = self._load_image(row)
        check_picture_size(row, (width, height))
        row = {**row, "phrases": phrases, "image": image, "original_size": (height, width)}
        row |= {"true_phrases": sorted(true_phrases), "false_phrases": self._draw_false_phrases(row, true_phrases)}
        if self.augmentation is None:
            return row
        try:
            return self.augmentation(row, self._seed_numpy(row, "augmentation"))
        except ValueError as error:
            raise ValueError(f"{error} (image {row['image_id']!r})") from error

    def _load_image(self, row: dict) -> tuple[Image.Image, tuple[int, int]]:
        """The picture of a row, and height and width of the stored one."""
        settings, name = self.processor.image_processor, f"image {row['image_id']!r}"
        if self.use_reduced_images:
            size = settings.size
            return load_reduced_image(row["image"], size.height, size.width, settings.max_image_pixels, name)
        image = load_image(row["image"], settings.max_image_pixels, name)
        return image, (image.height, image.width)

    def _draw_wordings(self, row: dict, phrase: dict) -> list[dict]:
        """A phrase and, where it has any, one of its paraphrases, drawn, as a phrase with the same region."""
        paraphrases = phrase.get("paraphrases") or ()
        if not paraphrases:
            return [phrase]
        phrase_id = phrase["phrase_id"]
        chosen = int(self._seed_numpy(row, f"paraphrase {phrase_id}").integers(len(paraphrases)))
        wording = {**phrase, "phrase": paraphrases[chosen], "phrase_id": f"{phrase_id}~{chosen}"}
        problem = find_text_problem(wording["phrase"])
        if problem:
            raise ValueError(
                f"paraphrase {chosen} of phrase {phrase_id!r} of image {row['image_id']!r}, "
                f"{wording['phrase']!r:.80}, {problem}. Filter such paraphrases out of the data set."
            )
        return [phrase, {**wording, "paraphrase_of": phrase_id}]

    def _draw_false_phrases(self, row: dict, true_phrases: set[str]) -> list[str]:
        """Some of a row's `false_phrases`."""
        texts = row.get("false_phrases") or []
        if not self.false_phrases_per_image or not texts:
            return []
        for text in texts:
            problem = find_text_problem(text)
            if problem:
                raise ValueError(
                    f"a text among `false_phrases` of image {row['image_id']!r}, {text!r:.80}, {problem}. Remove it."
                )
        refuse_contradictions(texts, true_phrases, f"image {row['image_id']!r}")
        count = min(len(texts), self.false_phrases_per_image)
        chosen = self._seed_numpy(row, "false phrases").choice(len(texts), count, replace=False)
        return [texts[index] for index in sorted(chosen)]

    def _process_false_phrases(self, rows: list[dict]) -> dict[str, Any]:
        """Tokens, image rows and layout of the false phrases of rows; nothing where there are none."""
        image_index = torch.tensor(
            [index for index, row in enumerate(rows) for _ in row["false_phrases"]], dtype=torch.int64
        )
        if len(image_index) == 0:
            return {}
        texts = [text for row in rows for text in row["false_phrases"]]
        tokens = self.processor(text=texts, max_length=self.max_length, return_tensors="pt")
        return {
            "false_input_ids": tokens["input_ids"],
            "false_attention_mask": tokens["attention_mask"],
            "false_image_index": image_index,
            "false_layout": build_layout(tokens["attention_mask"], image_index, len(rows)),
        }

    def _process(self, rows: list[dict]) -> dict[str, Any]:
        """What the processor returns for the images, phrases and regions of rows."""
        regions = [[self._choose_region(row, phrase) for phrase in row["phrases"]] for row in rows]
        batch = dict(
            self.processor(
                images=[row["image"] for row in rows],
                text=[[phrase["phrase"] for phrase in row["phrases"]] for row in rows],
                max_length=self.max_length,
                mask_size=self.mask_size,
                original_sizes=[row["original_size"] for row in rows],
                return_tensors="pt",
                **{self.region_source: regions},
            )
        )
        batch["layout"] = replace(batch["layout"], annotated_phrases=batch["has_region"].clone())
        return batch

    def _find_bad_row(self, rows: list[dict]) -> str | None:
        """Image id of the first row that fails on its own: the processor knows rows by number only."""
        for row in rows:
            try:
                self._process([row])
            except ValueError:
                return row["image_id"]
        return None

    def _choose_region(self, row: dict, phrase: dict) -> list | None:
        """The annotation that becomes the region: all of it, or one box drawn; None without a complete one."""
        annotation = None if self._is_incomplete(phrase) else phrase.get(self.region_source) or None
        if annotation and self.region_source == "boxes" and self.box_choice == "random":
            phrase_id = phrase.get("paraphrase_of") or phrase["phrase_id"]  # one box for both wordings
            generator = self._seed_numpy(row, f"box {phrase_id}")
            return [annotation[generator.integers(len(annotation))]]
        return annotation

    def _is_incomplete(self, phrase: dict) -> bool:
        """Whether the region is a part of what was annotated."""
        return INCOMPLETE_TYPES[self.region_source] in (phrase.get("types") or ())

    def _mask_tokens(self, batch: dict, generators: list[torch.Generator]) -> tuple[torch.Tensor, torch.Tensor]:
        """`mlm_input_ids` and `mlm_labels` `(P, T)`, phrase by phrase and without padding: the draws do not depend on
        the other phrases."""
        tokenizer = self.processor.tokenizer
        mlm_input_ids = batch["input_ids"].clone()
        mlm_labels = torch.full_like(mlm_input_ids, IGNORED_LABEL)
        for index, generator in enumerate(generators):
            length = int(batch["attention_mask"][index].sum())
            tokens = batch["input_ids"][index, :length]
            mlm_input_ids[index, :length], mlm_labels[index, :length] = mask_tokens(
                tokens,
                maskable=tokens != tokenizer.cls_token_id,
                mask_token_id=tokenizer.mask_token_id,
                vocab_size=len(tokenizer),
                probability=self.mlm_probability,
                generator=generator,
            )
        return mlm_input_ids, mlm_labels

    def _count_lost_regions(self, phrases: list[dict], batch: Mapping[str, torch.Tensor]) -> None:
        """Counts annotated phrases that have no region in the batch, and warns once for each of the two reasons."""
        num_incomplete = num_empty = 0
        for phrase, has in zip(phrases, batch["has_region"].tolist(), strict=True):
            if phrase.get(self.region_source) and not has:
                is_incomplete = self._is_incomplete(phrase)
                num_incomplete += is_incomplete
                num_empty += not is_incomplete
        if num_incomplete and not self.num_incomplete_regions:
            logger.warning(
                f"{num_incomplete} phrases of a batch lost a part of their `{self.region_source}` when the data set "
                f"was built (type `{INCOMPLETE_TYPES[self.region_source]}`) and count as having no region. This "
                "warning appears once; `num_incomplete_regions` keeps counting."
            )
        self.num_incomplete_regions += num_incomplete
        if num_empty and not self.num_empty_regions:
            logger.warning(
                f"{num_empty} phrases of a batch have `{self.region_source}` without area and count as having no "
                "region. This warning appears once; `num_empty_regions` keeps counting."
            )
        self.num_empty_regions += num_empty

    def _seed_numpy(self, row: dict, purpose: str) -> np.random.Generator:
        """A generator for one choice about a row, seeded by run, draw, image and purpose."""
        return example_generator(self.seed, row.get("draw") or 0, row["image_id"], purpose)

    def _seed_torch(self, row: dict, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(int(self._seed_numpy(row, purpose).integers(1 << 63)))


def draw_uniforms(generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Two numbers in [0, 1) of each generator, `(P, 2)`: they choose the negatives of a phrase."""
    return torch.stack([torch.rand(2, generator=generator) for generator in generators])


def hash_image_id(image_id: str) -> int:
    """63-bit number of an image id, the same in every process and run.

    Example:

    ```python
    >>> from albef_amc.trainer.data.data_collator import hash_image_id
    >>> hash_image_id("photo_7") == hash_image_id("photo_7") >= 0
    True

    ```
    """
    return hash_text(image_id)


def _check_words(row: dict, index: int, phrase: dict) -> None:
    problem = find_text_problem(phrase.get("phrase"))
    if problem:
        raise ValueError(
            f"phrase {index} of image {row['image_id']!r} (`phrase_id` {phrase.get('phrase_id')!r}), "
            f"{phrase.get('phrase')!r:.80}, {problem}. Filter such phrases out of the data set."
        )


def _as_mask_size(mask_size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (mask_size, mask_size) if isinstance(mask_size, int) else mask_size
    for side in (height, width):
        check_number("mask_size", side, MASK_SIDE)
    return height, width


def _find_paraphrases(phrases: list[dict]) -> torch.Tensor:
    """Row of each phrase's paraphrase, which follows it, and -1 for none, `(P,)`."""
    rows = torch.full((len(phrases),), -1)
    for index, phrase in enumerate(phrases):
        if "paraphrase_of" in phrase:
            rows[index - 1] = index
    return rows
