"""NVIDIA's management library (NVML) through ctypes: five functions of its stable binary interface.

The package nvidia-ml-py does the same for 2.5 MiB more of resident memory in each relay (decision 19).

Source: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

LIBRARY = "libnvidia-ml.so.1"
UUID_BYTES = 96
"""NVML_DEVICE_UUID_V2_BUFFER_SIZE."""
PERCENT = 100.0


class _Utilisation(ctypes.Structure):
    """``nvmlUtilization_t``."""

    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class Nvml:
    """The library, initialised: a `feedwater.relay.device.Library`."""

    def __init__(self, name: str = LIBRARY) -> None:
        """Load and initialise it.

        Raises:
            OSError: The library or the driver is missing.
        """
        self._library = ctypes.CDLL(name)
        self._call("nvmlInit_v2")
        self._handles = dict(self._list_devices())

    def uuids(self) -> Sequence[str]:
        """Return the UUIDs of the devices, ``GPU-…``."""
        return list(self._handles)

    def utilisation(self, uuid: str) -> float:
        """Return the utilisation of a device, 0 to 1.

        Raises:
            OSError: The driver does not state it, as for a slice of a device (MIG).
        """
        read = _Utilisation()
        self._call("nvmlDeviceGetUtilizationRates", self._handles[uuid], ctypes.byref(read))
        return min(1.0, int(read.gpu) / PERCENT)

    def _list_devices(self) -> list[tuple[str, ctypes.c_void_p]]:
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        devices = []
        for index in range(count.value):
            handle, uuid = ctypes.c_void_p(), ctypes.create_string_buffer(UUID_BYTES)
            try:
                self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
                self._call("nvmlDeviceGetUUID", handle, uuid, ctypes.c_uint(UUID_BYTES))
            except OSError:  # No permission: the device is another container's.
                continue
            devices.append((uuid.value.decode(), handle))
        return devices

    def _call(self, name: str, *arguments: object) -> None:
        try:
            code = getattr(self._library, name)(*arguments)
        except AttributeError:
            raise OSError(f"{LIBRARY} has no {name}") from None
        if code:
            raise OSError(f"{name}: NVML error {code}")
