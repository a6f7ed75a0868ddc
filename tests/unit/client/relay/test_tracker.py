"""Batches and loads become epochs, whatever the order of polls and packets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedwater import ring
from feedwater.relay import tracker as tracker_module
from feedwater.relay.measurements import ProcessUsage
from feedwater.relay.tracker import EpochTracker, open_epoch
from feedwater.values import LoaderSettings

MS = 1_000_000
TWO = LoaderSettings(2, 2)


class Writer:
    """Stores batches of 1 ms wait and 2 ms step."""

    def __init__(self, words: memoryview) -> None:
        self.words = words
        self.head = 0
        self.now = 1000 * MS

    def batches(self, count: int) -> None:
        for _ in range(count):
            at = ring.MAIN_AT + (self.head % ring.MAIN_SLOTS) * ring.MAIN_WORDS
            self.words[at], self.words[at + 1] = self.now, self.now + MS
            self.now += 3 * MS
            self.head += 1
        self.words[1] = self.head

    def load(self, worker: int, start: int) -> None:
        mine = ring.worker_ring_words(self.words, worker)
        at = ring.WORKER_HEADER_WORDS + (mine[0] % ring.WORKER_SLOTS) * ring.WORKER_WORDS
        for offset, word in enumerate((start, start + MS, -5, 0, 0, 0, 77, 0)):
            mine[at + offset] = word
        mine[0] += 1


def begin(tracker: EpochTracker, writer: Writer, number: int) -> None:
    tracker.begin(open_epoch(number, TWO, 0.0, (), 0, writer.now), writer.head)


def waits(reports, epoch):
    runs = [run for report in reports for run in report.batches if run.epoch == epoch]
    return [wait for run in runs for wait in run.wait_seconds]


def poll(tracker):
    tracker.note_heads()
    return tracker.poll()


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    chunks=st.lists(st.integers(1, 15), min_size=1, max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_batches_are_attributed_exactly_however_often_the_ring_is_polled(lengths, chunks):
    """Epochs of any length, polled after any number of batches: each has its own batches, in order, once."""
    _, words = ring.create()
    writer, tracker = Writer(words), EpochTracker(ring.RingReader(words))
    reports = []
    turn = 0
    for number, length in enumerate(lengths):
        begin(tracker, writer, number)
        left = length
        while left:
            chunk = min(left, chunks[turn % len(chunks)])
            turn += 1
            writer.batches(chunk)
            left -= chunk
            poll(tracker)
            reports.append(tracker.take())
        assert tracker.end(number, writer.head, True, 0.0, writer.now)
        reports.append(tracker.take())
        assert [end.batches for end in reports[-1].ends] == [length]
    for number, length in enumerate(lengths):
        assert waits(reports, number) == pytest.approx([0.001] * length)
        runs = [run for report in reports for run in report.batches if run.epoch == number]
        assert [step for run in runs for step in run.step_seconds] == pytest.approx([0.002] * length)
        firsts = [run.first for run in runs]
        lengths_so_far = [sum(len(run.wait_seconds) for run in runs[:at]) for at in range(len(runs))]
        assert firsts == lengths_so_far


def test_batches_stored_after_the_look_wait_for_the_packets_before_them(words):
    """A batch of epoch 1, stored before the relay read that epoch 0 had ended, is not epoch 0's."""
    writer, tracker = Writer(words), EpochTracker(ring.RingReader(words))
    begin(tracker, writer, 0)
    writer.batches(5)
    head = writer.head
    tracker.note_heads()
    # From here on the packets "end 0" and "begin 1" are in the socket, not read yet.
    writer.batches(3)
    tracker.poll()
    tracker.end(0, head, True, 0.0, writer.now)
    assert len(waits([tracker.take()], 0)) == 5


def test_end_that_is_read_late_leaves_the_next_epochs_loads_alone(words):
    """A load that started after the end is the next epoch's, though it was in the ring already."""
    writer, tracker = Writer(words), EpochTracker(ring.RingReader(words))
    begin(tracker, writer, 0)
    writer.load(0, writer.now + 1)
    end = writer.now + 10
    writer.load(0, writer.now + 20)
    tracker.end(0, 0, True, 0.0, end)
    first = tracker.take()
    writer.now += 20
    begin(tracker, writer, 1)
    poll(tracker)
    second = tracker.take()
    assert [(run.epoch, len(run.start_seconds)) for run in first.loads] == [(0, 1)]
    assert [(run.epoch, len(run.start_seconds)) for run in second.loads] == [(1, 1)]


