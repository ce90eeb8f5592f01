# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What every verb shares: places that cannot hold its output, `-h`, and Ctrl-C while it is being imported."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from testing_utils import PATIENCE

from albef_amc.cli.main import VERBS, main
from albef_amc.interrupts_albef import leave_at_interrupts

OUTPUTS = {
    "demo": ["demo", "--output-dir"],
    "train": ["train", "demo", "--output-dir"],
    "train, short": ["train", "demo", "-o"],
    "evaluate": ["evaluate", "missing", "synthetic", "--output"],
    "ground": ["ground", "missing.jpg", "--phrase", "a dog", "--output-dir"],
    "convert": ["convert", "missing.pth", "--vocab", "vocab.txt", "--output-dir"],
    "convert, earlier": ["convert", "missing.pth", "--vocab", "vocab.txt"],
    "merge": ["merge", "missing", "--output-dir"],
    "build-dataset": ["build-dataset", "synthetic", "--output-dir"],
    "inspect-dataset": ["inspect-dataset", "synthetic", "--output"],
}


@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize("verb", OUTPUTS)
def test_a_file_in_the_place_of_the_output_folder(verb, below, tmp_path, capsys):
    file = tmp_path / "notes.txt"
    file.write_text("kept")
    is_file_option = OUTPUTS[verb][-1] == "--output"
    place = file / "out.json" if is_file_option else file / "deeper" / "out" if below else file
    assert main([*OUTPUTS[verb], str(place)]) == 2
    streams = capsys.readouterr()
    (line,) = [line for line in streams.err.splitlines() if line.startswith("albef-amc: error: ")]
    assert str(file) in line and "is a file" in line and "folder" in line
    assert "Traceback" not in streams.err and streams.out == ""
    assert file.read_text() == "kept" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("verb", ["evaluate", "inspect-dataset"])
def test_a_folder_in_the_place_of_the_output_file(verb, tmp_path, capsys):
    assert main([*OUTPUTS[verb], str(tmp_path)]) == 2
    assert f"`--output {tmp_path}` is a folder" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("place", ["x" * 300, "x/" * 3000, "x/" * 1500])
@pytest.mark.parametrize("verb", OUTPUTS)
def test_a_name_that_is_too_long(verb, place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*OUTPUTS[verb], place]) == 2
    streams = capsys.readouterr()
    assert "too long" in streams.err.splitlines()[-1]
    assert "Traceback" not in streams.err and not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_the_folder_of_a_recipe(tmp_path, capsys):
    (tmp_path / "notes.txt").touch()
    assert main(["train", "demo", "--set", f"output_dir={tmp_path / 'notes.txt'}"]) == 2
    assert "`output_dir` of the recipe" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_has_a_short_form(verb, capsys):
    outputs = []
    for option in ("-h", "--help"):
        assert main([*([verb] if verb else []), option]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert "-h, --help" in outputs[0]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "imported"), [("command", "torch._C"), ("module", "transformers.utils.logging")])
def test_an_interruption_of_the_imports_is_quiet(form, imported, tmp_path):
    program = str(Path(sys.executable).with_name("albef-amc"))
    words = [program] if form == "command" else ["-m", "albef_amc.cli.main"]
    reading, writing = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)  # the command is at most some fifty modules ahead of this test
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", *words, "ground", "photo.jpg", "--phrase", "a dog"],
        stdout=subprocess.DEVNULL,
        stderr=writing,
        cwd=tmp_path,
    )
    os.close(writing)
    lines, found = [], False
    with open(reading, "rb", buffering=1024) as errors:
        while line := errors.readline():  # Python writes a line for each module that it has imported
            if not line.startswith(b"import time:"):
                lines.append(line)
            elif line.split(b"|")[-1].strip().decode() == imported:
                process.send_signal(signal.SIGINT)
                found = True
    assert process.wait(timeout=PATIENCE) == 130 and found
    assert lines == []


def test_interrupts_change_in_the_command_alone_and_until_it_starts(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    assert before is signal.default_int_handler
    leave_at_interrupts()
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.setattr("sys.argv", ["bin/albef-amc", "env"])
    try:
        leave_at_interrupts()
        assert signal.getsignal(signal.SIGINT) is not before
        assert main(["--version"]) == 0
        assert signal.getsignal(signal.SIGINT) is before
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
        leave_at_interrupts()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
