# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What a conversion did, entry by entry."""

from dataclasses import asdict, dataclass, field
from typing import Any

from albef_amc.conversion.weight_files import list_names


@dataclass
class ConversionReport:
    """What a conversion did.

    Args:
        source, output_dir (`str`): file read and folder written.
        kind (`str`): which model the checkpoint holds, by its names.
        model_class (`str`): class of the checkpoint written.
        dtype (`str`): data type of its weights.
        dimensions (`dict`): what was inferred from the tensors, or set.
        num_converted (`int`): original entries that were used.
        missing (`list[str]`): entries of our model that the checkpoint lacks; a conversion with any is refused.
        unexpected (`list[str]`): original entries that have no place in our models.
        ignored (`dict[str, list[str]]`): original entries left out on purpose, by reason.
        resized (`dict[str, str]`): entries whose shape was changed, with both shapes.
        notes (`list[str]`): choices that the tensors do not settle.
    """

    source: str
    output_dir: str
    kind: str = ""
    model_class: str = ""
    dtype: str = ""
    dimensions: dict[str, Any] = field(default_factory=dict)
    num_converted: int = 0
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    ignored: dict[str, list[str]] = field(default_factory=dict)
    resized: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)

    def describe(self) -> list[str]:
        """The report as lines of text, every missing, unexpected and resized entry by name."""
        lines = [f"{self.source}: {self.kind}", f"{self.num_converted} entries to {self.model_class} ({self.dtype})"]
        lines += [f"MISSING     {name}" for name in self.missing]
        lines += [f"UNEXPECTED  {name}: has no place in our models, left out" for name in self.unexpected]
        lines += [f"RESIZED     {name}: {shapes}" for name, shapes in self.resized.items()]
        lines += [f"ignored     {len(names)} entries: {reason}" for reason, names in self.ignored.items()]
        return lines + [f"NOTE        {note}" for note in self.notes]


class IncompleteCheckpointError(ValueError):
    """A checkpoint lacks entries that our model needs; `report` lists them all."""

    def __init__(self, report: ConversionReport):
        super().__init__(
            f"{report.source} lacks {len(report.missing)} entries that {report.model_class} needs: "
            f"{list_names(report.missing)}. Nothing was written: it would ground wrongly. Get a complete checkpoint."
        )
        self.report = report


__all__ = ["ConversionReport", "IncompleteCheckpointError"]
