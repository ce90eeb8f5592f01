# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Linear layers for inference on a CPU: weights in oneDNN's layout, or in int8. They have no gradient."""

import warnings
from collections.abc import Callable

import torch
from torch import nn

PACKED_DTYPES = (torch.float32, torch.bfloat16)


class InferenceLinear(nn.Module):
    """A linear layer whose weights are not parameters: it can be neither trained nor saved."""

    def train(self, mode: bool = True) -> "InferenceLinear":
        """Refuses training mode with `ValueError`."""
        if mode:
            refuse_inference_layers(self, "trained")
        return super().train(mode)


class PackedLinear(InferenceLinear):
    """A linear layer computed by oneDNN, with weights in its layout.

    Args:
        linear (`nn.Linear`): the layer, with float32 or bfloat16 weights on the CPU.
        dtype (`torch.dtype`): of the weights and the outputs, `torch.float32` or `torch.bfloat16`.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.weight = linear.weight.detach().to_mkldnn(dtype)
        self.bias = linear.bias.detach().to(dtype).float().to_mkldnn()  # rounded as by autocast; oneDNN adds float32

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(..., in_features)` to `(..., out_features)`."""
        return nn.functional.linear(hidden_states.to_mkldnn(self.dtype), self.weight, self.bias).to_dense()


class QuantizedLinear(InferenceLinear):
    """A linear layer in int8, by torch's dynamic quantisation: weights have a scale per output, inputs one per call.

    Source: `torch.ao.quantization.quantize_dynamic`. Its successor in torchao takes twice as long on a CPU, about as
    long as bfloat16.

    Args:
        linear (`nn.Linear`): the layer, on the CPU.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        try:
            from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic
        except ImportError as error:
            raise ValueError(f"torch {torch.__version__} has no `quantize_dynamic`: use bfloat16.") from error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces that the function will move to torchao
            quantized = quantize_dynamic(nn.Sequential(linear).float(), {nn.Linear: per_channel_dynamic_qconfig})
        self.linear = quantized[0]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(..., in_features)` to `(..., out_features)`, of the type of the inputs."""
        return self.linear(hidden_states.float()).to(hidden_states.dtype)


def replace_linear_layers(module: nn.Module, build: Callable[[nn.Linear], InferenceLinear]) -> None:
    """Replaces every `nn.Linear` inside a module, in place."""
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, build(child))
        else:
            replace_linear_layers(child, build)


def check_inference_layers(model: nn.Module, device: torch.device, method: str) -> None:
    """Raises `ValueError` if layers of a model cannot be replaced by `method`: on a GPU, or with an adapter."""
    if device.type != "cpu":
        raise ValueError(f"`{method}` is for a CPU, but the model is on {device}: use `torch.autocast` there.")
    if hasattr(model, "peft_config"):
        raise ValueError(f"the model has LoRA layers: merge the adapter (`albef-amc merge`) before `{method}`.")


def check_packed_dtype(dtype: torch.dtype) -> None:
    """Raises `ValueError` if this machine cannot compute with packed weights of a type."""
    if dtype not in PACKED_DTYPES:
        raise ValueError(f"`dtype` must be torch.float32 or torch.bfloat16, got {dtype}.")
    try:
        zeros = torch.zeros(8, 8).to_mkldnn(dtype)
        nn.functional.linear(zeros, zeros, torch.zeros(8).to_mkldnn())
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"oneDNN cannot compute with {dtype} on this machine ({reason}): do not pack the weights."
        ) from error


def refuse_inference_layers(model: nn.Module, purpose: str, kind: type[InferenceLinear] = InferenceLinear) -> None:
    """Raises `ValueError` if layers of a model were packed or quantised, or are of one `kind` of such layers.

    `purpose` follows "cannot be".
    """
    if any(isinstance(module, kind) for module in model.modules()):
        raise ValueError(
            f"a model with packed or quantised weights cannot be {purpose}: load the checkpoint again, without "
            "`pack_weights` and `quantize_image_encoder`."
        )


__all__ = [
    "PACKED_DTYPES",
    "InferenceLinear",
    "PackedLinear",
    "QuantizedLinear",
    "check_inference_layers",
    "check_packed_dtype",
    "refuse_inference_layers",
    "replace_linear_layers",
]
