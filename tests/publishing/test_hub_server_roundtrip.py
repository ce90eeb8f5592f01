"""Pushed to a local Hub and loaded from it: by a process without this package, and at the end of a training run."""

import json
import os
import subprocess
import sys

import pytest
import torch
from hub_server import OWNER, HubServer
from huggingface_hub import ModelCard as HubModelCard
from safetensors.torch import load, load_file
from testing_utils import build_photo, build_rows, build_tiny_trainer, run_without_package

from albef_amc import AlbefForImageTextMatching
from albef_amc.model_cards import ModelCard, write_model_card

REPOSITORY = f"{OWNER}/tiny"
PHRASES = ["the big red circle", "a dog"]
TRAINING_STATE = ("optimizer.pt", "scheduler.pt", "trainer_state.json", "training_args.bin", "rng_state.pth")

LOAD_FROM_HUB = """
    import json, sys, torch
    from PIL import Image
    from safetensors.torch import save_file
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor, pipeline

    name, photo, phrases, revision = sys.argv[1], Image.open(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4]
    pinned = dict(trust_remote_code=True, code_revision=revision)
    processor = AutoProcessor.from_pretrained(name, **pinned)
    model = AutoModelForZeroShotObjectDetection.from_pretrained(name, **pinned)
    found = {"heatmap": model.ground(**processor(images=photo, text=phrases, return_tensors="pt")).heatmap}
    for index, result in enumerate(pipeline("visual-grounding", model=name, trust_remote_code=True)(
        photo, phrases=phrases
    )):
        found[f"pipeline_{index}"] = result["heatmap"]
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, "found.safetensors")
    print(json.dumps(sorted(name for name in sys.modules if name.endswith("modeling_albef"))))
"""


@pytest.mark.slow
def test_pushed_by_the_command_and_loaded_without_the_package(
    tiny_pretraining_model, tiny_processor, tmp_path, monkeypatch
):
    folder, photo = tmp_path / "run", tmp_path / "photo.png"
    tiny_pretraining_model.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    write_model_card(folder, ModelCard(model_name="run", description="A small model."))
    build_photo().save(photo)
    with HubServer() as hub:
        environment = hub.environment(tmp_path / "home")
        command = [sys.executable, "-m", "albef_amc.cli.main", "push", str(folder), REPOSITORY, "--json"]
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        revision = json.loads(done.stdout)["code_revision"]
        hub.requests.clear()
        words = (REPOSITORY, str(photo), json.dumps(PHRASES), revision)
        printed = run_without_package(LOAD_FROM_HUB, *words, cwd=tmp_path, environment=environment)
        assert any(request.endswith("/model.safetensors") for request in hub.requests)
        assert f"GET /{REPOSITORY}/resolve/{revision}/modeling_albef.py" in hub.requests
    modules = json.loads(printed.splitlines()[-1])
    assert modules and all(name.startswith("transformers_modules.") for name in modules)

    outputs = tiny_pretraining_model.ground(**tiny_processor(images=photo, text=PHRASES))
    found = load_file(tmp_path / "found.safetensors")
    assert (found["heatmap"] - outputs.heatmap).abs().max() <= 1e-5 * outputs.heatmap.abs().max()
    (results,) = tiny_processor.post_process_grounding(outputs)
    for index, result in enumerate(results):
        torch.testing.assert_close(found[f"pipeline_{index}"], result["heatmap"], atol=1e-6, rtol=0)


def train(model, folder, **changes):
    trainer = build_tiny_trainer(
        model, folder, eval_rows=build_rows(2), push_to_hub=True, hub_model_id=REPOSITORY, **changes
    )
    trainer.card_details |= {"evaluation_dataset": "made-up rows", "recipe": "tiny", "source": "albef"}
    trainer.train()
    return trainer


def check_published(files: dict[str, bytes], model) -> str:
    """The matching model of `model` and nothing of the training; returns the card's text."""
    assert not set(TRAINING_STATE) & files.keys()
    assert {"processor_config.json", "tokenizer.json", "modeling_albef.py", "pipeline_albef.py"} <= files.keys()
    expected = model.export_matching_model().state_dict()
    weights = load(files["model.safetensors"])
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    return files["README.md"].decode()


