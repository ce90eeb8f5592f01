# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Heatmap quality: how much of a phrase's heat lies in its region, how well it fills it, how far away the rest is.

Heatmap quality reads the complete heatmap, not only its maximum. H is the heatmap at the resolution of the region
mask M, negative values clipped, divided by its maximum; M in [0, 1] is the covered share of each pixel. Per phrase:

- `energy_inside` = sum(H M) / sum(H). In [0, 1], higher is better.
- `inside_outside_ratio` = m_in / (m_in + m_out), where m_in = sum(H M) / sum(M) and
  m_out = sum(H (1 - M)) / sum(1 - M) are the mean heat inside and outside the region. In [0, 1], higher is better,
  0.5 means that neither is preferred. m_in / m_out itself has no finite mean; it is s / (1 - s) of this value s.
- `soft_iou` = sum(H M) / (sum(H) + sum(M) - sum(H M)). In [0, 1], higher is better.
- `soft_dice` = 2 sum(H M) / (sum(H) + sum(M)). In [0, 1], higher is better.
- `weighted_distance` = sum(H d) / sum(H), where d is the distance of a pixel's centre to that of the nearest pixel of
  the region, over the diagonal of the image (0 in the region). In [0, 1], lower is better.
- `pointing_uncertainty` = 1 where some of the map's peaks lie in the region and some do not, else 0. The peaks are the
  pixels that reach 95 % of the maximum. Lower is better: a small change would not turn a hit into a miss.

Results are means over phrases. Degenerate cases: a heatmap without heat has 0 in the first four, distance 1 and
uncertainty 1, and is counted; a region that covers the whole image has `inside_outside_ratio` 0.5; a region without
area is refused.

