"""One run at a time in a folder, whatever became of the last one."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest
from testing_utils import build_rows, build_tiny_processor

from albef_amc.cli.main import main
from albef_amc.trainer import AmcConfig, AmcTrainer
from albef_amc.trainer.reliability.run_lock import LOCK_FILE, lock_folder

HOLDER = """
import os, sys, time
from albef_amc.trainer.reliability.run_lock import lock_folder

with lock_folder(sys.argv[1]):
    if sys.argv[2:] == ["fork"] and os.fork() == 0:
        time.sleep(600)  # a worker that outlives the run; the test ends it
        os._exit(0)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold():
    """Starts a process that holds a folder until its standard input ends."""
    started = []

    def start(folder: Path, *words: str) -> subprocess.Popen:
        command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(folder), *words]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(subprocess.Popen(command, **pipes, text=True, start_new_session=True))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        with suppress(ProcessLookupError):  # it has ended, and left nobody in its group
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
def test_a_held_folder_is_refused_with_its_owner_and_free_when_the_owner_ends(
    hold, tmp_path, tiny_pretraining_model, capsys
):
    folder = tmp_path / "run"
    owner = hold(folder)
    words = rf"run is in use by another run \(process {owner.pid} on \S+, since 20\d\d-.*\)\. Wait"
    with pytest.raises(ValueError, match=words), lock_folder(folder):
        pass
    arguments = AmcConfig(output_dir=str(folder), use_cpu=True, max_steps=1)
    trainer = AmcTrainer(tiny_pretraining_model, arguments, build_tiny_processor(), build_rows(2))
    with pytest.raises(ValueError, match=words):
        trainer.train()
    assert main(["train", "demo", "--output-dir", str(folder)]) == 2
    assert f"process {owner.pid} on" in capsys.readouterr().err.splitlines()[-1]
    assert main(["demo", "--output-dir", str(folder)]) == 2
    assert [path.name for path in folder.iterdir()] == [LOCK_FILE]
    owner.communicate("")
    assert not folder.exists()  # it was new, and is empty
    with lock_folder(folder):
        assert json.loads((folder / LOCK_FILE).read_text())["process"] == os.getpid()


def test_ctrl_c_at_any_line_of_taking_or_giving_back_leaves_no_file(tmp_path):
    def interrupt(frame, event, argument):
        nonlocal lines
        if frame.f_code.co_name in ("_take", "_read_owner", "_is_at"):
            lines += event == "line"
            if event == "line" and lines == chosen:
                signal.raise_signal(signal.SIGINT)
        return interrupt

    previous, number_of_lines, chosen = sys.gettrace(), 0, 0
    while chosen <= number_of_lines:
        lines, folder = 0, tmp_path / f"run_{chosen}"
        sys.settrace(interrupt)
        try:
            with lock_folder(folder):
                assert chosen == 0 and (folder / LOCK_FILE).is_file()
        except KeyboardInterrupt:
            assert chosen
        finally:
            sys.settrace(previous)
        assert not folder.exists()
        number_of_lines, chosen = max(number_of_lines, lines), chosen + 1
    assert number_of_lines > 10


@pytest.mark.slow
def test_a_run_that_was_killed_gives_its_folder_back_and_so_do_its_workers(hold, tmp_path, caplog):
    owner = hold(tmp_path, "fork")
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    assert (tmp_path / LOCK_FILE).is_file()
    with lock_folder(tmp_path):
        assert f"(process {owner.pid} on" in caplog.text and "it is free" in caplog.text
        assert json.loads((tmp_path / LOCK_FILE).read_text())["process"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"\xff", b"[]", b"{}", b"3", b"{" * 5000])
def test_a_lock_file_that_nobody_holds_stops_nothing(content, tmp_path, caplog):
    (tmp_path / LOCK_FILE).write_bytes(content)
    with lock_folder(tmp_path):
        assert ".lock names no owner" in caplog.text


def test_the_folder_is_given_back_after_an_error_and_taken_once_by_a_process(tmp_path):
    for _ in range(2):
        with pytest.raises(RuntimeError, match="of the run"), lock_folder(tmp_path), lock_folder(tmp_path):
            assert (tmp_path / LOCK_FILE).is_file()
            raise RuntimeError("of the run")
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "link").symlink_to(tmp_path / "new")
    with lock_folder(tmp_path / "new"):
        with lock_folder(tmp_path / "link"):  # the same folder by another name
            pass
        assert (tmp_path / "new" / LOCK_FILE).is_file()
        (tmp_path / "new" / "file").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_without_locks_of_the_file_system_there_is_a_warning(tmp_path, monkeypatch, caplog):
    """The one thing that stands in for another machine: a file system that knows no locks."""

    def refuse(*arguments):
        raise OSError(38, os.strerror(38))

    monkeypatch.setattr("albef_amc.trainer.reliability.run_lock.fcntl.lockf", refuse)
    with lock_folder(tmp_path):
        assert "file system without locks" in caplog.text


@pytest.mark.parametrize("takes_folder", [False, True], ids=["file", "folder"])
def test_an_owner_that_ends_while_another_run_begins_leaves_it_no_dead_lock(takes_folder, tmp_path, monkeypatch):
    """The owner removes the file between its opening and its locking here: a lock on it would keep nobody out."""
    folder, take, calls = tmp_path / "run", fcntl.lockf, []

    def end_and_take(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            (folder / LOCK_FILE).unlink()
            if takes_folder:
                folder.rmdir()
        take(*arguments)

    monkeypatch.setattr("albef_amc.trainer.reliability.run_lock.fcntl.lockf", end_and_take)
    with lock_folder(folder):
        assert json.loads((folder / LOCK_FILE).read_text())["process"] == os.getpid()
    assert len(calls) == 2 and not folder.exists()
