# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Model cards from what a run left behind: a number on a card is read from the run's metrics file, never typed."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub import ModelCard as HubModelCard
from huggingface_hub.utils import HFValidationError, validate_repo_id

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
PIPELINE_TAG = "zero-shot-object-detection"
CHECKPOINT_SUFFIXES = (".bin", ".pt", ".pth", ".safetensors")
TAGS = ("visual-grounding", "grad-cam", "albef", "amc")

ALBEF_NOTICE = (
    "Weights derived from ALBEF (Li et al., NeurIPS 2021): BSD-3-Clause, Copyright (c) 2021, salesforce.com, inc. All "
    "rights reserved."
)
AMC_NOTICE = "Weights derived from AMC (Yang et al., CVPR 2023): MIT, Copyright (c) 2023 Rice-UVA Computer Vision."
CODE_NOTICE = "Code of this repository: Apache-2.0, the albef-amc authors."
ALBEF_LIMIT = "ALBEF was pre-trained on COCO images; the test images of RefCOCO+ are among them (said by its authors)."


@dataclass(frozen=True)
class Source:
    """Where weights come from: the licence that the Hub shows, the notices that they carry, the limits to state."""

    licence: str
    notices: tuple[str, ...]
    limits: tuple[str, ...] = ()


SOURCES = {
    "albef-amc": Source("apache-2.0", ("Weights: Apache-2.0, the albef-amc authors.", CODE_NOTICE)),
    "albef": Source("bsd-3-clause", (ALBEF_NOTICE, CODE_NOTICE), (ALBEF_LIMIT,)),
    "amc": Source("mit", (AMC_NOTICE, ALBEF_NOTICE, CODE_NOTICE), (ALBEF_LIMIT,)),
}


@dataclass
class ModelCard:
    """What a card says, gathered from the objects and files of a run.

    Args:
        model_name (`str`): name of the model, and of its repository where `repo_id` is not given.
        description (`str`): one or two sentences on what it is.
        metrics_file (`str` or `Path`, *optional*): JSON that the evaluation wrote: one result of the pointing game, or
            a mapping of split -> result; entries that are no result are passed over. Without it the card says that
            the checkpoint has not been evaluated.
        evaluation_dataset (`str`, defaults to `""`): what the metrics were computed on; needed with `metrics_file`.
        datasets (list of `str`): names of the training data sets.
        training_arguments (mapping): what to print of the training's arguments, in this order.
        base_model (`str`, *optional*): checkpoint that training started from.
        source (`str`, defaults to `"albef-amc"`): whose weights these derive from: `albef-amc` (trained from scratch),
            `albef` or `amc`. It decides the licence and its notices.
        repo_id (`str`, *optional*): repository or local folder in the loading line; `your-name/<model_name>` if not
            given.
        code_revision (`str`, *optional*): commit that holds the code of the checkpoint, pinned in the loading line.
        library_version (`str`): version of albef-amc; the installed one by default.
        pipeline_tag (`str`, defaults to `"zero-shot-object-detection"`): task under which the Hub lists the model.

    Raises:
        ValueError: an unknown `source`, or a metrics file without the name of the data set.
    """

    model_name: str
    description: str
    metrics_file: str | Path | None = None
    evaluation_dataset: str = ""
    datasets: list[str] = field(default_factory=list)
    training_arguments: Mapping[str, Any] = field(default_factory=dict)
    base_model: str | None = None
    source: str = "albef-amc"
    repo_id: str | None = None
    code_revision: str | None = None
    library_version: str = field(default_factory=lambda: version("albef-amc"))
    pipeline_tag: str = PIPELINE_TAG

    def __post_init__(self):
        if self.source not in SOURCES:
            raise ValueError(f"`source` must be one of {', '.join(SOURCES)}, got {self.source!r}.")
        if self.metrics_file is not None and not self.evaluation_dataset:
            raise ValueError("`metrics_file` needs `evaluation_dataset`: a number without its data set says nothing.")


def render_model_card(card: ModelCard) -> str:
    """The text of a model card: front matter that the Hub reads, and what a person should know.

    Args:
        card ([`ModelCard`]): what the card says.

    Returns:
        `str`: Markdown with YAML front matter.

    Raises:
        FileNotFoundError: there is no metrics file where the card names one.
        ValueError: the metrics file holds no result of the pointing game, or an accuracy outside [0, 1].
    """
    metrics = read_metrics(card.metrics_file) if card.metrics_file is not None else {}
    rendered = HubModelCard.from_template(
        _build_front_matter(card, metrics),
        template_path=str(TEMPLATE),
        model_name=card.model_name,
        description=card.description,
        loading_arguments=_build_loading_arguments(card),
        code_revision=card.code_revision,
        results=[_describe_result(split, result) for split, result in metrics.items()],
        evaluation_dataset=card.evaluation_dataset,
        metrics_name=Path(card.metrics_file).name if card.metrics_file is not None else None,
        datasets=card.datasets,
        base_model=card.base_model,
        training_arguments=[(_escape(name), _escape(value)) for name, value in card.training_arguments.items()],
        library_version=card.library_version,
        limits=SOURCES[card.source].limits,
        licence_notices=SOURCES[card.source].notices,
    )
    return str(rendered).rstrip() + "\n"


