# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Converts original checkpoints of ALBEF and AMC to checkpoint folders."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from albef_amc.configuration_albef import AlbefConfig, AlbefVisionConfig
from albef_amc.conversion.original_checkpoints import (
    IMAGES_PER_TEXT,
    OriginalKind,
    find_ignored_reason,
    find_kind,
    infer_config,
    list_kinds,
    rename_original_key,
)
from albef_amc.conversion.report import ConversionReport, IncompleteCheckpointError, list_names
from albef_amc.conversion.weight_files import (
    check_output_dir,
    check_values,
    load_original_state_dict,
    replacing_folder,
    resize_positions,
)
from albef_amc.image_processing_albef import AlbefImageProcessor
from albef_amc.pretrained_albef import SPECIAL_TOKEN_IDS, AlbefPreTrainedModel
from albef_amc.pretraining_losses_albef import UNKNOWN_ID
from albef_amc.processing_albef import AlbefProcessor
from albef_amc.ranges_albef import check_choice
from albef_amc.text_processing_albef import build_tokenizer

MODEL_CLASSES = AlbefPreTrainedModel.task_classes
# Entries of our models that are skipped, and why: those that only training needs, and those that a class does not use.
MOMENTUM = (
    (r"^momentum_", "momentum copy; kept on request"),
    (r"^(image|text)_queue", "queue of momentum features; kept on request"),
)
WORD_HEAD = (r"^mlm_head\.", "masked-word head, which only pre-training uses; kept with the momentum copies")
TEMPERATURE = "albef.temperature"  # one entry in our models, a scalar in the originals
IMAGE_QUEUE_IDS = "image_queue_ids"  # of both queues in the originals, in one row
EMPTY_QUEUE_ID = -100  # identity of an empty queue entry in the originals


def convert_checkpoint(
    path: str | Path,
    output_dir: str | Path,
    vocab: str | Path | Sequence[str],
    overrides: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    keep_momentum: bool = False,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    model_class: str | None = None,
) -> ConversionReport:
    """Convert an original checkpoint of ALBEF or AMC to a checkpoint folder with its processor.

    The names of its entries show which of the published models it is. The folder appears complete or not at all: it
    is written under another name and renamed.

    Args:
        path (`str` or `Path`): original `.pth`, `{'model': state_dict, ...}` or only the state dict. It is read
            without running any code in it.
        output_dir (`str` or `Path`): folder to write.
        vocab (`str`, `Path` or sequence of `str`): BERT's `vocab.txt`, or its tokens.
        overrides (`Mapping[str, Any]`, *optional*): configuration values that the tensors do not show, by dotted name
            (`{"vision_config.num_attention_heads": 4, "explanation_layer": 4}`).
        image_size (`int`, *optional*): resize the position embeddings for images of this side in pixels.
        keep_momentum (`bool`, defaults to `False`): keep momentum copies and queues, to train on. A pre-training
            checkpoint becomes [`AlbefForPreTraining`] with them, and [`AlbefForImageTextMatching`] without.
        dtype (`torch.dtype`, *optional*): data type of the weights; float32 by default, and always with
            `keep_momentum`.
        overwrite (`bool`, defaults to `False`): replace `output_dir` if it is a checkpoint folder.
        model_class (`str`, *optional*): name of the class to write, where the kind has several; that of the kind by
            default.

    Returns:
        [`ConversionReport`]
    """
    dtype = dtype or torch.float32
    if keep_momentum and dtype != torch.float32:
        raise ValueError(
            f"momentum copies and queues stay float32: with {dtype} they would stop moving. Do not give `dtype` "
            "or do not give `keep_momentum`."
        )
    output_dir = Path(output_dir).expanduser().resolve()
    check_output_dir(output_dir, overwrite)
    report = ConversionReport(source=str(path), output_dir=str(output_dir), dtype=str(dtype).removeprefix("torch."))
    original, overrides = load_original_state_dict(path), dict(overrides or {})
    kind = find_kind(original, str(path), overrides.get(IMAGES_PER_TEXT))
    report.kind, report.model_class = kind.name, choose_class(kind, model_class, keep_momentum, str(path))
    config, report.notes = infer_config(original, overrides)
    tokenizer = _build_matching_tokenizer(vocab, config, overrides)
    state, report.ignored, report.unexpected = rename_state_dict(original, report.model_class, keep_momentum)
    report.num_converted = len(original) - sum(map(len, report.ignored.values())) - len(report.unexpected)
    if keep_momentum and not any(name.startswith("momentum_") for name in state):
        report.notes.append("there are no momentum copies to keep.")
    if keep_momentum and "image_queue" in state:
        queues, notes = _complete_queues(state)
        state, report.notes = state | queues, report.notes + notes
    if image_size is not None:
        old_grid, values = config.vision_config.grid_size, config.vision_config.to_dict() | {"image_size": image_size}
        config.vision_config = AlbefVisionConfig(**values)  # a new object, so that the size is checked
        resized, report.resized = resize_positions(state, old_grid, config.vision_config.grid_size)
        state |= resized
    model, state = _build_model(config, state, report, dtype, keep_momentum)
    report.dimensions = _describe_dimensions(config, report.model_class)
    height, width = config.vision_config.image_height_width
    processor = AlbefProcessor(AlbefImageProcessor(size={"height": height, "width": width}), tokenizer)
    with replacing_folder(output_dir) as folder:
        model.save_pretrained(folder, state_dict=state)
        processor.save_pretrained(folder)
    return report


