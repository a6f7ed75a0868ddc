"""What PyTorch's ``DataLoader`` does with given work on a given machine: a simulation of its events.

As in ``torch/utils/data/dataloader.py``: `iter()` starts the workers one after another and primes
``num_workers * prefetch_factor`` indices, dealt round-robin; each delivered batch puts one index more; a
worker makes its batches in the order it got them; the main process takes finished batches from one queue in
the order of arrival, pays for each, and keeps those that are not yet due (unless ``in_order=False``). With
``num_workers=0`` the main process makes each batch itself when asked.

A batch's tensors are passed by a thread of its worker, which answers the main process several times for each.
A worker that computes in Python lets go of its interpreter lock every 5 ms, and when a load is made; each
answer waits for that, and the main process with it: 2.4 ms a batch were measured beside loads of 8 ms.

Every CPU burst competes for the machine (`bucket.Cores`); blocked and device time passes by itself.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, replace

from feedwater_service.model.bucket import NEVER, Cores, Machine
from feedwater_service.model.values import Settings


@dataclass(frozen=True, slots=True)
class Workload:
    """The work of one epoch, free of the settings and of the machine it was measured on."""

    loads: tuple[tuple[float, float], ...]
    """Shape (samples,): blocked and CPU seconds to make one batch; repeated from the start when used up."""
    steps: tuple[tuple[float, float], ...]
    """Shape (samples,): CPU seconds and device (or otherwise timed) seconds of one step."""
    load_width: float = 1.0
    """CPUs that one worker's load keeps busy (native threads)."""
    step_width: float = 1.0
    send_cpu_seconds: float = 0.0
    """Per batch, in the worker, to hand it over."""
    receive_cpu_seconds: float = 0.0
    """Per batch, in the main process, to take it."""
    lock_turns: int = 0
    """Times that handing a batch over waits for the interpreter lock of its worker, if that computes."""
    inline_cpu_seconds: float = 0.0
    """Per batch, in the main process at ``num_workers=0``, besides the load."""
    fork_cpu_seconds: float = 0.0
    """Per worker, in the main process, within ``iter()``."""
    boot_cpu_seconds: float = 0.0
    """Per worker, in the worker, before its first load."""
    exit_cpu_seconds: float = 0.0
    """Per worker, at the end of an epoch; one after another."""
    teardown_seconds: float = 0.0
    """At the end of an epoch with workers, whatever their number."""

    def stretched(self, factor: float) -> Workload:
        """Return the same with load times longer by a factor."""
        return replace(self, loads=tuple((b * factor, c * factor) for b, c in self.loads))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one simulated epoch came to."""

    batches: int
    seconds: float
    """Whole epoch, start-up and tear-down included."""
    start_up_seconds: float
    """Until the first batch is there."""
    wait_seconds: float
    """Of the epoch's batches but the first."""
    step_seconds: float
    cpu_seconds: float
    """Of the simulated part."""
    frozen_seconds: float
    """Of the simulated part: runnable, without quota."""
    simulated_seconds: float
    """Length of that part."""

    @property
    def batches_per_second(self) -> float:
        """Batches over the whole epoch."""
        return self.batches / self.seconds if self.seconds > 0 else 0.0

    @property
    def busy_cores(self) -> float:
        """CPUs in use on average."""
        return self.cpu_seconds / self.simulated_seconds if self.simulated_seconds > 0 else 0.0

    @property
    def starvation(self) -> float:
        """Share of iteration time spent waiting, the first batch apart."""
        whole = self.wait_seconds + self.step_seconds
        return self.wait_seconds / whole if whole > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """The simulated part of an epoch."""

    asked: tuple[float, ...]
    """Shape (batches,), seconds: when ``next()`` was called."""
    got: tuple[float, ...]
    """Shape (batches,), seconds: when it returned."""
    made: tuple[float, ...]
    """Shape (batches,), seconds: when the load of each was through."""
    end: float
    cpu_seconds: float
    frozen_seconds: float


def simulate(
    work: Workload, settings: Settings, machine: Machine, batches: int, window: int = 400
) -> Outcome:
    """Return what an epoch comes to.

    Args:
        work: What has to be done.
        settings: The loader's.
        machine: What it runs on.
        batches: Of the whole epoch.
        window: Batches simulated at most; the rest goes on as the last three quarters of them went.
    """
    simulated = max(1, min(batches, window))
    run = run_epoch(work, settings, machine, batches, simulated)
    return _extrapolate(
        run, batches, simulated, _teardown(work, settings, machine), max(1, settings.num_workers)
    )


def run_epoch(work: Workload, settings: Settings, machine: Machine, batches: int, simulated: int) -> Run:
    """Simulate the first batches of an epoch of ``batches``."""
    if _spans_periods(work, machine):
        machine = machine.smoothed()
    if settings.num_workers == 0:
        return _run_inline(work, machine, simulated)
    return _Loader(work, settings, machine, batches, simulated).run()