def write_model_card(folder: str | Path, card: ModelCard) -> Path:
    """Writes the card as `README.md` into a checkpoint folder, whole or not at all.

    Args:
        folder (`str` or `Path`): folder of the checkpoint; made where it is missing.
        card ([`ModelCard`]): what the card says.

    Returns:
        `Path` of the card.
    """
    text = render_model_card(card)
    path = Path(folder) / "README.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def read_metrics(path: str | Path) -> dict[str, dict[str, Any]]:
    """The pointing game results of a metrics file.

    Args:
        path (`str` or `Path`): JSON: one result, or split -> result.

    Returns:
        `dict`: split -> result; a single result stands under `"all"`.

    Raises:
        ValueError: the file is no JSON, holds no result, or an accuracy outside [0, 1].
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}). Evaluate the checkpoint again to write it.") from error
    entries = {"all": content} if _is_result(content) else content if isinstance(content, dict) else {}
    results = {str(split): result for split, result in entries.items() if _is_result(result)}
    if not results:
        raise ValueError(f"{path} holds no `pointing_game_accuracy`, neither for all phrases nor for a split.")
    for split, result in results.items():
        accuracies = [result["pointing_game_accuracy"], *result.get("pointing_game_accuracy_by_type", {}).values()]
        if not all(isinstance(accuracy, (int, float)) and 0 <= accuracy <= 1 for accuracy in accuracies):
            raise ValueError(f"{path}: an accuracy of {split} is outside [0, 1]. Metrics files hold fractions.")
    return results


def _is_result(value: Any) -> bool:
    return isinstance(value, dict) and {"pointing_game_accuracy", "num_phrases"} <= value.keys()


def _build_front_matter(card: ModelCard, metrics: Mapping[str, Mapping[str, Any]]) -> ModelCardData:
    results = [
        EvalResult(
            task_type=card.pipeline_tag,
            dataset_type=card.evaluation_dataset,
            dataset_name=card.evaluation_dataset,
            dataset_split=split,
            metric_type="pointing_game_accuracy",
            metric_name="Pointing game accuracy",
            metric_value=result["pointing_game_accuracy"],
        )
        for split, result in metrics.items()
    ]
    return ModelCardData(
        model_name=card.model_name,
        language="en",
        license=SOURCES[card.source].licence,
        library_name="transformers",
        pipeline_tag=card.pipeline_tag,
        tags=list(TAGS),
        datasets=[name for name in card.datasets if _is_hub_name(name)] or None,
        base_model=card.base_model if card.base_model and _is_hub_name(card.base_model) else None,
        metrics=["pointing_game_accuracy"] if results else None,
        eval_results=results or None,
    )


def _is_hub_name(name: str) -> bool:
    """Whether the Hub can link to the name; a file or words stay in the text of the card alone."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists() and Path(name).suffix not in CHECKPOINT_SUFFIXES


def _build_loading_arguments(card: ModelCard) -> str:
    """What stands between the brackets of `from_pretrained`, as Python source."""
    arguments = [json.dumps(card.repo_id or f"your-name/{card.model_name}"), "trust_remote_code=True"]
    if card.code_revision:
        arguments.append(f"code_revision={json.dumps(card.code_revision)}")
    return ", ".join(arguments)


def _describe_result(split: str, result: Mapping[str, Any]) -> dict[str, Any]:
    counts = result.get("num_phrases_by_type", {})
    types = [
        {"name": _escape(name), "accuracy": _show_percent(accuracy), "num_phrases": counts.get(name, "–")}
        for name, accuracy in result.get("pointing_game_accuracy_by_type", {}).items()
    ]
    return {
        "split": _escape(split),
        "accuracy": _show_percent(result["pointing_game_accuracy"]),
        "num_phrases": result["num_phrases"],
        "types": types,
    }


def _show_percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _escape(value: Any) -> str:
    """A value as one cell of a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|")


__all__ = ["ModelCard", "read_metrics", "render_model_card", "write_model_card"]
