# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Loading complete checkpoints: a model with a new matching head would ground at random, so it is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard as HubModelCard
from transformers.utils import cached_file

from albef_amc import AlbefConfig, AlbefForImageTextMatching, AlbefForPreTraining, AlbefProcessor
from albef_amc.checkpoint_checks_albef import check_loaded_weights
from albef_amc.checkpoint_files_albef import check_settings, find_checkpoint
from albef_amc.checkpoints import BASE_MODEL, BASE_MODEL_NAME, check_base_model
from albef_amc.evaluation.weight_hash import hash_tensors, hash_weights
from albef_amc.lora.adapter_files import (
    ADAPTER_CONFIG_FILE,
    CONFIG_FILE,
    describe_adapter,
    is_adapter,
    merge_into,
    read_base_name,
)
from albef_amc.lora.adapters import check_peft_is_installed
from albef_amc.messages_albef import list_first
from albef_amc.model_cards import ModelCard, write_model_card
from albef_amc.model_cards.sources import SOURCES
from albef_amc.processor_checks_albef import check_fits_model


def resolve_checkpoint(checkpoint: str | Path) -> str:
    """Folder or repository of a checkpoint as commands and recipes name it: `base` is the base model that ships.

    `from_pretrained` knows no such name. A `Path` is always a folder, and so is `./base`.

    Args:
        checkpoint (`str` or `Path`): the name.

    Raises:
        ValueError: the base model's files were changed, or there is a checkpoint folder of this name as well.
        FileNotFoundError: the base model is missing.
    """
    if checkpoint != BASE_MODEL_NAME:
        return str(checkpoint)
    if any((Path(BASE_MODEL_NAME) / name).is_file() for name in (CONFIG_FILE, ADAPTER_CONFIG_FILE)):
        raise ValueError(
            f"`{BASE_MODEL_NAME}` is the base model that ships with albef-amc, and a checkpoint folder here. Give "
            f"`./{BASE_MODEL_NAME}` for the folder, or {BASE_MODEL} for the base model."
        )
    check_base_model(BASE_MODEL)
    return BASE_MODEL


def describe_checkpoint(checkpoint: str) -> str:
    """A checkpoint as cards name it: the base model that ships in words, since no repository has its name."""
    return "the base model of albef-amc" if checkpoint in (BASE_MODEL_NAME, BASE_MODEL) else checkpoint


def is_albef_checkpoint(checkpoint: str | Path, revision: str | None = None) -> bool:
    """Whether a checkpoint is one of ALBEF or a LoRA adapter for it, which [`load_model_and_processor`] loads.

    Other types of model are for [`~grounders.AutoGrounder`]. A folder without a configuration counts as one of ALBEF.

    Args:
        checkpoint (`str` or `Path`): folder or Hub repository, or `base` ([`resolve_checkpoint`]).
        revision (`str`, *optional*): branch, tag or commit of the repository.

    Raises:
        FileNotFoundError: a path that is not a checkpoint folder.
        ValueError: a configuration that is not JSON.
    """
    checkpoint = resolve_checkpoint(checkpoint)
    settings = check_settings(checkpoint, [CONFIG_FILE], find_checkpoint(checkpoint, _build_arguments(revision)))
    model_type = settings.get(CONFIG_FILE, {}).get("model_type", AlbefConfig.model_type)
    return model_type == AlbefConfig.model_type


def _build_arguments(revision: str | None) -> dict[str, Any]:
    return {} if revision is None else {"revision": revision}


def load_model_and_processor(
    model_class: type[AlbefForImageTextMatching] | type[AlbefForPreTraining],
    checkpoint: str | Path,
    image_size: int | None = None,
    may_lack: Sequence[str] = (),
    base: str | Path | None = None,
    revision: str | None = None,
) -> tuple[Any, AlbefProcessor]:
    """Model and processor of a checkpoint; an adapter is merged into its base on the way.

    Args:
        model_class (`type`): class of the model.
        checkpoint (`str` or `Path`): folder or Hub repository, of a model or of an adapter, or `base`
            ([`resolve_checkpoint`]).
        image_size (`int`, *optional*): image side in pixels, if not the checkpoint's.
        may_lack (sequence of `str`, *optional*): prefixes of weights that may be missing; those are
            initialised at random.
        base (`str` or `Path`, *optional*): checkpoint that an adapter belongs to, if not the one that it names.
        revision (`str`, *optional*): branch, tag or commit of the repository; not for an adapter.

    Raises:
        FileNotFoundError: a path that is not a checkpoint folder, or an adapter whose base is missing.
        ValueError: a checkpoint of another architecture, or one that lacks weights of this one, heads included, or a
            base model that was changed.
    """
    checkpoint = resolve_checkpoint(checkpoint)
    found = find_checkpoint(checkpoint, _build_arguments(revision))
    size = {} if image_size is None else {"size": {"height": image_size, "width": image_size}}
    processor: Any = AlbefProcessor.from_pretrained(checkpoint, **found, **size)
    if is_adapter(checkpoint, found):
        check_peft_is_installed()
        if revision is not None:
            raise ValueError(
                f"{checkpoint} is an adapter, whose revision cannot be chosen here. Download that revision (`hf "
                f"download {checkpoint} --revision {revision} --local-dir FOLDER`), and give the folder."
            )
        model = _load_base(model_class, checkpoint, base, may_lack)
        trained_size = (processor.image_processor.size.height, processor.image_processor.size.width)
        if model.config.vision_config.image_height_width != trained_size:
            model.resize_image(trained_size)
        check_fits_model(processor, model.config)
        merge_into(model, checkpoint)
        check_loaded_weights(model, checkpoint)
        model.name_or_path = model.config.name_or_path = checkpoint
    else:
        model = _load_model(model_class, checkpoint, image_size, may_lack, found)
        check_fits_model(processor, model.config)
    return model, processor


