# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""A grounder from a checkpoint: the class is chosen by the type of its configuration, among installed classes."""

import os
import pickle
from typing import Any

import transformers
from transformers import AutoProcessor, PreTrainedModel
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging

import albef_amc
from albef_amc.checkpoint_files_albef import (
    CONFIG_FILE,
    check_settings,
    find_checkpoint,
    find_commit,
    read_stored_tensors,
)
from albef_amc.explanation_albef import outside_inference_mode
from albef_amc.grounders.checkpoint_checks import (
    SETTINGS_FILE,
    check_model_settings,
    check_saved_settings,
    check_sizes,
)
from albef_amc.grounders.families import FAMILIES, Family
from albef_amc.grounders.grounder import Grounder
from albef_amc.grounders.methods import GRAD_CAM, check_method
from albef_amc.messages_albef import list_first, suggest_nearest
from albef_amc.pretrained_albef import AlbefPreTrainedModel
from albef_amc.ranges_albef import check_choice

logger = logging.get_logger(__name__)

CODE_KEYS = ("auto_map", "custom_pipelines")  # of configurations that name files of code


class AutoGrounder:
    """Builds the [`~grounder.Grounder`] of a checkpoint, see [`from_pretrained`]."""

    @classmethod
    @outside_inference_mode
    def from_pretrained(
        cls,
        name: str | os.PathLike,
        layer: int | None = None,
        method: str | None = None,
        revision: str | None = None,
        score: str | None = None,
        use_safetensors: bool = True,
    ) -> Grounder:
        r"""Load model and processor with transformers' own classes.

        Code of a repository is never run. A checkpoint that [`~grounder.Grounder.save_pretrained`] wrote keeps its
        layer, score, method and source, unless they are given.

        Args:
            name (`str` or path): folder, or Hub repository as `user/name`.
            layer (`int`, *optional*): number of the layer that is explained, the first one for `"relevancy"`; the
                family's default without it.
            method (`str`, *optional*): `"grad_cam"`, the default, `"attention"`, `"similarity"` or `"relevancy"`; what
                each computes and which families have it is in docs/grounders.md.
            revision (`str`, *optional*): branch, tag or commit of the repository.
            score (`str`, *optional*): `"itm"` or `"itc"` for a model that has both; the first that
                docs/grounders.md lists without it.
            use_safetensors (`bool`, defaults to `True`): `False` also reads weights in PyTorch's format, of which
                only tensors are unpickled (`weights_only`).

        Returns:
            [`~grounder.Grounder`] in evaluation mode.

        Raises:
            FileNotFoundError: no such checkpoint, or one without weights in safetensors.
            ValueError: a type of model that has no family, a score, method or layer that the model does not have, a
                checkpoint without the head of the score, or quantised weights.
        """
        arguments = find_checkpoint(name, {} if revision is None else {"revision": revision})
        commit = find_commit(name, arguments)
        if commit is not None:
            arguments["revision"] = commit  # every file is of one commit
        if revision is not None and os.path.isdir(name):
            logger.warning(f"`revision` is ignored: {name} is a folder, which has no revisions.")
        settings = check_settings(name, (CONFIG_FILE, SETTINGS_FILE), arguments)
        if CONFIG_FILE not in settings:
            raise FileNotFoundError(f"No `{CONFIG_FILE}` in {name}: this is not a checkpoint of transformers.")
        config, saved = settings[CONFIG_FILE], settings.get(SETTINGS_FILE, {})
        saved_score, saved_method = saved.get("score"), saved.get("method", GRAD_CAM)
        method = saved_method if method is None else method
        family = find_family(config, saved_score if score is None else score, name)
        check_saved_settings(name, saved, family.model_type)
        check_method(method, family)
        if layer is None and score in (None, saved_score) and method == saved_method:
            layer = saved.get("layer")
        check_model_settings(name, config)
        model = _load_model(family, name, config, arguments, use_safetensors)
        processor = _load_processor(name, arguments)
        source = {"name": os.fspath(name), "commit": commit}
        if not isinstance(model, AlbefPreTrainedModel):
            _forget_code(model, processor)
        return Grounder(model, processor, family, layer, method, saved.get("source", source)).eval()


