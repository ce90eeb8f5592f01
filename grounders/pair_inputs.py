# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Images and phrases to the inputs of a model of transformers, without the model itself."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig
from transformers.processing_utils import ProcessorMixin

from albef_amc.grounders.explained_scores import Tensors
from albef_amc.grounders.families import Family
from albef_amc.grounders.image_layout import ImageLayout, read_layout
from albef_amc.image_processing_albef import ImageLike, iterate_images, load_image
from albef_amc.messages_albef import list_first
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
        nested = NestedText.read(phrases, len(loaded), name="phrases")
        batch = self.prepare_images(loaded)
        return batch | self.prepare_phrases(nested.phrases) | {"image_index": torch.tensor(nested.image_index)}

    def prepare_images(self, images: list[Image.Image], first_index: int = 0) -> dict[str, Any]:
        """The image part of [`prepare`], for images as [`~image_processing_albef.load_image`] returns them.

        Args:
            images: N images.
            first_index (`int`, defaults to 0): number of the first one, for messages.
        """
        processed = self._process_images(images, first_index)
        lacking = [name for name in self.family.image_inputs if name not in processed]
        if lacking:
            raise ValueError(
                f"{type(self.processor.image_processor).__name__} does not return {list_first(lacking)}, which "
                f"`{self.family.class_name}` reads. Load the processor that was saved with the model, and leave its "
                "padding on."
            )
        inputs: dict[str, Any] = {name: processed[name] for name in self.family.image_inputs}
        layouts = self._read_layouts(images, first_index)
        expected = self.family.count_cells(self.config, inputs)
        for index, (layout, count) in enumerate(zip(layouts, expected, strict=True), first_index):
            if layout.num_cells != count:
                raise ValueError(
                    f"the model sees images[{index}] as {count} cells, but the geometry of its processor has "
                    f"{layout.num_cells}. Load the processor that was saved with the model."
                )
        cell_mask = pad_sequence([layout.visible_cells for layout in layouts], batch_first=True)
        return inputs | {"layouts": layouts, "cell_mask": cell_mask}

    def _process_images(self, images: list[Image.Image], first_index: int) -> Mapping[str, Any]:
        try:
            return self.processor.image_processor(images, return_tensors="pt")
        except Exception as error:  # whatever it raises on settings and sizes that it was not made for
            with contextlib.suppress(TypeError):  # the geometry cannot be computed from these settings either
                self._read_layouts(images, first_index)
            sizes = list_first([f"{image.width} x {image.height}" for image in images])
            reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
            raise ValueError(
                f"{type(self.processor.image_processor).__name__} fails on images of {sizes} pixels from "
                f"images[{first_index}] on: {reason}. Load the processor that was saved with the model, or give "
                "images of one size."
            ) from error

    def _read_layouts(self, images: list[Image.Image], first_index: int) -> list[ImageLayout]:
        layouts = []
        for index, image in enumerate(images, first_index):
            try:
                layouts.append(read_layout(self.processor, (image.height, image.width), self.config))
            except ValueError as error:
                raise ValueError(f"images[{index}] of {image.width} x {image.height} pixels: {error}") from error
        return layouts

    def check_phrases(self, phrases: list[str]) -> None:
        """Refuse phrases without words, or longer than the model takes.

        Raises:
            ValueError: such a phrase; the message has its number among all.
        """
        for index, phrase in enumerate(phrases):
            problem = self.find_problem(phrase)
            if problem is not None:
                raise ValueError(f"phrase {index} {problem}")

    def _encode_phrases(self, phrases: list[str], **options: Any) -> Mapping[str, Any]:
        """Tokens of phrases, in which names of special tokens are ordinary words."""
        cleaned = [self.family.clean_phrase(phrase) for phrase in phrases]
        return self.processor.tokenizer(cleaned, split_special_tokens=True, verbose=False, **options)

    def prepare_phrases(self, phrases: list[str]) -> Tensors:
        """The text part of [`prepare`], for P phrases."""
        self.check_phrases(phrases)
        encoded = self._encode_phrases(
            phrases,
            padding=self.family.padding,
            padding_side="right",
            max_length=self.count_text_positions(),
            truncation=False,
            return_tensors="pt",
            return_special_tokens_mask=True,
            return_attention_mask=True,
        )
        input_ids, attention_mask = encoded["input_ids"], encoded["attention_mask"]
        vocab_size = self.config.get_text_config().vocab_size
        if input_ids.max() >= vocab_size:
            raise ValueError(
                f"the tokenizer gives the token {input_ids.max()}, but the vocabulary of the model has {vocab_size}. "
                "Load the tokenizer that was saved with the model."
            )
        token_mask = attention_mask.bool()
        if not self.family.counts_added_tokens:
            token_mask = token_mask & ~encoded["special_tokens_mask"].bool()
        if self.family.first_token is not None:
            input_ids = input_ids.clone()
            input_ids[:, 0] = self._find_first_token(self.family.first_token)
        return {"input_ids": input_ids, "attention_mask": attention_mask, "token_mask": token_mask}

    def find_problem(self, phrase: str) -> str | None:
        """Why a phrase cannot be used, as the end of a sentence that begins with its name; `None` if it can."""
        problem = find_text_problem(phrase)
        if problem:
            return f"is {phrase!r:.80}, which {problem}. Give a phrase with words."
        encoded = self._encode_phrases([phrase], return_special_tokens_mask=True)
        (ids,), (is_added,) = encoded["input_ids"], encoded["special_tokens_mask"]
        limit = self.count_text_positions()
        if len(ids) > limit:
            return f"has {len(ids)} tokens, but the model has {limit} text positions. Shorten it: {phrase!r:.80}"
        if not self.family.counts_added_tokens and all(is_added):
            return f"is {phrase!r:.80}, of which the tokenizer leaves no token."
        return None

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
