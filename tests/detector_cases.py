# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Small random zero-shot detectors of transformers, with processors."""

import torch
from grounder_cases import POSITIONS, SMALL, build_tiny_tokenizer
from testing_utils import VOCABULARY
from torch import nn
from transformers import (
    BertConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessor,
    OwlViTProcessor,
    SwinConfig,
)

from albef_amc.evaluation.zero_shot_detectors import ZeroShotDetector

SQUARE = {"height": 32, "width": 32}
IDS = dict(pad_token_id=0, bos_token_id=2, eos_token_id=3)


def build_owl(config_class, model_class, image_processor, processor_class):
    text = dict(SMALL, num_hidden_layers=2, vocab_size=len(VOCABULARY), max_position_embeddings=POSITIONS, **IDS)
    vision = dict(SMALL, num_hidden_layers=2, image_size=32, patch_size=8)
    config = config_class(text_config=text, vision_config=vision, projection_dim=32)
    return model_class(config), processor_class(image_processor(size=SQUARE), build_tiny_tokenizer())


def build_owlvit():
    return build_owl(OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessor, OwlViTProcessor)


def build_owlv2():
    return build_owl(Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor)


def build_grounding_dino():
    backbone = SwinConfig(
        embed_dim=16, depths=[1, 1, 1, 1], num_heads=[2, 2, 2, 2], window_size=4, image_size=64,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    text = BertConfig(**SMALL, num_hidden_layers=1, vocab_size=len(VOCABULARY), max_position_embeddings=POSITIONS)
    layers = dict(encoder_layers=1, decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32)
    heads = dict(encoder_attention_heads=2, decoder_attention_heads=2)
    config = GroundingDinoConfig(
        backbone_config=backbone, text_config=text, d_model=32, num_queries=12, max_text_len=POSITIONS,
        **layers, **heads,
    )  # fmt: skip
    image_processor = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    return GroundingDinoForObjectDetection(config), GroundingDinoProcessor(image_processor, build_tiny_tokenizer())


DETECTOR_BUILDERS = {"owlvit": build_owlvit, "owlv2": build_owlv2, "grounding-dino": build_grounding_dino}


def build_tiny_detector(name: str) -> ZeroShotDetector:
    """A detector in float32 and evaluation mode, whose boxes and scores differ."""
    torch.manual_seed(0)
    model, processor = DETECTOR_BUILDERS[name]()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)
    return ZeroShotDetector(model.eval(), processor)