def _forget_code(model: PreTrainedModel, processor: Any) -> None:
    """Remove names of files of code, which were not run and are not saved with the model."""
    for key in CODE_KEYS:
        vars(model.config).pop(key, None)
        processor.tokenizer.init_kwargs.pop(key, None)


def find_family(config: dict[str, Any], score: str | None, name: str | os.PathLike) -> Family:
    """The family of a configuration and the score to explain; the first one of its type without a score.

    Args:
        config (`dict`): content of `config.json`.
        score (`str`, *optional*): `"itm"` or `"itc"`.
        name (`str` or path): its checkpoint, for messages.

    Raises:
        ValueError: no family of this type, or none with this score.
    """
    model_type = config.get("model_type")
    families = [family for family in FAMILIES if family.model_type == model_type]
    if not families:
        known = list(dict.fromkeys(family.model_type for family in FAMILIES))
        nearest = suggest_nearest(model_type, known, otherwise="")
        raise ValueError(
            f"{name} is a model of type {model_type!r}, which cannot be explained yet. Types that can: "
            f"{', '.join(known)}. {nearest}".rstrip()
        )
    if score is None:
        return families[0]
    check_choice("score", score, [family.score_name for family in families])
    return next(family for family in families if family.score_name == score)


def _load_model(
    family: Family, name: str | os.PathLike, config: dict[str, Any], arguments: dict[str, Any], use_safetensors: bool
) -> PreTrainedModel:
    model_class = getattr(albef_amc, family.class_name, None) or getattr(transformers, family.class_name)
    stored = read_stored_tensors(name, arguments)
    if use_safetensors and not stored:
        raise FileNotFoundError(
            f"{name} has no weights in safetensors. If you trust it, pass `use_safetensors=False`: files in PyTorch's "
            "format are then read too."
        )
    if stored and not issubclass(model_class, AlbefPreTrainedModel):  # which checks its files itself
        check_sizes(name, config, model_class, stored)
    try:
        model, report = model_class.from_pretrained(
            name,
            output_loading_info=True,
            use_safetensors=True if use_safetensors else None,
            weights_only=True,
            **arguments,
        )
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"the weights of {name} in PyTorch's format hold more than tensors, which may run code, or are damaged. "
            "Give weights in safetensors."
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        saved_as = " ".join(model.config.architectures or ["an unnamed class"])
        advice = f"It was saved as {saved_as}. Give a checkpoint that was saved as `{family.class_name}`."
        if saved_as == family.class_name:
            advice = "Its files are incomplete: download or save them again."
        raise ValueError(
            f"{name} lacks weights of `{family.class_name}`, whose score is explained: {list_first(missing)}. {advice}"
        )
    return model


def _load_processor(name: str | os.PathLike, arguments: dict[str, Any]) -> ProcessorMixin:
    """Load the processor, with an image processor and a tokenizer."""
    try:
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False, **arguments)
    except Exception as error:  # `transformers` raises any error for missing and damaged files
        kind = FileNotFoundError if isinstance(error, OSError) else ValueError
        raise kind(_describe_processor(name, " ".join(str(error).split()))) from error
    lacking = [part for part in ("image_processor", "tokenizer") if not hasattr(processor, part)]
    if lacking:
        raise ValueError(_describe_processor(name, f"a {type(processor).__name__} without {' and '.join(lacking)}"))
    return processor


def _describe_processor(name: str | os.PathLike, problem: str) -> str:
    return (
        f"the processor of {name} cannot be used: {problem:.300}. A checkpoint needs the files of its image processor "
        "and of its tokenizer. Save the processor of the model into the same folder, or download the checkpoint again."
    )


__all__ = ["AutoGrounder", "find_family"]
