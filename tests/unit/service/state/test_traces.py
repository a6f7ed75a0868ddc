"""Readings of short epochs, and what processes read."""

from __future__ import annotations

from array import array

import pytest

from feedwater_service.model.types import ContainerUsage, LoaderSettings
from feedwater_service.state.columns import column
from feedwater_service.state.reports import Batches, EpochBegin, ProcessUsage
from feedwater_service.state.traces import KEPT_READINGS, Trace

TWO = LoaderSettings(2, 2)


def begun(number: int, stamp: float, settings: LoaderSettings = TWO) -> Trace:
    trace = Trace(number, settings)
    trace.begin(EpochBegin(number, stamp, settings, 0.0))
    return trace


def worker(pid: int, stamp: float, chars: int, from_storage: int) -> ProcessUsage:
    return ProcessUsage(pid, pid - 100, stamp, read_chars=chars, read_bytes=from_storage)


def trainer(stamp: float, cpu_seconds: float, chars: int = 0) -> ProcessUsage:
    return ProcessUsage(7, None, stamp, cpu_seconds=cpu_seconds, read_chars=chars, read_bytes=0)


def test_short_epoch_begins_with_the_readings_that_the_one_before_ended_with() -> None:
    """Read at 10.0 and 11.5, an epoch from 10.1 to 11.5 knows what was used in it."""
    before, now = begun(0, 8.0), begun(1, 10.1)
    before.add_process(trainer(10.0, 3.0))
    before.add_container(ContainerUsage(10.0, periods=100))
    now.follow(before)
    now.add_process(trainer(11.5, 3.6))
    assert now.trainer_cpu == [(10.0, 3.0), (11.5, 3.6)]
    assert [c.periods for c in now.containers] == [100]


@pytest.mark.parametrize("stamp", [9.0, 9.59])
def test_readings_of_long_ago_are_not_taken_over(stamp: float) -> None:
    """More than half a second before the begin something else ran, a validation for instance."""
    before, now = begun(0, 8.0), begun(1, 10.1)
    before.add_process(trainer(stamp, 3.0))
    before.add_container(ContainerUsage(stamp))
    now.follow(before)
    assert not now.trainer_cpu
    assert not now.containers


def test_first_epoch_follows_nothing() -> None:
    """There is none before it."""
    now = begun(0, 8.0)
    now.follow(None)
    assert not now.trainer_cpu


def test_run_delay_of_the_main_thread_is_that_within_the_epoch() -> None:
    """0.3 s between readings 2 s apart are 0.6 s of an epoch of 4; workers tell theirs by load."""
    before, now = begun(0, 5.0), begun(1, 10.1)
    before.add_process(ProcessUsage(7, None, 10.0, run_delay_seconds=1.0))
    now.follow(before)
    now.add_process(ProcessUsage(7, None, 12.0, run_delay_seconds=1.3))
    now.add_process(ProcessUsage(100, 0, 12.0, run_delay_seconds=50.0))
    now.add_batches(Batches(1, 0, 10.1, column([0.0, 2.0], 10.0), column([1.0, 1.0], 10.0), array("h")))
    assert now.trainer_run_delay == [(10.0, 1.0), (12.0, 1.3)]
    assert now.freeze().trainer_run_delay_seconds == pytest.approx(0.6)


def test_run_delay_keeps_a_bounded_number_of_readings() -> None:
    """A day of readings each second is thinned, from its first to its newest."""
    now = begun(0, 0.0)
    for second in range(1000):
        now.add_process(ProcessUsage(7, None, float(second), run_delay_seconds=second * 0.1))
    assert len(now.trainer_run_delay) <= KEPT_READINGS
    assert now.trainer_run_delay[0] == (0.0, 0.0)
    assert now.trainer_run_delay[-1] == (999.0, pytest.approx(99.9))


def test_reads_of_new_workers_count_from_nothing() -> None:
    """Two workers, 100 and 200 bytes, 30 and 0 of them from storage; what the trainer read does not count."""
    trace = begun(0, 0.0)
    for reading in (worker(100, 1.0, 50, 10), worker(101, 1.0, 200, 0), worker(100, 2.0, 100, 30)):
        trace.add_process(reading)
    trace.add_process(trainer(2.0, 1.0, chars=10**9))
    reads = trace.freeze().reads
    assert reads is not None
    assert (reads.chars, reads.from_storage_bytes) == (300, 30)


def test_reads_of_persistent_workers_count_from_the_first_reading() -> None:
    """They have read 1,000 bytes in earlier epochs, and 500 in this one."""
    trace = begun(3, 0.0, LoaderSettings(1, 2, persistent_workers=True))
    trace.add_process(worker(100, 1.0, 1000, 1000))
    trace.add_process(worker(100, 2.0, 1500, 1100))
    reads = trace.freeze().reads
    assert reads is not None
    assert (reads.chars, reads.from_storage_bytes) == (500, 100)


def test_reads_without_workers_are_the_trainers() -> None:
    """At no workers the training process loads by itself."""
    trace = begun(0, 0.0, LoaderSettings(0))
    trace.add_process(trainer(1.0, 1.0, chars=100))
    trace.add_process(trainer(2.0, 2.0, chars=700))
    reads = trace.freeze().reads
    assert reads is not None
    assert reads.chars == 600


def test_reads_that_the_kernel_does_not_tell_are_none() -> None:
    """An absent signal is no zero."""
    trace = begun(0, 0.0)
    trace.add_process(ProcessUsage(100, 0, 1.0, cpu_seconds=1.0))
    assert trace.freeze().reads is None


def test_a_workers_start_up_is_kept_with_its_reading() -> None:
    """0.35 s of CPU before its first load go on to the model; without them they are not known."""
    trace = begun(0, 0.0)
    trace.add_process(ProcessUsage(100, 0, 1.0, cpu_seconds=0.5, boot_cpu_seconds=0.35))
    trace.add_process(ProcessUsage(101, 1, 1.0, cpu_seconds=0.5))
    assert [m.boot_cpu_seconds for m in trace.freeze().memory] == [0.35, None]