def test_begin_without_an_end_abandons_the_epoch_before(words):
    """The packet that ended it was lost: it ends as incomplete where the next begins."""
    writer, tracker = Writer(words), EpochTracker(ring.RingReader(words))
    begin(tracker, writer, 0)
    writer.batches(4)
    begin(tracker, writer, 1)
    report = tracker.take()
    assert [(end.epoch, end.batches, end.complete) for end in report.ends] == [(0, 4, False)]
    assert [opened.epoch for opened in report.begins] == [0, 1]


def test_batches_of_no_epoch_are_counted_as_lost(words):
    """Both packets between two epochs were lost: what lies between is not guessed."""
    writer, tracker = Writer(words), EpochTracker(ring.RingReader(words))
    writer.batches(6)
    assert poll(tracker) == 0.0
    begin(tracker, writer, 0)
    assert tracker.overrun == 6


def test_hole_of_overwritten_batches_keeps_the_ordinals(words):
    """10 read, 20,000 more stored before the next poll: the ordinals go on behind the hole."""
    writer, tracker = Writer(words), EpochTracker(ring.RingReader(words))
    begin(tracker, writer, 0)
    writer.batches(10)
    poll(tracker)
    writer.batches(20_000)
    tracker.end(0, writer.head, True, 0.0, writer.now)
    report = tracker.take()
    received = sum(len(run.wait_seconds) for run in report.batches)
    assert received + tracker.overrun == 20_010
    assert report.batches[-1].first + len(report.batches[-1].wait_seconds) == 20_010
    assert report.ends[0].batches == 20_010


def test_end_of_another_epoch_is_left_out(words):
    """An end that came twice, or for an epoch that a new one replaced."""
    writer, tracker = Writer(words), EpochTracker(ring.RingReader(words))
    begin(tracker, writer, 3)
    assert not tracker.end(2, 0, True, 0.0, writer.now)
    assert tracker.open_epoch is not None


def test_negative_times_are_told_as_zero(words):
    """CPU time of -5 ns, as a clock read on two CPUs gave, would be refused by the sidecar."""
    writer, tracker = Writer(words), EpochTracker(ring.RingReader(words))
    begin(tracker, writer, 0)
    writer.load(0, writer.now)
    poll(tracker)
    assert tracker.take().loads[0].cpu_seconds == [0.0]


def test_numbers_that_the_wire_cannot_hold_are_counted_as_lost(words):
    """A size of -1 byte, as a torn store leaves: the load is lost, the batches and the end are not."""
    writer, tracker = Writer(words), EpochTracker(ring.RingReader(words))
    begin(tracker, writer, 0)
    writer.batches(3)
    writer.load(0, writer.now)
    ring.worker_ring_words(words, 0)[ring.WORKER_HEADER_WORDS + 4] = -1
    tracker.end(0, writer.head, True, 0.0, writer.now)
    report = tracker.take()
    assert (len(report.loads), tracker.worker_overrun) == (0, 1)
    assert [(end.epoch, end.batches) for end in report.ends] == [(0, 3)]
    assert len(waits([report], 0)) == 3


def test_fullness_tells_how_soon_to_poll_again(words):
    """256 loads in a worker's ring of 512 since the last poll: half full."""
    writer, tracker = Writer(words), EpochTracker(ring.RingReader(words))
    begin(tracker, writer, 0)
    for at in range(256):
        writer.load(1, writer.now + at)
    assert poll(tracker) == 0.5


def test_where_stores_are_unordered_a_head_is_trusted_one_poll_later(words, monkeypatch):
    """On ARM a head may be seen before what it counts."""
    monkeypatch.setattr(tracker_module, "STORES_ARE_ORDERED", False)
    writer, tracker = Writer(words), EpochTracker(ring.RingReader(words))
    begin(tracker, writer, 0)
    writer.batches(5)
    poll(tracker)
    assert waits([tracker.take()], 0) == []
    poll(tracker)
    assert len(waits([tracker.take()], 0)) == 4


