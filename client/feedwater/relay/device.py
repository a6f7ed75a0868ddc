"""How busy the trainer's device is, as its driver says."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol


class Library(Protocol):
    """The seam to the driver."""

    def uuids(self) -> Sequence[str]:
        """Return the devices that this container may see, in the order of their PCI bus."""

    def utilisation(self, uuid: str) -> float:
        """Return the share of the last sixth to whole second in which anything ran on a device, 0 to 1."""


def open_nvml() -> Library:
    """Return NVIDIA's library.

    Raises:
        OSError: There is none, or no driver under it.
    """
    # ctypes is 0.4 MB that a trainer without a device need not pay for.
    from feedwater.relay.nvml import Nvml

    return Nvml()


class DeviceReader:
    """Reads the device of one trainer; silent where it cannot be told which, or where there is none."""

    def __init__(
        self, environment: Mapping[str, str] = os.environ, open_library: Callable[[], Library] = open_nvml
    ) -> None:
        """Take the trainer's environment, which the relay inherits, and how to open the library."""
        self._environment = environment
        self._open = open_library
        self._library: Library | None = None
        self._is_given_up = False

    def utilisation(self, uuid: str) -> float | None:
        """Return how busy the device was lately, 0 to 1; None where unknown.

        Args:
            uuid: What the trainer says it runs on; empty where it does not know.
        """
        if self._is_given_up:
            return None
        try:
            self._library = self._library or self._open()
            device = chosen(self._library.uuids(), uuid, self._environment)
            return None if device is None else self._library.utilisation(device)
        except OSError:
            # It is opened once: a driver that is not there now will not come into a running container.
            self._is_given_up = True
            return None


def chosen(uuids: Sequence[str], uuid: str, environment: Mapping[str, str]) -> str | None:
    """Return which device the trainer runs on; None where that is not certain.

    An index in ``CUDA_VISIBLE_DEVICES`` counts in CUDA's order, fastest first, which is the bus' order only
    where ``CUDA_DEVICE_ORDER`` says so.

    Source: https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables
    """
    if uuid:
        return uuid if uuid in uuids else None
    visible = environment.get("CUDA_VISIBLE_DEVICES", "").strip()
    if not visible:
        found = list(uuids)
    elif "," in visible:
        return None
    elif visible.isdecimal():
        in_order = len(uuids) == 1 or environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        found = [uuids[int(visible)]] if in_order and int(visible) < len(uuids) else []
    else:
        # The beginning of a UUID will do, if it is one device's.
        found = [name for name in uuids if name.startswith(visible)]
    return found[0] if len(found) == 1 else None
