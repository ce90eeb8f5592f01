"""docs/finetune-your-boxes.md runs from its first block to its last, with fewer scenes and steps."""

import json
import re
import shlex

import pytest
from testing_utils import PROJECT_FOLDER

from albef_amc.cli.main import main

PAGE = (PROJECT_FOLDER / "docs" / "finetune-your-boxes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|bash)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
# Fewer scenes and steps than on the page.
SMALLER = {
    "num_train_scenes=300": "num_train_scenes=4, num_validation_scenes=1, num_test_scenes=1, cache_dir='cache'",
    "--set max_steps=200": "--set max_steps=1 --set use_cpu=true --set phrases_per_image=1",
    "--set eval_steps=50": "--set eval_steps=1",
    "-o mine\n": "-o mine --validation-share 0.25\n",
}


@pytest.mark.slow
def test_the_page_runs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    results = {}
    for language, block in BLOCKS:
        for written, smaller in SMALLER.items():
            block = block.replace(written, smaller)
        if language == "python":
            exec(compile(block, "docs/finetune-your-boxes.md", "exec"), {})
            continue
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            assert words[0] == "albef-amc"
            assert main([*words[1:], "--json"]) == 0, capsys.readouterr().err
            name = f"{words[1]} --dry-run" if "--dry-run" in words else words[1]
            results[name] = json.loads(capsys.readouterr().out)
            if name == "train --dry-run":
                assert not (tmp_path / "runs").exists()
    assert all(smaller in "".join(block for _, block in BLOCKS) for smaller in SMALLER)
    assert results["import"]["splits"]["validation"]["images"] == 1
    planned = results["train --dry-run"]
    assert (planned["steps"], planned["train_images"]) == (1, "3 training images")
    assert planned["model"]["checkpoint"] == "base" and planned["parameters"] > 0
    assert results["train"]["steps"] == 1 and results["evaluate"]["baselines"]["center_point"] >= 0
    assert (tmp_path / "mine.png").is_file() and any((tmp_path / "runs" / "mine" / "heatmaps").iterdir())
    assert "push --dry-run" in results