The names follow Q-GroundCAM, which released no code. The formulas are those above: do not compare with its tables.
"""

import inspect

import datasets
import evaluate
import numpy as np

MEASURES = (
    "energy_inside",
    "inside_outside_ratio",
    "soft_iou",
    "soft_dice",
    "weighted_distance",
    "pointing_uncertainty",
)
PREDICTION_FIELDS = ("heat_inside", "heat_total", "heat_distance", "num_peaks_inside", "num_peaks")
REFERENCE_FIELDS = ("region_area", "image_area")
NO_PREFERENCE = 0.5  # a region without an outside
RELATIVE_ERROR = 1e-4  # of sums made in single precision

NOTHING_ADDED = "no phrase was added: the quality of nothing is undefined. Pass at least one phrase."

_CITATION = """
@misc{rajabi2024qgroundcam,
  title = {Q-GroundCAM: Quantifying Grounding in Vision Language Models via GradCAM},
  author = {Rajabi, Navid and Kosecka, Jana},
  year = {2024},
  eprint = {2404.19128},
  archivePrefix = {arXiv}
}
"""


class HeatmapQuality(evaluate.Metric):
    """Six measures of heatmaps against regions; the module's docstring has their formulas.

    Args:
        predictions (list of `dict`): one per phrase, of
            - `heat_inside`: sum(H M),
            - `heat_total`: sum(H),
            - `heat_distance`: sum(H d),
            - `num_peaks_inside`, `num_peaks`: pixels that reach 95 % of the maximum, inside the region and in total;
              0 without heat.
        references (list of `dict`): one per phrase, of
            - `region_area`: sum(M), more than 0,
            - `image_area`: number of pixels of the mask.
        phrase_types (list of lists of `str`, *optional*):
            The types of each phrase. A phrase of several types counts in each of them, one without types (an empty
            list or `None`) in none. Give them in every call or in none.
        return_values (`bool`, defaults to `False`, `compute` only):
            Also return the six values of each phrase.

    Returns:
        `dict` with
            - the six measures (`float`), means over phrases,
            - `num_phrases`, `num_without_heat` (`int`),
            - `energy_inside_by_type` (`dict`): type -> mean, types in alphabetical order,
            - `num_phrases_by_type` (`dict`): type -> number of phrases,
            - `values` (`dict`): measure -> list with one `float` per phrase in the order they were added, with
              `return_values=True`.
        In a distributed run (`num_process > 1`) process 0 gets it, the others get `None`; lists are in process order.

    Examples:
        >>> heatmap_quality = evaluate.load("heatmap_quality")
        >>> result = heatmap_quality.compute(
        ...     predictions=[
        ...         dict(heat_inside=30.0, heat_total=40.0, heat_distance=2.0, num_peaks_inside=1, num_peaks=1)
        ...     ],
        ...     references=[dict(region_area=50.0, image_area=100)],
        ... )
        >>> result["energy_inside"], result["inside_outside_ratio"], result["soft_iou"], result["weighted_distance"]
        (0.75, 0.75, 0.5, 0.05)
    """

    def _info(self):
        predictions = {name: datasets.Value("float64") for name in PREDICTION_FIELDS}
        references = {name: datasets.Value("float64") for name in REFERENCE_FIELDS}
        return evaluate.MetricInfo(
            description=__doc__,
            citation=_CITATION,
            inputs_description=inspect.cleandoc(self.__doc__),
            features=datasets.Features(
                {
                    "predictions": predictions,
                    "references": references,
                    "phrase_types": datasets.List(datasets.Value("string")),
                }
            ),
            reference_urls=["https://arxiv.org/abs/2404.19128"],
            license="Apache-2.0",
        )

    def compute(self, *, predictions=None, references=None, phrase_types=None, return_values=False):
        """Measures the phrases given here and all that were added before."""
        if (predictions is None) != (references is None):
            raise ValueError("`predictions` and `references` go together: give both, or neither after `add_batch`.")
        if predictions is not None:
            self.add_batch(predictions=predictions, references=references, phrase_types=phrase_types)
        elif phrase_types is not None:
            raise ValueError("`phrase_types` were given without `predictions`: give them to `add_batch`.")
        if not len(self):
            if self.num_process == 1:
                raise ValueError(NOTHING_ADDED)
            self.add_batch(predictions=[], references=[])  # the file of this process, which process 0 waits for
        return super().compute(return_values=return_values)

    def add_batch(self, *, predictions=None, references=None, phrase_types=None):
        """Adds phrases; they are checked here, so that an error names the phrase and nothing of the batch is kept."""
        if predictions is None or references is None:
            raise ValueError("`predictions` and `references` are both needed: sums of the heatmap and of the region.")
        if phrase_types is None:
            phrase_types = [[]] * len(predictions)
        for name, values in (("references", references), ("phrase_types", phrase_types)):
            if len(values) != len(predictions):
                raise ValueError(
                    f"there are {len(predictions)} `predictions` but {len(values)} `{name}`: give one per phrase."
                )
        areas = [
            _read_fields(fields, REFERENCE_FIELDS, f"`references[{index}]`") for index, fields in enumerate(references)
        ]
        sums = [
            _read_fields(fields, PREDICTION_FIELDS, f"`predictions[{index}]`")
            for index, fields in enumerate(predictions)
        ]
        for index, (heat, area) in enumerate(zip(sums, areas, strict=True)):
            _check_sums(heat, area, index)
        super().add_batch(
            predictions=sums,
            references=areas,
            phrase_types=[_check_types(types, index) for index, types in enumerate(phrase_types)],
        )

    def add(self, *, prediction=None, reference=None, phrase_types=None):
        """Adds one phrase: the sums of its heatmap, those of its region, and the list of its types."""
        if prediction is None or reference is None:
            raise ValueError("`prediction` and `reference` are both needed: sums of the heatmap and of the region.")
        types = None if phrase_types is None else [phrase_types]
        self.add_batch(predictions=[prediction], references=[reference], phrase_types=types)

    def _compute(self, predictions, references, phrase_types, return_values):
        if not len(predictions):
            raise ValueError(NOTHING_ADDED)
        measured = [measure_phrase(heat, area) for heat, area in zip(predictions, references, strict=True)]
        values = {name: np.array([measures[name] for measures in measured]) for name in MEASURES}
        names = sorted({name for types in phrase_types for name in types})
        members = {name: [name in types for types in phrase_types] for name in names}
        result = {
            **{name: float(values[name].mean()) for name in MEASURES},
            "num_phrases": len(measured),
            "num_without_heat": sum(heat["heat_total"] == 0 for heat in predictions),
            "energy_inside_by_type": {name: float(values["energy_inside"][members[name]].mean()) for name in names},
            "num_phrases_by_type": {name: sum(members[name]) for name in names},
        }
        return {**result, "values": {name: values[name].tolist() for name in MEASURES}} if return_values else result


def measure_phrase(heat, area):
    """The six measures of one phrase.

    Args:
        heat (`dict`): the fields of a prediction.
        area (`dict`): the fields of a reference.

    Returns:
        `dict` of `float`: measure -> value; the module's docstring has the formulas.
    """
    inside, total, region = heat["heat_inside"], heat["heat_total"], area["region_area"]
    if total == 0:
        return {**dict.fromkeys(MEASURES, 0.0), "weighted_distance": 1.0, "pointing_uncertainty": 1.0}
    rest = area["image_area"] - region
    weighed_inside, weighed_outside = inside * rest, max(total - inside, 0) * region
    return {
        "energy_inside": inside / total,
        "inside_outside_ratio": weighed_inside / (weighed_inside + weighed_outside) if rest > 0 else NO_PREFERENCE,
        "soft_iou": inside / (total + region - inside),
        "soft_dice": 2 * inside / (total + region),
        "weighted_distance": heat["heat_distance"] / total,
        "pointing_uncertainty": float(0 < heat["num_peaks_inside"] < heat["num_peaks"]),
    }


def _read_fields(fields, names, place):
    if not isinstance(fields, dict) or set(fields) != set(names):
        got = sorted(fields) if isinstance(fields, dict) else repr(fields)
        raise ValueError(f"{place} must be a dict of {', '.join(names)}, got {got}.")
    try:
        values = {name: float(fields[name]) for name in names}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place} must hold numbers, got {fields!r}.") from error
    if not np.isfinite(list(values.values())).all() or min(values.values()) < 0:
        raise ValueError(
            f"{place} holds a number that is negative or not finite: {values}. Clip the heatmap at 0, and check the "
            "model if it gives NaN."
        )
    return values


def _check_sums(heat, area, index):
    if area["region_area"] == 0:
        raise ValueError(f"`references[{index}]` has `region_area` 0: no region, nothing to measure. Leave it out.")
    for fields, name, largest, bound in (
        (area, "region_area", area["image_area"], "`image_area`"),
        (heat, "heat_inside", min(heat["heat_total"], area["region_area"]), "`heat_total` or `region_area`"),
        (heat, "heat_total", area["image_area"], "`image_area`, the sum of a map in [0, 1]"),
        (heat, "heat_distance", heat["heat_total"], "`heat_total`: distances are shares of the diagonal"),
        (heat, "num_peaks_inside", heat["num_peaks"], "`num_peaks`"),
    ):
        if fields[name] > largest * (1 + RELATIVE_ERROR):
            raise ValueError(f"phrase {index} has `{name}` {fields[name]}, which is more than {bound}: {largest}.")


def _check_types(types, index):
    names = () if types is None else types  # a data set has null where a phrase has no types
    if isinstance(names, str) or not hasattr(names, "__iter__"):
        raise ValueError(f"`phrase_types[{index}]` must be a list of strings or None, got {types!r}.")
    names = [name for name in names if name is not None]
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"`phrase_types[{index}]` must be a list of strings or None, got {types!r}.")
    return names
