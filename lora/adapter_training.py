# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""What [`AmcTrainer`] does with an adapter: attach it, move momentum weights, save and resume without the base."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.training_args import TrainingArguments
from transformers.utils import logging

from albef_amc import AlbefForPreTraining
from albef_amc.lora.adapter_files import (
    ADAPTER_CONFIG_FILE,
    is_adapter,
    load_adapter_weights,
    load_run,
    save_adapter,
    save_training_state,
)
from albef_amc.lora.adapters import MASKED_WORD_HEAD, LoraMomentum, complete_lora_config
from albef_amc.saving_albef import replacing_files

if TYPE_CHECKING:
    from peft import LoraConfig

logger = logging.get_logger(__name__)

TRAINING_ARGUMENTS_FILE = "training_args.bin"


class AdapterTraining:
    """Part of [`AmcTrainer`]: with `lora_momentum` set, checkpoints hold the adapter and not its base.

    A folder of the adapter holds `adapter_model.safetensors`, `adapter_config.json`, the processor and the card.
    `checkpoint-N` folders also hold `pretraining_state.safetensors`: momentum weights that move, and the queues.
    """

    lora_momentum: LoraMomentum | None = None
    args: Any
    model: Any
    processing_class: Any
    state: Any

    def move_momentum(self, model: AlbefForPreTraining) -> None:
        """Momentum weights follow the online ones, merged with their adapter where there is one."""
        if not self.args.use_momentum_updates:
            return
        if self.lora_momentum is None:
            model.update_momentum()
        else:
            self.lora_momentum.update()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.lora_momentum is None:
            super()._save(output_dir, state_dict)  # type: ignore[misc]
            return
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        with replacing_files(folder) as unfinished:
            save_adapter(self.lora_momentum.peft_model, unfinished)
            if PREFIX_CHECKPOINT_DIR in folder.name:
                save_training_state(self.lora_momentum, unfinished)
            self.processing_class.save_pretrained(unfinished)
            torch.save(self.args, unfinished / TRAINING_ARGUMENTS_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.lora_momentum is not None:
            load_run(self.lora_momentum, resume_from_checkpoint)
        elif is_adapter(resume_from_checkpoint):
            raise ValueError(f"{resume_from_checkpoint} is of a LoRA run: resume it with its `peft_config`.")
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]

    def _load_best_model(self) -> None:
        if self.lora_momentum is None:
            super()._load_best_model()  # type: ignore[misc]
        else:
            load_adapter_weights(self.lora_momentum.peft_model, self.state.best_model_checkpoint)


def attach_adapter(model: AlbefForPreTraining, config: "LoraConfig", args: TrainingArguments) -> LoraMomentum:
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
        momentum = LoraMomentum(model, config)
    stored_class = (model.config.architectures or [type(model).__name__])[0]
    head_is_trained = any(parameter.requires_grad for parameter in getattr(model, MASKED_WORD_HEAD).parameters())
    if args.mlm_weight > 0 and stored_class != type(model).__name__ and not head_is_trained:
        raise ValueError(
            f"{model.name_or_path} has no masked-word head, and LoRA would leave a random one as it is. Set "
            "`mlm_weight=0`, or train it: `modules_to_save=['itm_head', 'mlm_head']` with `target_modules`."
        )
    return momentum


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


__all__ = ["AdapterTraining", "attach_adapter"]
