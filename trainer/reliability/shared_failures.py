# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""A process that fails ends the others with its message, instead of leaving them waiting until they are killed."""

import itertools
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler
from transformers.utils import logging

from albef_amc.messages_albef import find_message

logger = logging.get_logger(__name__)

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_LEAVE = 10.0  # for a process that fails for the same reason, or whose wait is interrupted
CONNECTION_TIMEOUT = timedelta(seconds=30)
_block_numbers = itertools.count()  # every process enters the same blocks in the same order


@contextmanager
def failing_together() -> Iterator[None]:
    """Ends the block on all processes if one of them fails; does nothing for a single process.

    The process that fails leaves its message in the store through which the processes found each other. The others
    look there every second. If the network interrupts their wait for the failed process, they raise its message; a
    process that continues to wait logs the message and ends itself, ten seconds later, with status 1.

    Raises:
        ChildProcessError: another process failed; its number, error and message are named.
    """
    number = next(_block_numbers)
    store = _connect()
    if store is None:
        yield
        return
    # A launcher that starts the processes again keeps the store.
    key = f"albef_amc/failure/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{number}"
    has_left = threading.Event()
    watch = threading.Thread(target=_end_after_another, args=(store, key, has_left), daemon=True)
    watch.start()
    try:
        yield
    except Exception as error:
        first = _publish(store, key, error)
        is_broken_wait = isinstance(error, dist.DistError) or type(error) is RuntimeError
        if first is not None and is_broken_wait:
            raise ChildProcessError(first) from error
        raise
    finally:
        has_left.set()
        watch.join()


def _connect() -> dist.TCPStore | None:
    """An own connection to the store of the processes, where there are several and the launcher names it."""
    if not dist.is_initialized() or dist.get_world_size() == 1 or "MASTER_ADDR" not in os.environ:
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        return dist.TCPStore(address, port, timeout=CONNECTION_TIMEOUT)
    except dist.DistError as error:
        logger.warning(f"If a process fails, the others will not learn of it: no store at {address}:{port} ({error}).")
        return None


def _publish(store: dist.TCPStore, key: str, error: Exception) -> str | None:
    """Publishes an error to the others, unless one of them has failed before: then returns its message."""
    own = json.dumps([dist.get_rank(), f"{type(error).__name__}: {find_message(error)}"])
    try:
        first = store.compare_set(key, "", own).decode()
    except dist.DistError:  # the process that holds the store has ended
        return None
    if first != own:
        return _describe(first)
    time.sleep(2 * SECONDS_BETWEEN_LOOKS)  # the store may end with this process: the others look before
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        with suppress(OSError):
            get_error_handler().record_exception(error)  # what torchrun names as the cause
    return None


def _describe(failure: str) -> str:
    rank, message = json.loads(failure)
    return f"process {rank} failed, and the run ends on all processes. {message}"


def _end_after_another(store: dist.TCPStore, key: str, has_left: threading.Event) -> None:
    """Ends this process if another has failed and this one does not leave the block by itself."""
    try:
        while not store.check([key]):
            if has_left.wait(SECONDS_BETWEEN_LOOKS):
                return
        failure = store.get(key).decode()
    except dist.DistError:  # the process that holds the store has ended
        return
    if not has_left.wait(SECONDS_TO_LEAVE):
        logger.error(_describe(failure))
        os._exit(1)
