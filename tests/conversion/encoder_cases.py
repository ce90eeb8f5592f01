"""Small pretrained encoders for tests."""

from pathlib import Path

import torch
from testing_utils import VOCABULARY
from transformers import BertConfig, BertForPreTraining, BertTokenizer

SMALL = {"image_size": 32, "queue_size": 16, "projection_dim": 8}
POSITIONS = 24
TOLERANCE = 1e-6  # of the largest value, in float64


def build_bert_config(**changes) -> BertConfig:
    """Four layers, weights large enough that every one of them matters."""
    sizes = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=4, num_attention_heads=4)
    values = dict(sizes, vocab_size=len(VOCABULARY) + 2, max_position_embeddings=POSITIONS, initializer_range=0.2)
    return BertConfig(**{**values, **changes})


def save_bert(folder: Path, model_class=BertForPreTraining, with_tokenizer: bool = True, **changes) -> Path:
    torch.manual_seed(0)
    model_class(build_bert_config(**changes)).save_pretrained(folder)
    if with_tokenizer:
        vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
        BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    return folder


def check(value: torch.Tensor, expected: torch.Tensor) -> None:
    assert value.shape == expected.shape
    assert (value - expected).abs().max() <= TOLERANCE * expected.abs().max()
