# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""The command line around the verbs: exit status, what is printed where, lazy imports."""

import errno
import subprocess
import sys
import types

import pytest
import typer
from testing_utils import PATIENCE

from albef_amc.cli import main as cli_main
from albef_amc.cli.main import VERBS, main


def install_verb(monkeypatch, function) -> None:
    """Makes `function` the verb `probe` for the length of a test."""
    module = types.ModuleType("albef_amc.cli.probe")
    module.probe = function
    monkeypatch.setitem(sys.modules, "albef_amc.cli.probe", module)
    monkeypatch.setitem(cli_main.VERBS, "probe", "A verb of this test.")


def install_failing_verb(monkeypatch, error: BaseException) -> None:
    def probe():
        raise error

    install_verb(monkeypatch, probe)


@pytest.mark.slow
def test_help_names_every_verb_and_imports_none():
    program = (
        "import sys\nfrom albef_amc.cli.main import main\nstatus = main(['--help'])\n"
        "assert not any(name.startswith('albef_amc.cli.') and name.split('.')[-1] in "
        f"{sorted(VERBS)!r} for name in sys.modules), 'a verb was imported'\nsys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert verb in done.stdout


@pytest.mark.slow
def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "albef_amc.cli.main", "--version"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout.split()[0]) == (0, "albef-amc")


@pytest.mark.parametrize("words", [["env", "--no-such-option"], ["no-such-verb"]])
def test_a_wrong_word_is_bad_input(words, capsys):
    assert main(words) == 2
    streams = capsys.readouterr()
    assert words[-1] in streams.err
    assert streams.out == ""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("`phrase` is empty:\n  say what to look for."), 2),
        (TypeError("`images` must be photographs, got int."), 2),
        (FileNotFoundError(errno.ENOENT, "No such file", "photo.jpg"), 2),
        (OSError("no-such-model is not a local folder"), 2),
        (OSError(errno.ENOSPC, "No space left on device", "model.safetensors"), 1),
        (ModuleNotFoundError("No module named 'datasets'"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_foreseen_errors_are_one_line_and_a_status(error, status, monkeypatch, capsys):
    install_failing_verb(monkeypatch, error)
    assert main(["probe"]) == status
    streams = capsys.readouterr()
    assert streams.out == ""
    assert len(streams.err.splitlines()) == (0 if status == 130 else 1)
    assert "Traceback" not in streams.err


def test_the_line_of_an_error_keeps_its_words(monkeypatch, capsys):
    install_failing_verb(monkeypatch, FileNotFoundError(errno.ENOENT, "No such file or directory", "photo.jpg"))
    main(["probe"])
    assert "No such file or directory: 'photo.jpg'" in capsys.readouterr().err


def test_a_wrong_field_of_a_configuration_is_bad_input(monkeypatch, capsys):
    from albef_amc.configuration_albef import AlbefVisionConfig

    install_verb(monkeypatch, lambda: AlbefVisionConfig(hidden_size="wide"))
    assert main(["probe"]) == 2
    assert "hidden_size" in capsys.readouterr().err


def test_an_error_nobody_foresaw_shows_its_traceback(monkeypatch, capsys):
    install_failing_verb(monkeypatch, RuntimeError("shapes do not match"))
    assert main(["probe"]) == 1
    streams = capsys.readouterr()
    assert "Traceback" in streams.err
    assert streams.err.splitlines()[-1] == "albef-amc: error: RuntimeError: shapes do not match"


def test_debug_shows_the_traceback_of_bad_input_too(monkeypatch, capsys):
    install_failing_verb(monkeypatch, ValueError("`margin` must be positive"))
    assert main(["--debug", "probe"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_verb_chooses_its_status(monkeypatch):
    install_failing_verb(monkeypatch, typer.Exit(1))
    assert main(["probe"]) == 1


def test_the_log_of_the_package_goes_to_stderr(monkeypatch, capsys):
    import logging

    install_verb(monkeypatch, lambda: logging.getLogger("albef_amc.trainer").info("3 phrases without a region"))
    assert main(["probe"]) == 0
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.count("3 phrases without a region") == 1
