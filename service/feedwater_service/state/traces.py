"""One epoch of one loader in memory: bounded columns, and the totals that bounding must not lose."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

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
"""Batches and loads kept of a running epoch, the newest: the simulation needs hundreds for the spread of load
times, and 16 ranks x 4,096 x 45 bytes are 3 MB."""
KEPT_OLDER = 1024
"""The same of epochs before the newest two, which serve only to compare."""
KEPT_DEVICE = 512
"""Sampled steps kept of an epoch, the newest: one in 16, so that they cover more than the batches kept."""
KEPT_READINGS = 256
"""Memory and container readings kept of an epoch; beyond, every second one is dropped, so that an epoch of
hours is still covered from its start."""
KEPT_COUNTERS = 257
"""Processes whose reads are counted in an epoch: the most workers that there are, and the trainer."""
JUST_NOW_SECONDS = 0.5
"""Between the last reading of an epoch and the next one's begin, at a boundary that waits for an answer."""
_SLACK = 1024
"""Trimming moves the whole array, so it waits until this much is over."""


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
    """What workers told of the batches they made, one row a batch, in order of arrival."""

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
        self.workers.extend(run.workers)
        self.starts.extend(run.starts)
        self.seconds.extend(run.seconds.values)
        self.cpu_seconds.extend(run.cpu_seconds.values)
        self.run_delay_seconds.extend(run.run_delay_seconds.values)
        self.batch_bytes.extend(run.batch_bytes)
        self.batch_tensors.extend(run.batch_tensors)

    def keep_newest(self, count: int) -> None:
        """Drop all rows but the newest ``count``."""
        for column in self._columns():
            del column[: max(0, len(column) - count)]

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

    def loads(self) -> list[Load]:
        """Return the rows as the model's values, in order of start."""
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


class LazyLoads(Sequence[Load]):
    """Loads that are made of their columns when first looked at, so that it happens in the model's thread."""

    __slots__ = ("_columns", "_loads")

    def __init__(self, columns: LoadColumns) -> None:
        self._columns = columns
        self._loads: list[Load] | None = None

    def __len__(self) -> int:
        return len(self._columns)

    def __iter__(self) -> Iterator[Load]:
        return iter(self._made())

    @overload
    def __getitem__(self, index: int) -> Load: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Load]: ...
    def __getitem__(self, index: int | slice) -> Load | Sequence[Load]:
        return self._made()[index]

    def _made(self) -> list[Load]:
        if self._loads is None:
            self._loads = self._columns.loads()
        return self._loads


