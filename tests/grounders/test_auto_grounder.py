# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Loading: which family and class, what is refused, provenance."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from grounder_cases import build_blip, build_tiny_grounder
from hub_server import Repository
from safetensors.torch import load_file, save_file
from testing_utils import build_photo
from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval

from albef_amc.grounders import AutoGrounder, Grounder
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


@pytest.mark.parametrize("layer", [True, -1, 1.0, "1", 3, 10**9, [1]])
def test_a_layer_that_is_no_number_of_one_is_refused(checkpoint, layer):
    message = r"`layer` is .*, but the layers of `text_encoder.* are 0 to 2\. In the last one words have no gradient"
    with pytest.raises(ValueError, match=message):
        AutoGrounder.from_pretrained(checkpoint, layer=layer)
    (checkpoint / "grounder.json").write_text(json.dumps({"layer": layer}))
    with pytest.raises(ValueError, match=message):
        AutoGrounder.from_pretrained(checkpoint)


def test_a_layer_of_numpy_is_stored_as_a_number(checkpoint, tmp_path):
    AutoGrounder.from_pretrained(checkpoint, layer=np.int64(1)).save_pretrained(tmp_path / "saved")
    assert AutoGrounder.from_pretrained(tmp_path / "saved").layer == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "grounder.json is not valid JSON"),
        ("[" * 10**5, "nested too deeply"),
        ("5", "must hold an object of settings, got int"),
        ('{"source": "abc"}', "`source` in grounder.json of .* is 'abc': a name and a commit"),
        ('{"source": {"name": {"a": 1}}}', "`source` in grounder.json"),
        ('{"model_type": "clip"}', "is of a model of type 'clip', but config.json has 'blip'"),
        ('{"score": ["itm"]}', "`score` must be one of"),
        ('{"method": null}', "`method` must be one of"),
    ],
)
def test_a_damaged_grounder_json_is_refused(checkpoint, content, message):
    (checkpoint / "grounder.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        AutoGrounder.from_pretrained(checkpoint)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("text_config", {"hidden_size": 2**17}, "the weights of .* do not fit its config.json: .* not .*131072"),
        ("vision_config", {"image_size": 2**20}, r"position_embedding is \(1, 17, 32\), not \(1, 17179869185, 32\)"),
        ("text_config", {"num_hidden_layers": 10**6}, "`text_config.num_hidden_layers` .* is 1000000, but its files"),
        ("text_config", {"num_hidden_layers": 2}, r"do not fit .*text_encoder.encoder.layer.2\..* is not in it"),
        ("text_config", {"num_attention_heads": 0}, "config.json of .* describes no `BlipForImageTextRetrieval`"),
        ("text_config", {"hidden_size": "big"}, "config.json of .* describes no `BlipForImageTextRetrieval`"),
        ("vision_config", {"quantization_config": {"bits": 4}}, "quantised weights .`vision_config.quantization_conf"),
        ("vision_config", {"attn_implementation": "flash_attention_2"}, "`vision_config.attn_implementation` in conf"),
        ("text_config", {"_attn_implementation_internal": "someone/kernels"}, "is 'someone/kernels', which shows no"),
    ],
)
def test_settings_of_a_model_that_its_files_do_not_hold_or_that_cannot_be_explained(
    checkpoint, part, changes, message
):
    settings = json.loads((checkpoint / "config.json").read_text())[part]
    change_config(checkpoint, **{part: settings | changes})
    with pytest.raises(ValueError, match=message):
        AutoGrounder.from_pretrained(checkpoint)


def test_an_attention_kernel_of_a_repository_is_refused_before_it_is_downloaded(checkpoint):
    change_config(checkpoint, attn_implementation="someone/kernels")
    with pytest.raises(ValueError, match="`attn_implementation` in config.json of .* is 'someone/kernels'"):
        AutoGrounder.from_pretrained(checkpoint)