def choose_class(kind: OriginalKind, asked: str | None, keep_momentum: bool, source: str) -> str:
    """Name of the class to write; an error that names both kinds if the checkpoint is not for the class asked for."""
    trained_class = kind.trained_class.__name__
    if asked is None:
        return trained_class if keep_momentum else kind.classes[0]
    check_choice("model_class", asked, sorted({name for each in list_kinds() for name in each.classes}))
    if asked not in kind.classes:
        way = f" Convert it, and load the folder with {asked}, which starts from it."
        raise ValueError(
            f"{source} is {kind.name}, but {asked} is for {MODEL_CLASSES[asked].task}. It converts to "
            f"{' or '.join(kind.classes)}.{way if kind.trained_class.is_general else ''}"
        )
    if keep_momentum and asked != trained_class:
        raise ValueError(
            f"{asked} has no momentum copies to keep. Do not give `keep_momentum`, or write {trained_class}."
        )
    return asked


def rename_state_dict(
    original: Mapping[str, torch.Tensor], model_class: str, keep_momentum: bool
) -> tuple[dict[str, torch.Tensor], dict[str, list[str]], list[str]]:
    """Entries under our names; original names of those that are skipped, by reason; and those that are unexpected."""
    state: dict[str, torch.Tensor] = {}
    ignored: dict[str, list[str]] = {}
    unexpected: list[str] = []
    skipped = () if keep_momentum else MOMENTUM
    if WORD_HEAD[0] in (MODEL_CLASSES[model_class]._keys_to_ignore_on_load_unexpected or ()):
        skipped += (WORD_HEAD,)
    for name, tensor in original.items():
        renamed = rename_original_key(name)
        reason = find_ignored_reason(name)
        if renamed is not None:
            reason = next((reason for pattern, reason in skipped if re.search(pattern, renamed)), None)
        if reason is not None:
            ignored.setdefault(reason, []).append(name)
        elif renamed is None:
            unexpected.append(name)
        else:
            if renamed in (TEMPERATURE, IMAGE_QUEUE_IDS):
                tensor = tensor.flatten()
            if renamed in state and not torch.equal(state[renamed], tensor):
                raise ValueError(f"`{name}` differs from the entry it shares its values with: {renamed}.")
            state[renamed] = tensor
    return state, ignored, unexpected


