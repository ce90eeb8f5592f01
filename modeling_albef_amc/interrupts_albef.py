# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Ctrl-C while the command `albef-amc` is being imported, which takes seconds: the process ends without a traceback.

The package root calls this before it imports libraries that take long. Elsewhere than in the command, and where the
process was started with Ctrl-C ignored or handled, nothing is changed.
"""

import os
import signal
import sys
import threading
from pathlib import Path

COMMAND, COMMAND_MODULE = "albef-amc", "albef_amc.cli.main"
INTERRUPTED = 130  # exit status of a process that Ctrl-C ended


def is_command() -> bool:
    """Whether this process runs `albef-amc`, or its module with `python -m`."""
    return Path(sys.argv[0] if sys.argv else "").stem == COMMAND or COMMAND_MODULE in sys.orig_argv


def leave_at_interrupts() -> None:
    """From here on Ctrl-C ends this process at once, if it is the command; [`restore_interrupts`] takes that back."""
    is_main_thread = threading.current_thread() is threading.main_thread()
    if is_command() and is_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def _leave(signal_number: int, frame: object) -> None:
    os._exit(INTERRUPTED)  # nothing has been begun that would have to be cleaned up


def restore_interrupts() -> None:
    """From here on Ctrl-C is `KeyboardInterrupt` again; the command calls this when its imports are done."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


__all__ = ["leave_at_interrupts", "restore_interrupts"]
