# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Loading: which family and class, what is refused, provenance."""

import json
from pathlib import Path

import pytest
import torch
from grounder_cases import build_blip, build_tiny_grounder
from hub_server import Repository
from testing_utils import build_photo
from transformers import BlipForConditionalGeneration

from albef_amc.grounders import AutoGrounder
from albef_amc.grounders.families import BLIP_ITM, CLIP


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A checkpoint of BLIP as transformers writes it, without the settings of a grounder."""
    grounder = build_tiny_grounder("blip-itm")
    grounder.model.float().save_pretrained(tmp_path)
    grounder.processor.save_pretrained(tmp_path)
    return tmp_path


def change_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_score_layer_and_method_are_chosen_by_name(checkpoint):
    assert AutoGrounder.from_pretrained(checkpoint).family == BLIP_ITM
    grounder = AutoGrounder.from_pretrained(checkpoint, score="itc", layer=0, method="grad_cam")
    assert grounder.module_names == ["vision_model.encoder.layers.0.self_attn"] and not grounder.training
    assert grounder.source == {"name": str(checkpoint), "commit": None}
    with pytest.raises(ValueError, match="`score`"):
        AutoGrounder.from_pretrained(checkpoint, score="mlm")
    with pytest.raises(ValueError, match="`method`"):
        AutoGrounder.from_pretrained(checkpoint, method="lime")
    with pytest.raises(ValueError, match=r"`layer` is 3, but .* are 0 to 2\. In the last one words have no gradient"):
        AutoGrounder.from_pretrained(checkpoint, layer=3)


def test_the_commit_of_a_repository_is_resolved_and_saved(checkpoint, hub, tmp_path):
    repository = hub.repositories["your-name/blip"] = Repository()
    files = {path.name: path.read_bytes() for path in checkpoint.glob("*.*")}
    first = repository.commit("main", files, "first")
    second = repository.commit("main", files | {"README.md": b"a card"}, "second")
    pinned = AutoGrounder.from_pretrained("your-name/blip", revision=first)
    assert pinned.source == {"name": "your-name/blip", "commit": first}
    assert AutoGrounder.from_pretrained("your-name/blip").source["commit"] == second
    pinned.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "grounder.json").read_text())["source"] == pinned.source
    assert AutoGrounder.from_pretrained(tmp_path / "saved").source == pinned.source
    with pytest.raises(FileNotFoundError, match="it has no revision third"):
        AutoGrounder.from_pretrained("your-name/blip", revision="third")


def test_an_unknown_type_lists_the_families_and_the_nearest(checkpoint):
    change_config(checkpoint, model_type="blip-3")
    with pytest.raises(ValueError, match=r"type 'blip-3'.*albef, blip, clip.*Did you mean `blip`\?"):
        AutoGrounder.from_pretrained(checkpoint)


def test_a_checkpoint_without_the_head_says_which_class_has_one(checkpoint):
    config = build_blip()[0].config
    BlipForConditionalGeneration(config).save_pretrained(checkpoint)
    with pytest.raises(
        ValueError, match=r"lacks weights of `BlipForImageTextRetrieval`.*BlipForConditionalGeneration"
    ):
        AutoGrounder.from_pretrained(checkpoint)


def test_quantised_weights_and_other_files_are_refused(checkpoint):
    change_config(checkpoint, quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(ValueError, match="has quantised weights"):
        AutoGrounder.from_pretrained(checkpoint)
    change_config(checkpoint, quantization_config=None)
    model = AutoGrounder.from_pretrained(checkpoint).model
    torch.save(model.state_dict(), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no weights in safetensors.*use_safetensors=False"):
        AutoGrounder.from_pretrained(checkpoint)
    loaded = AutoGrounder.from_pretrained(checkpoint, use_safetensors=False).model
    assert loaded.itm_head.weight.equal(model.itm_head.weight)


def test_code_of_a_repository_is_never_run(checkpoint):
    (checkpoint / "modeling_evil.py").write_text("raise SystemExit('code of the repository ran')\n")
    change_config(checkpoint, auto_map={"AutoModel": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Evil"})
    processor = checkpoint / "processor_config.json"
    settings = json.loads(processor.read_text()) | {"auto_map": {"AutoProcessor": "modeling_evil.Evil"}}
    processor.write_text(json.dumps(settings))
    assert type(AutoGrounder.from_pretrained(checkpoint).processor).__name__ == "BlipProcessor"


def test_the_first_token_of_the_matching_score_is_that_of_its_training():
    grounder = build_tiny_grounder("blip-itm")
    vocab_size = grounder.model.config.text_config.vocab_size
    batch = grounder.prepare([build_photo()], [["a dog"]])
    assert batch["input_ids"].tolist() == [[vocab_size - 1, 5, 20, 3]]
    assert batch["token_mask"].tolist() == [[False, True, True, False]]
    grounder.processor.tokenizer.add_tokens(["[ENC]"])
    assert grounder.prepare([build_photo()], [["a dog"]])["input_ids"][0, 0] == vocab_size - 2
    other = build_tiny_grounder("blip-itm")
    other.model.config.text_config.bos_token_id = 2
    with pytest.raises(ValueError, match=r"trained with \[ENC\] as the first token"):
        other.prepare([build_photo()], [["a dog"]])


def test_float16_is_refused_for_training_only():
    grounder = build_tiny_grounder("clip-itc")
    assert grounder.family == CLIP
    batch = grounder.prepare([build_photo()], [["a dog"]])
    grounder.half()
    with pytest.raises(ValueError, match="a float16 model cannot be trained"):
        grounder(batch)
    with torch.no_grad():
        assert torch.isfinite(grounder(batch).heatmap).all()


def test_weights_that_are_not_finite_and_images_without_phrases():
    grounder = build_tiny_grounder("clip-itc")
    assert grounder(images=[build_photo(), build_photo()], phrases=[[], ["cup"]])[0] == []
    with torch.no_grad():
        grounder.model.visual_projection.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        grounder(images=[build_photo()], phrases=[["cup"]])