@pytest.mark.slow
def test_the_end_of_a_run_is_published(hub, tiny_pretraining_model, tmp_path):
    trainer = train(tiny_pretraining_model, tmp_path / "run")
    accuracy = trainer.evaluate()["eval_pointing_game_accuracy"]
    trainer.save_model()
    assert hub.repositories[REPOSITORY].messages == [
        "initial commit",
        "Model save",
        "Pin the code revision in the card",
    ]
    text = check_published(hub.files(REPOSITORY), trainer.model)
    data = HubModelCard(text).data
    assert (data.license, data.eval_results[0].metric_value) == ("bsd-3-clause", accuracy)
    for words in (
        "recipe `tiny`",
        "| steps | 2 |",
        "| lr_scheduler_type | ",
        "Time, as measured: ",
        "Hardware: CPU (",
    ):
        assert words in text
    assert (tmp_path / "run" / "training_args.bin").is_file()
    trainer.save_model(str(tmp_path / "copy"))
    model = AlbefForImageTextMatching.from_pretrained(tmp_path / "copy")
    assert torch.equal(model.itm_head.weight, trainer.model.itm_head.weight)


@pytest.mark.slow
def test_every_save_is_published_and_a_failure_does_not_stop_the_run(hub, tiny_pretraining_model, tmp_path, caplog):
    commit, commits = hub.commit, []

    def fail_once(request, name, revision):
        commits.append(name)
        return ({"error": "out of order"}, {}, 501) if len(commits) == 1 else commit(request, name, revision)

    hub.routes = [(*route[:2], fail_once if route[2] == commit else route[2]) for route in hub.routes]
    trainer = train(tiny_pretraining_model, tmp_path, save_strategy="steps", save_steps=1, hub_always_push=True)
    assert trainer.state.global_step == 2
    assert "A push during the run failed" in caplog.text and "out of order" in caplog.text
    assert hub.repositories[REPOSITORY].messages[1] == "Training in progress, step 2"
    text = check_published(hub.files(REPOSITORY), trainer.model)
    assert "| steps | 2 |" in text and "has not been evaluated" in text


@pytest.mark.slow
def test_the_training_state_is_published_where_it_is_asked_for(hub, tiny_pretraining_model, tmp_path):
    train(
        tiny_pretraining_model,
        tmp_path,
        save_strategy="steps",
        save_steps=2,
        hub_strategy="checkpoint",
        hub_revision="state",
    )
    files = hub.files(REPOSITORY, "state")
    assert {"last-checkpoint/optimizer.pt", "last-checkpoint/trainer_state.json", "model.safetensors"} <= files.keys()
    assert "optimizer.pt" not in files
    assert hub.files(REPOSITORY).keys() == {".gitattributes"}


@pytest.mark.slow
def test_a_repository_of_others_is_refused_before_the_first_step(hub, tiny_pretraining_model, tmp_path, monkeypatch):
    options = dict(push_to_hub=True, hub_model_id="someone-else/tiny")
    with pytest.raises(ValueError, match="rights to create"):
        build_tiny_trainer(tiny_pretraining_model, tmp_path, **options)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="hf auth login"):
        build_tiny_trainer(tiny_pretraining_model, tmp_path, **options)


@pytest.mark.slow
def test_a_refused_push_at_the_end_names_the_remedy(hub, tiny_pretraining_model, tmp_path):
    trainer = train(tiny_pretraining_model, tmp_path)
    hub.routes = [route for route in hub.routes if route[2] != hub.commit]
    with pytest.raises(ValueError, match=r"albef-amc push"):
        trainer.push_to_hub()
    assert (tmp_path / "model.safetensors").is_file()
    with pytest.raises(TypeError, match="unknown licence: cards are made from `card_details`"):
        trainer.push_to_hub(licence="mit")