def _load_model(
    model_class: Any, checkpoint: str, image_size: int | None, may_lack: Sequence[str], found: dict[str, Any]
) -> Any:
    model, info = model_class.from_pretrained(
        checkpoint, image_size=image_size, output_loading_info=True, ignore_mismatched_sizes=True, **found
    )
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(tuple(may_lack)))
    missing += sorted(str(name) for name, *_ in info["mismatched_keys"])
    if missing:
        raise ValueError(
            f"{checkpoint} lacks {len(missing)} weights of {model_class.__name__} or has them in another shape: "
            f"{list_first(missing)}. Its heatmaps would mean nothing; get a complete checkpoint."
        )
    return model


def _load_base(model_class: Any, adapter: str, base: str | Path | None, may_lack: Sequence[str]) -> Any:
    base = read_base_name(adapter) if base is None else resolve_checkpoint(base)
    try:
        found = find_checkpoint(base)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The adapter {adapter} was trained on {base}, which cannot be found. Put that checkpoint there, or merge "
            "the adapter with its base elsewhere: `albef-amc merge ADAPTER --base CHECKPOINT --output-dir FOLDER`. "
            f"({error})"
        ) from error
    if is_adapter(base, found):
        raise ValueError(f"the base of {adapter}, {base}, is an adapter itself. Merge that first: `albef-amc merge`.")
    return _load_model(model_class, base, None, may_lack, found)


def hash_checkpoint(checkpoint: str | Path, revision: str | None = None) -> str:
    """The hash of the weights of a checkpoint's matching model (see [`~evaluation.weight_hash.hash_weights`]).

    A training checkpoint and the matching model exported from it have the same hash, whatever their data types (up to
    float32), files and image sizes in use. The hash of an adapter is computed from that of its base, its own weights
    and its scale, so that it does not depend on the machine that merges them.

    Args:
        checkpoint (`str` or `Path`): folder or Hub repository, of a model or of an adapter, or `base`.
        revision (`str`, *optional*): branch, tag or commit of the repository; not for an adapter.

    Raises:
        FileNotFoundError, ValueError: a checkpoint that cannot be used, as for [`load_model_and_processor`].
    """
    checkpoint = resolve_checkpoint(checkpoint)
    found = find_checkpoint(checkpoint, _build_arguments(revision))
    with torch.random.fork_rng(devices=[]):  # a resumed run hashes fewer checkpoints, and must draw the same numbers
        if not is_adapter(checkpoint, found):
            return hash_weights(_load_model(AlbefForImageTextMatching, checkpoint, None, (), found))
        check_peft_is_installed()
        base = _load_base(AlbefForImageTextMatching, checkpoint, None, ())
    scale, weights = describe_adapter(checkpoint)
    return hash_tensors(weights, prefix=f"{hash_weights(base)} {scale}")


def merge_adapter(adapter: str | Path, output_dir: str | Path, base: str | Path | None = None) -> Path:
    r"""Writes a plain matching checkpoint of an adapter and its base: no `peft` is needed to use it.

    Scores and heatmaps are those of base and adapter together. The card takes over the licence of the adapter's.

    Args:
        adapter (`str` or `Path`): folder or Hub repository of the adapter.
        output_dir (`str` or `Path`): folder to write; one that holds a checkpoint is refused.
        base (`str` or `Path`, *optional*): checkpoint that the adapter was trained on, if not the one that it names;
            `base` is the base model that ships.

    Returns:
        `Path` of the folder.

    Raises:
        FileNotFoundError: no adapter, or no base.
        ValueError: a complete checkpoint instead of an adapter, one that does not fit the base, or an existing output.
    """
    adapter, output_dir = resolve_checkpoint(adapter), Path(output_dir)
    for name in (ADAPTER_CONFIG_FILE, CONFIG_FILE):
        if (output_dir / name).is_file():
            raise ValueError(f"{output_dir} holds a checkpoint. Choose another folder to write.")
    if Path(adapter).is_dir() and not is_adapter(adapter):
        raise ValueError(f"{adapter} is not an adapter: it has no {ADAPTER_CONFIG_FILE}, or is a complete model.")
    model, processor = load_model_and_processor(AlbefForImageTextMatching, adapter, base=base)
    base_name = describe_checkpoint(read_base_name(adapter) if base is None else str(base))
    model.save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
    card = ModelCard(
        model_name=output_dir.resolve().name,
        description=f"An ALBEF model for phrase grounding: {base_name} merged with the LoRA adapter {adapter}.",
        base_model=base_name,
        **_read_source(adapter),
    )
    write_model_card(output_dir, card)
    return output_dir


def _read_source(adapter: str) -> dict[str, Any]:
    """The source of the weights, from the licence in the adapter's card."""
    path = cached_file(adapter, "README.md", _raise_exceptions_for_missing_entries=False)
    licence = None if path is None else HubModelCard.load(path).data.license
    names = [name for name, source in SOURCES.items() if source.licence == licence]
    return {"source": names[0]} if names else {}


__all__ = [
    "describe_checkpoint",
    "hash_checkpoint",
    "is_albef_checkpoint",
    "load_model_and_processor",
    "merge_adapter",
    "resolve_checkpoint",
]
