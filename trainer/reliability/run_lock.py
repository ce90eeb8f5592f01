# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""One run at a time in a folder: a lock that the operating system releases when its owner ends, however it ends."""

import errno
import json
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from transformers.utils import logging

from albef_amc.trainer.processes import do_on_main_process

try:
    import fcntl
except ImportError:  # Windows has no such locks: two runs in one folder go unnoticed there
    fcntl = None  # type: ignore[assignment]

logger = logging.get_logger(__name__)

LOCK_FILE = ".lock"
HELD_ERRNOS = (errno.EAGAIN, errno.EACCES)
MAX_OWNER_BYTES = 4096
_held: set[Path] = set()  # folders that this process holds: a run takes its folder, and its Trainer takes it again


@contextmanager
def lock_folder(folder: str | Path) -> Iterator[None]:
    """Keeps other runs out of a folder while the block runs; does nothing inside another such block of this process.

    The lock is a record lock (`fcntl.lockf`) on the file `.lock`, in which its owner writes host, process and start.
    The operating system releases it when the process ends, also after SIGKILL and a restart of the machine, so that no
    lock outlives its owner. Worker processes do not inherit it. It holds between machines where the file system
    has locks (NFS 4, Lustre mounted with `flock`); where it has none there is a warning and no lock. When the block
    ends the file is removed, and a new folder with it if nothing else is in it.

    Args:
        folder (`str` or `Path`): folder of a run; made where it is missing.

    Raises:
        ValueError: another process holds the folder; it is named.
    """
    folder = Path(folder).resolve()
    if fcntl is None or folder in _held:
        yield
        return
    is_new = not folder.is_dir()
    try:
        with _delay_interrupts():
            descriptor = _take(folder / LOCK_FILE)
            _held.add(folder)
        yield
    finally:
        with _delay_interrupts():
            if folder in _held:
                _held.discard(folder)
                (folder / LOCK_FILE).unlink(missing_ok=True)
                os.close(descriptor)
            if is_new:
                with suppress(OSError):  # there are files in it
                    folder.rmdir()


@contextmanager
def _delay_interrupts() -> Iterator[None]:
    """Delay Ctrl-C to the end of the block, so that no file of a half-taken lock remains."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came = threading.Event()
    signal.signal(signal.SIGINT, lambda number, frame: came.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came.is_set():
            signal.raise_signal(signal.SIGINT)


@contextmanager
def lock_run_folder(folder: str | Path) -> Iterator[None]:
    """As [`lock_folder`], for a run of several processes: the first one takes the lock, all raise its error."""
    with ExitStack() as stack:
        do_on_main_process(lambda: stack.enter_context(lock_folder(folder)))
        yield


def _take(path: Path) -> int:
    """Descriptor of the locked file, with the name of this process in it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # another run removed the new folder between the two lines
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD_ERRNOS:
                owner = _read_owner(descriptor)
                os.close(descriptor)
                raise ValueError(
                    f"{path.parent} is in use by another run ({owner}). Wait until it ends, stop it, or choose "
                    "another folder."
                ) from error
            logger.warning(
                f"{path.parent} is on a file system without locks ({error}): make sure that no other run uses it."
            )
        if _is_at(path, descriptor):
            break
        os.close(descriptor)  # its owner removed the file between opening and locking
    owner = _read_owner(descriptor)
    if owner is not None:
        logger.warning(f"the last run in {path.parent} ({owner}) ended without releasing the folder; it is free.")
    name = {"host": platform.node(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(name).encode(), 0)
    return descriptor


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _read_owner(descriptor: int) -> str | None:
    """Who wrote the file, in words; `None` if nobody has."""
    content = os.pread(descriptor, MAX_OWNER_BYTES, 0)
    if not content:
        return None
    try:
        name = json.loads(content)
        return f"process {name['process']} on {name['host']}, since {name['since']}"
    except (ValueError, TypeError, KeyError):
        return f"{LOCK_FILE} names no owner"
