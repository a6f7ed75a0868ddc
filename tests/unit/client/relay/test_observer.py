"""Readings at a bounded price."""

from __future__ import annotations

import os
import threading

import psutil
import pytest

from feedwater.relay import observer as observer_module
from feedwater.relay.cgroup import CgroupLimits, CgroupReader
from feedwater.relay.observer import Observer
from feedwater.relay.relay import REPORT_SECONDS


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return now."""
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def observer(clock):
    return Observer(os.getpid(), clock)


def test_limits_are_read_anew_within_a_report_interval(observer, clock):
    """A pod can be resized in place: the next report tells it."""
    first = observer.limits()
    assert observer.limits() is first
    clock.now += REPORT_SECONDS
    assert observer.limits() is not first


def test_limit_of_the_pod_counts_where_the_container_has_none(clock, monkeypatch):
    """1,500 millicores and 1 GiB stated, none in the cgroup: they hold; a limit of the cgroup's wins."""
    environ = {"FEEDWATER_CPU_LIMIT_MILLICORES": "1500", "FEEDWATER_MEMORY_LIMIT_BYTES": str(1 << 30)}
    found = CgroupLimits()
    monkeypatch.setattr(observer_module.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(CgroupReader, "limits", lambda _: found)
    limits = Observer(os.getpid(), clock, environ=environ).limits()
    assert (limits.cpu_quota_cores, limits.cpu_period_seconds) == (1.5, 0.1)
    assert limits.memory_bytes == 1 << 30
    found = CgroupLimits(cpu_quota_cores=2.0, cpu_period_seconds=0.05, memory_bytes=2 << 30)
    limits = Observer(os.getpid(), clock, environ=environ).limits()
    assert (limits.cpu_quota_cores, limits.cpu_period_seconds) == (2.0, 0.05)
    assert limits.memory_bytes == 2 << 30


def test_limits_of_this_very_process(observer):
    """Its CPUs are its affinity's, and its memory is bounded at least by the machine's."""
    limits = observer.limits()
    assert limits.cpus == len(os.sched_getaffinity(0))
    assert limits.memory_bytes is not None


def test_processes_are_read_each_two_seconds(observer, clock):
    """Trainer and one worker; nothing in between."""
    assert [usage.worker for usage in observer.processes([os.getppid()])] == [None, 0]
    assert observer.processes([os.getppid()]) == []
    clock.now += observer_module.PROCESSES_SECONDS + 10
    assert len(observer.processes([os.getppid()])) == 2


def test_run_delay_is_that_of_the_thread_that_iterates(observer, clock):
    """The trainer's reading has it, of the given thread or of the main one; a worker's has none."""
    trainer, worker = observer.processes([os.getppid()], threading.get_native_id())
    assert trainer.run_delay_seconds is not None
    assert worker.run_delay_seconds is None
    clock.now += 1
    (alone,) = observer.processes([os.getppid()])
    assert alone.run_delay_seconds >= trainer.run_delay_seconds
    clock.now += 1
    # A thread that has ended: its delay is unknown, not zero.
    assert observer.processes([], 1 << 22)[0].run_delay_seconds is None


def test_without_psutil_the_processes_are_unknown_and_the_container_is_read(clock, monkeypatch):
    """The Python of an image with gRPC alone: no reading of a process, and no error."""
    monkeypatch.setattr(observer_module, "processes", None)
    observer = Observer(os.getpid(), clock)
    assert observer.processes([os.getppid()]) == []
    assert observer.container().stamp_seconds == clock.now


def test_proportional_memory_is_read_two_seconds_into_an_epoch(observer, clock):
    """Not at its begin, when workers are empty; then not before twice the time has passed."""
    observer.begin_epoch()
    assert observer.processes([])[0].pss_bytes is None
    clock.now += 20
    assert observer.processes([])[0].pss_bytes > 0
    clock.now += 19
    assert observer.processes([])[0].pss_bytes is None
    clock.now += 3
    assert observer.processes([])[0].pss_bytes > 0


def test_short_epochs_do_not_make_proportional_memory_dear(observer, clock, monkeypatch):
    """A reading that cost 1 s of CPU time is not repeated for 1,000 s, whatever begins meanwhile."""
    observer.begin_epoch()
    clock.now += 20
    monkeypatch.setattr(observer_module.time, "process_time", iter([0.0, 1.0]).__next__)
    assert observer.processes([])[0].pss_bytes > 0
    monkeypatch.undo()
    for _ in range(10):
        observer.begin_epoch()
        clock.now += 20
        assert observer.processes([])[0].pss_bytes is None
    clock.now += 1000
    assert observer.processes([])[0].pss_bytes > 0


def test_pid_that_became_another_process_is_left_out(observer, clock):
    """Its start time is not the one that was seen first."""
    assert len(observer.processes([os.getppid()])) == 2
    observer._processes._first[os.getppid()] = psutil.Process(os.getpid())
    clock.now += 100
    assert [usage.pid for usage in observer.processes([os.getppid()])] == [os.getpid()]


def test_long_epochs_read_it_in_each(observer, clock, monkeypatch):
    """Where its share has been paid for, each epoch's workers are read once they are warm."""
    monkeypatch.setattr(observer_module, "PSS_SHARE", 1e9)
    for _ in range(2):
        observer.begin_epoch()
        clock.now += 10
        assert observer.processes([])[0].pss_bytes > 0
