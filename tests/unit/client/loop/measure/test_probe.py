"""Stamps gathered in the process reach the ring in order, and an epoch's sums with them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from feedwater import ring
from feedwater.loop.measure.probe import STORE_NS, Probe

MS = 1_000_000


class Keeper:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.rolled: list[tuple[int, int, int]] = []

    def on_end(self, probe: Probe, teardown_ns: int, stamp_ns: int) -> None:
        """Nothing is asked of this one."""

    def on_roll_over(self, probe: Probe, stamp_ns: int) -> None:
        """Note the epoch's batches, its wait, and the next one's first stamp."""
        self.rolled.append((probe.batches, probe.wait_ns, stamp_ns))

    def on_exception(self, probe: Probe, error: BaseException) -> None:
        """Nothing is asked of this one."""


@pytest.fixture
def words() -> Iterator[memoryview]:
    fd, made = ring.create()
    yield made
    os.close(fd)


def take(probe: Probe, batches: int, first: int = 0, wait_ns: int = MS) -> None:
    """Stamp batches that are 3 ms apart, as the hook does."""
    for number in range(first, first + batches):
        probe.stamps += [number * 3 * MS, number * 3 * MS + wait_ns]


def test_folded_stamps_are_in_the_ring_in_order(words: memoryview) -> None:
    """Five batches come out of the ring as they went in."""
    probe = Probe(words, 0, Keeper(), 0)
    take(probe, 5)
    probe.flush()
    read = ring.RingReader(words).batches(words[1])
    assert [(t.enter_ns, t.exit_ns) for t in read] == [(n * 3 * MS, n * 3 * MS + MS) for n in range(5)]


def test_stamps_run_over_the_end_of_the_ring(words: memoryview) -> None:
    """A run that begins two slots before the end goes on at slot 0."""
    reader = ring.RingReader(words)
    probe = Probe(words, ring.MAIN_SLOTS - 2, Keeper(), 0)
    words[1] = ring.MAIN_SLOTS - 2
    reader.batches(words[1])
    take(probe, 5)
    probe.flush()
    assert [t.enter_ns for t in reader.batches(words[1])] == [n * 3 * MS for n in range(5)]


def test_more_stamps_than_slots_count_as_overrun(words: memoryview) -> None:
    """Of 8,192 + 10 batches stored at once, ten and the one slot that might be torn are lost, and counted."""
    reader = ring.RingReader(words)
    probe = Probe(words, 0, Keeper(), 0)
    take(probe, ring.MAIN_SLOTS + 10)
    probe.flush()
    read = reader.batches(words[1])
    assert len(read) + reader.overrun == ring.MAIN_SLOTS + 10
    assert read[-1].enter_ns == (ring.MAIN_SLOTS + 9) * 3 * MS
    assert reader.overrun == 11


def test_sums_keep_the_first_batch_apart(words: memoryview) -> None:
    """Asked at -2 ms and given at 1 ms, start-up is 3 ms; the four other waits of 1 ms are the wait."""
    probe = Probe(words, 0, Keeper(), -2 * MS)
    take(probe, 2)
    probe.flush()
    take(probe, 3, first=2)
    probe.flush()
    assert (probe.start_up_ns, probe.wait_ns, probe.batches) == (3 * MS, 4 * MS, 5)


def test_a_pair_broken_by_an_interrupt_is_left_out(words: memoryview) -> None:
    """A stamp without its partner is no batch."""
    probe = Probe(words, 0, Keeper(), 0)
    take(probe, 2)
    probe.stamps.append(99 * MS)
    probe.flush()
    assert (probe.head, words[1]) == (2, 2)


def test_an_endless_iterator_rolls_over_once_per_length(words: memoryview) -> None:
    """Eleven batches of a loader of length 4 are two whole epochs and three batches of a third."""
    observer = Keeper()
    probe = Probe(words, 0, observer, 0)
    probe.roll_over_after(4)
    take(probe, 11)
    probe.flush()
    # The first batch of each is start-up: three waits of 1 ms are left.
    assert observer.rolled == [(4, 3 * MS, 4 * 3 * MS), (4, 3 * MS, 8 * 3 * MS)]
    assert (probe.batches, words[1]) == (3, 11)


def test_the_last_batch_of_a_length_does_not_roll_over(words: memoryview) -> None:
    """With exactly its length an epoch is whole, and the StopIteration that may follow ends it."""
    observer = Keeper()
    probe = Probe(words, 0, observer, 0)
    probe.roll_over_after(4)
    take(probe, 4)
    probe.flush()
    assert observer.rolled == []
    assert probe.batches == 4


def test_the_first_batch_is_stored_at_once_and_later_ones_soon(words: memoryview) -> None:
    """No stamp of a loop that goes on waits longer than `STORE_NS`."""
    probe = Probe(words, 0, Keeper(), 0)
    for number in range(1, 400):
        probe.stamps += [number * MS, number * MS + 1000]
        if probe.stamps[-1] >= probe.due_ns:
            probe.inspect_batch(None, 1000)
        if number == 1:
            assert words[1] == 1
        assert not probe.stamps or number * MS - probe.stamps[0] <= STORE_NS
    assert words[1] >= 299


def test_ready_batches_are_told_of_the_batch_that_waited(words: memoryview) -> None:
    """The queue's depth goes to the number of the batch just stamped, stored or not."""

    class Starved:
        _task_info = dict.fromkeys(range(6))
        _tasks_outstanding = 4

    probe = Probe(words, 0, Keeper(), 0)
    take(probe, 3)
    probe.due_ns = 1 << 62
    probe.inspect_batch(Starved(), MS)
    probe.flush()
    assert [t.ready for t in ring.RingReader(words).batches(words[1])] == [-1, -1, 2]


def test_counts_that_contradict_each_other_are_not_told(words: memoryview) -> None:
    """More tasks outstanding than known, as when a worker's shards are exhausted: the depth is not read.

    A negative depth was read back as 65,534, and the sidecar refused the whole epoch for it.
    """

    class Exhausted:
        _task_info = dict.fromkeys(range(4))
        _tasks_outstanding = 6

    probe = Probe(words, 0, Keeper(), 0)
    take(probe, 3)
    probe.due_ns = 1 << 62
    probe.inspect_batch(Exhausted(), MS)
    probe.flush()
    assert [t.ready for t in ring.RingReader(words).batches(words[1])] == [-1, -1, -1]


def test_an_iterator_whose_epoch_has_ended_leaves_the_ring_alone(words: memoryview) -> None:
    """Of two iterators of one iterable the older stores nothing once the younger has begun."""
    older = Probe(words, 0, Keeper(), 0)
    take(older, 3)
    older.flush()
    older.close()
    younger = Probe(words, older.head, Keeper(), 0)
    take(younger, 2)
    younger.flush()
    take(older, 4)
    older.flush()
    assert (words[1], older.stamps) == (5, [])
