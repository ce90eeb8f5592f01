# Copyright 2026 The albef-amc authors. Licensed under the Apache License, Version 2.0.
"""Values of a device that are read later, while it works on what it was given since."""

import torch


class LateReading:
    """A copy of values to the CPU that nothing waits for until it is read.

    A plain copy waits for everything that the device was given before it, the next batch included.

    Args:
        values (`torch.Tensor`): what is read.
    """

    def __init__(self, values: torch.Tensor):
        self._values = values.to("cpu", non_blocking=True)
        self._is_copied = None
        if values.device.type != "cpu":
            self._is_copied = torch.Event(values.device)
            self._is_copied.record()

    def read(self) -> torch.Tensor:
        """The values on the CPU; waits for the device to have computed them, not for what it was given since."""
        if self._is_copied is not None:
            self._is_copied.synchronize()
        return self._values
