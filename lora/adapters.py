# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""LoRA layers: which modules get them.

`peft` is imported when an adapter is used, not before. The momentum copies are hidden from it while it looks for
modules, since a plain name such as `q_proj` or `mlm_head` matches them as well.
"""

import copy
import dataclasses
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from albef_amc import AlbefConfig, AlbefForImageTextMatching, AlbefForPreTraining
from albef_amc.configuration.installation import name_installation
from albef_amc.configuration.setting_types import list_simple_fields
from albef_amc.momentum_albef import MOMENTUM_PREFIX
from albef_amc.ranges_albef import BELOW_ONE, POSITIVE, Range, check_number, shorten_value

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

GroundingModel = AlbefForPreTraining | AlbefForImageTextMatching
ADAPTER_NAME = "default"
BASE_PREFIX = "base_model.model."  # of the base's names in a `peft.PeftModel`
MATCHING_HEAD = "itm_head"
MASKED_WORD_HEAD = "mlm_head"
# Kept in the stored adapter, so that peft ignores the copies wherever it loads it.
MOMENTUM_PATTERN = rf"(?:.*\.)?{MOMENTUM_PREFIX}.*"
FUSION_MODULES = r"(?:(?:attention|cross_attention)\.(?:q_proj|k_proj|v_proj|out_proj)|fc1|fc2)"
# Starts that do not change the base; the others do, and an adapter's checkpoint does not hold the base.
STARTS = (True, False, "gaussian", "orthogonal")
LORA_RANGES = {"r": Range(1, 1 << 16, is_whole=True), "lora_alpha": POSITIVE, "lora_dropout": BELOW_ONE}
# What changes the weight to something else than W + scale B A, or cannot be differentiated twice.
UNSUPPORTED_OPTIONS = (
    "use_dora",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "megatron_config",
)


def check_peft_is_installed() -> None:
    """Raises `ModuleNotFoundError`, with the command to install it, where `peft` is missing."""
    try:
        import peft  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"LoRA needs `peft`, which is not installed. Install it with {name_installation('peft')}.", name="peft"
        ) from error


def list_lora_fields() -> list[str]:
    """Names of the fields of `peft.LoraConfig`."""
    check_peft_is_installed()
    from peft import LoraConfig

    return [item.name for item in dataclasses.fields(LoraConfig)]


def check_lora_options(options: Mapping[str, Any], prefix: str = "peft_config.") -> None:
    """Refuses numbers and switches of LoRA that no run can use.

    Args:
        options (mapping): fields of `peft.LoraConfig`.
        prefix (`str`): put before the names in messages.

    Raises:
        TypeError: no number, or text for a switch.
        ValueError: NaN, infinity, or a number outside its range.
    """
    check_peft_is_installed()
    from peft import LoraConfig

    for name, allowed in LORA_RANGES.items():
        if options.get(name) is not None:
            check_number(f"{prefix}{name}", options[name], allowed)
    for name, kinds in list_simple_fields(LoraConfig).items():
        if kinds == (bool,) and not isinstance(options.get(name, False), bool):
            raise TypeError(f"`{prefix}{name}` must be true or false, got {shorten_value(options[name])}.")


def build_lora_config(model_config: AlbefConfig, **changes: Any) -> "LoraConfig":
    r"""LoRA for grounding: attention and MLP of the fusion layers, and the matching head in full.

    Args:
        model_config ([`AlbefConfig`]): decides which layers are fusion layers.
        changes: fields of `peft.LoraConfig`. With `target_modules`, `modules_to_save` is what is given, else none.

    Returns:
        `peft.LoraConfig`

    Example:

    ```python
    >>> from albef_amc import AlbefConfig
    >>> from albef_amc.trainer import build_lora_config
    >>> build_lora_config(AlbefConfig(), r=16).modules_to_save
    ['itm_head']

    ```
    """
    check_peft_is_installed()
    from peft import LoraConfig

    return complete_lora_config(LoraConfig(**changes), model_config)


def complete_lora_config(config: "LoraConfig", model_config: AlbefConfig) -> "LoraConfig":
    """A copy, with default targets where the configuration has none.

    Raises:
        TypeError: not a `peft.LoraConfig`.
        ValueError: an option that momentum weights and merging cannot follow.
    """
    config = check_lora_config(config)
    if config.target_modules is None:
        layers = range(model_config.text_config.fusion_layer, model_config.text_config.num_hidden_layers)
        indices = "|".join(map(str, layers))
        config.target_modules = rf"(?:.*\.)?albef\.text_model\.layers\.(?:{indices})\.{FUSION_MODULES}"
        if config.modules_to_save is None:
            config.modules_to_save = [MATCHING_HEAD]
    return config


def check_lora_config(config: "LoraConfig") -> "LoraConfig":
    """A copy of a configuration that can be followed and merged.

    Raises:
        TypeError, ValueError: as for [`complete_lora_config`].
    """
    check_peft_is_installed()
    from peft import LoraConfig

    if not isinstance(config, LoraConfig):
        raise TypeError(f"`peft_config` must be a `peft.LoraConfig`, got {type(config).__name__}.")
    check_lora_options(vars(config))
    wrong = [name for name in UNSUPPORTED_OPTIONS if getattr(config, name, None)]
    if wrong:
        raise ValueError(f"`peft_config.{wrong[0]}` is not supported: only W + scale B A can be followed and merged.")
    if config.init_lora_weights not in STARTS:
        raise ValueError(
            f"`peft_config.init_lora_weights` must be one of {', '.join(map(repr, STARTS))}, got "
            f"{config.init_lora_weights!r}: others change the base, which an adapter's checkpoint does not hold."
        )
    return copy.deepcopy(config)


def _exclude_momentum(config: "LoraConfig", names: list[str]) -> None:
    """Adds the momentum copies to what a configuration excludes, where its targets match one of their modules."""
    from peft.tuners.tuners_utils import check_target_module_exists

    if not any(check_target_module_exists(config, name) for name in names):
        return
    excluded = config.exclude_modules
    if excluded and not isinstance(excluded, str):
        excluded = rf"(?:.*\.)?(?:{'|'.join(map(re.escape, sorted(excluded)))})"
    config.exclude_modules = f"(?:{excluded})|{MOMENTUM_PATTERN}" if excluded else MOMENTUM_PATTERN


@contextmanager
def without_momentum_copies(model: nn.Module) -> Iterator[None]:
    """The model without its momentum copies; afterwards they are back in their places."""
    children = dict(model._modules)
    for name in [name for name in children if name.startswith(MOMENTUM_PREFIX)]:
        del model._modules[name]
    try:
        yield
    finally:
        present = dict(model._modules)
        model._modules.clear()
        model._modules.update({name: present.get(name, child) for name, child in children.items()})


def add_lora(model: GroundingModel, config: "LoraConfig") -> "PeftModel":
    """Puts new LoRA layers into the model, in place, and freezes the rest.

    Args:
        model ([`AlbefForPreTraining`] or [`AlbefForImageTextMatching`]): the base.
        config (`peft.LoraConfig`): as [`complete_lora_config`] returns it.

    Returns:
        `peft.PeftModel` around the model.

    Raises:
        ValueError: no module has a name that `config` asks for, or one has tied weights.
    """
    from peft import get_peft_model

    with without_momentum_copies(model):
        linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        try:
            peft_model = get_peft_model(model, config, adapter_name=ADAPTER_NAME)
        except ValueError as error:
            raise ValueError(f"{error} Linear layers of this model: {', '.join(sorted(linear))}.") from error
    copies = [name for name, _ in model.named_modules() if name.startswith(MOMENTUM_PREFIX)]
    _exclude_momentum(peft_model.peft_config[ADAPTER_NAME], copies)
    _check_layers(peft_model, model.get_input_embeddings().weight)
    _tie_saved_head(model)
    return peft_model


def _check_layers(peft_model: "PeftModel", tied: Any) -> None:
    from peft.tuners.lora import Conv2d, Linear, LoraLayer

    for name, module in peft_model.named_modules():
        if isinstance(module, LoraLayer) and (
            not isinstance(module, (Linear, Conv2d)) or module.base_layer.weight is tied
        ):
            raise ValueError(
                f"`peft_config.target_modules` matches {name.removeprefix(BASE_PREFIX)}, whose weights are "
                "tied or not those of a linear layer. Choose linear layers other than the decoder of `mlm_head`."
            )


def _tie_saved_head(model: GroundingModel) -> None:
    """A masked-word head that is trained in full keeps the word embeddings as its decoder, which stay frozen."""
    from peft.utils import ModulesToSaveWrapper

    head = getattr(model, MASKED_WORD_HEAD, None)
    if isinstance(head, ModulesToSaveWrapper):
        head.modules_to_save[ADAPTER_NAME].decoder.weight = model.get_input_embeddings().weight
