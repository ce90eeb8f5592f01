# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints in a fresh process without this package: the same token ids, scores and heatmaps for a photograph."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from testing_utils import build_photo, run_without_package

from albef_amc import AlbefForImageTextMatching, AlbefForPreTraining, VisualGroundingPipeline

pytestmark = pytest.mark.slow

PHRASES = ["the big red circle", "A dog, left of the cup"]

LOAD_EVERYTHING = """
    import json, sys, torch
    from PIL import Image
    from safetensors.torch import save_file
    from transformers import (
        AutoConfig, AutoModel, AutoModelForPreTraining, AutoModelForZeroShotObjectDetection, AutoProcessor, pipeline
    )

    checkpoint, photo, phrases = sys.argv[1], Image.open(sys.argv[2]), json.loads(sys.argv[3])
    trust = dict(trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(checkpoint, **trust)
    inputs = processor(images=photo, text=phrases, return_tensors="pt")
    pair = {name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask", "image_index")}
    matching = AutoModelForZeroShotObjectDetection.from_pretrained(checkpoint, **trust)
    grounded = matching.ground(**inputs)
    found = dict(pair, itm_logits=grounded.itm_logits, heatmap=grounded.heatmap)
    with torch.no_grad():
        found["logits_per_image"] = AutoModel.from_pretrained(checkpoint, **trust)(**pair).logits_per_image
        pretraining = AutoModelForPreTraining.from_pretrained(checkpoint, **trust)
        found["pretraining_itm_logits"] = pretraining(**pair, objectives=("itc",)).itm_logits
    for name, result in zip(("first", "second"), pipeline("visual-grounding", model=checkpoint, **trust)(
        photo, phrases=phrases
    )):
        found[f"pipeline_{name}"] = result["heatmap"]
    (point,) = {tuple(result["point"]) for result in pipeline(model=checkpoint, **trust)(photo, phrases=phrases[:1])}
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, sys.argv[4])
    names = [type(model).__name__ for model in (processor, matching, pretraining)]
    print(json.dumps({"classes": names, "architecture": type(AutoConfig.from_pretrained(checkpoint, **trust)).__name__,
                      "modules": sorted(name for name in sys.modules if name.endswith("_albef")), "point": point}))
"""


def save(kind: str, models: dict, processor, folder: Path) -> None:
    """The ways in which this package writes a checkpoint."""
    if kind == "pipeline":
        VisualGroundingPipeline(model=models["matching"], processor=processor, device="cpu").save_pretrained(folder)
        return
    models[kind].save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.mark.parametrize("kind", ["matching", "pretraining", "pipeline"])
def test_same_results_without_the_package(kind, tiny_model, tiny_pretraining_model, tiny_processor, tmp_path):
    checkpoint, photo = tmp_path / "checkpoint", tmp_path / "photo.png"
    save(kind, {"matching": tiny_model, "pretraining": tiny_pretraining_model}, tiny_processor, checkpoint)
    build_photo().save(photo)
    printed = run_without_package(
        LOAD_EVERYTHING, str(checkpoint), str(photo), json.dumps(PHRASES), "found.safetensors", cwd=tmp_path
    )
    report, found = json.loads(printed.splitlines()[-1]), load_file(tmp_path / "found.safetensors")
    assert report["classes"] == ["AlbefProcessor", "AlbefForImageTextMatching", "AlbefForPreTraining"]
    assert report["architecture"] == "AlbefConfig"
    assert report["modules"] and all(name.startswith("transformers_modules.") for name in report["modules"])

    inputs = tiny_processor(images=photo, text=PHRASES)
    model = tiny_pretraining_model if kind == "pretraining" else tiny_model
    outputs = model.ground(**inputs)
    for name in ("pixel_values", "input_ids", "attention_mask", "image_index"):
        assert torch.equal(found[name], inputs[name]), name
    pair = {name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask", "image_index")}
    with torch.no_grad():
        expected = {"heatmap": outputs.heatmap, "logits_per_image": model.albef(**pair).logits_per_image}
    expected |= {"itm_logits": outputs.itm_logits, "pretraining_itm_logits": outputs.itm_logits}
    for name, value in expected.items():  # sums in another order of memory may differ in the last digit
        assert (found[name] - value).abs().max() <= 1e-5 * value.abs().max(), name
    (results,) = tiny_processor.post_process_grounding(outputs)
    assert tuple(report["point"]) == tuple(results[0]["point"].tolist())
    for name, result in zip(("pipeline_first", "pipeline_second"), results, strict=True):
        torch.testing.assert_close(found[name], result["heatmap"], atol=1e-6, rtol=0)


RELOAD_AND_SAVE = """
    import sys
    from transformers import AutoModelForPreTraining, AutoProcessor

    AutoModelForPreTraining.from_pretrained(sys.argv[1], trust_remote_code=True).save_pretrained(sys.argv[2])
    AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True).save_pretrained(sys.argv[2])
"""


def test_saved_again_without_the_package(tiny_pretraining_model, tiny_processor, tmp_path):
    save("pretraining", {"pretraining": tiny_pretraining_model}, tiny_processor, tmp_path / "first")
    run_without_package(RELOAD_AND_SAVE, str(tmp_path / "first"), str(tmp_path / "second"), cwd=tmp_path)
    first, second = ({file.name for file in (tmp_path / name).iterdir()} for name in ("first", "second"))
    assert first == second
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "second")]
    for config in configs:
        for part in ("vision_config", "text_config"):
            config[part].pop("dtype", None)  # noted by `transformers` once a checkpoint has been loaded
    assert configs[0] == configs[1]
    reloaded = AlbefForPreTraining.from_pretrained(tmp_path / "second").state_dict()
    for name, value in tiny_pretraining_model.state_dict().items():
        assert torch.equal(reloaded[name], value), name


def test_auto_class_with_the_package_needs_no_trust(tiny_model, tiny_processor, tmp_path):
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    save("matching", {"matching": tiny_model}, tiny_processor, tmp_path)
    model = AutoModelForZeroShotObjectDetection.from_pretrained(tmp_path)
    assert type(model) is AlbefForImageTextMatching
    assert type(AutoProcessor.from_pretrained(tmp_path)) is type(tiny_processor)
