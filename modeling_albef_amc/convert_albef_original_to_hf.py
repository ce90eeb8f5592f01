# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Original pre-training checkpoints of ALBEF and AMC to checkpoint folders; this file is never shipped with one."""

import errno
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerFast

from .configuration_albef import AlbefConfig, AlbefVisionConfig
from .contrastive_albef import UNKNOWN_IMAGE_ID
from .encoders_albef import resize_position_embeddings
from .image_processing_albef import AlbefImageProcessor
from .modeling_albef import AlbefForImageTextMatching, AlbefForPreTraining
from .original_albef import (
    find_ignored_reason,
    find_kind,
    infer_config,
    list_names,
    load_original_state_dict,
    rename_original_key,
)
from .processing_albef import AlbefProcessor
from .text_processing_albef import build_tokenizer

# Names of our models that only pre-training uses.
PRE_TRAINING_ONLY = (
    (r"^(momentum_\w+)\.", "momentum copy; kept on request"),
    (r"^(image|text)_queue", "queue of momentum features; kept on request"),
    (r"^mlm_head\.", "masked-word head, which only pre-training uses; kept with the momentum copies"),
)
TEMPERATURE = "albef.temperature"  # one entry in our models, a scalar in the originals
TIED = (
    ("mlm_head.decoder.weight", "albef.text_model.word_embeddings.weight"),
    ("momentum_mlm_head.decoder.weight", "momentum_text_model.word_embeddings.weight"),
)


