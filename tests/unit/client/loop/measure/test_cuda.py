"""CUDA's events behind the seam, on a ``torch.cuda`` that writes down what it is asked."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from feedwater.loop.measure import device
from feedwater.loop.measure.cuda import CudaTimeline, used_device


class Event:
    """Recorded at the cuda's own milliseconds."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.at = 0.0

    def record(self, stream: object) -> None:
        self.at = self.cuda.now_ms

    def query(self) -> bool:
        return self.cuda.is_past

    def elapsed_time(self, end: Event) -> float:
        return end.at - self.at


class FakeCuda:
    """``torch.cuda``, as far as it is used."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.made = 0
        self.held = [0, 7 << 20]
        self.is_initialised = False
        self.stream = "default"
        self.is_past = True
        self.is_capturing = False
        self.uuid: object = "6f3a1f1e-0000-0000-0000-00000000000b"

    def Event(self, *, enable_timing: bool) -> Event:  # noqa: N802
        assert enable_timing
        self.made += 1
        return Event(self)

    def device_count(self) -> int:
        return len(self.held)

    def memory_reserved(self, device: int) -> int:
        return self.held[device]

    def current_stream(self, device: int) -> object:
        assert device == 1
        return self.stream

    def is_current_stream_capturing(self) -> bool:
        return self.is_capturing

    def is_initialized(self) -> bool:
        return self.is_initialised

    def get_device_properties(self, device: int) -> object:
        return SimpleNamespace(uuid=self.uuid)


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def timeline(cuda: FakeCuda) -> CudaTimeline:
    return CudaTimeline(cuda, 1)


def test_milliseconds_become_nanoseconds(cuda: FakeCuda, timeline: CudaTimeline) -> None:
    """12.5 ms between two events are 12,500,000 ns."""
    first = timeline.record()
    cuda.now_ms += 12.5
    assert timeline.nanoseconds(first, timeline.record()) == 12_500_000


def test_events_are_used_again(cuda: FakeCuda, timeline: CudaTimeline) -> None:
    """A hundred events in turn take one."""
    for _ in range(100):
        timeline.release(timeline.record())
    assert cuda.made == 1


def test_events_of_two_streams_are_not_compared(cuda: FakeCuda, timeline: CudaTimeline) -> None:
    """Where the loop moved to another stream between them, the time says nothing."""
    first = timeline.record()
    cuda.stream = "side"
    assert timeline.nanoseconds(first, timeline.record()) is None


def test_capture_is_left_alone(cuda: FakeCuda, timeline: CudaTimeline) -> None:
    """No event is made or recorded while a graph is captured."""
    cuda.is_capturing = True
    assert timeline.record() is None
    assert cuda.made == 0


def test_event_is_not_waited_for(cuda: FakeCuda, timeline: CudaTimeline) -> None:
    """What the driver says of it is passed on."""
    event = timeline.record()
    assert timeline.is_passed(event)
    cuda.is_past = False
    assert not timeline.is_passed(event)


@pytest.mark.parametrize(
    ("told", "number"),
    [
        ("6f3a1f1e-0000-0000-0000-00000000000b", 0x6F3A1F1E_0000_0000_0000_00000000000B),
        ("GPU-6f3a1f1e-0000-0000-0000-00000000000b", 0x6F3A1F1E_0000_0000_0000_00000000000B),
        ("", 0),
        (None, 0),
    ],
)
def test_uuid_is_read_as_torch_prints_it(
    cuda: FakeCuda, timeline: CudaTimeline, told: object, number: int
) -> None:
    """With or without its prefix; 0 where PyTorch does not know."""
    cuda.uuid = told
    assert timeline.uuid() == number


def test_cuda_is_found_where_something_is_on_a_device(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before it is initialised and holds memory: asking must neither initialise it nor make a context."""
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert device.find_timeline() is None
    cuda.is_initialised, cuda.held = True, [0, 0]
    assert device.find_timeline() is None
    cuda.held = [1 << 20, 7 << 20]
    assert isinstance(device.find_timeline(), CudaTimeline)


@pytest.mark.parametrize(("held", "expected"), [([0, 0], None), ([], None), ([0, 5], 1), ([9, 5], 0)])
def test_device_is_the_one_that_holds_most(cuda: FakeCuda, held: list[int], expected: int | None) -> None:
    """``model.to("cuda:1")`` leaves the current device at 0, where nothing runs."""
    cuda.held = held
    assert used_device(cuda) == expected
