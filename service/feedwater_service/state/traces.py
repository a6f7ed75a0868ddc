"""One epoch of one loader in memory: bounded columns, and totals over all of its batches."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

from feedwater_service.model.explain.evidence import throttled_share
from feedwater_service.model.starvation import device_wait_share, wait_share
from feedwater_service.model.types import (
    Budget,
    ContainerUsage,
    DeviceStep,
    Epoch,
    Load,
    LoaderSettings,
    Reads,
    WorkerMemory,
)
from feedwater_service.state.reports import (
    Batches,
    DeviceSteps,
    EpochBegin,
    EpochEnd,
    ProcessUsage,
    WorkerLoads,
)

KEPT_BATCHES = 4096
"""Newest batches and loads kept of a running epoch: the simulation needs hundreds for the spread of load
times. Where many loaders report, `sessions.MEASURED_BYTES` keeps fewer."""
KEPT_OLDER = 1024
"""Newest batches and loads kept of epochs before the newest two, which are only compared with."""
KEPT_DEVICE = 512
"""Newest sampled steps kept of an epoch: one in 16, so they cover 8,192 batches."""
KEPT_READINGS = 256
"""Memory and container readings kept of an epoch; when there are more, every second one is dropped, so that
the readings cover an epoch of hours from its start."""
KEPT_COUNTERS = 257
"""Processes whose reads are counted in an epoch: 256 workers and the trainer."""
JUST_NOW_SECONDS = 0.5
"""Longest time between the last reading of an epoch and the beginning of the next: a boundary that waits for
an answer takes some 0.25 s."""
BATCH_BYTES = 40
"""Of one batch's wait and step: 10 in the columns, as much in each of the two copies for the model."""
LOAD_BYTES = 280
"""Of one load: 38 in the columns, 38 in a copy, 200 as the model's object."""
READING_BYTES = 400
"""Of one reading of a process or of the container, with its boxed numbers."""
DEVICE_STEP_BYTES = 140
COUNTER_BYTES = 250
"""Of one process' read counters."""
LEAST_ROWS = 16
"""Batches and loads that an epoch keeps however many loaders report."""
LEAST_READINGS = 4
"""The same for readings."""
MIN_READINGS_SECONDS = 1e-3
"""Time between two readings from which a rate is taken of them: a read takes a tenth of that."""
_SLACK = 1024
"""Trimming moves the whole array, so it is done when this many items are too many."""


N = TypeVar("N", int, float)


def _longs() -> array[int]:
    return array("Q")


def _doubles() -> array[float]:
    return array("d")


def _floats() -> array[float]:
    return array("f")


def _shorts() -> array[int]:
    return array("h")


@dataclass(slots=True)
class LoadColumns:
    """The loads of an epoch by all workers, one row a batch, in order of arrival."""

    workers: array[int] = field(default_factory=_shorts)
    starts: array[float] = field(default_factory=_doubles)
    seconds: array[float] = field(default_factory=_floats)
    cpu_seconds: array[float] = field(default_factory=_floats)
    run_delay_seconds: array[float] = field(default_factory=_floats)
    batch_bytes: array[int] = field(default_factory=_longs)
    batch_tensors: array[int] = field(default_factory=_longs)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.starts)

    def add(self, run: WorkerLoads) -> None:
        """Append a report's rows."""
        self.workers.extend(run.worker)
        self.starts.extend(run.start_seconds)
        self.seconds.extend(run.load_seconds.values)
        self.cpu_seconds.extend(run.cpu_seconds.values)
        self.run_delay_seconds.extend(run.run_delay_seconds.values)
        self.batch_bytes.extend(run.batch_bytes)
        self.batch_tensors.extend(run.batch_tensors)

    def keep_newest(self, count: int) -> None:
        """Drop all rows but the newest ``count``."""
        if len(self) > count:
            for f in fields(self):
                setattr(self, f.name, _newest(getattr(self, f.name), count))

    def copy(self) -> LoadColumns:
        """Return an independent copy."""
        return LoadColumns(
            self.workers[:],
            self.starts[:],
            self.seconds[:],
            self.cpu_seconds[:],
            self.run_delay_seconds[:],
            self.batch_bytes[:],
            self.batch_tensors[:],
        )

    def rows(self) -> list[Load]:
        """Return the rows as the model's values, in order of start; 2 µs a row."""
        rows = zip(*self._columns(), strict=True)
        return sorted((Load(*row) for row in rows), key=lambda load: load.start)

    def _columns(self) -> tuple[array[int] | array[float], ...]:
        return (
            self.workers,
            self.starts,
            self.seconds,
            self.cpu_seconds,
            self.run_delay_seconds,
            self.batch_bytes,
            self.batch_tensors,
        )