def test_new_reader_goes_on_where_the_one_before_stopped(words):
    """A relay that replaces another reads no batch and no load twice."""
    writer, tracker = Writer(words), EpochTracker(ring.RingReader(words))
    begin(tracker, writer, 0)
    writer.batches(5)
    writer.load(0, writer.now)
    poll(tracker)
    reader = ring.RingReader(words)
    reader.resume()
    writer.batches(2)
    assert len(reader.batches(reader.head())) == 2
    assert reader.loads(0, 1) == []


def test_steps_of_the_device_belong_to_their_own_epochs(words):
    """Those that come after the end are told of the epoch that ended, under its own ordinals."""
    writer, device = Writer(words), ring.DeviceWriter(words)
    tracker = EpochTracker(ring.RingReader(words))
    assert not tracker.uses_cuda
    device.uses_cuda(0xFF << 120)
    begin(tracker, writer, 0)
    writer.batches(20)
    device.store(ring.DeviceTiming(3, 2 * MS, 4 * MS))
    poll(tracker)
    tracker.end(0, writer.head, True, 0.0, writer.now)
    begin(tracker, writer, 1)
    device.store(ring.DeviceTiming(17, MS, MS))
    writer.batches(5)
    device.store(ring.DeviceTiming(21, 5 * MS, 6 * MS))
    poll(tracker)
    poll(tracker)
    told = tracker.take().device_steps
    columns = [(run, zip(run.batch, run.idle_seconds, run.busy_seconds, strict=True)) for run in told]
    assert [(run.epoch, *row) for run, rows in columns for row in rows] == [
        (0, 3, pytest.approx(0.002), pytest.approx(0.004)),
        (0, 17, pytest.approx(0.001), pytest.approx(0.001)),
        (1, 1, pytest.approx(0.005), pytest.approx(0.006)),
    ]
    assert tracker.uses_cuda
    assert tracker.device_uuid == "GPU-ff000000-0000-0000-0000-000000000000"


def test_what_a_worker_used_before_its_first_load_goes_with_its_reading(words):
    """0.3 s of worker 1, whose pid is in its ring; nothing of one that has not loaded, nor of the trainer."""
    writer, tracker = Writer(words), EpochTracker(ring.RingReader(words))
    tracker.begin(open_epoch(0, TWO, 0.0, (70, 71), 4, writer.now), writer.head)
    for number, pid, boot in ((4, 70, 0), (5, 71, 300 * MS)):
        mine = ring.worker_ring_words(words, number)
        mine[1], mine[2] = pid, boot
    read = [ProcessUsage(pid, 1.0, worker, cpu_seconds=0.5) for pid, worker in ((9, None), (70, 0), (71, 1))]
    assert [usage.boot_cpu_seconds for usage in tracker.add_boot_cpu(read)] == [
        None,
        None,
        pytest.approx(0.3),
    ]
    # Another process that has come to be worker 1 since.
    assert tracker.add_boot_cpu([ProcessUsage(72, 1.0, 1)])[0].boot_cpu_seconds is None


def test_a_short_epoch_tells_what_its_workers_used_before_their_first_loads(words):
    """No process was read while it ran: its two workers' 0.3 s are told with its end, once."""
    writer, tracker = Writer(words), EpochTracker(ring.RingReader(words))
    tracker.begin(open_epoch(0, TWO, 0.0, (70, 71), 4, writer.now), writer.head)
    for number, pid in ((4, 70), (5, 71)):
        mine = ring.worker_ring_words(words, number)
        mine[1], mine[2] = pid, 300 * MS
    writer.batches(3)
    tracker.end(0, writer.head, True, 0.0, writer.now)
    told = tracker.add_boot_cpu([ProcessUsage(9, 1.0)])
    assert [(usage.pid, usage.worker) for usage in told] == [(9, None), (70, 0), (71, 1)]
    assert [usage.boot_cpu_seconds for usage in told[1:]] == pytest.approx([0.3, 0.3])
    assert len(tracker.add_boot_cpu([ProcessUsage(9, 1.0)])) == 1
