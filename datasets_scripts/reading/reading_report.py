# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Report of a reader: what was skipped, dropped or repaired, by reason."""

from collections import Counter
from logging import Logger

EMPTY_FILE = "file without entries: file skipped"


class ReadingReport:
    """Counts and first places of what was skipped, dropped or repaired, by reason.

    Example:
        >>> report = ReadingReport()
        >>> report.add("empty box: box dropped", "record 3")
        >>> report.counts["empty box: box dropped"], report.first_places["empty box: box dropped"]
        (1, 'record 3')
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first_places: dict[str, str] = {}

    def add(self, reason: str, place: str) -> None:
        """Count one occurrence; an unpaired surrogate in the place, which no text file can hold, is escaped."""
        self.counts[reason] += 1
        self.first_places.setdefault(reason, place.encode(errors="backslashreplace").decode())

    def update(self, other: "ReadingReport") -> None:
        """Add the counts of another report."""
        self.counts.update(other.counts)
        self.first_places = {**other.first_places, **self.first_places}

    def log(self, logger: Logger, source: str) -> None:
        """Log one warning per reason."""
        for reason, count in sorted(self.counts.items()):
            logger.warning("%s: %d x %s (first: %s)", source, count, reason, self.first_places[reason])
