"""`albef-amc push`: what is uploaded, what its card says, and what is refused; against a local server."""

import json

import pytest
import torch
from hub_server import OWNER
from huggingface_hub import ModelCard as HubModelCard
from safetensors.torch import load

from albef_amc import AlbefForPreTraining
from albef_amc.cli.main import main
from albef_amc.evaluation.checkpoints import hash_checkpoint
from albef_amc.model_cards import ModelCard, write_model_card
from albef_amc.publishing.checkpoint_publishing import prepare_publication

REPOSITORY = f"{OWNER}/tiny"
CODE = {"modeling_albef.py", "pipeline_albef.py", "processing_albef.py", "configuration_albef.py"}
FILES = {"README.md", "config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "metrics.json"}


@pytest.fixture
def carded(tmp_path, tiny_pretraining_model, tiny_processor):
    """A training checkpoint with metrics and card, as the Trainer leaves it."""
    folder = tmp_path / "run" / "checkpoint-2"
    tiny_pretraining_model.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    (folder / "optimizer.pt").write_bytes(b"state of the training")
    result = {"pointing_game_accuracy": 0.625, "num_phrases": 8, "weights_sha256": hash_checkpoint(folder)}
    (folder / "metrics.json").write_text(json.dumps({"eval": result}))
    card = ModelCard(
        model_name="checkpoint-2",
        description="A small model.",
        metrics_file=folder / "metrics.json",
        evaluation_dataset="synthetic",
        evaluation_split="test",
        evaluation_command="albef-amc evaluate CHECKPOINT synthetic --split test",
    )
    write_model_card(folder, card)
    return folder


def push(capsys, *words, status: int = 0) -> dict:
    """Runs the command; returns its JSON result, or its last line of error."""
    capsys.readouterr()
    assert main(["push", *map(str, words), "--json"]) == status
    streams = capsys.readouterr()
    if status:
        assert "Traceback" not in streams.err
        assert streams.out == ""
        return streams.err.splitlines()[-1]
    return json.loads(streams.out)


def test_a_dry_run_shows_files_and_card_and_needs_nobody(carded, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    result = push(capsys, carded, REPOSITORY, "--dry-run")
    assert FILES | CODE <= result["bytes"].keys()
    assert not {"optimizer.pt", "model_card.json"} & result["bytes"].keys()
    assert f'from_pretrained("{REPOSITORY}", trust_remote_code=True)' in result["card"]
    assert "# tiny\n" in result["card"]
    assert main(["push", str(carded), REPOSITORY, "--dry-run"]) == 0
    assert "# tiny\n" in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_uploaded_is_the_matching_model_with_its_card(carded, hub, capsys):
    result = push(capsys, carded, REPOSITORY, "--message", "First version")
    files = hub.files(REPOSITORY)
    assert FILES | CODE <= files.keys()
    assert not {"optimizer.pt", "model_card.json"} & files.keys()
    model = AlbefForPreTraining.from_pretrained(carded)
    expected = model.export_matching_model().state_dict()
    weights = load(files["model.safetensors"])
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())

    card = HubModelCard(files["README.md"].decode())
    assert (card.data.model_name, card.data.eval_results[0].metric_value) == ("tiny", 0.625)
    assert f"albef-amc evaluate {REPOSITORY} synthetic --split test" in card.text
    assert json.loads(files["metrics.json"]) == json.loads((carded / "metrics.json").read_text())
    assert result["url"] == f"{hub.url}/{REPOSITORY}"

    pinned = f'from_pretrained("{REPOSITORY}", trust_remote_code=True, code_revision="{result["commit"]}")'
    assert card.text.count(pinned) == 2
    assert CODE <= hub.files(REPOSITORY, result["code_revision"]).keys()
    assert hub.repositories[REPOSITORY].messages[1] == "First version"
    assert len(hub.repositories[REPOSITORY].messages) == 3


@pytest.mark.slow
def test_a_branch_with_half_the_bytes(carded, hub, capsys):
    push(capsys, carded, REPOSITORY, "--revision", "half", "--dtype", "bfloat16")
    files = hub.files(REPOSITORY, "half")
    assert {tensor.dtype for tensor in load(files["model.safetensors"]).values()} == {torch.bfloat16}
    assert json.loads(files["config.json"])["dtype"] == "bfloat16"
    text = files["README.md"].decode()
    assert f'from_pretrained("{REPOSITORY}", revision="half", trust_remote_code=True, code_revision=' in text
    assert "converted from float32 to bfloat16 for this repository; the results below are those before" in text
    assert hub.files(REPOSITORY).keys() == {".gitattributes"}


@pytest.mark.slow
def test_pushing_again_replaces_the_earlier_files(carded, hub, capsys):
    push(capsys, carded, REPOSITORY)
    files = {**hub.files(REPOSITORY), "model-00001-of-00002.safetensors": b"", "old_albef.py": b"", "kept.txt": b""}
    hub.repositories[REPOSITORY].commit("main", files, "as an older version left it")
    first, second = push(capsys, carded, REPOSITORY), hub.files(REPOSITORY)
    assert "kept.txt" in second
    assert not {"model-00001-of-00002.safetensors", "old_albef.py"} & second.keys()
    assert first["commit"] in second["README.md"].decode()


@pytest.mark.slow
def test_a_private_repository_is_made_private_and_a_public_one_is_unchanged(carded, hub, capsys):
    push(capsys, carded, REPOSITORY, "--private")
    assert hub.repositories[REPOSITORY].private
    hub.repositories[REPOSITORY].private = False
    before = len(hub.repositories[REPOSITORY].commits)
    assert "exists and is public" in push(capsys, carded, REPOSITORY, "--private", status=2)
    assert len(hub.repositories[REPOSITORY].commits) == before


@pytest.mark.slow
def test_metrics_of_a_later_evaluation_take_the_place_of_the_runs(carded, hub, tmp_path, capsys):
    scores = {
        "checkpoint": str(carded),
        "dataset": "refcoco",
        "split": "testA",
        "weights_sha256": hash_checkpoint(carded),
        "pointing_game_accuracy": 0.75,
        "num_phrases": 4,
        "command": "albef-amc evaluate CHECKPOINT refcoco --split testA",
        "phrases": [{"phrase": "a secret"}],
    }
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    push(capsys, carded, REPOSITORY, "--metrics-file", tmp_path / "scores.json")
    files = hub.files(REPOSITORY)
    text = files["README.md"].decode()
    assert "| testA | 75.00 | 4 |" in text and "Data: refcoco." in text and "62.50" not in text
    assert f"albef-amc evaluate {REPOSITORY} refcoco --split testA" in text
    assert json.loads(files["metrics.json"])["testA"].keys() == scores.keys() - {"checkpoint", "phrases"}
    (tmp_path / "scores.json").write_text(json.dumps({"pointing_game_accuracy": 0.75, "num_phrases": 4}))
    words = [carded, REPOSITORY, "--metrics-file", tmp_path / "scores.json"]
    assert "names no `dataset`" in push(capsys, *words, status=2)


def test_a_checkpoint_without_metrics_says_so(checkpoint, capsys):
    result = push(capsys, checkpoint, REPOSITORY, "--dry-run", "--source", "amc")
    assert "This checkpoint has not been evaluated." in result["card"]
    assert "license: mit" in result["card"] and "RefCOCO+" in result["card"]
    assert "Started from a checkpoint of AMC, whose training is not recorded here" in result["card"]
    assert "metrics.json" not in result["bytes"]


@pytest.mark.slow
def test_a_card_edited_by_hand_is_uploaded_as_it_is(carded, hub, capsys):
    text = (carded / "README.md").read_text() + "\nBy hand.\n"
    (carded / "README.md").write_text(text)
    result = push(capsys, carded, REPOSITORY)
    assert hub.files(REPOSITORY)["README.md"].decode() == text
    assert result["code_revision"] is None
    (carded / "README.md").write_text("No front matter.")
    assert "no front matter" in push(capsys, carded, REPOSITORY, status=2)


@pytest.mark.slow
def test_nothing_is_uploaded_when_something_is_missing(carded, hub, capsys, monkeypatch):
    monkeypatch.setattr("albef_amc.AlbefProcessor.save_pretrained", lambda self, folder, **options: None)
    error = push(capsys, carded, REPOSITORY, status=2)
    assert "nothing was uploaded" in error and "processor_config.json" in error
    assert hub.requests == []


@pytest.mark.slow
def test_without_a_token(carded, hub, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert "hf auth login" in push(capsys, carded, REPOSITORY, status=2)
    assert hub.requests == []


@pytest.mark.slow
def test_refusals_of_the_hub(carded, hub, capsys, monkeypatch):
    assert "rights to create" in push(capsys, carded, "someone-else/tiny", status=2)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "does not accept the token" in push(capsys, carded, REPOSITORY, status=2)
    assert hub.repositories == {}


@pytest.mark.slow
def test_a_hub_that_fails_or_is_not_there(carded, hub, capsys, monkeypatch):
    hub.routes.insert(0, ("POST", "/api/repos/create", lambda request: ({"error": "maintenance"}, {}, 501)))
    assert "ConnectionError" in push(capsys, carded, REPOSITORY, status=1)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "cannot reach http://127.0.0.1:9" in push(capsys, carded, REPOSITORY, status=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", REPOSITORY], "No checkpoint folder at nowhere"),
        (["CHECKPOINT", "tiny"], "named your-name/model, got 'tiny'"),
        (["CHECKPOINT", "your-name/a model"], "Repo id must"),
        (["CHECKPOINT", REPOSITORY, "--dtype", "int8"], "`--dtype` must be one of 'float32', 'bfloat16', 'float16'"),
        (["CHECKPOINT", REPOSITORY, "--source", "amc"], "says whose weights these are"),
        (["CHECKPOINT", REPOSITORY, "--metrics-file", "nowhere.json"], "nowhere.json"),
    ],
)
def test_bad_input_is_one_line(words, message, carded, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [carded if word == "CHECKPOINT" else word for word in words]
    assert message in push(capsys, *words, "--dry-run", status=2)


def test_folders_that_cannot_be_pushed(checkpoint, tmp_path):
    def prepare(folder):
        prepare_publication(folder, tmp_path / "publication", REPOSITORY)

    with pytest.raises(ValueError, match=r"has no card \(`README.md`\).*`--source`: albef, amc, albef-amc"):
        prepare(checkpoint)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match=r"No `config.json`.*not a checkpoint folder"):
        prepare(empty)
    write_model_card(checkpoint, ModelCard(model_name="x", description="x"))
    (checkpoint / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="damaged or was cut off"):
        prepare(checkpoint)
    assert not (tmp_path / "publication").exists()
