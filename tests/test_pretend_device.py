"""The simulated device of tests does what a GPU would do."""

import pytest
import torch
from pretend_device import DEVICE, PretendDevice


@pytest.fixture
def device():
    with PretendDevice() as device:
        yield device


WAITS = {
    "a value": lambda values: float(values.sum()),
    "a condition": lambda values: bool((values > 0).all()),
    "a list": lambda values: values.tolist(),
    "a copy": lambda values: values.cpu(),
    "rows that are True": lambda values: values[values[:, 0] > 0],
    "numbers of them": lambda values: (values > 0).nonzero(),
    "an index of the CPU": lambda values: values[torch.tensor([1])],
    "a tensor made of a list": lambda values: torch.tensor([1.0], device=DEVICE),
    "a copy from the CPU": lambda values: torch.ones(2).to(DEVICE),
    "an equality": lambda values: torch.equal(values, values),
    "an event": lambda values: torch.Event(DEVICE).synchronize(),
}


@pytest.mark.parametrize("reading", WAITS)
def test_what_needs_a_value_is_a_wait(device, reading):
    values = device.send(torch.randn(3, 2))
    WAITS[reading](values)
    (place,) = device.waits
    assert device.waits[place] == 1 and "tests/test_pretend_device.py:" in place


def test_the_rest_is_none_and_computes_the_same(device):
    values = torch.randn(3, 2, requires_grad=True)
    (values.softmax(dim=1).index_select(0, torch.tensor([2, 0])) * 2).square().sum().backward()
    copy = device.send(values).requires_grad_()
    rows = torch.tensor([2, 0]).to(DEVICE, non_blocking=True)
    (copy.softmax(dim=1).index_select(0, rows) * 2).square().sum().backward()
    fetched = copy.grad.to("cpu", non_blocking=True)
    assert not device.waits and torch.equal(fetched, values.grad)


def test_devices_do_not_meet(device):
    values = device.send(torch.randn(3))
    assert (values + torch.tensor(1.0)).device == DEVICE  # as on a GPU, a scalar may come from anywhere
    for combine in (torch.add, torch.dot, lambda *pair: torch.cat(pair)):
        with pytest.raises(RuntimeError, match="of the CPU and of the device meet"):
            combine(values, torch.ones(3))


def test_what_a_gpu_cannot_repeat_is_refused(device):
    values = device.send(torch.randn(3))
    try:
        torch.use_deterministic_algorithms(True)
        with pytest.raises(RuntimeError, match="cumsum does not have a deterministic implementation"):
            values.cumsum(dim=0)
        assert values.long().cumsum(dim=0).device == DEVICE
    finally:
        torch.use_deterministic_algorithms(False)
