"""The shared memory of a loader, and those who can open it."""

from __future__ import annotations

import os

import pytest

from feedwater import ring
from feedwater.worker import Slots

HOSTILE = [(1 << 63) - 1, -1, -(1 << 63), 1 << 62]


@pytest.mark.parametrize("size", [0, 4096, 2 * ring.SIZE_BYTES])
def test_nobody_can_change_the_size_of_a_ring(size: int) -> None:
    """Truncating it, as any process of the user can by its path, is refused: a store would be a SIGBUS."""
    fd, words = ring.create()
    other = os.open(f"/proc/{os.getpid()}/fd/{fd}", os.O_RDWR)
    with pytest.raises(PermissionError):
        os.ftruncate(other, size)
    words[ring.WORDS - 1] = 7
    os.close(other)
    os.close(fd)


@pytest.mark.parametrize("head", HOSTILE)
def test_worker_stores_after_any_head(head: int) -> None:
    """A spoilt head of its ring is no error in loading; the load that follows is stored."""
    fd, words = ring.create()
    at = ring.WORKERS_AT + 5 * ring.WORKER_STRIDE
    words[at] = head
    slots = Slots(words, 5)
    for _ in range(3):
        slots.begin()
        slots.store(b"1234")
    slots.close()
    reader = ring.RingReader(words)
    until = reader.worker_heads()[5]
    assert reader.loads(5, until)[-1].batch_bytes == 4
    os.close(fd)


@pytest.mark.parametrize("head", HOSTILE)
def test_reader_ends_at_any_head(head: int) -> None:
    """Spoilt heads of all rings: a reader returns no more than a ring holds; its counts fit a report."""
    fd, words = ring.create()
    for at in (1, 5, ring.DEVICE_AT, ring.DEVICE_AT + 2):
        words[at] = head
    for number in range(ring.WORKER_RINGS):
        words[ring.WORKERS_AT + number * ring.WORKER_STRIDE] = head
    reader = ring.RingReader(words)
    for _ in range(2):
        assert len(reader.batches(reader.head())) <= ring.MAIN_SLOTS
        for number, until in enumerate(reader.worker_heads()):
            assert len(reader.loads(number, until)) <= ring.WORKER_SLOTS
        assert len(reader.device_steps(reader.device_head())) <= ring.DEVICE_SLOTS
        reader.resume()
    assert 0 <= reader.overrun < 1 << 63
    assert 0 <= reader.worker_overrun < 1 << 63
    os.close(fd)


@pytest.mark.parametrize("head", HOSTILE)
def test_device_writer_stores_after_any_head(head: int) -> None:
    """A spoilt head of the device's ring is no error in the loop."""
    fd, words = ring.create()
    words[ring.DEVICE_AT] = head
    for batch in range(2):  # The first may be the last number that a head has.
        ring.DeviceWriter(words).store(ring.DeviceTiming(batch, 2, 3))
    reader = ring.RingReader(words)
    assert reader.device_steps(reader.device_head())[-1] == ring.DeviceTiming(1, 2, 3)
    os.close(fd)
