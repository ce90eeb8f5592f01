# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Freezing parts of a model by name, so that the others are trained."""

from collections.abc import Callable, Sequence

import torch

from albef_amc import AlbefForPreTraining
from albef_amc.messages_albef import suggest_nearest
from albef_amc.momentum_albef import MOMENTUM_PREFIX

TEXT_LAYERS = "albef.text_model.layers."


def _is_fusion(name: str, fusion_layer: int) -> bool:
    return name.startswith(TEXT_LAYERS) and int(name.removeprefix(TEXT_LAYERS).partition(".")[0]) >= fusion_layer


# Part: whether a parameter belongs to it, from its name and the number of the first fusion layer.
PARTS: dict[str, Callable[[str, int], bool]] = {
    "vision": lambda name, _: name.startswith("albef.vision_model."),
    "text": lambda name, first: name.startswith("albef.text_model.") and not _is_fusion(name, first),
    "fusion": _is_fusion,
    "projections": lambda name, _: name.startswith(("albef.vision_projection.", "albef.text_projection.")),
    "itm_head": lambda name, _: name.startswith("itm_head."),
    "mlm_head": lambda name, _: name.startswith("mlm_head."),
    "temperature": lambda name, _: name == "albef.temperature",
}


def freeze_parameters(model: AlbefForPreTraining, names: Sequence[str]) -> list[str]:
    r"""Freezes parts of a model, in place. Momentum copies are always frozen, so only online parameters are meant.

    Args:
        model ([`AlbefForPreTraining`]): the model.
        names (sequence of `str`): parts, or prefixes of parameter names up to a dot (`albef.vision_model.layers.0`).
            `"text"`: word embeddings and the layers below the fusion layers. `"fusion"`: the layers with
            cross-attention. `"mlm_head"` leaves its decoder, which is the word embeddings, to `"text"`. Others:
            `"vision"`, `"projections"`, `"itm_head"`, `"temperature"`.

    Returns:
        list of `str`: names of the frozen parameters.

    Raises:
        ValueError: a name that fits nothing (the nearest that does is named), or nothing left to train.

    Example:

    ```python
    >>> from albef_amc import AlbefConfig, AlbefForPreTraining
    >>> from albef_amc.trainer.freezing import freeze_parameters
    >>> small = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=1)
    >>> model = AlbefForPreTraining(AlbefConfig(
    ...     vision_config=dict(small, image_size=16, patch_size=16), text_config=dict(small, fusion_layer=1),
    ...     projection_dim=4, explanation_layer=1, explanation_block=1, queue_size=2))
    >>> freeze_parameters(model, ["itm_head", "temperature"])
    ['albef.temperature', 'itm_head.weight', 'itm_head.bias']

    ```
    """
    parameters = {
        name: parameter
        for name, parameter in model.named_parameters()
        if not name.startswith(MOMENTUM_PREFIX) and parameter.requires_grad
    }
    frozen: set[str] = set()
    for wanted in names:
        frozen |= _find_parameters(wanted, list(parameters), model.config.text_config.fusion_layer)
    if len(frozen) == len(parameters):
        raise ValueError(f"`freeze={list(names)}` leaves nothing to train. Remove a part.")
    for name in frozen:
        parameters[name].requires_grad_(False)
    return [name for name in parameters if name in frozen]


def _find_parameters(wanted: str, names: list[str], fusion_layer: int) -> set[str]:
    if wanted in PARTS:
        return {name for name in names if PARTS[wanted](name, fusion_layer)}
    prefix = wanted.removesuffix(".")
    found = {name for name in names if name == prefix or name.startswith(f"{prefix}.")}
    if not found:
        prefixes = {".".join(name.split(".")[:length]) for name in names for length in range(1, name.count(".") + 2)}
        also = "A parameter's name up to a dot is one as well."
        hint = suggest_nearest(wanted, [*PARTS, *sorted(prefixes)], also)
        raise ValueError(f"`freeze`: no part {wanted!r}. Parts: {', '.join(PARTS)}. {hint}")
    return found


def check_loss_trains(loss: torch.Tensor) -> None:
    """Raises `ValueError` when no parameter that is trained has a part in the loss."""
    if not loss.requires_grad:
        raise ValueError(
            "no objective with a weight reaches a parameter that is trained. Freeze less, choose other "
            "`target_modules`, or give another objective a weight (`itc_weight` alone trains no fusion layer)."
        )
