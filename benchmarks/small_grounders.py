# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Small random models of transformers for the synthetic scenes, with the words of their phrases as vocabulary."""

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipImageProcessor,
    BlipProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ViltConfig,
    ViltForImageAndTextRetrieval,
    ViltImageProcessor,
    ViltProcessor,
)
from transformers.processing_utils import ProcessorMixin

from albef_amc.grounders import Grounder
from albef_amc.grounders.families import BLIP_ITM, CLIP, VILT

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[ENC]")
PAD, UNKNOWN, FIRST, LAST, ENCODE = range(len(SPECIAL_TOKENS))
IMAGE_SIDE, PATCH_SIDE, POSITIONS = 64, 8, 32
SQUARE = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
WIDTHS = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4}
VISION = {**WIDTHS, "image_size": IMAGE_SIDE, "patch_size": PATCH_SIDE}
TEXT = {**WIDTHS, "max_position_embeddings": POSITIONS, "pad_token_id": PAD}
WEIGHT_STD = 0.05
SLOWEST = 100.0  # the lowest frequency of a position embedding is 1 over this


def build_tokenizer(phrases: Iterable[str]) -> PreTrainedTokenizerFast:
    """A token per word of the phrases, `[CLS]` first and `[SEP]` last."""
    words = sorted({word for phrase in phrases for word in phrase.lower().split()})
    vocabulary = {word: index for index, word in enumerate((*SPECIAL_TOKENS, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", LAST), ("[CLS]", FIRST))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=POSITIONS,
        padding_side="right",
    )


def build_blip(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A BLIP of 4 layers each for image and text."""
    text = {**TEXT, "num_hidden_layers": 4, "vocab_size": len(tokenizer), "encoder_hidden_size": VISION["hidden_size"]}
    config = BlipConfig(
        text_config={**text, "bos_token_id": FIRST, "sep_token_id": LAST, "initializer_range": WEIGHT_STD},
        vision_config={**VISION, "num_hidden_layers": 4, "initializer_range": WEIGHT_STD},
        image_text_hidden_size=64,
        initializer_range=WEIGHT_STD,
    )
    model = BlipForImageTextRetrieval(config)
    place_positions(model.vision_model.embeddings.position_embedding[0])
    return model, BlipProcessor(BlipImageProcessor(size=SQUARE), tokenizer)


def build_clip(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A CLIP of 4 layers each for image and text."""
    ends = {"bos_token_id": FIRST, "eos_token_id": LAST}
    config = CLIPConfig(
        text_config={**TEXT, "num_hidden_layers": 4, "vocab_size": len(tokenizer), "projection_dim": 64, **ends},
        vision_config={**VISION, "num_hidden_layers": 4, "projection_dim": 64},
        projection_dim=64,
    )
    model = CLIPModel(config)
    place_positions(model.vision_model.embeddings.position_embedding.weight)
    processor = CLIPImageProcessor(size={"shortest_edge": IMAGE_SIDE}, crop_size=SQUARE)
    return model, CLIPProcessor(processor, tokenizer)


def build_vilt(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A ViLT of 4 layers for image and text together."""
    config = ViltConfig(
        **{**VISION, **TEXT}, num_hidden_layers=4, vocab_size=len(tokenizer), initializer_range=WEIGHT_STD
    )
    model = ViltForImageAndTextRetrieval(config)
    place_positions(model.vilt.embeddings.position_embeddings[0])
    processor = ViltImageProcessor(size={"shortest_edge": IMAGE_SIDE}, size_divisor=PATCH_SIDE)
    return model, ViltProcessor(processor, tokenizer)


@torch.no_grad()
def place_positions(embeddings: torch.Tensor) -> None:
    """Writes sines and cosines of row and column, of amplitude 1, into position embeddings; the class token's stays.

    Random ones are far smaller than the embeddings of patches of so few pixels, and left and right are not learned.

    Args:
        embeddings (`torch.Tensor` of shape `(1 + num_patches, hidden_size)`): of a square grid.
    """
    num_places, width = embeddings.shape
    side = round((num_places - 1) ** 0.5)
    frequencies = SLOWEST ** -torch.linspace(0, 1, width // 4)
    angles = torch.cartesian_prod(torch.arange(side), torch.arange(side))[..., None] * frequencies
    embeddings[1:] = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)


BUILDERS = {"blip": (BLIP_ITM, build_blip), "clip": (CLIP, build_clip), "vilt": (VILT, build_vilt)}


def build_small_grounder(name: str, phrases: Iterable[str], seed: int) -> Grounder:
    """A grounder of about a million random parameters or fewer, in its default layer.

    Args:
        name (`str`): `"blip"`, `"clip"` or `"vilt"`.
        phrases (iterable of `str`): whose words are the vocabulary.
        seed (`int`): of the weights.
    """
    family, build = BUILDERS[name]
    torch.manual_seed(seed)
    model, processor = build(build_tokenizer(phrases))
    return Grounder(model, processor, family, None, "grad_cam")
