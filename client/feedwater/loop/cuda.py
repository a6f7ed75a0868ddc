"""CUDA's events as the loop needs them, from ``torch.cuda`` as the user left it: never imported here."""

from __future__ import annotations

from typing import NamedTuple, Protocol

NANO_PER_MILLI = 1_000_000


class CudaEvent(Protocol):
    """A ``torch.cuda.Event``."""

    def record(self, stream: object) -> None:
        """Queue it on a stream."""

    def query(self) -> bool:
        """Say whether the device has come past it."""

    def elapsed_time(self, end: object) -> float:
        """Return the milliseconds to another event."""


class CudaModule(Protocol):
    """``torch.cuda``, as far as it is used here."""

    def Event(self, *, enable_timing: bool) -> CudaEvent:  # noqa: N802
        """Make an event."""

    def current_device(self) -> int:
        """Return the number of the device in use."""

    def current_stream(self) -> object:
        """Return the stream in use."""

    def is_current_stream_capturing(self) -> bool:
        """Say whether a CUDA graph is being captured, which a foreign event would break."""

    def get_device_properties(self, device: int) -> object:
        """Return what is known of a device."""


class Recorded(NamedTuple):
    """An event, and where it was recorded."""

    event: CudaEvent
    device: int
    stream: object


class CudaTimeline:
    """A `feedwater.loop.device.Timeline` on the current stream of the current device.

    Events are kept for ever, a few dozen at most: one that is destroyed in a forked worker would call the
    driver there.
    """

    def __init__(self, cuda: CudaModule) -> None:
        self._cuda = cuda
        self._free: dict[int, list[CudaEvent]] = {}
        """By device, which an event is bound to when it is first recorded."""

    def uuid(self) -> int:
        """Return the 128 bits of the device's UUID; 0 where this version of PyTorch does not tell."""
        properties = self._cuda.get_device_properties(self._cuda.current_device())
        try:
            return int(str(getattr(properties, "uuid", "")).removeprefix("GPU-").replace("-", ""), 16)
        except ValueError:
            return 0

    def record(self) -> object | None:
        """Queue an event behind the work of the current stream; None while a CUDA graph is captured."""
        cuda = self._cuda
        if cuda.is_current_stream_capturing():
            return None
        device = cuda.current_device()
        free = self._free.setdefault(device, [])
        event = free.pop() if free else _kept(cuda.Event(enable_timing=True))
        stream = cuda.current_stream()
        event.record(stream)
        return Recorded(event, device, stream)

    def is_passed(self, event: object) -> bool:
        """Ask the driver, which does not wait."""
        assert isinstance(event, Recorded)
        return event.event.query()

    def nanoseconds(self, first: object, second: object) -> int | None:
        """Return the time between two events; None where device or stream changed between them."""
        assert isinstance(first, Recorded)
        assert isinstance(second, Recorded)
        if first.device != second.device or first.stream != second.stream:
            return None
        return round(first.event.elapsed_time(second.event) * NANO_PER_MILLI)

    def release(self, event: object) -> None:
        """Keep the event for the next sample."""
        assert isinstance(event, Recorded)
        self._free[event.device].append(event.event)


_made: list[CudaEvent] = []
"""Never let go of."""


def _kept(event: CudaEvent) -> CudaEvent:
    _made.append(event)
    return event