def _spans_periods(work: Workload, machine: Machine) -> bool:
    """Whether one batch takes so many periods' quota that their edges do not show, only cost events."""
    if machine.quota_cores is None:
        return False
    loads, steps = work.loads, work.steps
    cpu = sum(c for _, c in loads) / len(loads) + sum(c for c, _ in steps) / len(steps)
    return cpu > MANY_PERIODS * machine.quota_cores * machine.period_seconds


def _teardown(work: Workload, settings: Settings, machine: Machine) -> float:
    if settings.num_workers == 0:
        return 0.0
    return work.teardown_seconds + settings.num_workers * work.exit_cpu_seconds / min(1.0, machine.cores)


def _extrapolate(run: Run, batches: int, simulated: int, teardown: float, round_batches: int) -> Outcome:
    waits = [got - asked for asked, got in zip(run.asked, run.got, strict=True)]
    ends = [*run.asked[1:], run.end]
    steps = [end - got for got, end in zip(run.got, ends, strict=True)]
    rest = batches - simulated
    # The first quarter still lives on what was primed while the workers started; workers go in rounds.
    settled = simulated * 3 // 4
    settled = max(1, settled - settled % round_batches if settled >= round_batches else settled)
    steady = simulated - settled
    wait = sum(waits[1:]) + rest * sum(waits[steady:]) / settled
    step = sum(steps) + rest * sum(steps[steady:]) / settled
    start_up = run.got[0]
    return Outcome(
        batches,
        start_up + wait + step + teardown,
        start_up,
        wait,
        step,
        run.cpu_seconds,
        run.frozen_seconds,
        run.end,
    )


def _run_inline(work: Workload, machine: Machine, simulated: int) -> Run:
    """The main process does everything, one thing after another."""
    cores = Cores(machine)
    asked, got = [], []
    for batch in range(simulated):
        asked.append(cores.now)
        blocked, cpu = work.loads[batch % len(work.loads)]
        _sleep(cores, blocked)
        _burst(cores, cpu, work.load_width)
        _burst(cores, work.inline_cpu_seconds, 1.0)
        got.append(cores.now)
        step_cpu, timed = work.steps[batch % len(work.steps)]
        _burst(cores, step_cpu, work.step_width)
        _sleep(cores, timed)
    return Run(tuple(asked), tuple(got), tuple(got), cores.now, cores.busy_seconds, cores.frozen_seconds)


def _burst(cores: Cores, seconds: float, width: float) -> None:
    if seconds <= 0:
        return
    cores.start(0, seconds, width)
    while cores.advance(cores.next_time()) is None:
        pass


def _sleep(cores: Cores, seconds: float) -> None:
    cores.advance(cores.now + seconds)


_MAIN = -1
_WANTS, _ITER, _HELD, _RECEIVES, _STEPS, _DEVICE = range(6)
MANY_PERIODS = 10
"""Periods' quotas that a batch uses from which one more or less is under a tenth of it."""
SWITCH_SECONDS = 0.005
"""Python's switch interval: how long a computing thread keeps the interpreter lock from others."""


