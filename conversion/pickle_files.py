# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Scans a pickle without building anything, and refuses lengths and memo numbers that would fill the memory."""

import pickletools
from dataclasses import dataclass

MOST_OPERATIONS = 50_000_000
MOST_CONTAINERS = 4_000_000  # lists, dictionaries, tuples and sets, of a few hundred bytes each
MEMO_MARGIN = 1000  # a pickle numbers the objects that it keeps consecutively
STOP, FRAME = ord("."), 0x95
CONTAINERS = frozenset(b"])}l(\x8f")  # a single byte makes one, or opens one
MEMO_NUMBERS = {ord("q"): 1, ord("r"): 4}  # bytes of the number
MEMO_LINE = ord("p")
PAIRS_OF_LINES = frozenset(b"ci")
LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
ARGUMENTS = {ord(code.code): 0 if code.arg is None else code.arg.n for code in pickletools.opcodes}


@dataclass(frozen=True)
class PickleLimits:
    """Largest size of a pickle.

    Args:
        most_operations (`int`): operations that build it.
        most_containers (`int`): lists, dictionaries, tuples and sets.
    """

    most_operations: int = MOST_OPERATIONS
    most_containers: int = MOST_CONTAINERS


def find_pickle_end(data, start: int = 0, limits: PickleLimits = PickleLimits()) -> int:
    """Position after a pickle; nothing is built, and nothing is called.

    Args:
        data (`bytes` or `mmap`): holds the pickle.
        start (`int`, defaults to 0): where it starts.
        limits ([`PickleLimits`], *optional*): how large it may be.

    Raises:
        ValueError: the data are not a pickle, it is cut off, or its parts would fill the memory.

    Example:

    ```python
    >>> import pickle
    >>> from albef_amc.conversion.pickle_files import find_pickle_end
    >>> find_pickle_end(pickle.dumps([1, 2])) == len(pickle.dumps([1, 2]))
    True

    ```
    """
    position, size, operations, containers = start, len(data), 0, 0
    while position < size:
        code = data[position]
        position += 1
        operations += 1
        if code == STOP:
            return position
        containers += code in CONTAINERS
        if operations > limits.most_operations or containers > limits.most_containers:
            raise ValueError(
                f"it has more than {limits.most_operations} operations or {limits.most_containers} containers"
            )
        if code not in ARGUMENTS:
            raise ValueError(f"byte {position - 1} is not an operation of a pickle")
        argument, begin = ARGUMENTS[code], position
        if argument >= 0:
            position += argument
        elif argument == pickletools.UP_TO_NEWLINE:
            for _ in range(2 if code in PAIRS_OF_LINES else 1):
                position = data.find(b"\n", position) + 1
                if position == 0:
                    raise ValueError("a line of it has no end")
        else:
            width = LENGTH_BYTES[argument]
            position += width + int.from_bytes(data[position : position + width], "little")
        if position > size:
            raise ValueError(f"the operation at byte {begin - 1} claims more bytes than the file has")
        if code == FRAME and int.from_bytes(data[begin:position], "little") > size - position:
            raise ValueError(f"the frame at byte {begin - 1} claims more bytes than the file has")
        if code in MEMO_NUMBERS:
            _check_memo(int.from_bytes(data[begin:position], "little"), operations)
        elif code == MEMO_LINE:
            digits = data[begin : position - 1].strip()
            if not digits.isdigit() or len(digits) > len(str(MOST_OPERATIONS)):
                raise ValueError(f"the memo at byte {begin - 1} has no valid number")
            _check_memo(int(digits), operations)
    raise ValueError("it has no end")


def _check_memo(number: int, operations: int) -> None:
    if number > operations + MEMO_MARGIN:
        raise ValueError(f"it keeps an object under the number {number} after {operations} operations")


__all__ = ["PickleLimits", "find_pickle_end"]
