# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Objectives on heatmaps by name and weight: every other file of this folder holds one of them."""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from albef_amc.ranges_albef import NOT_NEGATIVE, check_names, check_number, shorten_value
from albef_amc.trainer.objectives.heatmap_objective import OBJECTIVES, HeatmapObjective, RegionObjective

for _path in sorted(Path(__file__).parent.glob("[!_]*.py")):
    if _path.stem != Path(__file__).stem:
        importlib.import_module(f"{__package__}.{_path.stem}")

# Options of the collator that make the tensors which not every batch has.
OPTION_OF_INPUT = {"paraphrase_index": "use_paraphrases"}


class HeatmapObjectives:
    """Weighted sum of objectives on the heatmaps of a batch.

    Args:
        objectives (sequence of (weight, [`HeatmapObjective`])): each name once.

    Example:

    ```python
    >>> import torch
    >>> from albef_amc.trainer.objectives.weighted_objectives import HeatmapObjectives, build_objective
    >>> objectives = HeatmapObjectives([build_objective("amc", 1.0), build_objective("dice", {"weight": 0.5})])
    >>> batch = {"region_mask": torch.ones(3, 2, 2), "has_region": torch.tensor([True, False, True])}
    >>> objectives.count_regions(batch)
    tensor([2, 2])
    >>> total, terms = objectives(torch.rand(3, 2, 2), batch, denominators=[2, 2])
    >>> sorted(terms)
    ['amc_loss', 'amc_max_loss', 'amc_mean_loss', 'dice_loss']

    ```
    """

    def __init__(self, objectives: Sequence[tuple[float, HeatmapObjective]]):
        self.weights = {objective.name: weight for weight, objective in objectives}
        self.objectives = [objective for _, objective in objectives]

    def __len__(self) -> int:
        return len(self.objectives)

    @property
    def reads_annotated_phrases(self) -> bool:
        """Whether every objective reads the heatmaps of the phrases with a region, and no others."""
        return all(type(one).find_phrases is RegionObjective.find_phrases for one in self.objectives)

    def count_regions(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """How many phrases (or pairs) take part in each objective, from the batch alone.

        Args:
            inputs (mapping): the batch.

        Returns:
            `torch.Tensor` of shape `(num_objectives,)`, int64.
        """
        counts = [objective.count(**_select(objective, inputs)) for objective in self.objectives]
        return torch.stack(counts) if counts else torch.zeros(0, dtype=torch.int64)

    def find_phrases(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """Phrases whose heatmap any objective reads, `(P,)` bool, from the batch alone; None for all of them.

        Args:
            inputs (mapping): the batch.
        """
        found = [objective.find_phrases(**_select(objective, inputs)) for objective in self.objectives]
        if not found or any(phrases is None for phrases in found):
            return None
        return torch.stack(found).any(dim=0)

    def __call__(
        self,
        normalized_heatmap: torch.Tensor,
        inputs: Mapping[str, torch.Tensor],
        denominators: Sequence[float] | torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The weighted sum, and every term by the name that it is logged under.

        Args:
            normalized_heatmap (`torch.Tensor` of shape `(P, G_h, G_w)`): explanations in [0, 1].
            inputs (mapping): the batch.
            denominators (sequence or `torch.Tensor` of shape `(num_objectives,)`, *optional*):
                Count that each objective is divided by, in the order of [`count_regions`]; the local one by default.
        """
        terms: dict[str, torch.Tensor] = {}
        total = torch.zeros((), dtype=torch.float32, device=normalized_heatmap.device)
        for index, objective in enumerate(self.objectives):
            denominator = None if denominators is None else denominators[index]
            given = {name: inputs[name] for name in objective.optional_inputs if name in inputs}
            losses = objective(normalized_heatmap, **_select(objective, inputs), **given, num_regions=denominator)
            total = total + self.weights[objective.name] * losses[f"{objective.name}_loss"]
            terms.update({name: value for name, value in losses.items() if name.endswith("_loss")})
        return total, terms


def _select(objective: HeatmapObjective, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    missing = [name for name in objective.inputs if name not in inputs]
    if missing:
        option = OPTION_OF_INPUT.get(missing[0])
        remedy = f"Set `{option}=True`" if option else "Let the data collator return it"
        raise ValueError(f"the objective {objective.name!r} reads `{missing[0]}`, which the batch lacks. {remedy}.")
    return {name: inputs[name] for name in objective.inputs}


def build_objective(name: str, setting: float | Mapping[str, Any]) -> tuple[float, HeatmapObjective]:
    """An objective of a recipe: its weight, and the objective with its options.

    Args:
        name (`str`): the name that it is registered under.
        setting (`float` or mapping): its weight, or its options with `weight` (1 by default) among them.

    Raises:
        ValueError: an unknown objective or option (the nearest valid one is named), or a negative weight.
    """
    check_names([name], sorted(OBJECTIVES), "`objectives`", "objective")
    options = dict(setting) if isinstance(setting, Mapping) else {"weight": setting}
    fields: Any = dataclasses.fields(OBJECTIVES[name])  # type: ignore[arg-type]
    defaults = {"weight": 1.0, **{item.name: item.default for item in fields}}
    check_names(options, [*defaults], f"`objectives.{name}`", "option")
    for option, value in options.items():
        if isinstance(defaults[option], float):
            options[option] = _as_number(f"objectives.{name}.{option}", value)
    weight = options.pop("weight", defaults["weight"])
    check_number(f"objectives.{name}.weight", weight, NOT_NEGATIVE)
    try:
        return weight, OBJECTIVES[name](**options)
    except (TypeError, ValueError) as error:
        raise type(error)(f"`objectives.{name}`: {error}") from error


def _as_number(option: str, value: Any) -> float:
    """YAML reads 1e-1 as text; a recipe means the number."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"`{option}` must be a number, got {shorten_value(value)}.") from None
