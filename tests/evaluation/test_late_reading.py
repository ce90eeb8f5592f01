"""Values are read late: nothing waits before, and what is read is what was computed at the time of the copy."""

import torch
from pretend_device import PretendDevice

from albef_amc.evaluation.late_reading import LateReading


def test_only_reading_waits():
    with PretendDevice() as device:
        values = device.send(torch.arange(3))
        reading = LateReading(values * 2)
        assert not device.waits
        values.add_(1)
        assert torch.equal(reading.read(), torch.tensor([0, 2, 4]))
        assert [place.partition(",")[0] for place in device.waits] == ["Event.synchronize"]


def test_values_of_the_cpu_are_there():
    values = torch.arange(3)
    assert LateReading(values).read() is values
