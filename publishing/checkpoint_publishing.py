# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints on the Hub: the model, its processor, the code that reads them where that is ours, and the card.

A publication is built in a folder of its own and checked there before anything is uploaded.
"""

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from albef_amc import AlbefForImageTextMatching, VisualGroundingPipeline
from albef_amc.checkpoint_files_albef import ADAPTER_CONFIG_FILE, CONFIG_FILE
from albef_amc.evaluation.checkpoints import hash_checkpoint, is_albef_checkpoint, load_model_and_processor
from albef_amc.evaluation.weight_hash import hash_weights
from albef_amc.grounders import AutoGrounder, Grounder
from albef_amc.grounders.grounder import SETTINGS_FILE
from albef_amc.model_cards import (
    CARD_FILE,
    ModelCard,
    check_front_matter,
    check_weights,
    read_metrics,
    read_model_card,
    render_model_card,
)
from albef_amc.model_cards.front_matter import shorten_place
from albef_amc.publishing.grounder_cards import UNKNOWN_ORIGIN, describe_grounder
from albef_amc.publishing.repositories import (
    build_api,
    check_repository_name,
    check_token,
    create_repository,
    explaining_hub_errors,
)
from albef_amc.saving_albef import write_atomically, write_json
from albef_amc.text_files_albef import load_json, read_text_file

METRICS_FILE = "metrics.json"
PROCESSOR_FILES = ("processor_config.json", "tokenizer.json", "tokenizer_config.json")
# Files of an earlier push that the new one may not have: weights in more parts, code under another name.
REPLACED_FILES = ("model*.safetensors", "model.safetensors.index.json", "*_albef.py")
# What an evaluation writes beside its results: a local folder, and every phrase.
PRIVATE_METRICS = ("checkpoint", "phrases")
ORIGINS = {
    "albef": "a checkpoint of ALBEF, whose training is not recorded here",
    "amc": "a checkpoint of AMC, whose training is not recorded here",
    "albef-amc": UNKNOWN_ORIGIN,
}
DEFAULT_MESSAGE = "Upload model, processor, code and card"


@dataclass
class Publication:
    """A checkpoint as it will be on the Hub.

    Args:
        folder (`Path`): holds exactly the files to upload.
        repo_id (`str`): repository.
        revision (`str`, *optional*): branch; the repository's main one by default.
        card ([`~model_cards.ModelCard`], *optional*): fields of the card; `None` for one that was edited by hand,
            which is uploaded as it is.
    """

    folder: Path
    repo_id: str
    revision: str | None
    card: ModelCard | None

    def list_files(self) -> dict[str, int]:
        """Name and bytes of every file."""
        return {path.name: path.stat().st_size for path in sorted(self.folder.iterdir())}

    def write_card(self, card: ModelCard) -> None:
        """Writes the card's text into the folder."""
        write_atomically(self.folder / CARD_FILE, render_model_card(card).encode())


