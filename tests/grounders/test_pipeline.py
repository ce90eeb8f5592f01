# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The pipeline for models that have a grounder: the results of the grounder, in every form of the input."""

import json
import subprocess
import sys

import pytest
import torch
from grounder_cases import build_blip, build_tiny_grounder
from testing_utils import build_photo
from transformers import BertConfig, BertModel, BlipForConditionalGeneration, pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from albef_amc import VisualGroundingPipeline
from albef_amc.grounders import AutoGrounder, Grounder, GrounderPipeline
from albef_amc.grounders.families import BLIP_ITC

PHRASES = ["a dog", "the red car", "a cup"]


@pytest.fixture
def photos():
    return [build_photo(40 + 12 * index, 30, seed=index) for index in range(3)]


def save(name, folder):
    grounder = build_tiny_grounder(name).float()
    grounder.model.save_pretrained(folder)
    grounder.processor.save_pretrained(folder)
    return folder


def check_results(found, expected):
    for phrase, one, other in zip(PHRASES, found, expected, strict=True):
        assert one["phrase"] == phrase and one["is_present"] == other["is_present"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-6)
        assert one["point"] == other["point"].tolist() and one["boxes"] == other["boxes"].tolist()
        torch.testing.assert_close(one["heatmap"], other["heatmap"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["blip-itm", "clip-itc", "vilt-itm", "siglip-itc", "bridgetower-itm"])
def test_results_are_those_of_the_grounder(name, photos, tmp_path):
    folder = save(name, tmp_path)
    pipe = pipeline("visual-grounding", model=str(folder), device="cpu")
    assert type(pipe) is GrounderPipeline and pipe.model.dtype == torch.float32
    expected = AutoGrounder.from_pretrained(folder)(images=photos, phrases=[PHRASES] * 3)
    check_results(pipe(photos[0], phrases=PHRASES), expected[0])
    for batch_size in (1, 2):
        results = pipe([{"image": photo, "text": PHRASES} for photo in photos], batch_size=batch_size)
        for found, other in zip(results, expected, strict=True):
            check_results(found, other)


def test_options_and_settings_that_were_saved(photos, tmp_path):
    blip = build_tiny_grounder("blip-itm").float()
    Grounder(blip.model, blip.processor, BLIP_ITC, layer=0).save_pretrained(tmp_path / "saved")
    photos[0].save(tmp_path / "photo.png")
    grounder = AutoGrounder.from_pretrained(tmp_path / "saved")
    assert grounder.layer == 0
    options = dict(box_threshold=0.3, return_heatmaps=False)
    pipe = pipeline("visual-grounding", model=str(tmp_path / "saved"), device="cpu", dtype=torch.bfloat16)
    assert (pipe.model.layer, pipe.model.family, pipe.model.dtype) == (0, BLIP_ITC, torch.bfloat16)
    pipe = GrounderPipeline(model=grounder, device="cpu", **options)
    (expected,) = grounder(images=photos[:1], phrases=[PHRASES], **options)
    found = pipe(str(tmp_path / "photo.png"), phrases=PHRASES, phrases_per_chunk=2)
    assert [one["boxes"] for one in found] == [one["boxes"].tolist() for one in expected]
    assert all(one["heatmap"] is None for one in found)
    pipe.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "grounder.json").read_text())["layer"] == 0
    assert not list((tmp_path / "again").glob("*.py"))


def test_a_model_of_transformers_with_its_processor(photos):
    grounder = build_tiny_grounder("blip-itm").float()
    pipe = pipeline("visual-grounding", model=grounder.model, processor=grounder.processor, device="cpu")
    check_results(pipe(photos[0], phrases=PHRASES), grounder(images=photos[:1], phrases=[PHRASES])[0])
    with pytest.raises(ValueError, match="`BlipForImageTextRetrieval` comes without `processor`"):
        GrounderPipeline(model=grounder.model)
    other = BlipForConditionalGeneration(build_blip()[0].config)
    with pytest.raises(ValueError, match="no score to explain. Load the checkpoint with `BlipForImageTextRetrieval`"):
        pipeline("visual-grounding", model=other, processor=grounder.processor, device="cpu")


def test_what_cannot_be_used(photos, tmp_path):
    pipe = GrounderPipeline(model=build_tiny_grounder("clip-itc"), device="cpu")
    with pytest.raises(ValueError, match=r"^input 1: .*16 text positions"):
        pipe([{"image": photos[0], "text": "a dog"}, {"image": photos[1], "text": "dog " * 30}])
    with pytest.raises(FileNotFoundError, match="no_such.jpg"):
        pipe(str(tmp_path / "no_such.jpg"), phrases=["a dog"])
    with pytest.raises(TypeError, match="unknown option max_length. The options are phrases_per_chunk, box_threshold"):
        pipe(photos[0], phrases=["a dog"], max_length=3)
    with pytest.raises(ValueError, match="`phrases_per_chunk`"):
        pipe(photos[0], phrases=["a dog"], phrases_per_chunk=0)


def test_an_unknown_type_is_refused(tmp_path):
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="type 'bert', which cannot be explained yet. Types that can: albef, blip"):
        pipeline("visual-grounding", model=str(tmp_path), device="cpu")


def test_the_pipeline_of_albef_stays_its_own(tiny_model, tiny_processor, photos):
    pipe = pipeline("visual-grounding", model=tiny_model, processor=tiny_processor, device="cpu")
    assert type(pipe) is VisualGroundingPipeline
    (expected,) = tiny_processor.post_process_grounding(
        tiny_model.ground(**tiny_processor(images=photos[:1], text=[PHRASES]))
    )
    check_results(pipe(photos[0], phrases=PHRASES), expected)


def test_it_is_registered_in_silence():
    assert PIPELINE_REGISTRY.check_task("visual-grounding")[1]["impl"] is GrounderPipeline
    code = "import albef_amc.grounders"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "registered" not in done.stderr + done.stdout
