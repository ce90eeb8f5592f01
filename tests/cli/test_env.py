# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The verb `env`: versions, devices and attention back-ends."""

import json

from albef_amc.cli.main import main


def test_env_prints_versions_devices_and_backends_as_json(capsys):
    assert main(["env", "--json"]) == 0
    environment = json.loads(capsys.readouterr().out)
    assert environment["python"].startswith("3.")
    assert environment["packages"]["albef-amc"] != "not installed"
    assert set(environment["attention"]["sdpa_kernels"]) <= {"flash", "memory_efficient", "cudnn", "math"}
    assert environment["cpu"]["torch_threads"] >= 1
    assert "cuda" in environment["devices"]


def test_env_as_text_has_one_line_per_value(capsys):
    assert main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[0] == "packages.torch" for line in lines)


def test_env_says_which_package_is_not_installed(monkeypatch, capsys):
    monkeypatch.setattr("albef_amc.cli.env.PACKAGES", ("no-such-package-of-ours",))
    assert main(["env", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["packages"] == {"no-such-package-of-ours": "not installed"}