def _complete_queues(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Pointers and identities of both queues, of which the originals have one each, or none; and notes on them."""
    queues: dict[str, torch.Tensor] = {}
    if "image_queue_pointer" in state:
        queues["text_queue_pointer"] = state.get("text_queue_pointer", state["image_queue_pointer"].clone())
    ids = state.get(IMAGE_QUEUE_IDS, torch.full((state["image_queue"].shape[1],), UNKNOWN_ID))
    queues[IMAGE_QUEUE_IDS] = torch.where(ids == EMPTY_QUEUE_ID, UNKNOWN_ID, ids)
    queues["text_queue_ids"] = queues[IMAGE_QUEUE_IDS].clone()
    queues["text_queue_text_ids"] = torch.full_like(ids, UNKNOWN_ID)
    num_known = int((queues[IMAGE_QUEUE_IDS] != UNKNOWN_ID).sum())
    note = (
        f"the queues name {num_known} images of the data set that was trained on. To train on another, reset them: "
        "fill `image_queue_ids` and `text_queue_ids` with -1."
    )
    return queues, [note] if num_known else []


def _build_matching_tokenizer(
    vocab: str | Path | Sequence[str], config: AlbefConfig, overrides: Mapping[str, Any]
) -> PreTrainedTokenizerFast:
    """Build the tokenizer, check that it has a token per embedding, and take the special ids from it."""
    text = config.text_config
    tokenizer = build_tokenizer(vocab, model_max_length=text.max_position_embeddings)
    if len(tokenizer) != text.vocab_size:
        raise ValueError(
            f"`vocab` has {len(tokenizer)} tokens but the checkpoint {text.vocab_size} word embeddings: phrases would "
            "be read as other words. Use the vocabulary that the checkpoint was trained with."
        )
    for name in SPECIAL_TOKEN_IDS:
        if f"text_config.{name}" not in overrides:
            setattr(text, name, getattr(tokenizer, name))
    return tokenizer


def find_aliases(model: torch.nn.Module) -> dict[str, str]:
    """Further names of weights that a model holds under several names, each with the first."""
    owners: dict[int, str] = {}
    names = {name: owners.setdefault(id(tensor), name) for name, tensor in model.state_dict(keep_vars=True).items()}
    return {name: owner for name, owner in names.items() if name != owner}


def _build_model(
    config: AlbefConfig,
    state: Mapping[str, torch.Tensor],
    report: ConversionReport,
    dtype: torch.dtype,
    keep_momentum: bool,
) -> tuple[AlbefPreTrainedModel, dict[str, torch.Tensor]]:
    """Check names, shapes and values, and put the tensors into a model without initialising it first.

    Returns:
        `tuple`: the model, whose momentum copies have no values unless they are kept, and the weights to save.
    """
    with torch.device("meta"):
        model = MODEL_CLASSES[report.model_class](config)
    model.tie_weights()
    aliases = find_aliases(model)
    state = _join_aliases(state, aliases)
    weights = model.state_dict()
    needless = {
        name for name in weights if not keep_momentum and any(re.search(pattern, name) for pattern, _ in MOMENTUM)
    }
    report.missing = sorted(weights.keys() - state.keys() - aliases.keys() - needless)
    if report.missing:
        raise IncompleteCheckpointError(report)
    unexpected = sorted(state.keys() - weights.keys())
    report.unexpected += unexpected
    report.num_converted -= len(unexpected)
    state = {name: tensor for name, tensor in state.items() if name in weights}
    check_values(state, weights, report.source)
    wrong = [name for name, tensor in state.items() if tensor.is_floating_point() != weights[name].is_floating_point()]
    if wrong:
        kinds = list_names([f"{name} ({state[name].dtype})" for name in wrong])
        raise ValueError(f"{report.source} has {len(wrong)} entries of the wrong type of number: {kinds}.")
    stored = {str(tensor.dtype).removeprefix("torch.") for tensor in state.values() if tensor.is_floating_point()}
    if stored != {report.dtype}:
        report.notes.append(f"weights are stored as {', '.join(sorted(stored))} and written as {report.dtype}.")
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    model.load_state_dict(state, strict=False, assign=True)
    return model, state


def _join_aliases(state: Mapping[str, torch.Tensor], aliases: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """One name of every weight that the model holds under several names; the values must be equal."""
    joined = {name: tensor for name, tensor in state.items() if name not in aliases}
    for name, owner in aliases.items():
        if name in state and not torch.equal(state[name], joined.setdefault(owner, state[name])):
            raise ValueError(f"`{name}` differs from `{owner}`, to which ALBEF ties it: the checkpoint is damaged.")
    return joined


def _describe_dimensions(config: AlbefConfig, model_class: str) -> dict[str, Any]:
    names = ("image_size", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    vision = {f"vision_config.{name}": getattr(config.vision_config, name) for name in names}
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "fusion_layer")
    text = {f"text_config.{name}": getattr(config.text_config, name) for name in names}
    names = ("explanation_layer", "explanation_block", *MODEL_CLASSES[model_class].reported_settings)
    return {**vision, **text, **{name: getattr(config, name) for name in names}}


__all__ = ["ConversionReport", "IncompleteCheckpointError", "convert_checkpoint"]
