"""CUDA events, through the ``torch.cuda`` that the user imported. It is never imported here."""

from __future__ import annotations

from typing import NamedTuple, Protocol

NANO_PER_MILLI = 1_000_000


class CudaEvent(Protocol):
    """A ``torch.cuda.Event``."""

    def record(self, stream: object) -> None:
        """Queue the event on a stream."""

    def query(self) -> bool:
        """Return whether the device has passed it."""

    def elapsed_time(self, end: object) -> float:
        """Return the milliseconds from this event to ``end``."""


class CudaModule(Protocol):
    """The functions of ``torch.cuda`` that are used here."""

    def Event(self, *, enable_timing: bool) -> CudaEvent:  # noqa: N802
        """Make an event."""

    def device_count(self) -> int:
        """Return how many devices there are."""

    def memory_reserved(self, device: int) -> int:
        """Return the bytes of a device that PyTorch's allocator holds."""

    def current_stream(self, device: int) -> object:
        """Return the stream in use on a device."""

    def is_current_stream_capturing(self) -> bool:
        """Return whether a CUDA graph is being captured, which an event of ours would break."""

    def get_device_properties(self, device: int) -> object:
        """Return the properties of a device."""


class Recorded(NamedTuple):
    """An event, and where it was recorded."""

    event: CudaEvent
    stream: object


def used_device(cuda: CudaModule) -> int | None:
    """Return the device that holds most of the trainer's memory; None where none holds any.

    Not the current one: ``model.to("cuda:1")`` leaves that at 0, whose stream is empty, and an event on it
    would make a context there, some 500 MB of a device that may be another rank's.
    """
    held = [cuda.memory_reserved(device) for device in range(cuda.device_count())]
    return held.index(max(held)) if any(held) else None


class CudaTimeline:
    """A `feedwater.loop.measure.device.Timeline` on the current stream of one device.

    Events are never destroyed, a few dozen at most: destroying one in a forked worker would call the driver
    there.
    """

    def __init__(self, cuda: CudaModule, device: int) -> None:
        self._cuda = cuda
        self._device = device
        self._free: list[CudaEvent] = []

    def uuid(self) -> int:
        """Return the 128 bits of the device's UUID; 0 where this version of PyTorch has none."""
        properties = self._cuda.get_device_properties(self._device)
        try:
            return int(str(getattr(properties, "uuid", "")).removeprefix("GPU-").replace("-", ""), 16)
        except ValueError:
            return 0

    def record(self) -> object | None:
        """Queue an event behind the work of the current stream; None while a CUDA graph is captured."""
        cuda = self._cuda
        if cuda.is_current_stream_capturing():
            return None
        event = self._free.pop() if self._free else _kept(cuda.Event(enable_timing=True))
        stream = cuda.current_stream(self._device)
        event.record(stream)
        return Recorded(event, stream)

    def is_passed(self, event: object) -> bool:
        """Query the driver, which does not wait."""
        assert isinstance(event, Recorded)
        return event.event.query()

    def nanoseconds(self, first: object, second: object) -> int | None:
        """Return the time between two events; None where the loop moved to another stream between them."""
        assert isinstance(first, Recorded)
        assert isinstance(second, Recorded)
        if first.stream != second.stream:
            return None
        return round(first.event.elapsed_time(second.event) * NANO_PER_MILLI)

    def release(self, event: object) -> None:
        """Keep the event for the next sample."""
        assert isinstance(event, Recorded)
        self._free.append(event.event)


_events: list[CudaEvent] = []
"""Keeps all events alive."""


def _kept(event: CudaEvent) -> CudaEvent:
    _events.append(event)
    return event
