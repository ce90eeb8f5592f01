"""A simulated device, for tests of what a GPU would do: it computes on the CPU, and records every wait for it.

Its tensors say that they are on the device `meta`. An operation that mixes them with tensors of the CPU raises as it
would on a GPU; one that needs their values on the CPU, or copies to or from the device without `non_blocking`, is a
wait.
"""

import collections
import contextlib
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

PROJECT = Path(__file__).resolve().parents[1]
DEVICE = torch.device("meta")
CPU = torch.device("cpu")
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
# Operations whose result, or its shape, the program needs.
READING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive", "bincount", "equal"}
# Operations that take scalars of the CPU only where they are added or multiplied, never where they are joined.
JOINING = {"cat", "stack", "index_select", "gather", "scatter", "embedding", "searchsorted", "bucketize", "mm", "bmm"}
NOT_DETERMINISTIC = {"cumsum", "cumprod", "histc", "put_", "scatter_reduce"}  # on a GPU, of floating-point numbers


class PretendTensor(torch.Tensor):
    """A tensor on the simulated device; `values` has what it holds."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )

    def __init__(self, values: torch.Tensor):
        self.values = values

    def __repr__(self) -> str:
        return f"PretendTensor({self.values})"

    def __deepcopy__(self, memo: dict) -> "PretendTensor":
        return PretendTensor(self.values.clone())

    def tolist(self) -> Any:
        return self.to("cpu").tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a tensor on the simulated device has no NumPy array: use `.cpu()` first")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        raise AssertionError(f"{operation} on the simulated device outside of `with PretendDevice()`")


class PretendDevice(TorchDispatchMode):
    """Context in which the simulated device exists; `waits` counts by operation and line of the project.

    Example:

        with PretendDevice() as device:
            model = device.move(model)
            ...
        assert not device.waits
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: collections.Counter[str] = collections.Counter()
        self._patches = contextlib.ExitStack()

    def __enter__(self) -> "PretendDevice":
        make_tensor, make_autocast, supported = torch.tensor, torch.autocast, ["cpu", DEVICE.type]

        def tensor(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
            made = make_tensor(data, *args, **kwargs)
            return made if device is None else made.to(device)  # a copy that waits, as on a GPU

        def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
            return (
                contextlib.nullcontext() if device_type == DEVICE.type else make_autocast(device_type, *args, **kwargs)
            )

        def event(device: Any) -> Any:
            return mock.Mock(synchronize=lambda: self._note("Event.synchronize"))

        for name, replacement in (
            ("torch.tensor", tensor),
            ("torch.autocast", autocast),
            ("torch.Event", event),
            ("torch.optim.optimizer._get_fused_kernels_supported_devices", lambda: supported),
        ):
            self._patches.enter_context(mock.patch(name, replacement))
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._patches.close()

    def move(self, model: nn.Module) -> nn.Module:
        """Moves a model in place; shared parameters stay shared."""
        moved: dict[int, nn.Parameter] = {}
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    new = nn.Parameter(PretendTensor(parameter.detach().clone()), parameter.requires_grad)
                    module._parameters[name] = moved.setdefault(id(parameter), new)
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else PretendTensor(buffer.clone())
        return model

    def send(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of a tensor on the device, which is not counted."""
        return PretendTensor(tensor.detach().clone())

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = operation._schema.name.split("::")[1]
        if name == "_fused_sdp_choice":
            return 0  # the kernel that is made of simple operations
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        is_here = [isinstance(value, PretendTensor) for value in tensors]
        wanted = None if kwargs.get("device") is None else torch.device(kwargs["device"])
        is_result_here = any(is_here) if wanted is None else wanted == DEVICE
        if any(is_here):
            self._look(name, operation, args, kwargs, tensors, is_here)
        if name == "_to_copy" and is_here[0] != is_result_here and not kwargs.get("non_blocking"):
            self._note(f"copy to {'the device' if is_result_here else 'the CPU'}")
        if wanted == DEVICE:
            kwargs["device"] = CPU
        plain_args, plain_kwargs = tree_map_only(PretendTensor, lambda value: value.values, (args, kwargs))
        result = operation(*plain_args, **plain_kwargs)
        if operation._schema.is_mutable:
            return (
                kwargs["out"] if "out" in kwargs else args[0] if name.endswith("_") and result is not None else result
            )
        return tree_map_only(torch.Tensor, PretendTensor, result) if is_result_here else result

    def _look(self, name, operation, args, kwargs, tensors, is_here) -> None:
        """Notes waits of an operation on tensors of the device, and raises where a GPU would."""
        if (
            name in NOT_DETERMINISTIC
            and tensors[0].is_floating_point()
            and torch.are_deterministic_algorithms_enabled()
        ):
            raise RuntimeError(f"{name} does not have a deterministic implementation on the simulated device")
        if name == "copy_":
            if is_here[0] != is_here[1] and not (kwargs.get("non_blocking") or args[2:3] == (True,)):
                self._note("copy between devices")
        elif name in INDEXING:
            if not is_here[0]:
                raise RuntimeError(f"{operation}: a tensor of the CPU is indexed by the device")
            for index in args[1]:
                if index is not None and (index.dtype == torch.bool or not isinstance(index, PretendTensor)):
                    self._note(f"{name} by {'bool' if index.dtype == torch.bool else 'an index of the CPU'}")
        elif name != "_to_copy":
            others = [value for value, here in zip(tensors, is_here, strict=True) if not here]
            if others and (name in JOINING or any(value.ndim for value in others)):
                raise RuntimeError(f"{operation}: tensors of the CPU and of the device meet")
            if name in READING or (name == "repeat_interleave" and kwargs.get("output_size") is None):
                self._note(name)

    def _note(self, what: str) -> None:
        frame = sys._getframe(1)
        place = "outside of the project"
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if path != Path(__file__) and path.is_relative_to(PROJECT) and not path.is_relative_to(sys.prefix):
                place = f"{path.relative_to(PROJECT)}:{frame.f_lineno}"
                break
            frame = frame.f_back
        self.waits[f"{what}, {place}"] += 1