@dataclass(slots=True)
class ReadCounter:
    """How much one process had read at the first and at the newest of its readings in an epoch."""

    pid: int
    is_worker: bool
    first_chars: int
    first_bytes: int
    chars: int
    from_storage_bytes: int


@dataclass(slots=True)
class Trace:
    """One epoch as far as it was reported."""

    number: int
    settings: LoaderSettings
    begin_stamp_seconds: float | None = None
    """When it began; None where that report was lost."""
    iter_seconds: float = 0.0
    first_batch_stamp_seconds: float | None = None
    """When the first batch that was reported was asked for."""
    next_batch: int = 0
    """Ordinal of the next batch: the batches so far, lost ones included."""
    stated_batches: int = 0
    """Batches of the epoch as the report of its end stated them."""
    received_batches: int = 0
    start_up_wait_seconds: float = 0.0
    """Wait for batch 0."""
    first_step_seconds: float = 0.0
    waits: array[float] = field(default_factory=_floats)
    """Of the newest batches, without batch 0."""
    steps: array[float] = field(default_factory=_floats)
    ready: array[int] = field(default_factory=_shorts)
    wait_seconds: float = 0.0
    """Sum over all batches but batch 0."""
    step_seconds: float = 0.0
    """Sum over all batches."""
    has_first_batch: bool = False
    loads: LoadColumns = field(default_factory=LoadColumns)
    made_by_worker: list[int] = field(default_factory=list)
    """Batches that each worker made, including those that `loads` no longer has."""
    memory: list[WorkerMemory] = field(default_factory=list)
    containers: list[ContainerUsage] = field(default_factory=list)
    trainer_cpu: list[tuple[float, float]] = field(default_factory=list)
    """(stamp, CPU seconds) of the training process."""
    trainer_run_delay: list[tuple[float, float]] = field(default_factory=list)
    """(stamp, run delay in seconds) of its main thread."""
    read_counters: list[ReadCounter] = field(default_factory=list)
    """One for each process."""
    device_batches: array[int] = field(default_factory=_longs)
    """Ordinals of the newest sampled steps."""
    device_idle: array[float] = field(default_factory=_floats)
    device_busy: array[float] = field(default_factory=_floats)
    device_steps: int = 0
    """Sampled steps, including those no longer kept."""
    device_idle_seconds: float = 0.0
    """Sum over the sampled steps."""
    device_busy_seconds: float = 0.0
    budget: Budget | None = None
    end_stamp_seconds: float | None = None
    complete: bool = False
    teardown_seconds: float = 0.0

    def begin(self, begin: EpochBegin) -> None:
        """Record the beginning of the epoch."""
        self.settings, self.begin_stamp_seconds, self.iter_seconds = (
            begin.settings,
            begin.stamp_seconds,
            begin.iter_seconds,
        )

    def follow(self, before: Trace | None) -> None:
        """Take over the last readings of the epoch before, if they are recent enough.

        Reports come each two seconds: a shorter epoch has one reading of its own, and the use between its
        beginning and its end takes two.
        """
        if before is None or self.begin_stamp_seconds is None:
            return
        earliest = self.begin_stamp_seconds - JUST_NOW_SECONDS
        counters = (
            (self.trainer_cpu, before.trainer_cpu),
            (self.trainer_run_delay, before.trainer_run_delay),
        )
        for ours, theirs in counters:
            if not ours and theirs and theirs[-1][0] >= earliest:
                ours.append(theirs[-1])
        if not self.containers and before.containers and before.containers[-1].stamp_seconds >= earliest:
            self.containers.append(before.containers[-1])

    def add_batches(self, run: Batches) -> None:
        """Append consecutive batches; ordinals that are missing before them were lost."""
        count = len(run.wait_seconds.values)
        self.next_batch = run.first + count
        self.received_batches += count
        self.wait_seconds += run.wait_seconds.total
        self.step_seconds += run.step_seconds.total
        if self.first_batch_stamp_seconds is None:
            self.first_batch_stamp_seconds = run.start_seconds
        skip = self._take_first(run)
        self.waits.extend(run.wait_seconds.values[skip:])
        self.steps.extend(run.step_seconds.values[skip:])
        self.ready.extend((run.ready or array("h", [-1]) * count)[skip:])
        if len(self.waits) > KEPT_BATCHES + _SLACK:
            self._keep_newest(KEPT_BATCHES)

    def add_loads(self, run: WorkerLoads) -> None:
        """Append the loads of a report."""
        self.loads.add(run)
        self._count_made(run)
        if len(self.loads) > KEPT_BATCHES + _SLACK:
            self.loads.keep_newest(KEPT_BATCHES)

    def add_process(self, reading: ProcessUsage) -> None:
        """Record a reading of a worker or of the training process."""
        self._count_reads(reading)
        if reading.worker is not None:
            self.memory.append(
                WorkerMemory(
                    reading.worker,
                    reading.stamp_seconds,
                    reading.rss_bytes,
                    reading.pss_bytes,
                    reading.uss_bytes,
                    reading.cpu_seconds,
                    reading.boot_cpu_seconds,
                )
            )
            # One reading of each worker a second: 512 readings of 4 workers cover two minutes.
            del self.memory[: -KEPT_READINGS * 2]
            return
        if reading.cpu_seconds is not None:
            self.trainer_cpu.append((reading.stamp_seconds, reading.cpu_seconds))
            _thin(self.trainer_cpu)
        if reading.run_delay_seconds is not None:
            self.trainer_run_delay.append((reading.stamp_seconds, reading.run_delay_seconds))
            _thin(self.trainer_run_delay)

    def add_container(self, container: ContainerUsage) -> None:
        """Record a reading of the container."""
        self.containers.append(container)
        _thin(self.containers)

    def add_device(self, run: DeviceSteps) -> None:
        """Append sampled steps of the device."""
        self.device_batches.extend(run.batch)
        self.device_idle.extend(run.idle_seconds.values)
        self.device_busy.extend(run.busy_seconds.values)
        self.device_steps += len(run.batch)
        self.device_idle_seconds += run.idle_seconds.total
        self.device_busy_seconds += run.busy_seconds.total
        for column in (self.device_batches, self.device_idle, self.device_busy):
            del column[: max(0, len(column) - KEPT_DEVICE)]

    def end(self, end: EpochEnd) -> None:
        """Record the end of the epoch."""
        self.end_stamp_seconds, self.complete, self.teardown_seconds = (
            end.stamp_seconds,
            end.complete,
            end.teardown_seconds,
        )
        self.stated_batches = end.batches

    def shrink(self) -> None:
        """Trim the columns to the size of an older epoch."""
        self._keep_newest(KEPT_OLDER)
        self.loads.keep_newest(KEPT_OLDER)

    @property
    def measured_bytes(self) -> int:
        """Memory that its measurements take, with the copy that the model works on; an estimate."""
        readings = len(self.memory) + len(self.containers)
        counted = len(self.trainer_cpu) + len(self.trainer_run_delay)
        return (
            BATCH_BYTES * len(self.waits)
            + LOAD_BYTES * len(self.loads)
            + READING_BYTES * (readings + counted // 3)
            + DEVICE_STEP_BYTES * len(self.device_batches)
            + COUNTER_BYTES * len(self.read_counters)
        )

    def trim(self, most_bytes: float) -> None:
        """Drop older measurements until the rest takes about so many bytes; totals stay exact."""
        share = most_bytes / max(1, self.measured_bytes)
        if share >= 1:
            return
        self._keep_newest(_part(len(self.waits), share))
        self.loads.keep_newest(_part(len(self.loads), share))
        # Every worker's newest reading: the memory of a worker is known by it.
        workers = len({m.worker for m in self.memory})
        del self.memory[: -max(workers, _part(len(self.memory), share, LEAST_READINGS)) or None]
        for readings in (self.containers, self.trainer_cpu, self.trainer_run_delay):
            _thin_to(readings, _part(len(readings), share, LEAST_READINGS))
        for column in (self.device_batches, self.device_idle, self.device_busy):
            del column[: len(column) - _part(len(column), share)]
        counters = _part(len(self.read_counters), share, LEAST_READINGS)
        del self.read_counters[: len(self.read_counters) - counters]

    @property
    def batches(self) -> int:
        """Batches of the epoch so far, including those lost in measurement."""
        return max(self.next_batch, self.stated_batches)

    @property
    def dropped(self) -> int:
        """Batches that were never reported."""
        return self.batches - self.received_batches

    @property
    def start_up_seconds(self) -> float:
        """Making the iterator and waiting for its first batch."""
        return self.iter_seconds + self.start_up_wait_seconds

    @property
    def seconds(self) -> float:
        """From the call of ``iter()`` to the end of the epoch, or to the last batch that was reported."""
        measured = self.start_up_seconds + self.wait_seconds + self.step_seconds
        if self.end_stamp_seconds is None or self.start_seconds is None:
            return measured
        return max(0.0, self.end_stamp_seconds - self.start_seconds)

    @property
    def start_seconds(self) -> float | None:
        """When ``iter()`` was called; None where neither its beginning nor a batch was reported."""
        stamps = [] if self.begin_stamp_seconds is None else [self.begin_stamp_seconds]
        if self.first_batch_stamp_seconds is not None and self.has_first_batch:
            # The stamp of the beginning may be taken after the iterator was made.
            stamps.append(self.first_batch_stamp_seconds - self.iter_seconds)
        return min(stamps) if stamps else self.first_batch_stamp_seconds

    @property
    def starvation(self) -> float:
        """Share of iteration time spent waiting, 0 to 1, start-up apart; 0 where there was none."""
        return wait_share(self.wait_seconds, self.step_seconds)

    @property
    def device_starvation(self) -> float | None:
        """Share of time that the device waited for batches, 0 to 1; None with too few sampled steps."""
        return device_wait_share(self.device_steps, self.device_idle_seconds, self.device_busy_seconds)

    @property
    def cpu_used_cores(self) -> float | None:
        """Mean CPU use of the trainer's container over the epoch; None where it was not read twice."""
        known = [(c.stamp_seconds, c.cpu_seconds) for c in self.containers if c.cpu_seconds is not None]
        if len(known) < 2:
            return None
        (first, before), (last, after) = known[0], known[-1]
        # Two readings of one moment tell no rate, and from hostile ones it would be infinite.
        return (after - before) / (last - first) if last - first >= MIN_READINGS_SECONDS else None

    @property
    def throttled_ratio(self) -> float | None:
        """Share of CFS periods in which the container was throttled, 0 to 1; None where there is no quota."""
        return throttled_share(self.containers)

    def newest_memory(self, field: str) -> dict[int, int]:
        """Return the newest value of a field (``rss_bytes``) by worker; PSS and USS are read seldom."""
        return {m.worker: value for m in self.memory if (value := getattr(m, field)) is not None}

    def copy(self) -> Trace:
        """Return a copy that later reports do not change."""
        copied = replace(self)
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, (array, list)):
                setattr(copied, f.name, value[:])
        copied.read_counters = [replace(counter) for counter in self.read_counters]
        copied.loads = self.loads.copy()
        return copied

    def freeze(self) -> Epoch:
        """Return the epoch as the model's value."""
        return Epoch(
            number=self.number,
            settings=self.settings,
            start=self.start_seconds or 0.0,
            iter_seconds=self.iter_seconds,
            waits=array("f", [self.start_up_wait_seconds]) + self.waits
            if self.has_first_batch
            else self.waits[:],
            steps=array("f", [self.first_step_seconds]) + self.steps
            if self.has_first_batch
            else self.steps[:],
            ready=array("h", [-1]) + self.ready if self.has_first_batch else self.ready[:],
            loads=self.loads.rows(),
            device=tuple(map(DeviceStep, self.device_batches, self.device_idle, self.device_busy)),
            memory=tuple(self.memory),
            containers=tuple(self.containers),
            trainer_cpu_seconds=self._within(self.trainer_cpu),
            trainer_run_delay_seconds=self._within(self.trainer_run_delay),
            batches=self.batches,
            complete=self.complete,
            teardown_seconds=self.teardown_seconds,
            dropped=self.dropped,
            budget=self.budget,
            reads=self._reads(),
        )

    def _count_made(self, run: WorkerLoads) -> None:
        missing = self.settings.num_workers - len(self.made_by_worker)
        self.made_by_worker.extend([0] * missing)
        for worker, count in Counter(run.worker).items():
            if 0 <= worker < len(self.made_by_worker):
                self.made_by_worker[worker] += count

    def _count_reads(self, reading: ProcessUsage) -> None:
        if reading.read_chars is None or reading.read_bytes is None:
            return
        known = next((c for c in self.read_counters if c.pid == reading.pid), None)
        if known is not None:
            known.chars, known.from_storage_bytes = reading.read_chars, reading.read_bytes
        elif len(self.read_counters) < KEPT_COUNTERS:
            # A worker that was started for this epoch has counted from 0, other processes have not.
            is_new = reading.worker is not None and not self.settings.persistent_workers
            first = (0, 0) if is_new else (reading.read_chars, reading.read_bytes)
            self.read_counters.append(
                ReadCounter(
                    reading.pid, reading.worker is not None, *first, reading.read_chars, reading.read_bytes
                )
            )

    def _reads(self) -> Reads | None:
        """Return what the loading processes read: the workers, or without workers the training process."""
        loading = [c for c in self.read_counters if c.is_worker == (self.settings.num_workers > 0)]
        if not loading:
            return None
        return Reads(
            max(0, sum(c.chars - c.first_chars for c in loading)),
            max(0, sum(c.from_storage_bytes - c.first_bytes for c in loading)),
        )

    def _take_first(self, run: Batches) -> int:
        """Store batch 0 apart, as it is start-up; return how many batches of the run that was: 0 or 1."""
        if run.first != 0 or not run.wait_seconds.values:
            return 0
        self.has_first_batch = True
        self.start_up_wait_seconds, self.first_step_seconds = (
            run.wait_seconds.values[0],
            run.step_seconds.values[0],
        )
        self.wait_seconds -= self.start_up_wait_seconds
        return 1

    def _keep_newest(self, count: int) -> None:
        if len(self.waits) > count:
            self.waits, self.steps = _newest(self.waits, count), _newest(self.steps, count)
            self.ready = _newest(self.ready, count)

    def _within(self, readings: Sequence[tuple[float, float]]) -> float | None:
        """Return a counter's growth within the epoch, scaled up from the (stamp, total) readings in it."""
        if len(readings) < 2 or self.seconds <= 0:
            return None
        (first, before), (last, after) = readings[0], readings[-1]
        # Two readings that are less than a third of the epoch apart do not represent the rest of it. Reports
        # come each two seconds: an epoch of three has one reading in its middle and one at its end.
        if last - first < self.seconds / 3 or after < before:
            return None
        return (after - before) / (last - first) * self.seconds


def _newest(column: array[N], count: int) -> array[N]:
    """Return the newest numbers in memory of their own.

    Shortened in place, an array of 16 KiB leaves a hole that the next array of 16 KiB does not fit into: the
    process took 50 MiB for holes among 13 MiB of numbers.
    """
    return column[len(column) - count :]


def _thin(readings: list[ContainerUsage] | list[tuple[float, float]]) -> None:
    _thin_to(readings, KEPT_READINGS)


def _thin_to(readings: list[ContainerUsage] | list[tuple[float, float]], most: int) -> None:
    """Drop every second reading but the first and the last until at most so many are left."""
    while len(readings) > max(2, most):
        del readings[1:-1:2]


def _part(length: int, share: float, least: int = LEAST_ROWS) -> int:
    return min(length, max(least, int(share * length)))
