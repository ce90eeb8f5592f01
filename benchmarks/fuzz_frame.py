# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What the fuzz test is made of: a mutation says what it expects before it runs, and what happens is compared with it.

A category has a clean input and code of the package that reads it. A mutation changes the input and declares one of:

- `refused(words)`: an exception of `CLEAR_ERRORS` whose message holds the words,
- `repaired(name)`: accepted, with the message that `REPAIRS` has under the name,
- `UNAFFECTED`: accepted, and the output is that of the clean input.

Anything else is counted as what it is: another exception (`traceback`), more work than ten seconds (`hang`), or an
outcome that was not declared (`silent`), an output that differs without a message among them.
"""

import logging
import signal
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers.utils import logging as library_logging

OUTCOMES = ("clear error", "named repair", "unaffected", "traceback", "silent", "hang")
BAD_OUTCOMES = OUTCOMES[3:]
# The last two are what configurations of `transformers` raise for a wrong type; they name field, type and value.
CLEAR_ERRORS = (
    ValueError,
    TypeError,
    OSError,
    NotImplementedError,
    StrictDataclassClassValidationError,
    StrictDataclassFieldValidationError,
)
# Python makes these of bugs, although they are of the kinds above.
UNCLEAR_ERRORS = (UnicodeError,)
LONGEST_MESSAGE = 4000
# Seconds that the processor may work on one input, and that may pass on a machine with other work to do.
TIME_LIMIT, WAITING_LIMIT = 10.0, 600.0
ABSOLUTE_TOLERANCE = 1e-4

# Everything that is repaired in these inputs, by name, and the message that says so (docs/input-checks.md has all).
REPAIRS = {
    "transparency": "An image has transparent pixels: they are shown on white.",
    "32-bit integers": "An image of 32-bit integers (Pillow mode I) is read as 16-bit: 65535 is white.",
    "box over the border": "Some boxes leave their image: they are cut off at its border.",
    "box without area": "Some boxes have no area inside their image: they are dropped.",
    "boxes as shares": "Some boxes lie within 0..1, less than a pixel. Boxes are in pixels, not in shares.",
    "region without area": "Some annotated regions have no area in their image: `has_region` is False for them.",
    "image missing": "image file missing: image skipped",
    "annotation damaged": "annotation damaged: image skipped",
    "image damaged": "image file damaged or not an image: image skipped",
    "image too large": "image has more pixels than the limit: image skipped",
    "image of another size": "image size differs from",
    "image turned": "image is rotated by its EXIF data",
    "box of a file over the border": "box extends beyond the image: box clipped",
    "reversed box": "reversed box: box dropped",
    "empty box": "empty box: box dropped",
    "box outside": "box outside the image: box dropped",
    "box not of numbers": "box is not four finite numbers: box dropped",
    "phrase without a box": "phrase without a usable box",
    "mask damaged": "mask damaged or of another size: mask dropped",
    "mask empty": "mask without a pixel: mask dropped",
    "outline damaged": "annotation without a usable outline: outlines dropped",
    "polygon too short": "polygon of fewer than three points: polygon dropped",
    "unknown annotation": "annotation not among those of the image: outlines dropped",
    "unknown image": "phrase of an unknown image: phrase skipped",
    "text without words": "without words or with broken characters",
    "record without a phrase": "record without a phrase: record skipped",
    "image without a phrase": "image without a phrase: image skipped",
    "span not in the caption": "span is not inside the caption: span dropped",
    "span of other words": "span does not spell the phrase: span dropped",
    "image in several splits": "image in several splits: image kept in each",
    "annotation file missing": "annotation file missing: phrases skipped",
    "drawing damaged": "drawing damaged: annotation skipped",
    "drawing missing": "drawing missing: annotation skipped",
    "entry repeated": "entry repeats an earlier one: entry kept",
}


@dataclass(frozen=True)
class Expectation:
    """What a mutation declares.

    Args:
        outcome (`str`): `"clear error"`, `"named repair"` or `"unaffected"`.
        words (`str`): part of the message.
    """

    outcome: str
    words: str = ""


UNAFFECTED = Expectation("unaffected")


def refused(words: str) -> Expectation:
    """An error whose message holds these words."""
    return Expectation("clear error", words)


def repaired(name: str) -> Expectation:
    """Accepted, with the message of `REPAIRS`."""
    return Expectation("named repair", REPAIRS[name])


@dataclass(frozen=True)
class Case:
    """One input: what is read, what is expected, and words that reproduce it."""

    category: str
    mutation: str
    value: Any
    expected: Expectation


Mutation = Callable[[Any, np.random.Generator], tuple[Any, Expectation]]


@dataclass
class Category:
    """A kind of input.

    Args:
        name (`str`): in the table.
        build (callable): makes the clean input of a number, a new one at every call.
        read (callable): code of the package; from an input to an output that can be compared.
        num_clean (`int`): different clean inputs.
        mutations (`dict`): name -> function of a clean input and a generator to (input, expectation).
    """

    name: str
    build: Callable[[int], Any]
    read: Callable[[Any], Any]
    num_clean: int = 1
    mutations: dict[str, Mutation] = field(default_factory=dict)
    _clean_outputs: dict[int, Any] = field(default_factory=dict)

    def mutation(self, function: Mutation) -> Mutation:
        """Adds a mutation under the function's name."""
        if function.__name__ in self.mutations:
            raise ValueError(f"{self.name} has two mutations {function.__name__}.")
        self.mutations[function.__name__] = function
        return function

    def read_clean(self, number: int) -> Any:
        """Output of a clean input, computed once."""
        if number not in self._clean_outputs:
            self._clean_outputs[number] = self.read(self.build(number))
        return self._clean_outputs[number]


