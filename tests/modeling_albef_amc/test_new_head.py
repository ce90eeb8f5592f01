# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""A new head is one file: here one joins a copy of the package in which nothing else is edited."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from testing_utils import GOLDEN_FOLDER, PROJECT_FOLDER, build_batch, build_tiny_config, run_without_package
from tiny_originals import HEADS, VOCABULARY

from albef_amc import AlbefForPreTraining
from albef_amc.conversion.weight_files import load_original_state_dict

HEAD = '''
"""ALBEF that says whether a text is true of an image, perhaps true, or false."""

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from .base_albef import AlbefModel
from .configuration_albef import AlbefConfig
from .pretrained_albef import AlbefPreTrainedModel


class AlbefForThreeWay(AlbefPreTrainedModel):
    task = "three-way judgement"
    auto_class = AutoModelForSequenceClassification
    optional_weights = new_weights = ("judge.",)
    label_names = ("no", "perhaps", "yes")
    reported_settings = ("num_labels",)
    original_kinds = {"a three-way judge": ("judge_head.",)}
    original_names = ((r"^judge_head\\.", "judge."),)
    _keys_to_ignore_on_load_unexpected = [r"^momentum_", r"_queue", r"^mlm_head\\.", r"^itm_head\\."]

    def __init__(self, config: AlbefConfig):
        super().__init__(config)
        self.albef = AlbefModel(config)
        self.judge = nn.Linear(config.text_config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, pixel_values, input_ids, attention_mask=None, image_index=None, labels=None):
        fused = self.albef(pixel_values, input_ids, attention_mask, image_index).last_hidden_state
        logits = self.judge(fused[:, 0])
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)
'''
USE = """
    import json
    import sys

    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForSequenceClassification

    import albef_amc
    from albef_amc.conversion.convert_albef_original_to_hf import convert_checkpoint
    from albef_amc.three_way_albef import AlbefForThreeWay

    given = json.loads(sys.argv[1])
    batch = load_file("batch.safetensors")
    model = AlbefForThreeWay.from_pretrained("source")
    start = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.save_pretrained("saved")
    loaded = AutoModelForSequenceClassification.from_pretrained("saved")
    with torch.no_grad():
        save_file({"logits": loaded.eval()(**batch).logits, **{f"start.{k}": v for k, v in start.items()}}, "results")
    report = convert_checkpoint("judge.pth", "converted", vocab=given["vocab"], overrides=given["heads"])
    converted = AlbefForThreeWay.from_pretrained("converted")
    print(json.dumps({
        "package": albef_amc.__file__,
        "losses": losses,
        "labels": [model.config.id2label, converted.config.id2label],
        "loaded_class": type(loaded).__module__,
        "report": report.to_dict(),
    }))
"""


@pytest.fixture(scope="module")
def original() -> dict[str, torch.Tensor]:
    """The retrieval reference with another head: entries that the authors' code would write for such a model."""
    path = GOLDEN_FOLDER / "tiny_retrieval" / "checkpoint.pth"
    kept = {name: value for name, value in load_original_state_dict(path).items() if not name.startswith("itm_head.")}
    return kept | {"judge_head.weight": torch.randn(3, 32), "judge_head.bias": torch.randn(3)}


@pytest.fixture(scope="module")
def source() -> AlbefForPreTraining:
    torch.manual_seed(0)
    return AlbefForPreTraining(build_tiny_config())


@pytest.fixture(scope="module")
def used(tmp_path_factory, source, original) -> tuple[Path, dict, str]:
    """Folder in which the new head was used, what the process printed, and what it logged."""
    folder = tmp_path_factory.mktemp("new_head")
    package, unwanted = folder / "packages" / "albef_amc", shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT_FOLDER / "modeling_albef_amc", package, ignore=unwanted)
    for name in ("conversion", "configuration"):
        shutil.copytree(PROJECT_FOLDER / name, package / name, ignore=unwanted)
    (package / "three_way_albef.py").write_text(HEAD)
    source.save_pretrained(folder / "source")
    torch.save({"model": original}, folder / "judge.pth")
    save_file(build_batch(source.config) | {"labels": torch.tensor([0, 1, 2])}, folder / "batch.safetensors")
    given = json.dumps({"vocab": VOCABULARY, "heads": HEADS})
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(USE), given],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(package.parent), "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert Path(printed["package"]).parent == package
    return folder, printed, done.stderr


@pytest.mark.slow
def test_it_starts_from_a_pretraining_checkpoint_and_says_so_in_one_line(used, source):
    folder, printed, log = used
    (line,) = [line for line in log.splitlines() if "AlbefForThreeWay starts from source" in line]
    stored = len(load_file(folder / "source" / "model.safetensors"))
    expected = f"a checkpoint for pre-training: {stored} weights read; newly initialised: judge.bias, judge.weight."
    assert line.endswith(expected)
    start = load_file(folder / "results")
    assert all(torch.equal(start[f"start.albef.{name}"], value) for name, value in source.albef.state_dict().items())
    assert printed["labels"][0] == {"0": "no", "1": "perhaps", "2": "yes"}


@pytest.mark.slow
def test_it_trains(used):
    _, printed, _ = used
    assert printed["losses"][-1] < 0.2 * printed["losses"][0]


@pytest.mark.slow
def test_its_checkpoint_names_its_auto_class_and_ships_its_code(used):
    folder, printed, _ = used
    config = json.loads((folder / "saved" / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_albef.AlbefConfig",
        "AutoModelForSequenceClassification": "three_way_albef.AlbefForThreeWay",
    }
    assert config["architectures"] == ["AlbefForThreeWay"]
    assert (folder / "saved" / "three_way_albef.py").read_text() == HEAD
    assert printed["loaded_class"] == "albef_amc.three_way_albef"


LOAD = """
    import sys
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForSequenceClassification

    model, info = AutoModelForSequenceClassification.from_pretrained(
        "saved", trust_remote_code=True, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    save_file({"logits": model(**load_file("batch.safetensors")).logits.detach()}, "remote.safetensors")
    model.save_pretrained("saved_by_remote_code")
"""


@pytest.mark.slow
def test_its_checkpoint_loads_without_the_package(used):
    folder, _, _ = used
    run_without_package(LOAD, cwd=folder)
    found, expected = (load_file(folder / name)["logits"] for name in ("remote.safetensors", "results"))
    assert torch.equal(found, expected)
    names = {path.name for path in (folder / "saved").iterdir()}
    assert {path.name for path in (folder / "saved_by_remote_code").iterdir()} == names
    first, second = (
        json.loads((folder / name / "config.json").read_text()) for name in ("saved", "saved_by_remote_code")
    )
    assert first["auto_map"] == second["auto_map"]


@pytest.mark.slow
def test_its_original_checkpoint_is_converted(used, original):
    folder, printed, _ = used
    report = printed["report"]
    assert (report["kind"], report["model_class"]) == ("a three-way judge", "AlbefForThreeWay")
    assert not report["missing"] and not report["unexpected"] and report["dimensions"]["num_labels"] == 3
    weights = load_file(folder / "converted" / "model.safetensors")
    assert torch.equal(weights["judge.weight"], original["judge_head.weight"])
    assert torch.equal(weights["albef.temperature"], original["temp"][None])
    assert printed["labels"][1] == {"0": "no", "1": "perhaps", "2": "yes"}