@dataclass
class ConversionReport:
    """What a conversion did.

    Args:
        source, output_dir (`str`): file read and folder written.
        kind (`str`): which model the checkpoint holds.
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


def convert_checkpoint(
    path: str | Path,
    output_dir: str | Path,
    vocab: str | Path | Sequence[str],
    overrides: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    keep_momentum: bool = False,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> ConversionReport:
    """Convert an original pre-training checkpoint of ALBEF or AMC to a checkpoint folder with its processor.

    The folder appears complete or not at all: it is written beside its place and renamed.

    Args:
        path (`str` or `Path`): original `.pth`, `{'model': state_dict, ...}` or the state dict alone. It is read
            without running any code that it may hold.
        output_dir (`str` or `Path`): folder to write.
        vocab (`str`, `Path` or sequence of `str`): BERT's `vocab.txt`, or its pieces.
        overrides (`Mapping[str, Any]`, *optional*): configuration values that the tensors do not tell, by dotted name
            (`{"vision_config.num_attention_heads": 4, "explanation_layer": 4}`).
        image_size (`int`, *optional*): resize the position embeddings for images of this side in pixels.
        keep_momentum (`bool`, defaults to `False`): write [`AlbefForPreTraining`] with momentum copies, queues (their
            image ids unknown) and the masked-word head, to train on; otherwise [`AlbefForImageTextMatching`].
        dtype (`torch.dtype`, *optional*): data type of the weights; float32 by default, and always with
            `keep_momentum`.
        overwrite (`bool`, defaults to `False`): replace `output_dir` if it is a checkpoint folder.

    Returns:
        [`ConversionReport`]
    """
    dtype = dtype or torch.float32
    if keep_momentum and dtype != torch.float32:
        raise ValueError(
            f"momentum copies and queues stay float32: with {dtype} they would stop moving. Leave out `dtype` or "
            "`keep_momentum`."
        )
    output_dir = Path(output_dir).expanduser().resolve()
    check_output_dir(output_dir, overwrite)
    report = ConversionReport(source=str(path), output_dir=str(output_dir), dtype=str(dtype).removeprefix("torch."))
    original = load_original_state_dict(path)
    report.kind = find_kind(original, str(path))
    config, report.notes = infer_config(original, overrides)
    tokenizer = _build_matching_tokenizer(vocab, config, overrides or {})
    model_class = AlbefForPreTraining if keep_momentum else AlbefForImageTextMatching
    report.model_class = model_class.__name__
    state = rename_state_dict(original, config, report, keep_momentum)
    if image_size is not None:
        resize_images(state, config, image_size, report)
    model = _build_model(model_class, config, state, report, dtype)
    report.dimensions = _describe_dimensions(config)
    height, width = config.vision_config.image_height_width
    processor = AlbefProcessor(AlbefImageProcessor(size={"height": height, "width": width}), tokenizer)
    with written_whole(output_dir) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return report


def rename_state_dict(
    original: Mapping[str, torch.Tensor], config: AlbefConfig, report: ConversionReport, keep_momentum: bool
) -> dict[str, torch.Tensor]:
    """Rename every entry, sort out what is not needed, and note both in `report`."""
    state: dict[str, torch.Tensor] = {}
    for name, tensor in original.items():
        renamed = rename_original_key(name)
        reason = find_ignored_reason(name)
        if renamed is not None and not keep_momentum:
            reason = next((reason for pattern, reason in PRE_TRAINING_ONLY if re.search(pattern, renamed)), None)
        if reason is not None:
            report.ignored.setdefault(reason, []).append(name)
        elif renamed is None:
            report.unexpected.append(name)
        else:
            if renamed == TEMPERATURE:
                tensor = tensor.reshape(1)
            if renamed in state and not torch.equal(state[renamed], tensor):
                raise ValueError(f"`{name}` differs from the entry it shares its values with: {renamed}.")
            state[renamed] = tensor
            report.num_converted += 1
    for name, owner in TIED:
        tied = state.pop(name, None)
        if tied is not None and owner in state and not torch.equal(tied, state[owner]):
            raise ValueError(f"`{name}` differs from `{owner}`, to which ALBEF ties it: the checkpoint is damaged.")
    if keep_momentum:
        if "image_queue_pointer" in state:  # ALBEF has one pointer for both queues
            state.setdefault("text_queue_pointer", state["image_queue_pointer"].clone())
        for modality in ("image", "text"):
            state[f"{modality}_queue_ids"] = torch.full((config.queue_size,), UNKNOWN_IMAGE_ID)
    return state


def resize_images(
    state: dict[str, torch.Tensor], config: AlbefConfig, image_size: int, report: ConversionReport
) -> None:
    """Fit position embeddings and configuration to images of `image_size` pixels a side, and note it in `report`."""
    old_grid = config.vision_config.grid_size
    # Built anew, so that the size is checked.
    config.vision_config = AlbefVisionConfig(**{**config.vision_config.to_dict(), "image_size": image_size})
    new_grid = config.vision_config.grid_size
    for name in [name for name in state if name.endswith("vision_model.position_embeddings")]:
        if new_grid != old_grid:
            resized = resize_position_embeddings(state[name], old_grid, new_grid)
            report.resized[name] = f"{tuple(state[name].shape)} to {tuple(resized.shape)}"
            state[name] = resized


def _build_matching_tokenizer(
    vocab: str | Path | Sequence[str], config: AlbefConfig, overrides: Mapping[str, Any]
) -> PreTrainedTokenizerFast:
    """Build the tokenizer, check that it has a piece per embedding, and take the special ids from it."""
    text = config.text_config
    tokenizer = build_tokenizer(vocab, model_max_length=text.max_position_embeddings)
    if len(tokenizer) != text.vocab_size:
        raise ValueError(
            f"`vocab` has {len(tokenizer)} pieces but the checkpoint {text.vocab_size} word embeddings: phrases would "
            "be read as other words. Use the vocabulary that the checkpoint was trained with."
        )
    for name in ("pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id"):
        if f"text_config.{name}" not in overrides:
            setattr(text, name, getattr(tokenizer, name))
    return tokenizer


def _build_model(
    model_class: type[torch.nn.Module],
    config: AlbefConfig,
    state: dict[str, torch.Tensor],
    report: ConversionReport,
    dtype: torch.dtype,
) -> torch.nn.Module:
    """Check names, shapes and values, and put the tensors into a model without initialising it first."""
    with torch.device("meta"):
        model = model_class(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = {name for name, _ in TIED}
    report.missing = sorted(expected.keys() - state.keys() - tied)
    if report.missing:
        raise IncompleteCheckpointError(report)
    for name in sorted(state.keys() - expected.keys()):
        report.unexpected.append(name)
        report.num_converted -= 1
        del state[name]
    misfits = [f"{name} {tuple(state[name].shape)} instead of {expected[name]}" for name in state]
    misfits = [text for text, name in zip(misfits, state, strict=True) if tuple(state[name].shape) != expected[name]]
    if misfits:
        raise ValueError(f"{report.source} has entries of another shape than its architecture: {list_names(misfits)}.")
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise ValueError(
            f"{report.source} holds NaN or infinity in {len(broken)} entries: {list_names(broken)}. Its training "
            "diverged or the file is damaged; use an earlier checkpoint."
        )
    stored = {str(tensor.dtype).removeprefix("torch.") for tensor in state.values() if tensor.is_floating_point()}
    if stored != {report.dtype}:
        report.notes.append(f"weights are stored as {', '.join(sorted(stored))} and written as {report.dtype}.")
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    return model.eval()


def _describe_dimensions(config: AlbefConfig) -> dict[str, Any]:
    names = ("image_size", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    vision = {f"vision_config.{name}": getattr(config.vision_config, name) for name in names}
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "fusion_layer")
    text = {f"text_config.{name}": getattr(config.text_config, name) for name in names}
    names = ("projection_dim", "explanation_layer", "explanation_block", "queue_size")
    return {**vision, **text, **{name: getattr(config, name) for name in names}}


def check_output_dir(output_dir: Path, overwrite: bool) -> None:
    """Refuse a folder that exists, unless it is a checkpoint (or empty) and `overwrite` says to replace it."""
    if not output_dir.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{output_dir} exists. Choose another folder, or pass `overwrite` (`--overwrite`).")
    if not output_dir.is_dir() or (any(output_dir.iterdir()) and not (output_dir / "config.json").is_file()):
        raise ValueError(f"{output_dir} is not a checkpoint folder (no `config.json`) and is not replaced.")


@contextmanager
def written_whole(output_dir: Path) -> Iterator[Path]:
    """Give a folder to write into; it becomes `output_dir` at the end, or disappears if anything fails."""
    incomplete = output_dir.parent / f".{output_dir.name}.{uuid.uuid4().hex}.incomplete"
    incomplete.mkdir(parents=True)
    try:
        yield incomplete
        if output_dir.exists():
            replaced = incomplete.with_suffix(".replaced")
            output_dir.rename(replaced)
            incomplete.rename(output_dir)
            shutil.rmtree(replaced)
        else:
            incomplete.rename(output_dir)
    except SafetensorError as error:  # carries errors of the operating system as text only
        number = errno.ENOSPC if "No space left" in str(error) else errno.EIO
        raise OSError(number, f"cannot write the weights, nothing is left behind: {error}", str(output_dir)) from error
    finally:
        shutil.rmtree(incomplete, ignore_errors=True)


__all__ = ["ConversionReport", "IncompleteCheckpointError", "convert_checkpoint"]
