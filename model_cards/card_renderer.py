# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Model cards from the files of a run: a number on a card is read from the run's metrics file, never typed."""

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub import ModelCard as HubModelCard

from .front_matter import is_hub_name, shorten_place
from .metrics_file import check_weights, read_metrics
from .sources import CITATIONS, SOURCES

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
GROUNDING_TAG, ALBEF_TAG, AMC_TAG = "visual-grounding", "albef", "amc"
TAGS = (GROUNDING_TAG, "grad-cam", ALBEF_TAG, AMC_TAG)
METRIC_TYPE, METRIC_NAME = "pointing_game_accuracy", "Pointing game accuracy"
GRAMS_PER_KILOGRAM = 1000
PIPELINE_TAG = "zero-shot-object-detection"
# Stands in `evaluation_command` for the checkpoint; a card shows its repository instead.
CHECKPOINT_WORD = "CHECKPOINT"
TIME_UNITS = ((3600, "hours"), (60, "minutes"), (1, "seconds"))


@dataclass
class ModelCard:
    """Content of a card, gathered from the objects and files of a run.

    Args:
        model_name (`str`): name of the model, and of its repository where `repo_id` is not given.
        description (`str`): one or two sentences on what it is.
        metrics_file (`str` or `Path`, *optional*): JSON that the evaluation wrote: one result of the pointing game, or
            a mapping of split -> result; entries that are not results are skipped. Without it the card states that
            the checkpoint has not been evaluated.
        evaluation_dataset (`str`, defaults to `""`): what the metrics were computed on; needed with `metrics_file`.
        evaluation_split (`str`, *optional*): split of a single result, if it is not the name in the file.
        evaluation_command (`str`, *optional*): command that gives the metrics; the word `CHECKPOINT` in it stands for
            the repository. A result of the file that holds its own `command` needs none.
        weights_sha256 (`str`, *optional*): hash of the checkpoint's weights (`evaluation/weight_hash.py`): results
            that were measured on others, or without such a hash, are refused. Without it nothing is compared.
        image_size (`int` or (height, width), *optional*): pixels of the images that the model reads.
        datasets (list of `str`): names of the training data sets.
        recipe (`str`, *optional*): name of the recipe of the training.
        training_arguments (mapping): what to print of the training's resolved arguments, in this order.
        base_model (`str`, *optional*): checkpoint that training started from.
        source (`str`, defaults to `"albef-amc"`): whose weights these derive from: `albef-amc` (trained from scratch),
            `albef`, `amc`, or `other` for a model that others published. It decides the licence and its notices.
        hardware (`str`, *optional*): device of one process of the training.
        num_processes (`int`, defaults to 1): processes of the training.
        training_seconds (`float`, *optional*): measured wall-clock time of the training, evaluations in it included.
        co2_emissions_kg (`float`, *optional*): estimate of the emissions by those who ran the training.
        software (mapping): library -> version of the training.
        repo_id (`str`, *optional*): repository or local folder in the loading line; `your-name/<model_name>` if not
            given.
        revision (`str`, *optional*): branch that holds the checkpoint, in the loading line.
        code_revision (`str`, *optional*): commit that holds the code of the checkpoint, pinned in the loading line.
        converted_dtype ((`str`, `str`), *optional*): data types before and after a conversion that followed the
            evaluation.
        library_version (`str`): version of albef-amc; the installed one by default.
        pipeline_tag (`str`, *optional*): task under which the Hub lists the model, `"zero-shot-object-detection"` by
            default; `None` for a class that no pipeline of transformers runs.
        limits (list of `str`): limits of this model, in sentences, beside those of every model.
        has_code (`bool`, defaults to `True`): whether the checkpoint holds the code that reads it; without it, the
            card shows how albef-amc loads it.
        grounder_class (`str`, *optional*): class of transformers, where the checkpoint is not one of ALBEF; the card
            shows how it is loaded with transformers and as a grounder.
        explained (`str`): with `grounder_class`: what the heatmap explains, as a noun phrase.

    Raises:
        ValueError: an unknown `source`, a metrics file without the name of the data set, or a time or an amount of
            emissions that is not a finite number of at least 0.
    """

    model_name: str
    description: str
    metrics_file: str | Path | None = None
    evaluation_dataset: str = ""
    evaluation_split: str | None = None
    evaluation_command: str | None = None
    weights_sha256: str | None = None
    image_size: int | tuple[int, int] | None = None
    datasets: list[str] = field(default_factory=list)
    recipe: str | None = None
    training_arguments: Mapping[str, Any] = field(default_factory=dict)
    base_model: str | None = None
    source: str = "albef-amc"
    hardware: str | None = None
    num_processes: int = 1
    training_seconds: float | None = None
    co2_emissions_kg: float | None = None
    software: Mapping[str, str] = field(default_factory=dict)
    repo_id: str | None = None
    revision: str | None = None
    code_revision: str | None = None
    converted_dtype: tuple[str, str] | None = None
    library_version: str = field(default_factory=lambda: version("albef-amc"))
    pipeline_tag: str | None = PIPELINE_TAG
    limits: list[str] = field(default_factory=list)
    has_code: bool = True
    grounder_class: str | None = None
    explained: str = "Grad-CAM of its image-text matching score"

    def __post_init__(self):
        if self.source not in SOURCES:
            raise ValueError(f"`source` must be one of {', '.join(SOURCES)}, got {self.source!r}.")
        if self.metrics_file is not None and not self.evaluation_dataset:
            raise ValueError("`metrics_file` needs `evaluation_dataset`: a number without its data set means nothing.")
        for name in ("training_seconds", "co2_emissions_kg"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
                raise ValueError(f"`{name}` must be a finite number from 0, got {value!r}. Leave it out if unknown.")

    @property
    def repository(self) -> str:
        """Repository or folder in the loading line."""
        return self.repo_id or f"your-name/{self.model_name}"


def render_model_card(card: ModelCard) -> str:
    """The text of a model card: front matter that the Hub reads, and what a reader should know.

    Args:
        card ([`ModelCard`]): content of the card.

    Returns:
        `str`: Markdown with YAML front matter.

    Raises:
        FileNotFoundError: the metrics file of the card does not exist.
        ValueError: the metrics file holds no result of the pointing game, an accuracy outside [0, 1], or a result of
            other weights than `card.weights_sha256`.
    """
    metrics = _read_card_metrics(card)
    source = SOURCES[card.source]
    rendered = HubModelCard.from_template(
        _build_front_matter(card, metrics),
        template_path=str(TEMPLATE),
        card=card,
        metrics_name=Path(card.metrics_file).name if card.metrics_file is not None else None,
        loading_arguments=_build_loading_arguments(card),
        plain_arguments=_build_plain_arguments(card),
        results=[_describe_result(split, result) for split, result in metrics.items()],
        commands=_list_commands(card, metrics),
        image_size=_describe_image_size(card),
        start=_describe_start(card.base_model),
        training_arguments=[(_escape(name), _escape(value)) for name, value in card.training_arguments.items()],
        hardware=_describe_hardware(card),
        training_time=_show_time(card.training_seconds),
        process_time=_show_time(card.training_seconds, card.num_processes),
        limits=[*card.limits, *source.limits],
        licence_notices=source.notices,
        citations=CITATIONS,
    )
    return str(rendered).rstrip() + "\n"


def _build_front_matter(card: ModelCard, metrics: Mapping[str, Mapping[str, Any]]) -> ModelCardData:
    """What the Hub reads of a card; data sets and a base model that have a Hub name are linked."""
    results = [
        EvalResult(
            task_type=card.pipeline_tag or GROUNDING_TAG,
            dataset_type=card.evaluation_dataset,
            dataset_name=card.evaluation_dataset,
            dataset_split=split,
            metric_type=METRIC_TYPE,
            metric_name=METRIC_NAME,
            metric_value=result[METRIC_TYPE],
        )
        for split, result in metrics.items()
    ]
    emissions: dict[str, Any] = {}
    if card.co2_emissions_kg is not None:
        grams = card.co2_emissions_kg * GRAMS_PER_KILOGRAM
        entry: dict[str, Any] = {"emissions": grams, "source": "estimate of the authors of the run"}
        hardware = _describe_hardware(card)
        emissions["co2_eq_emissions"] = {**entry, **({"hardware_used": hardware} if hardware else {})}
    return ModelCardData(
        model_name=card.model_name,
        language="en",
        license=SOURCES[card.source].licence,
        library_name="transformers",
        pipeline_tag=card.pipeline_tag,
        tags=_list_tags(card),
        datasets=[name for name in card.datasets if "/" in name and is_hub_name(name)] or None,
        base_model=card.base_model if card.base_model and is_hub_name(card.base_model) else None,
        metrics=[METRIC_TYPE] if results else None,
        eval_results=results or None,
        **emissions,
    )


def _list_tags(card: ModelCard) -> list[str]:
    """Tags for search; a model that others published is not ALBEF, and AMC only once it was trained."""
    if card.grounder_class is None:
        return list(TAGS)
    return [tag for tag in TAGS if tag != ALBEF_TAG and (tag != AMC_TAG or card.datasets)]


def _read_card_metrics(card: ModelCard) -> dict[str, dict[str, Any]]:
    if card.metrics_file is None:
        return {}
    metrics = read_metrics(card.metrics_file)
    if card.weights_sha256 is not None:
        check_weights(card.metrics_file, metrics, card.weights_sha256)
    if card.evaluation_split and len(metrics) == 1:
        (result,) = metrics.values()
        return {card.evaluation_split: result}
    return metrics


def _build_plain_arguments(card: ModelCard) -> str:
    """Repository and branch, as Python source."""
    name = json.dumps(card.repository)
    return f"{name}, revision={json.dumps(card.revision)}" if card.revision else name


def _build_loading_arguments(card: ModelCard) -> str:
    """What stands between the brackets of `from_pretrained`, as Python source."""
    arguments = [_build_plain_arguments(card), "trust_remote_code=True"]
    if card.code_revision:
        arguments.append(f"code_revision={json.dumps(card.code_revision)}")
    return ", ".join(arguments)


def _list_commands(card: ModelCard, metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Commands that give the metrics, each once, with the repository instead of the checkpoint."""
    commands = [result.get("command") or card.evaluation_command for result in metrics.values()]
    repository = shlex.quote(card.repository)
    return [command.replace(CHECKPOINT_WORD, repository) for command in dict.fromkeys(commands) if command]


def _describe_result(split: str, result: Mapping[str, Any]) -> dict[str, Any]:
    counts = result.get("num_phrases_by_type", {})
    types = [
        {"name": _escape(name), "accuracy": _show_percent(accuracy), "num_phrases": counts.get(name, "–")}
        for name, accuracy in result.get("pointing_game_accuracy_by_type", {}).items()
    ]
    baselines = result.get("baselines", {})
    return {
        "split": _escape(split),
        "accuracy": _show_percent(result["pointing_game_accuracy"]),
        "num_phrases": result["num_phrases"],
        "types": types,
        "baselines": [(_escape(name.replace("_", " ")), _show_percent(value)) for name, value in baselines.items()],
        "matching": _describe_matching(result),
        "calibration": _describe_calibration(result),
    }


def _describe_matching(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the matching score is compared with, and the area under its ROC curve."""
    areas: dict[str, float] = {}
    if result.get("matching_auc") is not None:
        areas["phrases of other images"] = result["matching_auc"]
    for kind, area in result.get("exchange_auc", {}).items():
        areas[f"the same phrase, false after an exchange: {kind}"] = area
    return [(_escape(name), f"{area:.4f}") for name, area in areas.items()]


def _describe_calibration(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Measures of the score as a probability, before and after its calibration."""
    before, after = (result.get("calibration", {}).get(name, {}) for name in ("before", "after"))
    return [(_escape(name.replace("_", " ")), f"{before[name]:.4f}", f"{after[name]:.4f}") for name in before]


def _describe_start(base_model: str | None) -> str:
    """What training started from; of a local folder only the name."""
    if base_model is None:
        return "random weights"
    return shorten_place(base_model)


def _describe_image_size(card: ModelCard) -> str | None:
    if card.image_size is None:
        return None
    height, width = (card.image_size, card.image_size) if isinstance(card.image_size, int) else card.image_size
    return f"{height} x {width}"


def _describe_hardware(card: ModelCard) -> str | None:
    if card.hardware is None:
        return None
    return f"{card.num_processes} x {card.hardware}" if card.num_processes > 1 else card.hardware


def _show_time(seconds: float | None, num_processes: int = 1) -> str | None:
    """Hours of all processes; shorter times in minutes or seconds."""
    if seconds is None:
        return None
    total = seconds * num_processes
    unit, name = next((unit, name) for unit, name in TIME_UNITS if total >= unit or unit == 1)
    return f"{total / unit:.3g} {name}"


def _show_percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _escape(value: Any) -> str:
    """A value as one cell of a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|")
