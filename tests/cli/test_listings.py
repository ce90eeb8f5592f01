"""`recipes`, `builders` and `models` list every name once, each with one line; `train --dry-run` writes nothing."""

import json

import pytest

from albef_amc.cli.main import main
from albef_amc.configuration.shipped_files import list_shipped
from albef_amc.datasets_scripts import BUILDERS
from albef_amc.grounders.families import FAMILIES

NAMES = {
    "recipes": list_shipped("training"),
    "builders": list(BUILDERS),
    "models": ["base", *(family.model_type for family in FAMILIES)],
}


@pytest.mark.parametrize("verb", NAMES)
def test_every_name_has_a_line(verb, capsys):
    assert main([verb, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert list(listed) == list(dict.fromkeys(NAMES[verb]))
    for name, line in listed.items():
        assert 20 < len(line) < 200 and "\n" not in line and line.endswith("."), f"{name}: {line}"
    assert main([verb]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(listed)


def test_a_dry_run_names_what_is_missing_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", "own_boxes", "--dry-run", "--set", "model.checkpoint=base", "--set", "use_cpu=true"]
    assert main([*words, "--set", "train_data.data_root=nowhere"]) == 2
    assert "No folder nowhere" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
