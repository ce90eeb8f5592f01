# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Pipeline `visual-grounding`: forms of its input, its options, and its agreement with processor and model."""

import pytest
import torch
from PIL import Image

from albef_amc import AlbefConfig, AlbefForImageTextMatching
from albef_amc.image_processing_albef import AlbefImageProcessor
from albef_amc.pipeline_albef import VisualGroundingPipeline
from albef_amc.processing_albef import AlbefProcessor
from albef_amc.text_processing_albef import build_tokenizer

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog", "cup"]
WIDTHS = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    config = AlbefConfig(
        vision_config={**WIDTHS, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8},
        text_config={
            **WIDTHS,
            "num_hidden_layers": 4,
            "fusion_layer": 2,
            "vocab_size": len(PIECES),
            "max_position_embeddings": 16,
        },
        projection_dim=16,
        explanation_layer=2,
        explanation_block=1,
        queue_size=8,
    )
    processor = AlbefProcessor(AlbefImageProcessor(size=32), build_tokenizer(PIECES, model_max_length=16))
    return VisualGroundingPipeline(model=AlbefForImageTextMatching(config), processor=processor, device="cpu")


@pytest.fixture(scope="module")
def photo():
    return Image.radial_gradient("L").resize((40, 30)).convert("RGB")


def test_equals_processor_and_model(pipe, photo):
    phrases = ["a red dog", "Cup!"]
    results = pipe(photo, phrases=phrases)
    outputs = pipe.model.ground(**pipe.processor(images=photo, text=phrases))
    (expected,) = pipe.processor.post_process_grounding(outputs)
    assert [result["phrase"] for result in results] == phrases
    for result, one in zip(results, expected, strict=True):
        assert result["score"] == pytest.approx(one["score"], abs=1e-6)
        assert result["point"] == one["point"].tolist()
        assert result["box"] == one["box"].tolist()
        assert result["boxes"] == one["boxes"].tolist()
        torch.testing.assert_close(result["heatmap"], one["heatmap"], atol=1e-6, rtol=0)


def test_forms_of_the_input(pipe, photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    reference = pipe(photo, phrases=["a dog"])
    forms = [
        pipe(photo, phrases="a dog"),
        pipe(photo, ["a dog"]),
        pipe(str(tmp_path / "photo.png"), phrases=["a dog"]),
        pipe({"image": photo, "text": "a dog"}),
        *pipe([photo, photo], phrases=["a dog"]),
        *pipe([{"image": photo, "text": ["a dog"]}, {"image": photo, "text": ["a dog"]}]),
    ]
    assert len(forms) == 8
    for results in forms:
        assert [result["point"] for result in results] == [reference[0]["point"]]
        assert torch.equal(results[0]["heatmap"], reference[0]["heatmap"])


def test_options(pipe, photo):
    (result,) = pipe(photo, phrases="a dog", return_heatmaps=False, box_threshold=1.0)
    assert result["heatmap"] is None
    x_min, y_min, x_max, y_max = result["box"]
    assert (x_min, y_min) == tuple(result["point"]) and (x_max - x_min) * (y_max - y_min) == 1
    assert torch.equal(
        pipe(photo, phrases="a red dog", max_length=2)[0]["heatmap"], pipe(photo, phrases="a")[0]["heatmap"]
    )
    itm, itc = (pipe(photo, phrases="a dog", explanation_kind=kind)[0]["heatmap"] for kind in ("itm", "itc"))
    assert not torch.equal(itm, itc)


def test_errors(pipe, photo):
    with pytest.raises(ValueError, match=r"give `pipe\(image, phrases"):
        pipe(photo)
    with pytest.raises(ValueError, match="`batch_size` must stay 1"):
        pipe([photo, photo], phrases="a dog", batch_size=2)
    with pytest.raises(TypeError, match="unknown option threshold. The options are max_length"):
        pipe(photo, phrases="a dog", threshold=0.5)
    with pytest.raises(ValueError, match="`text` has no phrases"):
        pipe(photo, phrases=[])
    with pytest.raises(ValueError, match=r"phrase 1 is .*, which has no words"):
        pipe(photo, phrases=["a dog", "?!"])
