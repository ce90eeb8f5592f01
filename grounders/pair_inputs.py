# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Images and phrases to the inputs of a model of transformers, without the model itself."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig
from transformers.processing_utils import ProcessorMixin

from albef_amc.grounders.explained_scores import Tensors
from albef_amc.grounders.families import Family
from albef_amc.grounders.image_layout import read_layout
from albef_amc.image_processing_albef import ImageLike, iterate_images, load_image
from albef_amc.processing_albef import NestedText
from albef_amc.text_processing_albef import find_text_problem

TEXT_INPUTS = ("input_ids", "attention_mask")


class PairInputs:
    """Makes the batches that a [`~grounder.Grounder`] reads.

    It holds no weights, so a worker of a data loader can have a copy.

    Args:
        processor ([`~transformers.ProcessorMixin`]): of the model, with an image processor and a tokenizer.
        family ([`~families.Family`]): what is particular to this kind of model.
        config ([`~transformers.PreTrainedConfig`]): of the model.
    """

    def __init__(self, processor: ProcessorMixin, family: Family, config: PreTrainedConfig):
        self.processor, self.family, self.config = processor, family, config

    def prepare(self, images: Sequence[ImageLike], phrases: Sequence[Sequence[str]]) -> dict[str, Any]:
        """Make a batch of N images and P phrases for [`~grounder.Grounder.forward`].

        Args:
            images: pictures, anything that [`~image_processing_albef.load_image`] accepts.
            phrases (list of lists of `str`): phrases of each image.

        Returns:
            `dict`: inputs of the model, by their names; **image_index** `(P,)`, **token_mask** `(P, T)`, the tokens of
            the phrase without those that its tokenizer adds, **cell_mask** `(N, C)`, and **layouts**, an
            [`~image_layout.ImageLayout`] for each image.

        Raises:
            TypeError, ValueError, FileNotFoundError: an image or a phrase that cannot be used.
        """
        loaded = [load_image(image, name=f"images[{index}]") for index, image in enumerate(iterate_images(images))]
        nested = NestedText.read(phrases, len(loaded))
        batch = self.prepare_images(loaded)
        return batch | self.prepare_phrases(nested.phrases) | {"image_index": torch.tensor(nested.image_index)}

    def prepare_images(self, images: list[Image.Image]) -> dict[str, Any]:
        """The image part of [`prepare`], for images as [`~image_processing_albef.load_image`] returns them."""
        processed = self.processor.image_processor(images, return_tensors="pt")
        inputs: dict[str, Any] = {name: processed[name] for name in self.family.image_inputs}
        layouts = [read_layout(self.processor, (one.height, one.width), self.config) for one in images]
        expected = self.family.count_cells(self.config, inputs)
        for index, (layout, count) in enumerate(zip(layouts, expected, strict=True)):
            if layout.num_cells != count:
                raise ValueError(
                    f"the model sees images[{index}] as {count} cells, but the geometry of its processor has "
                    f"{layout.num_cells}. Load the processor that was saved with the model."
                )
        cell_mask = pad_sequence([layout.visible_cells for layout in layouts], batch_first=True)
        return inputs | {"layouts": layouts, "cell_mask": cell_mask}

    def prepare_phrases(self, phrases: list[str]) -> Tensors:
        """The text part of [`prepare`], for P phrases."""
        for index, phrase in enumerate(phrases):
            problem = find_text_problem(phrase)
            if problem:
                raise ValueError(f"phrase {index} is {phrase!r:.80}, which {problem}. Give a phrase with words.")
        tokenizer, limit = self.processor.tokenizer, self.count_text_positions()
        cleaned = [self.family.clean_phrase(phrase) for phrase in phrases]
        for index, ids in enumerate(tokenizer(cleaned, verbose=False)["input_ids"]):
            if len(ids) > limit:
                raise ValueError(
                    f"phrase {index} has {len(ids)} tokens, but the model has {limit} text positions. Shorten it: "
                    f"{phrases[index]!r:.80}"
                )
        encoded = tokenizer(
            cleaned,
            padding=self.family.padding,
            max_length=limit,
            truncation=False,
            return_tensors="pt",
            return_special_tokens_mask=True,
            return_attention_mask=True,
            verbose=False,
        )
        input_ids, attention_mask = encoded["input_ids"], encoded["attention_mask"]
        token_mask = attention_mask.bool()
        if not self.family.counts_added_tokens:
            token_mask = token_mask & ~encoded["special_tokens_mask"].bool()
        for index in (~token_mask.any(dim=1)).nonzero().flatten().tolist():
            raise ValueError(f"phrase {index} is {phrases[index]!r:.80}, of which the tokenizer leaves no token.")
        if self.family.first_token is not None:
            input_ids = input_ids.clone()
            input_ids[:, 0] = self._find_first_token(self.family.first_token)
        return {"input_ids": input_ids, "attention_mask": attention_mask, "token_mask": token_mask}

    def count_text_positions(self) -> int:
        """Tokens that a phrase may have, those that the tokenizer adds included."""
        config = self.config.get_text_config()
        positions = config.max_position_embeddings - self.family.count_reserved_positions(config)
        return min(positions, self.processor.tokenizer.model_max_length)

    def restore_first_token(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Tokens `(P, T)` with the first one that the tokenizer adds, where the score has another."""
        if self.family.first_token is None:
            return input_ids
        restored = input_ids.clone()
        restored[:, 0] = self.processor.tokenizer.cls_token_id
        return restored

    def _find_first_token(self, token: str) -> int:
        """Id of the token; checkpoints whose tokenizer lacks it have it as the last one of the vocabulary."""
        vocabulary, config = self.processor.tokenizer.get_vocab(), self.config.get_text_config()
        if token in vocabulary:
            return vocabulary[token]
        if config.bos_token_id is not None and config.vocab_size == config.bos_token_id + 2:
            return config.bos_token_id + 1
        raise ValueError(
            f"the matching score was trained with {token} as the first token, which neither the tokenizer nor the "
            "vocabulary of the model has. Load the tokenizer that was saved with the model."
        )


__all__ = ["TEXT_INPUTS", "PairInputs"]
