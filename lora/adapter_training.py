# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Training an adapter: putting it in, momentum weights that follow it, saving and resuming it without its base."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.training_args import TrainingArguments
from transformers.utils import logging

from albef_amc import AlbefForPreTraining
from albef_amc.contrastive_albef import TEXT_IDS
from albef_amc.lora.adapter_files import (
    ADAPTER_CONFIG_FILE,
    check_weights,
    load_adapter_weights,
    read_adapter_config,
    save_adapter,
    split_like,
)
from albef_amc.lora.adapters import (
    ADAPTER_NAME,
    BASE_PREFIX,
    MASKED_WORD_HEAD,
    add_lora,
    complete_lora_config,
)
from albef_amc.momentum_albef import MOMENTUM_PREFIX
from albef_amc.pretraining_losses_albef import UNKNOWN_ID

if TYPE_CHECKING:
    from peft import LoraConfig

logger = logging.get_logger(__name__)

TRAINING_STATE_FILE = "pretraining_state.safetensors"
# A checkpoint continues a run only with these as they were.
SETTINGS_OF_A_RUN = ("r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "bias")


class AdapterTraining:
    r"""LoRA layers that are trained in place of their model, with momentum weights that follow the adapted ones.

    `W_m <- m W_m + (1 - m) (W + scale B A)`, in float32; the online model is not changed. Modules that are trained in
    full (`modules_to_save`) are followed as they are. A copy that equals its frozen original stays as it is, to the
    bit.

    Args:
        model ([`AlbefForPreTraining`]): the base, before LoRA layers are put into it.
        config (`peft.LoraConfig`): as [`complete_lora_config`] returns it.

    Attributes:
        peft_model (`peft.PeftModel`): the model with its LoRA layers.
    """

    def __init__(self, model: AlbefForPreTraining, config: "LoraConfig"):
        pairs = list(model.iterate_momentum_pairs())
        self.model = model
        self.peft_model = add_lora(model, config)
        layers, trained = self._find_changed()
        followed = [(own, trained.get(id(online), online), layers.get(id(online))) for own, online in pairs]
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        # By name, since FSDP2 puts other parameters in the places of these.
        self._moving = [
            (names[id(own)], names[id(online)], layer)
            for own, online, layer in followed
            if layer is not None or online.requires_grad or not torch.equal(own, online.to(own.dtype))
        ]

    @property
    def pairs(self) -> list[tuple[nn.Parameter, nn.Parameter, Any]]:
        """Momentum parameter, online parameter, and the LoRA layer of the latter or None."""
        find = self.model.get_parameter
        return [(find(own), find(online), layer) for own, online, layer in self._moving]

    def _find_changed(self) -> tuple[dict[int, Any], dict[int, nn.Parameter]]:
        """By identity of the base's parameter: its LoRA layer; the parameter that is trained in its place."""
        from peft.tuners.lora import LoraLayer
        from peft.utils import ModulesToSaveWrapper

        layers: dict[int, Any] = {}
        trained: dict[int, nn.Parameter] = {}
        for module in self.peft_model.modules():
            if isinstance(module, LoraLayer):
                layers[id(module.base_layer.weight)] = module
            elif isinstance(module, ModulesToSaveWrapper):
                copies = module.modules_to_save[ADAPTER_NAME].parameters()
                for original, own in zip(module.original_module.parameters(), copies, strict=True):
                    trained[id(original)] = own
        return layers, trained

    @torch.no_grad()
    def update_momentum(self) -> None:
        """Moves every momentum weight towards its online weight, merged with its adapter where there is one."""
        momentum = self.model.config.momentum
        for own, online, layer in self.pairs:
            merged = online.to(own.dtype)
            if layer is not None:
                merged = merged + layer.get_delta_weight(ADAPTER_NAME).to(own.dtype)
            own.mul_(momentum).add_(merged, alpha=1 - momentum)

    def collect_state(self) -> dict[str, torch.Tensor]:
        """What a run needs to resume, besides base and adapter, by name.

        Momentum weights that move, the queues with pointers and ids, and a masked-word head that is not trained: a
        matching checkpoint as base has none, so its values were drawn at random.
        """
        moving = {own for own, _, _ in self._moving}
        heads = (f"{MASKED_WORD_HEAD}.", f"{MOMENTUM_PREFIX}{MASKED_WORD_HEAD}.")
        parameters = {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if name in moving or (name.startswith(heads) and not parameter.requires_grad)
        }
        queues = {name: buffer for name, buffer in self.model.named_buffers() if "_queue" in name}
        return {name: tensor.detach() for name, tensor in {**parameters, **queues}.items()}

    def save(self, folder: Path, with_state: bool, weights: Mapping[str, torch.Tensor]) -> None:
        """Writes the adapter; `with_state` also what a run needs to resume, besides base and adapter.

        Args:
            folder (`Path`): where the files are written.
            with_state (`bool`): whether the run may be resumed from it.
            weights (mapping): complete state dict of `peft_model`, gathered if the model is sharded.
        """
        save_adapter(self.peft_model, folder, weights)
        if with_state:
            state = {name: weights[f"{BASE_PREFIX}{name}"].contiguous() for name in self.collect_state()}
            save_file(state, folder / TRAINING_STATE_FILE, metadata={"format": "pt"})

    @torch.no_grad()
    def load(self, checkpoint: str | Path) -> None:
        """Restores adapter, momentum weights and queues from a checkpoint of the run.

        Raises:
            ValueError: not a checkpoint of a LoRA run, one of other settings, or of another base.
        """
        folder = Path(checkpoint)
        for name in (ADAPTER_CONFIG_FILE, TRAINING_STATE_FILE):
            if not (folder / name).is_file():
                raise ValueError(
                    f"{folder} cannot be resumed with LoRA: it has no {name}. Give a `checkpoint-N` folder."
                )
        check_settings_of_run(self.peft_model, folder)
        state, present = load_file(folder / TRAINING_STATE_FILE), self.collect_state()
        state.setdefault(TEXT_IDS, torch.full_like(present[TEXT_IDS], UNKNOWN_ID))  # of an earlier release
        check_weights(state, present, str(folder / TRAINING_STATE_FILE))
        load_adapter_weights(self.peft_model, folder)
        for name, tensor in present.items():
            tensor.copy_(split_like(state[name], tensor))


def check_settings_of_run(peft_model: Any, folder: Path) -> None:
    """Refuses the adapter of a checkpoint that was trained with other settings than those of a run.

    Args:
        peft_model (`peft.PeftModel`): what the run trains.
        folder (`Path`): where the adapter lies.

    Raises:
        ValueError: a setting differs.
    """
    config, stored = peft_model.peft_config[ADAPTER_NAME], read_adapter_config(folder)
    for name in SETTINGS_OF_A_RUN:
        ours, theirs = getattr(config, name), getattr(stored, name, None)
        if ours != theirs:
            raise ValueError(
                f"`peft_config.{name}` is {ours!r}, but {folder} was trained with {theirs!r}. Resume with the same."
            )


def attach_adapter(model: AlbefForPreTraining, config: "LoraConfig", args: TrainingArguments) -> AdapterTraining:
    """Checks that LoRA makes sense on this base, and puts the layers in.

    Raises:
        TypeError: not a `peft.LoraConfig`.
        ValueError: freezing asked for as well, a base that is an adapter itself or has another number of word
            embeddings than its checkpoint, or a masked-word head that starts at random and would not be trained.
    """
    config = complete_lora_config(config, model.config)
    if args.freeze:
        raise ValueError(
            "`freeze` and `peft_config` exclude each other: LoRA freezes all but its layers. Choose what it trains "
            "with `target_modules` and `modules_to_save`."
        )
    if not model.name_or_path:
        logger.warning(
            "The model was not loaded from a checkpoint, so that its adapter has no base to name. Save the model, and "
            "load it with `from_pretrained` before LoRA, or the adapter is of use in this process alone."
        )
    elif (Path(str(model.name_or_path)) / ADAPTER_CONFIG_FILE).is_file():
        raise ValueError(f"{model.name_or_path} is an adapter. Merge it first: `albef-amc merge`.")
    else:
        _check_vocabulary(model)
    with torch.random.fork_rng(devices=[]):  # the same start in every process and every run of this seed
        torch.manual_seed(args.seed)
        adapter = AdapterTraining(model, config)
    stored_class = (model.config.architectures or [type(model).__name__])[0]
    head_is_trained = any(parameter.requires_grad for parameter in getattr(model, MASKED_WORD_HEAD).parameters())
    if args.mlm_weight > 0 and stored_class != type(model).__name__ and not head_is_trained:
        raise ValueError(
            f"{model.name_or_path} has no masked-word head, and LoRA would leave a random one as it is. Set "
            "`mlm_weight=0`, or train it: `modules_to_save=['itm_head', 'mlm_head']` with `target_modules`."
        )
    return adapter


def _check_vocabulary(model: AlbefForPreTraining) -> None:
    """Refuses a base whose word embeddings were resized after it was loaded: an adapter does not hold them."""
    try:
        stored, _ = PreTrainedConfig.get_config_dict(model.name_or_path)
    except OSError:  # the checkpoint was moved since: nothing to compare with
        return
    loaded, now = stored.get("text_config", {}).get("vocab_size"), model.config.text_config.vocab_size
    if loaded not in (None, now):
        raise ValueError(
            f"the model has {now} word embeddings, but its checkpoint {model.name_or_path} has {loaded}, and an "
            "adapter does not hold them. Save the resized model with its processor, and load it before LoRA."
        )
