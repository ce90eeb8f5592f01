"""A process that fails ends the others within a minute, with its message."""

from contextlib import suppress

import pytest
import torch.distributed as dist
from testing_utils import launch_two_processes

from albef_amc.trainer.reliability import shared_failures
from albef_amc.trainer.reliability.shared_failures import failing_together

FAILED = "process {rank} failed, and the run ends on all processes. {message}"


@pytest.mark.slow
@pytest.mark.timeout(300)  # without the guard: as long as a process waits
def test_a_broken_row_on_one_process_ends_both_with_its_message(tmp_path):
    stderr = launch_two_processes("failing_runs.py", str(tmp_path), "broken_row", returncode=1)
    errors = [(tmp_path / f"error-{rank}.txt").read_text() for rank in (0, 1)]
    (own,) = [error for error in errors if error.startswith("FileNotFoundError")]
    (other,) = [error for error in errors if error.startswith("ChildProcessError")]
    assert "photo_5.jpg" in own
    assert other == "ChildProcessError: " + FAILED.format(rank=errors.index(own), message=own)
    assert "photo_5.jpg" in stderr.partition("Root Cause")[2], "torchrun names it as well"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_process_that_waits_without_end_is_ended_with_the_message(tmp_path):
    stderr = launch_two_processes("failing_runs.py", str(tmp_path), "endless_wait", returncode=1)
    assert (tmp_path / "error-1.txt").read_text() == "ValueError: row 5 cannot be read"
    assert not (tmp_path / "error-0.txt").exists(), "the wait was not broken off"
    assert FAILED.format(rank=1, message="ValueError: row 5 cannot be read") in stderr


class TwoProcesses:
    """What the first of two processes knows, with a store in this process."""

    def __init__(self, monkeypatch):
        self.store = dist.HashStore()
        monkeypatch.setattr(shared_failures, "_connect", lambda: self.store)
        monkeypatch.setattr(shared_failures.dist, "get_rank", lambda: 0)
        monkeypatch.setattr(shared_failures, "SECONDS_BETWEEN_LOOKS", 0.01)

    def list_failures(self) -> list[str]:
        return self.store.list_keys()


def fail_after_another(monkeypatch, error: Exception) -> None:
    processes = TwoProcesses(monkeypatch)
    monkeypatch.setattr(shared_failures, "SECONDS_TO_LEAVE", 60.0)
    monkeypatch.setattr(shared_failures, "_block_numbers", iter([7]))
    with failing_together():
        processes.store.set("albef_amc/failure/0/7", '[3, "ValueError: row 9"]')
        raise error


def test_a_wait_that_is_broken_off_raises_the_message_of_the_cause(monkeypatch):
    for error in (RuntimeError("Connection closed by peer"), dist.DistNetworkError("connection reset")):
        with pytest.raises(ChildProcessError, match="process 3 failed.*ValueError: row 9") as caught:
            fail_after_another(monkeypatch, error)
        assert caught.value.__cause__ is error


def test_an_error_of_its_own_stays_the_error(monkeypatch):
    with pytest.raises(FloatingPointError, match="not finite"):
        fail_after_another(monkeypatch, FloatingPointError("the loss is not finite"))


def test_every_block_has_a_failure_of_its_own(monkeypatch):
    """A run may follow one that failed, in the same processes."""
    processes = TwoProcesses(monkeypatch)
    for _ in range(2):
        with suppress(ValueError), failing_together():
            raise ValueError("a row")
    with failing_together():
        pass
    assert len(set(processes.list_failures())) == 2


def test_a_single_process_needs_no_guard():
    with pytest.raises(ValueError, match="a row"), failing_together():
        raise ValueError("a row")