@dataclass(frozen=True)
class Observation:
    """What happened to a case: one of `OUTCOMES`, and the message or the difference."""

    outcome: str
    detail: str = ""


class TookTooLong(BaseException):
    """Raised by the alarm; not an `Exception`, so that nothing catches it on the way."""


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def collecting_messages() -> Iterator[list[str]]:
    """The warnings that are logged or issued while the block runs, those that are said once included."""
    library_logging.get_logger().warning_once.cache_clear()
    collector = _Collector()
    loggers = [logging.getLogger(name) for name in (None, "albef_amc", "transformers", "datasets")]
    for logger in loggers:
        logger.addHandler(collector)
    try:
        with warnings.catch_warnings(record=True) as issued:
            warnings.simplefilter("always")
            yield collector.messages
        collector.messages += [str(warning.message) for warning in issued]
    finally:
        for logger in loggers:
            logger.removeHandler(collector)


@contextmanager
def limiting_time(working: float, waiting: float) -> Iterator[None]:
    """Raises [`TookTooLong`] in the block after some seconds of work, or of waiting; only in the main thread."""

    def stop(*_: Any) -> None:
        raise TookTooLong

    timers = ((signal.ITIMER_PROF, signal.SIGPROF, working), (signal.ITIMER_REAL, signal.SIGALRM, waiting))
    previous = [signal.signal(number, stop) for _, number, _ in timers]
    for timer, _, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (timer, number, _), handler in zip(timers, previous, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def observe(category: Category, case: Case, clean: Any) -> Observation:
    """Reads the input of a case and classes what happens, by what was expected."""
    expected = case.expected
    messages: list[str] = []
    try:
        with collecting_messages() as messages, limiting_time(TIME_LIMIT, WAITING_LIMIT):
            output = category.read(case.value)
    except TookTooLong:
        return Observation("hang", f"more than {TIME_LIMIT} s of work, or {WAITING_LIMIT} s")
    except Exception as error:
        return _class_error(error, expected)
    if expected.outcome == "clear error":
        return Observation("silent", f"accepted, although an error was expected: {expected.words}")
    is_said = bool(expected.words) and any(expected.words in message for message in messages)
    if expected.outcome == "named repair":
        said = "" if is_said else f"not said: {expected.words!r}; said: {messages}"
        return Observation("named repair" if is_said else "silent", said)
    difference = find_difference(output, clean)
    return Observation("silent", difference) if difference else Observation("unaffected")


def _class_error(error: Exception, expected: Expectation) -> Observation:
    text = f"{type(error).__name__}: {error}"
    if not isinstance(error, CLEAR_ERRORS) or isinstance(error, UNCLEAR_ERRORS) or len(text) > LONGEST_MESSAGE:
        return Observation("traceback", text[:LONGEST_MESSAGE])
    if expected.outcome != "clear error" or expected.words not in str(error):
        words = f" with {expected.words!r}" if expected.words else ""
        return Observation("silent", f"{expected.outcome}{words} was expected, got {text}")
    return Observation("clear error", text)


def find_difference(found: Any, clean: Any, place: str = "output") -> str:
    """Where two outputs differ, in words; empty where they are equal up to rounding."""
    if is_dataclass(clean) and type(found) is type(clean):
        return find_difference(vars(found), vars(clean), place)
    if isinstance(clean, Mapping):
        if not isinstance(found, Mapping) or found.keys() != clean.keys():
            return f"{place} has other entries"
        parts = [(found[name], clean[name], f"{place}.{name}") for name in clean]
    elif is_dataclass(clean) and type(found) is type(clean):
        return find_difference(vars(found), vars(clean), place)
    elif isinstance(clean, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(clean):
            return f"{place} has another length"
        parts = [
            (one, other, f"{place}[{index}]") for index, (one, other) in enumerate(zip(found, clean, strict=True))
        ]
    elif isinstance(clean, torch.Tensor):
        same = isinstance(found, torch.Tensor) and found.shape == clean.shape
        same = same and torch.allclose(found.double(), clean.double(), atol=ABSOLUTE_TOLERANCE, rtol=0, equal_nan=True)
        return "" if same else f"{place} differs"
    elif isinstance(clean, float):
        same = isinstance(found, float | int) and abs(found - clean) <= ABSOLUTE_TOLERANCE
        return "" if same else f"{place} is {found}, not {clean}"
    else:
        return "" if found == clean else f"{place} is {found!r:.80}, not {clean!r:.80}"
    return next((difference for difference in (find_difference(*part) for part in parts) if difference), "")


def iterate_cases(category: Category, count: int, seed: int) -> Iterator[tuple[Case, int]]:
    """Cases of a category with the number of their clean input: its mutations in turn, each with new draws."""
    names = list(category.mutations)
    for number in range(count):
        generator = np.random.default_rng([seed, number, *category.name.encode()])
        name = names[number % len(names)]
        clean = int(generator.integers(category.num_clean))
        value, expected = category.mutations[name](category.build(clean), generator)
        yield Case(category.name, f"{name} #{number}", value, expected), clean


@dataclass
class FuzzResult:
    """Counts of outcomes per category, and what went wrong."""

    counts: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    failures: list[str] = field(default_factory=list)

    @property
    def num_inputs(self) -> int:
        """All inputs."""
        return sum(sum(counts.values()) for counts in self.counts.values())

    def list_rows(self) -> list[dict[str, Any]]:
        """One row per category, and their sum."""
        rows = [
            {"category": name, "inputs": sum(counts.values()), **{outcome: counts[outcome] for outcome in OUTCOMES}}
            for name, counts in self.counts.items()
        ]
        total = sum(self.counts.values(), Counter())
        return [*rows, {"category": "all", "inputs": self.num_inputs, **{name: total[name] for name in OUTCOMES}}]


def run(categories: Mapping[str, tuple[Category, int]], seed: int = 0) -> FuzzResult:
    """Runs cases of every category.

    Args:
        categories (mapping): name -> the category and how many inputs it gets.
        seed (`int`): of what the mutations draw.
    """
    result = FuzzResult()
    for name, (category, count) in categories.items():
        for case, clean in iterate_cases(category, count, seed):
            seen = observe(category, case, category.read_clean(clean))
            result.counts[name][seen.outcome] += 1
            if seen.outcome in BAD_OUTCOMES:
                result.failures.append(f"{seen.outcome}: {name}, {case.mutation}, seed {seed}: {seen.detail}")
    return result


def show_table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "| --- |" + " ---: |" * (len(names) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows)])
