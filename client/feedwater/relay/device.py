"""The utilisation of the trainer's device, as the driver states it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol


class Library(Protocol):
    """The driver's library, which tests replace."""

    def uuids(self) -> Sequence[str]:
        """Return the UUIDs of the devices that this container may see, in the order of the PCI bus."""

    def utilisation(self, uuid: str) -> float:
        """Return the share of time, 0 to 1, in which a kernel ran on a device, over the last 1/6 to 1 s."""


def open_nvml() -> Library:
    """Return NVIDIA's library.

    Raises:
        OSError: The library or the driver is missing.
    """
    # ctypes adds 0.4 MiB to the relay, which one without a device does not need.
    from feedwater.relay.nvml import Nvml

    return Nvml()


class DeviceReader:
    """Reads the device of one trainer; None where there is none, or where it is not certain which it is."""

    def __init__(
        self, environment: Mapping[str, str] = os.environ, open_library: Callable[[], Library] = open_nvml
    ) -> None:
        """Take the trainer's environment, which the relay inherits, and what opens the library."""
        self._environment = environment
        self._open = open_library
        self._library: Library | None = None
        self._has_failed = False

    def utilisation(self, uuid: str) -> float | None:
        """Return the device's recent utilisation, 0 to 1; None where unknown.

        Args:
            uuid: The device that the trainer states; empty where it does not know.
        """
        if self._has_failed:
            return None
        try:
            self._library = self._library or self._open()
            device = choose_device(self._library.uuids(), uuid, self._environment)
            return None if device is None else self._library.utilisation(device)
        except OSError:
            # Not tried again: a driver does not appear in a running container.
            self._has_failed = True
            return None


def choose_device(uuids: Sequence[str], uuid: str, environment: Mapping[str, str]) -> str | None:
    """Return the device that the trainer runs on; None where that is not certain.

    An index in ``CUDA_VISIBLE_DEVICES`` counts in CUDA's order, fastest first; only with
    ``CUDA_DEVICE_ORDER=PCI_BUS_ID`` is that the order of the bus.

    Source: https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables
    """
    if uuid:
        return uuid if uuid in uuids else None
    visible = environment.get("CUDA_VISIBLE_DEVICES", "").strip()
    if not visible:
        candidates = list(uuids)
    elif "," in visible:
        return None
    elif visible.isdecimal():
        in_order = len(uuids) == 1 or environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        candidates = [uuids[int(visible)]] if in_order and int(visible) < len(uuids) else []
    else:
        # CUDA accepts the beginning of a UUID that only one device has.
        candidates = [name for name in uuids if name.startswith(visible)]
    return candidates[0] if len(candidates) == 1 else None
