# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""From dataset rows to the tensors of a training step of a grounder: regions are values of the image's cells."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from transformers.utils import logging

from albef_amc.grounders.pair_inputs import TEXT_INPUTS, PairInputs
from albef_amc.image_processing_albef import load_image
from albef_amc.regions_albef import build_region_mask
from albef_amc.trainer.data.augmentation import GroundingAugmentation
from albef_amc.trainer.data.data_collator import DataCollatorForGrounding, draw_uniforms

logger = logging.get_logger(__name__)

LARGEST_MASK = 512  # side of a region mask in pixels, before its mean over every cell is taken


class DataCollatorForGrounder(DataCollatorForGrounding):
    r"""Turns dataset rows into one batch for a [`~grounders.grounder.Grounder`]: N images, and P phrases on them.

    Rows are read, drawn and augmented as by [`DataCollatorForGrounding`], from the same generators. Texts are not cut:
    one that is longer than the model takes is an error. A region that no cell of the image sees, because the image
    processor crops it away, takes no part in a loss: its `has_region` is False, and `num_unseen_regions` counts it.

    Args:
        inputs ([`~grounders.pair_inputs.PairInputs`]): makes the tensors; of the grounder.
        mask_size (`int`, *optional*): side of the region masks in pixels, before the mean over cells is taken; by
            default the size of the image, at most 512.
        phrases_per_image, region_source, box_choice, augmentation, seed, use_paraphrases, use_text_ids,
            false_phrases_per_image: as for [`DataCollatorForGrounding`].

    Returns of a call (`dict`), N images of at most C cells, P phrases of T tokens: what
    [`~grounders.pair_inputs.PairInputs.prepare`] returns but for `layouts`, `image_ids`, `row_ids`, `text_ids`,
    `description_ids`, `description_index`, `paraphrase_index`, `false_input_ids`, `false_attention_mask` and
    `false_image_index` as [`DataCollatorForGrounding`] returns them, and

    | key | shape | meaning |
    | --- | --- | --- |
    | `region_mask` | (P, 1, C) float32 | share of each cell that the region covers, 0 for padding |
    | `has_region` | (P,) bool | False without a complete annotation, or where no cell sees it |
    | `negative_uniforms` | (P, 2) float32 | numbers in [0, 1) that choose the negatives of each phrase |
    | `num_unseen_regions` | () int64 | regions of the batch that no cell sees |
    """

    def __init__(
        self,
        inputs: PairInputs,
        phrases_per_image: int | None = None,
        mask_size: int | None = None,
        region_source: str = "boxes",
        box_choice: str = "all",
        augmentation: GroundingAugmentation | None = None,
        seed: int = 0,
        use_paraphrases: bool = False,
        use_text_ids: bool = False,
        false_phrases_per_image: int = 0,
    ):
        super().__init__(
            inputs.processor,
            phrases_per_image=phrases_per_image,
            max_length=None,
            mask_size=mask_size,
            region_source=region_source,
            box_choice=box_choice,
            augmentation=augmentation,
            seed=seed,
            use_paraphrases=use_paraphrases,
            use_text_ids=use_text_ids,
            false_phrases_per_image=false_phrases_per_image,
        )
        self.inputs = inputs

    def _load_image(self, row: dict) -> tuple[Image.Image, tuple[int, int]]:
        image = load_image(row["image"], name=f"image {row['image_id']!r}")
        return image, (image.height, image.width)

    def _process(self, rows: list[dict]) -> dict[str, Any]:
        """The model's inputs for the images and phrases of rows, and their regions."""
        batch = self.inputs.prepare_images([row["image"] for row in rows])
        batch |= self.inputs.prepare_phrases([phrase["phrase"] for row in rows for phrase in row["phrases"]])
        counts = torch.tensor([len(row["phrases"]) for row in rows])
        batch["image_index"] = torch.arange(len(rows)).repeat_interleave(counts)
        regions, has_region, is_unseen = [], [], []
        for row, layout in zip(rows, batch.pop("layouts"), strict=True):
            masks = torch.stack([self._draw_region(row, phrase) for phrase in row["phrases"]])
            values, is_seen = layout.to_cells(masks)
            is_unseen.append(masks.flatten(1).any(dim=1) & ~is_seen)
            regions += values.unbind()
            has_region.append(is_seen)
        num_cells = batch["cell_mask"].shape[1]
        region_mask = torch.zeros(len(regions), 1, num_cells)
        region_mask[:, 0, :] = pad_sequence([*regions, torch.zeros(num_cells)], batch_first=True)[:-1]
        generators = [
            self._seed_torch(row, f"negatives of {phrase['phrase_id']}") for row in rows for phrase in row["phrases"]
        ]
        return batch | {
            "region_mask": region_mask,
            "has_region": torch.cat(has_region),
            "negative_uniforms": draw_uniforms(generators),
            "is_unseen": torch.cat(is_unseen),
        }

    def __call__(self, rows: Sequence[dict]) -> dict[str, Any]:
        """Collate rows; see the class for what comes back."""
        batch = super().__call__(rows)
        return batch | {"num_unseen_regions": batch.pop("is_unseen").sum()}

    def _count_lost_regions(self, phrases: list[dict], batch: Mapping[str, torch.Tensor]) -> None:
        """Counts regions without area or with a part that was lost, but not those that no cell sees."""
        super()._count_lost_regions(phrases, {"has_region": batch["has_region"] | batch["is_unseen"]})

    def _draw_region(self, row: dict, phrase: dict) -> torch.Tensor:
        """The region of a phrase over the whole image, all 0 without one."""
        height, width = row["original_size"]
        size = self.mask_size or (min(height, LARGEST_MASK), min(width, LARGEST_MASK))
        shapes = self._choose_region(row, phrase)
        try:
            return build_region_mask(height, width, size, **({self.region_source: shapes} if shapes else {}))
        except ValueError as error:
            raise ValueError(f"annotation of phrase {phrase['phrase_id']!r}: {error}") from error

    def _process_false_phrases(self, rows: list[dict]) -> dict[str, Any]:
        counts = torch.tensor([len(row["false_phrases"]) for row in rows])
        if not counts.any():
            return {}
        texts = self.inputs.prepare_phrases([text for row in rows for text in row["false_phrases"]])
        image_index = torch.arange(len(rows)).repeat_interleave(counts)
        return {f"false_{name}": texts[name] for name in TEXT_INPUTS} | {"false_image_index": image_index}


__all__ = ["DataCollatorForGrounder"]
