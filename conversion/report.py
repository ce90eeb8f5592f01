# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Reports of what became of every entry: of a converted checkpoint, and of a model built from two encoders."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from albef_amc.messages_albef import list_first

NAMES_SHOWN = 8


@dataclass(kw_only=True)
class Report:
    """What conversions and models from encoders have in common.

    Args:
        model_class (`str`): class of the model.
        dimensions (`dict`): values that were inferred from the tensors, or set.
        ignored (`dict[str, list[str]]`): entries that were skipped on purpose, by reason.
        resized (`dict[str, str]`): entries whose shape was changed, with both shapes.
        notes (`list[str]`): choices that the tensors do not determine.
    """

    model_class: str = ""
    dimensions: dict[str, Any] = field(default_factory=dict)
    ignored: dict[str, list[str]] = field(default_factory=dict)
    resized: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)

    def describe(self) -> list[str]:
        """The report as lines of text."""
        lines = [f"RESIZED     {name}: {shapes}" for name, shapes in self.resized.items()]
        lines += [f"ignored     {len(names)} entries: {reason}" for reason, names in self.ignored.items()]
        return lines + [f"NOTE        {note}" for note in self.notes]


@dataclass(kw_only=True)
class ConversionReport(Report):
    """What a conversion did; see [`Report`] for the other fields.

    Args:
        source, output_dir (`str`): file read and folder written.
        kind (`str`): which model the checkpoint holds, by its names.
        dtype (`str`): data type of the weights.
        num_converted (`int`): original entries that were used.
        missing (`list[str]`): entries of our model that the checkpoint lacks; a conversion with any is refused.
        unexpected (`list[str]`): original entries that have no place in our models.
    """

    source: str
    output_dir: str
    kind: str = ""
    dtype: str = ""
    num_converted: int = 0
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def describe(self) -> list[str]:
        """The report as lines of text, every missing, unexpected and resized entry by name."""
        lines = [f"{self.source}: {self.kind}", f"{self.num_converted} entries to {self.model_class} ({self.dtype})"]
        lines += [f"MISSING     {name}" for name in self.missing]
        lines += [f"UNEXPECTED  {name}: has no place in our models, skipped" for name in self.unexpected]
        return lines + super().describe()


@dataclass(kw_only=True)
class EncodersReport(Report):
    """What a pre-training model was built from; see [`Report`] for the other fields.

    Args:
        vision, text (`str`): what the encoders were read from.
        num_read (`int`): weights that come from the encoders.
        new (`dict[str, list[str]]`): weights that were initialised, by part of the model.
    """

    vision: str
    text: str
    num_read: int = 0
    new: dict[str, list[str]] = field(default_factory=dict)

    def describe(self) -> list[str]:
        """The report as lines of text, every new entry by part and every resized entry by name."""
        lines = [f"{self.vision} and {self.text}", f"{self.num_read} entries to {self.model_class}"]
        lines += [f"NEW         {len(names)} entries: {part}" for part, names in self.new.items()]
        return lines + super().describe()


class IncompleteCheckpointError(ValueError):
    """A checkpoint lacks entries that our model needs; `report` lists them all."""

    def __init__(self, report: ConversionReport):
        super().__init__(
            f"{report.source} lacks {len(report.missing)} entries that {report.model_class} needs: "
            f"{list_names(report.missing)}. Nothing was written: it would ground wrongly. Get a complete checkpoint."
        )
        self.report = report


def list_names(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    return list_first([f"`{name}`" for name in names], NAMES_SHOWN)


__all__ = ["ConversionReport", "EncodersReport", "IncompleteCheckpointError", "Report", "list_names"]
