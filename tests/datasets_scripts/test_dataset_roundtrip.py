# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Built, pushed to a local Hub, loaded and streamed by a process without this package, and evaluated."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from hub_server import OWNER
from testing_utils import run_without_package

from albef_amc.cli.main import main

REPOSITORY = f"{OWNER}/scenes"
SCENES = ["num_train_scenes=40", "num_validation_scenes=2", "num_test_scenes=6"]

LOAD = """
    import hashlib, json, sys
    from datasets import load_dataset

    def describe(rows):
        names = ("image_id", "phrases", "true_phrases", "false_phrases")
        return [[hashlib.sha256(row["image"].tobytes()).hexdigest(), *map(row.get, names)] for row in rows]

    repository, folder = sys.argv[1:]
    loaded = {split: describe(rows) for split, rows in load_dataset(repository).items()}
    assert {split: describe(rows) for split, rows in load_dataset(repository, streaming=True).items()} == loaded
    assert {split: describe(rows) for split, rows in load_dataset(folder).items()} == loaded
    print(json.dumps(loaded))
"""


@pytest.mark.slow
def test_built_pushed_loaded_streamed_and_evaluated(hub, checkpoint, tmp_path, capsys):
    words = [word for option in SCENES for word in ("--data", option)]
    words += ["--output-dir", str(tmp_path / "built"), "--shard-size", "100KB", "--push-to-hub", REPOSITORY, "--json"]
    assert main(["build-dataset", "synthetic", *words]) == 0
    built = json.loads(capsys.readouterr().out)
    assert hub.repositories[f"datasets/{REPOSITORY}"].messages == ["initial commit", "Upload data set"]
    assert built["num_shards"] > 3

    hub.requests.clear()
    environment = hub.environment(tmp_path / "home")
    printed = run_without_package(LOAD, REPOSITORY, str(tmp_path / "built"), cwd=tmp_path, environment=environment)
    assert any(request.endswith("/data/train-00000.parquet") for request in hub.requests)
    loaded = json.loads(printed.splitlines()[-1])
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 40, "validation": 2, "test": 6}
    report = json.loads((tmp_path / "built" / "report.json").read_text())
    for split, expected in report["statistics"].items():
        if split != "all":
            texts = {"phrases": 2, "true_phrases": 3, "false_phrases": 4}
            found = {f"num_{name}": sum(len(row[place]) for row in loaded[split]) for name, place in texts.items()}
            assert found == {name: expected[name] for name in found} and min(found.values()) > 0

    command = [sys.executable, "-m", "albef_amc.cli.main", "evaluate", str(checkpoint), REPOSITORY, "--json"]
    environment = os.environ | hub.environment(tmp_path / "evaluation")
    done = subprocess.run([*command, "--device", "cpu"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["num_phrases"] == built["splits"]["test"]["num_phrases"]
    assert result["dataset_commit"] == hub.repositories[f"datasets/{REPOSITORY}"].branches["main"]


def push(folder, *words) -> int:
    options = ("--data", "num_train_scenes=2", "--data", "num_validation_scenes=2", *words)
    return main(["build-dataset", "synthetic", *options, "--output-dir", str(folder), "--push-to-hub", REPOSITORY])


@pytest.mark.slow
def test_a_second_push_replaces_the_shards_of_the_first(hub, tmp_path):
    small = ("--data", "num_test_scenes=40")
    assert push(tmp_path / "many", *small, "--shard-size", "100KB") == 0
    files = hub.files(f"datasets/{REPOSITORY}")
    assert "data/test-00001.parquet" in files
    assert push(tmp_path / "one", *small) == 0
    files = hub.files(f"datasets/{REPOSITORY}")
    expected = [f"data/{split}-00000.parquet" for split in ("test", "train", "validation")]
    assert sorted(name for name in files if name.endswith(".parquet")) == expected
    text = files["README.md"].decode()
    assert f'load_dataset("{REPOSITORY}", split="train")' in text
    assert [config["config_name"] for config in yaml.safe_load(text.split("---\n")[1])["configs"]] == ["default"]
    assert {"manifest.json", "report.json"} <= files.keys()


@pytest.mark.slow
def test_a_refusal_comes_before_the_work(hub, tmp_path, capsys, monkeypatch):
    words = ["build-dataset", "synthetic", "--output-dir", str(tmp_path / "built")]
    assert main([*words, "--push-to-hub", "someone-else/data"]) == 2
    assert "rights to create" in capsys.readouterr().err.splitlines()[-1]
    assert main([*words, "--push-to-hub", "no-owner"]) == 2
    assert "your-name/data" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.delenv("HF_TOKEN")
    assert main([*words, "--push-to-hub", REPOSITORY]) == 2
    assert "hf auth login" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "built").exists()


@pytest.mark.slow
def test_a_private_data_set(hub, tmp_path, capsys):
    assert push(tmp_path / "private", "--data", "num_test_scenes=2", "--private") == 0
    assert hub.repositories[f"datasets/{REPOSITORY}"].private
    hub.repositories[f"datasets/{REPOSITORY}"].private = False
    assert push(tmp_path / "again", "--data", "num_test_scenes=2", "--private") == 2
    assert "public" in capsys.readouterr().err.splitlines()[-1]
