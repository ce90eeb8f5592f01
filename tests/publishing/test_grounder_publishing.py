# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""`albef-amc push` of models of other types: plain checkpoints without code, and cards that fit their class."""

import json
import re

import pytest
import torch
from grounder_cases import build_tiny_grounder
from hub_server import OWNER
from huggingface_hub import ModelCard as HubModelCard
from testing_utils import build_photo, check_refusal
from transformers import AutoProcessor, BlipForImageTextRetrieval

from albef_amc.cli.main import main
from albef_amc.evaluation.weight_hash import hash_weights
from albef_amc.grounders import AutoGrounder, Grounder
from albef_amc.grounders.families import BLIP_ITM
from albef_amc.publishing.checkpoint_publishing import prepare_publication

REPOSITORY = f"{OWNER}/tiny"


@pytest.fixture
def checkpoint(tmp_path):
    """A grounder that was read from a repository, with another layer than the default one."""
    blip = build_tiny_grounder("blip-itm").float()
    source = {"name": "Salesforce/blip-itm-base-coco", "commit": "0" * 40}
    Grounder(blip.model, blip.processor, BLIP_ITM, layer=0, source=source).save_pretrained(tmp_path / "blip")
    return tmp_path / "blip"


def push(capsys, *words) -> dict:
    capsys.readouterr()
    assert main(["push", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_plain_checkpoint_is_pushed_and_its_snippets_run(checkpoint, hub, tmp_path, capsys, monkeypatch):
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):  # of code, which is not run
        settings = json.loads((checkpoint / name).read_text())
        code = {"auto_map": {"AutoModel": "modeling_evil.Evil"}, "custom_pipelines": {"a": {"impl": "evil.Evil"}}}
        (checkpoint / name).write_text(json.dumps(settings | code))
    (checkpoint / "modeling_evil.py").write_text("raise SystemExit('ran')\n")
    result = push(capsys, checkpoint, REPOSITORY)
    files = hub.files(REPOSITORY)
    assert {"README.md", "config.json", "grounder.json", "model.safetensors", "tokenizer.json"} <= {*files}
    assert not [name for name in files if name.endswith(".py")]
    assert not [name for name, content in files.items() if b"Evil" in content]
    assert result["code_revision"] is None and hub.repositories[REPOSITORY].branches["main"] == result["commit"]
    settings = json.loads(files["grounder.json"])
    assert (settings["layer"], settings["source"]["commit"]) == (0, "0" * 40)
    text = files["README.md"].decode()
    card = HubModelCard(text)
    assert card.data.license == "other" and card.data.base_model == "Salesforce/blip-itm-base-coco"
    assert card.data.tags == ["visual-grounding", "grad-cam"] and card.data.library_name == "transformers"
    assert card.data.to_dict().get("pipeline_tag") is None and "trust_remote_code" not in text
    assert f"at commit `{'0' * 40}`" in text
    build_photo().save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    assert type(names["model"]) is BlipForImageTextRetrieval and len(names["results"][0]) == 2
    assert names["grounder"].layer == 0 and names["grounder"].source == settings["source"]


def test_a_checkpoint_of_transformers_alone(tmp_path, capsys):
    grounder = build_tiny_grounder("clip-itc").float()
    grounder.model.save_pretrained(tmp_path / "clip")
    grounder.processor.save_pretrained(tmp_path / "clip")
    result = push(capsys, tmp_path / "clip", REPOSITORY, "--dry-run", "--dtype", "bfloat16", "--revision", "half")
    data = HubModelCard(result["card"]).data
    assert data.pipeline_tag == "zero-shot-image-classification" and data.base_model is None
    assert 'AutoGrounder.from_pretrained("your-name/tiny", revision="half")' in result["card"]
    assert "converted from float32 to bfloat16" in result["card"]
    assert str(tmp_path) not in result["card"]
    prepare_publication(tmp_path / "clip", tmp_path / "out", REPOSITORY, dtype=torch.bfloat16)
    assert AutoGrounder.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    assert type(AutoProcessor.from_pretrained(tmp_path / "out")) is type(grounder.processor)


def test_a_tokenizer_of_sentencepiece_has_other_files(checkpoint, tmp_path, monkeypatch):
    save = Grounder.save_pretrained

    def save_other(grounder, folder):
        save(grounder, folder)
        (folder / "tokenizer.json").rename(folder / "spiece.model")

    monkeypatch.setattr(Grounder, "save_pretrained", save_other)
    (tmp_path / "out").mkdir()
    assert "spiece.model" in prepare_publication(checkpoint, tmp_path / "out", REPOSITORY).list_files()


def test_numbers_belong_to_weights(checkpoint, tmp_path, capsys):
    result = {"pointing_game_accuracy": 0.625, "num_phrases": 8, "dataset": "synthetic"}
    path = tmp_path / "scores.json"
    words = ["push", str(checkpoint), REPOSITORY, "--dry-run", "--metrics-file", str(path)]
    path.write_text(json.dumps({"test": {**result, "weights_sha256": "1" * 64}}))
    check_refusal(words, "was measured on other weights", capsys)
    own = hash_weights(AutoGrounder.from_pretrained(checkpoint).model)
    path.write_text(json.dumps({"test": {**result, "weights_sha256": own}}))
    card = push(capsys, *words[1:])["card"]
    assert "62.50" in card
    (entry,) = HubModelCard(card).data.eval_results
    assert entry.task_type == "visual-grounding" and entry.metric_value == 0.625


def test_a_checkpoint_that_cannot_be_grounded_is_one_line(checkpoint, capsys):
    words = ["push", str(checkpoint), REPOSITORY, "--dry-run"]
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    check_refusal(words, "is a model of type 'bert', which cannot be explained yet", capsys)
