# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Images and phrases to inputs: what a phrase may hold, and which image or phrase an error means."""

import pytest
import torch
from grounder_cases import NAMES, build_tiny_grounder
from PIL import Image
from testing_utils import VOCABULARY, build_photo
from transformers import CLIPImageProcessorPil

PHOTO = build_photo(48, 32, seed=1)
NARROW = Image.new("RGB", (400, 3))


@pytest.mark.parametrize("name", NAMES)
def test_names_of_special_tokens_are_words_of_a_phrase(name):
    """A phrase that ends a text, or pads it, would be explained only in part."""
    inputs = build_tiny_grounder(name).inputs
    for special in ("[SEP]", "[PAD]", "[CLS]"):
        batch = inputs.prepare([PHOTO], [[f"a {special} dog"]])
        words = batch["input_ids"][0][batch["attention_mask"][0].bool()][1:]
        assert VOCABULARY.index(special) not in words[: 1 + words.tolist().index(VOCABULARY.index("dog"))]


def test_text_is_padded_on_the_right_whatever_the_tokenizer_was_saved_with():
    inputs = build_tiny_grounder("blip-itm").inputs
    expected = inputs.prepare([PHOTO], [["a dog", "the red dog"]])
    inputs.processor.tokenizer.padding_side = "left"
    batch = inputs.prepare([PHOTO], [["a dog", "the red dog"]])
    for name in ("input_ids", "attention_mask", "token_mask"):
        assert batch[name].equal(expected[name])


def test_a_tokenizer_of_another_model_is_refused():
    inputs = build_tiny_grounder("clip-itc").inputs
    inputs.config.text_config.vocab_size = 10
    with pytest.raises(ValueError, match="the tokenizer gives the token 20, but the vocabulary of the model has 10"):
        inputs.prepare([PHOTO], [["dog"]])


def test_phrases_are_numbered_among_those_of_all_images_and_checked_before_any_is_explained():
    grounder = build_tiny_grounder("clip-itc")
    grounder.model.forward = grounder.model.get_image_features = None  # whatever would be computed fails
    for phrase, problem in (("...", "has no words"), ("dog " * 30, "Shorten it")):
        with pytest.raises(ValueError, match=f"phrase 2 .*{problem}"):
            grounder(images=[PHOTO, PHOTO], phrases=[["a dog", "cup"], [phrase]])
    with pytest.raises(ValueError, match="`phrases` has phrases for 1 images but there are 2 images"):
        grounder(images=[PHOTO, PHOTO], phrases=[["a dog", "cup"]])


@pytest.mark.parametrize("name", ["vilt-itm", "bridgetower-itm"])
def test_an_image_that_is_too_narrow_is_named(name):
    grounder = build_tiny_grounder(name)
    message = r"images\[1\] of 400 x 3 pixels: the image processor makes a picture of 48 x 0 .* too narrow"
    with pytest.raises(ValueError, match=message):
        grounder(images=[PHOTO, NARROW], phrases=[["a dog"], ["cup"]])
    with pytest.raises(ValueError, match=message):
        grounder.prepare(images=[PHOTO, NARROW], phrases=[["a dog"], ["cup"]])


def test_an_image_processor_that_fails_or_returns_too_little_is_named():
    inputs = build_tiny_grounder("vilt-itm").inputs
    inputs.processor.image_processor.do_pad = False
    with pytest.raises(ValueError, match="ViltImageProcessorPil does not return pixel_mask, which `ViltForImageAnd"):
        inputs.prepare([PHOTO], [["a dog"]])
    inputs = build_tiny_grounder("clip-itc").inputs
    inputs.processor.image_processor.do_center_crop = False
    assert inputs.prepare([PHOTO], [["a dog"]])["cell_mask"].shape == (1, 24)
    with pytest.raises(ValueError, match="fails on images of 48 x 32, 60 x 32 pixels .* or give images of one size"):
        inputs.prepare([PHOTO, build_photo(60, 32)], [["a dog"], ["cup"]])
    bridgetower = build_tiny_grounder("bridgetower-itm").inputs
    bridgetower.processor.image_processor.crop_size = CLIPImageProcessorPil().crop_size
    with pytest.raises(ValueError, match="BridgeTowerImageProcessorPil fails on images of 48 x 32 pixels"):
        bridgetower.prepare([PHOTO], [["a dog"]])


def test_phrases_that_a_vocabulary_lacks_have_a_token():
    batch = build_tiny_grounder("clip-itc").prepare([PHOTO], [["\U0001f436", "\u0643\u0644\u0628", "红色的狗"]])
    assert torch.equal(batch["token_mask"].sum(dim=1), torch.tensor([1, 1, 1]))