@dataclass(slots=True)
class ReadCounter:
    """What one process had read at the first and at the newest of its readings in an epoch."""

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
    begun: float | None = None
    """Stamp of the report that it began; None where that was lost."""
    iter_seconds: float = 0.0
    start: float | None = None
    """When its first reported batch was asked for."""
    expected: int = 0
    """Ordinal of the next batch: batches reported and lost so far."""
    stated: int = 0
    """Batches that its end stated."""
    received: int = 0
    start_up_wait: float = 0.0
    """Wait for batch 0."""
    first_step: float = 0.0
    waits: array[float] = field(default_factory=_floats)
    """Of the newest batches, batch 0 left out."""
    steps: array[float] = field(default_factory=_floats)
    ready: array[int] = field(default_factory=_shorts)
    wait_seconds: float = 0.0
    """Of all batches but batch 0."""
    step_seconds: float = 0.0
    """Of all batches."""
    has_first: bool = False
    loads: LoadColumns = field(default_factory=LoadColumns)
    made: list[int] = field(default_factory=list)
    """All batches that each worker made, those that `loads` keeps no longer among them."""
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
    """All that were sampled."""
    device_idle_seconds: float = 0.0
    """Of the sampled steps alone."""
    device_busy_seconds: float = 0.0
    budget: Budget | None = None
    ended: float | None = None
    complete: bool = False
    teardown_seconds: float = 0.0

    def begin(self, begin: EpochBegin) -> None:
        """Note how it began."""
        self.settings, self.begun, self.iter_seconds = begin.settings, begin.stamp, begin.iter_seconds

    def follow(self, before: Trace | None) -> None:
        """Begin with the readings that the epoch before ended with, if that is just now.

        Reports come each two seconds: a shorter epoch has one reading of its own, and one says nothing of
        what was used between its begin and its end.
        """
        if before is None or self.begun is None:
            return
        earliest = self.begun - JUST_NOW_SECONDS
        counters = (
            (self.trainer_cpu, before.trainer_cpu),
            (self.trainer_run_delay, before.trainer_run_delay),
        )
        for ours, theirs in counters:
            if not ours and theirs and theirs[-1][0] >= earliest:
                ours.append(theirs[-1])
        if not self.containers and before.containers and before.containers[-1].stamp >= earliest:
            self.containers.append(before.containers[-1])

    def add_batches(self, run: Batches) -> None:
        """Append consecutive batches; what is missing before them was lost."""
        count = len(run.waits.values)
        self.expected = run.first + count
        self.received += count
        self.wait_seconds += run.waits.total
        self.step_seconds += run.steps.total
        if self.start is None:
            self.start = run.start
        skip = self._take_first(run)
        self.waits.extend(run.waits.values[skip:])
        self.steps.extend(run.steps.values[skip:])
        self.ready.extend((run.ready or array("h", [-1]) * count)[skip:])
        if len(self.waits) > KEPT_BATCHES + _SLACK:
            self._keep_newest(KEPT_BATCHES)

    def add_loads(self, run: WorkerLoads) -> None:
        """Append what a worker made."""
        self.loads.add(run)
        self._count_made(run)
        if len(self.loads) > KEPT_BATCHES + _SLACK:
            self.loads.keep_newest(KEPT_BATCHES)

    def add_process(self, reading: ProcessUsage) -> None:
        """Note a reading of a worker or of the training process."""
        self._count_reads(reading)
        if reading.worker is not None:
            self.memory.append(
                WorkerMemory(
                    reading.worker,
                    reading.stamp,
                    reading.rss_bytes,
                    reading.pss_bytes,
                    reading.uss_bytes,
                    reading.cpu_seconds,
                    reading.boot_cpu_seconds,
                )
            )
            # One reading a second of each worker: the newest matter, growth is seen over minutes.
            del self.memory[: -KEPT_READINGS * 2]
            return
        if reading.cpu_seconds is not None:
            self.trainer_cpu.append((reading.stamp, reading.cpu_seconds))
            _thin(self.trainer_cpu)
        if reading.run_delay_seconds is not None:
            self.trainer_run_delay.append((reading.stamp, reading.run_delay_seconds))
            _thin(self.trainer_run_delay)

    def add_container(self, container: ContainerUsage) -> None:
        """Note a reading of the container."""
        self.containers.append(container)
        _thin(self.containers)

    def add_device(self, run: DeviceSteps) -> None:
        """Append sampled steps of the device."""
        self.device_batches.extend(run.batches)
        self.device_idle.extend(run.idle.values)
        self.device_busy.extend(run.busy.values)
        self.device_steps += len(run.batches)
        self.device_idle_seconds += run.idle.total
        self.device_busy_seconds += run.busy.total
        for column in (self.device_batches, self.device_idle, self.device_busy):
            del column[: max(0, len(column) - KEPT_DEVICE)]

    def end(self, end: EpochEnd) -> None:
        """Note how it ended."""
        self.ended, self.complete, self.teardown_seconds = end.stamp, end.complete, end.teardown_seconds
        self.stated = end.batches

    def shrink(self) -> None:
        """Keep only what an older epoch is kept for."""
        self._keep_newest(KEPT_OLDER)
        self.loads.keep_newest(KEPT_OLDER)

    @property
    def batches(self) -> int:
        """Batches of the epoch so far, those lost in measurement included."""
        return max(self.expected, self.stated)

    @property
    def dropped(self) -> int:
        """Batches that were never reported."""
        return self.batches - self.received

    @property
    def start_up_seconds(self) -> float:
        """Making the iterator and waiting for its first batch."""
        return self.iter_seconds + self.start_up_wait

    @property
    def seconds(self) -> float:
        """From asking for the iterator to the epoch's end, or as far as it was reported."""
        measured = self.start_up_seconds + self.wait_seconds + self.step_seconds
        if self.ended is None or self.asked is None:
            return measured
        return max(0.0, self.ended - self.asked)

    @property
    def asked(self) -> float | None:
        """When the iterator was asked for; None where neither its begin nor a batch was reported."""
        stamps = [] if self.begun is None else [self.begun]
        if self.start is not None and self.has_first:
            # A begin may be stamped after the iterator was made.
            stamps.append(self.start - self.iter_seconds)
        return min(stamps) if stamps else self.start

    @property
    def starvation(self) -> float:
        """Share of iteration time spent waiting, 0 to 1, start-up apart; 0 where there was none."""
        return wait_share(self.wait_seconds, self.step_seconds)

    @property
    def device_starvation(self) -> float | None:
        """Share of its time that the device waited for batches, 0 to 1; None where too little is known."""
        return device_wait_share(self.device_steps, self.device_idle_seconds, self.device_busy_seconds)

    @property
    def cpu_used_cores(self) -> float | None:
        """Mean CPU use of the trainer's container over the epoch; None where it was not read twice."""
        known = [(c.stamp, c.cpu_seconds) for c in self.containers if c.cpu_seconds is not None]
        if len(known) < 2:
            return None
        (first, before), (last, after) = known[0], known[-1]
        return (after - before) / (last - first) if last > first else None

    @property
    def throttled_ratio(self) -> float | None:
        """Share of CFS periods in which the container was throttled, 0 to 1; None where there is no quota."""
        return throttled_share(self.containers)

    def newest_memory(self, field: str) -> dict[int, int]:
        """Return the newest of one figure (``rss_bytes``) of each worker; PSS and USS are read seldom."""
        return {m.worker: value for m in self.memory if (value := getattr(m, field)) is not None}

    def freeze(self) -> Epoch:
        """Return the epoch as the model's value: a copy that later reports do not change."""
        return Epoch(
            number=self.number,
            settings=self.settings,
            start=self.asked or 0.0,
            iter_seconds=self.iter_seconds,
            waits=array("f", [self.start_up_wait]) + self.waits if self.has_first else self.waits[:],
            steps=array("f", [self.first_step]) + self.steps if self.has_first else self.steps[:],
            ready=array("h", [-1]) + self.ready if self.has_first else self.ready[:],
            loads=LazyLoads(self.loads.copy()),
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
        missing = self.settings.num_workers - len(self.made)
        self.made.extend([0] * missing)
        for worker, count in Counter(run.workers).items():
            if 0 <= worker < len(self.made):
                self.made[worker] += count

    def _count_reads(self, reading: ProcessUsage) -> None:
        if reading.read_chars is None or reading.read_bytes is None:
            return
        known = next((c for c in self.read_counters if c.pid == reading.pid), None)
        if known is not None:
            known.chars, known.from_storage_bytes = reading.read_chars, reading.read_bytes
        elif len(self.read_counters) < KEPT_COUNTERS:
            # A worker that was forked for this epoch has counted from nothing; others count on.
            is_new = reading.worker is not None and not self.settings.persistent_workers
            first = (0, 0) if is_new else (reading.read_chars, reading.read_bytes)
            self.read_counters.append(
                ReadCounter(
                    reading.pid, reading.worker is not None, *first, reading.read_chars, reading.read_bytes
                )
            )

    def _reads(self) -> Reads | None:
        """Return what those who load have read: the workers, or without any the training process."""
        loading = [c for c in self.read_counters if c.is_worker == (self.settings.num_workers > 0)]
        if not loading:
            return None
        return Reads(
            max(0, sum(c.chars - c.first_chars for c in loading)),
            max(0, sum(c.from_storage_bytes - c.first_bytes for c in loading)),
        )

    def _take_first(self, run: Batches) -> int:
        """Keep batch 0 apart, for it is start-up; return how many batches that takes from the run."""
        if run.first != 0 or not run.waits.values:
            return 0
        self.has_first = True
        self.start_up_wait, self.first_step = run.waits.values[0], run.steps.values[0]
        self.wait_seconds -= self.start_up_wait
        return 1

    def _keep_newest(self, count: int) -> None:
        for column in (self.waits, self.steps, self.ready):
            del column[: max(0, len(column) - count)]

    def _within(self, readings: Sequence[tuple[float, float]]) -> float | None:
        """Return a counter's growth within the epoch, scaled up from the (stamp, total) readings in it."""
        if len(readings) < 2 or self.seconds <= 0:
            return None
        (first, before), (last, after) = readings[0], readings[-1]
        # Two readings less than a third of an epoch apart say too little of the rest. Reports come each two
        # seconds: an epoch of three has one reading in its middle and one at its end.
        if last - first < self.seconds / 3 or after < before:
            return None
        return (after - before) / (last - first) * self.seconds


def _thin(readings: list[ContainerUsage] | list[tuple[float, float]]) -> None:
    if len(readings) > KEPT_READINGS:
        del readings[1:-1:2]