def prepare_publication(
    checkpoint: str | Path,
    folder: str | Path,
    repo_id: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    metrics_file: str | Path | None = None,
    source: str | None = None,
) -> Publication:
    """Builds the publication of a checkpoint: the matching model without momentum copies and queues, and the rest.

    A model of another type than ALBEF ([`~grounders.AutoGrounder`]) is published as transformers saves it, with
    `grounder.json` and without code.

    Args:
        checkpoint (`str` or `Path`): folder of a checkpoint, of training or of grounding; a LoRA adapter of ALBEF is
            added to its base model.
        folder (`str` or `Path`): empty folder to write to.
        repo_id (`str`): repository, as it stands in the card's loading line.
        revision (`str`, *optional*): branch.
        dtype (`torch.dtype`, *optional*): of the weights; the checkpoint's by default.
        metrics_file (`str` or `Path`, *optional*): what `albef-amc evaluate --output` wrote about this checkpoint, for
            the card, in the place of the evaluation of the run. Either must name the weights of this checkpoint
            ([`~evaluation.checkpoints.hash_checkpoint`]).
        source (`str`, *optional*): whose weights these derive from (see [`~model_cards.ModelCard`]), for a checkpoint
            without a card; those of another type than ALBEF are `other` by default.

    Raises:
        FileNotFoundError: no checkpoint folder, or a file is missing.
        ValueError: not a repository's name, an incomplete checkpoint, a card that the Hub cannot read, no card and no
            `source`, or numbers that were measured on other weights.
    """
    check_repository_name(repo_id, "your-name/model")
    checkpoint, folder = Path(checkpoint), Path(folder)
    _check_checkpoint(checkpoint)
    grounder = None if is_albef_checkpoint(checkpoint) else AutoGrounder.from_pretrained(checkpoint)
    card = _gather_card(checkpoint, repo_id, source, grounder)
    if card is None and metrics_file is not None:
        raise ValueError(
            f"{checkpoint / CARD_FILE} was edited by hand: write the metrics into it, not `--metrics-file`."
        )
    if card is not None:
        changes = {} if metrics_file is None else _describe_metrics(metrics_file)
        changes |= {"model_name": repo_id.rpartition("/")[2], "has_code": grounder is None}
        card = dataclasses.replace(card, repo_id=repo_id, revision=revision, **changes)
    published_metrics = checkpoint / METRICS_FILE if card is None else card.metrics_file
    if published_metrics is not None and Path(published_metrics).is_file():
        weights_sha256 = hash_checkpoint(checkpoint) if grounder is None else hash_weights(grounder.model)
        check_weights(published_metrics, read_metrics(published_metrics), weights_sha256)
        if card is not None:
            card.weights_sha256 = weights_sha256
    if grounder is None:
        model, processor = load_model_and_processor(AlbefForImageTextMatching, checkpoint)
        stored = model.dtype
        model = model.to(stored if dtype is None else dtype).eval()
        VisualGroundingPipeline(model=model, processor=processor, device="cpu").save_pretrained(str(folder))
    else:
        stored = grounder.dtype
        grounder.to(stored if dtype is None else dtype).save_pretrained(folder)
    if card is not None and dtype not in (None, stored):
        card.converted_dtype = (_name(stored), _name(dtype))
    publication = Publication(folder, repo_id, revision, card)
    _place_card(publication, checkpoint)
    _check_folder(folder, needs_code=grounder is None)
    return publication


def _place_card(publication: Publication, checkpoint: Path) -> None:
    """The card and the metrics that it was read from, into the folder of the publication."""
    card, folder = publication.card, publication.folder
    if card is None:
        for name in (CARD_FILE, METRICS_FILE):
            if (checkpoint / name).is_file():
                shutil.copyfile(checkpoint / name, folder / name)
        return
    if card.metrics_file is not None:
        results = {
            split: {
                name: shorten_place(value) if name == "dataset" and isinstance(value, str) else value
                for name, value in result.items()
                if name not in PRIVATE_METRICS
            }
            for split, result in read_metrics(card.metrics_file).items()
        }
        card.metrics_file = folder / METRICS_FILE
        write_json(card.metrics_file, results)
    publication.write_card(card)


def _describe_metrics(path: str | Path) -> dict[str, Any]:
    """Fields of a card for a file that `albef-amc evaluate --output` wrote."""
    results = read_metrics(path)
    datasets = {str(result.get("dataset", "")) for result in results.values()}
    if len(datasets) != 1 or not all(datasets):
        raise ValueError(f"{path} names no `dataset`. Give a file that `albef-amc evaluate --output` wrote.")
    (dataset,) = datasets
    return {"metrics_file": path, "evaluation_dataset": shorten_place(dataset), "evaluation_split": None}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_checkpoint(checkpoint: Path) -> None:
    if not checkpoint.is_dir():
        raise FileNotFoundError(f"No checkpoint folder at {checkpoint}. Give a folder that a run or `convert` wrote.")
    if not any((checkpoint / name).is_file() for name in (CONFIG_FILE, ADAPTER_CONFIG_FILE)):
        raise FileNotFoundError(f"No `{CONFIG_FILE}` in {checkpoint}: this is not a checkpoint folder.")


