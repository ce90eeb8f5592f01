# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Attention probabilities of chosen modules of any PyTorch model, as nodes of its graph.

While a tapped module runs, and at no other time, `softmax` is watched, and fused attention is computed by its formula,
in which the probabilities appear. Every other layer keeps its back-end. Nothing of the model is changed.
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

# Back-ends of transformers in which probabilities are visible: those whose calls this file knows.
READABLE_BACK_ENDS = (None, "eager", "sdpa")
SOFTMAX = (functional.softmax, torch.softmax, torch.Tensor.softmax)


def attend_by_formula(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Compute [`torch.nn.functional.scaled_dot_product_attention`] by its formula; arguments are the same.

    Rows that are masked everywhere give the mean of the values, where fused kernels give 0; only padding has such
    rows.
    """
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, dim=-3), value.repeat_interleave(groups, dim=-3)
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-1, -2)
    if is_causal:
        attn_mask = scores.new_ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
    elif attn_mask is not None:
        scores = scores + attn_mask
    probabilities = functional.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return functional.dropout(probabilities.to(value.dtype), dropout_p) @ value


def attend_with_heads_by_formula(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: torch.Tensor | None,
    in_proj_bias: torch.Tensor | None,
    bias_k: torch.Tensor | None,
    bias_v: torch.Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: torch.Tensor,
    out_proj_bias: torch.Tensor | None,
    training: bool = True,
    key_padding_mask: torch.Tensor | None = None,
    need_weights: bool = True,
    attn_mask: torch.Tensor | None = None,
    **other_options: Any,
) -> tuple[torch.Tensor, None]:
    """Compute [`torch.nn.functional.multi_head_attention_forward`] by its formula; arguments are the same.

    Raises:
        NotImplementedError: a tapped `nn.MultiheadAttention` of a kind that no supported model has.
    """
    has_added_keys = bias_k is not None or bias_v is not None or add_zero_attn
    if in_proj_weight is None or has_added_keys or key_padding_mask is not None or query.ndim != 3:
        raise NotImplementedError(
            "a tapped `nn.MultiheadAttention` needs a batch, inputs of one width, no added keys and no "
            "`key_padding_mask`. Tap another layer."
        )
    weights = in_proj_weight.chunk(3)
    biases = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)
    query, key, value = (
        functional.linear(states, weight, bias).unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3)
        for states, weight, bias in zip((query, key, value), weights, biases, strict=True)
    )  # from (length, batch, width) to (batch, heads, length, head width)
    if attn_mask is not None:
        attn_mask = ~attn_mask if attn_mask.dtype == torch.bool else attn_mask  # here True means forbidden
        attn_mask = attn_mask.unflatten(0, (-1, num_heads)) if attn_mask.ndim == 3 else attn_mask
    context = attend_by_formula(query, key, value, attn_mask, dropout_p if training else 0.0)
    return functional.linear(context.permute(2, 0, 1, 3).flatten(2), out_proj_weight, out_proj_bias), None


FORMULAS: dict[Any, Callable] = {
    functional.scaled_dot_product_attention: attend_by_formula,
    functional.multi_head_attention_forward: attend_with_heads_by_formula,
}


class _WatchSoftmax(TorchFunctionMode):
    """Collect the results of `softmax` in a list; each becomes a leaf of the graph if it is not in one."""

    def __init__(self, attention_maps: list[torch.Tensor]):
        super().__init__()
        self.attention_maps = attention_maps

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in FORMULAS:
            with self:  # the softmax of the formula is watched
                return FORMULAS[function](*args, **(kwargs or {}))
        result = function(*args, **(kwargs or {}))
        if function in SOFTMAX:
            if not result.requires_grad:
                torch.set_grad_enabled(True)  # until the tap ends
                result = result.detach().requires_grad_()
            self.attention_maps.append(result)
        return result


class AttentionTap:
    r"""Context that collects the attention probabilities of chosen modules, before dropout.

    It has no side effects, also after an exception: no hook, mode, setting or gradient is left. While it is open,
    inference mode is off, whose tensors have no gradient, and compiled modules run as they are written, because a
    compiled one neither shows its attention nor can be differentiated twice. Gradient checkpointing is off from the
    tapped modules on, because a layer that is computed again in the backward pass would not be the tapped one.

    Args:
        model (`nn.Module`): the model.
        names (sequence of `str`): names of attention modules, as in `model.named_modules()`.
        keep_graph (`bool`): keep the whole graph, and compute fused attention from the first tapped module on in the
            only back-end with a second derivative. Otherwise everything below the first tapped module runs without
            a graph, and the maps are leaves.

    Attributes:
        attention_maps (`dict[str, list[torch.Tensor]]`): by module, a map `(batch, num_heads, rows, columns)` for
            each time that it ran.

    Raises:
        ValueError: a module does not exist, or its attention runs in a back-end whose probabilities cannot be read;
            at the end, a module in which no attention was seen.

    Example:

    ```python
    >>> import torch
    >>> from transformers import CLIPConfig, CLIPModel
    >>> from albef_amc.grounders.attention_tap import AttentionTap
    >>> small = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    >>> model = CLIPModel(CLIPConfig(text_config=small, vision_config=dict(small, image_size=32, patch_size=16)))
    >>> name = "vision_model.encoder.layers.1.self_attn"
    >>> with AttentionTap(model, [name], keep_graph=False) as tap:
    ...     features = model.get_image_features(torch.zeros(1, 3, 32, 32)).pooler_output
    >>> (attention_map,) = tap.attention_maps[name]
    >>> attention_map.shape
    torch.Size([1, 2, 5, 5])

    ```
    """

    def __init__(self, model: nn.Module, names: Sequence[str], keep_graph: bool):
        self.model = model
        for name in names:
            check_back_end(model, name)
        self.tapped = {name: model.get_submodule(name) for name in names}
        self.keep_graph = keep_graph
        self.attention_maps: dict[str, list[torch.Tensor]] = {}

    def __enter__(self) -> "AttentionTap":
        self.attention_maps = {name: [] for name in self.tapped}
        self._is_above = False
        self._watches: list[_WatchSoftmax] = []
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.set_grad_enabled(self.keep_graph))
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.callback(self._end_all)
            for name, module in self.tapped.items():
                self._stop_checkpointing(map(self.model.get_submodule, _list_parents(name)), stack)
                stack.callback(module.register_forward_pre_hook(self._make_begin(name)).remove)
                stack.callback(module.register_forward_hook(self._end).remove)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, exception_type, exception, traceback) -> None:
        self._stack.close()
        if exception_type is None:
            self._check_seen()

    def read_single_maps(self) -> list[torch.Tensor]:
        """The map of each module, in the order of their names.

        Raises:
            ValueError: a module ran more than once, or no attention was seen in it.
        """
        self._check_seen()
        for name, maps in self.attention_maps.items():
            if len(maps) > 1:
                raise ValueError(f"`{name}` made {len(maps)} attention maps in a pass, where one is explained.")
        return [maps[0] for maps in self.attention_maps.values()]

    def _check_seen(self) -> None:
        for name, maps in self.attention_maps.items():
            if not maps:
                raise ValueError(
                    f"no attention was seen in `{name}`: either it is not an attention module, or it runs in a "
                    'back-end that cannot be read. Load the model with `attn_implementation="sdpa"` or `"eager"`.'
                )

    def _make_begin(self, name: str) -> Callable:
        def begin(module: nn.Module, inputs: Any) -> None:
            if not self._is_above:
                self._is_above = True
                self._stop_checkpointing(self.model.modules(), self._stack)
                if self.keep_graph:
                    self._stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            self._watches.append(_WatchSoftmax(self.attention_maps[name]))
            self._watches[-1].__enter__()

        return begin

    def _end(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        self._watches.pop().__exit__(None, None, None)

    def _end_all(self) -> None:
        while self._watches:  # of a module whose forward pass was interrupted before its hooks
            self._end(self.model, None, None)

    @staticmethod
    def _stop_checkpointing(modules: Iterable[Any], stack: contextlib.ExitStack) -> None:
        for module in modules:
            if getattr(module, "gradient_checkpointing", False):
                module.gradient_checkpointing = False
                stack.callback(setattr, module, "gradient_checkpointing", True)


def check_back_end(model: nn.Module, name: str) -> None:
    """Refuse a module whose attention runs in a kernel that shows no probabilities.

    Args:
        model (`nn.Module`): the model.
        name (`str`): a module of it; the nearest configuration above it specifies the back-end.

    Raises:
        ValueError: flash, flex or another such back-end, or a module that does not exist.
    """
    _find_module(model, name)
    for parent in (name, *_list_parents(name)[::-1]):
        config = getattr(model.get_submodule(parent), "config", None)
        if hasattr(config, "_attn_implementation"):
            back_end = config._attn_implementation
            if back_end not in READABLE_BACK_ENDS:
                raise ValueError(
                    f'`attn_implementation="{back_end}"` shows no attention probabilities, and `{name}` is explained '
                    'by them. Load the model with `attn_implementation="sdpa"` (or "eager").'
                )
            return


def _list_parents(name: str) -> list[str]:
    """Names of the modules that hold a module, the model itself (an empty name) first."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts))]


def _find_module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise ValueError(f"{type(model).__name__} has no module `{name}` ({error}).") from error


__all__ = ["AttentionTap", "check_back_end"]