class _Loader:
    """One iterator: its workers and its main process, as two small state machines on one clock."""

    def __init__(
        self, work: Workload, settings: Settings, machine: Machine, batches: int, simulated: int
    ) -> None:
        self._work = work
        self._loads = work.loads
        self._steps = work.steps
        self._workers = settings.num_workers
        self._in_order = settings.in_order
        self._prefetch = settings.prefetch_factor or 2
        self._batches = batches
        self._simulated = simulated
        self._cores = Cores(machine)
        self._timers: list[tuple[float, int]] = []
        self._queues: list[deque[int]] = [deque() for _ in range(self._workers)]
        self._tasks = [0] * self._workers
        # What a worker is doing: a batch's number, -1 while it boots, None when it waits for an index.
        self._making: list[int | None] = [-1] * self._workers
        self._computes = [False] * self._workers
        self._held_by = 0
        self._holds = 0
        self._turns = 0
        self._made: list[float] = [0.0] * batches
        self._next_worker = 0
        self._makers: list[int] = []
        self._sent = 0
        self._results: deque[int] = deque()
        self._kept: set[int] = set()
        self._due = 0
        self._receiving = 0
        self._main = _ITER
        self._forked = 0
        self._asked: list[float] = []
        self._got: list[float] = []
        self._end = 0.0

    def run(self) -> Run:
        cores, timers = self._cores, self._timers
        self._fork_next()
        while self._end == 0.0:
            cpu_at = cores.next_time()
            if timers and timers[0][0] <= cpu_at:
                at, who = heapq.heappop(timers)
                finished = cores.advance(at)
                if finished is not None:
                    self._cpu_done(finished)
                self._timer_done(who)
                continue
            if cpu_at == NEVER:
                raise RuntimeError("simulated loader is stuck: no event left")
            finished = cores.advance(cpu_at)
            if finished is not None:
                self._cpu_done(finished)
        made = tuple(self._made[: self._simulated])
        return Run(
            tuple(self._asked), tuple(self._got), made, self._end, cores.busy_seconds, cores.frozen_seconds
        )

    # The main process

    def _fork_next(self) -> None:
        """Start one worker more, or prime the queues and ask for the first batch when all are started."""
        if self._forked == self._workers:
            for _ in range(self._prefetch * self._workers):
                self._put_index()
            self._asked.append(0.0)
            self._want()
            return
        self._main = _ITER
        self._cores.start(_MAIN, self._work.fork_cpu_seconds)

    def _want(self) -> None:
        """Go on with the batch that is due, or take what has arrived, or wait."""
        if self._due in self._kept:
            self._kept.remove(self._due)
            self._deliver(self._due)
        elif self._results:
            self._receiving = self._results.popleft()
            worker = self._makers[self._receiving]
            if self._work.lock_turns > 0 and self._computes[worker]:
                self._hold_main(worker)
            else:
                self._receive()
        else:
            self._main = _WANTS

    def _hold_main(self, worker: int) -> None:
        self._main = _HELD
        self._held_by = worker
        self._turns = self._work.lock_turns
        self._await_turn()

    def _await_turn(self) -> None:
        self._holds += 1
        heapq.heappush(self._timers, (self._cores.now + SWITCH_SECONDS, _MAIN - self._holds))

    def _take_turn(self) -> None:
        """The lock was let go of: one answer less to wait for, none if the worker computes no more."""
        self._turns -= 1
        if self._turns <= 0 or not self._computes[self._held_by]:
            self._receive()
        else:
            self._await_turn()

    def _receive(self) -> None:
        self._main = _RECEIVES
        self._cores.start(_MAIN, self._work.receive_cpu_seconds)

    def _deliver(self, batch: int) -> None:
        self._due += 1
        self._tasks[self._makers[batch]] -= 1
        self._put_index()
        self._got.append(self._cores.now)
        cpu, timed = self._steps[(len(self._got) - 1) % len(self._steps)]
        if cpu > 0:
            self._main = _STEPS
            self._cores.start(_MAIN, cpu, self._work.step_width)
        else:
            self._device(timed)

    def _device(self, timed: float) -> None:
        self._main = _DEVICE
        heapq.heappush(self._timers, (self._cores.now + timed, _MAIN))

    def _ask(self) -> None:
        if len(self._got) == self._simulated:
            self._end = max(self._cores.now, 1e-12)
            return
        self._asked.append(self._cores.now)
        self._want()

    def _main_cpu_done(self) -> None:
        if self._main == _STEPS:
            timed = self._steps[(len(self._got) - 1) % len(self._steps)][1]
            if timed > 0:
                self._device(timed)
            else:
                self._ask()
        elif self._main == _RECEIVES:
            batch = self._receiving
            if batch == self._due or not self._in_order:
                self._deliver(batch)
            else:
                self._kept.add(batch)
                self._want()
        else:
            self._cores.start(self._forked, self._work.boot_cpu_seconds)
            self._forked += 1
            self._fork_next()

    # Index queues

    def _put_index(self) -> None:
        if self._sent >= self._batches:
            return
        worker = self._next_worker
        # Out of order, the turn passes over workers that have their fill.
        while not self._in_order and self._tasks[worker] >= self._prefetch:
            worker = (worker + 1) % self._workers
        self._next_worker = (worker + 1) % self._workers
        self._queues[worker].append(self._sent)
        self._makers.append(worker)
        self._tasks[worker] += 1
        self._sent += 1
        if self._making[worker] is None:
            self._take_index(worker)

    # The workers

    def _take_index(self, worker: int) -> None:
        if not self._queues[worker]:
            self._making[worker] = None
            return
        batch = self._queues[worker].popleft()
        self._making[worker] = batch
        blocked = self._loads[batch % len(self._loads)][0]
        if blocked > 0:
            heapq.heappush(self._timers, (self._cores.now + blocked, worker))
        else:
            self._compute(worker, batch)

    def _compute(self, worker: int, batch: int) -> None:
        cpu = self._loads[batch % len(self._loads)][1]
        self._computes[worker] = True
        self._cores.start(worker, cpu + self._work.send_cpu_seconds, self._work.load_width)

    def _cpu_done(self, who: int) -> None:
        if who == _MAIN:
            self._main_cpu_done()
            return
        batch = self._making[who]
        self._computes[who] = False
        self._take_index(who)
        if self._main == _HELD and self._held_by == who:
            self._take_turn()
        if batch is not None and batch >= 0:
            self._made[batch] = self._cores.now
            self._results.append(batch)
            if self._main == _WANTS:
                self._want()

    def _timer_done(self, who: int) -> None:
        if who == _MAIN:
            self._ask()
        elif who < _MAIN:
            if self._main == _HELD and who == _MAIN - self._holds:
                self._take_turn()
        else:
            batch = self._making[who]
            if batch is not None:
                self._compute(who, batch)