def _gather_card(checkpoint: Path, repo_id: str, source: str | None, grounder: Grounder | None) -> ModelCard | None:
    """Fields of the checkpoint's card, or `None` where it was edited by hand; of a new one where there is none."""
    if (checkpoint / CARD_FILE).is_file():
        if source is not None:
            raise ValueError(f"`--source {source}`, but {checkpoint / CARD_FILE} says whose weights these are.")
        return read_model_card(checkpoint)
    name = repo_id.rpartition("/")[2]
    if grounder is not None:
        fields = describe_grounder(grounder) | ({} if source is None else {"source": source})
        description = f"A `{fields['grounder_class']}` that shows where phrases are in photographs."
        commit = grounder.source["commit"]
        if commit is None:
            fields["base_model"] = UNKNOWN_ORIGIN
        else:
            description += f" Its weights are those of {fields['base_model']} at commit `{commit}`."
        return ModelCard(model_name=name, description=description, **fields)
    if source is None:
        raise ValueError(
            f"{checkpoint} has no card (`{CARD_FILE}`) that says whose weights these are, and under which licence. "
            f"Say it with `--source`: {', '.join(ORIGINS)}."
        )
    return ModelCard(
        model_name=name,
        description="An ALBEF model for phrase grounding.",
        base_model=ORIGINS.get(source),
        source=source,
    )


def _check_folder(folder: Path, needs_code: bool) -> None:
    """Refuses a folder that lacks a file that users of the Hub need."""
    needed = [CARD_FILE]
    if needs_code:
        config = load_json(folder / CONFIG_FILE)
        modules = {reference.partition(".")[0] + ".py" for reference in config["auto_map"].values()}
        modules |= {entry["impl"].partition(".")[0] + ".py" for entry in config["custom_pipelines"].values()}
        needed += [*PROCESSOR_FILES, *sorted(modules)]
    else:  # tokenizers of other models have other files, such as `spiece.model`
        needed += ["processor_config.json", "tokenizer_config.json", SETTINGS_FILE]
    missing = [name for name in needed if not (folder / name).is_file()]
    if not any(folder.glob("model*.safetensors")):
        missing.append("model.safetensors")
    if missing:
        raise FileNotFoundError(f"nothing was uploaded: the checkpoint to publish lacks {', '.join(missing)}.")
    check_front_matter(read_text_file(folder / CARD_FILE))


def upload_publication(
    publication: Publication,
    *,
    private: bool | None = None,
    message: str = DEFAULT_MESSAGE,
    token: str | None = None,
) -> dict[str, Any]:
    """Uploads a publication in one commit, then the card again, with that commit pinned as the revision of its code.

    Args:
        publication ([`Publication`]): what to upload.
        private (`bool`, *optional*): whether a new repository is private.
        message (`str`): of the commit.
        token (`str`, *optional*): with write permission; the one of `hf auth login` or `HF_TOKEN` by default.

    Returns:
        `dict`: `url` of the repository, `commit` of the files, `code_revision` in the card (`None` without code, and
        for a card that was edited by hand).

    Raises:
        ValueError: no token, or the Hub refuses; also where `private` is asked for and the repository is public.
        ConnectionError: the Hub cannot be reached or has failed.
    """
    check_token(token)
    api = build_api(token)
    with explaining_hub_errors(publication.repo_id):
        url = create_repository(api, publication.repo_id, "model", private)
        repo_id = url.repo_id
        if publication.revision is not None:
            api.create_branch(repo_id, branch=publication.revision, exist_ok=True)
        where: dict[str, Any] = {"repo_id": repo_id, "revision": publication.revision}
        commit = api.upload_folder(
            folder_path=publication.folder, commit_message=message, delete_patterns=list(REPLACED_FILES), **where
        )
        pinned = None
        if publication.card is not None and publication.card.has_code:
            pinned = commit.oid
            publication.write_card(dataclasses.replace(publication.card, code_revision=pinned))
            api.upload_file(
                path_or_fileobj=publication.folder / CARD_FILE,
                path_in_repo=CARD_FILE,
                commit_message="Pin the code revision in the card",
                **where,
            )
    return {"url": str(url), "commit": commit.oid, "code_revision": pinned}


def publish_checkpoint(
    checkpoint: str | Path, repo_id: str, *, revision: str | None = None, **upload_options
) -> dict[str, Any]:
    """[`prepare_publication`] in a temporary folder, then [`upload_publication`]."""
    with TemporaryDirectory() as folder:
        publication = prepare_publication(checkpoint, folder, repo_id, revision=revision)
        return upload_publication(publication, **upload_options)