def change_weights(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_weights_of_another_shape_or_type_and_missing_ones(checkpoint):
    stored = (checkpoint / "model.safetensors").read_bytes()
    name = "text_encoder.encoder.layer.0.crossattention.self.query.weight"
    changes = {
        torch.Size([7, 7]): torch.zeros(7, 7),
        torch.int8: torch.zeros(32, 32, dtype=torch.int8),
    }
    for tensor in changes.values():
        change_weights(checkpoint, lambda weights, tensor=tensor: weights.update({name: tensor}))
        with pytest.raises(ValueError, match=f"do not fit its config.json: {name} is"):
            AutoGrounder.from_pretrained(checkpoint)
        (checkpoint / "model.safetensors").write_bytes(stored)
    change_weights(checkpoint, lambda weights: weights.pop(name))
    with pytest.raises(ValueError, match=f"lacks weights .* {name}. Its files are incomplete"):
        AutoGrounder.from_pretrained(checkpoint)
    (checkpoint / "model.safetensors").write_bytes(stored[: len(stored) // 2])
    with pytest.raises(ValueError, match="the weights of .* cannot be read"):
        AutoGrounder.from_pretrained(checkpoint)
    (checkpoint / "model.safetensors").write_bytes(stored)
    change_weights(checkpoint, lambda weights: weights.update({"text_decoder.cls.bias": torch.zeros(3)}))
    assert AutoGrounder.from_pretrained(checkpoint).layer == 2


class RunsCode:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_a_pickle_that_runs_code_is_refused(checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    torch.save({"itm_head.weight": RunsCode()}, checkpoint / "pytorch_model.bin")
    with pytest.raises(ValueError, match="hold more than tensors, which may run code"):
        AutoGrounder.from_pretrained(checkpoint, use_safetensors=False)
    assert not (checkpoint / "ran").exists()


def test_weights_in_several_files(checkpoint):
    model = BlipForImageTextRetrieval.from_pretrained(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    model.save_pretrained(checkpoint, max_shard_size="50KB")
    first, *others = sorted(checkpoint.glob("*.safetensors"))
    assert others
    assert AutoGrounder.from_pretrained(checkpoint).model.itm_head.weight.equal(model.itm_head.weight)
    first.unlink()
    with pytest.raises(FileNotFoundError, match=first.name):
        AutoGrounder.from_pretrained(checkpoint)


def test_a_checkpoint_without_its_processor(checkpoint):
    tokenizer = (checkpoint / "tokenizer.json").read_bytes()
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="the processor of .* cannot be used: .*Save the processor of the model"):
        AutoGrounder.from_pretrained(checkpoint)
    (checkpoint / "tokenizer.json").write_bytes(tokenizer)
    (checkpoint / "processor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="the processor of .* cannot be used: Can't load image processor"):
        AutoGrounder.from_pretrained(checkpoint)
    (checkpoint / "processor_config.json").write_text(json.dumps({"processor_class": "Unknown"}))
    with pytest.raises(ValueError, match="cannot be used: a .* without image_processor"):
        AutoGrounder.from_pretrained(checkpoint)


def test_a_model_with_too_few_layers_has_no_default():
    model, processor = build_blip()
    model.text_encoder.encoder.layer = model.text_encoder.encoder.layer[:1]
    with pytest.raises(ValueError, match=r"^no layer of `text_encoder.* can be explained: the model has too few"):
        Grounder(model, processor, BLIP_ITM)
    model, processor = build_blip()
    model.text_encoder.encoder.layer = model.text_encoder.encoder.layer[:2]
    assert Grounder(model, processor, BLIP_ITM).layer == 0


def test_a_folder_has_no_revision(checkpoint, loading_warnings):
    AutoGrounder.from_pretrained(checkpoint, revision="v1")
    assert any("`revision` is ignored" in warning for warning in loading_warnings())


def test_a_grounder_that_is_loaded_in_inference_mode_can_be_trained(checkpoint):
    with torch.inference_mode():
        grounder = AutoGrounder.from_pretrained(checkpoint)
    outputs = grounder(grounder.prepare([build_photo()], [["a dog"]]))
    outputs.normalized_heatmap.sum().backward()
    assert grounder.model.itm_head.weight.grad is not None


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
