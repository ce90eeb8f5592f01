# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Momentum copies: modules that slowly follow others and whose outputs are the targets of distillation.

Source: Li et al., "Align before Fuse", NeurIPS 2021 (arXiv 2107.07651), section 3.3.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import nn
from transformers import initialization as init

from .pretrained_albef import AlbefPreTrainedModel, fit_rows

MOMENTUM_PREFIX = "momentum_"


class MomentumCopies(AlbefPreTrainedModel):
    """Base class of models with momentum copies of modules: frozen, and updated by [`update_momentum`].

    A subclass builds the copies, lists them in `_momentum_of`, and calls `_settle_momentum` after `post_init`. A
    checkpoint without copies is complete: they are initialised from the modules that they follow.
    """

    _momentum_of: ClassVar[dict[str, str]] = {}  # name of a copy -> dotted name of the module that it follows
    _keys_to_ignore_on_load_missing = [r"^momentum_"]
    _keep_in_fp32_modules_strict = ["momentum_*"]  # in bfloat16 small updates are lost

    @classmethod
    def from_pretrained(cls, *args, **kwargs) -> "MomentumCopies":
        """Load a model like [`AlbefPreTrainedModel`]; momentum copies are float32 in any `dtype`, and frozen."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded)._settle_momentum()
        return loaded

    def _settle_momentum(self) -> None:
        for name in self._momentum_of:
            module = self.get_submodule(name)
            module.requires_grad_(False)
            module.to(torch.promote_types(next(module.parameters()).dtype, torch.float32))

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Initialise weights that are not in a checkpoint; copies get those of the modules they follow."""
        super().initialize_weights()
        for momentum_parameter, parameter in self.iterate_momentum_pairs():
            init.copy_(momentum_parameter, parameter)

    def tie_weights(self, missing_keys: set[str] | None = None, **kwargs) -> None:
        """Tie copies like the modules they follow; copies that a checkpoint lacks do not count as missing."""
        for name, source in self.all_tied_weights_keys.items():
            if missing_keys is not None and name.startswith(MOMENTUM_PREFIX) and name in missing_keys:
                missing_keys.discard(source)
        super().tie_weights(missing_keys, **kwargs)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Resize like [`AlbefPreTrainedModel`], momentum copies too."""
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        self._fit_copies()
        return embeddings

    def _fit_copies(self) -> None:
        """Resize copies to the number of rows of the modules they follow; new rows are equal to theirs."""
        for name, followed in self._momentum_of.items():
            for path, copy in self.get_submodule(name).named_modules():
                original = self.get_submodule(f"{followed}.{path}" if path else followed)
                if isinstance(copy, nn.Embedding):
                    fit_rows(copy.weight, original.weight)
                    copy.num_embeddings = original.num_embeddings
                elif isinstance(copy, nn.Linear) and copy.out_features != original.out_features:
                    if copy.weight.shape != original.weight.shape:  # not tied to embeddings, which have been resized
                        fit_rows(copy.weight, original.weight)
                    fit_rows(copy.bias, original.bias)
                    copy.out_features = original.out_features

    def iterate_momentum_pairs(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        """Yield every momentum parameter once, with the online parameter that it follows."""
        seen = set()
        for name, followed in self._momentum_of.items():
            copies, parameters = self.get_submodule(name).parameters(), self.get_submodule(followed).parameters()
            for followers in zip(copies, parameters, strict=True):
                if id(followers[0]) not in seen:
                    seen.add(id(followers[0]))
                    yield followers

    @torch.no_grad()
    def update_momentum(self) -> None:
        """Update every momentum weight: `momentum * old + (1 - momentum) * online`."""
        pairs = list(self.iterate_momentum_pairs())
        copies: list[torch.Tensor] = [copy for copy, _ in pairs]
        parameters = [online.to(copy.dtype) for copy, online in pairs]
        torch._foreach_lerp_(copies, parameters, 1 - self.config.momentum)


__all__ = ["MomentumCopies"]
