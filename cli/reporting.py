# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Output of commands: results on standard output, everything else on standard error."""

import json
import logging
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")


def is_main_process() -> bool:
    """Whether this process prints for the run: the only one, or rank 0 of those that a launcher started."""
    return int(os.environ.get("RANK", "0")) == 0


def keep_deepspeed_quiet() -> None:
    """Keeps DeepSpeed from printing to standard output, amid results, that there is no GPU."""
    torch = sys.modules.get("torch")
    if torch is not None and not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def print_result(result: Mapping[str, Any], as_json: bool = False) -> None:
    """Prints the result of a command on standard output, once per run however many processes it has.

    Args:
        result (mapping of `str`): numbers, strings, paths, NumPy or torch values, nested in mappings and lists.
        as_json (`bool`, defaults to `False`): one JSON document for programs, in which numbers that are not finite
            become `null`; otherwise one line per value, nested names joined by dots.
    """
    if not is_main_process():
        return
    plain = to_plain(result)
    if as_json:
        text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)
    else:
        lines = list(_flatten(plain))
        width = max((len(name) for name, _ in lines), default=0)
        text = "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in lines)
    # A file name may hold bytes that are not text: they are escaped, in JSON so that a reader gets the name back.
    print(text.encode(errors="backslashreplace").decode(), flush=True)


def to_plain(value: Any) -> Any:
    """The same value as JSON knows it: mappings, lists, strings, finite numbers, booleans and `None`.

    Raises:
        TypeError: the value holds something that JSON has no form for.
    """
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return to_plain(value.tolist())
    raise TypeError(f"a result holds {value!r} of type {type(value).__name__}, which JSON has no form for.")


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of nested mappings and lists, each with its dotted name; a list of plain values is one leaf."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flatten(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        for index, item in enumerate(value):
            yield from _flatten(item, f"{name}.{index}" if name else str(index))
    else:
        yield name, _show(value)


def _show(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, dict)):
        return ", ".join(_show(item) for item in value) or "-"
    return str(value)


def report(message: str) -> None:
    """Prints a note about progress on standard error, once per run however many processes it has."""
    if is_main_process():
        print(message, file=sys.stderr, flush=True)


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Iterates over `items` with a progress bar on standard error; only the main process draws one.

    Args:
        items (iterable): what to iterate over.
        description (`str`): text before the bar.
        total (`int`, *optional*): number of items, where `items` has no length.
    """
    from tqdm.auto import tqdm

    yield from tqdm(items, desc=description, total=total, file=sys.stderr, disable=not is_main_process())


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Shows the log of the package on standard error while the block runs: notes on rank 0, warnings on every rank."""
    logger = logging.getLogger("albef_amc")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    previous_level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if is_main_process() else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(previous_level)
