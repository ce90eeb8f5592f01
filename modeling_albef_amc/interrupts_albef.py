# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""End the command `albef-amc` without a traceback if Ctrl-C is pressed during its imports, which take seconds.

The package root calls this before slow imports. Nothing is changed outside the command, or if the process was started
with Ctrl-C ignored or handled.
"""

import os
import signal
import sys
import threading
from pathlib import Path

COMMAND, COMMAND_MODULE = "albef-amc", "albef_amc.cli.main"
INTERRUPTED = 130  # exit status after Ctrl-C


def is_command() -> bool:
    """Whether this process runs `albef-amc`, or its module with `python -m`."""
    return Path(sys.argv[0] if sys.argv else "").stem == COMMAND or COMMAND_MODULE in sys.orig_argv


def leave_at_interrupts() -> None:
    """Let Ctrl-C end this process at once, if it is the command, until [`restore_interrupts`]."""
    is_main_thread = threading.current_thread() is threading.main_thread()
    if is_command() and is_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def _leave(signal_number: int, frame: object) -> None:
    os._exit(INTERRUPTED)  # nothing to clean up yet


def restore_interrupts() -> None:
    """Let Ctrl-C raise `KeyboardInterrupt` again; the command calls this after its imports."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


__all__ = ["leave_at_interrupts", "restore_interrupts"]
